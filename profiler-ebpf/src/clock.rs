//! What one clock is ahead of another, from comparisons of which each may come late.

/// By how much the one may gain on the other, as a shift: a thousandth. CLOCK_MONOTONIC is slewed by half of that at most
/// (`MAXFREQ` of adjtimex(2)).
const MOST_GAINED_SHIFT: u32 = 10;

/// A difference that no slewing makes, in nanoseconds: the clocks are set against one another anew.
const APART_NS: i64 = 100_000_000;

/// What the one clock is ahead of the other (modulo 2^64), where it was `known_ns` and a comparison `elapsed_ns` later finds
/// `found_ns`. All in nanoseconds.
///
/// The clock that is ahead is read after the other, so what is found is never too little: a lower difference is nearer the truth and
/// taken at once, a higher one only as far as the clocks can have come apart.
#[inline(always)]
pub const fn ahead(known_ns: u64, found_ns: u64, elapsed_ns: u64) -> u64 {
    let gained_ns = found_ns.wrapping_sub(known_ns).cast_signed();
    let most_ns = elapsed_ns >> MOST_GAINED_SHIFT;
    if gained_ns > most_ns.cast_signed() && gained_ns < APART_NS { known_ns.wrapping_add(most_ns) } else { found_ns }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::{prop, prop_assert, proptest};

    use super::*;

    #[test]
    fn clocks_that_were_set_apart_are_compared_anew() {
        assert_eq!(ahead(5_000, 5_000 + 200_000_000, 1_000_000), 200_005_000);
        assert_eq!(ahead(0, u64::MAX - 70, 1_000_000), u64::MAX - 70);
    }

    proptest! {
        /// Comparisons a millisecond or more apart, late by up to 20 ms, of clocks of which one is slewed by up to 500 ppm.
        #[test]
        fn what_is_known_is_never_too_little_and_hardly_ever_too_much(
            first in 0_u64..u64::MAX,
            steps in prop::collection::vec((1_000_000_u64..50_000_000, -500_i64..=500, 0_u64..20_000_000), 1..200),
        ) {
            let mut truth = first;
            let mut known = first;
            for (elapsed, slewed_ppm, late) in steps {
                let before = known.wrapping_sub(truth);
                let slewed = elapsed.cast_signed() / 1000 * slewed_ppm / 1000;
                truth = truth.wrapping_add_signed(slewed);
                known = ahead(known, truth.wrapping_add(late), elapsed);
                let over = known.wrapping_sub(truth).cast_signed();
                prop_assert!(over >= 0, "{over} ns too little");
                prop_assert!(over.cast_unsigned() <= late, "{over} ns too much, of a comparison {late} ns late");
                prop_assert!(over.cast_unsigned() <= before + elapsed / 500, "{over} ns too much after {before} ns");
            }
        }
    }
}
