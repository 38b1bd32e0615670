//! The thread that takes windows in: adds them to the metrics, compresses them into the history, has them written to disk, and
//! merges old ones, and offers them to whoever they are pushed to. In: windows. Out: what requests read.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{
    collector::Collected,
    history::{Entry, Step, coarser},
    metrics::{labels::Owner, own::TargetFigures},
    push::Pushers,
    shared::Shared,
    storage::Storage,
};
use crate::{memory, profile::Profile, target};

/// Merges that are done for one window, so that the next one is not kept waiting.
const MOST_MERGES: usize = 8;

/// How often dead series are looked for while no window comes.
const EVERY: Duration = Duration::from_secs(5);

/// The thread's state.
pub struct Archive {
    shared: Arc<Shared>,
    windows: Receiver<Collected>,
    storage: Option<Storage>,
    pushers: Pushers,
}

impl Archive {
    /// With what it needs.
    pub fn new(shared: Arc<Shared>, windows: Receiver<Collected>, storage: Option<Storage>, pushers: Pushers) -> Self {
        Self { shared, windows, storage, pushers }
    }

    /// Starts the thread; it ends when no more windows can come.
    pub fn spawn(mut self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("archive".into()).spawn(move || {
            loop {
                match self.windows.recv_timeout(EVERY) {
                    Ok(window) => self.take(&window),
                    Err(RecvTimeoutError::Timeout) => self.shared.metrics().series.forget(Instant::now()),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })
    }

    fn take(&mut self, window: &Collected) {
        let targets = targets(&window.profile);
        {
            let mut metrics = self.shared.metrics();
            metrics.series.add(&window.profile, window.ended);
            metrics.own.add(&window.profile);
            metrics.targets = targets;
            metrics.maps.clone_from(&window.maps);
        }
        match Entry::of(&window.profile, window.ended) {
            Ok(entry) => {
                let id = self.shared.history().push(entry.clone());
                self.write(id, &entry);
                self.pushers.offer(&entry);
            }
            Err(error) => {
                self.shared.history().dropped += 1;
                tracing::error!("a window is left out of the history: {error}");
            }
        }
        self.tidy();
        self.shared.windows.send_modify(|count| *count += 1);
        memory::give_back();
    }

    /// Keeps the history within its bounds.
    fn tidy(&mut self) {
        for _ in 0..MOST_MERGES {
            let step = self.shared.history().next_step(Instant::now());
            let Step::Merge { run, whole } = step else { break };
            match coarser(&run, whole) {
                Ok(entry) => {
                    let id = self.shared.history().replace(&run, entry.clone());
                    if let Some(id) = id {
                        self.write(id, &entry);
                    }
                }
                Err(error) => {
                    tracing::warn!("windows of the history are dropped: {error}");
                    self.shared.history().discard(&run);
                }
            }
        }
        self.shared.history().enforce();
        let gone = self.shared.history().take_gone();
        if let Some(storage) = &mut self.storage {
            for id in gone {
                storage.remove(id);
            }
        }
    }

    fn write(&mut self, id: u64, entry: &Entry) {
        if let Some(storage) = &mut self.storage {
            storage.write(id, entry);
        }
    }
}

/// The ranked targets of a profile, with whose they are.
fn targets(profile: &Profile) -> Vec<TargetFigures> {
    let named = |name: &str| profile.containers.iter().find(|container| container.name == name);
    let targets = target::analyse(profile).targets.into_iter().map(|target| TargetFigures {
        owner: named(&target.container)
            .map_or_else(|| Owner { container: target.container.clone(), ..Owner::default() }, Owner::of),
        target: target.id,
        kind: target.kind,
        cost: target.cost,
        gain: target.gain_at_most,
        rank: target.rank,
    });
    targets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::testing;

    #[test]
    fn targets_stand_under_the_labels_of_their_containers() {
        let profile = testing::profile();
        let found = targets(&profile);
        assert!(!found.is_empty());
        for (figures, target) in found.iter().zip(target::analyse(&profile).targets) {
            let container = profile.containers.iter().find(|container| container.name == target.container);
            assert_eq!(Some(&figures.owner), container.map(Owner::of).as_ref());
            assert_eq!((&figures.target, figures.rank, figures.gain), (&target.id, target.rank, target.gain_at_most));
        }
    }
}
