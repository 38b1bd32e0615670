//! Docker's API, which Podman speaks too, and Docker's state files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerSummary, EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Fault, Metadata, REQUEST_TIMEOUT};
use crate::container::identity::Runtime;

/// A connection to Docker Engine or Podman.
pub struct Engine {
    client: Docker,
    runtime: Runtime,
}

impl Engine {
    /// Connects and finds out which of the two it is, and which version of the API it speaks.
    pub async fn connect(path: &Path) -> Result<Self, Fault> {
        let (version, runtime) = ping(path).await?;
        let version = if version < *API_DEFAULT_VERSION { &version } else { API_DEFAULT_VERSION };
        let path = path.to_string_lossy();
        let client = Docker::connect_with_unix(&path, REQUEST_TIMEOUT.as_secs(), version).map_err(fault)?;
        Ok(Self { client, runtime })
    }

    /// Which of the two it is.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// All running containers.
    pub async fn list(&self) -> Result<Vec<Metadata>, Fault> {
        let found = self.client.list_containers(None).await.map_err(fault)?;
        Ok(found.into_iter().filter_map(|summary| from_summary(summary, self.runtime)).collect())
    }

    /// One container; `None` if it is not known.
    pub async fn inspect(&self, id: &str) -> Result<Option<Metadata>, Fault> {
        match self.client.inspect_container(id, None).await {
            Ok(answer) => Ok(from_inspect(answer, self.runtime)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(fault(error)),
        }
    }

    /// What containers that begin from now on are: a runtime says so before their first process runs.
    pub fn events(&self) -> impl Stream<Item = Result<Option<Metadata>, Fault>> + Send {
        let of_containers = HashMap::from([("type", vec!["container"])]);
        let options = EventsOptionsBuilder::new().filters(&of_containers).build();
        let runtime = self.runtime;
        let events = self.client.events(Some(options));
        events.map(move |event| event.map(|message| from_event(message, runtime)).map_err(fault))
    }
}

/// Asks `/_ping`, whose answer's headers tell the API's version and whether it is Podman. `/version` would tell, too, but
/// lets Podman look at all its containers, and wait for those that somebody is starting.
async fn ping(path: &Path) -> Result<(ClientVersion, Runtime), Fault> {
    let failed = |error: io::Error| Fault::Failed(error.to_string());
    let mut stream = UnixStream::connect(path).await.map_err(failed)?;
    let request = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(failed)?;
    let mut answer = Vec::new();
    // A runtime that is none may say anything at any length.
    stream.take(64 << 10).read_to_end(&mut answer).await.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    parse_ping(&answer).ok_or_else(|| {
        let first: String = answer.lines().next().unwrap_or_default().chars().take(60).collect();
        Fault::Garbage(format!("to a ping it says {first:?}"))
    })
}

/// The headers that matter of the answer to a ping.
fn parse_ping(answer: &str) -> Option<(ClientVersion, Runtime)> {
    let mut lines = answer.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    if status != "200" {
        return None;
    }
    let headers: Vec<(String, &str)> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let (major, minor) = header("api-version")?.split_once('.')?;
    let version = ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? };
    let runtime = if header("libpod-api-version").is_some() { Runtime::Podman } else { Runtime::Docker };
    Some((version, runtime))
}

fn fault(error: Error) -> Fault {
    match error {
        Error::RequestTimeoutError => Fault::Hanging,
        Error::SocketNotFoundError(_) => Fault::Missing,
        other => Fault::Failed(other.to_string()),
    }
}

fn name_of(name: &str) -> Option<String> {
    let name = name.trim_start_matches('/');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The number of a process; an ended container has 0.
fn pid_of(pid: i64) -> Option<u32> {
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

fn image_of(image: Option<String>) -> Option<String> {
    image.filter(|image| !image.is_empty())
}

fn from_summary(summary: ContainerSummary, runtime: Runtime) -> Option<Metadata> {
    let names = summary.names.unwrap_or_default();
    // A linked container has further names below the other's: `/web/db`.
    let name = names.iter().find(|name| !name.trim_start_matches('/').contains('/')).or(names.first());
    let metadata = Metadata {
        id: summary.id?,
        runtime,
        name: name.and_then(|name| name_of(name)),
        image: image_of(summary.image),
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        ..Metadata::default()
    };
    Some(metadata.with_pod_of_labels())
}

fn from_inspect(answer: ContainerInspectResponse, runtime: Runtime) -> Option<Metadata> {
    let config = answer.config.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let quota = match (host.cpu_quota, host.cpu_period) {
        (Some(quota), Some(period)) if quota > 0 && period > 0 => Some(quota as f64 / period as f64),
        // The kernel's default period.
        (Some(quota), _) if quota > 0 => Some(quota as f64 / 100_000.0),
        _ => None,
    };
    let pid = answer.state.and_then(|state| state.pid).and_then(pid_of);
    let metadata = Metadata {
        id: answer.id?,
        runtime,
        name: answer.name.as_deref().and_then(name_of),
        image: image_of(config.image).or(image_of(answer.image)),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        cpu_limit_cores: host.nano_cpus.filter(|nano| *nano > 0).map(|nano| nano as f64 / 1e9).or(quota),
        pid,
        ..Metadata::default()
    };
    Some(metadata.with_pod_of_labels())
}

fn from_event(message: EventMessage, runtime: Runtime) -> Option<Metadata> {
    let named = matches!(message.action.as_deref(), Some("create" | "init" | "start" | "rename"));
    if message.typ != Some(EventMessageTypeEnum::CONTAINER) || !named {
        return None;
    }
    let actor = message.actor?;
    // Labels share the attributes with the event's own fields.
    let mut labels: BTreeMap<String, String> = actor.attributes.unwrap_or_default().into_iter().collect();
    let name = labels.remove("name");
    let image = labels.remove("image");
    for own in ["containerExitCode", "podId", "execID", "exitCode", "oldName"] {
        labels.remove(own);
    }
    let metadata = Metadata {
        id: actor.id?,
        runtime,
        name: name.as_deref().and_then(name_of),
        image: image_of(image),
        labels,
        ..Metadata::default()
    };
    Some(metadata.with_pod_of_labels())
}

/// The part of `config.v2.json` that names a container.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    name: String,
    config: Option<StateConfig>,
    #[serde(rename = "State")]
    process: Option<StateProcess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateProcess {
    #[serde(default)]
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateConfig {
    image: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// What Docker wrote about container `id` below its data root.
pub fn read_state(root: &Path, id: &str) -> Option<Metadata> {
    let text = fs::read(root.join("containers").join(id).join("config.v2.json")).ok()?;
    let state: State = serde_json::from_slice(&text).ok()?;
    let (image, labels) = state.config.map(|config| (config.image, config.labels)).unwrap_or_default();
    let metadata = Metadata {
        id: state.id,
        runtime: Runtime::Docker,
        name: name_of(&state.name),
        image: image_of(image),
        labels: labels.unwrap_or_default(),
        pid: state.process.and_then(|state| pid_of(state.pid)),
        ..Metadata::default()
    };
    (metadata.id == id).then(|| metadata.with_pod_of_labels())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::super::PodNames;
    use super::*;

    #[test]
    fn a_ping_tells_version_and_runtime() {
        let docker = "HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nServer: Docker/28\r\n\r\nOK";
        let (version, runtime) = parse_ping(docker).unwrap();
        assert_eq!((version.major_version, version.minor_version, runtime), (1, 43, Runtime::Docker));
        let podman = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nLibpod-Api-Version: 4.3.1\r\n\r\nOK";
        assert_eq!(parse_ping(podman).unwrap().1, Runtime::Podman);
        for nonsense in ["", "SSH-2.0", "HTTP/1.1 500 Broken\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nApi-Version: 1.43\r\n"] {
            assert!(parse_ping(nonsense).is_none(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_listed_container_keeps_its_own_name_and_its_pod() {
        let text = r#"{"Id":"abc","Names":["/other/link","/web"],"Image":"nginx:1","Labels":{
            "io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n","io.kubernetes.container.name":"c"}}"#;
        let found = from_summary(serde_json::from_str(text).unwrap(), Runtime::Docker).unwrap();
        assert_eq!((found.id.as_str(), found.name.as_deref()), ("abc", Some("web")));
        assert_eq!(found.image.as_deref(), Some("nginx:1"));
        assert_eq!(found.pod, None, "whoever may run a container may give it any label");
        let pod = PodNames { pod: Some("p".into()), namespace: Some("n".into()), container: Some("c".into()) };
        assert_eq!(found.labelled, pod);
        assert_eq!(from_summary(serde_json::from_str("{}").unwrap(), Runtime::Docker), None);
    }

    #[test]
    fn an_inspected_container_tells_its_limit_in_cores() {
        let inspect = |host: &str| {
            let text = format!(
                r#"{{"Id":"abc","Name":"/web","Image":"sha256:1","Config":{{"Image":"nginx"}},"HostConfig":{host}}}"#
            );
            from_inspect(serde_json::from_str(&text).unwrap(), Runtime::Podman).unwrap()
        };
        let found = inspect(r#"{"NanoCpus":300000000}"#);
        assert_eq!((found.name.as_deref(), found.image.as_deref()), (Some("web"), Some("nginx")));
        assert_eq!((found.runtime, found.cpu_limit_cores), (Runtime::Podman, Some(0.3)));
        assert_eq!(inspect(r#"{"CpuQuota":50000,"CpuPeriod":200000}"#).cpu_limit_cores, Some(0.25));
        assert_eq!(inspect(r#"{"CpuQuota":50000}"#).cpu_limit_cores, Some(0.5));
        assert_eq!(inspect(r#"{"NanoCpus":0}"#).cpu_limit_cores, None);
        let state = |pid| format!(r#"{{"Id":"abc","State":{{"Pid":{pid}}}}}"#);
        let inspect = |pid| from_inspect(serde_json::from_str(&state(pid)).unwrap(), Runtime::Docker).unwrap();
        assert_eq!([4711, 0, -1, i64::MAX].map(|pid| inspect(pid).pid), [Some(4711), None, None, None]);
        assert_eq!(from_inspect(ContainerInspectResponse::default(), Runtime::Docker), None);
    }

    #[test]
    fn the_event_of_a_beginning_container_names_it() {
        let event = |kind: &str, action: &str| {
            let text = format!(
                r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"abc","Attributes":{{"name":"web","image":"nginx","tier":"front","exitCode":"0"}}}}}}"#
            );
            from_event(serde_json::from_str(&text).unwrap(), Runtime::Docker)
        };
        let found = event("container", "create").unwrap();
        assert_eq!((found.name.as_deref(), found.image.as_deref()), (Some("web"), Some("nginx")));
        assert_eq!(found.labels, BTreeMap::from([("tier".to_owned(), "front".to_owned())]));
        assert_eq!(event("container", "die"), None);
        assert_eq!(event("network", "create"), None);
        let nobody = r#"{"Type":"container","Action":"start"}"#;
        assert_eq!(from_event(serde_json::from_str(nobody).unwrap(), Runtime::Docker), None);
    }

    #[test]
    fn state_files_name_a_container_when_the_daemon_does_not() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("containers/abc");
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(read_state(root.path(), "abc"), None);
        let text = r#"{"ID":"abc","Name":"/web","Config":{"Image":"nginx","Labels":{"a":"b"}},"Path":"sh"}"#;
        fs::write(directory.join("config.v2.json"), text).unwrap();
        let found = read_state(root.path(), "abc").unwrap();
        assert_eq!((found.name.as_deref(), found.image.as_deref()), (Some("web"), Some("nginx")));
        assert_eq!(found.labels["a"], "b");
        fs::write(directory.join("config.v2.json"), &text[..20]).unwrap();
        assert_eq!(read_state(root.path(), "abc"), None);
        fs::write(directory.join("config.v2.json"), r#"{"ID":"another"}"#).unwrap();
        assert_eq!(read_state(root.path(), "abc"), None);
    }

    #[test]
    fn errors_of_the_client_become_named_faults() {
        assert_eq!(fault(Error::RequestTimeoutError), Fault::Hanging);
        assert_eq!(fault(Error::SocketNotFoundError(String::new())), Fault::Missing);
        assert!(matches!(fault(Error::APIVersionParseError {}), Fault::Failed(_)));
    }
}
