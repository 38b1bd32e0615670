//! Files that are mapped for execution. In: a process, an address range, a path, a file identity. Out: a [`Module`]
//! that holds the very file that was mapped, open.
//!
//! A file is known by device and inode. While it is held open its inode cannot be given to another file, so the pair
//! is unique for as long as it is in use here; once it is closed the pair is forgotten.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstatfs, open, openat2, stat, statx};

use super::Pid;
use super::foreign::{Dependency, ForeignFile, ForeignFiles, Patience, Subject, Urgency};

/// Looks, one a minute or so, in which a file is found to be mapped by nobody before it is closed.
const IDLE_LOOKS: u8 = 3;

/// Number of a module, unique in one run of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// A file as mappings name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Inode number; 0 where there is no file.
    pub inode: u64,
}

impl FileIdentity {
    /// Whether an open file is the mapped one. On overlayfs and btrfs the mapping shows another device than the file,
    /// so there the inode alone decides.
    fn is(self, mapped: Self, file: &OwnedFd) -> bool {
        const OVERLAYFS: u64 = 0x794c_7630;
        const BTRFS: u64 = 0x9123_683e;
        let layered = || fstatfs(file).is_ok_and(|system| matches!(system.f_type as u64, OVERLAYFS | BTRFS));
        self == mapped || self.inode == mapped.inode && layered()
    }

    pub(super) fn of(file: &OwnedFd) -> Option<Self> {
        status_of(file).map(|(identity, _)| identity)
    }
}

/// What changes when a file is written to: it may be the same inode and hold another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    bytes: u64,
    /// Time of the last change of its content, in seconds and nanoseconds.
    modified: (i64, u32),
}

/// Which regular file it is, and its version: as far as the kernel knows without asking the server of a file system.
fn status_of(file: &OwnedFd) -> Option<(FileIdentity, Version)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE | StatxFlags::MTIME;
    let status = statx(file, "", flags, wanted).ok()?;
    let is_file = FileType::from_raw_mode(status.stx_mode.into()) == FileType::RegularFile;
    let identity = FileIdentity { major: status.stx_dev_major, minor: status.stx_dev_minor, inode: status.stx_ino };
    let modified = (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec);
    is_file.then_some((identity, Version { bytes: status.stx_size, modified }))
}

/// A file that is mapped for execution.
#[derive(Debug)]
pub struct Module {
    id: ModuleId,
    identity: FileIdentity,
    name: Box<str>,
    path: Box<OsStr>,
    file: Option<Arc<ForeignFile>>,
    version: Option<Version>,
    root: Option<Root>,
    is_program: bool,
    is_unanswered: bool,
    open_files: Arc<AtomicUsize>,
}

/// A container's root directory.
#[derive(Debug, Clone)]
struct Root {
    directory: Arc<OwnedFd>,
    subject: Subject,
}

impl Module {
    /// Its number.
    pub fn id(&self) -> ModuleId {
        self.id
    }

    /// Whether it is the same file as another, though one of them could not be opened.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        let versions = self.version.zip(other.version);
        let alike = (self.identity, &self.name) == (other.identity, &other.name);
        self.id == other.id || alike && versions.is_none_or(|(one, two)| one == two)
    }

    /// Base name of its path, for display.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path where it was mapped from, as that process saw it.
    pub fn path(&self) -> &Path {
        Path::new(&*self.path)
    }

    /// The root directory of the process that mapped it, in its mount namespace, if other files may be seen from there than from
    /// ours: a container's.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(|root| root.directory.as_fd())
    }

    /// What looking for files below that root depends on.
    pub fn root_subject(&self) -> Option<&Subject> {
        self.root.as_ref().map(|root| &root.subject)
    }

    /// Whether the file still holds what it held when it was opened.
    pub fn is_unchanged(&self) -> bool {
        self.file.as_ref().is_some_and(|file| status_of(file.there()).map(|(_, version)| version) == self.version)
    }

    /// The file that was mapped; `None` if it could not be opened (counted in [`ModuleCounters`]).
    pub fn file(&self) -> Option<&Arc<ForeignFile>> {
        self.file.as_ref()
    }

    /// Whether there is no file because nobody answered.
    pub fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// Whether a file in memory only (`memfd_create`) holds a program, as all others are taken to.
    pub(super) fn is_program(&self) -> bool {
        self.is_program
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.open_files.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What became of the files of mappings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModuleCounters {
    /// Files opened.
    pub opened: u64,
    /// Files that could not be opened: process and file were gone, or access was refused.
    pub unopened: u64,
    /// Files found under the mapped path that are not the mapped file: replaced on disk.
    pub replaced: u64,
    /// Files not opened because the limit on open files was reached and all were in use.
    pub over_limit: u64,
    /// Files closed to stay inside the limit.
    pub evicted: u64,
    /// Files not opened because there was no answer.
    pub unanswered: u64,
}

/// A module, and how long it has been of use.
#[derive(Debug)]
struct Kept {
    module: Arc<Module>,
    /// When it was last asked for, by [`Modules::clock`].
    used: u64,
    /// How often in a row it was found to be nobody else's.
    idle: u8,
}

impl Kept {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.module) == 1
    }
}

/// Every module in use.
#[derive(Debug)]
pub struct Modules {
    /// The name is part of the key because overlayfs may give one pair of device and inode to files of two layers.
    by_file: FxHashMap<(FileIdentity, Box<str>), Kept>,
    /// Roots of containers that modules in use came from.
    roots: FxHashMap<RootIdentity, Weak<OwnedFd>>,
    limit: usize,
    open_files: Arc<AtomicUsize>,
    next_id: u32,
    clock: u64,
    counters: ModuleCounters,
    foreign: ForeignFiles,
}

/// A mapped file that was found.
struct Found {
    there: OwnedFd,
    version: Version,
    is_program: bool,
    /// The root of the process, with what it is known by, if it is not ours.
    root: Option<(OwnedFd, RootIdentity)>,
}

impl Modules {
    /// Keeps at most `limit` files open.
    pub fn new(limit: usize) -> Self {
        Self {
            by_file: FxHashMap::default(),
            roots: FxHashMap::default(),
            limit,
            open_files: Arc::default(),
            next_id: 0,
            clock: 0,
            counters: ModuleCounters::default(),
            foreign: ForeignFiles::default(),
        }
    }

    /// By whom files are opened.
    pub fn foreign(&self) -> &ForeignFiles {
        &self.foreign
    }

    /// 4096, or what the limit on open files leaves after 256 for everything else.
    pub fn default_limit() -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        (limit.saturating_sub(256).max(limit / 4)).min(4096) as usize
    }

    /// What became of the files so far.
    pub fn counters(&self) -> ModuleCounters {
        self.counters
    }

    /// Number of files held open, those in the hands of other threads included.
    pub fn open_files(&self) -> usize {
        self.open_files.load(Ordering::Relaxed)
    }

    /// The module behind a mapping. `roots` are processes whose mount namespace may show `path`: the process itself
    /// first, then its ancestors.
    pub fn module(&mut self, file: FileIdentity, path: &OsStr, range: (u64, u64), roots: &[Pid]) -> Arc<Module> {
        self.clock += 1;
        let key = (file, base_name(path));
        if let Some(kept) = self.by_file.get_mut(&key) {
            kept.used = self.clock;
            if kept.module.is_unchanged() {
                return kept.module.clone();
            }
        }
        let mut opened = None;
        let mut is_unanswered = false;
        if self.make_room_for_one() {
            match self.open_mapped(file, path, range, roots) {
                Ok(found) => opened = found,
                Err(()) => is_unanswered = true,
            }
            match (&opened, is_unanswered) {
                (Some(_), _) => self.counters.opened += 1,
                (None, false) => self.counters.unopened += 1,
                (None, true) => self.counters.unanswered += 1,
            }
        }
        // A module without a file is named for display only; another process may still open it later.
        if opened.is_none()
            && let Some(kept) = self.by_file.get(&key)
            && kept.module.is_unanswered == is_unanswered
        {
            return kept.module.clone();
        }
        let module = self.add((file, key.1.clone()), path, opened, is_unanswered);
        self.by_file.insert(key, Kept { module: module.clone(), used: self.clock, idle: 0 });
        module
    }

    /// Every module in use.
    pub fn ids(&self) -> impl Iterator<Item = ModuleId> + '_ {
        self.by_file.values().map(|kept| kept.module.id)
    }

    /// Forgets what nobody has mapped any more: files that could not be opened at once, others when they were found so several times
    /// in a row, since a program that has ended may begin again. A file that is held open keeps its place on the disk, and that of a
    /// container its root.
    pub fn forget_idle(&mut self) {
        self.by_file.retain(|_, kept| {
            kept.idle = if kept.is_idle() { kept.idle + 1 } else { 0 };
            kept.idle == 0 || kept.module.file.is_some() && kept.idle < IDLE_LOOKS
        });
    }

    fn add(
        &mut self,
        (identity, name): (FileIdentity, Box<str>),
        path: &OsStr,
        opened: Option<(Found, Subject, Subject)>,
        is_unanswered: bool,
    ) -> Arc<Module> {
        let id = ModuleId(self.next_id);
        self.next_id += 1;
        let (mut file, mut root, mut is_program) = (None, None, !is_memory_file(path));
        let mut version = None;
        if let Some((found, subject, root_subject)) = opened {
            self.open_files.fetch_add(1, Ordering::Relaxed);
            (is_program, version) = (found.is_program, Some(found.version));
            root = found.root.map(|root| Root { directory: self.shared_root(root), subject: root_subject });
            file = Some(Arc::new(ForeignFile::new(found.there, found.version.bytes, subject, self.foreign.clone())));
        }
        let (path, open_files) = (without_deleted(path).into(), self.open_files.clone());
        Arc::new(Module { id, identity, name, path, file, version, root, is_program, is_unanswered, open_files })
    }

    /// One descriptor a container.
    fn shared_root(&mut self, (root, key): (OwnedFd, RootIdentity)) -> Arc<OwnedFd> {
        if let Some(known) = self.roots.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        self.roots.retain(|_, root| root.strong_count() > 0);
        let root = Arc::new(root);
        self.roots.insert(key, Arc::downgrade(&root));
        root
    }

    /// Closes the file used longest ago that nobody else holds, if the limit is reached.
    fn make_room_for_one(&mut self) -> bool {
        if self.open_files() < self.limit {
            return true;
        }
        let idle = self.by_file.iter().filter(|(_, kept)| kept.is_idle() && kept.module.file.is_some());
        let oldest = idle.min_by_key(|(_, kept)| kept.used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.by_file.remove(&key);
            self.counters.evicted += 1;
            return true;
        }
        self.counters.over_limit += 1;
        false
    }

    /// Finds the mapped file, with what reading it and looking below its root depend on. An error if nobody answered.
    fn open_mapped(
        &mut self,
        wanted: FileIdentity,
        path: &OsStr,
        range: (u64, u64),
        roots: &[Pid],
    ) -> Result<Option<(Found, Subject, Subject)>, ()> {
        let Some(first) = roots.first() else { return Ok(None) };
        let root_subject = self.foreign.root_of(*first);
        let subject = root_subject.with(Dependency::Device(wanted.major, wanted.minor));
        let (path, roots) = (path.to_owned(), roots.to_vec());
        let find = move || find_mapped(wanted, &path, range, &roots);
        let found = self.foreign.ask(&subject, Patience::Moment, Urgency::Now, find);
        let (found, is_replaced) = found.map_err(drop)?;
        self.counters.replaced += u64::from(is_replaced);
        Ok(found.map(|found| (found, subject, root_subject)))
    }
}

/// `map_files` leads to the mapped file itself, deleted or not. A path may lead elsewhere by now, so there device and inode must
/// agree. Also whether another file was found in its stead.
fn find_mapped(wanted: FileIdentity, path: &OsStr, (start, end): (u64, u64), roots: &[Pid]) -> (Option<Found>, bool) {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if let Some(Pid(pid)) = roots.first()
        && let Ok(file) = open(format!("/proc/{pid}/map_files/{start:x}-{end:x}"), flags, Mode::empty())
        && let Some((found, version)) = status_of(&file)
        // The same address range may hold another file by now.
        && found.is(wanted, &file)
    {
        return (Some(Found::new(file, version, path, roots)), false);
    }
    let mut is_replaced = false;
    for (at, root) in roots.iter().enumerate() {
        if let Some(file) = open_in_root(*root, path, flags)
            && let Some((found, version)) = status_of(&file)
        {
            if found.is(wanted, &file) {
                // Those before this process may be gone, and the others may see other files.
                return (Some(Found::new(file, version, path, &roots[at..])), false);
            }
            is_replaced = true;
        }
    }
    (None, is_replaced)
}

impl Found {
    fn new(there: OwnedFd, version: Version, path: &OsStr, roots: &[Pid]) -> Self {
        let is_program = !is_memory_file(path) || is_elf(&there);
        Self { there, version, is_program, root: foreign_root(roots) }
    }
}

/// What makes the files below two root directories the same. Device and inode do not: in a mount namespace of its own a process
/// sees other file systems below the same directory, and so does one whose root is another mount of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RootIdentity {
    /// Inode number of the mount namespace.
    namespace: u64,
    /// Number of the mount; 0 on kernels that do not tell.
    mount: u64,
    device: u64,
    inode: u64,
}

/// The root directory of a process in its mount namespace: what is opened below it is what the process would open. No file system's
/// server is asked for it.
fn root_of(process: &str) -> Option<(OwnedFd, RootIdentity)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(format!("/proc/{process}/root"), flags, Mode::empty()).ok()?;
    let at = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(&root, "", at, StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
    let namespace = stat(format!("/proc/{process}/ns/mnt")).ok()?.st_ino;
    let mount = if status.stx_mask & StatxFlags::MNT_ID.bits() == 0 { 0 } else { status.stx_mnt_id };
    let device = rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor);
    Some((root, RootIdentity { namespace, mount, device, inode: status.stx_ino }))
}

/// The root of the first of these processes that still lives, unless it is ours.
fn foreign_root(processes: &[Pid]) -> Option<(OwnedFd, RootIdentity)> {
    let (root, identity) = processes.iter().find_map(|Pid(pid)| root_of(&pid.to_string()))?;
    let is_ours = root_of("self").is_some_and(|(_, ours)| ours == identity);
    (!is_ours).then_some((root, identity))
}

/// Runtimes map the code they make through a memfd, too.
fn is_memory_file(path: &OsStr) -> bool {
    path.as_bytes().starts_with(b"/memfd:")
}

fn is_elf(there: &OwnedFd) -> bool {
    let mut magic = [0; 4];
    reopen(there).is_some_and(|file| File::from(file).read_exact_at(&mut magic, 0).is_ok()) && magic == *b"\x7fELF"
}

/// Opens a path as the process sees it. Links inside a container are resolved inside its root, never in ours.
pub(super) fn open_in_root(Pid(pid): Pid, path: &OsStr, flags: OFlags) -> Option<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(format!("/proc/{pid}/root"), directory, Mode::empty()).ok()?;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS).ok()
}

/// Opens a regular file below a root directory, whatever links lie on the way; nothing else is opened, since opening a
/// device or a FIFO may do something.
pub(crate) fn open_regular(root: Option<BorrowedFd<'_>>, path: &Path) -> Option<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let there = match root {
        Some(root) => openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS),
        None => open(path, flags, Mode::empty()),
    };
    reopen(&there.ok().filter(|there| FileIdentity::of(there).is_some())?).map(File::from)
}

/// Opens for reading what was only looked at so far.
pub(super) fn reopen(there: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open(format!("/proc/self/fd/{}", there.as_raw_fd()), flags, Mode::empty()).ok()
}

/// The kernel marks the paths of files that are gone.
fn without_deleted(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes))
}

fn base_name(path: &OsStr) -> Box<str> {
    let path = Path::new(without_deleted(path));
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn identity(path: &Path) -> FileIdentity {
        let status = std::fs::metadata(path).unwrap();
        FileIdentity {
            major: rustix::fs::major(status.dev()),
            minor: rustix::fs::minor(status.dev()),
            inode: status.ino(),
        }
    }

    fn me() -> Pid {
        Pid(std::process::id())
    }

    #[test]
    fn the_same_file_is_the_same_module() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut modules = Modules::new(10);
        let identity = identity(file.path());
        let first = modules.module(identity, file.path().as_os_str(), (0, 1), &[me()]);
        let again = modules.module(identity, file.path().as_os_str(), (0, 1), &[me()]);
        assert_eq!(first.id(), again.id());
        assert!(first.file().is_some());
        assert_eq!(modules.counters(), ModuleCounters { opened: 1, ..ModuleCounters::default() });
    }

    #[test]
    fn a_file_replaced_on_disk_is_not_taken_for_the_mapped_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut wanted = identity(file.path());
        wanted.inode += 1_000_000;
        let mut modules = Modules::new(10);
        let module = modules.module(wanted, file.path().as_os_str(), (0, 1), &[me()]);
        assert!(module.file().is_none());
        assert_eq!(modules.counters(), ModuleCounters { unopened: 1, replaced: 1, ..ModuleCounters::default() });
    }

    #[test]
    fn a_file_that_was_written_to_is_another_module() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut modules = Modules::new(10);
        let identity = identity(file.path());
        let first = modules.module(identity, file.path().as_os_str(), (0, 1), &[me()]);
        assert!(first.is_unchanged());
        std::fs::write(file.path(), "another program").unwrap();
        assert!(!first.is_unchanged());
        let second = modules.module(identity, file.path().as_os_str(), (0, 1), &[me()]);
        assert!(second.is_unchanged() && !second.is_same_file(&first));
        let again = modules.module(identity, file.path().as_os_str(), (0, 1), &[me()]);
        assert_eq!(again.id(), second.id());
    }

    #[test]
    fn the_limit_closes_idle_files_and_counts_what_it_refuses() {
        let files: Vec<_> = (0..3).map(|_| tempfile::NamedTempFile::new().unwrap()).collect();
        let mut modules = Modules::new(2);
        let open = |modules: &mut Modules, index: usize| {
            let path = files[index].path();
            modules.module(identity(path), path.as_os_str(), (0, 1), &[me()])
        };
        let held = open(&mut modules, 0);
        drop(open(&mut modules, 1));
        let third = open(&mut modules, 2);
        assert!(third.file().is_some());
        assert_eq!((modules.counters().evicted, modules.open_files()), (1, 2));
        let refused = open(&mut modules, 1);
        assert!(refused.file().is_none());
        assert_eq!(modules.counters().over_limit, 1);
        drop((held, third));
        assert!(open(&mut modules, 1).file().is_some(), "opened once there is room");
    }

    #[test]
    fn files_that_nobody_has_mapped_any_more_are_closed_after_a_while() {
        let files: Vec<_> = (0..2).map(|_| tempfile::NamedTempFile::new().unwrap()).collect();
        let mut modules = Modules::new(10);
        let open = |modules: &mut Modules, index: usize| {
            let path = files[index].path();
            modules.module(identity(path), path.as_os_str(), (0, 1), &[me()])
        };
        let held = open(&mut modules, 0);
        drop(open(&mut modules, 1));
        for _ in 1..IDLE_LOOKS {
            modules.forget_idle();
        }
        assert_eq!(modules.open_files(), 2, "it may be asked for again");
        let again = open(&mut modules, 1);
        modules.forget_idle();
        drop(again);
        for _ in 1..IDLE_LOOKS {
            modules.forget_idle();
        }
        assert_eq!(modules.open_files(), 2, "it was");
        modules.forget_idle();
        assert_eq!((modules.open_files(), modules.ids().count()), (1, 1));
        drop(held);
    }

    #[test]
    fn names_for_display_are_base_names() {
        assert_eq!(&*base_name(OsStr::new("/usr/bin/redis-server (deleted)")), "redis-server");
        assert_eq!(&*base_name(OsStr::new("/memfd:code")), "memfd:code");
    }
}
