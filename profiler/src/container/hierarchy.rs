//! Which cgroup hierarchy tells containers apart here: mount table in, the hierarchy and where it is mounted out.
//!
//! On cgroup v2 and on hybrid hosts it is the v2 hierarchy, since the kernel hands out its ids at no cost. Where cgroup2 is
//! not mounted, or containers have cgroups in v1 hierarchies only, it is one v1 controller's.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::ContainerError;
use super::cgroup;
use super::identity::{Identity, identify, identify_believing};
use super::ownership;

/// The v1 controllers that runtimes put every container into, best first.
const V1_PREFERENCE: [&str; 4] = ["cpu", "memory", "pids", "name=systemd"];

/// Which version of cgroups a hierarchy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// The unified hierarchy: `bpf_get_current_cgroup_id` gives its ids.
    V2,
    /// A v1 hierarchy.
    V1 {
        /// The controller (`cpu`, `memory`, `name=systemd`).
        controller: String,
        /// The kernel's number of the hierarchy, as in `/proc/PID/cgroup`; never 0.
        number: u32,
    },
}

/// The hierarchy whose cgroups identify containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// v2, or which v1 controller.
    pub version: Version,
    /// Where it is mounted: directories below are cgroups.
    pub root: PathBuf,
    /// Whether v1 controllers are mounted beside a v2 hierarchy.
    pub hybrid: bool,
    /// Where each v1 controller is mounted; limits and accounting of hybrid and v1 hosts are there.
    v1: Vec<(String, PathBuf)>,
}

/// One line of the mount table that concerns cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CgroupMount {
    point: PathBuf,
    /// `None` for cgroup2; else the controllers, `name=…` included.
    controllers: Option<Vec<String>>,
}

impl Hierarchy {
    /// Finds the hierarchy through this process's mount table, with what the user should be told about it.
    ///
    /// `root` is a hierarchy the user named: the mount point of cgroup2 (or of a v1 controller), as it appears in a
    /// container that has the host's mounted in; or a directory in which such mount points are found.
    pub fn detect(root: Option<&Path>) -> Result<(Self, Vec<String>), ContainerError> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|source| ContainerError::Unreadable { path: PathBuf::from(path), source })
        };
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let (mut hierarchy, mut warnings) = Self::choose(&mounts, &own, root)?;
        if hierarchy.version == Version::V2
            && let Some((controller, point)) = hierarchy.preferred_v1()
            && let Some(number) = hierarchy_number(&own, &controller)
            && containers_live_only_in(&point, number)
        {
            warnings.push(format!(
                "containers of this host have cgroups in v1 hierarchies only; telling them apart by the `{controller}` \
                 controller at {}",
                point.display()
            ));
            hierarchy.version = Version::V1 { controller, number };
            hierarchy.root = point;
        }
        Ok((hierarchy, warnings))
    }

    /// Where the v1 hierarchy of `controller` is mounted, if it is.
    pub fn v1_mount(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, point)| point.as_path())
    }

    /// The number of the hierarchy as in `/proc/PID/cgroup` and in cgroup tracepoints: 0 for v2.
    pub fn number(&self) -> u32 {
        match &self.version {
            Version::V2 => 0,
            Version::V1 { number, .. } => *number,
        }
    }

    /// The path of a process in this hierarchy, given the text of its `/proc/PID/cgroup`.
    pub fn path_of_process<'a>(&self, proc_cgroup: &'a str) -> Option<&'a str> {
        path_in(proc_cgroup, self.number())
    }

    fn preferred_v1(&self) -> Option<(String, PathBuf)> {
        let found = V1_PREFERENCE.iter().find_map(|wanted| self.v1.iter().find(|(name, _)| name == wanted));
        found.cloned()
    }

    /// The hierarchy that this mount table holds.
    #[cfg(test)]
    #[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
    pub(super) fn for_tests(mounts: &str) -> Self {
        Self::choose(mounts, "1:cpu,cpuacct:/\n0::/\n", None).unwrap().0
    }

    fn choose(mounts: &str, own: &str, root: Option<&Path>) -> Result<(Self, Vec<String>), ContainerError> {
        let mut mounts: Vec<CgroupMount> = mounts.lines().filter_map(parse_mount).collect();
        if let Some(root) = root {
            mounts.retain(|mount| mount.point.starts_with(root));
            if mounts.is_empty() {
                return Err(ContainerError::NotACgroupRoot { path: root.to_owned() });
            }
        }
        let v1: Vec<(String, PathBuf)> = mounts
            .iter()
            .flat_map(|mount| mount.controllers.iter().flatten().map(|name| (name.clone(), mount.point.clone())))
            .collect();
        let v2 = mounts.into_iter().find(|mount| mount.controllers.is_none());
        if let Some(v2) = v2 {
            let hybrid = !v1.is_empty();
            return Ok((Self { version: Version::V2, root: v2.point, hybrid, v1 }, Vec::new()));
        }
        let fallback = Self { version: Version::V2, root: PathBuf::new(), hybrid: false, v1 };
        let chosen = fallback.preferred_v1().and_then(|(controller, point)| {
            hierarchy_number(own, &controller).map(|number| (controller, point, number))
        });
        let Some((controller, point, number)) = chosen else {
            return Err(ContainerError::NoHierarchy);
        };
        let warning = format!(
            "cgroup2 is not mounted; telling containers apart by the v1 `{controller}` controller at {} (the kernel's \
             pressure figures need cgroup2: `mount -t cgroup2 none /mnt/cgroup2`)",
            point.display()
        );
        Ok((Self { version: Version::V1 { controller, number }, root: point, ..fallback }, vec![warning]))
    }
}

/// The path that `/proc/PID/cgroup` gives for hierarchy `number`.
pub fn path_in(proc_cgroup: &str, number: u32) -> Option<&str> {
    proc_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let this: u32 = fields.next()?.parse().ok()?;
        let (_, path) = (fields.next()?, fields.next()?);
        // A removed cgroup that still has a process (a zombie) says so behind its path.
        (this == number).then(|| path.strip_suffix(" (deleted)").unwrap_or(path))
    })
}

/// The path that `/proc/PID/cgroup` gives for a v1 `controller`.
pub fn path_for_controller<'a>(proc_cgroup: &'a str, controller: &str) -> Option<&'a str> {
    path_in(proc_cgroup, hierarchy_number(proc_cgroup, controller)?)
}

fn hierarchy_number(proc_cgroup: &str, controller: &str) -> Option<u32> {
    proc_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let number = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|name| name == controller).then_some(number)
    })
}

/// `36 32 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct`
fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let point = unescape(mount.split(' ').nth(4)?);
    let mut fields = file_system.split(' ');
    let controllers = match fields.next()? {
        "cgroup2" => None,
        "cgroup" => {
            let options = fields.nth(1)?;
            Some(options.split(',').filter(|option| !is_mount_option(option)).map(str::to_owned).collect())
        }
        _ => return None,
    };
    Some(CgroupMount { point: PathBuf::from(point), controllers })
}

fn is_mount_option(option: &str) -> bool {
    matches!(option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "cpuset_v2_mode" | "none")
        || option.starts_with("release_agent=")
}

/// The mount table writes blank, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Whether a running process is in a container by its v1 path but not by its v2 path. Runtimes join the hierarchies
/// one after the other, so a first yes is looked at again.
fn containers_live_only_in(v1_root: &Path, number: u32) -> bool {
    let mut suspects = Vec::new();
    for cgroup in cgroup::walk(v1_root).cgroups {
        let believed = ownership::believed(v1_root, &cgroup.path);
        if !matches!(identify_believing(&cgroup.path, believed), Identity::Container(_)) {
            continue;
        }
        let procs =
            fs::read_to_string(cgroup::directory(v1_root, &cgroup.path).join("cgroup.procs")).unwrap_or_default();
        suspects.extend(procs.lines().next().and_then(|pid| pid.parse::<u32>().ok()));
    }
    let only_v1 =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| only_v1(&text, number));
    suspects.retain(only_v1);
    if suspects.is_empty() {
        return false;
    }
    thread::sleep(Duration::from_millis(50));
    suspects.iter().any(only_v1)
}

fn only_v1(proc_cgroup: &str, number: u32) -> bool {
    let container =
        |number| path_in(proc_cgroup, number).is_some_and(|path| matches!(identify(path), Identity::Container(_)));
    container(number) && !container(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    const V2: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:38 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "9:name=systemd:/\n4:memory:/a:b\n1:cpu,cpuacct:/\n0::/user.slice\n";

    #[test]
    fn a_pure_v2_host_is_recognised() {
        let (hierarchy, warnings) = Hierarchy::choose(V2, "0::/\n", None).unwrap();
        assert_eq!(hierarchy.version, Version::V2);
        assert_eq!(hierarchy.root, Path::new("/sys/fs/cgroup"));
        assert!(!hierarchy.hybrid);
        assert_eq!(hierarchy.number(), 0);
        assert_eq!(hierarchy.v1_mount("cpu"), None);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_hybrid_host_uses_v2_and_knows_the_v1_controllers() {
        let (hierarchy, warnings) = Hierarchy::choose(HYBRID, OWN, None).unwrap();
        assert_eq!(hierarchy.version, Version::V2);
        assert_eq!(hierarchy.root, Path::new("/sys/fs/cgroup/unified"));
        assert!(hierarchy.hybrid);
        assert_eq!(hierarchy.v1_mount("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(hierarchy.v1_mount("name=systemd"), Some(Path::new("/sys/fs/cgroup/systemd")));
        assert_eq!(hierarchy.v1_mount("xattr"), None);
        assert!(warnings.is_empty());
    }

    #[test]
    fn without_cgroup2_a_v1_controller_is_used_and_said_so() {
        let v1: String =
            HYBRID.lines().filter(|line| !line.contains("cgroup2")).flat_map(|line| [line, "\n"]).collect();
        let (hierarchy, warnings) = Hierarchy::choose(&v1, OWN, None).unwrap();
        assert_eq!(hierarchy.version, Version::V1 { controller: "cpu".to_owned(), number: 1 });
        assert_eq!(hierarchy.root, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(hierarchy.path_of_process("3:pids:/x\n1:cpu,cpuacct:/docker/a\n0::/\n"), Some("/docker/a"));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("cgroup2 is not mounted"), "{warnings:?}");

        let systemd: String = v1.lines().filter(|line| !line.contains("cpu")).flat_map(|line| [line, "\n"]).collect();
        let (hierarchy, _) = Hierarchy::choose(&systemd, OWN, None).unwrap();
        assert_eq!(hierarchy.version, Version::V1 { controller: "name=systemd".to_owned(), number: 9 });
    }

    #[test]
    fn without_any_cgroups_the_error_says_what_to_do() {
        let error = Hierarchy::choose("22 27 0:21 / /proc rw - proc proc rw\ngarbage\n", OWN, None).unwrap_err();
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
    }

    #[test]
    fn a_named_root_restricts_the_search_and_must_hold_cgroups() {
        let mounted = format!("{HYBRID}60 1 0:38 / /host/cg\\040root rw - cgroup2 cgroup2 rw\n");
        let (hierarchy, _) = Hierarchy::choose(&mounted, OWN, Some(Path::new("/host/cg root"))).unwrap();
        assert_eq!(hierarchy.root, Path::new("/host/cg root"));
        assert!(!hierarchy.hybrid);
        let error = Hierarchy::choose(&mounted, OWN, Some(Path::new("/nowhere"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }

    #[test]
    fn paths_of_processes_are_read_per_hierarchy() {
        assert_eq!(path_in(OWN, 0), Some("/user.slice"));
        assert_eq!(path_in(OWN, 4), Some("/a:b"));
        assert_eq!(path_in(OWN, 7), None);
        assert_eq!(path_in("0::/docker/x (deleted)\n", 0), Some("/docker/x"));
        assert_eq!(path_in("junk\n\n0:\n", 0), None);
        assert_eq!(path_for_controller(OWN, "cpuacct"), Some("/"));
        assert_eq!(path_for_controller(OWN, "memory"), Some("/a:b"));
        assert_eq!(path_for_controller(OWN, "blkio"), None);
    }

    #[test]
    fn a_process_in_a_container_by_v1_alone_is_noticed() {
        let id = "a".repeat(64);
        assert!(only_v1(&format!("1:cpu:/docker/{id}\n0::/\n"), 1));
        assert!(!only_v1(&format!("1:cpu:/docker/{id}\n0::/docker/{id}\n"), 1));
        assert!(!only_v1("1:cpu:/\n0::/\n", 1));
    }

    #[test]
    fn this_machine_has_a_hierarchy_that_can_be_walked() {
        let (hierarchy, _) = Hierarchy::detect(None).unwrap();
        assert!(!cgroup::walk(&hierarchy.root).cgroups.is_empty());
    }
}
