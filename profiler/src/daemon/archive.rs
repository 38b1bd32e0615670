//! The thread that takes windows in: adds them to the metrics, compresses them into the history, has them written to disk, and
//! merges old ones, and offers them to whoever they are pushed to. In: windows. Out: what requests read.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::Value;

use super::{
    collector::Collected,
    history::{Entry, Step, Summary, merged},
    metrics::{labels::Owner, own::TargetFigures},
    push::Pushers,
    shared::Shared,
    storage::Storage,
};
use crate::{
    memory,
    output::{Scope, WriteOptions, report_json},
    profile::{Profile, Selection},
};

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
    newest: Option<Arc<Summary>>,
}

impl Archive {
    /// With what it needs.
    pub fn new(shared: Arc<Shared>, windows: Receiver<Collected>, storage: Option<Storage>, pushers: Pushers) -> Self {
        Self { shared, windows, storage, pushers, newest: None }
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
        match Entry::of(&window.profile, window.ended, self.newest.as_deref()) {
            Ok(entry) => {
                self.newest = Some(Arc::clone(&entry.summary));
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
            let Step::Merge(run) = step else { break };
            match coarser(&run) {
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

fn coarser(run: &[Entry]) -> Result<Entry, String> {
    let profile = merged(run).map_err(|error| error.to_string())?;
    let (Some(profile), Some(last)) = (profile, run.last()) else { return Err("there is nothing in them".to_owned()) };
    Entry::of(&profile, last.ended, Some(&last.summary)).map_err(|error| error.to_string())
}

/// The ranked targets of a profile, by what the report says of them.
fn targets(profile: &Profile) -> Vec<TargetFigures> {
    let options = WriteOptions::default();
    let scope = Scope { profile, selected: Selection::default().matching(profile), options: &options };
    let report = report_json::report(&scope);
    let Ok(Value::Array(targets)) = serde_json::to_value(&report.targets) else { return Vec::new() };
    targets.iter().filter_map(|target| figures(target, profile)).collect()
}

fn figures(target: &Value, profile: &Profile) -> Option<TargetFigures> {
    let text = |name: &str| target.get(name)?.as_str().map(str::to_owned);
    let figure = |name: &str| {
        let figure = target.get(name)?;
        Some((figure.get("value")?.as_f64()?, figure.get("unit")?.as_str()?.to_owned()))
    };
    let name = text("container")?;
    let owner = profile
        .containers
        .iter()
        .find(|container| container.name == name)
        .map_or_else(|| Owner { container: name.clone(), ..Owner::default() }, Owner::of);
    Some(TargetFigures {
        owner,
        target: text("id")?,
        kind: text("kind")?,
        cost: figure("cost"),
        gain: figure("gain_at_most"),
        rank: target.get("rank").and_then(Value::as_f64),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::profile::testing;

    #[test]
    fn a_target_of_the_report_becomes_figures_under_its_containers_labels() {
        let target = json!({
            "id": "ab12", "rank": 2, "container": "shop/web-7d4b9/nginx", "kind": "small_io",
            "cost": { "value": 0.5, "unit": "cores" }, "gain_at_most": { "value": 0.25, "unit": "cores" },
        });
        let figures = figures(&target, &testing::profile()).unwrap_or_default();
        assert_eq!((figures.owner.namespace.as_str(), figures.owner.container.as_str()), ("shop", "nginx"));
        assert_eq!(figures.gain, Some((0.25, "cores".to_owned())));
        assert_eq!(figures.rank, Some(2.0));
        assert_eq!(super::figures(&json!({ "id": 7 }), &testing::profile()), None);
    }
}
