//! A yardstick for what sleeps most of the time: how long a line of memory takes to reach that was last touched some wake-ups ago.
//! Out: nanoseconds. What a daemon costs is mostly such lines, and they take three times as long on one machine, or in one hour, as in
//! another.

use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks: as long as a daemon sleeps.
const PAUSE: Duration = Duration::from_millis(160);

/// Looks, of which the median counts.
const LOOKS: usize = 11;

/// Lines touched in a look: a megabyte, which fits every cache but the first.
const LINES: usize = 1 << 14;

/// A cache line that says where to go on.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(usize);

/// Nanoseconds a line, each to be found only through the one before.
pub fn ns_a_line() -> f64 {
    let lines = circle(LINES);
    let (mut times, mut at) = (Vec::new(), 0);
    for _ in 0..LOOKS {
        sleep(PAUSE);
        let began = Instant::now();
        for _ in 0..lines.len() {
            at = lines[at].0;
        }
        black_box(at);
        times.push(began.elapsed().as_nanos() as f64 / lines.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    times[LOOKS / 2]
}

/// Lines in one circle of no pattern that a prefetcher knows (Sattolo, "An algorithm to generate a random cyclic permutation", 1986).
fn circle(count: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = (0..count).map(Line).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..count).rev() {
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        lines.swap(last, random as usize % last);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_reached_before_the_first_one_again() {
        for count in [1, 2, 3, 1000] {
            let lines = circle(count);
            let (mut at, mut steps) = (lines[0].0, 1);
            while at != 0 {
                (at, steps) = (lines[at].0, steps + 1);
            }
            assert_eq!(steps, count);
        }
    }
}
