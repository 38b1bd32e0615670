//! Whose unwind tables are built first. In: the containers that were selected. Out: their processes.

use std::fs;

use crate::{container::Description, process::Pid};

/// Processes that live in one of these containers' cgroups now.
pub(super) fn processes_of<'d>(selected: impl Iterator<Item = &'d Description>) -> Vec<Pid> {
    let cgroups: Vec<&str> = selected.map(|one| one.cgroup.as_str()).filter(|path| path.len() > 1).collect();
    if cgroups.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid));
    pids.filter(|pid| {
        let memberships = fs::read_to_string(format!("/proc/{}/cgroup", pid.0)).unwrap_or_default();
        cgroups.iter().any(|cgroup| is_in(&memberships, cgroup))
    })
    .collect()
}

/// Whether one of the lines `hierarchy:controllers:path` is a cgroup or lies below it.
fn is_in(memberships: &str, cgroup: &str) -> bool {
    memberships
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.strip_prefix(cgroup).is_some_and(|below| below.is_empty() || below.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_its_cgroup_and_in_those_above_it() {
        let memberships = "4:cpu,cpuacct:/docker/abc\n0::/docker/abc/inner\n";
        assert!(is_in(memberships, "/docker/abc"));
        assert!(is_in(memberships, "/docker/abc/inner"));
        assert!(!is_in(memberships, "/docker/ab"), "a name that merely begins alike");
        assert!(!is_in("", "/docker/abc"));
    }
}
