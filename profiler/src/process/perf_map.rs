//! The files in which runtimes leave the names of the code they made. In: a process. Out: `/tmp/perf-PID.map` as the
//! process sees it, open, if it can be trusted to be the process's own.
//!
//! Such a file may appear long after the code was sampled (`jcmd PID Compiler.perfmap`) and may be replaced by another,
//! so that a location holds a [`PerfMaps`]: whatever was found of its process by the time the name is asked for.
//!
//! `/tmp` is everybody's, and a container's is hostile: only a regular file counts, not reached through a link in the last
//! component, owned by the process's own user or by root, and written after the process began (a file of an earlier
//! process with the same id stays behind, since runtimes do not remove it).

use std::ffi::OsStr;
use std::fs;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxBuildHasher;
use rustix::fs::{FileType, OFlags, fstat};

use super::foreign::{ForeignFile, ForeignFiles, Patience, Subject, Urgency};
use super::module::{FileIdentity, open_in_root};
use super::{Pid, monotonic_ns};
use crate::container::identity::{Identity, identify};

/// Files kept of one process: agents may write anew under the same name.
const FILES_MAX: usize = 4;

/// Forks from one process to the next whose names are inherited.
const ANCESTRY_MAX: u8 = 8;

/// A file's time of change is that of the last timer tick.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000_000;

/// One such file.
#[derive(Debug)]
pub struct PerfMapFile {
    id: u32,
    owner: u64,
    file: Arc<ForeignFile>,
    identity: FileIdentity,
}

impl PerfMapFile {
    /// Number of this file, unique in one run of the program.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The container whose process left it: equal for files of the same one. All processes outside of containers count as
    /// one.
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// The file.
    pub fn file(&self) -> &Arc<ForeignFile> {
        &self.file
    }
}

/// Every such file that was found of one process and of those it was forked from.
#[derive(Debug, Default)]
pub struct PerfMaps {
    /// Oldest first.
    found: Mutex<Vec<Arc<PerfMapFile>>>,
    /// Code is inherited over fork.
    inherited: Option<Arc<Self>>,
    generation: u8,
}

impl PerfMaps {
    /// Those of a process forked from one with these.
    pub fn inherited(self: &Arc<Self>) -> Self {
        let inherited = if self.generation < ANCESTRY_MAX { Some(self.clone()) } else { self.inherited.clone() };
        let generation = (self.generation + 1).min(ANCESTRY_MAX);
        Self { found: Mutex::default(), inherited, generation }
    }

    /// The files found so far: the process's own first, the newest of each process first.
    pub fn files(&self) -> Vec<Arc<PerfMapFile>> {
        let mut files: Vec<_> = self.own().iter().rev().cloned().collect();
        if let Some(inherited) = &self.inherited {
            files.extend(inherited.files());
        }
        files
    }

    /// Whether a file of the process itself was found.
    pub fn has_own(&self) -> bool {
        !self.own().is_empty()
    }

    /// Takes in what was found of a living process; `next_id` counts files. Whether it is new.
    pub(super) fn take_in(&self, found: FoundPerfMap, next_id: &mut u32) -> bool {
        let FoundPerfMap { owner, file, identity } = found;
        let mut own = self.own();
        if own.last().is_some_and(|newest| newest.identity == identity) {
            return false;
        }
        if own.len() == FILES_MAX {
            own.remove(0);
        }
        own.push(Arc::new(PerfMapFile { id: *next_id, owner, file: Arc::new(file), identity }));
        *next_id = next_id.wrapping_add(1);
        true
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Vec<Arc<PerfMapFile>>> {
        // The list is whole whatever happened to another holder.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no perf map of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PerfMapRefusal {
    /// The process is gone, or may not be looked at.
    #[error("the process is gone")]
    ProcessGone,
    /// There is no such file.
    #[error("there is none")]
    Missing,
    /// What has its name is not a regular file.
    #[error("it is no regular file")]
    NotAFile,
    /// It belongs to somebody else.
    #[error("it is owned by user {0}, not by the process's user or root")]
    ForeignOwner(u32),
    /// It was last written before the process began.
    #[error("it is older than the process: left behind by another with the same id")]
    Stale,
    /// Nobody says: the file system does not answer.
    #[error("its file system does not answer")]
    Unanswered,
}

/// A perf map that was found.
#[derive(Debug)]
pub(super) struct FoundPerfMap {
    owner: u64,
    file: ForeignFile,
    identity: FileIdentity,
}

/// Looks for the perf maps of living processes, given with the times they began. Those that see the same files are asked for
/// together.
pub(super) fn find_perf_maps(
    files: &ForeignFiles,
    processes: &[(Pid, u64)],
) -> Vec<(Pid, Result<FoundPerfMap, PerfMapRefusal>)> {
    let mut by_root: Vec<(Subject, Vec<(Pid, u64)>)> = Vec::new();
    for (pid, start_ns) in processes {
        let subject = files.root_of(*pid);
        match by_root.iter_mut().find(|(other, _)| other.on == subject.on) {
            Some((_, same)) => same.push((*pid, *start_ns)),
            None => by_root.push((subject, vec![(*pid, *start_ns)])),
        }
    }
    let mut found = Vec::with_capacity(processes.len());
    for (subject, same) in by_root {
        let wanted = same.clone();
        let look = move || {
            let open = |(pid, start_ns)| (pid, open_perf_map(pid, start_ns));
            same.into_iter().map(open).collect::<Vec<_>>()
        };
        match files.ask(&subject, Patience::Moment, Urgency::Now, look) {
            Ok(opened) => found.extend(opened.into_iter().map(|(pid, opened)| {
                let file = |there| ForeignFile::new(there, 0, subject.clone(), files.clone());
                (pid, opened.map(|(there, identity)| FoundPerfMap { owner: owner(pid), file: file(there), identity }))
            })),
            Err(_) => found.extend(wanted.into_iter().map(|(pid, _)| (pid, Err(PerfMapRefusal::Unanswered)))),
        }
    }
    found
}

/// The path of a process's perf map, as the process itself sees it; `None` if the process is gone.
pub fn perf_map_path(pid: Pid) -> Option<String> {
    Some(format!("/tmp/perf-{}.map", Status::read(pid)?.pid_in_namespace))
}

fn open_perf_map(pid: Pid, start_ns: u64) -> Result<(OwnedFd, FileIdentity), PerfMapRefusal> {
    let status = Status::read(pid).ok_or(PerfMapRefusal::ProcessGone)?;
    let path = format!("/tmp/perf-{}.map", status.pid_in_namespace);
    // Looked at only, since opening a device or a FIFO may do something.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = open_in_root(pid, OsStr::new(&path), flags).ok_or(PerfMapRefusal::Missing)?;
    let metadata = fstat(&there).map_err(|_| PerfMapRefusal::Missing)?;
    if FileType::from_raw_mode(metadata.st_mode) != FileType::RegularFile {
        return Err(PerfMapRefusal::NotAFile);
    }
    if metadata.st_uid != 0 && metadata.st_uid != status.user {
        return Err(PerfMapRefusal::ForeignOwner(metadata.st_uid));
    }
    let written_ns = metadata.st_mtime.max(0).cast_unsigned() * 1_000_000_000 + metadata.st_mtime_nsec;
    if written_ns + CLOCK_TOLERANCE_NS < real_time_ns(start_ns) {
        return Err(PerfMapRefusal::Stale);
    }
    let identity = FileIdentity::of(&there).ok_or(PerfMapRefusal::NotAFile)?;
    Ok((there, identity))
}

/// The container of a process, as a number.
fn owner(Pid(pid): Pid) -> u64 {
    owner_of(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default())
}

/// The same by what `/proc/PID/cgroup` says.
fn owner_of(memberships: &str) -> u64 {
    let paths = memberships.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let container = paths.filter_map(|path| match identify(path) {
        Identity::Container(container) => Some(container.id),
        // What a user calls a container counts as everything outside of containers does.
        Identity::Delegated(_) | Identity::Unit { .. } | Identity::Host => None,
    });
    container.into_iter().next().map_or(0, |id| FxBuildHasher.hash_one(id))
}

/// A time of the monotonic clock by the clock of the file system.
fn real_time_ns(at_ns: u64) -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let now_ns = now.tv_sec.max(0).cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
    now_ns.saturating_sub(monotonic_ns().saturating_sub(at_ns))
}

/// What `/proc/PID/status` says.
struct Status {
    /// The process's id as it sees itself.
    pid_in_namespace: u32,
    /// Its effective user, by our ids.
    user: u32,
}

impl Status {
    fn read(Pid(pid): Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        // Real, effective, saved and file-system user.
        let user = field("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        // From the outermost namespace to the process's own.
        let pid_in_namespace = field("NSpid:")?.split_ascii_whitespace().last()?.parse().ok()?;
        Some(Self { pid_in_namespace, user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::TestResult;

    /// The perf map of this test's own process; tests run side by side, so that it is made and removed in one of them.
    #[test]
    fn only_a_fresh_regular_file_of_the_same_user_counts() -> TestResult {
        let me = Pid(std::process::id());
        let path = perf_map_path(me).ok_or("no path")?;
        let (maps, mut next_id) = (Arc::new(PerfMaps::default()), 0);
        let began = monotonic_ns();
        let files = ForeignFiles::default();
        let mut look = || -> Result<bool, PerfMapRefusal> {
            let (_, found) = find_perf_maps(&files, &[(me, began)]).pop().ok_or(PerfMapRefusal::ProcessGone)?;
            Ok(maps.take_in(found?, &mut next_id))
        };
        assert_eq!(look(), Err(PerfMapRefusal::Missing));
        fs::write(&path, "1000 10 one\n")?;
        assert_eq!(look(), Ok(true));
        assert_eq!(look(), Ok(false), "the same file");
        let now = std::time::SystemTime::now();
        let set_written = |at| fs::File::options().write(true).open(&path)?.set_modified(at);
        set_written(now - std::time::Duration::from_mins(1))?;
        assert_eq!(look(), Err(PerfMapRefusal::Stale));
        set_written(now)?;
        let child = maps.inherited();
        assert!(!child.has_own());
        assert_eq!(child.files().iter().map(|file| file.id()).collect::<Vec<_>>(), [0], "code is inherited");
        fs::rename(&path, format!("{path}.old"))?;
        std::os::unix::fs::symlink(format!("{path}.old"), &path)?;
        assert_eq!(look(), Err(PerfMapRefusal::NotAFile), "a link");
        fs::remove_file(&path)?;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU)?;
        assert_eq!(look(), Err(PerfMapRefusal::NotAFile), "a FIFO");
        fs::remove_file(&path)?;
        fs::write(&path, "1000 10 anew\n")?;
        assert_eq!(look(), Ok(true), "another file");
        assert_eq!(maps.files().iter().map(|file| file.id()).collect::<Vec<_>>(), [1, 0]);
        if std::os::unix::fs::chown(&path, Some(54321), None).is_ok() && rustix::process::geteuid().as_raw() != 54321 {
            assert_eq!(look(), Err(PerfMapRefusal::ForeignOwner(54321)));
        }
        fs::remove_file(&path)?;
        fs::remove_file(format!("{path}.old"))?;
        Ok(())
    }

    #[test]
    fn a_long_line_of_forks_keeps_a_bounded_line_of_files() {
        let mut maps = Arc::new(PerfMaps::default());
        for _ in 0..1000 {
            maps = Arc::new(maps.inherited());
        }
        let (mut length, mut next) = (0, maps.inherited.clone());
        while let Some(ancestor) = next {
            length += 1;
            next = ancestor.inherited.clone();
        }
        assert!(length <= usize::from(ANCESTRY_MAX) + 1, "{length}");
    }

    #[test]
    fn files_of_one_container_have_one_owner_whatever_cgroup_below_it_they_are_in() {
        let id = |digit: &str| digit.repeat(64);
        let one = owner_of(&format!("12:cpu:/docker/{0}\n0::/docker/{0}\n", id("a")));
        assert_eq!(one, owner_of(&format!("0::/docker/{}/below/it\n", id("a"))));
        assert_ne!(one, owner_of(&format!("0::/docker/{}\n", id("b"))));
        assert_eq!(owner_of("0::/system.slice/nginx.service\n"), owner_of("0::/user.slice\n"));
    }

    #[test]
    fn the_id_inside_the_namespace_and_the_effective_user_are_read() {
        let status = Status::parse("Name:\tx\nUid:\t1\t2\t3\t4\nNSpid:\t4711\t12\t1\n");
        assert!(status.is_some_and(|status| (status.pid_in_namespace, status.user) == (1, 2)));
        assert!(Status::parse("Uid:\n").is_none());
    }
}
