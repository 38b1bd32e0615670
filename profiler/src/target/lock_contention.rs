//! `lock_contention`: blocked acquiring a lock that others hold; not parked, not waiting for work.
//!
//! **Rule.** Waits that [`waiting`](super::waiting) knows to acquire a lock, below one function, are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second. CPU time in what only runs where threads meet (spinning, queueing, waking the
//! next) is time spent on the lock too; it counts with the waits, and alone from [`LEAST_CORES`] on. Where goroutines or futures
//! wait instead of threads it is all that is seen of the lock.
//!
//! **What a fix leaves.** Nothing of it, as far as there are CPUs for what then runs at the same time.

use super::calls::{claim, name_of};
use super::capacity::capped;
use super::disk_wait::blocked;
use super::finding::{Basis, Finding, LEAST_CORES};
use super::group::{Group, Lift, by_blame};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let mut findings = blocked(scene, place, waits, Kind::LockContention, WaitFor::Lock, |function, each, rate| {
        format!("threads wait for a lock in {function}, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    });
    for finding in &mut findings {
        let most = scene.most_cores(scene.places[place].container);
        finding.gain_ns = capped(scene, place, finding.claims_ns, most);
        let marks = finding.stack.and_then(|stack| scene.facts(stack)).map(|facts| facts.marks).unwrap_or_default();
        if marks.any(Marks::INTERPRETER_LOCK) {
            finding.remedy = Some(
                "the lock is the interpreter's own: use processes instead of threads, or libraries that let go of it"
                    .to_owned(),
            );
        }
    }
    for group in meeting(scene, place) {
        let cores = group.ns / scene.window_ns;
        let evidence = format!("{cores:.3} cores to take the lock and hand it over (on-CPU samples)");
        if let Some(finding) = findings.iter_mut().find(|finding| finding.blame == Some(group.function)) {
            finding.claims_ns += group.ns;
            finding.gain_ns += group.ns;
            finding.evidence.push(evidence);
        } else if cores >= LEAST_CORES {
            findings.push(of_cpu(scene, place, &group, evidence));
        } else {
            continue;
        }
        claim(scene, place, &group.rows);
    }
    findings
}

/// Unclaimed CPU time in what only runs where threads meet, by function to blame.
fn meeting(scene: &Scene<'_>, place: usize) -> Vec<Group> {
    let here = &scene.places[place];
    let contended = |stack| scene.facts(stack).is_some_and(|facts| facts.marks.any(Marks::CONTENDED));
    let rows: Vec<(usize, f64)> = here
        .cpu
        .iter()
        .enumerate()
        .filter(|(_, row)| contended(row.stack))
        .map(|(at, row)| (at, row.left_ns))
        .collect();
    by_blame(scene, place, &rows, 0.0, Lift::Never)
}

/// A lock of which only the CPU's part is seen.
fn of_cpu(scene: &Scene<'_>, place: usize, group: &Group, evidence: String) -> Finding {
    let function = name_of(scene, group.function);
    Finding {
        place,
        kind: Kind::LockContention,
        blame: Some(group.function),
        about: None,
        stack: Some(group.stack),
        claims_ns: group.ns,
        gain_ns: group.ns,
        title: format!(
            "{:.2} cores go into a lock that several want at once in {function}",
            group.ns / scene.window_ns
        ),
        evidence: vec![evidence, "how long tasks waited for it is not seen: no thread waits for them".to_owned()],
        remedy: None,
        basis: Basis::CpuSamples(group.samples),
    }
}
