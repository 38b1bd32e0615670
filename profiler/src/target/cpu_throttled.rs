//! `cpu_throttled`: runnable, but out of the cgroup's quota. Never a neighbour's doing.
//!
//! **Rule.** `throttled_s` of the ledger (exact) is at least [`LEAST_WAITING`] a second.
//!
//! **What a fix leaves.** A higher limit lets the threads run, as far as there are CPUs: what they cannot have at once
//! they wait for as `runnable_self` instead.

use super::capacity::capped;
use super::finding::{Basis, Finding, LEAST_WAITING};
use super::kind::Kind;
use super::scene::{FunctionId, Scene};
use crate::profile::{OffCpuReason, StackId};

/// Finds it.
pub fn find(scene: &Scene<'_>, place: usize) -> Option<Finding> {
    let container = scene.places[place].container;
    let throttled = container.ledger.throttled_ns as f64;
    if throttled < LEAST_WAITING * scene.window_ns {
        return None;
    }
    let (blame, stack) = most_of(scene, place, OffCpuReason::Throttled);
    let limit = container.cpu_limit_cores;
    let allowed = limit.map_or_else(|| "its CPU quota".to_owned(), |limit| format!("its {limit:.2} cores"));
    let mut evidence = vec![
        format!("{:.2} thread-seconds throttled a second (ledger)", throttled / scene.window_ns),
        format!("{:.2} cores used (ledger)", container.ledger.cpu_ns() as f64 / scene.window_ns),
    ];
    evidence.extend(limit.map(|limit| format!("limit of {limit:.2} cores (cgroup)")));
    Some(Finding {
        place,
        kind: Kind::CpuThrottled,
        blame,
        about: None,
        stack,
        claims_ns: throttled,
        gain_ns: capped(scene, place, throttled, scene.cpus()),
        title: format!(
            "threads that could run are out of {allowed} for {:.2} thread-seconds a second",
            throttled / scene.window_ns
        ),
        evidence,
        remedy: None,
        basis: Basis::Ledger,
    })
}

/// The function that most time of this reason is below; without off-CPU stacks that which uses most CPU.
pub fn most_of(scene: &Scene<'_>, place: usize, reason: OffCpuReason) -> (Option<FunctionId>, Option<StackId>) {
    let here = &scene.places[place];
    let mut sums: Vec<(FunctionId, f64, StackId)> = Vec::new();
    let waits = here.waits.iter().filter(|row| row.reason == reason).map(|row| (row.process, row.stack, row.ns));
    let cpu = here.cpu.iter().map(|row| (row.process, row.stack, row.ns));
    let own = |stack| scene.facts(stack).is_some_and(|facts| !facts.chain.is_empty());
    for rows in [waits.collect::<Vec<_>>(), cpu.collect()] {
        for (process, stack, ns) in rows.into_iter().filter(|(_, stack, _)| own(*stack)) {
            let Some(function) = scene.blame(process, stack) else { continue };
            match sums.iter_mut().find(|(known, ..)| *known == function) {
                Some(known) => known.1 += ns,
                None => sums.push((function, ns, stack)),
            }
        }
        if !sums.is_empty() {
            break;
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    sums.first().map_or((None, None), |(function, _, stack)| (Some(*function), Some(*stack)))
}
