//! What can be said of a window without reading its profile: who was there, and each one's ledger. In: profiles. Out: a few
//! kilobytes, and from them the containers of a window without other figures than their ledgers.
//!
//! An hour of a busy node is a hundred windows of hundreds of containers, most of which have gone meanwhile; what is kept of
//! each is compressed. It never leaves the process, so its format is nobody else's business.

use std::collections::BTreeMap;

use prost::Message;

use crate::profile::{Container, Ledger, Profile};

/// Names resemble one another, figures do not: more effort finds little more.
const COMPRESSION_LEVEL: i32 = 1;

/// What a summary says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Time that the hypervisor gave to others, in nanoseconds.
    pub steal_ns: u64,
    /// Who was there, with nothing measured but the ledger.
    pub containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint64, tag = "1")]
    steal_ns: u64,
    #[prost(message, repeated, tag = "2")]
    containers: Vec<StoredContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, optional, tag = "3")]
    image: Option<String>,
    #[prost(string, tag = "4")]
    runtime: String,
    #[prost(string, optional, tag = "5")]
    pod: Option<String>,
    #[prost(string, optional, tag = "6")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "7")]
    container: Option<String>,
    #[prost(btree_map = "string, string", tag = "8")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "9")]
    cgroup: String,
    #[prost(double, optional, tag = "10")]
    cpu_limit_cores: Option<f64>,
    /// In the order of [`Ledger::figures`].
    #[prost(uint64, repeated, tag = "11")]
    ledger: Vec<u64>,
}

impl From<&Container> for StoredContainer {
    fn from(container: &Container) -> Self {
        let mut ledger = container.ledger;
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            image: container.image.clone(),
            runtime: container.runtime.clone(),
            pod: container.pod.clone(),
            namespace: container.namespace.clone(),
            container: container.container.clone(),
            labels: container.labels.clone(),
            cgroup: container.cgroup.clone(),
            cpu_limit_cores: container.cpu_limit_cores,
            ledger: ledger.figures().map(|figure| *figure).to_vec(),
        }
    }
}

impl From<StoredContainer> for Container {
    fn from(stored: StoredContainer) -> Self {
        let mut ledger = Ledger::default();
        for (figure, stored) in ledger.figures().into_iter().zip(stored.ledger) {
            *figure = stored;
        }
        Self {
            id: stored.id,
            name: stored.name,
            image: stored.image,
            runtime: stored.runtime,
            pod: stored.pod,
            namespace: stored.namespace,
            container: stored.container,
            labels: stored.labels,
            cgroup: stored.cgroup,
            cpu_limit_cores: stored.cpu_limit_cores,
            ledger,
            ..Self::default()
        }
    }
}

/// Summarizes a profile.
pub fn write(profile: &Profile) -> std::io::Result<Vec<u8>> {
    let containers = profile.containers.iter().map(StoredContainer::from).collect();
    zstd::bulk::compress(&Stored { steal_ns: profile.host.steal_ns, containers }.encode_to_vec(), COMPRESSION_LEVEL)
}

/// Reads what [`write()`] wrote.
pub fn read(summary: &[u8]) -> std::io::Result<Summary> {
    let stored = Stored::decode(zstd::decode_all(summary)?.as_slice())?;
    let containers = stored.containers.into_iter().map(Container::from).collect();
    Ok(Summary { steal_ns: stored.steal_ns, containers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::testing;

    #[test]
    fn descriptions_and_ledgers_come_back_and_nothing_else() -> std::io::Result<()> {
        let mut profile = testing::profile();
        profile.host.steal_ns = 7;
        profile.containers[0].labels.insert("team".to_owned(), "shop".to_owned());
        let summary = read(&write(&profile)?)?;
        assert_eq!((summary.steal_ns, summary.containers.len()), (7, profile.containers.len()));
        for (read, written) in summary.containers.iter().zip(&profile.containers) {
            assert_eq!((&read.labels, read.cpu_limit_cores), (&written.labels, written.cpu_limit_cores));
            let who = |container: &Container| {
                let Container { id, name, image, runtime, pod, namespace, container, cgroup, .. } = container.clone();
                (id, name, image, runtime, pod, namespace, container, cgroup)
            };
            assert_eq!(who(read), who(written));
            assert_eq!(read.ledger, written.ledger);
            assert!(read.syscalls.is_empty());
        }
        assert!(read(b"no summary").is_err());
        Ok(())
    }
}
