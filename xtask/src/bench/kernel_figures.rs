//! What the kernel counts: time and runs of each program, memory of the maps, context switches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step::{Step, say};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// A loaded program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Its name, at most 15 characters.
    pub name: String,
    /// Time spent in it, since it was loaded, while statistics were on.
    pub time_ns: u64,
    /// How often it ran.
    pub runs: u64,
}

/// All loaded programs that were attached from user space by a name, by id.
pub fn programs() -> Result<BTreeMap<u64, Program>> {
    let listing = Step::new("ask for kernel programs", "bpftool").args(["prog", "show", "--json"]).read()?;
    parse_programs(&listing)
}

/// What bpftool lists.
fn entries(listing: &str) -> Result<Vec<Value>> {
    let listing: Value = serde_json::from_str(listing).context("bpftool printed no JSON")?;
    Ok(match listing {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    })
}

fn parse_programs(listing: &str) -> Result<BTreeMap<u64, Program>> {
    Ok(entries(listing)?
        .iter()
        // Device filters are systemd's and the runtimes'; they are on no path measured here.
        .filter(|entry| !entry["type"].as_str().is_some_and(|kind| kind.starts_with("cgroup")))
        .filter_map(|entry| {
            let program = Program {
                name: entry["name"].as_str().unwrap_or("?").to_owned(),
                time_ns: entry["run_time_ns"].as_u64().unwrap_or(0),
                runs: entry["run_cnt"].as_u64().unwrap_or(0),
            };
            Some((entry["id"].as_u64()?, program))
        })
        .collect())
}

/// What each program did between two readings; programs that are not in `before` started from nothing.
pub fn growth(before: &BTreeMap<u64, Program>, after: &BTreeMap<u64, Program>) -> Vec<Program> {
    after
        .iter()
        .map(|(id, program)| {
            let (time_ns, runs) = before.get(id).map_or((0, 0), |old| (old.time_ns, old.runs));
            Program {
                name: program.name.clone(),
                time_ns: program.time_ns.saturating_sub(time_ns),
                runs: program.runs.saturating_sub(runs),
            }
        })
        .collect()
}

/// The kernel's objects that a process holds.
#[derive(Debug, Default, PartialEq)]
pub struct Held {
    /// Ids of programs, held directly or through a link.
    pub programs: BTreeSet<u64>,
    /// Memory of maps, by id.
    pub maps: BTreeMap<u64, u64>,
}

impl Held {
    /// What the descriptors of a process lead to. A listing of all programs would not do: others may load some meanwhile.
    pub fn by(process: u32) -> Result<Self> {
        let folder = format!("/proc/{process}/fdinfo");
        let mut held = Self::default();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?.flatten() {
            // A descriptor may be closed meanwhile.
            held.add(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        Ok(held)
    }

    /// Takes in one file of fdinfo.
    fn add(&mut self, info: &str) {
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        self.programs.extend(field("prog_id:"));
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            self.maps.insert(id, bytes);
        }
    }
}

/// Memory of all maps whose name begins so, in bytes. Maps inside maps are held by no descriptor, so whose they are cannot be told.
pub fn memory_of_maps(prefixes: &[&str]) -> Result<u64> {
    let listing = Step::new("ask for maps", "bpftool").args(["map", "show", "--json"]).read()?;
    let maps = entries(&listing)?;
    let ours = |map: &&Value| map["name"].as_str().is_some_and(|name| prefixes.iter().any(|it| name.starts_with(it)));
    Ok(maps.iter().filter(ours).filter_map(|map| map["bytes_memlock"].as_u64()).sum())
}

/// Context switches of all CPUs since boot.
pub fn context_switches() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("ctxt ")).context("/proc/stat has no line ctxt")?;
    line.trim().parse().context("ctxt in /proc/stat is no number")
}

/// The kernel's statistics of programs, on as long as this lives.
pub struct Statistics {
    before: String,
}

impl Statistics {
    /// Turns them on.
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).with_context(|| format!("cannot read {STATISTICS}"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("cannot turn on {STATISTICS}"))?;
        Ok(Self { before: before.trim().to_owned() })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, &self.before) {
            say(format!("cannot set {STATISTICS} back to {}: {error}", self.before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_filters_are_left_out_and_growth_is_a_difference() -> Result<()> {
        let before =
            parse_programs(r#"[{"id":1,"type":"cgroup_device","name":"x"},{"id":2,"type":"tracing","name":"a"}]"#)?;
        let after = parse_programs(r#"[{"id":2,"type":"tracing","name":"a","run_time_ns":50,"run_cnt":5}]"#)?;
        assert_eq!(before.len(), 1);
        assert_eq!(growth(&before, &after), [Program { name: "a".to_owned(), time_ns: 50, runs: 5 }]);
        Ok(())
    }

    #[test]
    fn programs_and_maps_are_read_from_fdinfo() {
        let mut held = Held::default();
        held.add("pos:\t0\nlink_type:\ttracing\nlink_id:\t3\nprog_tag:\tab\nprog_id:\t17\n");
        held.add("pos:\t0\nmap_type:\t2\nmemlock:\t4096\nmap_id:\t5\n");
        held.add("pos:\t0\nflags:\t02\n");
        assert_eq!(held, Held { programs: [17].into(), maps: [(5, 4096)].into() });
    }
}
