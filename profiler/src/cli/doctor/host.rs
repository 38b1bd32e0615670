//! What of the host can be seen from here: its processes, its cgroups, its container runtimes.

use std::collections::BTreeSet;

use super::finding::Finding;
use crate::container::ContainerError;
use crate::container::hierarchy::{Hierarchy, Version};
use crate::container::identity::{Identity, identify};
use crate::container::runtime::{Answer, Fault, Origin};
use crate::process::Namespace;

/// The pid namespace, given the text of its link.
pub fn pid_namespace(link: Option<&str>) -> Finding {
    const CHECK: &str = "pid namespace";
    match link {
        None => Finding::warning(CHECK, "/proc/self/ns/pid cannot be read", "mount /proc"),
        Some(link) if Namespace::Pid.is_initial(link) => Finding::ok(CHECK, "the host's"),
        Some(_) => Finding::missing(
            CHECK,
            "not the host's: the kernel tells process ids of the host, which mean nothing here",
            "run on the host, or in a container with hostPID: true (docker run --pid=host)",
        ),
    }
}

/// Which part of a cgroup hierarchy is mounted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What is below one cgroup: ours, in a cgroup namespace.
    Part,
}

/// The cgroup hierarchy that tells containers apart, and how much of it is mounted.
pub fn cgroups(hierarchy: &Result<(Hierarchy, Vec<String>), ContainerError>, extent: Extent) -> Finding {
    const CHECK: &str = "cgroups";
    let (hierarchy, warnings) = match hierarchy {
        Ok(found) => found,
        Err(error) => {
            return Finding::missing(
                CHECK,
                error.to_string(),
                "mount cgroup2 (`mount -t cgroup2 none /sys/fs/cgroup`), or name the host's with --cgroup-root",
            );
        }
    };
    let kind = match (&hierarchy.version, hierarchy.hybrid) {
        (Version::V2, false) => "v2".to_owned(),
        (Version::V2, true) => "hybrid, v2".to_owned(),
        (Version::V1 { controller, .. }, _) => format!("v1 `{controller}`"),
    };
    let found = format!("{kind} at {}", hierarchy.root.display());
    match extent {
        Extent::Part => Finding::warning(
            CHECK,
            format!("{found}, but only what is below this container's own cgroup: other containers have no names"),
            "in a container mount the host's /sys/fs/cgroup (hostPath) and name it with --cgroup-root, or use \
             --cgroupns=host",
        ),
        Extent::Whole => match warnings.first() {
            Some(warning) => {
                Finding::warning(CHECK, format!("{found}: {warning}"), "mount cgroup2 where it is missing")
            }
            None => Finding::ok(CHECK, found),
        },
    }
}

/// Runtimes that answer, given what each socket said and the containers that there are.
pub fn runtimes(answers: &Result<Vec<Answer>, ContainerError>, containers: usize) -> Finding {
    const CHECK: &str = "container runtimes";
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => return Finding::warning(CHECK, error.to_string(), "raise the limit on threads"),
    };
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for Answer { socket, runtime } in answers {
        let path = socket.path.display();
        match runtime {
            Ok(runtime) => found.push(format!("{} at {path}", runtime.name())),
            Err(Fault::Missing) if socket.origin == Origin::WellKnown => {}
            // Its containers are Docker's, or nobody's to name.
            Err(Fault::NoCri) if socket.origin == Origin::WellKnown => {
                found.push(format!("containerd without CRI at {path}"));
            }
            Err(fault) => faults.push(format!("{path}: {fault}")),
        }
    }
    let list = if found.is_empty() { "none answers".to_owned() } else { found.join(", ") };
    if !faults.is_empty() {
        return Finding::warning(
            CHECK,
            format!("{list}; {}", faults.join("; ")),
            "start the runtime or let this user talk to it; until then names come from state files, or are ids",
        );
    }
    let answering = answers.iter().any(|answer| answer.runtime.is_ok());
    if !answering && containers > 0 {
        return Finding::warning(
            CHECK,
            format!("{list} for the {containers} containers here"),
            "name the runtime's socket with --runtime-socket; until then names come from state files, or are ids",
        );
    }
    Finding::ok(CHECK, if found.is_empty() { "none, and no containers".to_owned() } else { list })
}

/// How many containers these cgroups belong to.
pub fn containers<'a>(paths: impl Iterator<Item = &'a str>) -> usize {
    let ids = paths.filter_map(|path| match identify(path) {
        Identity::Container(container) | Identity::Delegated(container) => Some(container.id),
        Identity::Unit { .. } | Identity::Host => None,
    });
    ids.collect::<BTreeSet<_>>().len()
}

/// Pressure stall information, given what reading `/proc/pressure/cpu` gave.
pub fn pressure(text: Option<&str>) -> Finding {
    const CHECK: &str = "pressure";
    if text.is_some_and(|text| text.starts_with("some ")) {
        Finding::ok(CHECK, "the kernel tells pressure stalls")
    } else {
        Finding::warning(CHECK, "off: reports show no pressure", "boot with psi=1, on a kernel built with CONFIG_PSI=y")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::finding::Verdict;
    use super::*;
    use crate::container::identity::Runtime;
    use crate::container::runtime::RuntimeSocket;

    #[test]
    fn a_pid_namespace_that_is_not_the_hosts_is_missing_something() {
        assert_eq!(pid_namespace(Some("pid:[4026531836]")).verdict, Verdict::Ok);
        let other = pid_namespace(Some("pid:[4026532201]"));
        assert_eq!(other.verdict, Verdict::Missing);
        assert!(other.remedy.unwrap().contains("hostPID"));
        assert_eq!(pid_namespace(None).verdict, Verdict::Warning);
    }

    #[test]
    fn a_part_of_the_hierarchy_is_told_apart_from_the_whole() {
        let hierarchy = || Hierarchy::detect(None);
        let whole = cgroups(&hierarchy(), Extent::Whole);
        let part = cgroups(&hierarchy(), Extent::Part);
        assert!(whole.verdict <= Verdict::Warning, "{whole:?}");
        assert_eq!(part.verdict, Verdict::Warning);
        assert!(part.remedy.unwrap().contains("--cgroup-root"));
        let nowhere = cgroups(&Hierarchy::detect(Some(Path::new("/nowhere"))), Extent::Whole);
        assert_eq!(nowhere.verdict, Verdict::Missing);
        assert!(nowhere.found.contains("/nowhere"), "{nowhere:?}");
    }

    #[test]
    fn runtimes_that_should_be_there_and_are_not_are_told() {
        let at =
            |path, origin, runtime| Answer { socket: RuntimeSocket { path: PathBuf::from(path), origin }, runtime };
        let docker = || at("/d.sock", Origin::WellKnown, Ok(Runtime::Docker));
        let absent = || at("/c.sock", Origin::WellKnown, Err(Fault::Missing));
        let named = || at("/n.sock", Origin::Named, Err(Fault::Missing));
        let no_cri = || at("/c.sock", Origin::WellKnown, Err(Fault::NoCri));
        let hanging = || at("/h.sock", Origin::WellKnown, Err(Fault::Hanging));
        let table = [
            (vec![docker(), absent()], 1, Verdict::Ok, "docker at /d.sock"),
            (vec![absent()], 0, Verdict::Ok, "none"),
            (vec![absent()], 3, Verdict::Warning, "3 containers"),
            (vec![no_cri()], 0, Verdict::Ok, "containerd without CRI"),
            (vec![no_cri()], 2, Verdict::Warning, "2 containers"),
            (vec![docker(), named()], 0, Verdict::Warning, "/n.sock"),
            (vec![hanging()], 0, Verdict::Warning, "no answer"),
        ];
        for (answers, containers, verdict, word) in table {
            let finding = runtimes(&Ok(answers), containers);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(word), "{finding:?}");
        }
    }

    #[test]
    fn only_containers_are_counted() {
        let id = "a".repeat(64);
        let paths = [format!("/docker/{id}"), format!("/docker/{id}/init"), "/system.slice/a.service".to_owned()];
        assert_eq!(containers(paths.iter().map(String::as_str)), 1);
        assert_eq!(containers(["/", "/user.slice"].into_iter()), 0);
    }

    #[test]
    fn pressure_is_on_when_the_file_reads() {
        assert_eq!(pressure(Some("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n")).verdict, Verdict::Ok);
        assert_eq!(pressure(Some("")).verdict, Verdict::Warning);
        assert_eq!(pressure(None).verdict, Verdict::Warning);
    }
}
