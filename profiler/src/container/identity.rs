//! A cgroup's path in; whose it is out: container, pod, runtime, systemd unit. Pure parsing, no file is read.
//!
//! The rules, from what the drivers write:
//!
//! - A path component names a container if it is 64 hexadecimal digits, alone (`/docker/<id>`, Kubernetes' cgroupfs
//!   driver), behind a runtime's prefix (`libpod-<id>`), as a scope (`cri-containerd-<id>.scope`) or behind colons
//!   (`slice:cri-containerd:<id>`, what runc makes of a systemd path under the cgroupfs driver).
//! - The deepest such component wins: containers inside containers (docker-in-docker, kind nodes) are their own, and
//!   cgroups below the container belong to it.
//! - Monitors (`crio-conmon-<id>.scope`, `libpod-conmon-<id>.scope`) carry the container's id but are not the container.
//! - Outside a container, the deepest `.service` or `.scope` is the systemd unit.
//! - A name is believed only where nobody but root can have made the directory ([`super::ownership`]). What looks like a
//!   container below that belongs to the container around it, or is [`Identity::Delegated`] if there is none.

use std::fmt;

/// Which container runtime made a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// Docker Engine.
    Docker,
    /// Podman.
    Podman,
    /// containerd, through CRI or its own API.
    Containerd,
    /// CRI-O.
    CriO,
    /// A container whose path does not tell, and no runtime told either.
    #[default]
    Unknown,
}

impl Runtime {
    /// The name used in every output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a cgroup path says about its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Inside a container.
    Container(ContainerIdentity),
    /// Inside what looks like a container, made by a user in a part of the hierarchy that is theirs. The id is whatever
    /// they wrote.
    Delegated(ContainerIdentity),
    /// In a systemd unit outside any container.
    Unit {
        /// The unit's name (`nginx.service`).
        name: String,
        /// Its cgroup path.
        cgroup: String,
    },
    /// In neither.
    Host,
}

/// What a cgroup path says about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerIdentity {
    /// Full id, 64 hexadecimal digits as a rule.
    pub id: String,
    /// The runtime, as far as the path tells.
    pub runtime: Runtime,
    /// Pod uid with dashes, under Kubernetes.
    pub pod_uid: Option<String>,
    /// Path of the container's topmost cgroup.
    pub cgroup: String,
}

/// Number of hexadecimal digits in a container id, with every runtime of today.
const ID_DIGITS: usize = 64;

/// Says whose cgroup `path` is, taking every name in it for true. `path` is below the hierarchy's root and starts with `/`;
/// `/..` components, as a process in a cgroup namespace sees them, do no harm.
pub fn identify(path: &str) -> Identity {
    identify_believing(path, usize::MAX)
}

/// Says whose cgroup `path` is, of which the first `believed` components are root's directories: the names in them are
/// true, those further down are their owners' choice.
pub fn identify_believing(path: &str, believed: usize) -> Identity {
    let components = components(path);
    let claims = components.iter().enumerate().rev().filter_map(|(depth, component)| {
        let parent = depth.checked_sub(1).map_or("", |above| components[above].text);
        container_component(component.text, parent).map(|found| (depth, found))
    });
    let claims: Vec<_> = claims.collect();
    let deepest = claims.iter().find(|(depth, _)| *depth <= believed).or(claims.first());
    if let Some((depth, (id, runtime))) = deepest.copied() {
        let delegated = depth > believed;
        let pod_uid = if delegated { None } else { pod_uid_above(&components[..depth], components[depth].text) };
        let runtime = match (runtime, depth.checked_sub(1).map(|above| components[above].text)) {
            (Runtime::Unknown, Some("docker")) if pod_uid.is_none() => Runtime::Docker,
            (Runtime::Unknown, Some("libpod_parent")) => Runtime::Podman,
            (known, _) => known,
        };
        let cgroup = path[..components[depth].end].to_owned();
        let identity = ContainerIdentity { id: id.to_owned(), runtime, pod_uid, cgroup };
        return if delegated { Identity::Delegated(identity) } else { Identity::Container(identity) };
    }
    unit(path, &components)
}

/// One component of a path and where it ends there.
struct Component<'a> {
    text: &'a str,
    end: usize,
}

fn components(path: &str) -> Vec<Component<'_>> {
    let mut start = 0;
    let mut found = Vec::new();
    for text in path.split('/') {
        let end = start + text.len();
        if !text.is_empty() {
            found.push(Component { text, end });
        }
        start = end + 1;
    }
    found
}

/// The container id in one path component, and the runtime if it tells.
fn container_component<'a>(component: &'a str, parent: &str) -> Option<(&'a str, Runtime)> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    if parent_is_ecs_task(name, parent) {
        return Some((name, Runtime::Unknown));
    }
    let split = name.len().checked_sub(ID_DIGITS)?;
    if !name.is_char_boundary(split) {
        return None;
    }
    let (prefix, id) = name.split_at(split);
    if !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    // `slice:cri-containerd:<id>`: the prefix is what stands between the last two colons.
    let prefix = match prefix.strip_suffix(':') {
        Some(before) => before.rsplit(':').next().unwrap_or(before),
        None => match prefix.strip_suffix('-') {
            Some(before) => before,
            None if prefix.is_empty() => "",
            None => return None,
        },
    };
    match prefix {
        "docker" => Some((id, Runtime::Docker)),
        "libpod" => Some((id, Runtime::Podman)),
        "cri-containerd" | "nerdctl" | "containerd" => Some((id, Runtime::Containerd)),
        "crio" => Some((id, Runtime::CriO)),
        // Another runtime's prefix is believed on a scope only: slices of pods carry 64 digits too.
        "" => Some((id, Runtime::Unknown)),
        other if is_monitor(other) => None,
        _ if component.strip_suffix(".scope").is_some() => Some((id, Runtime::Unknown)),
        _ => None,
    }
}

/// AWS Fargate: `/ecs/<task>/<task>-<number>`, 32 digits and a decimal number.
fn parent_is_ecs_task(name: &str, parent: &str) -> bool {
    parent.len() == 32
        && parent.bytes().all(|byte| byte.is_ascii_hexdigit())
        && name
            .strip_prefix(parent)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_monitor(prefix: &str) -> bool {
    prefix.ends_with("conmon")
}

/// The uid of the pod that the container at the end of `above` belongs to: the nearest pod component below `kubepods`, as
/// long as no other container stands between.
fn pod_uid_above(above: &[Component<'_>], own: &str) -> Option<String> {
    // `kubepods-burstable-pod<uid>.slice:cri-containerd:<id>` carries the pod in the container's own component.
    if let Some((slice, _)) = own.split_once(':')
        && let Some(uid) = pod_component(slice)
    {
        return Some(uid);
    }
    let mut uid = None;
    for (depth, component) in above.iter().enumerate().rev() {
        uid = uid.or_else(|| pod_component(component.text));
        if uid.is_some() && component.text.contains("kubepods") {
            return uid;
        }
        let parent = depth.checked_sub(1).map_or("", |up| above[up].text);
        if container_component(component.text, parent).is_some() {
            return None;
        }
    }
    None
}

/// `pod<uid>` of the cgroupfs driver, `kubepods[-burstable|-besteffort]-pod<uid>.slice` of the systemd driver (with
/// underscores for dashes, and possibly a prefix of a kind node's).
fn pod_component(component: &str) -> Option<String> {
    let name = match component.strip_suffix(".slice") {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            before.contains("kubepods").then_some(uid)?
        }
        None => component.strip_prefix("pod")?,
    };
    let uid = name.replace('_', "-");
    // Uids of static pods are 32 digits without dashes; all others are 8-4-4-4-12.
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| *byte == b'-').count();
    (digits == 32 && digits + dashes == uid.len() && (dashes == 0 || dashes == 4)).then_some(uid)
}

fn unit(path: &str, components: &[Component<'_>]) -> Identity {
    let is_unit = |component: &&Component<'_>| {
        let monitor = component
            .text
            .strip_suffix(".scope")
            .and_then(|name| name.rsplit_once('-'))
            .is_some_and(|(prefix, _)| is_monitor(prefix));
        let kind = component.text.rsplit_once('.').map(|(_, kind)| kind);
        matches!(kind, Some("service" | "scope")) && !monitor
    };
    let mut units = components.iter().rev().filter(is_unit);
    let Some(mut deepest) = units.next() else {
        return Identity::Host;
    };
    // The manager of a user's session sits in an `init.scope` of its own; it is the user manager's, not pid 1's.
    if deepest.text == "init.scope"
        && let Some(manager) = units.next()
    {
        deepest = manager;
    }
    Identity::Unit { name: deepest.text.to_owned(), cgroup: path[..deepest.end].to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const B: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    const UID: &str = "8f2f9b6c-3a4e-4a55-9f6b-0d1e2f3a4b5c";
    const UID_SYSTEMD: &str = "8f2f9b6c_3a4e_4a55_9f6b_0d1e2f3a4b5c";
    const STATIC_UID: &str = "a3e5ac6b8a1f4bd2f0a9b8c7d6e5f403";

    fn fill(template: &str) -> String {
        template
            .replace("{A}", A)
            .replace("{B}", B)
            .replace("{UIDS}", UID_SYSTEMD)
            .replace("{UID}", UID)
            .replace("{STATIC}", STATIC_UID)
    }

    #[test]
    fn containers_are_found_in_the_paths_of_every_driver() {
        use Runtime::{Containerd, CriO, Docker, Podman, Unknown};
        // Path, id, runtime, pod uid, what follows the container's topmost cgroup.
        let table: &[(&str, &str, Runtime, Option<&str>, &str)] = &[
            // Docker, cgroupfs and systemd drivers, rootless, custom parent, cgroups below the container.
            ("/docker/{A}", A, Docker, None, ""),
            ("/system.slice/docker-{A}.scope", A, Docker, None, ""),
            ("/system.slice/docker-{A}.scope/init", A, Docker, None, "/init"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope", A, Docker, None, ""),
            ("/docker/{A}/system.slice/nginx.service", A, Docker, None, "/system.slice/nginx.service"),
            ("/batch/jobs/{A}", A, Unknown, None, ""),
            ("/../docker/{A}", A, Docker, None, ""),
            ("/actions_job/{A}", A, Unknown, None, ""),
            // Docker in docker, and kind nodes.
            ("/docker/{A}/docker/{B}", B, Docker, None, ""),
            ("/docker/{A}/docker/{B}/sub", B, Docker, None, "/sub"),
            ("/docker/{A}/kubelet/kubepods/burstable/pod{UID}/{B}", B, Unknown, Some(UID), ""),
            (
                "/docker/{A}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-pod{UIDS}.slice/cri-containerd-{B}.scope",
                B,
                Containerd,
                Some(UID),
                "",
            ),
            ("/docker/{A}/kubelet/kubepods/burstable/pod{UID}", A, Docker, None, "/kubelet/kubepods/burstable/podU"),
            ("/kubepods/burstable/pod{UID}/{A}/docker/{B}", B, Docker, None, ""),
            // Kubernetes, cgroupfs driver.
            ("/kubepods/pod{UID}/{A}", A, Unknown, Some(UID), ""),
            ("/kubepods/burstable/pod{UID}/{A}", A, Unknown, Some(UID), ""),
            ("/kubepods/besteffort/pod{UID}/{A}/nested/deep", A, Unknown, Some(UID), "/nested/deep"),
            ("/kubepods/burstable/pod{STATIC}/{A}", A, Unknown, Some(STATIC_UID), ""),
            ("/kubepods/burstable/pod{UID}/crio-{A}", A, CriO, Some(UID), ""),
            // Kubernetes, systemd driver.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UIDS}.slice/cri-containerd-{A}.scope",
                A,
                Containerd,
                Some(UID),
                "",
            ),
            ("/kubepods.slice/kubepods-pod{UIDS}.slice/cri-containerd-{A}.scope", A, Containerd, Some(UID), ""),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UIDS}.slice/crio-{A}.scope/container",
                A,
                CriO,
                Some(UID),
                "/container",
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UIDS}.slice/docker-{A}.scope",
                A,
                Docker,
                Some(UID),
                "",
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{A}.scope",
                A,
                Containerd,
                Some(STATIC_UID),
                "",
            ),
            // A systemd path under runc's cgroupfs driver.
            (
                "/system.slice/containerd.service/kubepods-burstable-pod{UIDS}.slice:cri-containerd:{A}",
                A,
                Containerd,
                Some(UID),
                "",
            ),
            ("/kubepods-besteffort-pod{UIDS}.slice:cri-containerd:{A}/sub", A, Containerd, Some(UID), "/sub"),
            ("/system.slice:docker:{A}", A, Docker, None, ""),
            // Podman: cgroupfs, systemd, rootless, pods, the split that crun makes.
            ("/libpod_parent/libpod-{A}", A, Podman, None, ""),
            ("/libpod_parent/{B}/libpod-{A}", A, Podman, None, ""),
            ("/machine.slice/libpod-{A}.scope", A, Podman, None, ""),
            ("/machine.slice/libpod-{A}.scope/container", A, Podman, None, "/container"),
            ("/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container", A, Podman, None, "/container"),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
                A,
                Podman,
                None,
                "/container",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload/libpod-{A}",
                A,
                Podman,
                None,
                "",
            ),
            // containerd without CRI, and others.
            ("/default/{A}", A, Unknown, None, ""),
            ("/system.slice/nerdctl-{A}.scope", A, Containerd, None, ""),
            ("/system.slice/someruntime-{A}.scope", A, Unknown, None, ""),
            ("/ecs/{STATIC}/{A}", A, Unknown, None, ""),
        ];
        for (template, id, runtime, pod_uid, below) in table {
            let path = fill(template);
            let below = below.replace("podU", &format!("pod{UID}"));
            let cgroup = path.strip_suffix(below.as_str()).map(str::to_owned);
            let expected = ContainerIdentity {
                id: (*id).to_owned(),
                runtime: *runtime,
                pod_uid: pod_uid.map(str::to_owned),
                cgroup: cgroup.unwrap_or_default(),
            };
            assert_eq!(identify(&path), Identity::Container(expected), "{path}");
        }
    }

    #[test]
    fn a_name_below_a_users_directory_is_the_users_claim_or_belongs_to_the_container_around_it() {
        let delegated = |path: &str, believed| match identify_believing(&fill(path), believed) {
            Identity::Delegated(claim) => claim,
            other => panic!("{path}: {other:?}"),
        };
        let below_manager = "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{A}.scope/x";
        let claim = delegated(below_manager, 2);
        assert_eq!((claim.id.as_str(), claim.runtime), (A, Runtime::Docker));
        assert_eq!(claim.cgroup, fill("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{A}.scope"));
        // A pod is never a user's to claim.
        let in_pod = "/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{A}";
        assert_eq!(delegated(in_pod, 2).pod_uid, None);
        // The container's own directory may be anybody's, as with a user namespace; what its processes make in it is its own.
        let nested = fill("/docker/{A}/docker/{B}");
        for (believed, id) in [(1, A), (3, B)] {
            let Identity::Container(found) = identify_believing(&nested, believed) else { panic!("{believed}") };
            assert_eq!(found.id, id, "{believed}");
        }
        let unit = identify_believing("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", 2);
        assert!(matches!(unit, Identity::Unit { name, .. } if name == "a.service"));
    }

    #[test]
    fn a_directory_that_is_merely_called_like_a_pods_makes_no_pod() {
        for path in [
            "/batch/pod{UID}/{A}",
            "/docker/pod{UID}/{A}",
            "/kubepods/pod{UID}/{B}/pod{UID}/sub/{A}",
            "/kubepods/pod{UID}/sub/{A}",
        ] {
            let Identity::Container(found) = identify(&fill(path)) else { panic!("{path}") };
            let expected = path.contains("kubepods/pod{UID}/sub").then(|| UID.to_owned());
            assert_eq!(found.pod_uid, expected, "{path}");
        }
    }

    #[test]
    fn a_fargate_task_container_is_found_by_its_task() {
        let path = fill("/ecs/{STATIC}/{STATIC}-2531612879");
        let Identity::Container(found) = identify(&path) else { panic!("{path} is not taken for a container") };
        assert_eq!(found.id, format!("{STATIC_UID}-2531612879"));
    }

    #[test]
    fn what_is_no_container_is_its_unit_or_the_host() {
        let table: &[(&str, Option<(&str, &str)>)] = &[
            ("/", None),
            ("", None),
            ("/../..", None),
            ("/user.slice", None),
            ("/docker", None),
            ("/docker/buildkit", None),
            ("/kubepods/burstable/pod{UID}", None),
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UIDS}.slice", None),
            ("/libpod_parent/conmon", None),
            ("/machine.slice/libpod-conmon-{A}.scope", None),
            ("/kubepods.slice/kubepods-burstable.slice/crio-conmon-{A}.scope", None),
            ("/docker/{A}0", None),
            ("/docker/0123456789ab", None),
            ("/system.slice/nginx.service", Some(("nginx.service", "/system.slice/nginx.service"))),
            ("/system.slice/nginx.service/worker", Some(("nginx.service", "/system.slice/nginx.service"))),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                Some(("getty@tty1.service", "/system.slice/system-getty.slice/getty@tty1.service")),
            ),
            ("/init.scope", Some(("init.scope", "/init.scope"))),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                Some(("session-3.scope", "/user.slice/user-1000.slice/session-3.scope")),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/editor.service",
                Some(("editor.service", "/user.slice/user-1000.slice/user@1000.service/app.slice/editor.service")),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                Some(("user@1000.service", "/user.slice/user-1000.slice/user@1000.service")),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{A}.scope",
                Some(("user@1000.service", "/user.slice/user-1000.slice/user@1000.service")),
            ),
        ];
        for (template, unit) in table {
            let path = fill(template);
            let expected = match unit {
                Some((name, cgroup)) => Identity::Unit { name: (*name).to_owned(), cgroup: (*cgroup).to_owned() },
                None => Identity::Host,
            };
            assert_eq!(identify(&path), expected, "{path}");
        }
    }

    #[test]
    fn runtimes_have_the_names_that_outputs_promise() {
        let all = [Runtime::Docker, Runtime::Podman, Runtime::Containerd, Runtime::CriO, Runtime::Unknown];
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker", "podman", "containerd", "cri-o", "unknown"]);
    }

    proptest! {
        #[test]
        fn any_text_is_identified_without_a_panic(path in "\\PC*") {
            identify(&path);
        }

        #[test]
        fn any_mixture_of_known_components_yields_a_prefix_of_the_path(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("docker".to_owned()), Just("kubepods".to_owned()), Just(format!("pod{UID}")),
                    Just(A.to_owned()), Just(format!("libpod-{B}.scope")), Just(format!("crio-conmon-{A}.scope")),
                    Just("a.service".to_owned()), Just("..".to_owned()), Just(String::new()), "[a-f0-9:.é-]{0,70}"
                ],
                0..8,
            )
        ) {
            let path = format!("/{}", parts.join("/"));
            match identify(&path) {
                Identity::Container(container) | Identity::Delegated(container) => {
                    prop_assert!(path.starts_with(&container.cgroup));
                    prop_assert!(container.cgroup.contains(&container.id));
                }
                Identity::Unit { name, cgroup } => {
                    prop_assert!(path.starts_with(&cgroup));
                    prop_assert!(cgroup.ends_with(&name));
                }
                Identity::Host => {}
            }
        }
    }
}
