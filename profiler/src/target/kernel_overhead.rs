//! `kernel_overhead`: kernel CPU below one path that none of the more specific kinds explains.
//!
//! **Rule.** Unclaimed kernel time in system calls below one function is at least [`LEAST_KERNEL_CORES`] and a quarter of
//! the container's CPU time. Moving data through sockets is what servers are for and does not count; nor does what goes
//! with waits (`lock_contention`, `sync_write`, `disk_wait`), nor do calls that wait (their cost is that of sleeping), interrupts, and what only runs because this profiler is attached.
//!
//! **What a fix leaves.** Nothing of the calls that need not be made; user code that handles what they bring goes with
//! them, at most as much as they cost.

use super::calls::{Around, name_of, with_user};
use super::finding::Finding;
use super::group::{Lift, by_blame};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::{Area, Scene};

/// As for a hot function: a tenth of a core is where an unspecific hint starts to be worth following.
pub const LEAST_KERNEL_CORES: f64 = 0.1;

/// A quarter: with less, three quarters are elsewhere.
pub const LEAST_PART: f64 = 0.25;

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize) -> Vec<Finding> {
    let here = &scene.places[place];
    let floor_ns = (LEAST_KERNEL_CORES * scene.window_ns).max(LEAST_PART * here.cpu_ns());
    let serves = Marks::SOCKET.with(Marks::EPOLL).with(Marks::POLL).with(Marks::OBSERVER).with(Marks::STARTUP);
    let serves = serves.with(Marks::CONTENDED).with(Marks::SYNC).with(Marks::BLOCK_IO);
    let waits = [
        "clock_nanosleep",
        "nanosleep",
        "pause",
        "wait4",
        "waitid",
        "futex",
        "execve",
        "exit_group",
        "exit",
        "fsync",
        "fdatasync",
        "msync",
        "sync",
    ];
    let rows: Vec<(usize, f64)> = here
        .cpu
        .iter()
        .enumerate()
        .filter(|(_, row)| {
            scene.facts(row.stack).is_some_and(|facts| {
                facts.area == Area::Call
                    && !facts.kernel_only
                    && !facts.marks.any(serves)
                    && !facts.call.is_some_and(|call| waits.contains(&call))
            })
        })
        .map(|(at, row)| (at, row.left_ns))
        .collect();
    let mut findings = Vec::new();
    for group in by_blame(scene, place, &rows, floor_ns, Lift::ToCallers) {
        let call = scene.facts(group.stack).and_then(|facts| facts.call).unwrap_or("the kernel");
        let cost = with_user(scene, place, group, Around::AsMuch);
        let function = name_of(scene, cost.group.function);
        let share = cost.group.ns / scene.places[place].cpu_ns().max(1.0);
        let mut evidence = vec![format!(
            "{:.3} cores in the kernel below {function}, most of it in {call} (on-CPU samples)",
            cost.group.ns / scene.window_ns
        )];
        if let Some(stats) = scene.places[place].container.syscalls.iter().find(|stats| stats.name == call) {
            let window_s = scene.window_ns / 1e9;
            evidence.push(format!(
                "{call}: {:.0} calls a second, {:.0} bytes each (syscall counters)",
                stats.count as f64 / window_s,
                stats.bytes as f64 / stats.count.max(1) as f64
            ));
        }
        let title =
            format!("{:.0} % of the CPU time is spent in the kernel, in {call} below {function}", 100.0 * share);
        findings.push(cost.finding(scene, place, Kind::KernelOverhead, title, evidence));
    }
    findings
}
