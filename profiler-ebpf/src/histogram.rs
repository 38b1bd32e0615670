//! Latency buckets that Prometheus takes exactly: native histograms at schema 2, four buckets an octave, upper bounds
//! at 2^(n/4) seconds, inclusive.
//!
//! Format: <https://prometheus.io/docs/specs/native_histograms/> (standard exponential schemas).

/// Exponent of the lower bound of bucket 0: 2^-30 s, about 0.93 ns.
pub const FIRST_OCTAVE: i32 = -30;

/// Octaves covered: 2^-30 s to 2^10 s (17 minutes); longer durations fall into the last bucket.
pub const OCTAVES: u32 = 40;

/// Number of buckets.
pub const BUCKETS: usize = OCTAVES as usize * 4;

/// 2^30 / 10^9 as a 30-bit fixed-point number: nanoseconds to units of 2^-30 s.
const UNITS_PER_NS: u64 = 1_152_921_505;

/// 2^(1/4), 2^(2/4) and 2^(3/4) as 32-bit fixed-point mantissas (2^31 stands for 1).
const QUARTERS: [u64; 3] = [2_553_802_834, 3_037_000_500, 3_611_622_603];

/// Bucket of a duration in nanoseconds: an index below [`BUCKETS`].
///
/// Bucket `i` holds durations in (2^(i/4 - 30), 2^((i+1)/4 - 30)] seconds; 0 and 1 ns fall into bucket 0.
#[inline(always)]
pub fn bucket_of(ns: u64) -> u32 {
    // 2^33 ns (8.6 s) times UNITS_PER_NS still fits 64 bits; beyond it eight fraction bits are given up first.
    let units = if ns >> 33 == 0 {
        (ns * UNITS_PER_NS) >> 30
    } else {
        let capped = if ns >> 41 == 0 { ns } else { (1 << 41) - 1 };
        ((capped >> 8) * UNITS_PER_NS) >> 22
    };
    // Upper bounds are inclusive, so the exact bound belongs to the bucket below it.
    let t = if units <= 1 { 1 } else { units - 1 };
    let octave = floor_log2(t);
    if octave >= OCTAVES {
        return BUCKETS as u32 - 1;
    }
    let mantissa = if octave <= 31 { t << (31 - octave) } else { t >> (octave - 31) };
    let quarter =
        exceeds(mantissa, QUARTERS[0] - 1) + exceeds(mantissa, QUARTERS[1] - 1) + exceeds(mantissa, QUARTERS[2] - 1);
    octave * 4 + quarter as u32
}

/// Floor of the binary logarithm of a value that is not 0 and below 2^63, without the CLZ instruction that BPF lacks.
///
/// Without branches, too: durations vary, so each would be mispredicted often, and that is dearer than the arithmetic.
#[inline(always)]
fn floor_log2(value: u64) -> u32 {
    let mut v = value;
    let mut log = 0;
    let mut step = 6;
    while step > 0 {
        step -= 1;
        let shift = exceeds(v, (1 << (1 << step)) - 1) << step;
        v >>= shift;
        log += shift;
    }
    log as u32
}

/// 1 if `value` is above `limit`, else 0, for values below 2^63: the sign of the difference.
#[inline(always)]
fn exceeds(value: u64, limit: u64) -> u64 {
    limit.wrapping_sub(value) >> 63
}
