//! What the kernel counts: time and runs of each program, memory of the maps, context switches.

use std::collections::BTreeMap;
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

fn parse_programs(listing: &str) -> Result<BTreeMap<u64, Program>> {
    let listing: Value = serde_json::from_str(listing).context("bpftool printed no JSON")?;
    let entries = listing.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(entries
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

/// Memory of each map, by id.
pub fn maps() -> Result<BTreeMap<u64, u64>> {
    let listing = Step::new("ask for maps", "bpftool").args(["map", "show", "--json"]).read()?;
    let listing: Value = serde_json::from_str(&listing).context("bpftool printed no JSON")?;
    let entries = listing.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(entries.iter().filter_map(|map| Some((map["id"].as_u64()?, map["bytes_memlock"].as_u64()?))).collect())
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
}
