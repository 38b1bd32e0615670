//! Programs started for each piece of work, told as `kernel_overhead`: fork, exec, loading, linking and exit, again and
//! again, spread over many processes that hardly live.
//!
//! **Rule.** At least [`LEAST_STARTS`] programs a second are started that use at most [`START_CPU_NS`] each: that is what
//! being started and ended costs, so there is little else in them. One that uses more does work of its own, and is judged by
//! what it does. Together with what starting costs in the parent this is 0.1 cores and a quarter of the container.
//!
//! **Asked first**, since it is one cause of what would else be failing opens of a search path, page faults and calls of
//! the loader, each below a function of a program that its owner did not write.
//!
//! **Blame** is on whoever forks: of several, each has the part that its forks have of all.
//!
//! **What a fix leaves.** Nothing: work done in the process, or by a helper that stays, starts nobody.

use rustc_hash::{FxHashMap, FxHashSet};

use super::calls::{CallCost, Calls, name_of, unobserved_ns};
use super::finding::Finding;
use super::group::{Group, Lift, by_blame};
use super::kernel_overhead::{LEAST_KERNEL_CORES, LEAST_PART};
use super::kind::Kind;
use super::scene::{Area, Place, Scene};
use crate::profile::{ProcessIndex, TextId};

/// At [`START_CPU_NS`] each these are the tenth of a core from which an unspecific hint is worth following.
const LEAST_STARTS: f64 = 10.0;

/// CPU time of a program that does next to nothing, with its fork: half a millisecond where it is static, one to three
/// where a loader links it, more where caches are cold or libraries many.
const START_CPU_NS: f64 = 10_000_000.0;

/// A process with more CPU time than this was not just started: three samples at the default frequency, which one of a few
/// milliseconds gets once in thousands.
const SHORT_LIFE_NS: f64 = 31_000_000.0;

/// One process with little CPU time is idle; of this many with one name, each is one that has just been started.
const SEVERAL: usize = 5;

/// Calls that a parent starts a program with.
const STARTS: [&str; 6] = ["fork", "vfork", "clone", "clone3", "execve", "execveat"];

/// Calls that go with it.
const WITH_STARTS: [&str; 2] = ["wait4", "waitid"];

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, calls: &Calls<'_>) -> Vec<Finding> {
    let here = &scene.places[place];
    let short = short_lived(scene, here);
    let executed: f64 =
        ["execve", "execveat"].iter().map(|name| calls.count(&[name]) - calls.failed(name, |_| true)).sum();
    let starts = executed.max(short.len() as f64);
    if starts / calls.window_s < LEAST_STARTS {
        return Vec::new();
    }
    let is_short = |at: usize| short.contains(&here.cpu[at].process);
    let (children, parents): (Vec<usize>, Vec<usize>) = (0..here.cpu.len()).partition(|at| is_short(*at));
    let children_ns: f64 = children.iter().map(|at| here.cpu[*at].ns).sum();
    if children_ns / starts > START_CPU_NS {
        return Vec::new();
    }
    let weighed = |rows: Vec<usize>| rows.into_iter().map(|at| (at, here.cpu[at].left_ns)).collect::<Vec<_>>();
    let forks = |from: &[usize]| weighed(from.iter().copied().filter(|at| is_in(scene, here, *at, &STARTS)).collect());
    // Who lives on is the one to blame. Where nobody was seen forking who does, those who come and go start each other.
    let mut groups = by_blame(scene, place, &forks(&parents), 0.0, Lift::Never);
    if groups.is_empty() {
        groups = by_blame(scene, place, &forks(&children), 0.0, Lift::Never);
        for group in &mut groups {
            group.rows.clear();
        }
    }
    let forks_ns: f64 = groups.iter().map(|group| group.ns).sum();
    let floor_ns = (LEAST_KERNEL_CORES * scene.window_ns).max(LEAST_PART * here.cpu_ns());
    let names = names(scene, here, &children, &parents);
    let mut findings = Vec::new();
    let costs: Vec<(f64, CallCost)> = groups
        .into_iter()
        .map(|group| {
            let part = group.ns / forks_ns;
            (part, cost(scene, place, group, part, &children, &parents))
        })
        .filter(|(_, cost)| cost.claims_ns() >= floor_ns)
        .collect();
    for (part, cost) in costs {
        let function = name_of(scene, cost.group.function);
        let rate = starts * part / calls.window_s;
        let evidence = vec![
            format!("execve: {:.0} calls a second that succeed (syscall counters)", executed / calls.window_s),
            format!(
                "{:.3} cores in starting, running and ending them, {:.2} ms each (on-CPU samples)",
                cost.group.ns / scene.window_ns,
                cost.group.ns / (starts * part) / 1e6
            ),
        ];
        let listed = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        let title = format!("{function} starts {rate:.0} programs a second that hardly live{listed}");
        let mut finding = cost.finding(scene, place, Kind::KernelOverhead, title, evidence);
        finding.remedy = Some(
            "do it in the process, or keep one helper running and send it the work: starting a program costs more than \
             what it does"
                .to_owned(),
        );
        findings.push(finding);
    }
    findings
}

/// Processes that can only have been there for a moment, by what they used and how many there are of their name.
fn short_lived(scene: &Scene<'_>, here: &Place<'_>) -> FxHashSet<ProcessIndex> {
    let mut used: FxHashMap<ProcessIndex, f64> = FxHashMap::default();
    for row in &here.cpu {
        *used.entry(row.process).or_default() += row.ns;
    }
    used.retain(|_, ns| *ns <= SHORT_LIFE_NS);
    let mut alike: FxHashMap<Option<TextId>, usize> = FxHashMap::default();
    for process in used.keys() {
        *alike.entry(command(scene, *process)).or_default() += 1;
    }
    used.into_keys()
        .filter(|process| alike.get(&command(scene, *process)).is_some_and(|number| *number >= SEVERAL))
        .collect()
}

/// Whether a row is in one of these calls.
fn is_in(scene: &Scene<'_>, here: &Place<'_>, at: usize, names: &[&str]) -> bool {
    scene
        .facts(here.cpu[at].stack)
        .is_some_and(|facts| facts.area == Area::Call && facts.call.is_some_and(|call| names.contains(&call)))
}

fn command(scene: &Scene<'_>, process: ProcessIndex) -> Option<TextId> {
    scene.profile.processes.get(process.0 as usize).map(|process| process.command)
}

/// What they are called, most CPU time first. Until it executes its program a child has its parent's name.
fn names(scene: &Scene<'_>, here: &Place<'_>, children: &[usize], parents: &[usize]) -> Vec<String> {
    let name = |at: &usize| command(scene, here.cpu[*at].process);
    let of_parents: FxHashSet<TextId> = parents.iter().filter_map(name).collect();
    let mut used: FxHashMap<TextId, f64> = FxHashMap::default();
    for at in children {
        if let Some(command) = name(at).filter(|command| !of_parents.contains(command)) {
            *used.entry(command).or_default() += here.cpu[*at].ns;
        }
    }
    let texts = &scene.profile.stacks;
    let mut names: Vec<(&str, f64)> = used.into_iter().map(|(name, ns)| (texts.text_of(name), ns)).collect();
    names.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    names.into_iter().take(3).map(|(name, _)| name.to_owned()).collect()
}

/// A part of the children, and in the parent the calls and as much of the code around them as they cost.
fn cost(
    scene: &Scene<'_>,
    place: usize,
    mut group: Group,
    part: f64,
    children: &[usize],
    parents: &[usize],
) -> CallCost {
    let here = &scene.places[place];
    let of_parent = |at: &usize| scene.blame(here.cpu[*at].process, here.cpu[*at].stack) == Some(group.function);
    let waits = parents.iter().copied().filter(of_parent).filter(|at| is_in(scene, here, *at, &WITH_STARTS));
    group.rows.extend(waits.map(|at| (at, here.cpu[at].left_ns)));
    let in_parent_ns: f64 = group.rows.iter().map(|row| row.1).sum();
    let around = |at: &usize| scene.facts(here.cpu[*at].stack).is_some_and(|facts| facts.area == Area::User);
    let mut user: Vec<(usize, f64)> =
        parents.iter().copied().filter(of_parent).filter(around).map(|at| (at, here.cpu[at].left_ns)).collect();
    let user_ns = user.iter().fold(0.0, |sum, row| sum + row.1);
    let goes_along = if user_ns > in_parent_ns { in_parent_ns / user_ns } else { 1.0 };
    for row in &mut user {
        row.1 *= goes_along;
    }
    group.rows.extend(children.iter().map(|at| (*at, here.cpu[*at].left_ns * part)));
    group.ns = group.rows.iter().map(|row| row.1).sum();
    group.samples = group.rows.iter().map(|(at, _)| here.cpu[*at].samples).sum();
    let unobserved_ns = unobserved_ns(scene, here, &group.rows);
    CallCost { group, unobserved_ns, user, user_ns: user_ns * goes_along }
}
