//! `profiler daemon`: collects for as long as it runs, and serves what it has found.

use std::{path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;

use super::{Status, WrongUsage, record::parse_threshold};
use crate::{
    daemon::{
        self, DaemonError,
        settings::{
            CollectLayer, ContainersLayer, DestinationLayer, HistoryLayer, Layer, MetricsLayer, PushLayer, Quantity,
            SettingsError, Sources, WebLayer,
        },
    },
    quantity::{parse_bytes, parse_duration},
};

/// `profiler daemon`
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// YAML file with the same settings; flags and variables go before it. SIGHUP or POST /-/reload reads it again
    #[arg(long = "config.file", value_name = "FILE", env = "PROFILER_CONFIG_FILE")]
    config_file: Option<PathBuf>,
    /// Address and port to serve at [default: 127.0.0.1:9590]
    #[arg(long = "web.listen-address", value_name = "ADDRESS", env = "PROFILER_WEB_LISTEN_ADDRESS")]
    listen_address: Option<String>,
    /// Web configuration as Prometheus' exporters take it: TLS, client certificates, users
    #[arg(long = "web.config.file", value_name = "FILE", env = "PROFILER_WEB_CONFIG_FILE")]
    web_config: Option<PathBuf>,
    /// A host name that requests may ask for, or *.NAME, or *, besides localhost, addresses and this host's name; may be
    /// repeated. Checked on loopback addresses, and elsewhere once one is given
    #[arg(long = "web.allowed-host", value_name = "NAME", env = "PROFILER_WEB_ALLOWED_HOST", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
    /// Length of a window [default: 10s]
    #[arg(long, env = "PROFILER_WINDOW", value_parser = parse_duration)]
    window: Option<Duration>,
    /// On-CPU samples a second on each CPU [default: 99]
    #[arg(short = 'F', long, env = "PROFILER_FREQUENCY")]
    frequency: Option<u32>,
    /// Do not sample on-CPU stacks
    #[arg(long, env = "PROFILER_NO_CPU", value_parser = clap::builder::FalseyValueParser::new())]
    no_cpu: bool,
    /// Do not sample off-CPU stacks
    #[arg(long, env = "PROFILER_NO_OFFCPU", value_parser = clap::builder::FalseyValueParser::new())]
    no_offcpu: bool,
    /// Do not count syscalls
    #[arg(long, env = "PROFILER_NO_SYSCALLS", value_parser = clap::builder::FalseyValueParser::new())]
    no_syscalls: bool,
    /// Off-CPU gaps shorter than this are sampled in proportion to their length [default: 1ms]
    #[arg(long, env = "PROFILER_OFFCPU_THRESHOLD", value_parser = parse_threshold)]
    offcpu_threshold: Option<Duration>,
    /// Look up file, line and inlined functions (takes more memory)
    #[arg(long, env = "PROFILER_LINES", value_parser = clap::builder::FalseyValueParser::new())]
    lines: bool,
    /// Only containers with this name, id prefix or glob; may be repeated
    #[arg(long, env = "PROFILER_CONTAINER", value_name = "PATTERN", value_delimiter = ',')]
    container: Vec<String>,
    /// Only containers of pods with this name or glob; may be repeated
    #[arg(long, env = "PROFILER_POD", value_name = "PATTERN", value_delimiter = ',')]
    pod: Vec<String>,
    /// Only containers of this Kubernetes namespace or glob; may be repeated
    #[arg(long, env = "PROFILER_NAMESPACE", value_name = "PATTERN", value_delimiter = ',')]
    namespace: Vec<String>,
    /// A container runtime's socket, besides the well-known ones (Docker, Podman or CRI); may be repeated
    #[arg(
        long = "runtime-socket",
        value_name = "unix:///PATH",
        env = "PROFILER_RUNTIME_SOCKET",
        value_delimiter = ','
    )]
    runtime_sockets: Vec<String>,
    /// Where the host's cgroup hierarchy is mounted, if not where this process's mount table says
    #[arg(long, value_name = "PATH", env = "PROFILER_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    /// A label of containers to keep besides the well-known ones, by name or glob; may be repeated
    #[arg(long = "container-labels", value_name = "LABEL", env = "PROFILER_CONTAINER_LABELS", value_delimiter = ',')]
    container_labels: Vec<String>,
    /// Name of this node in the output [default: the host's name]
    #[arg(long, env = "PROFILER_NODE")]
    node: Option<String>,
    /// How long windows are kept [default: 1h]
    #[arg(long = "history.retention", value_name = "TIME", env = "PROFILER_HISTORY_RETENTION", value_parser = parse_duration)]
    retention: Option<Duration>,
    /// How much memory they may take [default: 64MiB]
    #[arg(long = "history.max-bytes", value_name = "BYTES", env = "PROFILER_HISTORY_MAX_BYTES", value_parser = parse_bytes)]
    max_bytes: Option<u64>,
    /// Directory in which they survive a restart
    #[arg(long = "storage.path", value_name = "PATH", env = "PROFILER_STORAGE_PATH")]
    storage_path: Option<PathBuf>,
    /// How long a dead container's series stay in /metrics [default: 60s]
    #[arg(long = "metrics.linger", value_name = "TIME", env = "PROFILER_METRICS_LINGER", value_parser = parse_duration)]
    linger: Option<Duration>,
    /// Most series in /metrics; the rest is added up under container="other" [default: 20000]
    #[arg(long = "metrics.max-series", value_name = "N", env = "PROFILER_METRICS_MAX_SERIES")]
    max_series: Option<u32>,
    /// Pyroscope server that profiles are sent to; credentials and the like go into --config.file
    #[arg(long = "push.pyroscope", value_name = "URL", env = "PROFILER_PUSH_PYROSCOPE")]
    push_pyroscope: Option<String>,
    /// Receiver of OTLP profiles over HTTP that profiles are sent to
    #[arg(long = "push.otlp", value_name = "URL", env = "PROFILER_PUSH_OTLP")]
    push_otlp: Option<String>,
    /// Windows of so long are sent together [default: 30s]
    #[arg(long = "push.interval", value_name = "TIME", env = "PROFILER_PUSH_INTERVAL", value_parser = parse_duration)]
    push_interval: Option<Duration>,
    /// What is logged: error, warn, info, debug, or by part of the program
    #[arg(long = "log.level", value_name = "LEVEL", env = "PROFILER_LOG", default_value = "info")]
    log_level: String,
    /// Make kernel maps so small that losses occur (testing)
    #[arg(long, env = "PROFILER_TINY_MAPS", hide = true, value_parser = clap::builder::FalseyValueParser::new(),
          num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    tiny_maps: bool,
}

/// Runs until told to end.
pub fn run(args: Args) -> anyhow::Result<Status> {
    let filter = EnvFilter::try_new(&args.log_level)
        .map_err(|error| WrongUsage(format!("wrong --log.level {}: {error}", args.log_level)))?;
    // A second start within one process keeps the first one's log.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none())
            .try_init(),
    );
    match daemon::run(sources(args), |address| super::print_note(&format!("profiler: serving http://{address}"))) {
        Ok(()) => Ok(Status::Done),
        Err(DaemonError::Settings(error @ (SettingsError::Wrong { .. } | SettingsError::Malformed { .. }))) => {
            Err(WrongUsage(error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn sources(args: Args) -> Sources {
    let no = |flag: bool| flag.then_some(false);
    let list = |patterns: Vec<String>| (!patterns.is_empty()).then_some(patterns);
    Sources {
        flags: Layer {
            node: args.node,
            window: args.window.map(Quantity),
            collect: CollectLayer {
                cpu: no(args.no_cpu),
                offcpu: no(args.no_offcpu),
                syscalls: no(args.no_syscalls),
                frequency: args.frequency,
                offcpu_threshold: args.offcpu_threshold.map(Quantity),
                lines: args.lines.then_some(true),
            },
            containers: ContainersLayer {
                container: list(args.container),
                pod: list(args.pod),
                namespace: list(args.namespace),
                runtime_sockets: list(args.runtime_sockets),
                cgroup_root: args.cgroup_root,
                labels: list(args.container_labels),
            },
            history: HistoryLayer {
                retention: args.retention.map(Quantity),
                max_bytes: args.max_bytes.map(Quantity),
                path: args.storage_path,
            },
            metrics: MetricsLayer { linger: args.linger.map(Quantity), max_series: args.max_series },
            web: WebLayer {
                listen_address: args.listen_address,
                config_file: args.web_config,
                allowed_hosts: list(args.allowed_hosts),
            },
            push: PushLayer {
                interval: args.push_interval.map(Quantity),
                pyroscope: DestinationLayer { url: args.push_pyroscope, ..DestinationLayer::default() },
                otlp: DestinationLayer { url: args.push_otlp, ..DestinationLayer::default() },
                ..PushLayer::default()
            },
        },
        file: args.config_file,
        tiny_maps: args.tiny_maps,
    }
}
