//! `disk_wait`: blocked reading or faulting in from disk, or writing back.
//!
//! **Rule.** Waits for block I/O that make nothing durable, below one function, are at least [`LEAST_WAITING`]
//! thread-seconds a second.
//!
//! **What a fix leaves.** What is in memory is not waited for.

use rustc_hash::FxHashMap;

use super::calls::name_of;
use super::finding::{Basis, Finding, LEAST_WAITING};
use super::kind::Kind;
use super::scene::{FunctionId, Scene};
use super::waiting::{WaitFor, Waits};
use crate::profile::StackId;

/// Finds them.
pub fn find(scene: &Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    blocked(scene, place, waits, Kind::DiskWait, WaitFor::Disk, |function, each, rate| {
        format!("{function} waits for the disk, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    })
}

#[derive(Default)]
struct Sum {
    ns: f64,
    count: f64,
    heaviest: Option<(f64, StackId)>,
}

/// Waits of one class, by function to blame: the common part of all kinds that block.
pub fn blocked(
    scene: &Scene<'_>,
    place: usize,
    waits: &Waits,
    kind: Kind,
    wait: WaitFor,
    title: impl Fn(&str, f64, f64) -> String,
) -> Vec<Finding> {
    let here = &scene.places[place];
    let mut sums: FxHashMap<FunctionId, Sum> = FxHashMap::default();
    for (row, class) in here.waits.iter().zip(&waits[place]) {
        if *class != wait {
            continue;
        }
        let Some(function) = scene.blame(row.process, row.stack) else { continue };
        let sum = sums.entry(function).or_default();
        sum.ns += row.ns;
        sum.count += row.count;
        if sum.heaviest.is_none_or(|(ns, _)| row.ns > ns) {
            sum.heaviest = Some((row.ns, row.stack));
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.ns.total_cmp(&a.1.ns).then_with(|| name_of(scene, a.0).cmp(&name_of(scene, b.0))));
    // What has no caller on its stack (its user part was lost) goes with the function that has most of the rest.
    let (mut own, nameless): (Vec<_>, Vec<_>) =
        sums.into_iter().partition(|(function, _)| scene.functions[function.0 as usize].own);
    let (lost_ns, lost_count) =
        nameless.iter().fold((0.0, 0.0), |(ns, count), (_, sum)| (ns + sum.ns, count + sum.count));
    match own.first_mut() {
        Some((_, first)) if first.ns >= lost_ns => {
            first.ns += lost_ns;
            first.count += lost_count;
        }
        _ => own.extend(nameless),
    }
    let sums = own;
    let least = LEAST_WAITING * scene.window_ns;
    let window_s = scene.window_ns / 1e9;
    let large = sums.into_iter().filter(|(_, sum)| sum.ns >= least);
    large
        .map(|(function, sum)| {
            let name = name_of(scene, function);
            let (each, rate) = (sum.ns / sum.count.max(1.0), sum.count / window_s);
            Finding {
                place,
                kind,
                blame: Some(function),
                about: None,
                stack: sum.heaviest.map(|(_, stack)| stack),
                claims_ns: sum.ns,
                gain_ns: sum.ns,
                title: title(&name, each, rate),
                evidence: vec![
                    format!("{:.2} thread-seconds a second below {name} (off-CPU stacks)", sum.ns / scene.window_ns),
                    format!("{rate:.0} waits a second, {:.2} ms on average (off-CPU stacks)", each / 1e6),
                ],
                remedy: None,
                basis: Basis::OffCpuStacks(sum.count as u64),
            }
        })
        .collect()
}
