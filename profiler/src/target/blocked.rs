//! Waits of one class, by function to blame: the common part of all kinds that block. In: what the class waits for, and
//! which CPU time belongs to the same thing. Out: findings that reach the floor.
//!
//! Waiting costs CPU time as well: to queue, to give orders to the disk, to wake the next. Whoever waits less does less of
//! that, so it is claimed along, and added to what can be won.

use rustc_hash::FxHashMap;

use super::calls::{claim, name_of};
use super::finding::{Basis, Finding, LEAST_WAITING};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::{FunctionId, Scene};
use super::waiting::{WaitFor, Waits};
use crate::profile::StackId;

/// What belongs together.
#[derive(Debug)]
pub struct Family {
    /// The kind that it is.
    pub kind: Kind,
    /// Its waits.
    pub wait: WaitFor,
    /// Its CPU time.
    pub on_cpu: Marks,
}

#[derive(Default)]
struct Sum {
    ns: f64,
    count: f64,
    heaviest: Option<(f64, StackId)>,
    cpu: Vec<(usize, f64)>,
    cpu_ns: f64,
    samples: u64,
}

impl Sum {
    fn all_ns(&self) -> f64 {
        self.ns + self.cpu_ns
    }

    fn saw(&mut self, ns: f64, stack: StackId) {
        if self.heaviest.is_none_or(|(most, _)| ns > most) {
            self.heaviest = Some((ns, stack));
        }
    }

    fn add(&mut self, other: Self) {
        self.ns += other.ns;
        self.count += other.count;
        self.cpu.extend(other.cpu);
        self.cpu_ns += other.cpu_ns;
        self.samples += other.samples;
    }
}

/// Finds them; the title is made of the function, nanoseconds a wait and waits a second.
pub fn blocked(
    scene: &mut Scene<'_>,
    place: usize,
    waits: &Waits,
    family: &Family,
    title: impl Fn(&str, f64, f64) -> String,
) -> Vec<Finding> {
    let least = LEAST_WAITING * scene.window_ns;
    let sums = merged(scene, sums(scene, place, waits, family));
    let mut findings = Vec::new();
    for (function, sum) in sums.into_iter().filter(|(_, sum)| sum.all_ns() >= least) {
        claim(scene, place, &sum.cpu);
        findings.push(finding(scene, place, family.kind, function, &sum, &title));
    }
    findings
}

fn finding(
    scene: &Scene<'_>,
    place: usize,
    kind: Kind,
    function: FunctionId,
    sum: &Sum,
    title: impl Fn(&str, f64, f64) -> String,
) -> Finding {
    let window_s = scene.window_ns / 1e9;
    let name = name_of(scene, function);
    let (each, rate) = (sum.ns / sum.count.max(1.0), sum.count / window_s);
    let mut evidence = vec![
        format!("{:.2} thread-seconds a second below {name} (off-CPU stacks)", sum.ns / scene.window_ns),
        format!("{rate:.0} waits a second, {:.2} ms on average (off-CPU stacks)", each / 1e6),
    ];
    if sum.cpu_ns > 0.0 {
        let cores = sum.cpu_ns / scene.window_ns;
        evidence.push(format!("{cores:.3} cores go with them in the same calls (on-CPU samples)"));
    }
    let most_is_cpu = sum.cpu_ns > sum.ns;
    Finding {
        place,
        kind,
        blame: Some(function),
        about: None,
        stack: sum.heaviest.map(|(_, stack)| stack),
        claims_ns: sum.all_ns(),
        gain_ns: sum.all_ns(),
        title: title(&name, each, rate),
        evidence,
        remedy: None,
        basis: if most_is_cpu { Basis::CpuSamples(sum.samples) } else { Basis::OffCpuStacks(sum.count as u64) },
    }
}

fn sums(scene: &Scene<'_>, place: usize, waits: &Waits, family: &Family) -> FxHashMap<FunctionId, Sum> {
    let here = &scene.places[place];
    let mut sums: FxHashMap<FunctionId, Sum> = FxHashMap::default();
    for (row, class) in here.waits.iter().zip(&waits[place]) {
        if *class != family.wait {
            continue;
        }
        let Some(function) = scene.blame(row.process, row.stack) else { continue };
        let sum = sums.entry(function).or_default();
        sum.ns += row.ns;
        sum.count += row.count;
        sum.saw(row.ns, row.stack);
    }
    for (at, row) in here.cpu.iter().enumerate() {
        let belongs = scene.facts(row.stack).is_some_and(|facts| facts.marks.any(family.on_cpu) && !facts.kernel_only);
        if !belongs || row.left_ns <= 0.0 {
            continue;
        }
        let Some(function) = scene.blame(row.process, row.stack) else { continue };
        let sum = sums.entry(function).or_default();
        sum.cpu.push((at, row.left_ns));
        sum.cpu_ns += row.left_ns;
        sum.samples += row.samples;
        sum.saw(row.left_ns, row.stack);
    }
    sums
}

/// Largest first. What has no caller on its stack (its user part was lost) goes with the function that has most of the rest.
fn merged(scene: &Scene<'_>, sums: FxHashMap<FunctionId, Sum>) -> Vec<(FunctionId, Sum)> {
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| {
        b.1.all_ns().total_cmp(&a.1.all_ns()).then_with(|| name_of(scene, a.0).cmp(&name_of(scene, b.0)))
    });
    let (mut own, nameless): (Vec<_>, Vec<_>) =
        sums.into_iter().partition(|(function, _)| scene.functions[function.0 as usize].own);
    let lost: f64 = nameless.iter().map(|(_, sum)| sum.all_ns()).sum();
    match own.first_mut() {
        Some((_, first)) if first.all_ns() >= lost => nameless.into_iter().for_each(|(_, sum)| first.add(sum)),
        _ => own.extend(nameless),
    }
    own
}
