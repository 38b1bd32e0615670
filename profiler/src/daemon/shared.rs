//! What the daemon's threads know together. Each part has one that writes it; requests read.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    history::History,
    http::refusals::Refusals,
    metrics::{
        own::{Own, TargetFigures},
        series::AllSeries,
    },
    push::queue::Queue,
    settings::{Settings, SettingsError, Sources},
    storage::StorageCounters,
};

/// How long the collection may make no progress before the daemon calls itself ill: naming the first window of a large host
/// takes seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is shared.
pub struct Shared {
    /// Where settings are read from.
    pub sources: Sources,
    settings: RwLock<Arc<Settings>>,
    history: Mutex<History>,
    metrics: Mutex<Metrics>,
    /// Windows archived so far; whoever waits for one is woken.
    pub windows: watch::Sender<u64>,
    /// When the daemon began, in nanoseconds since the epoch.
    pub started_unix_ns: u64,
    began: Instant,
    /// Milliseconds after `began` of the collection's last sign of life.
    progress_ms: AtomicU64,
    ending: watch::Sender<bool>,
    collection_error: Mutex<Option<String>>,
    /// Windows that found no room on their way to the archive.
    pub windows_lost: AtomicU64,
    /// Requests and connections refused.
    pub refusals: Refusals,
    reloads: Mutex<Reloads>,
    /// The history on disk, if any.
    pub storage: Option<Arc<StorageCounters>>,
    /// What is sent elsewhere, if anything.
    pub pushes: Vec<Arc<Queue>>,
}

/// Everything that a scrape shows.
pub struct Metrics {
    /// By container.
    pub series: AllSeries,
    /// Of the profiler itself.
    pub own: Own,
    /// Targets of the newest window.
    pub targets: Vec<TargetFigures>,
    /// Kernel maps: name, entries, capacity.
    pub maps: Vec<(&'static str, u64, u64)>,
}

/// What became of the attempts to read the configuration again.
#[derive(Debug, Clone, Default)]
pub struct Reloads {
    /// Taken.
    pub taken: u64,
    /// Refused.
    pub refused: u64,
    /// Why, if the last one was refused.
    pub last_error: Option<String>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked left whole values behind: they are replaced, not taken apart.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// At the beginning.
    pub fn new(
        sources: Sources,
        settings: Settings,
        history: History,
        storage: Option<Arc<StorageCounters>>,
        pushes: Vec<Arc<Queue>>,
    ) -> Self {
        let series = AllSeries::new(settings.metrics.max_series, settings.metrics.linger);
        Self {
            sources,
            settings: RwLock::new(Arc::new(settings)),
            history: Mutex::new(history),
            metrics: Mutex::new(Metrics { series, own: Own::default(), targets: Vec::new(), maps: Vec::new() }),
            windows: watch::Sender::new(0),
            started_unix_ns: super::unix_ns(),
            began: Instant::now(),
            progress_ms: AtomicU64::new(0),
            ending: watch::Sender::new(false),
            collection_error: Mutex::new(None),
            windows_lost: AtomicU64::new(0),
            refusals: Refusals::default(),
            reloads: Mutex::default(),
            storage,
            pushes,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The history. Held shortly: what is heavy is done on copies of its entries.
    pub fn history(&self) -> MutexGuard<'_, History> {
        held(&self.history)
    }

    /// The metrics.
    pub fn metrics(&self) -> MutexGuard<'_, Metrics> {
        held(&self.metrics)
    }

    /// The collection is alive.
    pub fn note_progress(&self) {
        self.progress_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        *held(&self.collection_error) = None;
    }

    /// The collection failed and will be tried again.
    pub fn note_failure(&self, error: String) {
        *held(&self.collection_error) = Some(error);
    }

    /// The daemon is about to end.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Whether the daemon is about to end.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Waits until the daemon is about to end.
    pub async fn ended(&self) {
        // The sender is here, so that it cannot be gone.
        self.ending.subscribe().wait_for(|ending| *ending).await.ok();
    }

    /// Why the daemon is ill, if it is.
    pub fn illness(&self) -> Option<String> {
        if let Some(error) = held(&self.collection_error).clone() {
            return Some(format!("the collection failed and is tried again: {error}"));
        }
        let last = Duration::from_millis(self.progress_ms.load(Ordering::Relaxed));
        let silent = self.began.elapsed().saturating_sub(last);
        (silent > PATIENCE).then(|| format!("the collection has made no progress for {} s", silent.as_secs()))
    }

    /// Why there is nothing to serve yet or any more.
    pub fn unreadiness(&self) -> Option<String> {
        if self.is_ending() {
            return Some("ending".to_owned());
        }
        if *self.windows.borrow() == 0 {
            return Some("starting: the first window is not over yet".to_owned());
        }
        self.illness()
    }

    /// What became of reloads.
    pub fn reloads(&self) -> Reloads {
        held(&self.reloads).clone()
    }

    /// Reads the settings again and takes them if they make sense; the old ones stay otherwise. Returns those that were in
    /// force and those that are.
    pub fn reload(&self) -> Result<(Arc<Settings>, Arc<Settings>), SettingsError> {
        let old = self.settings();
        let read = self.sources.read().and_then(|new| new.may_replace(&old).map(|()| Arc::new(new)));
        let mut reloads = held(&self.reloads);
        match read {
            Ok(new) => {
                reloads.taken += 1;
                reloads.last_error = None;
                *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
                self.history().set(new.history.clone());
                self.metrics().series.set(new.metrics.max_series, new.metrics.linger);
                tracing::info!("the configuration was read again");
                Ok((old, new))
            }
            Err(error) => {
                reloads.refused += 1;
                reloads.last_error = Some(error.to_string());
                tracing::error!("{error}; the old configuration stays");
                Err(error)
            }
        }
    }
}
