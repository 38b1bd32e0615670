//! Windows kept in memory: compressed profiles in, those of a range out.
//!
//! Two bounds hold at any time: age and bytes. Windows are whole for the first sixth of the retention; older ones are merged
//! by the minute. What would take more than a twelfth of the bytes that it may is merged earlier and further, by the minute
//! from a twentieth of the retention on, by five minutes from a tenth on, and loses what next to no time was spent in
//! ([`Profile::coarsen`]). Were bytes short all the same, the oldest would be merged by ten minutes and, if that does not
//! help, dropped.
//! Whoever feeds the history does what [`History::next_step`] says until there is nothing left to do; merging happens there,
//! so that readers never wait for it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    settings::HistorySettings,
    summary::{self, Summary},
};
use crate::profile::{Profile, Window, recording};

/// Which windows are merged into one once they are older than full resolution is kept for, in nanoseconds.
const MINUTE_NS: u64 = 60_000_000_000;

/// The same where bytes are many.
const FIVE_MINUTES_NS: u64 = 5 * MINUTE_NS;

/// The same where bytes are short.
const TEN_MINUTES_NS: u64 = 10 * MINUTE_NS;

/// What an entry takes besides its data and its summary.
const ENTRY_BYTES: u64 = 256;

/// Up to this part of its bytes the history keeps what it can; beyond, it gives detail for bytes.
const MODEST_PART: u64 = 12;

/// One window, or several merged.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Number of its kind; never used again.
    pub id: u64,
    /// The stretch of time.
    pub window: Window,
    /// When it ended, by a clock that does not jump.
    pub ended: Instant,
    /// The profile as a recording.
    pub data: Arc<[u8]>,
    /// What can be said without reading that, as [`summary::write()`] made it.
    summary: Arc<[u8]>,
}

/// What there is to do.
#[derive(Debug)]
pub enum Step {
    /// Merge these, which follow one another, and give them to [`History::replace`].
    Merge {
        /// Oldest first.
        run: Vec<Entry>,
        /// Whether there are bytes enough for all that they say.
        whole: bool,
    },
    /// Nothing.
    Done,
}

/// The history.
#[derive(Debug)]
pub struct History {
    settings: HistorySettings,
    /// Oldest first.
    entries: VecDeque<Entry>,
    next_id: u64,
    bytes: u64,
    /// Entries that came of merging.
    pub coarsened: u64,
    /// Entries dropped before their time, because bytes were short.
    pub dropped: u64,
    /// Ids of the entries that left since the last [`Self::take_gone`].
    gone: Vec<u64>,
}

impl Entry {
    /// Compresses a profile.
    pub fn of(profile: &Profile, ended: Instant) -> Result<Self, recording::RecordingError> {
        let mut data = Vec::new();
        recording::write_to(profile, &mut data)?;
        Self::with_data(profile, ended, data.into())
    }

    /// Of a profile and its recording.
    pub fn with_data(profile: &Profile, ended: Instant, data: Arc<[u8]>) -> Result<Self, recording::RecordingError> {
        Ok(Self { id: 0, window: profile.window, ended, data, summary: summary::write(profile)?.into() })
    }

    /// The profile.
    pub fn profile(&self) -> Result<Profile, recording::RecordingError> {
        recording::read_from(&*self.data)
    }

    /// Who was there, and each one's ledger.
    pub fn summary(&self) -> std::io::Result<Summary> {
        summary::read(&self.summary)
    }

    /// Memory in bytes.
    pub fn bytes(&self) -> u64 {
        (self.data.len() + self.summary.len()) as u64 + ENTRY_BYTES
    }

    /// End, in nanoseconds since the epoch.
    pub fn end_unix_ns(&self) -> u64 {
        self.window.start_unix_ns.saturating_add(self.window.duration_ns)
    }
}

/// Entries, oldest first, as one; an error where there are none.
pub fn coarser(run: &[Entry], whole: bool) -> Result<Entry, String> {
    let profile = merged(run).map_err(|error| error.to_string())?;
    let (Some(mut profile), Some(last)) = (profile, run.last()) else {
        return Err("there is nothing in them".to_owned());
    };
    if !whole {
        profile.coarsen();
    }
    Entry::of(&profile, last.ended).map_err(|error| error.to_string())
}

/// Several entries, oldest first, as one profile; `None` of none.
pub fn merged(entries: &[Entry]) -> Result<Option<Profile>, recording::RecordingError> {
    let mut whole: Option<Profile> = None;
    for entry in entries {
        let profile = entry.profile()?;
        match &mut whole {
            Some(whole) => whole.merge(profile),
            None => whole = Some(profile),
        }
    }
    Ok(whole)
}

impl History {
    /// An empty one.
    pub fn new(settings: HistorySettings) -> Self {
        Self { settings, entries: VecDeque::new(), next_id: 1, bytes: 0, coarsened: 0, dropped: 0, gone: Vec::new() }
    }

    /// Other bounds from now on.
    pub fn set(&mut self, settings: HistorySettings) {
        self.settings = settings;
    }

    /// The bounds.
    pub fn settings(&self) -> &HistorySettings {
        &self.settings
    }

    /// For how long windows stay as they were taken, if they are not large.
    pub fn full_resolution(&self) -> Duration {
        self.settings.retention / 6
    }

    /// Adds the newest entry and returns its id.
    pub fn push(&mut self, mut entry: Entry) -> u64 {
        entry.id = self.next_id;
        self.next_id += 1;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        self.next_id - 1
    }

    /// Drops what is too old, and, once merging was tried, what is too much. Returns what else is to be done.
    pub fn next_step(&mut self, now: Instant) -> Step {
        while let Some(oldest) = self.entries.front()
            && now.saturating_duration_since(oldest.ended) > self.settings.retention
        {
            self.pop_oldest();
        }
        if let Some(run) = self.run_of(MINUTE_NS, self.full_resolution(), now) {
            return Step::Merge { run, whole: !self.is_large() };
        }
        if self.is_large() {
            let retention = self.settings.retention;
            let earlier = self.run_of(MINUTE_NS, retention / 20, now);
            if let Some(run) = earlier.or_else(|| self.run_of(FIVE_MINUTES_NS, retention / 10, now)) {
                return Step::Merge { run, whole: false };
            }
        }
        if self.bytes > self.settings.max_bytes {
            if let Some(run) = self.run_of(TEN_MINUTES_NS, Duration::ZERO, now) {
                return Step::Merge { run: run.into_iter().take(2).collect(), whole: false };
            }
            self.enforce();
        }
        Step::Done
    }

    /// Whether it takes so much that detail is to be given up.
    fn is_large(&self) -> bool {
        self.bytes > self.settings.max_bytes / MODEST_PART
    }

    /// Drops the oldest until no more bytes are taken than may be, merged or not.
    pub fn enforce(&mut self) {
        while self.bytes > self.settings.max_bytes && !self.entries.is_empty() {
            self.pop_oldest();
            self.dropped += 1;
        }
    }

    /// The oldest entries that follow one another within the same stretch of `length_ns`, all older than `age`; none if
    /// there are fewer than two. The newest entry is never among them.
    fn run_of(&self, length_ns: u64, age: Duration, now: Instant) -> Option<Vec<Entry>> {
        let older = |entry: &Entry| now.saturating_duration_since(entry.ended) > age;
        let stretch = |entry: &Entry| entry.window.start_unix_ns / length_ns;
        let candidates = self.entries.len().saturating_sub(1);
        let mut first = 0;
        while first < candidates {
            let of = stretch(self.entries.get(first)?);
            let after = (first..candidates)
                .find(|index| self.entries.get(*index).is_none_or(|entry| stretch(entry) != of))
                .unwrap_or(candidates);
            if after - first >= 2 {
                let run: Vec<Entry> = self.entries.range(first..after).cloned().collect();
                // All of the stretch has to be old, or it would be merged bit by bit.
                let rest_is_young = self.entries.get(after - 1).is_some_and(|last| !older(last));
                return (!rest_is_young).then_some(run);
            }
            first = after.max(first + 1);
        }
        None
    }

    /// Puts one entry in the place of those it came of. They are left if some of them are gone meanwhile.
    pub fn replace(&mut self, those: &[Entry], mut by: Entry) -> Option<u64> {
        let first = self.entries.iter().position(|entry| those.first().is_some_and(|one| one.id == entry.id))?;
        let there = self.entries.range(first..).zip(those).filter(|(mine, theirs)| mine.id == theirs.id).count();
        if there != those.len() {
            return None;
        }
        for entry in self.entries.drain(first..first + those.len()) {
            self.bytes = self.bytes.saturating_sub(entry.bytes());
            self.gone.push(entry.id);
        }
        by.id = self.next_id;
        self.next_id += 1;
        self.coarsened += 1;
        self.bytes += by.bytes();
        self.entries.insert(first, by);
        Some(self.next_id - 1)
    }

    /// Drops entries that cannot be read or merged.
    pub fn discard(&mut self, those: &[Entry]) {
        for one in those {
            if let Some(at) = self.entries.iter().position(|entry| entry.id == one.id)
                && let Some(entry) = self.entries.remove(at)
            {
                self.bytes = self.bytes.saturating_sub(entry.bytes());
                self.gone.push(entry.id);
                self.dropped += 1;
            }
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes = self.bytes.saturating_sub(entry.bytes());
            self.gone.push(entry.id);
        }
    }

    /// Entries that left since the last call.
    pub fn take_gone(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.gone)
    }

    /// Entries that overlap [`from`, `to`], in nanoseconds since the epoch, in order of time.
    pub fn select(&self, from_unix_ns: u64, to_unix_ns: u64) -> Vec<Entry> {
        let overlaps = |entry: &&Entry| entry.end_unix_ns() > from_unix_ns && entry.window.start_unix_ns < to_unix_ns;
        let mut found: Vec<Entry> = self.entries.iter().filter(overlaps).cloned().collect();
        found.sort_by_key(|entry| entry.window.start_unix_ns);
        found
    }

    /// Entries that ended after this moment.
    pub fn ended_after(&self, moment: Instant) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.ended > moment).cloned().collect()
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The newest entry.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// Memory in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{SyscallStats, testing};

    const SECOND: u64 = 1_000_000_000;

    fn settings(retention_s: u64, max_bytes: u64) -> HistorySettings {
        HistorySettings { retention: Duration::from_secs(retention_s), max_bytes, path: None }
    }

    fn entry(number: u64, began: Instant) -> Entry {
        let mut profile = testing::profile();
        let calls = &mut profile.containers[0].syscalls;
        calls.extend(["getpid", "gettid"].map(|name| SyscallStats {
            name: name.to_owned(),
            count: 1,
            ..calls[0].clone()
        }));
        for small in calls.iter_mut().rev().take(2) {
            small.total_ns = 100;
        }
        profile.window = Window { start_unix_ns: (1_800_000_000 + number * 10) * SECOND, duration_ns: 10 * SECOND };
        let ended = began + Duration::from_secs((number + 1) * 10);
        Entry::of(&profile, ended).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Feeds windows as the daemon does.
    fn fed(settings: HistorySettings, windows: u64) -> History {
        let began = Instant::now();
        let mut history = History::new(settings);
        for number in 0..windows {
            let entry = entry(number, began);
            let now = entry.ended;
            history.push(entry);
            while let Step::Merge { run, whole } = history.next_step(now) {
                let by = coarser(&run, whole).unwrap_or_else(|error| panic!("{error}"));
                assert!(history.replace(&run, by).is_some());
            }
        }
        history
    }

    /// Of the oldest and of the newest window: calls that took next to no time.
    fn small_calls(history: &History) -> [Vec<String>; 2] {
        let ends = [history.entries().next(), history.newest()];
        ends.map(|entry| {
            let profile = entry.and_then(|entry| entry.profile().ok()).unwrap_or_default();
            let calls = profile.containers[0].syscalls.iter().map(|call| call.name.clone());
            let mut small: Vec<String> = calls
                .filter(|name| ["getpid", "gettid", crate::profile::OTHER_SYSCALLS].contains(&name.as_str()))
                .collect();
            small.sort();
            small
        })
    }

    #[test]
    fn windows_older_than_a_sixth_of_the_retention_are_kept_by_the_minute() {
        let history = fed(settings(600, 1 << 30), 50);
        let lengths: Vec<u64> = history.entries().map(|entry| entry.window.duration_ns / SECOND).collect();
        assert_eq!(lengths.iter().sum::<u64>(), 500, "nothing is missing: {lengths:?}");
        assert!(lengths.first() == Some(&60) && lengths.last() == Some(&10), "{lengths:?}");
        assert!(lengths.iter().filter(|length| **length == 10).count() <= 16, "{lengths:?}");
        assert_eq!(small_calls(&history), [["getpid", "gettid"], ["getpid", "gettid"]], "there are bytes enough");
    }

    #[test]
    fn what_is_older_than_the_retention_leaves() {
        let history = fed(settings(120, 1 << 30), 60);
        let span: u64 = history.entries().map(|entry| entry.window.duration_ns / SECOND).sum();
        assert!((100..=180).contains(&span), "{span}");
        assert_eq!(history.dropped, 0, "that is not a loss");
    }

    #[test]
    fn bytes_never_exceed_their_bound_and_every_drop_is_counted() {
        let one = entry(0, Instant::now()).bytes();
        let mut history = fed(settings(3600, one * 4), 40);
        assert!(history.bytes() <= one * 4, "{} > {}", history.bytes(), one * 4);
        assert!(history.coarsened > 0);
        assert!(!history.take_gone().is_empty());
        let tiny = fed(settings(3600, one / 2), 3);
        assert_eq!((tiny.bytes(), tiny.dropped), (0, 3));
    }

    #[test]
    fn beyond_a_part_of_its_bytes_detail_is_given_up_and_no_window() {
        let one = entry(0, Instant::now()).bytes();
        let history = fed(settings(3600, one * 40 * MODEST_PART), 200);
        let lengths: Vec<u64> = history.entries().map(|entry| entry.window.duration_ns / SECOND).collect();
        assert_eq!((lengths.iter().sum::<u64>(), history.dropped), (2000, 0), "nothing is missing: {lengths:?}");
        let whole = lengths.iter().rev().take_while(|length| **length == 10).count();
        assert!((18..30).contains(&whole), "three minutes stay as they were: {lengths:?}");
        assert!(lengths.contains(&60) && lengths.first() == Some(&300), "the oldest are the coarsest: {lengths:?}");
        assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
        assert!(history.bytes() <= one * 44, "{} of {}", history.bytes(), one * 40);
        let [oldest, newest] = small_calls(&history);
        assert_eq!((oldest, newest), (vec!["other".to_owned()], vec!["getpid".to_owned(), "gettid".to_owned()]));
    }

    #[test]
    fn a_range_takes_the_windows_that_it_touches() {
        let history = fed(settings(3600, 1 << 30), 6);
        let at = |second: u64| (1_800_000_000 + second) * SECOND;
        assert_eq!(history.select(at(10), at(20)).len(), 1);
        assert_eq!(history.select(at(9), at(21)).len(), 3);
        assert_eq!(history.select(at(100), at(200)).len(), 0);
        let profile = merged(&history.select(at(0), at(60))).ok().flatten().unwrap_or_default();
        assert_eq!(profile.window.duration_ns, 60 * SECOND);
        assert_eq!(profile.on_cpu[0].count, testing::profile().on_cpu[0].count * 6);
    }
}
