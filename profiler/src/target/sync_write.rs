//! `sync_write`: blocked in fsync, fdatasync, sync and `O_SYNC` writes.
//!
//! **Rule.** Waits for durability below one function are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second, whatever the kernel waits for in them (the disk, its
//! journal, a lock of the file system).
//!
//! **What a fix leaves.** One sync for many writes: next to nothing.

use super::disk_wait::blocked;
use super::finding::Finding;
use super::kind::Kind;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};

/// Finds them.
pub fn find(scene: &Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    blocked(scene, place, waits, Kind::SyncWrite, WaitFor::Durability, |function, each, rate| {
        format!("{function} waits for its writes to be durable, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    })
}
