//! HTTP: requests in, answers out. [`serve`] takes connections within limits, [`routes`] says what is where, [`api`] answers
//! with JSON and stacks, [`scrape`] with metrics, [`access`] decides who may ask. [`seats`] bounds connections, [`profiles`] and
//! [`passwords`] bound work; what is refused is counted in [`refusals`].

pub mod access;
pub mod answer;
pub mod api;
pub mod host;
pub mod page;
pub mod passwords;
pub mod profiles;
pub mod refusals;
pub mod routes;
pub mod scrape;
pub mod seats;
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
    pub heavy: Arc<Semaphore>,
    /// Permits for scrapes.
    pub scrapes: Arc<Semaphore>,
    /// Permits for pulls that wait for the end of their windows.
    pub pulls: Semaphore,
    /// Hosts that requests may ask for.
    pub hosts: host::AllowedHosts,
    /// Profiles merged a moment ago.
    pub recent: profiles::Recent,
    /// Who may ask.
    pub gate: Gate,
    /// Asks for the configuration to be read again; the answer says what came of it.
    pub reload: mpsc::Sender<tokio::sync::oneshot::Sender<Result<(), String>>>,
}
