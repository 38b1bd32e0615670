//! Profiles for requests. In: a range. Out: its windows merged, off the threads that serve connections, a few at a time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::response::Response;

use super::{Context, answer::Refusal};
use crate::{
    daemon::{
        history::{Entry, merged},
        query::Range,
    },
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

/// Does heavy work on a thread of its own when its turn comes.
pub async fn heavily(
    context: &Arc<Context>,
    work: impl FnOnce(&Context) -> Result<Response, Refusal> + Send + 'static,
) -> Result<Response, Refusal> {
    let in_thread = Arc::clone(context);
    let permit = tokio::time::timeout(PATIENCE, context.heavy.acquire()).await;
    let Ok(Ok(_permit)) = permit else {
        context.shared.requests_refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        return Err(Refusal::Busy);
    };
    let done = tokio::task::spawn_blocking(move || work(&in_thread)).await;
    done.unwrap_or_else(|error| Err(Refusal::Failed(format!("the answer could not be made: {error}"))))
}

/// The windows that a range touches, as one.
pub fn of_range(context: &Context, range: Range) -> Result<Arc<Profile>, Refusal> {
    let entries = context.shared.history().select(range.from_unix_ns, range.to_unix_ns);
    if entries.is_empty() {
        return Err(Refusal::Nothing(no_window(context)));
    }
    of_entries(context, &entries)
}

/// Entries as one profile.
pub fn of_entries(context: &Context, entries: &[Entry]) -> Result<Arc<Profile>, Refusal> {
    let ids: Vec<u64> = entries.iter().map(|entry| entry.id).collect();
    if let Some(profile) = context.recent.find(&ids) {
        return Ok(profile);
    }
    let profile = merged(entries).map_err(|error| Refusal::Failed(error.to_string()))?;
    let profile = Arc::new(profile.ok_or_else(|| Refusal::Nothing(no_window(context)))?);
    context.recent.remember(ids, &profile);
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
