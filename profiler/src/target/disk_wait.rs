//! `disk_wait`: blocked reading or faulting in from disk, or writing back.
//!
//! **Rule.** Waits for block I/O that make nothing durable, below one function, together with the CPU time that the
//! same function spends on that I/O in the kernel, are at least [`LEAST_WAITING`](super::finding::LEAST_WAITING)
//! thread-seconds a second.
//!
//! **What a fix leaves.** What is in memory is neither waited for nor fetched.

use super::blocked::{Family, blocked};
use super::finding::Finding;
use super::kind::Kind;
use super::mark::Marks;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let family = Family { kind: Kind::DiskWait, wait: WaitFor::Disk, on_cpu: Marks::BLOCK_IO };
    blocked(scene, place, waits, &family, |function, each, rate| {
        format!("{function} waits for the disk, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    })
}
