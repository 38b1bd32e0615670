//! `cpu_contention`: runnable behind another container, which is named.
//!
//! **Rule.** `waited_behind` (exact, by who ran meanwhile) names one other container for at least [`LEAST_WAITING`]
//! thread-seconds a second, and a tenth of the time that this container wants to run. The kernel, CPUs that were just
//! waking and what could not be told apart are nobody's doing. Throttled time is not in it.
//!
//! **What a fix leaves.** Nothing, if the neighbour goes elsewhere.

use super::cpu_throttled::most_of;
use super::finding::{Basis, Finding, LEAST_SHARE, LEAST_WAITING};
use super::kind::Kind;
use super::scene::Scene;
use crate::profile::OffCpuReason;

const NOBODY: [&str; 3] = ["idle", "kernel", "unknown"];

/// Finds it, once for each neighbour.
pub fn find(scene: &Scene<'_>, place: usize) -> Vec<Finding> {
    let container = scene.places[place].container;
    let wants = (container.ledger.cpu_ns() + container.ledger.runnable_ns()) as f64;
    let least = (LEAST_WAITING * scene.window_ns).max(LEAST_SHARE * wants);
    let mut left = container.ledger.runnable_other_ns as f64;
    let mut findings = Vec::new();
    for behind in container.waited_behind.iter().filter(|behind| !NOBODY.contains(&behind.container.as_str())) {
        let ns = (behind.ns as f64).min(left);
        if ns < least || behind.container == container.name {
            continue;
        }
        left -= ns;
        let neighbour = scene.places.iter().find(|place| place.container.name == behind.container);
        let (blame, stack) = most_of(scene, place, OffCpuReason::RunnableOther);
        let mut evidence = vec![format!(
            "{:.2} of {:.2} thread-seconds a second runnable behind others were behind {} (scheduler events)",
            ns / scene.window_ns,
            container.ledger.runnable_other_ns as f64 / scene.window_ns,
            behind.container
        )];
        if let Some(neighbour) = neighbour {
            evidence.push(format!(
                "{} used {:.2} cores (ledger)",
                behind.container,
                neighbour.cpu_ns() / scene.window_ns
            ));
        }
        if let Some(p99) = container.run_queue.latency.quantile_ns(0.99) {
            evidence.push(format!("99 % of waits for a CPU took at most {:.1} ms (run queue)", p99 / 1e6));
        }
        findings.push(Finding {
            place,
            kind: Kind::CpuContention,
            blame,
            about: Some(behind.container.clone()),
            stack,
            claims_ns: ns,
            gain_ns: ns,
            title: format!(
                "waits for a CPU while {} runs, {:.2} thread-seconds a second",
                behind.container,
                ns / scene.window_ns
            ),
            evidence,
            remedy: None,
            basis: Basis::Ledger,
        });
    }
    findings
}
