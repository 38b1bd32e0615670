//! `sync_write`: blocked in fsync, fdatasync, sync and `O_SYNC` writes.
//!
//! **Rule.** Waits for durability below one function, whatever the kernel waits for in them (the disk, its journal, a lock
//! of the file system), together with the CPU time in the same calls, are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second. The faster the disk, the more of a sync is CPU
//! time.
//!
//! **What a fix leaves.** One sync for many writes: next to nothing.

use super::blocked::{Family, blocked};
use super::finding::Finding;
use super::kind::Kind;
use super::mark::Marks;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let family = Family { kind: Kind::SyncWrite, wait: WaitFor::Durability, on_cpu: Marks::SYNC };
    blocked(scene, place, waits, &family, |function, each, rate| {
        format!("{function} waits for its writes to be durable, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    })
}
