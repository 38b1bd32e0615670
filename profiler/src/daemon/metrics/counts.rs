//! Histograms that are kept and added to for months. In: histograms of windows. Out: their sum.

use crate::profile::Histogram;

/// Bits of a count, below those of its bucket: enough for two million calls a second over a thousand years.
const COUNT_BITS: u32 = 56;

const MOST: u64 = (1 << COUNT_BITS) - 1;

/// The buckets of a histogram that are not empty, each in one word.
///
/// A node has thousands of these, one for each kind of call of each container. Now and then a call takes a hundred times as long as the
/// others, so that after an hour most buckets lie in between and are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the order of the buckets.
    filled: Vec<u64>,
}

impl Counts {
    /// Adds the counts of a histogram.
    pub fn add(&mut self, histogram: &Histogram) {
        for (bucket, count) in histogram.buckets() {
            let bucket = bucket as u64;
            match self.filled.binary_search_by_key(&bucket, |word| word >> COUNT_BITS) {
                Ok(at) => {
                    let sum = (self.filled[at] & MOST).saturating_add(count).min(MOST);
                    self.filled[at] = bucket << COUNT_BITS | sum;
                }
                Err(at) => {
                    self.filled.reserve_exact(1);
                    self.filled.insert(at, bucket << COUNT_BITS | count.min(MOST));
                }
            }
        }
    }

    /// The sum of what was added.
    pub fn histogram(&self) -> Histogram {
        let bucket = |word: &u64| word >> COUNT_BITS;
        let (Some(first), Some(last)) = (self.filled.first().map(bucket), self.filled.last().map(bucket)) else {
            return Histogram::default();
        };
        let mut counts = vec![0; (last - first + 1) as usize];
        for word in &self.filled {
            counts[(bucket(word) - first) as usize] = word & MOST;
        }
        Histogram::from_first(first as u32, counts)
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::histogram::BUCKETS;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_sum_of_what_was_added(
            rows in prop::collection::vec(prop::collection::vec((0_usize..BUCKETS, 0_u64..9), 0..6), 0..6)
        ) {
            let (mut counts, mut sum) = (Counts::default(), Histogram::default());
            for row in rows {
                let mut whole = [0; BUCKETS];
                for (bucket, count) in row {
                    whole[bucket] += count;
                }
                let histogram = Histogram::from_counts(whole);
                counts.add(&histogram);
                sum.merge(&histogram);
            }
            prop_assert_eq!(counts.filled.len(), sum.buckets().count());
            prop_assert_eq!(counts.histogram(), sum);
        }
    }

    #[test]
    fn a_full_count_stays_in_its_bucket() {
        let mut counts = Counts::default();
        counts.add(&Histogram::from_first(7, vec![u64::MAX, 3]));
        counts.add(&Histogram::from_first(7, vec![5, 0]));
        assert_eq!(counts.histogram().parts(), (7, &[MOST, 3][..]));
    }
}
