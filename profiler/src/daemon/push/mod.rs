//! Profiles sent to where a fleet's are kept. In: the windows of the history. Out: requests to the addresses that the operator
//! named: Pyroscope's push API, or OTLP profiles over HTTP.
//!
//! Each destination has a [`queue`] and a [`worker`] thread of its own: one that hangs holds up neither the collection nor the
//! other. A window is accepted by the destination, or dropped with a reason, or still waiting: the three sum to all that were
//! offered.

pub mod backoff;
pub mod client;
pub mod destination;
pub mod otlp;
pub mod pyroscope;
pub mod queue;
pub mod worker;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use self::{client::Client, destination::Destination, queue::Queue};
use super::history::Entry;

/// How windows are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSettings {
    /// Windows of so long are sent together.
    pub interval: Duration,
    /// How long a request may take.
    pub timeout: Duration,
    /// Bytes of windows that may wait for each destination.
    pub max_bytes: u64,
    /// Where to.
    pub destinations: Vec<Destination>,
}

/// What is known of a destination at the moment of a scrape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushFigures {
    /// Which.
    pub destination: &'static str,
    /// Windows accepted.
    pub sent: u64,
    /// Windows dropped, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Requests that failed, tried again or not.
    pub failures: u64,
    /// Profiles that the destination rejected out of requests that it accepted.
    pub rejected: u64,
    /// Windows waiting, those under way among them, and the bytes of the others.
    pub waiting: (u64, u64),
    /// What went wrong last, if it has not gone well since.
    pub last_error: Option<String>,
}

/// All destinations.
pub struct Pushers {
    queues: Vec<Arc<Queue>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pushers {
    /// Starts a thread for each destination. `node` is told along with each profile.
    pub fn start(settings: &PushSettings, clients: Vec<Client>, node: &str) -> std::io::Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for (destination, client) in settings.destinations.iter().zip(clients) {
            let queue = Arc::new(Queue::new(destination.protocol.name(), settings.max_bytes));
            threads.push(worker::spawn(Arc::clone(&queue), client, settings, destination, node)?);
            queues.push(queue);
        }
        Ok(Self { queues, threads })
    }

    /// The queues, which also know what became of what they held.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.queues.clone()
    }

    /// Offers a window to every destination; never waits.
    pub fn offer(&self, entry: &Entry) {
        for queue in &self.queues {
            queue.push(Arc::clone(&entry.data), entry.window.duration_ns);
        }
    }
}

impl Drop for Pushers {
    /// What waits is tried once more, shortly.
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.end();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
