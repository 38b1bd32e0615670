//! How long to wait before a request is made again. In: how often it failed, and what the other side asked for. Out: a pause.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Pause after the first failure, doubled each time up to the longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// What a server may ask for.
const MOST_ASKED_FOR: Duration = Duration::from_mins(5);

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It went well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: the pause before the next attempt. A fleet that was cut off together does not come back together: each waits for
    /// a random share, half at least, of the pause.
    pub fn after_failure(&mut self, asked_for: Option<Duration>) -> Duration {
        let doubled = SHORTEST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.mul_f64(0.5 + 0.5 * share());
        asked_for.map_or(pause, |asked_for| asked_for.min(MOST_ASKED_FOR).max(pause))
    }
}

/// A random number from 0 to 1. The standard library seeds its hashes from the system.
fn share() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

/// 16 random bytes, for names that nobody else gives.
pub fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    for half in id.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_ne_bytes());
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_are_never_the_same_for_all() {
        let mut backoff = Backoff::default();
        let mut most = SHORTEST;
        for _ in 0..40 {
            let pause = backoff.after_failure(None);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
            most = (most * 2).min(LONGEST);
        }
        let pauses: std::collections::HashSet<_> = (0..50).map(|_| backoff.after_failure(None)).collect();
        assert!(pauses.len() > 40);
        backoff.reset();
        assert!(backoff.after_failure(None) <= SHORTEST);
    }

    #[test]
    fn what_the_server_asks_for_is_done_within_reason() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_failure(Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(backoff.after_failure(Some(Duration::from_hours(9000))), MOST_ASKED_FOR);
        assert!(backoff.after_failure(Some(Duration::ZERO)) >= SHORTEST);
    }

    #[test]
    fn ids_differ() {
        assert_ne!(random_id(), random_id());
    }
}
