//! What the machine and this process say of themselves.

use std::fs;

use crate::profile::Host;

/// Facts about the host; `steal_ns` is filled in at the end.
pub fn host(node: Option<String>) -> Host {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Host {
        node: node.unwrap_or_else(|| text(uname.nodename())),
        kernel: text(uname.release()),
        architecture: text(uname.machine()),
        cpus: crate::kernel::cpus::online().map_or(0, |cpus| cpus.len() as u32),
        steal_ns: 0,
    }
}

/// Name of this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Time the hypervisor has given to others so far, over all CPUs, in nanoseconds.
pub fn steal_ns() -> u64 {
    fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse_steal).unwrap_or(0)
}

/// The eighth figure of the `cpu` line, in USER_HZ, which is 100 on every Linux.
fn parse_steal(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: u64 = line.split_ascii_whitespace().nth(7)?.parse().ok()?;
    Some(ticks * 10_000_000)
}

/// CPU time of this process so far, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Peak resident memory of this process in bytes.
pub fn peak_resident_bytes() -> u64 {
    fs::read_to_string("/proc/self/status").ok().as_deref().and_then(parse_peak).unwrap_or(0)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Number of threads on this host.
pub fn threads() -> u64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    parse_threads(&load).unwrap_or(0)
}

/// The figure behind the slash: `0.1 0.2 0.3 1/234 5678`.
fn parse_threads(load: &str) -> Option<u64> {
    load.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_files_are_read() {
        assert_eq!(parse_steal("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1"), Some(80_000_000));
        assert_eq!(parse_steal("cpu 1 2"), None);
        assert_eq!(parse_peak("VmPeak:\t 9 kB\nVmHWM:\t  12 kB\n"), Some(12 * 1024));
        assert_eq!(parse_threads("0.00 0.01 0.05 2/345 6789\n"), Some(345));
        assert_eq!(parse_threads(""), None);
    }

    #[test]
    fn this_process_takes_time_and_memory() {
        assert!(own_cpu_ns() > 0);
        assert!(peak_resident_bytes() > 100_000);
        assert!(!host(None).kernel.is_empty());
        assert_eq!(host(Some("n1".into())).node, "n1");
    }
}
