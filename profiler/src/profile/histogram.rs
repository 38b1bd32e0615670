//! Latency histograms in the buckets that the kernel programs fill.
//!
//! The buckets are Prometheus' native ones at schema 2: upper bounds at 2^(n/4) seconds. The layout is the contract's
//! ([`profiler_ebpf::histogram`]).

use profiler_ebpf::histogram::{BUCKETS, FIRST_OCTAVE};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

/// A latency histogram: counts by bucket, without trailing empty buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Histogram {
    /// Bucket `i` counts durations in (2^(i/4 - 30), 2^((i+1)/4 - 30)] seconds.
    pub counts: Vec<u64>,
}

/// As recordings have it: from the first count that is not 0, which most often comes after a hundred that are. The first version of
/// the format had them all, as `counts`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    first: usize,
    from_first: Vec<u64>,
    counts: Vec<u64>,
}

impl TryFrom<Stored> for Histogram {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let Stored { first, from_first, mut counts } = stored;
        if from_first.is_empty() {
            return Ok(Self { counts });
        }
        if first >= BUCKETS || !counts.is_empty() {
            return Err(format!("a histogram begins at bucket {first} of {BUCKETS}, after {} others", counts.len()));
        }
        counts.reserve_exact(first + from_first.len());
        counts.resize(first, 0);
        counts.extend(from_first);
        Ok(Self { counts })
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let first = self.counts.iter().position(|count| *count > 0).unwrap_or(0);
        let mut stored = serializer.serialize_struct("Histogram", 2)?;
        stored.serialize_field("first", &first)?;
        stored.serialize_field("from_first", &self.counts[first..])?;
        stored.end()
    }
}

/// Inclusive upper bound of bucket `index`, in nanoseconds.
pub fn bucket_upper_ns(index: usize) -> f64 {
    ((index + 1) as f64 / 4.0 + f64::from(FIRST_OCTAVE)).exp2() * 1e9
}

/// Geometric middle of bucket `index`, in nanoseconds: at most 9.1 % from anything in the bucket.
pub fn bucket_middle_ns(index: usize) -> f64 {
    ((index as f64 + 0.5) / 4.0 + f64::from(FIRST_OCTAVE)).exp2() * 1e9
}

impl Histogram {
    /// From raw bucket counts as the kernel programs keep them.
    pub fn from_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut counts: Vec<u64> = counts.into_iter().take(BUCKETS).collect();
        while counts.last() == Some(&0) {
            counts.pop();
        }
        Self { counts }
    }

    /// Counts one duration.
    pub fn record(&mut self, ns: u64) {
        let index = profiler_ebpf::histogram::bucket_of(ns) as usize;
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// The `q` quantile (0 to 1) in nanoseconds: the geometric middle of the bucket that holds it. `None` when empty.
    pub fn quantile_ns(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen: u64 = 0;
        for (index, n) in self.counts.iter().enumerate() {
            seen = n.saturating_add(seen);
            if seen >= rank {
                return Some(bucket_middle_ns(index));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::histogram::{BUCKETS, bucket_of};
    use proptest::prelude::*;

    use super::Histogram;

    /// By floating point: the first upper bound of 2^((i + 1) / 4 - 30) s that a duration does not exceed.
    fn bucket_by_logarithm(ns: f64) -> f64 {
        ((ns / 1e9).log2() + 30.0) * 4.0
    }

    proptest! {
        #[test]
        fn buckets_are_quarters_of_octaves_of_a_second(ns in prop_oneof![2_u64..10_000, 2_u64..1 << 36, 2_u64..u64::MAX]) {
            let index = bucket_of(ns);
            let bucket = f64::from(index);
            let exact = bucket_by_logarithm(ns as f64);
            if exact >= BUCKETS as f64 {
                prop_assert_eq!(index as usize, BUCKETS - 1);
            } else {
                // The duration in units of 0.93 ns is rounded down and one is taken off it, for the inclusive bound: up to
                // two units short. Beyond 8.6 s a unit is 256 times that, which is still 6 parts in 100 million.
                let unit = if ns >> 33 == 0 { 0.932 } else { 256.0 * 0.932 };
                let least = bucket_by_logarithm(ns as f64 - 2.0 * unit).max(0.0);
                prop_assert!(bucket <= exact + 1e-6 && least <= bucket + 1.0 + 1e-6, "{ns}: {bucket}, {exact}");
            }
        }
    }

    #[test]
    fn it_is_stored_from_its_first_count_on() -> Result<(), serde_json::Error> {
        let stored = |counts: &[u64]| serde_json::to_string(&Histogram { counts: counts.to_vec() });
        assert_eq!(stored(&[0, 0, 0, 5, 0, 7])?, r#"{"first":3,"from_first":[5,0,7]}"#);
        assert_eq!(stored(&[])?, r#"{"first":0,"from_first":[]}"#);
        for counts in [vec![], vec![1], vec![0, 0, 3], vec![0; 5]] {
            let histogram = Histogram { counts };
            assert_eq!(serde_json::from_str::<Histogram>(&serde_json::to_string(&histogram)?)?, histogram);
        }
        assert_eq!(serde_json::from_str::<Histogram>(r#"{"counts":[0,2]}"#)?.counts, [0, 2]);
        for wrong in [r#"{"first":160,"from_first":[1]}"#, r#"{"first":1,"from_first":[1],"counts":[2]}"#] {
            assert!(serde_json::from_str::<Histogram>(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn powers_of_two_of_a_second_belong_to_the_bucket_below_them() {
        for (ns, upper) in [(1_000_000_000_u64, 120), (500_000_000, 116), (250_000_000, 112), (2_000_000_000, 124)] {
            assert_eq!(bucket_of(ns), upper - 1);
            assert_eq!(bucket_of(ns + ns / 1000), upper);
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS as u32 - 1);
    }
}
