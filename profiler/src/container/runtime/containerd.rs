//! containerd without asking it: the OCI bundle of a running task names its container, pod and image in annotations.
//!
//! Bundles are how a container keeps its name while its runtime is down, and how containers are named that were made
//! through containerd's own API (nerdctl) and not through CRI.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Metadata, PodNames};
use crate::container::identity::Runtime;

#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The bundle of container `id` in any namespace below `root`.
pub fn read_state(root: &Path, id: &str) -> Option<Metadata> {
    fs::read_dir(root).ok()?.flatten().find_map(|namespace| read_bundle(&namespace.path().join(id), id))
}

/// What the `config.json` in `bundle` says; `None` if it names nothing.
pub fn read_bundle(bundle: &Path, id: &str) -> Option<Metadata> {
    let text = fs::read(bundle.join("config.json")).ok()?;
    let bundle: Bundle = serde_json::from_slice(&text).ok()?;
    from_annotations(id, &bundle.annotations)
}

fn from_annotations(id: &str, annotations: &BTreeMap<String, String>) -> Option<Metadata> {
    let any =
        |keys: &[&str]| keys.iter().find_map(|key| annotations.get(*key)).filter(|text| !text.is_empty()).cloned();
    let mut metadata = Metadata {
        id: id.to_owned(),
        name: any(&["nerdctl/name"]),
        image: any(&["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]),
        labelled: PodNames {
            pod: any(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
            namespace: any(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
            // The sandbox is not a container of its pod.
            container: any(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name"])
                .filter(|name| name != "POD"),
        },
        ..Metadata::default()
    };
    let crio = annotations.keys().any(|key| key.starts_with("io.kubernetes.cri-o."));
    let containerd = annotations.keys().any(|key| key.starts_with("io.kubernetes.cri.") || key.starts_with("nerdctl/"));
    metadata.runtime = match (crio, containerd) {
        (true, _) => Runtime::CriO,
        (false, true) => Runtime::Containerd,
        (false, false) => Runtime::Unknown,
    };
    // CRI-O keeps the labels as JSON in one annotation.
    if let Some(labels) = annotations.get("io.kubernetes.cri-o.Labels") {
        metadata.labels = serde_json::from_str(labels).unwrap_or_default();
    }
    let metadata = metadata.with_pod_of_labels();
    (metadata.name.is_some() || metadata.labelled.pod.is_some()).then_some(metadata)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_containerd_is_named_by_its_bundle() {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("k8s.io/abc");
        fs::create_dir_all(&bundle).unwrap();
        let config = r#"{"ociVersion":"1.0","annotations":{"io.kubernetes.cri.container-name":"app",
            "io.kubernetes.cri.image-name":"img:1","io.kubernetes.cri.sandbox-name":"pod-1",
            "io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
        fs::write(bundle.join("config.json"), config).unwrap();
        let found = read_state(root.path(), "abc").unwrap();
        assert_eq!(found.runtime, Runtime::Containerd);
        assert_eq!(found.labelled.container.as_deref(), Some("app"));
        assert_eq!((found.labelled.pod.as_deref(), found.labelled.namespace.as_deref()), (Some("pod-1"), Some("shop")));
        assert_eq!(found.image.as_deref(), Some("img:1"));
        assert_eq!(read_state(root.path(), "other"), None);
        assert_eq!(read_state(&root.path().join("gone"), "abc"), None);
    }

    #[test]
    fn cri_o_labels_and_nerdctl_names_are_understood() {
        let labels =
            r#"{"io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n","io.kubernetes.container.name":"POD"}"#;
        let annotations = BTreeMap::from([("io.kubernetes.cri-o.Labels".to_owned(), labels.to_owned())]);
        let found = from_annotations("abc", &annotations).unwrap();
        assert_eq!(
            (found.runtime, found.labelled.pod.as_deref(), found.labelled.container),
            (Runtime::CriO, Some("p"), None)
        );
        let annotations = BTreeMap::from([("nerdctl/name".to_owned(), "web".to_owned())]);
        let found = from_annotations("abc", &annotations).unwrap();
        assert_eq!((found.runtime, found.name.as_deref()), (Runtime::Containerd, Some("web")));
    }

    #[test]
    fn a_bundle_that_names_nothing_or_is_broken_tells_nothing() {
        assert_eq!(from_annotations("abc", &BTreeMap::new()), None);
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("config.json"), "{").unwrap();
        assert_eq!(read_bundle(root.path(), "abc"), None);
    }
}
