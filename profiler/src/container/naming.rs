//! What a container is called: everything known about it in, a display name that is unique on this host out.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::resolver::ContainerKey;

/// Digits of an id that stand for a container without a name.
const SHORT_ID: usize = 12;

/// Everything known about a container, a systemd unit or the host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// What it is described for.
    #[serde(skip)]
    pub key: ContainerKey,
    /// Full container id; empty for a unit and for `host`.
    pub id: String,
    /// Unique display name.
    pub name: String,
    /// Image reference, if a runtime told.
    pub image: Option<String>,
    /// `docker`, `podman`, `containerd`, `cri-o` or `host`; `unknown` if neither path nor runtime told.
    pub runtime: &'static str,
    /// Kubernetes pod name.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Its own name within its pod, or the runtime's name.
    pub container: Option<String>,
    /// Labels that the runtime keeps for it.
    pub labels: BTreeMap<String, String>,
    /// Path of its topmost cgroup, starting with `/`.
    pub cgroup: String,
    /// CPU limit in cores.
    #[serde(rename = "cpu_limit")]
    pub cpu_limit_cores: Option<f64>,
    /// Whether a user chose what it is called, and not root.
    #[serde(skip)]
    pub by_user: bool,
}

impl Description {
    /// The first digits of its id; all of a unit's or the host's name.
    pub fn short_id(&self) -> &str {
        if self.id.is_empty() { &self.name } else { short(&self.id) }
    }

    /// The name it would like to have; not unique.
    pub(super) fn wanted_name(&self) -> String {
        match (&self.namespace, &self.pod, &self.container) {
            (namespace, Some(pod), container) => {
                let parts = [namespace.as_deref(), Some(pod), container.as_deref()];
                parts.into_iter().flatten().collect::<Vec<_>>().join("/")
            }
            (_, None, Some(container)) => container.clone(),
            (_, None, None) => self.short_id().to_owned(),
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// Gives every description a name of its own: the one it wants, `name@runtime` where several want the same, and
/// `name@short id` where that does not tell them apart either. What a user made gives way first: its name is told apart by
/// the user's manager (`user@1000.service/pipewire.service`), or by its whole path, and nobody else's changes for its sake.
pub(super) fn name_all(descriptions: &mut [Description]) {
    let wanted: Vec<String> = descriptions.iter().map(Description::wanted_name).collect();
    let mut names = wanted.clone();
    let further: [fn(&str, &Description) -> String; 5] = [
        |wanted, one| if one.by_user { with_manager(wanted, &one.cgroup) } else { wanted.to_owned() },
        |wanted, one| if one.by_user { one.cgroup.clone() } else { wanted.to_owned() },
        |wanted, container| match &container.key {
            ContainerKey::Unit(_) | ContainerKey::Delegated(_) => with_manager(wanted, &container.cgroup),
            ContainerKey::Container(_) => format!("{wanted}@{}", container.runtime),
            ContainerKey::Host => wanted.to_owned(),
        },
        |wanted, container| match &container.key {
            ContainerKey::Unit(_) | ContainerKey::Delegated(_) => container.cgroup.clone(),
            ContainerKey::Container(_) => format!("{wanted}@{}", short(&container.id)),
            ContainerKey::Host => wanted.to_owned(),
        },
        |wanted, container| match &container.key {
            ContainerKey::Container(id) => format!("{wanted}@{id}"),
            ContainerKey::Unit(_) | ContainerKey::Delegated(_) => container.cgroup.clone(),
            ContainerKey::Host => wanted.to_owned(),
        },
    ];
    for longer in further {
        let mut holders: HashMap<&str, u32> = HashMap::new();
        for name in &names {
            *holders.entry(name).or_default() += 1;
        }
        let clashes: Vec<bool> = names.iter().map(|name| holders[name.as_str()] > 1).collect();
        for (index, _) in clashes.iter().enumerate().filter(|(_, clash)| **clash) {
            names[index] = longer(&wanted[index], &descriptions[index]);
        }
    }
    for (description, name) in descriptions.iter_mut().zip(names) {
        // Series carry this one, and a user's may not be added to another's.
        if description.by_user && description.container.is_some() {
            description.container = Some(name.clone());
        }
        description.name = name;
    }
}

pub(super) fn with_manager(unit: &str, cgroup: &str) -> String {
    manager(cgroup).map_or_else(|| cgroup.to_owned(), |manager| format!("{manager}/{unit}"))
}

/// The user's manager that a cgroup is below.
fn manager(cgroup: &str) -> Option<&str> {
    cgroup.split('/').find(|component| component.starts_with("user@"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    pub(in crate::container) fn container(id: &str, runtime: &'static str, name: Option<&str>) -> Description {
        Description {
            key: ContainerKey::Container(Arc::from(id)),
            id: id.to_owned(),
            name: String::new(),
            image: None,
            runtime,
            pod: None,
            namespace: None,
            container: name.map(str::to_owned),
            labels: BTreeMap::new(),
            cgroup: format!("/{runtime}/{id}"),
            cpu_limit_cores: None,
            by_user: false,
        }
    }

    fn unit(cgroup: &str) -> Description {
        let name = cgroup.rsplit('/').next().unwrap_or_default();
        Description {
            key: ContainerKey::Unit(Arc::from(cgroup)),
            cgroup: cgroup.to_owned(),
            by_user: cgroup.contains("/user@"),
            ..container("", "host", Some(name))
        }
    }

    fn names(mut all: Vec<Description>) -> Vec<String> {
        name_all(&mut all);
        all.into_iter().map(|description| description.name).collect()
    }

    #[test]
    fn a_container_is_called_by_its_pod_its_name_or_its_short_id() {
        let mut in_pod = container("a1", "containerd", Some("app"));
        in_pod.pod = Some("pod-1".to_owned());
        in_pod.namespace = Some("shop".to_owned());
        let sandbox = Description { container: None, ..in_pod.clone() };
        let sandbox = Description { id: "a2".to_owned(), key: ContainerKey::Container(Arc::from("a2")), ..sandbox };
        let nameless = container("0123456789abcdef", "docker", None);
        let all = vec![in_pod, sandbox, container("b", "docker", Some("web")), nameless];
        assert_eq!(names(all), ["shop/pod-1/app", "shop/pod-1", "web", "0123456789ab"]);
    }

    #[test]
    fn a_clash_between_runtimes_is_told_by_the_runtime_and_within_one_by_the_id() {
        let all = vec![
            container("1", "docker", Some("web")),
            container("2", "podman", Some("web")),
            container("3", "podman", Some("web")),
            container("4", "docker", Some("db")),
        ];
        assert_eq!(names(all), ["web@docker", "web@2", "web@3", "db"]);
        let same_start = [container("0123456789abX", "docker", None), container("0123456789abY", "docker", None)];
        let distinct = names(same_start.to_vec());
        assert_ne!(distinct[0], distinct[1]);
    }

    #[test]
    fn units_of_several_users_stay_apart_and_the_systems_keeps_its_name() {
        let all = vec![
            unit("/user.slice/user-1.slice/user@1.service/app.slice/bus.service"),
            unit("/user.slice/user-2.slice/user@2.service/app.slice/bus.service"),
            unit("/system.slice/nginx.service"),
            unit("/system.slice/bus.service"),
        ];
        let expected = ["user@1.service/bus.service", "user@2.service/bus.service", "nginx.service", "bus.service"];
        assert_eq!(names(all), expected);
        let twice = vec![unit("/a.slice/bus.service"), unit("/b.slice/bus.service")];
        assert_eq!(names(twice), ["/a.slice/bus.service", "/b.slice/bus.service"]);
    }

    #[test]
    fn what_a_user_made_never_changes_the_name_of_what_root_made_nor_shares_its_series() {
        let path = "/user.slice/user-1.slice/user@1.service/app.slice/libpod-1.scope";
        let mut all = vec![
            container("1", "docker", Some("web")),
            Description {
                key: ContainerKey::Delegated(Arc::from(path)),
                cgroup: path.to_owned(),
                by_user: true,
                ..container("2", "podman", Some("web"))
            },
            unit("/user.slice/user-1.slice/user@1.service/app.slice/sshd.service"),
            unit("/system.slice/sshd.service"),
        ];
        name_all(&mut all);
        let found: Vec<(&str, Option<&str>)> =
            all.iter().map(|one| (one.name.as_str(), one.container.as_deref())).collect();
        let users = ["user@1.service/web", "user@1.service/sshd.service"];
        let expected = [("web", "web"), (users[0], users[0]), (users[1], users[1]), ("sshd.service", "sshd.service")];
        assert_eq!(found, expected.map(|(name, own)| (name, Some(own))));
    }
}
