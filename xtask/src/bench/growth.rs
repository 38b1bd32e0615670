//! How the cost of `profiler record` grows: with containers, and with stacks kept.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use comfy_table::Table;
use serde_json::Value;

use super::contender::{self, Cost};
use super::load::Loads;
use super::{figures, megabytes, nanoseconds};
use crate::step::say;

const HEADER: [&str; 8] = ["", "switch ns", "call ns", "agent CPU s", "RSS MB", "maps MB", "BPF CPU s", "stacks"];

/// Everything recorded, with 1, 20 and 100 containers that wake up 50 times a second each.
pub fn with_containers(loads: &Loads) -> Result<Table> {
    let mut table = figures(HEADER);
    for count in [1, 20, 100] {
        say(format!("{count} containers"));
        let crowd = Crowd::start(count)?;
        let cost = contender::recording(&[]).measure(loads)?;
        drop(crowd);
        table.add_row(row(&count.to_string(), &cost)?);
    }
    Ok(table)
}

/// Everything recorded, with ever lower thresholds for off-CPU stacks.
pub fn with_stacks(loads: &Loads) -> Result<Table> {
    let mut table = figures(HEADER);
    for threshold in ["1ms", "100us", "10us", "1us"] {
        let cost = contender::recording(&["--offcpu-threshold", threshold]).measure(loads)?;
        table.add_row(row(threshold, &cost)?);
    }
    Ok(table)
}

fn row(name: &str, cost: &Cost) -> Result<Vec<String>> {
    let path = contender::output();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Value = serde_json::from_str(&text).context("the recording's report is not JSON")?;
    let complete = &report["coverage"]["stacks"]["complete"];
    let bpf = report["overhead"]["bpf_cpu_s"].as_f64();
    Ok(vec![
        name.to_owned(),
        nanoseconds(cost.pipe.ns_per_event),
        nanoseconds(cost.calls.ns_per_event),
        format!("{:.2}", cost.agent.cpu_s),
        megabytes(cost.agent.peak_rss_bytes),
        megabytes(cost.map_bytes),
        bpf.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}")),
        complete.as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.0} % complete", share * 100.0)),
    ])
}

/// Containers by the look of their cgroups, each with one thread that polls with a timeout of 20 ms.
struct Crowd {
    children: Vec<Child>,
    cgroups: Vec<PathBuf>,
}

impl Crowd {
    fn start(count: u32) -> Result<Self> {
        let root = cgroup2()?.join("docker");
        let mut crowd = Self { children: Vec::new(), cgroups: Vec::new() };
        for index in 0..count {
            let cgroup = root.join(format!("{index:08x}{}", "be".repeat(28)));
            fs::create_dir_all(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
            crowd.cgroups.push(cgroup.clone());
            let child = Command::new("busybox")
                .args(["sh", "-c", "echo $$ >\"$0/cgroup.procs\"; while :; do read -t 0.02 line; done"])
                .arg(&cgroup)
                // Never written to: the read ends by its timeout.
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .context("cannot start busybox: run `cargo xtask setup --bench`")?;
            crowd.children.push(child);
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.children {
            if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                say(format!("cannot end {}: {error}", child.id()));
            }
        }
        for cgroup in &self.cgroups {
            if let Err(error) = fs::remove_dir(cgroup) {
                say(format!("cannot remove {}: {error}", cgroup.display()));
            }
        }
    }
}

/// Where cgroup2 is mounted.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| fields.get(1).copied()).flatten()
    });
    mount.map(PathBuf::from).context("no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
}
