//! What each function costs by itself in both recordings. In: samples. Out: those that moved beyond chance.

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::{Side, WIDTH};
use crate::profile::FrameKind;

/// A function that costs more or less than before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moved {
    /// Its name.
    pub function: String,
    /// Its module.
    pub module: String,
    /// Own CPU cost in A, per piece of work or second.
    pub a: f64,
    /// In B.
    pub b: f64,
    /// By how much chance may move it.
    pub noise: f64,
}

impl Moved {
    /// B less A.
    pub fn delta(&self) -> f64 {
        self.b - self.a
    }
}

type Key<'p> = (&'p str, &'p str);

/// Functions that moved, largest movement first.
pub fn moved(a: &Side<'_>, b: &Side<'_>, (per_a, per_b): (f64, f64)) -> Vec<Moved> {
    let (counts_a, counts_b) = (own(a), own(b));
    let weight = |side: &Side<'_>, per: f64| side.cpu_s() / (side.samples().max(1) as f64) / per.max(1e-12);
    let (weight_a, weight_b) = (weight(a, per_a), weight(b, per_b));
    let mut keys: Vec<Key<'_>> = counts_a.keys().chain(counts_b.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut moved: Vec<Moved> = keys
        .into_iter()
        .map(|key| {
            let count = |counts: &FxHashMap<Key<'_>, u64>| counts.get(&key).copied().unwrap_or(0) as f64;
            let (n_a, n_b) = (count(&counts_a), count(&counts_b));
            // Counts are Poisson; one that was not seen may have been missed by chance.
            let variance = n_a.max(1.0) * weight_a.powi(2) + n_b.max(1.0) * weight_b.powi(2);
            Moved {
                function: key.0.to_owned(),
                module: key.1.to_owned(),
                a: n_a * weight_a,
                b: n_b * weight_b,
                noise: WIDTH * variance.sqrt(),
            }
        })
        .filter(|moved| moved.delta().abs() > moved.noise)
        .collect();
    moved.sort_by(|x, y| y.delta().abs().total_cmp(&x.delta().abs()).then_with(|| x.function.cmp(&y.function)));
    moved
}

fn own<'p>(side: &Side<'p>) -> FxHashMap<Key<'p>, u64> {
    let stacks = &side.profile.stacks;
    let mut counts: FxHashMap<Key<'p>, u64> = FxHashMap::default();
    for sample in side.profile.on_cpu.iter().filter(|sample| side.selected.contains(sample.container)) {
        // A program's own numbers differ from load to load.
        let leaf = stacks
            .frames_of(sample.stack)
            .rfind(|frame| frame.kind != FrameKind::Note && !stacks.text_of(frame.function).starts_with("bpf_prog_"));
        let Some(leaf) = leaf else { continue };
        let count = counts.entry((stacks.text_of(leaf.function), stacks.text_of(leaf.module))).or_default();
        *count = count.saturating_add(sample.count);
    }
    counts
}
