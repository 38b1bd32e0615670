//! `memory_faults`: CPU spent in page faults, mmap/munmap/madvise and zeroing below one allocation path.
//!
//! **Rule.** Page faults and calls that change mappings, below one function, are at least
//! [`LEAST_CORES`](super::finding::LEAST_CORES) and a tenth of the container's CPU time. Memory that is used again faults
//! once; a steady share of faults means that it is returned and taken anew. Faults of starting programs do not count. What
//! others do to return the memory counts as the function's.
//!
//! **What a fix leaves.** Nothing of the faults. The allocator's own work below the same function goes with them.

use super::calls::{claim, name_of};
use super::finding::{Basis, Finding, LEAST_CORES, LEAST_SHARE};
use super::group::{Group, Lift, by_blame};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::{Area, Scene};
use super::work::Work;

/// Calls that give memory back.
const RETURNING: [&str; 3] = ["munmap", "madvise", "brk"];

const MAPPING: [&str; 6] = ["mmap", "munmap", "madvise", "mremap", "brk", "mprotect"];

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize) -> Vec<Finding> {
    let here = &scene.places[place];
    let floor_ns = (LEAST_CORES * scene.window_ns).max(LEAST_SHARE * here.cpu_ns());
    let about_memory = |stack| {
        scene.facts(stack).is_some_and(|facts| {
            let mapping = facts.area == Area::Call && facts.call.is_some_and(|call| MAPPING.contains(&call));
            let collector = facts.chain.is_empty() && facts.work == Some(Work::GarbageCollection);
            (facts.area == Area::Fault || mapping)
                && !facts.kernel_only
                && !collector
                && !facts.marks.any(Marks::STARTUP.with(Marks::DISK).with(Marks::BLOCK_IO))
        })
    };
    let rows: Vec<(usize, f64)> = here
        .cpu
        .iter()
        .enumerate()
        .filter(|(_, row)| about_memory(row.stack))
        .map(|(at, row)| (at, row.left_ns))
        .collect();
    let mut findings = Vec::new();
    for group in with_what_is_returned(scene, place, by_blame(scene, place, &rows, floor_ns, Lift::ToCallers)) {
        let here = &scene.places[place];
        let allocator: Vec<(usize, f64)> = here
            .cpu
            .iter()
            .enumerate()
            .filter(|(_, row)| {
                scene
                    .facts(row.stack)
                    .is_some_and(|facts| facts.area == Area::User && facts.work == Some(Work::Allocation))
                    && scene.blame(row.process, row.stack) == Some(group.function)
            })
            .map(|(at, row)| (at, row.left_ns))
            .collect();
        let allocator_ns: f64 = allocator.iter().map(|row| row.1).sum();
        let faults: f64 = group
            .rows
            .iter()
            .filter(|(at, _)| scene.facts(here.cpu[*at].stack).is_some_and(|facts| facts.area == Area::Fault))
            // An empty sum is -0.0, and would be printed as such.
            .fold(0.0, |sum, row| sum + row.1);
        let mut evidence = vec![format!(
            "{:.3} cores in page faults and {:.3} in mapping calls below it (on-CPU samples)",
            faults / scene.window_ns,
            (group.ns - faults) / scene.window_ns
        )];
        for stats in here.container.syscalls.iter().filter(|stats| MAPPING.contains(&stats.name.as_str())).take(2) {
            let rate = stats.count as f64 / (scene.window_ns / 1e9);
            evidence.push(format!("{}: {rate:.0} calls a second (syscall counters)", stats.name));
        }
        let function = name_of(scene, group.function);
        claim(scene, place, &group.rows);
        claim(scene, place, &allocator);
        let claims_ns = group.ns + allocator_ns;
        findings.push(Finding {
            place,
            kind: Kind::MemoryFaults,
            blame: Some(group.function),
            about: None,
            stack: Some(group.stack),
            claims_ns,
            gain_ns: claims_ns,
            title: format!("{function} faults in new memory again and again: {:.2} cores", claims_ns / scene.window_ns),
            evidence,
            remedy: None,
            basis: Basis::CpuSamples(group.samples),
        });
    }
    findings
}

/// Memory is often given back by a caller of the function that used it, where a value goes out of scope, or by another
/// function that this calls: that is the same problem. A group that does little else than give back goes with the one that
/// it has most callers in common with, if there is one.
fn with_what_is_returned(scene: &Scene<'_>, place: usize, groups: Vec<Group>) -> Vec<Group> {
    let here = &scene.places[place];
    let returns = |group: &Group| {
        let returned = group.rows.iter().filter(|(at, _)| {
            let call = scene.facts(here.cpu[*at].stack).and_then(|facts| facts.call);
            call.is_some_and(|call| RETURNING.contains(&call))
        });
        returned.fold(0.0, |sum, row| sum + row.1) > 0.9 * group.ns
    };
    let chain = |group: &Group| scene.facts(group.stack).map_or(&[][..], |facts| &facts.chain[..]);
    let (returning, mut kept): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(returns);
    for group in returning {
        let in_common = |other: &Group| chain(other).iter().zip(chain(&group)).take_while(|(a, b)| a == b).count();
        let nearest = kept.iter_mut().map(|other| (in_common(other), other)).filter(|(common, _)| *common > 0);
        // Of several that are as near the largest, which comes first.
        match nearest.rev().max_by_key(|(common, _)| *common) {
            Some((_, other)) => {
                other.ns += group.ns;
                other.samples += group.samples;
                other.rows.extend(group.rows);
            }
            None => kept.push(group),
        }
    }
    kept
}
