//! Is one figure close enough to another.

use anyhow::{Result, ensure};

/// What the begin and the end of a window may blur, in seconds: a few switches of a few threads.
pub const EDGE_S: f64 = 0.002;

/// Fails unless `actual_s` is within `share` of `expected_s` (or within [`EDGE_S`]).
pub fn within(what: &str, actual_s: f64, expected_s: f64, share: f64) -> Result<()> {
    let allowed_s = (expected_s.abs() * share).max(EDGE_S);
    let off_s = (actual_s - expected_s).abs();
    let off_share = off_s / expected_s.abs().max(f64::MIN_POSITIVE);
    ensure!(
        off_s <= allowed_s,
        "{what}: {actual_s:.6} s where {expected_s:.6} s is true: off by {:.2} %, {:.2} % allowed",
        off_share * 100.0,
        share * 100.0
    );
    Ok(())
}

/// Fails unless `low <= actual <= high`.
pub fn between(what: &str, actual: f64, low: f64, high: f64) -> Result<()> {
    ensure!(low <= actual && actual <= high, "{what}: {actual} is not between {low} and {high}");
    Ok(())
}

/// Fails unless `actual` is at most `allowed` away from `expected`.
pub fn at_most_off(what: &str, actual: f64, expected: f64, allowed: f64) -> Result<()> {
    between(what, actual, expected - allowed, expected + allowed)
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Runs a measurement, and again if it fails, three times at most.
///
/// A figure that is right lies outside of three standard errors now and then (once in 370 times, and there are dozens of
/// them), and the machine is not ours alone. One that is wrong is wrong each time.
pub fn measured(measure: impl Fn() -> Result<()>) -> Result<()> {
    for attempt in 1..=2 {
        match measure() {
            Ok(()) => return Ok(()),
            Err(error) => println!("measured again, since attempt {attempt} failed: {error:#}"),
        }
    }
    measure()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_what_is_true() {
        assert!(within("x", 1.009, 1.0, 0.01).is_ok());
        assert!(within("x", 1.011, 1.0, 0.01).is_err());
        assert!(within("x", 0.001, 0.0, 0.01).is_ok(), "the edges of a window blur");
    }
}
