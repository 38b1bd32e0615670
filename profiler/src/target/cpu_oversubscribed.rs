//! `cpu_oversubscribed`: runnable behind its own threads, with no single function to blame for the CPU they use.
//!
//! **Rule.** `runnable_self_s` (exact) is at least half of the container's CPU time and [`LEAST_SELF`] a second: for each
//! thread that runs half a one waits. And no single function has more than half of the CPU time: then that function is
//! what to change, and the queue goes with it.
//!
//! **What a fix leaves.** With as many threads as CPUs nobody waits; the work is done no slower.

use super::cpu_throttled::most_of;
use super::finding::{Basis, Finding};
use super::kind::Kind;
use super::scene::Scene;
use crate::profile::OffCpuReason;

/// Half a thread always in the queue: bursts that meet now and then stay below.
const LEAST_SELF: f64 = 0.5;

/// Finds it, given what was found of the container's CPU time.
pub fn find(scene: &Scene<'_>, place: usize, of_cpu: &[super::finding::Finding]) -> Option<Finding> {
    let container = scene.places[place].container;
    // The rest of the host is no program with threads of its own, and beside a chosen process its container runs others.
    let chosen =
        scene.profile.settings.filters.iter().any(|filter| filter.starts_with("-- ") || filter.starts_with("--pid"));
    if container.id.is_empty() && (chosen || container.name == "host") {
        return None;
    }
    let waiting = container.ledger.runnable_self_ns as f64;
    let cpu = container.ledger.cpu_ns() as f64;
    if waiting < LEAST_SELF * scene.window_ns || waiting < cpu / 2.0 {
        return None;
    }
    let own = |finding: &&super::finding::Finding| {
        finding.blame.and_then(|blame| scene.functions.get(blame.0 as usize)).is_some_and(|function| function.own)
    };
    if of_cpu.iter().filter(own).any(|finding| finding.claims_ns > cpu / 2.0) {
        return None;
    }
    let (blame, stack) = most_of(scene, place, OffCpuReason::RunnableSelf);
    let running = cpu / scene.window_ns;
    let queued = waiting / scene.window_ns;
    Some(Finding {
        place,
        kind: Kind::CpuOversubscribed,
        blame,
        about: None,
        stack,
        claims_ns: waiting,
        gain_ns: waiting,
        title: format!("{queued:.1} threads wait behind {running:.1} of the same container that run"),
        evidence: vec![
            format!("{queued:.2} thread-seconds a second runnable behind its own threads (ledger)"),
            format!("{running:.2} cores used (ledger), {:.0} CPUs there", scene.cpus()),
            "no function uses more than half of the CPU time (on-CPU samples)".to_owned(),
        ],
        remedy: None,
        basis: Basis::Ledger,
    })
}
