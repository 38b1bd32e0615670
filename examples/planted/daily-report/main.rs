//! Builds reports over a day's sales; each starts from a fresh table of forty megabytes. Fixed: the table is kept.

#[path = "../support/meter.rs"]
mod meter;

use std::time::Instant;

use meter::Meter;

const SLOTS: usize = 5 << 20;

#[inline(never)]
fn fresh_table() -> Vec<u64> {
    vec![0; SLOTS]
}

#[inline(never)]
fn tally(table: &mut [u64], seed: u64) -> u64 {
    let mut state = seed | 1;
    for slot in (0..SLOTS).step_by(512) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        table[slot] = table[slot].wrapping_add(state >> 40);
    }
    table[0] ^ table[SLOTS - 512]
}

#[inline(never)]
fn build_report(seed: u64, kept: Option<&mut Vec<u64>>) -> u64 {
    match kept {
        Some(table) => tally(table, seed),
        None => tally(&mut fresh_table(), seed),
    }
}

fn main() {
    let mut meter = Meter::new();
    let mut table = meter.fixed.then(fresh_table);
    meter.ready();
    let mut due = Instant::now();
    let mut seed = 0;
    while meter.goes_on() {
        let since = Meter::next_request(&mut due, 80.0);
        std::hint::black_box(build_report(seed, table.as_mut()));
        seed += 1;
        meter.did(1, since);
    }
    meter.report("reports");
}
