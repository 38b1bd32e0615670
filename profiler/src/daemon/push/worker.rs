//! The thread of one destination. In: its queue. Out: requests, one after the other, until each batch is taken or refused.

use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    PushSettings,
    backoff::Backoff,
    client::{Answer, Client},
    destination::{Destination, Protocol},
    otlp, pyroscope,
    queue::{Dropped, Queue, Waiting},
};
use crate::{
    daemon::capabilities,
    profile::{Profile, recording},
};

/// For the last attempt when the daemon ends.
const LAST: Duration = Duration::from_secs(1);

struct Worker {
    queue: Arc<Queue>,
    client: Client,
    protocol: Protocol,
    length_ns: u64,
    extra: otlp::Extra,
    backoff: Backoff,
}

/// Starts the thread; it ends when the queue does.
pub fn spawn(
    queue: Arc<Queue>,
    client: Client,
    settings: &PushSettings,
    destination: &Destination,
    node: &str,
) -> io::Result<JoinHandle<()>> {
    let mut worker = Worker {
        queue,
        client,
        protocol: destination.protocol,
        length_ns: settings.interval.as_nanos() as u64,
        extra: otlp::Extra { node: node.to_owned(), labels: destination.labels.clone() },
        backoff: Backoff::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
    std::thread::Builder::new().name("push".into()).spawn(move || {
        capabilities::keep_nothing();
        runtime.block_on(worker.run());
        // A name that is being looked up is not waited for.
        runtime.shutdown_background();
    })
}

impl Worker {
    async fn run(&mut self) {
        let mut ends_by = None;
        loop {
            if self.queue.is_ending() {
                ends_by.get_or_insert_with(|| Instant::now() + LAST);
            }
            let Some(batch) = self.queue.take(self.length_ns) else {
                if self.queue.is_ending() {
                    return;
                }
                self.queue.changed().await;
                continue;
            };
            let windows = batch.len();
            let outcome = match merged(&batch) {
                Ok(Some(profile)) => self.deliver(&profile, &mut ends_by).await,
                Ok(None) => Ok(()),
                Err(error) => {
                    self.queue.failed(format!("windows cannot be read back: {error}"));
                    Err(Dropped::Unreadable)
                }
            };
            match outcome {
                Ok(()) => self.queue.sent(windows),
                Err(why) => self.queue.dropped(windows, why),
            }
            if outcome == Err(Dropped::Ended) {
                let more = self.queue.abandon();
                tracing::warn!(
                    "{} windows are not sent to {}: the daemon ends",
                    windows as u64 + more,
                    self.protocol.name()
                );
                return;
            }
        }
    }

    /// Sends a profile in as many requests as it takes. Where a later one is refused the windows count as refused.
    async fn deliver(&mut self, profile: &Profile, ends_by: &mut Option<Instant>) -> Result<(), Dropped> {
        let bodies = match self.protocol {
            Protocol::Pyroscope => pyroscope::requests(profile, &self.extra),
            Protocol::Otlp => otlp::requests(profile, &self.extra),
        };
        let mut refused = false;
        for body in bodies {
            refused |= !self.send(body, ends_by).await?;
        }
        if refused { Err(Dropped::Refused) } else { Ok(()) }
    }

    /// Sends a request until it is taken (true) or refused.
    async fn send(&mut self, body: Bytes, ends_by: &mut Option<Instant>) -> Result<bool, Dropped> {
        loop {
            let answer = tokio::select! {
                answer = self.client.send(body.clone()) => answer,
                () = over(&self.queue, ends_by) => return Err(Dropped::Ended),
            };
            match answer {
                Answer::Taken(said) => {
                    self.backoff.reset();
                    if self.protocol == Protocol::Otlp
                        && let Some((profiles, error)) = otlp::rejected(&said)
                    {
                        self.queue.rejected(profiles, &error);
                    }
                    return Ok(true);
                }
                Answer::Refused(error) => {
                    self.backoff.reset();
                    self.queue.failed(error);
                    return Ok(false);
                }
                Answer::Later(error, asked_for) => {
                    self.queue.failed(error);
                    if ends_by.is_some() {
                        return Err(Dropped::Ended);
                    }
                    let pause = self.backoff.after_failure(asked_for);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = ending(&self.queue) => drop(ends_by.get_or_insert_with(|| Instant::now() + LAST)),
                    }
                }
            }
        }
    }
}

/// Waits until the daemon ends.
async fn ending(queue: &Queue) {
    while !queue.is_ending() {
        queue.changed().await;
    }
    // Whoever looks next is to see it as well.
    queue.end();
}

/// Waits until the daemon ends and what is left of its patience is over.
async fn over(queue: &Queue, ends_by: &mut Option<Instant>) {
    ending(queue).await;
    let by = *ends_by.get_or_insert_with(|| Instant::now() + LAST);
    tokio::time::sleep_until(by.into()).await;
}

fn merged(batch: &[Waiting]) -> Result<Option<Profile>, recording::RecordingError> {
    let mut whole: Option<Profile> = None;
    for window in batch {
        let profile = recording::read_from(&*window.data)?;
        match &mut whole {
            Some(whole) => whole.merge(profile),
            None => whole = Some(profile),
        }
    }
    Ok(whole)
}
