//! The thread that collects: settings in, a profile for each window out.
//!
//! A collection that fails is begun anew after a pause that grows; settings that change what is collected do the same at
//! once. Nothing here waits for anybody downstream: a window that finds no room is counted.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};

use super::{capabilities, settings::Settings, shared::Shared, ticks, unix_ns};
use crate::{
    collect::{CollectError, CollectOptions, Collection, Haste},
    profile::Profile,
    terminal::printable,
};

/// Time between two looks at what the rings gave. Each wakes three threads, to memory that has gone cold meanwhile, and nothing is lost
/// by waiting: another empties the rings of records, processes are followed by a third, and the ring of events has room for what
/// ten thousand programs begun or fifteen hundred cgroups created in that time leave in it.
const POLL: Duration = Duration::from_millis(480);

/// Pause before a failed collection is begun anew: doubled each time, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Different warnings that are said, each once.
const MOST_WARNINGS: usize = 1000;

/// A window on its way to the archive.
pub struct Collected {
    /// What was measured.
    pub profile: Profile,
    /// When the window ended.
    pub ended: Instant,
    /// Kernel maps: name, entries, capacity.
    pub maps: Vec<(&'static str, u64, u64)>,
}

enum Order {
    /// Other settings are in force.
    Settings,
    /// The end.
    Stop,
}

/// Handle on the thread.
pub struct Collector {
    haste: Haste,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts the thread and waits until it measures.
    pub fn start(shared: Arc<Shared>, windows: Sender<Collected>) -> Result<Self, CollectError> {
        let (orders, inbox) = bounded(16);
        let (started, start) = bounded(1);
        let haste = Haste::default();
        let worker = Worker { shared, windows, inbox, haste: haste.clone(), said: HashSet::new() };
        let thread = std::thread::Builder::new()
            .name("collect".into())
            .spawn(move || worker.run(&started))
            .map_err(CollectError::Thread)?;
        // The thread answers, or is gone.
        match start.recv() {
            Ok(Ok(())) => Ok(Self { haste, orders, thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CollectError::Thread(std::io::Error::other("it ended at once"))),
        }
    }

    /// Tells that other settings are in force.
    pub fn settings_changed(&self) {
        // A full channel means that it will look anyway.
        drop(self.orders.try_send(Order::Settings));
    }

    /// Ends the collection soon, without waiting for it: the window under way is handed out as it is, and names that take
    /// long are left out of it.
    pub fn end_soon(&self) {
        self.haste.make();
        // A full channel is emptied, and says then that nobody holds its other end.
        drop(self.orders.try_send(Order::Stop));
    }

    /// Ends the collection and waits for it.
    pub fn stop(mut self) {
        self.haste.make();
        drop(self.orders.send(Order::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    windows: Sender<Collected>,
    inbox: Receiver<Order>,
    haste: Haste,
    said: HashSet<String>,
}

/// Why a collection ended.
enum Ended {
    Stop,
    Settings,
}

impl Worker {
    fn run(mut self, started: &Sender<Result<(), CollectError>>) {
        // Before the collection starts threads of its own, which inherit what is left.
        capabilities::keep_for_collecting();
        let mut settings = self.shared.settings();
        let mut collection = match self.begin(&settings) {
            Ok(collection) => collection,
            Err(error) => {
                drop(started.send(Err(error)));
                return;
            }
        };
        drop(started.send(Ok(())));
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.collect(&mut collection, &settings) {
                Ok(Ended::Stop) => return,
                Ok(Ended::Settings) => pause = SHORTEST_PAUSE,
                Err(error) => {
                    tracing::error!("the collection failed and is begun anew: {error}");
                    self.shared.note_failure(error.to_string());
                }
            }
            drop(collection);
            collection = loop {
                settings = self.shared.settings();
                match self.begin(&settings) {
                    Ok(collection) => break collection,
                    Err(error) => {
                        tracing::error!("the collection cannot begin: {error}; tried again in {pause:?}");
                        self.shared.note_failure(error.to_string());
                        if self.wait(pause) {
                            return;
                        }
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            };
        }
    }

    fn begin(&self, settings: &Settings) -> Result<Collection, CollectError> {
        let options = settings.collect.options(settings.node.clone())?;
        Collection::start(CollectOptions { haste: self.haste.clone(), ..options })
    }

    /// Waits; true if the end is ordered meanwhile.
    fn wait(&self, pause: Duration) -> bool {
        matches!(self.inbox.recv_timeout(pause), Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected))
    }

    fn collect(&mut self, collection: &mut Collection, settings: &Settings) -> Result<Ended, CollectError> {
        let mut end = Instant::now() + ticks::until_end(unix_ns(), settings.window);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Orders can wait so long. The channel would yield the CPU ten times before it sleeps.
            std::thread::sleep(left.min(POLL));
            match self.inbox.try_recv() {
                Ok(Order::Settings) => {
                    let now = self.shared.settings();
                    let same = now.collect == settings.collect && now.node == settings.node;
                    if !same || now.window != settings.window {
                        self.hand_out(collection)?;
                        return Ok(Ended::Settings);
                    }
                }
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => {
                    self.hand_out(collection)?;
                    return Ok(Ended::Stop);
                }
                Err(TryRecvError::Empty) => {}
            }
            collection.poll()?;
            self.shared.note_progress();
            self.say(collection.take_warnings());
            if Instant::now() >= end {
                self.hand_out(collection)?;
                end = Instant::now() + ticks::until_end(unix_ns(), settings.window);
            }
        }
    }

    fn hand_out(&mut self, collection: &mut Collection) -> Result<(), CollectError> {
        let began = Instant::now();
        let profile = collection.rotate()?;
        tracing::debug!(
            "a window of {} ms took {:?} to hand out",
            profile.window.duration_ns / 1_000_000,
            began.elapsed()
        );
        let collected = Collected { profile, ended: Instant::now(), maps: collection.map_use() };
        match self.windows.try_send(collected) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.windows_lost.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("a window is lost: the ones before it are still being archived");
            }
        }
        Ok(())
    }

    fn say(&mut self, warnings: Vec<String>) {
        for warning in warnings {
            if self.said.len() < MOST_WARNINGS && self.said.insert(warning.clone()) {
                tracing::warn!("{}", printable(&warning));
            }
        }
    }
}
