//! Who has which part of the segments. In: a number of words. Out: a place, and back.

use std::collections::BTreeMap;

use profiler_ebpf::unwind::storage::PLACE_BITS;

/// 32-bit words of a segment.
pub const SEGMENT_WORDS: u32 = 1 << PLACE_BITS;

/// A stretch of words inside one segment, from an even place on and an even number long: its own 64-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first word.
    pub place: u32,
    /// How many.
    pub words: u32,
}

/// What is free.
#[derive(Debug, Default)]
pub struct Places {
    /// Words from each place on that are free; neighbours inside a segment are one.
    free: BTreeMap<u32, u32>,
    free_words: u64,
}

impl Places {
    /// A segment has come.
    pub fn add_segment(&mut self, number: u32) {
        self.give_back(Extent { place: number << PLACE_BITS, words: SEGMENT_WORDS });
    }

    /// Words that are free, in pieces of any size.
    pub fn free_words(&self) -> u64 {
        self.free_words
    }

    /// Takes `words`, rounded up to be even, where they fit most closely.
    pub fn take(&mut self, words: u32) -> Option<Extent> {
        let words = words.max(2).checked_next_multiple_of(2)?;
        let (place, found) = self
            .free
            .iter()
            .filter(|(_, free)| **free >= words)
            .min_by_key(|(_, free)| **free)
            .map(|(place, free)| (*place, *free))?;
        self.free.remove(&place);
        if found > words {
            self.free.insert(place + words, found - words);
        }
        self.free_words -= u64::from(words);
        Some(Extent { place, words })
    }

    /// Takes as much as there is in one piece, between `least` and `most` words.
    pub fn take_between(&mut self, least: u32, most: u32) -> Option<Extent> {
        let largest = self.free.values().copied().max().unwrap_or(0);
        let most = most.checked_next_multiple_of(2)?.min(largest);
        (most >= least).then(|| self.take(most)).flatten()
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, extent: Extent) {
        let Extent { mut place, mut words } = extent;
        self.free_words += u64::from(words);
        let segment = |place: u32| place >> PLACE_BITS;
        if let Some((&before, &length)) = self.free.range(..place).next_back()
            && before + length == place
            && segment(before) == segment(place)
        {
            self.free.remove(&before);
            (place, words) = (before, length + words);
        }
        if let Some(&length) = self.free.get(&(place + words))
            && segment(place + words) == segment(place)
        {
            self.free.remove(&(place + words));
            words += length;
        }
        self.free.insert(place, words);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
           #[test]
           fn nothing_is_given_twice_and_all_comes_back(wishes in prop::collection::vec((1_u32..70_000, any::<bool>()), 0..60)) {
               let mut places = Places::default();
               for number in 0..3 {
                   places.add_segment(number);
               }
               let mut taken: Vec<Extent> = Vec::new();
               for (words, give) in wishes {
                   if give && !taken.is_empty() {
                       let at = words as usize % taken.len();
                       places.give_back(taken.swap_remove(at));
                   } else if let Some(extent) = places.take(words) {
                       prop_assert!(extent.words >= words && extent.place % 2 == 0);
                       prop_assert_eq!(extent.place >> PLACE_BITS, (extent.place + extent.words - 1) >> PLACE_BITS);
                       let apart = |other: &Extent| {
                           other.place + other.words <= extent.place || extent.place + extent.words <= other.place
                       };
                       prop_assert!(taken.iter().all(apart));
                       taken.push(extent);
                   }
               }
               let held: u64 = taken.iter().map(|extent| u64::from(extent.words)).sum();
               prop_assert_eq!(places.free_words() + held, 3 * u64::from(SEGMENT_WORDS));
               for extent in taken {
    places.give_back(extent);
    }
               for _ in 0..3 {
                   prop_assert_eq!(places.take(SEGMENT_WORDS).map(|extent| extent.words), Some(SEGMENT_WORDS));
               }
           }
       }

    #[test]
    fn a_large_wish_is_met_in_part() {
        let mut places = Places::default();
        assert_eq!(places.take(2), None);
        places.add_segment(4);
        assert!(places.take(100).is_some());
        let extent = places.take_between(1000, 10 * SEGMENT_WORDS);
        assert_eq!(extent, Some(Extent { place: (4 << PLACE_BITS) + 100, words: SEGMENT_WORDS - 100 }));
        assert_eq!(places.take_between(2, 10), None);
    }
}
