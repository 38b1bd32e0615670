//! `cpu_hotspot`: user CPU below one function of the application that is large in its container.
//!
//! **Rule.** Unclaimed user time whose innermost frame of the application is this function, libraries below it
//! included, what a contended lock costs left out, is at least [`LEAST_HOT_CORES`] and a quarter of the container's CPU time.
//!
//! **Why innermost, and never its callers.** Everything is below `main`, and a bound of everything is no bound. **Why a
//! quarter.** With less, three quarters of the time are elsewhere, and even a function that costs nothing any more
//! speeds nothing up by more than a third. **Why 0.1 cores.** Busy or not is a matter of the machine, not of the
//! container: a service that uses a twentieth of a core in one function is at rest.
//!
//! **What a fix leaves.** A better algorithm or a cache leaves a small part. Where a library does one kind of work for the
//! function, that is said: the work can be avoided even where it cannot be made faster.

use super::calls::{claim, name_of};
use super::finding::{Basis, Finding};
use super::group::{Lift, by_blame};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::{Area, Scene};
use super::work::Work;

/// A tenth of a core.
const LEAST_HOT_CORES: f64 = 0.1;

/// A quarter of the container.
const LEAST_PART: f64 = 0.25;

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize) -> Vec<Finding> {
    let here = &scene.places[place];
    let cpu_ns = here.cpu_ns();
    let floor_ns = (LEAST_HOT_CORES * scene.window_ns).max(LEAST_PART * cpu_ns);
    let rows: Vec<(usize, f64)> = here
        .cpu
        .iter()
        .enumerate()
        .filter(|(_, row)| {
            let facts = scene.facts(row.stack);
            facts.is_some_and(|facts| facts.area == Area::User && !facts.marks.any(Marks::CONTENDED))
        })
        .map(|(at, row)| (at, row.left_ns))
        .collect();
    let mut findings = Vec::new();
    for group in by_blame(scene, place, &rows, floor_ns, Lift::Never) {
        let function = name_of(scene, group.function);
        let share = group.ns / cpu_ns.max(1.0);
        let here = &scene.places[place];
        let mut works: Vec<(Work, f64)> = Vec::new();
        for (at, ns) in &group.rows {
            if let Some(work) = scene.facts(here.cpu[*at].stack).and_then(|facts| facts.work) {
                match works.iter_mut().find(|(known, _)| *known == work) {
                    Some(known) => known.1 += ns,
                    None => works.push((work, *ns)),
                }
            }
        }
        works.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut evidence = vec![format!(
            "{:.3} cores, {} samples end in or below it (on-CPU samples)",
            group.ns / scene.window_ns,
            group.samples
        )];
        for (work, ns) in works.iter().take(3).filter(|(_, ns)| *ns >= 0.05 * group.ns) {
            evidence.push(format!("{:.0} % of it is {} (library frames below it)", 100.0 * ns / group.ns, work.name()));
        }
        // More than half of one kind of work: that is what it does.
        let main_work = works.first().filter(|(_, ns)| *ns > group.ns / 2.0).map(|(work, _)| *work);
        let title = match main_work {
            Some(work) => format!("{:.0} % of the CPU time is {} below {function}", 100.0 * share, work.name()),
            None => format!("{:.0} % of the CPU time is spent in {function}", 100.0 * share),
        };
        claim(scene, place, &group.rows);
        findings.push(Finding {
            place,
            kind: Kind::CpuHotspot,
            blame: Some(group.function),
            about: None,
            stack: Some(group.stack),
            claims_ns: group.ns,
            gain_ns: group.ns,
            title,
            evidence,
            remedy: main_work.map(|work| work.remedy().to_owned()),
            basis: Basis::CpuSamples(group.samples),
        });
    }
    findings
}
