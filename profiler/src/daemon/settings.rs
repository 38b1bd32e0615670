//! What the daemon is told: flags and variables laid over a YAML file laid over defaults. In: the layers. Out: [`Settings`],
//! or what is wrong and where.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    http::host::Pattern,
    push::{
        PushSettings,
        destination::{self, Credentials, Destination, Protocol},
    },
    yaml_error,
};
use crate::{
    collect::{CollectOptions, Haste},
    container::{
        ContainerError, ResolverOptions, Selection,
        runtime::{labels::KeptLabels, parse_socket},
    },
    quantity::{parse_bytes, parse_duration},
};

/// Largest configuration file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Room for containers from the start: a node's daemon begins before its containers do.
const LEAST_CONTAINERS: u32 = 1024;

/// One layer of settings: what it leaves open, the layer below decides.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layer {
    /// Name of this node.
    pub node: Option<String>,
    /// Length of a window (`10s`).
    pub window: Option<Quantity<Duration>>,
    /// What is collected.
    pub collect: CollectLayer,
    /// Whose, and how containers are found.
    pub containers: ContainersLayer,
    /// What is kept.
    pub history: HistoryLayer,
    /// What is exposed.
    pub metrics: MetricsLayer,
    /// Where it is served.
    pub web: WebLayer,
    /// Where profiles are sent.
    pub push: PushLayer,
}

/// `collect:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectLayer {
    /// Sample on-CPU stacks.
    pub cpu: Option<bool>,
    /// Sample off-CPU stacks.
    pub offcpu: Option<bool>,
    /// Count syscalls.
    pub syscalls: Option<bool>,
    /// On-CPU samples a second on each CPU.
    pub frequency: Option<u32>,
    /// Off-CPU gaps shorter than this are sampled.
    pub offcpu_threshold: Option<Quantity<Duration>>,
    /// Look up file, line and inlined functions.
    pub lines: Option<bool>,
}

/// `containers:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainersLayer {
    /// Only containers with these names, id prefixes or globs.
    pub container: Option<Vec<String>>,
    /// Only containers of these pods.
    pub pod: Option<Vec<String>>,
    /// Only containers of these namespaces.
    pub namespace: Option<Vec<String>>,
    /// Sockets of runtimes, besides the well-known ones.
    pub runtime_sockets: Option<Vec<String>>,
    /// Where the host's cgroup hierarchy is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// Labels that are kept besides the well-known ones, by name or glob.
    pub labels: Option<Vec<String>>,
}

/// `history:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryLayer {
    /// How long windows are kept.
    pub retention: Option<Quantity<Duration>>,
    /// How much memory they may take.
    pub max_bytes: Option<Quantity<u64>>,
    /// Directory in which they survive a restart.
    pub path: Option<PathBuf>,
}

/// `metrics:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsLayer {
    /// How long a dead container's series stay.
    pub linger: Option<Quantity<Duration>>,
    /// Most series.
    pub max_series: Option<u32>,
}

/// `web:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebLayer {
    /// Address and port.
    pub listen_address: Option<String>,
    /// Exporter-toolkit web configuration.
    pub config_file: Option<PathBuf>,
    /// Hosts that requests may ask for, besides this one's names and addresses.
    pub allowed_hosts: Option<Vec<String>>,
}

/// `push:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushLayer {
    /// Windows of so long are sent together.
    pub interval: Option<Quantity<Duration>>,
    /// How long a request may take.
    pub timeout: Option<Quantity<Duration>>,
    /// How much may wait for each destination.
    pub max_bytes: Option<Quantity<u64>>,
    /// A Pyroscope server.
    pub pyroscope: DestinationLayer,
    /// A receiver of OTLP profiles over HTTP.
    pub otlp: DestinationLayer,
}

/// `push.pyroscope:` and `push.otlp:` of the file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DestinationLayer {
    /// The server's address.
    pub url: Option<String>,
    /// Headers of each request.
    pub headers: BTreeMap<String, String>,
    /// File with a token.
    pub bearer_token_file: Option<PathBuf>,
    /// A user and the file with the password.
    pub basic_auth: Option<BasicAuthLayer>,
    /// Authorities that may have signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// Labels, or attributes, of each profile.
    pub labels: BTreeMap<String, String>,
}

/// `basic_auth:` of a destination.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuthLayer {
    /// Who.
    pub username: String,
    /// File with the password.
    pub password_file: PathBuf,
}

/// A duration or a size, written as text with a unit or as a number of seconds or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity<T>(pub T);

impl<'de> Deserialize<'de> for Quantity<Duration> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        quantity(deserializer, parse_duration)
    }
}

impl<'de> Deserialize<'de> for Quantity<u64> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        quantity(deserializer, parse_bytes)
    }
}

/// Reads text with a unit.
fn quantity<'de, T, D: serde::Deserializer<'de>>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Quantity<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Quantity).map_err(serde::de::Error::custom)
}

/// Why settings cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file makes no sense.
    #[error("wrong configuration {}: {error}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where, and what is wrong.
        error: String,
    },
    /// One setting makes no sense.
    #[error("wrong setting {name}: {reason}")]
    Wrong {
        /// Which.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A setting about containers.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// What cannot change while the daemon runs.
    #[error("{name} cannot change while the daemon runs; restart it")]
    NeedsRestart {
        /// Which.
        name: &'static str,
    },
}

/// Everything settled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that they were read from.
    pub file: Option<PathBuf>,
    /// Name of this node, if the operator gave one.
    pub node: Option<String>,
    /// Length of a window.
    pub window: Duration,
    /// What to collect.
    pub collect: CollectSettings,
    /// What to keep.
    pub history: HistorySettings,
    /// What to expose.
    pub metrics: MetricsSettings,
    /// Where to listen.
    pub listen_address: SocketAddr,
    /// Exporter-toolkit web configuration.
    pub web_config: Option<PathBuf>,
    /// Hosts that requests may ask for, besides this one's names and addresses.
    pub allowed_hosts: Vec<Pattern>,
    /// Where profiles are sent.
    pub push: PushSettings,
}

/// What to collect, and of whom.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct CollectSettings {
    /// Sample on-CPU stacks.
    pub cpu: bool,
    /// Sample off-CPU stacks.
    pub offcpu: bool,
    /// Count syscalls.
    pub syscalls: bool,
    /// On-CPU sampling frequency in hertz.
    pub frequency_hz: u32,
    /// Off-CPU gaps shorter than this are sampled with probability gap / threshold.
    pub offcpu_threshold: Duration,
    /// File, line and inlined functions.
    pub lines: bool,
    /// Which containers, pods and namespaces; all if there are none.
    pub patterns: [Vec<String>; 3],
    /// Sockets of runtimes.
    pub runtime_sockets: Vec<String>,
    /// Where the cgroup hierarchy is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// Labels of containers that are kept besides the well-known ones.
    pub container_labels: Vec<String>,
    /// Make kernel maps so small that losses occur.
    pub tiny_maps: bool,
}

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistorySettings {
    /// How long.
    pub retention: Duration,
    /// How much memory, at most.
    pub max_bytes: u64,
    /// Where on disk, if at all.
    pub path: Option<PathBuf>,
}

/// What to expose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsSettings {
    /// How long a dead container's series stay.
    pub linger: Duration,
    /// Most series.
    pub max_series: usize,
}

/// Where the layers come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Flags and variables.
    pub flags: Layer,
    /// The YAML file.
    pub file: Option<PathBuf>,
    /// Make kernel maps so small that losses occur (testing).
    pub tiny_maps: bool,
}

impl Sources {
    /// Reads the file again and lays everything together.
    pub fn read(&self) -> Result<Settings, SettingsError> {
        let below = self.file.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let mut settings = settle(&self.flags, below)?;
        settings.file.clone_from(&self.file);
        settings.collect.tiny_maps = self.tiny_maps;
        Ok(settings)
    }
}

fn read_file(path: &Path) -> Result<Layer, SettingsError> {
    let unreadable = |error| SettingsError::Unreadable { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        let error = format!("it has {length} bytes; {MAX_FILE_BYTES} at most are read");
        return Err(SettingsError::Malformed { path: path.to_owned(), error });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text).map_err(|error| SettingsError::Malformed { path: path.to_owned(), error })
}

/// Reads the file's text; an error names the line and the key, and no value: the file holds secrets.
pub fn parse(text: &str) -> Result<Layer, String> {
    yaml_error::parse(text).map_err(|error| error.to_string())
}

/// The settings that a file's text alone makes.
pub fn settled(text: &str) -> Result<Settings, String> {
    settle(&Layer::default(), parse(text)?).map_err(|error| error.to_string())
}

fn settle(above: &Layer, below: Layer) -> Result<Settings, SettingsError> {
    let (collect, under) = (&above.collect, below.collect);
    let window = pick(above.window, below.window).map_or(Duration::from_secs(10), |window| window.0);
    bounded("window", window, Duration::from_secs(1), Duration::from_mins(1))?;
    let threshold = pick(collect.offcpu_threshold, under.offcpu_threshold)
        .map_or(Duration::from_millis(1), |threshold| threshold.0);
    bounded("collect.offcpu_threshold", threshold, Duration::from_nanos(1), Duration::from_secs(4))?;
    let frequency_hz = pick(collect.frequency, under.frequency).unwrap_or(99);
    if !(1..=10_000).contains(&frequency_hz) {
        let reason = format!("{frequency_hz} is not between 1 and 10000");
        return Err(SettingsError::Wrong { name: "collect.frequency", reason });
    }
    let (containers, under_containers) = (above.containers.clone(), below.containers);
    let list = |above: Option<Vec<String>>, below: Option<Vec<String>>| above.or(below).unwrap_or_default();
    let settings = CollectSettings {
        cpu: pick(collect.cpu, under.cpu).unwrap_or(true),
        offcpu: pick(collect.offcpu, under.offcpu).unwrap_or(true),
        syscalls: pick(collect.syscalls, under.syscalls).unwrap_or(true),
        frequency_hz,
        offcpu_threshold: threshold,
        lines: pick(collect.lines, under.lines).unwrap_or(false),
        patterns: [
            list(containers.container, under_containers.container),
            list(containers.pod, under_containers.pod),
            list(containers.namespace, under_containers.namespace),
        ],
        runtime_sockets: list(containers.runtime_sockets, under_containers.runtime_sockets),
        cgroup_root: containers.cgroup_root.or(under_containers.cgroup_root),
        container_labels: list(containers.labels, under_containers.labels),
        tiny_maps: false,
    };
    settings.options(None).map_err(without_values)?;
    let retention =
        pick(above.history.retention, below.history.retention).map_or(Duration::from_hours(1), |kept| kept.0);
    bounded("history.retention", retention, window, Duration::from_hours(744))?;
    let max_bytes = pick(above.history.max_bytes, below.history.max_bytes).map_or(64 << 20, |bytes| bytes.0);
    let linger = pick(above.metrics.linger, below.metrics.linger).map_or(Duration::from_mins(1), |linger| linger.0);
    let max_series = pick(above.metrics.max_series, below.metrics.max_series).unwrap_or(20_000) as usize;
    let address = above.web.listen_address.clone().or(below.web.listen_address);
    Ok(Settings {
        file: None,
        node: above.node.clone().or(below.node),
        window,
        collect: settings,
        history: HistorySettings { retention, max_bytes, path: above.history.path.clone().or(below.history.path) },
        metrics: MetricsSettings { linger, max_series },
        listen_address: listen_address(address.as_deref().unwrap_or("127.0.0.1:9590"))?,
        allowed_hosts: allowed_hosts(above.web.allowed_hosts.as_ref().or(below.web.allowed_hosts.as_ref()))?,
        web_config: above.web.config_file.clone().or(below.web.config_file),
        push: push(&above.push, below.push)?,
    })
}

fn push(above: &PushLayer, below: PushLayer) -> Result<PushSettings, SettingsError> {
    let interval = pick(above.interval, below.interval).map_or(Duration::from_secs(30), |interval| interval.0);
    bounded("push.interval", interval, Duration::from_secs(1), Duration::from_mins(10))?;
    let timeout = pick(above.timeout, below.timeout).map_or(Duration::from_secs(10), |timeout| timeout.0);
    bounded("push.timeout", timeout, Duration::from_millis(100), Duration::from_mins(5))?;
    let max_bytes = pick(above.max_bytes, below.max_bytes).map_or(16 << 20, |bytes| bytes.0);
    let layers = [
        ("push.pyroscope", Protocol::Pyroscope, above.pyroscope.url.as_ref(), below.pyroscope),
        ("push.otlp", Protocol::Otlp, above.otlp.url.as_ref(), below.otlp),
    ];
    let mut destinations = Vec::new();
    for (name, protocol, url, layer) in layers {
        let wrong = |reason| SettingsError::Wrong { name, reason };
        let Some(url) = url.or(layer.url.as_ref()).filter(|url| !url.is_empty()) else {
            if layer != DestinationLayer::default() {
                return Err(wrong("url is missing".to_owned()));
            }
            continue;
        };
        let credentials = match (layer.bearer_token_file, layer.basic_auth) {
            (None, None) => Credentials::None,
            (Some(path), None) => Credentials::Bearer(path),
            (None, Some(basic)) => Credentials::Basic(basic.username, basic.password_file),
            (Some(_), Some(_)) => return Err(wrong("give bearer_token_file or basic_auth, not both".to_owned())),
        };
        destinations.push(Destination {
            protocol,
            url: destination::url(protocol, url).map_err(wrong)?,
            headers: destination::headers(&layer.headers).map_err(wrong)?,
            credentials,
            ca_file: layer.ca_file,
            labels: layer.labels,
        });
    }
    Ok(PushSettings { interval, timeout, max_bytes, destinations })
}

/// An error about containers as one about the setting, whose value may be something else that was put in its position.
fn without_values(error: ContainerError) -> SettingsError {
    let (name, reason) = match error {
        ContainerError::BadPattern { what, reason, .. } => {
            let name = match what {
                "pods" => "containers.pod",
                "namespaces" => "containers.namespace",
                "labels" => "containers.labels",
                _ => "containers.container",
            };
            (name, format!("one of them is no pattern: {reason}"))
        }
        ContainerError::BadSocket(_) => {
            ("containers.runtime_sockets", "one of them is no path; write unix:///run/docker.sock".to_owned())
        }
        other => return SettingsError::Container(other),
    };
    SettingsError::Wrong { name, reason }
}

fn pick<T>(above: Option<T>, below: Option<T>) -> Option<T> {
    above.or(below)
}

fn bounded(name: &'static str, value: Duration, least: Duration, most: Duration) -> Result<(), SettingsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(SettingsError::Wrong { name, reason: format!("{value:?} is not between {least:?} and {most:?}") })
}

/// `ADDRESS:PORT`, or `:PORT` for every address, as Prometheus' own programs take it.
fn listen_address(text: &str) -> Result<SocketAddr, SettingsError> {
    let whole = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    let whole = whole.replace("localhost:", "127.0.0.1:");
    whole.parse().map_err(|_| SettingsError::Wrong {
        name: "web.listen_address",
        reason: "it is no address and port; write 127.0.0.1:9590, [::1]:9590 or :9590".to_owned(),
    })
}

fn allowed_hosts(given: Option<&Vec<String>>) -> Result<Vec<Pattern>, SettingsError> {
    let parsed = given.into_iter().flatten().map(|text| Pattern::parse(text)).collect::<Result<_, _>>();
    parsed.map_err(|reason| SettingsError::Wrong { name: "web.allowed_hosts", reason })
}

impl CollectSettings {
    /// For the collection.
    pub fn options(&self, node: Option<String>) -> Result<CollectOptions, ContainerError> {
        let [containers, pods, namespaces] = &self.patterns;
        let flags = [("--container", containers), ("--pod", pods), ("--namespace", namespaces)];
        let filters = flags
            .into_iter()
            .flat_map(|(flag, patterns)| patterns.iter().map(move |pattern| format!("{flag} {pattern}")))
            .collect();
        let sockets = self.runtime_sockets.iter().map(|text| parse_socket(text)).collect::<Result<_, _>>()?;
        Ok(CollectOptions {
            on_cpu: self.cpu,
            off_cpu: self.offcpu,
            syscalls: self.syscalls,
            frequency_hz: self.frequency_hz,
            offcpu_threshold: self.offcpu_threshold,
            lines: self.lines,
            threads: true,
            selection: Selection::parse(containers, pods, namespaces)?,
            filters,
            processes: Vec::new(),
            containers: ResolverOptions {
                cgroup_root: self.cgroup_root.clone(),
                sockets,
                labels: KeptLabels::parse(&self.container_labels)?,
                ..ResolverOptions::default()
            },
            node,
            least_containers: LEAST_CONTAINERS,
            kernel_log: false,
            tiny_maps: self.tiny_maps,
            haste: Haste::default(),
        })
    }
}

impl Settings {
    /// Whether the daemon can go on with these in the place of `old`.
    pub fn may_replace(&self, old: &Self) -> Result<(), SettingsError> {
        let fixed = [
            ("web.listen_address", self.listen_address != old.listen_address),
            ("web.allowed_hosts", self.allowed_hosts != old.allowed_hosts),
            ("web.config_file", self.web_config != old.web_config),
            ("history.path", self.history.path != old.history.path),
            ("push", self.push != old.push),
        ];
        match fixed.into_iter().find(|(_, changed)| *changed) {
            Some((name, _)) => Err(SettingsError::NeedsRestart { name }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(flags: &Layer, file: &str) -> Result<Settings, String> {
        settle(flags, parse(file)?).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_gives_the_documented_defaults() {
        let settings = settled(&Layer::default(), "").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.listen_address.to_string(), "127.0.0.1:9590");
        assert_eq!(settings.window, Duration::from_secs(10));
        assert_eq!(settings.history.max_bytes, 64 << 20);
        assert_eq!(settings.history.retention, Duration::from_hours(1));
        assert_eq!(settings.metrics.linger, Duration::from_mins(1));
        assert_eq!(settings.metrics.max_series, 20_000);
        assert!(settings.collect.cpu && settings.collect.offcpu && settings.collect.syscalls);
    }

    #[test]
    fn flags_lie_over_the_file_and_the_file_over_the_defaults() {
        let mut flags = Layer::default();
        flags.collect.frequency = Some(49);
        let file = "window: 5s\ncollect:\n  frequency: 19\n  syscalls: false\nhistory:\n  max_bytes: 8MB\n";
        let settings = settled(&flags, file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.collect.frequency_hz, 49);
        assert!(!settings.collect.syscalls);
        assert_eq!(settings.window, Duration::from_secs(5));
        assert_eq!(settings.history.max_bytes, 8_000_000);
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_line() {
        for (file, line) in [
            ("window: 10s\ncolect:\n  cpu: true\n", "2"),
            ("window: 10s\ncollect:\n  frequency: many\n", "3"),
            ("history:\n  retention: 5 parsecs\n", "2"),
            ("web: [1, 2\n", "1"),
        ] {
            assert!(parse(file).is_err_and(|error| error.starts_with(&format!("line {line}"))), "{file}");
        }
    }

    #[test]
    fn no_value_of_the_file_is_in_an_error_and_the_line_is_the_wrong_keys() {
        let push = "push:\n  interval: 30s\n  otlp:\n    url: http://127.0.0.1:9\n    headers:\n      X-Key: hunter2\n";
        for (file, at) in [
            (format!("{push}    labls:\n      a: b\n"), "line 7: push.otlp.labls: "),
            (format!("{push}    basic_auth: {{username: hunter2}}\n"), "line 7: push.otlp.basic_auth: password_file"),
            ("web:\n  listen_address: me:hunter2@host\n".to_owned(), "wrong setting web.listen_address: "),
            (
                "containers:\n  runtime_sockets: ['tcp://me:hunter2@host']\n".to_owned(),
                "wrong setting containers.runtime",
            ),
            ("containers:\n  pod: ['hunter2[']\n".to_owned(), "wrong setting containers.pod: "),
            ("containers:\n  labels: ['hunter2[']\n".to_owned(), "wrong setting containers.labels: "),
            ("push: {otlp: {url: 'http://host/?token=hunter2'}}".to_owned(), "wrong setting push.otlp: "),
            ("push: {otlp: {url: 'ftp://host/hunter2'}}".to_owned(), "wrong setting push.otlp: "),
            ("push: {otlp: {url: 'http://h', headers: {'X Key hunter2': a}}}".to_owned(), "wrong setting push.otlp: "),
            ("window: 10s\nhistory:\n  max_bytes: hunter2\n".to_owned(), "line 3: history.max_bytes: "),
            ("window: 10s\nmetrics:\n  linger: 5 hunter2\n".to_owned(), "line 3: metrics.linger: "),
        ] {
            let error = settled(&Layer::default(), &file).err().unwrap_or_default();
            assert!(error.starts_with(at) && !error.contains("hunter2"), "{file}\n{error}");
        }
    }

    #[test]
    fn labels_to_keep_come_from_the_file_or_above_it() {
        let file = "containers: {labels: [team, 'cost.example.org/*']}";
        let settings = settled(&Layer::default(), file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.collect.container_labels, ["team", "cost.example.org/*"]);
        let mut flags = Layer::default();
        flags.containers.labels = Some(vec!["owner".to_owned()]);
        let settings = settled(&flags, file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.collect.container_labels, ["owner"]);
    }

    #[test]
    fn figures_outside_their_bounds_are_refused_by_name() {
        for (file, name) in [
            ("window: 1ms", "window"),
            ("collect: {frequency: 0}", "collect.frequency"),
            ("collect: {offcpu_threshold: 5s}", "collect.offcpu_threshold"),
            ("history: {retention: 1s}", "history.retention"),
            ("web: {listen_address: nowhere}", "web.listen_address"),
            ("web: {allowed_hosts: ['a:1']}", "web.allowed_hosts"),
        ] {
            assert!(settled(&Layer::default(), file).is_err_and(|error| error.contains(name)), "{file}");
        }
    }

    #[test]
    fn an_address_may_leave_out_the_host() {
        for (text, address) in [(":9590", "[::]:9590"), ("localhost:1", "127.0.0.1:1"), ("0.0.0.0:80", "0.0.0.0:80")] {
            assert_eq!(listen_address(text).map(|address| address.to_string()).ok().as_deref(), Some(address));
        }
    }

    #[test]
    fn what_cannot_change_while_running_is_named() {
        let old = settled(&Layer::default(), "").unwrap_or_else(|error| panic!("{error}"));
        let new = settled(&Layer::default(), "web: {listen_address: ':1'}").unwrap_or_else(|error| panic!("{error}"));
        assert!(new.may_replace(&old).is_err_and(|error| error.to_string().contains("listen_address")));
        assert!(old.may_replace(&old).is_ok());
    }
}
