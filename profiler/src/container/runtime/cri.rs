//! CRI v1, which containerd and CRI-O speak to Kubernetes: the few messages and fields that name a container.
//!
//! The messages are written by hand with the field numbers of the public `api.proto` (package `runtime.v1`); what is not
//! listed here is skipped by the decoder.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Fault, Metadata};
use crate::container::identity::Runtime;

/// The largest answer that is accepted, as kubelet's.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// `VersionRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionRequest {
    /// CRI version of the client.
    #[prost(string, tag = "1")]
    pub version: String,
}

/// `VersionResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionResponse {
    /// `containerd` or `cri-o`.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
}

/// `ContainerFilter` and `PodSandboxFilter`, which agree in the field used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IdFilter {
    /// Id, or the beginning of one.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `ListContainersRequest` and `ListPodSandboxRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListRequest {
    /// Which; all without.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<IdFilter>,
}

/// `ListContainersResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersResponse {
    /// What was found.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

/// `Container`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// Full id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The pod's sandbox.
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    /// Name within the pod.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<ContainerMetadata>,
    /// Image, as an id with containerd.
    #[prost(message, optional, tag = "4")]
    pub image: Option<ImageSpec>,
    /// Labels.
    #[prost(map = "string, string", tag = "8")]
    pub labels: HashMap<String, String>,
}

/// `ContainerMetadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerMetadata {
    /// Name within the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number of the restart.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// `ImageSpec`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageSpec {
    /// Reference or id.
    #[prost(string, tag = "1")]
    pub image: String,
    /// What the user wrote.
    #[prost(string, tag = "18")]
    pub user_specified_image: String,
}

/// `ListPodSandboxResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxResponse {
    /// What was found.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

/// `PodSandbox`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    /// Full id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Which pod.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Labels.
    #[prost(map = "string, string", tag = "5")]
    pub labels: HashMap<String, String>,
}

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxMetadata {
    /// Pod name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Pod uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Pod namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Number of the sandbox.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

/// `ContainerStatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatusRequest {
    /// Full id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// `ContainerStatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatusResponse {
    /// The status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
}

/// `ContainerStatus`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatus {
    /// The image as it was asked for.
    #[prost(message, optional, tag = "8")]
    pub image: Option<ImageSpec>,
}

/// A connection to a CRI runtime.
pub struct Cri {
    channel: Channel,
    runtime: Runtime,
}

impl Cri {
    /// Connects and asks who is there.
    pub async fn connect(path: &Path) -> Result<Self, Fault> {
        let channel = channel(path).await.map_err(|error| Fault::Garbage(error.to_string()))?;
        let request = VersionRequest { version: "v1".to_owned() };
        let version: VersionResponse =
            call(&channel, "/runtime.v1.RuntimeService/Version", request).await.map_err(|status| {
                match status.code() {
                    Code::Unimplemented => Fault::NoCri,
                    Code::DeadlineExceeded => Fault::Hanging,
                    _ => Fault::Garbage(status.message().to_owned()),
                }
            })?;
        Ok(Self { channel, runtime: runtime_named(&version.runtime_name) })
    }

    /// Who is there.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// All containers and pod sandboxes, ended ones that are not removed yet included.
    pub async fn list(&self) -> Result<Vec<Metadata>, Fault> {
        let containers: ListContainersResponse = self.ask("ListContainers", ListRequest::default()).await?;
        let sandboxes: ListPodSandboxResponse = self.ask("ListPodSandbox", ListRequest::default()).await?;
        let pods: HashMap<&str, &PodSandbox> = sandboxes.items.iter().map(|pod| (pod.id.as_str(), pod)).collect();
        let mut found = Vec::new();
        for container in containers.containers {
            let pod = pods.get(container.pod_sandbox_id.as_str()).copied();
            found.push(from_container(container, pod, None, self.runtime));
        }
        found.extend(sandboxes.items.iter().map(|pod| from_sandbox(pod, self.runtime)));
        Ok(found)
    }

    /// One container or pod sandbox; `None` if it is not known.
    pub async fn inspect(&self, id: &str) -> Result<Option<Metadata>, Fault> {
        let only = |id: &str| ListRequest { filter: Some(IdFilter { id: id.to_owned() }) };
        let containers: ListContainersResponse = self.ask("ListContainers", only(id)).await?;
        let Some(container) = containers.containers.into_iter().find(|container| container.id == id) else {
            let sandboxes: ListPodSandboxResponse = self.ask("ListPodSandbox", only(id)).await?;
            return Ok(sandboxes.items.iter().find(|pod| pod.id == id).map(|pod| from_sandbox(pod, self.runtime)));
        };
        let sandboxes: ListPodSandboxResponse = self.ask("ListPodSandbox", only(&container.pod_sandbox_id)).await?;
        let request = ContainerStatusRequest { container_id: id.to_owned() };
        // Only the image's name is wanted of it, and the container may have been removed since.
        let status: Result<ContainerStatusResponse, Fault> = self.ask("ContainerStatus", request).await;
        let image = status.ok().and_then(|answer| answer.status).and_then(|status| status.image);
        Ok(Some(from_container(container, sandboxes.items.first(), image, self.runtime)))
    }

    async fn ask<Q, A>(&self, method: &str, request: Q) -> Result<A, Fault>
    where
        Q: prost::Message + Send + 'static,
        A: prost::Message + Default + Send + 'static,
    {
        let answer = call(&self.channel, &format!("/runtime.v1.RuntimeService/{method}"), request).await;
        answer.map_err(|status| match status.code() {
            Code::DeadlineExceeded => Fault::Hanging,
            code => Fault::Failed(format!("{method}: {code:?}: {}", status.message())),
        })
    }
}

/// A channel to the gRPC server at the Unix socket `path`.
pub async fn channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path: Arc<Path> = Arc::from(path);
    let connector = tower::service_fn(move |_: Uri| {
        let path = Arc::clone(&path);
        async move { UnixStream::connect(&*path).await.map(TokioIo::new) }
    });
    // The address is not used, but it becomes the :authority that servers check.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// One unary call of `method` (`/package.Service/Method`).
pub async fn call<Q, A>(channel: &Channel, method: &str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Send + 'static,
    A: prost::Message + Default + Send + 'static,
{
    let method = PathAndQuery::try_from(method).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    Ok(grpc.unary(Request::new(request), method, codec).await?.into_inner())
}

fn runtime_named(name: &str) -> Runtime {
    match name {
        "containerd" => Runtime::Containerd,
        "cri-o" => Runtime::CriO,
        "docker" => Runtime::Docker,
        _ => Runtime::Unknown,
    }
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The image's name; an id is none.
fn image_name(image: ImageSpec) -> Option<String> {
    text(image.user_specified_image).or(text(image.image)).filter(|name| !name.starts_with("sha256:"))
}

fn from_container(
    container: Container,
    pod: Option<&PodSandbox>,
    image: Option<ImageSpec>,
    runtime: Runtime,
) -> Metadata {
    let name = container.metadata.and_then(|metadata| text(metadata.name));
    let pod = pod.and_then(|pod| pod.metadata.clone()).unwrap_or_default();
    let metadata = Metadata {
        id: container.id,
        runtime,
        name: name.clone(),
        image: image.and_then(image_name).or(container.image.and_then(image_name)),
        pod: text(pod.name),
        namespace: text(pod.namespace),
        container: name,
        labels: sorted(container.labels),
        ..Metadata::default()
    };
    metadata.with_pod_of_labels().with_pod_as_labelled()
}

fn from_sandbox(sandbox: &PodSandbox, runtime: Runtime) -> Metadata {
    let pod = sandbox.metadata.clone().unwrap_or_default();
    let metadata = Metadata {
        id: sandbox.id.clone(),
        runtime,
        pod: text(pod.name),
        namespace: text(pod.namespace),
        labels: sorted(sandbox.labels.clone()),
        ..Metadata::default()
    };
    metadata.with_pod_of_labels().with_pod_as_labelled()
}

fn sorted(labels: HashMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> PodSandbox {
        let metadata = PodSandboxMetadata {
            name: "pod-1".to_owned(),
            uid: "u".to_owned(),
            namespace: "shop".to_owned(),
            attempt: 0,
        };
        PodSandbox { id: "sb".to_owned(), metadata: Some(metadata), labels: HashMap::new() }
    }

    #[test]
    fn a_container_takes_its_pod_from_the_sandbox_and_its_image_from_the_status() {
        let container = Container {
            id: "abc".to_owned(),
            pod_sandbox_id: "sb".to_owned(),
            metadata: Some(ContainerMetadata { name: "app".to_owned(), attempt: 2 }),
            image: Some(ImageSpec { image: "sha256:12".to_owned(), user_specified_image: String::new() }),
            labels: HashMap::from([("tier".to_owned(), "front".to_owned())]),
        };
        let image = ImageSpec { image: "docker.io/library/box:1".to_owned(), user_specified_image: String::new() };
        let found = from_container(container.clone(), Some(&sandbox()), Some(image), Runtime::Containerd);
        assert_eq!((found.pod.as_deref(), found.namespace.as_deref()), (Some("pod-1"), Some("shop")));
        assert_eq!((found.container.as_deref(), found.name.as_deref()), (Some("app"), Some("app")));
        assert_eq!(found.image.as_deref(), Some("docker.io/library/box:1"));
        assert_eq!(found.labels["tier"], "front");
        assert_eq!(from_container(container, None, None, Runtime::Containerd).image, None);
    }

    #[test]
    fn a_sandbox_is_its_pod_and_no_container_of_it() {
        let found = from_sandbox(&sandbox(), Runtime::CriO);
        assert_eq!((found.pod.as_deref(), found.container), (Some("pod-1"), None));
        assert_eq!(found.runtime, Runtime::CriO);
        let empty = from_sandbox(&PodSandbox { id: "x".to_owned(), ..PodSandbox::default() }, Runtime::CriO);
        assert_eq!((empty.pod, empty.namespace), (None, None));
    }

    #[test]
    fn runtimes_are_known_by_the_name_they_give() {
        let names = ["containerd", "cri-o", "docker", "other"].map(runtime_named);
        assert_eq!(names, [Runtime::Containerd, Runtime::CriO, Runtime::Docker, Runtime::Unknown]);
    }
}
