//! How much other people's files may make the profiler read. In: time that passes, and bytes that were read. Out: bytes that
//! may be read.

use std::time::Instant;

/// Bytes of files that may be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// At once.
    pub most: u64,
    /// And more with each second.
    pub each_second: u64,
}

/// What is left of an allowance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub bytes: u64,
    since: Instant,
}

impl Left {
    /// All of it.
    pub(super) fn new(allowance: Allowance, now: Instant) -> Self {
        Self { bytes: allowance.most, since: now }
    }

    /// What there is now.
    pub(super) fn at(&mut self, allowance: Allowance, now: Instant) -> u64 {
        let passed_ms = now.saturating_duration_since(self.since).as_millis().min(1 << 32) as u64;
        if passed_ms > 0 {
            self.bytes = (self.bytes + allowance.each_second * passed_ms / 1000).min(allowance.most);
            self.since = now;
        }
        self.bytes
    }

    /// Some were read.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_allowance_grows_with_time_up_to_its_most() {
        let allowance = Allowance { most: 1000, each_second: 100 };
        let now = Instant::now();
        let mut left = Left::new(allowance, now);
        left.spend(900);
        assert_eq!(left.at(allowance, now + Duration::from_secs(2)), 300);
        assert_eq!(left.at(allowance, now + Duration::from_hours(1)), 1000);
    }
}
