//! Windows that wait to be sent. In: compressed profiles, from a thread that must not wait. Out: batches, oldest first; what finds
//! no room is the oldest, dropped and counted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::PushFigures;

/// Why a window was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Newer ones needed its place.
    QueueFull,
    /// The destination does not want it, whenever it is sent.
    Refused,
    /// It cannot be read back.
    Unreadable,
    /// The daemon ended first.
    Ended,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::QueueFull, Self::Refused, Self::Unreadable, Self::Ended];

    /// As in labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Ended => "ended",
        }
    }
}

/// A window on its way.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The profile as a recording.
    pub data: Arc<[u8]>,
    /// Its length in nanoseconds.
    pub duration_ns: u64,
}

#[derive(Debug, Default)]
struct State {
    windows: VecDeque<Waiting>,
    bytes: u64,
    duration_ns: u64,
    under_way: u64,
    sent: u64,
    dropped: [u64; Dropped::ALL.len()],
    failures: u64,
    rejected: u64,
    ending: bool,
    last_error: Option<String>,
}

/// The queue of one destination.
#[derive(Debug)]
pub struct Queue {
    destination: &'static str,
    max_bytes: u64,
    state: Mutex<State>,
    bell: Notify,
}

impl Queue {
    /// An empty one.
    pub fn new(destination: &'static str, max_bytes: u64) -> Self {
        Self { destination, max_bytes, state: Mutex::default(), bell: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a window; the oldest leave if there is no room.
    pub fn push(&self, data: Arc<[u8]>, duration_ns: u64) {
        let mut state = self.state();
        state.bytes += data.len() as u64;
        state.duration_ns += duration_ns;
        state.windows.push_back(Waiting { data, duration_ns });
        while state.bytes > self.max_bytes
            && let Some(oldest) = state.windows.pop_front()
        {
            state.bytes -= oldest.data.len() as u64;
            state.duration_ns -= oldest.duration_ns;
            state.dropped[Dropped::QueueFull as usize] += 1;
        }
        drop(state);
        self.bell.notify_one();
    }

    /// The oldest windows that together last `length_ns`, or fewer where the daemon ends; `None` while there are not enough.
    pub fn take(&self, length_ns: u64) -> Option<Vec<Waiting>> {
        let mut state = self.state();
        // Half full is reason enough: what waits for company must not push others out.
        let enough = state.duration_ns >= length_ns || state.bytes > self.max_bytes / 2 || state.ending;
        if !enough || state.windows.is_empty() {
            return None;
        }
        let (mut batch, mut taken_ns) = (Vec::new(), 0);
        while taken_ns < length_ns
            && let Some(window) = state.windows.pop_front()
        {
            state.bytes -= window.data.len() as u64;
            state.duration_ns -= window.duration_ns;
            taken_ns += window.duration_ns;
            batch.push(window);
        }
        state.under_way = batch.len() as u64;
        Some(batch)
    }

    /// Waits until there may be something new.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// No more will come, and nobody waits for long.
    pub fn end(&self) {
        self.state().ending = true;
        self.bell.notify_one();
    }

    /// Whether the daemon ends.
    pub fn is_ending(&self) -> bool {
        self.state().ending
    }

    /// The windows under way were accepted.
    pub fn sent(&self, windows: usize) {
        let mut state = self.state();
        state.under_way = 0;
        state.sent += windows as u64;
        state.last_error = None;
    }

    /// Windows under way were dropped.
    pub fn dropped(&self, windows: usize, why: Dropped) {
        let mut state = self.state();
        state.under_way = 0;
        state.dropped[why as usize] += windows as u64;
    }

    /// Everything that still waits is dropped. Returns how many that were.
    pub fn abandon(&self) -> u64 {
        let mut state = self.state();
        let windows = state.windows.len() as u64;
        state.windows.clear();
        (state.bytes, state.duration_ns) = (0, 0);
        state.dropped[Dropped::Ended as usize] += windows;
        windows
    }

    /// A request failed. What is wrong is logged when it changes.
    pub fn failed(&self, error: String) {
        let mut state = self.state();
        state.failures += 1;
        if state.last_error.as_ref() != Some(&error) {
            tracing::warn!("profiles for {}: {error}", self.destination);
            state.last_error = Some(error);
        }
    }

    /// Profiles were left out of a request that was accepted.
    pub fn rejected(&self, profiles: u64, error: &str) {
        self.state().rejected += profiles;
        tracing::warn!("{} rejected {profiles} profiles: {error}", self.destination);
    }

    /// What became of everything that was offered.
    pub fn figures(&self) -> PushFigures {
        let state = self.state();
        PushFigures {
            destination: self.destination,
            sent: state.sent,
            dropped: Dropped::ALL.map(|why| (why.reason(), state.dropped[why as usize])).to_vec(),
            failures: state.failures,
            rejected: state.rejected,
            waiting: (state.windows.len() as u64 + state.under_way, state.bytes),
            last_error: state.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(bytes: usize) -> Arc<[u8]> {
        vec![0; bytes].into()
    }

    #[test]
    fn a_batch_is_the_oldest_windows_of_the_length_asked_for() {
        let queue = Queue::new("test", 1000);
        queue.push(window(1), 10);
        queue.push(window(2), 10);
        assert!(queue.take(30).is_none(), "there is too little");
        queue.push(window(3), 10);
        queue.push(window(4), 10);
        let sizes = |batch: Vec<Waiting>| batch.iter().map(|window| window.data.len()).collect::<Vec<_>>();
        assert_eq!(queue.take(30).map(sizes), Some(vec![1, 2, 3]));
        assert!(queue.take(30).is_none());
        queue.end();
        assert_eq!(queue.take(30).map(sizes), Some(vec![4]), "the rest goes at the end");
        assert!(queue.take(30).is_none());
    }

    #[test]
    fn the_oldest_leave_where_there_is_no_room_and_a_window_too_large_for_all_of_it_does_too() {
        let queue = Queue::new("test", 100);
        for _ in 0..5 {
            queue.push(window(40), 10);
        }
        let figures = queue.figures();
        assert_eq!((figures.waiting, figures.dropped[0]), ((2, 80), ("queue_full", 3)));
        queue.push(window(101), 10);
        let figures = queue.figures();
        assert_eq!((figures.waiting, figures.dropped[0]), ((0, 0), ("queue_full", 6)));
    }

    proptest! {
        #[test]
        fn every_window_is_sent_dropped_or_waiting(steps in prop::collection::vec((0..6_u8, 0..60_usize), 0..200)) {
            let queue = Queue::new("test", 150);
            let (mut offered, mut batch) = (0_u64, None::<Vec<Waiting>>);
            for (what, size) in steps {
                match (what, batch.take()) {
                    (0, Some(windows)) => queue.sent(windows.len()),
                    (1, Some(windows)) => queue.dropped(windows.len(), Dropped::Refused),
                    (2, None) => batch = queue.take(25),
                    (_, under_way) => {
                        batch = under_way;
                        queue.push(window(size), 10);
                        offered += 1;
                    }
                }
                let figures = queue.figures();
                let dropped: u64 = figures.dropped.iter().map(|(_, windows)| windows).sum();
                prop_assert_eq!(figures.sent + dropped + figures.waiting.0, offered);
                prop_assert!(figures.waiting.1 <= 150);
            }
        }
    }
}
