//! `lock_contention`: blocked acquiring a lock that others hold; not parked, not waiting for work.
//!
//! **Rule.** Waits that [`waiting`](super::waiting) knows to acquire a lock, below one function, are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second.
//!
//! **What a fix leaves.** Nothing of the waiting, as far as there are CPUs for what then runs at the same time.

use super::capacity::capped;
use super::disk_wait::blocked;
use super::finding::Finding;
use super::kind::Kind;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};

/// Finds them.
pub fn find(scene: &Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let mut findings = blocked(scene, place, waits, Kind::LockContention, WaitFor::Lock, |function, each, rate| {
        format!("threads wait for a lock in {function}, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    });
    for finding in &mut findings {
        let most = scene.most_cores(scene.places[place].container);
        finding.gain_ns = capped(scene, place, finding.claims_ns, most);
    }
    findings
}
