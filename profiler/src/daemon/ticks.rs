//! When windows end: at whole multiples of their length on the clock on the wall, by the monotonic clock. In: both clocks.
//! Out: how long the next window lasts.

use std::time::Duration;

/// How long a window that begins at this time of the wall clock lasts: to the next multiple of `length`, or, where that
/// would make it shorter than half, to the one after it. However the clock jumps, a window is between half and one and a
/// half times as long as it should be.
pub fn until_end(now_unix_ns: u64, length: Duration) -> Duration {
    let length_ns = (length.as_nanos() as u64).max(1);
    let left_ns = length_ns - now_unix_ns % length_ns;
    Duration::from_nanos(if left_ns * 2 < length_ns { left_ns + length_ns } else { left_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_at_whole_multiples_and_are_never_very_short_or_long() {
        let ten = Duration::from_secs(10);
        let second = 1_000_000_000;
        assert_eq!(until_end(100 * second, ten), ten);
        assert_eq!(until_end(103 * second, ten), Duration::from_secs(7));
        assert_eq!(until_end(107 * second, ten), Duration::from_secs(13));
        for now in (0..50 * second).step_by(333_333_333) {
            let length = until_end(now, ten);
            assert!(length >= ten / 2 && length <= ten * 3 / 2);
            assert_eq!((now + length.as_nanos() as u64) % (10 * second), 0);
        }
    }
}
