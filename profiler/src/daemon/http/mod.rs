//! HTTP: requests in, answers out. [`serve`] takes connections within limits, [`routes`] says what is where, [`api`] answers
//! with JSON and stacks, [`scrape`] with metrics, [`access`] decides who may ask.

pub mod access;
pub mod answer;
pub mod api;
pub mod page;
pub mod profiles;
pub mod routes;
pub mod scrape;
pub mod serve;
pub mod web_config;

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::shared::Shared;
use access::Gate;

/// What every request may need.
pub struct Context {
    /// What the daemon knows.
    pub shared: Arc<Shared>,
    /// Permits for answers that read windows: each may take hundreds of megabytes on a large node for a moment.
    pub heavy: Semaphore,
    /// Profiles merged a moment ago.
    pub recent: profiles::Recent,
    /// Who may ask.
    pub gate: Gate,
    /// Asks for the configuration to be read again; the answer says what came of it.
    pub reload: mpsc::Sender<tokio::sync::oneshot::Sender<Result<(), String>>>,
}
