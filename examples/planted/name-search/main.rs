//! Suggests names for what somebody typed, by edit distance to every name there is. Fixed: names of a very different
//! length, or that share no beginning, are left out first.

#[path = "../support/meter.rs"]
mod meter;

use std::time::Instant;

use meter::Meter;

#[inline(never)]
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[inline(never)]
fn suggest<'a>(names: &'a [String], typed: &str, prefilter: bool) -> Option<&'a String> {
    names
        .iter()
        .filter(|name| {
            !prefilter || (name.len().abs_diff(typed.len()) < 2 && name.as_bytes()[..2] == typed.as_bytes()[..2])
        })
        .min_by_key(|name| distance(name.as_bytes(), typed.as_bytes()))
}

fn main() {
    let parts =
        ["an", "bor", "chri", "den", "el", "fre", "gun", "hil", "in", "jo", "ka", "lu", "mar", "na", "ot", "pe"];
    let names: Vec<String> = (0..1500_usize)
        .map(|n| format!("{}{}{}{}", parts[n % 16], parts[n / 16 % 16], parts[n / 256 % 16], parts[n * 7 % 16]))
        .collect();
    let mut meter = Meter::new();
    meter.ready();
    let mut due = Instant::now();
    let mut number = 0;
    while meter.goes_on() {
        let since = Meter::next_request(&mut due, 1500.0);
        let typed = &names[number * 31 % names.len()];
        std::hint::black_box(suggest(&names, typed, meter.fixed));
        number += 1;
        meter.did(1, since);
    }
    meter.report("searches");
}
