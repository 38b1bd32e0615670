//! What Podman does its own way: it has no daemon as a rule, so its storage is what names a container.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Metadata, containerd};
use crate::container::identity::Runtime;

/// One entry of the `containers.json` that Podman and CRI-O keep in their common storage.
#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON within JSON.
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
struct StoredMetadata {
    #[serde(rename = "image-name")]
    image_name: Option<String>,
    #[serde(rename = "pod-name")]
    pod_name: Option<String>,
}

/// What storage root `root` holds about container `id`: the list of containers, or the bundle of a running one.
pub fn read_state(root: &Path, id: &str) -> Option<Metadata> {
    let directories = fs::read_dir(root).ok()?;
    // `overlay-containers`, `vfs-containers`, …: one a storage driver.
    let drivers = directories.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with("-containers"));
    drivers.into_iter().find_map(|driver| {
        let driver = driver.path();
        let listed =
            ["containers.json", "volatile-containers.json"].iter().find_map(|file| listed(&driver.join(file), id));
        let bundle = containerd::read_bundle(&driver.join(id).join("userdata"), id);
        match (listed, bundle) {
            (Some(mut listed), Some(bundle)) => {
                listed.merge(Metadata { name: None, ..bundle });
                Some(listed)
            }
            (listed, bundle) => listed.or(bundle),
        }
    })
}

fn listed(file: &Path, id: &str) -> Option<Metadata> {
    let containers: Vec<Stored> = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let found = containers.into_iter().find(|container| container.id == id)?;
    let more: StoredMetadata = serde_json::from_str(&found.metadata).unwrap_or_default();
    // CRI-O notes the pod there, Podman does not.
    let runtime = if more.pod_name.is_some() { Runtime::CriO } else { Runtime::Podman };
    Some(Metadata {
        id: found.id,
        runtime,
        name: found.names.into_iter().next(),
        image: more.image_name.filter(|image| !image.is_empty()),
        ..Metadata::default()
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    #[test]
    fn storage_names_a_container_without_any_daemon() {
        let root = tempfile::tempdir().unwrap();
        let containers = root.path().join("vfs-containers");
        fs::create_dir_all(&containers).unwrap();
        let list = r#"[{"id":"abc","names":["web"],"metadata":"{\"image-name\":\"localhost/box:1\",\"name\":\"web\"}"},
                       {"id":"def","names":["k8s_c"],"metadata":"{\"pod-name\":\"p\"}"},{"id":"ghi"}]"#;
        fs::write(containers.join("containers.json"), list).unwrap();
        let found = read_state(root.path(), "abc").unwrap();
        assert_eq!((found.name.as_deref(), found.image.as_deref()), (Some("web"), Some("localhost/box:1")));
        assert_eq!(found.runtime, Runtime::Podman);
        assert_eq!(read_state(root.path(), "def").unwrap().runtime, Runtime::CriO);
        assert_eq!(read_state(root.path(), "ghi").unwrap().name, None);
        assert_eq!(read_state(root.path(), "nobody"), None);
        assert_eq!(read_state(&root.path().join("gone"), "abc"), None);
    }

    #[test]
    fn the_bundle_of_a_running_container_adds_its_pod() {
        let root = tempfile::tempdir().unwrap();
        let userdata = root.path().join("overlay-containers/def/userdata");
        fs::create_dir_all(&userdata).unwrap();
        let config = r#"{"annotations":{"io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n",
            "io.kubernetes.container.name":"c","io.kubernetes.cri-o.ImageName":"img:2","io.container.manager":"cri-o"}}"#;
        fs::write(userdata.join("config.json"), config).unwrap();
        let found = read_state(root.path(), "def").unwrap();
        assert_eq!((found.labelled.pod.as_deref(), found.labelled.namespace.as_deref()), (Some("p"), Some("n")));
        assert_eq!((found.image.as_deref(), found.runtime), (Some("img:2"), Runtime::CriO));
        fs::write(
            root.path().join("overlay-containers/containers.json"),
            r#"[{"id":"def","names":["k8s_c_p"],"metadata":"{\"pod-name\":\"p\",\"image-name\":\"img:1\"}"}]"#,
        )
        .unwrap();
        let found = read_state(root.path(), "def").unwrap();
        assert_eq!((found.name.as_deref(), found.labelled.pod.as_deref()), (Some("k8s_c_p"), Some("p")));
    }
}
