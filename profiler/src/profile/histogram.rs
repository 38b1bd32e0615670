//! Latency histograms in the buckets that the kernel programs fill.
//!
//! The buckets are Prometheus' native ones at schema 2: upper bounds at 2^(n/4) seconds. The layout is the contract's
//! ([`profiler_ebpf::histogram`]).

use profiler_ebpf::histogram::{BUCKETS, FIRST_OCTAVE};
use serde::{Deserialize, Serialize};

/// A latency histogram: counts by bucket, from the first that is not empty to the last. Bucket `i` counts durations in
/// (2^(i/4 - 30), 2^((i+1)/4 - 30)] seconds.
///
/// Calls of one kind take similarly long: most often they lie within a few buckets out of a hundred and sixty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Histogram {
    first: u32,
    from_first: Vec<u64>,
}

/// As recordings have it. The first version of the format had all buckets, as `counts`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    first: u32,
    from_first: Vec<u64>,
    counts: Vec<u64>,
}

impl TryFrom<Stored> for Histogram {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        match stored {
            Stored { first, from_first, counts } if counts.is_empty() => Ok(Self::from_first(first, from_first)),
            Stored { first: 0, from_first, counts } if from_first.is_empty() => Ok(Self::from_first(0, counts)),
            Stored { first, counts, .. } => {
                Err(format!("a histogram begins at bucket {first} of {BUCKETS}, after {} others", counts.len()))
            }
        }
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
        Self::from_first(0, counts.into_iter().take(BUCKETS).collect())
    }

    /// From the counts of bucket `first` and those behind it.
    pub fn from_first(mut first: u32, mut counts: Vec<u64>) -> Self {
        while counts.last() == Some(&0) {
            counts.pop();
        }
        let empty = counts.iter().take_while(|count| **count == 0).count();
        counts.drain(..empty);
        first = if counts.is_empty() { 0 } else { first.saturating_add(empty as u32) };
        Self { first, from_first: counts }
    }

    /// The first bucket that is not empty, and the counts from there on to the last one that is not.
    pub fn parts(&self) -> (u32, &[u64]) {
        (self.first, &self.from_first)
    }

    /// Buckets that are not empty, with their counts, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> {
        (self.first as usize..).zip(self.from_first.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// Number of the bucket behind the last that is not empty.
    pub fn end(&self) -> usize {
        self.first as usize + self.from_first.len()
    }

    /// Counts one duration.
    pub fn record(&mut self, ns: u64) {
        self.merge(&Self { first: profiler_ebpf::histogram::bucket_of(ns), from_first: vec![1] });
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.from_first.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.from_first.is_empty() {
            return;
        }
        if self.from_first.is_empty() {
            self.clone_from(other);
            return;
        }
        if let Some(before @ 1..) = self.first.checked_sub(other.first) {
            self.from_first.splice(..0, std::iter::repeat_n(0, before as usize));
            self.first = other.first;
        }
        let at = (other.first - self.first) as usize;
        self.from_first.resize(self.from_first.len().max(at + other.from_first.len()), 0);
        for (mine, theirs) in self.from_first.iter_mut().skip(at).zip(&other.from_first) {
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
        for (index, n) in self.buckets() {
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

    proptest! {
        #[test]
        fn it_counts_and_merges_as_a_whole_row_of_buckets_would(
            mine in prop::collection::vec((0_usize..BUCKETS, 0_u64..5), 0..9),
            theirs in prop::collection::vec((0_usize..BUCKETS, 0_u64..5), 0..9),
        ) {
            let row = |counts: &[(usize, u64)]| {
                let mut row = vec![0; BUCKETS];
                for (at, count) in counts {
                    row[*at] += count;
                }
                row
            };
            let (mine, theirs) = (row(&mine), row(&theirs));
            let both: Vec<u64> = mine.iter().zip(&theirs).map(|(a, b)| a + b).collect();
            let mut histogram = Histogram::from_counts(mine.clone());
            histogram.merge(&Histogram::from_counts(theirs));
            prop_assert_eq!(&histogram, &Histogram::from_counts(both.clone()));
            prop_assert_eq!(histogram.count(), both.iter().sum::<u64>());
            let found: Vec<(usize, u64)> = both.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
            prop_assert_eq!(histogram.buckets().collect::<Vec<_>>(), found.clone());
            prop_assert_eq!(histogram.end(), found.last().map_or(0, |(at, _)| at + 1));
        }
    }

    #[test]
    fn it_is_stored_from_its_first_count_on() -> Result<(), serde_json::Error> {
        let stored = |counts: &[u64]| serde_json::to_string(&Histogram::from_counts(counts.iter().copied()));
        assert_eq!(stored(&[0, 0, 0, 5, 0, 7, 0])?, r#"{"first":3,"from_first":[5,0,7]}"#);
        assert_eq!(stored(&[0; 5])?, r#"{"first":0,"from_first":[]}"#);
        for counts in [vec![], vec![1], vec![0, 0, 3], vec![0; 5]] {
            let histogram = Histogram::from_counts(counts);
            assert_eq!(serde_json::from_str::<Histogram>(&serde_json::to_string(&histogram)?)?, histogram);
        }
        assert_eq!(serde_json::from_str::<Histogram>(r#"{"counts":[0,2]}"#)?.parts(), (1, &[2][..]));
        let both = r#"{"first":1,"from_first":[1],"counts":[2]}"#;
        assert!(serde_json::from_str::<Histogram>(both).is_err(), "{both}");
        let far = serde_json::from_str::<Histogram>(r#"{"first":4294967295,"from_first":[1]}"#)?;
        assert!(far.end() > BUCKETS, "that is found when the profile is checked");
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
