//! Profiles for requests. In: a range. Out: its windows merged, off the threads that serve connections, a few at a time.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::response::Response;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinError,
};

use super::{Context, answer::Refusal, refusals::Reason};
use crate::{
    daemon::{history::Entry, query::Range},
    profile::Profile,
};

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Merged profiles remembered, and how long: a page asks for several views of the same range at once.
const REMEMBERED: usize = 2;
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// Profiles merged a moment ago, by their entries.
#[derive(Default)]
pub struct Recent(Mutex<Vec<Merged>>);

/// Windows by number, what they make together, and when it was last asked for.
type Merged = (Vec<u64>, Arc<Profile>, Instant);

impl Recent {
    /// Forgets what has not been asked for lately.
    pub fn forget(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, _, at)| at.elapsed() < REMEMBERED_FOR);
    }

    fn find(&self, ids: &[u64]) -> Option<Arc<Profile>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(known, _, _)| known == ids).map(|(_, profile, _)| Arc::clone(profile))
    }

    fn remember(&self, ids: Vec<u64>, profile: &Arc<Profile>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(known, _, at)| *known != ids && at.elapsed() < REMEMBERED_FOR);
        if all.len() >= REMEMBERED {
            all.remove(0);
        }
        all.push((ids, Arc::clone(profile), Instant::now()));
    }
}

/// A turn of work that is under way. It belongs to the work, which may go on after its client has gone.
pub struct Turn {
    abandoned: Arc<AtomicBool>,
    _permit: OwnedSemaphorePermit,
}

/// Tells the work that its client is gone, unless it is done by then.
struct Client(Arc<AtomicBool>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does work on a thread of its own when its turn comes; none if that takes too long.
async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce(Turn) -> T + Send + 'static,
) -> Option<Result<T, JoinError>> {
    let permit = tokio::time::timeout(PATIENCE, Arc::clone(turns).acquire_owned()).await;
    let permit = permit.ok()?.ok()?;
    let client = Client(Arc::default());
    let turn = Turn { abandoned: Arc::clone(&client.0), _permit: permit };
    Some(tokio::task::spawn_blocking(move || work(turn)).await)
}

/// What heavy work may use.
pub struct Work {
    context: Arc<Context>,
    turn: Turn,
}

impl Deref for Work {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Work {
    /// Ends the work early if nobody waits for it any more. Asked between windows, each of which takes milliseconds.
    pub fn go_on(&self) -> Result<(), Refusal> {
        if self.turn.abandoned.load(Ordering::Relaxed) {
            return Err(Refusal::NotNow("the client is gone".to_owned()));
        }
        Ok(())
    }
}

/// Does heavy work when its turn comes.
pub async fn heavily(
    context: &Arc<Context>,
    work: impl FnOnce(&Work) -> Result<Response, Refusal> + Send + 'static,
) -> Result<Response, Refusal> {
    let in_thread = Arc::clone(context);
    let done = in_turn(&context.heavy, move |turn| {
        let under_way = Work { context: in_thread, turn };
        under_way.go_on()?;
        work(&under_way)
    });
    let Some(done) = done.await else {
        context.shared.refusals.count(Reason::Turns);
        return Err(Refusal::Busy);
    };
    done.unwrap_or_else(|error| Err(Refusal::Failed(format!("the answer could not be made: {error}"))))
}

/// The windows that a range touches, as one.
pub fn of_range(work: &Work, range: Range) -> Result<Arc<Profile>, Refusal> {
    let entries = work.shared.history().select(range.from_unix_ns, range.to_unix_ns);
    if entries.is_empty() {
        return Err(Refusal::Nothing(no_window(work)));
    }
    of_entries(work, &entries)
}

/// Entries as one profile.
pub fn of_entries(work: &Work, entries: &[Entry]) -> Result<Arc<Profile>, Refusal> {
    let ids: Vec<u64> = entries.iter().map(|entry| entry.id).collect();
    if let Some(profile) = work.recent.find(&ids) {
        return Ok(profile);
    }
    let mut whole: Option<Profile> = None;
    for entry in entries {
        work.go_on()?;
        let one = entry.profile().map_err(|error| Refusal::Failed(error.to_string()))?;
        match &mut whole {
            Some(whole) => whole.merge(one),
            None => whole = Some(one),
        }
    }
    let profile = Arc::new(whole.ok_or_else(|| Refusal::Nothing(no_window(work)))?);
    work.recent.remember(ids, &profile);
    Ok(profile)
}

/// What to say where a range holds nothing.
pub fn no_window(context: &Context) -> String {
    let history = context.shared.history();
    let ends = history.entries().next().zip(history.newest()).map(|(oldest, newest)| {
        (super::api::rfc3339(oldest.window.start_unix_ns), super::api::rfc3339(newest.end_unix_ns()))
    });
    match ends {
        Some((from, to)) => format!("there is no window in this range; there are some from {from} to {to}"),
        None => "there is no window yet; the first one is over in a few seconds".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_held_until_the_work_is_done_though_the_client_has_gone() {
        let turns = Arc::new(Semaphore::new(1));
        let (begun, begins) = mpsc::channel();
        let (finish, finishes) = mpsc::channel::<()>();
        let (saw, seen) = mpsc::channel();
        let asked = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                let work = move |turn: Turn| {
                    begun.send(turn.abandoned.load(Ordering::Relaxed)).ok();
                    finishes.recv().ok();
                    saw.send(turn.abandoned.load(Ordering::Relaxed)).ok();
                };
                in_turn(&turns, work).await.is_some()
            }
        });
        tokio::task::yield_now().await;
        while turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(begins.recv(), Ok(false));
        asked.abort();
        assert!(asked.await.is_err());
        assert_eq!(turns.available_permits(), 0, "the work goes on");
        drop(finish);
        assert_eq!(seen.recv(), Ok(true), "and knows that nobody waits for it");
        drop(turns.acquire().await);
    }
}
