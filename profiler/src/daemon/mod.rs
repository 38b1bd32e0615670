//! The daemon: windows kept in memory, HTTP API, `/metrics`, the page. In: settings. Out: answers, until told to end.
//!
//! Threads, and what goes from one to the next: [`collector`] measures and hands out a profile for each window; [`archive`] adds
//! it to [`metrics`], compresses it into the [`history`] and passes it to [`storage`]; [`http`] reads what those have left in
//! [`shared`]. Nothing waits for anything downstream of it.

pub mod archive;
pub mod capabilities;
pub mod collector;
pub mod flame;
pub mod history;
pub mod http;

pub mod metrics;
pub mod push;
pub mod query;
pub mod repeated;
pub mod settings;
pub mod shared;
pub mod storage;
pub mod summary;
pub mod ticks;
pub mod yaml_error;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, oneshot},
};

use crate::collect::CollectError;
use archive::Archive;
use collector::Collector;
use history::History;
use http::{Context, access::Gate, host::AllowedHosts, web_config::WebConfigError};
use push::{
    Pushers,
    client::{Client, ClientError},
};
use settings::{SettingsError, Sources};
use shared::Shared;
use storage::Storage;

/// Windows that may wait to be archived.
const WAITING_WINDOWS: usize = 4;

/// Answers made at a time that read windows.
const HEAVY: usize = 2;

/// Scrapes answered at a time.
const SCRAPES: usize = 4;

/// Pulls that may wait at a time for the end of their windows.
const PULLS: usize = 32;

/// How often the service manager is told that all is well, and remembered profiles are looked through.
const PULSE: Duration = Duration::from_secs(5);

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Its settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The web configuration.
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
    /// A destination of profiles.
    #[error(transparent)]
    Push(#[from] ClientError),
    /// The address.
    #[error("cannot listen on {address}: {error}; choose another with --web.listen-address")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The collection.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// A thread or the like.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Nanoseconds since the epoch by the wall clock.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Runs until SIGTERM or SIGINT. `listening` is told the address once requests are answered.
pub fn run(sources: Sources, listening: impl FnOnce(SocketAddr)) -> Result<(), DaemonError> {
    let system = |what| move |error| DaemonError::System { what, error };
    // Whatever can be refused is refused before anything is attached.
    let settings = sources.read()?;
    let gate = Gate::new(settings.web_config.clone())?;
    let address = settings.listen_address;
    let listen = |error| DaemonError::Listen { address, error };
    let listener = TcpListener::bind(address).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    if !bound.ip().is_loopback() && !gate.config().is_guarded() {
        tracing::warn!(
            "anybody who reaches {bound} can see what this host runs; give users or client certificates in \
             --web.config.file, or listen on 127.0.0.1"
        );
    }
    let push = &settings.push;
    let clients: Result<Vec<Client>, _> =
        push.destinations.iter().map(|destination| Client::new(destination, push.timeout)).collect();
    let clients = clients?;
    let mut history = History::new(settings.history.clone());
    let storage = settings.history.path.as_deref().map(|path| Storage::open(path, &mut history));
    let storage = storage.transpose().map_err(system("keep the history on disk"))?;
    let counters = storage.as_ref().map(|storage| Arc::clone(&storage.counters));
    let node = settings.node.clone().unwrap_or_else(crate::collect::host_name);
    let pushers = Pushers::start(&settings.push, clients, &node);
    let pushers = pushers.map_err(system("start the threads that push profiles"))?;
    let shared = Arc::new(Shared::new(sources, settings, history, counters, pushers.queues()));
    let (windows, inbox) = crossbeam_channel::bounded(WAITING_WINDOWS);
    let collector = Collector::start(Arc::clone(&shared), windows)?;
    capabilities::keep_nothing();
    let archive = Archive::new(Arc::clone(&shared), inbox, storage, pushers);
    let archive = archive.spawn().map_err(system("start the thread that keeps windows"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(system("start the threads that answer requests"))?;
    let served = runtime.block_on(attend(listener, bound, &shared, &collector, gate, listening));
    // The last window is collected and kept before the end.
    collector.stop();
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(archive.join());
    served.map_err(system("serve requests"))
}

/// Serves, and follows signals and the service manager, until told to end.
async fn attend(
    listener: TcpListener,
    bound: SocketAddr,
    shared: &Arc<Shared>,
    collector: &Collector,
    gate: Gate,
    listening: impl FnOnce(SocketAddr),
) -> std::io::Result<()> {
    let hosts = {
        let settings = shared.settings();
        let own = [crate::collect::host_name(), settings.node.clone().unwrap_or_default()];
        AllowedHosts::new(bound.ip(), &settings.allowed_hosts, &own.each_ref().map(String::as_str))
    };
    let (reload, mut reloads) = mpsc::channel::<oneshot::Sender<Result<(), String>>>(4);
    let context = Arc::new(Context {
        shared: Arc::clone(shared),
        heavy: Arc::new(Semaphore::new(HEAVY)),
        scrapes: Arc::new(Semaphore::new(SCRAPES)),
        pulls: Semaphore::new(PULLS),
        hosts,
        recent: http::profiles::Recent::default(),
        gate,
        reload,
    });
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = http::routes::routes(Arc::clone(&context));
    let mut server = tokio::spawn(http::serve::serve(listener, router, Arc::clone(&context)));
    let (mut hangup, mut terminate, mut interrupt) =
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tracing::info!("listening on {bound}");
    listening(bound);
    notify(&[sd_notify::NotifyState::Ready]);
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => drop(reread(shared, collector)),
            Some(reply) = reloads.recv() => drop(reply.send(reread(shared, collector))),
            _ = pulse.tick() => {
                context.recent.forget();
                if shared.illness().is_none() {
                    notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
            _ = &mut server => break,
        }
    }
    tracing::info!("ending");
    notify(&[sd_notify::NotifyState::Stopping]);
    collector.end_soon();
    shared.end();
    if !server.is_finished() {
        drop(server.await);
    }
    Ok(())
}

fn reread(shared: &Shared, collector: &Collector) -> Result<(), String> {
    notify(&[sd_notify::NotifyState::Reloading]);
    let result = shared.reload().map(|_| collector.settings_changed()).map_err(|error| error.to_string());
    notify(&[sd_notify::NotifyState::Ready]);
    result
}

/// Where no service manager listens, nobody is told.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}
