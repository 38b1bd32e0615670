//! `lock_contention`: blocked acquiring a lock that others hold; not parked, not waiting for work.
//!
//! **Rule.** Waits that [`waiting`](super::waiting) knows to acquire a lock, below one function, together with the CPU time
//! in what only runs where threads meet (spinning, queueing, waking the next), are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second. Where goroutines or futures wait instead of
//! threads, the CPU time is all that is seen of the lock.
//!
//! **What a fix leaves.** Nothing of the waiting, as far as there are CPUs for what then runs at the same time.

use super::blocked::{Family, blocked};
use super::capacity::capped;
use super::finding::{Basis, Finding};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let family = Family { kind: Kind::LockContention, wait: WaitFor::Lock, on_cpu: Marks::CONTENDED };
    let mut findings = blocked(scene, place, waits, &family, |function, each, rate| {
        format!("threads wait for a lock in {function}, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    });
    let most = scene.most_cores(scene.places[place].container);
    for finding in &mut findings {
        finding.gain_ns = capped(scene, place, finding.claims_ns, most);
        if matches!(finding.basis, Basis::CpuSamples(_)) {
            // It is mostly work, which can go away whatever CPUs there are.
            finding.gain_ns = finding.claims_ns;
            finding.title =
                format!("{:.2} cores go into a lock that several want at once", finding.claims_ns / scene.window_ns);
            finding.evidence.push("tasks that wait while no thread does are not seen".to_owned());
        }
        let marks = finding.stack.and_then(|stack| scene.facts(stack)).map(|facts| facts.marks).unwrap_or_default();
        if marks.any(Marks::INTERPRETER_LOCK) {
            let remedy =
                "the lock is the interpreter's own: use processes instead of threads, or libraries that let go of it";
            finding.remedy = Some(remedy.to_owned());
        }
    }
    findings
}
