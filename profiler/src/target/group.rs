//! Rows brought together by the function to blame. In: rows with weights. Out: groups that reach a floor.
//!
//! The function blamed is the innermost of the application. Where the innermost ones are each too small, because the
//! work goes through several helpers, the rows are lifted to their callers and tried again; never to the outermost
//! function, of which it would say nothing that everything is below it.

use rustc_hash::FxHashMap;

use super::scene::{CpuRow, FunctionId, Scene};
use crate::profile::StackId;

/// Callers that are tried.
const LIFTS: usize = 3;

/// Whether rows may be lifted to callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lift {
    /// Yes.
    ToCallers,
    /// The innermost function or nobody.
    Never,
}

/// Rows with one function to blame.
#[derive(Debug, Clone)]
pub struct Group {
    /// The function.
    pub function: FunctionId,
    /// Positions of rows, and the nanoseconds of each that belong here.
    pub rows: Vec<(usize, f64)>,
    /// Their sum.
    pub ns: f64,
    /// The stack with most of it.
    pub stack: StackId,
    /// Samples that it rests on.
    pub samples: u64,
}

/// Groups rows of a place's on-CPU time; largest first, then by name.
pub fn by_blame(scene: &Scene<'_>, place: usize, rows: &[(usize, f64)], floor_ns: f64, lift: Lift) -> Vec<Group> {
    let Some(place) = scene.places.get(place) else { return Vec::new() };
    let cpu = &place.cpu;
    let mut groups: FxHashMap<FunctionId, Vec<(usize, f64)>> = FxHashMap::default();
    let mut rest: Vec<(usize, f64)> = rows.iter().copied().filter(|(_, ns)| *ns > 0.0).collect();
    for lifted in 0..=LIFTS {
        let mut tally: FxHashMap<FunctionId, f64> = FxHashMap::default();
        let blamed: Vec<Option<FunctionId>> = rest.iter().map(|(at, _)| blame_at(scene, &cpu[*at], lifted)).collect();
        for ((_, ns), function) in rest.iter().zip(&blamed) {
            if let Some(function) = function {
                *tally.entry(*function).or_default() += ns;
            }
        }
        let mut left = Vec::new();
        for (row, function) in rest.into_iter().zip(blamed) {
            let large = function.filter(|one| {
                groups.contains_key(one) && lifted > 0 || tally.get(one).is_some_and(|ns| *ns >= floor_ns)
            });
            match large {
                Some(function) => groups.entry(function).or_default().push(row),
                None => left.push(row),
            }
        }
        rest = left;
        if lift == Lift::Never {
            break;
        }
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|(function, rows)| {
            let heaviest = rows.iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map_or(0, |row| row.0);
            Group {
                function,
                ns: rows.iter().map(|row| row.1).sum(),
                stack: cpu[heaviest].stack,
                samples: rows.iter().map(|(at, _)| cpu[*at].samples).sum(),
                rows,
            }
        })
        .collect();
    let name = |group: &Group| &scene.functions[group.function.0 as usize].name;
    groups.sort_by(|a, b| b.ns.total_cmp(&a.ns).then_with(|| name(a).cmp(name(b))));
    groups
}

fn blame_at(scene: &Scene<'_>, row: &CpuRow, lifted: usize) -> Option<FunctionId> {
    if lifted == 0 {
        return scene.blame(row.process, row.stack);
    }
    let chain = &scene.facts(row.stack)?.chain;
    // The outermost function stays out of it.
    (chain.len() > lifted + 1).then(|| chain[chain.len() - 1 - lifted])
}
