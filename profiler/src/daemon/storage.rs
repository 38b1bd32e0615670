//! History on disk, so that it survives a restart: one recording a window in a directory, written and removed by a thread of
//! its own. A disk that is slow, full or read-only costs windows on disk, each counted, and nothing else.
//!
//! Directory and files are their owner's alone, whatever the umask. What somebody else owns or may write to is not read: it
//! would be shown as what was measured.
//!
//! Files are ordinary recordings: `profiler report DIR/window-….profile` reads them.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustc_hash::FxHashMap;

use super::{
    history::{Entry, History},
    repeated::Repeated,
};
use crate::profile::recording::{self, RecordingError};

/// Orders that may wait.
const QUEUE: usize = 256;

/// Modes of the directory and of a file.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Write permission of the group and of everybody.
const OTHERS_MAY_WRITE: u32 = 0o022;

const PREFIX: &str = "window-";
const SUFFIX: &str = ".profile";

/// What became of the windows on disk.
#[derive(Debug, Default)]
pub struct StorageCounters {
    /// Windows written.
    pub written: AtomicU64,
    /// Windows that could not be written or removed.
    pub failed: AtomicU64,
    /// Windows read at the start.
    pub loaded: AtomicU64,
    /// Files that were no whole recordings.
    pub corrupt: AtomicU64,
    last_error: Mutex<Option<String>>,
    trouble: Repeated,
}

impl StorageCounters {
    /// What went wrong last, if it has not gone well since.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Each failure is counted; a disk that stays full is said once, whichever window it is about.
    fn fail(&self, what: &'static str, path: &Path, error: &io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.say(&format!("{what}: {:?}", error.kind()), format!("cannot {what} {}: {error}", path.display()));
    }

    fn say(&self, kind: &str, message: String) {
        if self.trouble.is_new(kind) {
            tracing::warn!("history on disk: {message}; said once, counted in profiler_storage_failures_total");
        }
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }

    fn succeed(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = self.trouble.is_over() {
            tracing::info!("history on disk: windows are written again, after {times} failures");
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

enum Order {
    Write(PathBuf, Arc<[u8]>),
    Remove(PathBuf),
}

/// Handle on the thread. Dropping it waits until what is queued is written.
pub struct Storage {
    path: PathBuf,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    files: FxHashMap<u64, PathBuf>,
    /// What became of the windows.
    pub counters: Arc<StorageCounters>,
}

impl Storage {
    /// Makes the directory if need be and reads into `history` what is there and not too old. What cannot be read is counted
    /// and moved out of the way. An error if the directory is another user's.
    pub fn open(path: &Path, history: &mut History) -> io::Result<Self> {
        let counters = Arc::new(StorageCounters::default());
        if let Err(error) = make_directory(path) {
            // The history in memory is worth having all the same.
            counters.fail("make the directory", path, &error);
        }
        close_directory(path)?;
        let files = load(path, history, &counters);
        let (orders, inbox) = bounded(QUEUE);
        let of_thread = Arc::clone(&counters);
        let thread = std::thread::Builder::new().name("storage".into()).spawn(move || run(&inbox, &of_thread))?;
        Ok(Self { path: path.to_owned(), orders: Some(orders), thread: Some(thread), files, counters })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has an entry written.
    pub fn write(&mut self, id: u64, entry: &Entry) {
        let name = format!("{PREFIX}{:020}-{}{SUFFIX}", entry.window.start_unix_ns, entry.window.duration_ns);
        let path = self.path.join(name);
        self.files.insert(id, path.clone());
        self.order(Order::Write(path, Arc::clone(&entry.data)));
    }

    /// Has the file of an entry removed.
    pub fn remove(&mut self, id: u64) {
        if let Some(path) = self.files.remove(&id) {
            self.order(Order::Remove(path));
        }
    }

    fn order(&self, order: Order) {
        let Some(orders) = &self.orders else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = orders.try_send(order) {
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            self.counters.say("slow", "the disk is so slow that windows are left out".to_owned());
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn run(inbox: &Receiver<Order>, counters: &StorageCounters) {
    super::capabilities::keep_nothing();
    for order in inbox {
        match order {
            Order::Write(path, data) => match write(&path, &data) {
                Ok(()) => counters.succeed(),
                Err(error) => counters.fail("write", &path, &error),
            },
            Order::Remove(path) => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => counters.fail("remove", &path, &error),
                _ => {}
            },
        }
    }
}

/// Makes the directory, and those above it that are missing.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(path)
}

/// An error unless the directory is this user's; makes it theirs alone. What others may have put there before is told by
/// its owner and mode ([`open_own`]).
fn close_directory(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let own = rustix::process::geteuid().as_raw();
    let path_shown = path.display();
    if metadata.uid() != own {
        let owner = metadata.uid();
        let text = format!(
            "{path_shown} is not used: it belongs to user {owner}, and this program runs as user {own}; \
             `chown {own} {path_shown}`, or name another directory"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        let mode = metadata.mode() & 0o7777;
        tracing::warn!("history on disk: others could write to {path_shown} (mode {mode:o}); it is closed to them now");
    }
    if metadata.mode() & 0o7777 == PRIVATE_DIRECTORY {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_DIRECTORY))
        .map_err(|error| io::Error::new(error.kind(), format!("{path_shown} cannot be closed to others: {error}")))
}

/// Opens a recording that this user wrote, and nobody else can have written since.
fn open_own(path: &Path) -> io::Result<fs::File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    let own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if own && metadata.is_file() && metadata.mode() & OTHERS_MAY_WRITE == 0 {
        return Ok(file);
    }
    Err(io::Error::other("it is no file of this user's that nobody else may write to"))
}

/// Whole or not at all: written beside its place and moved there.
fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("partial");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(PRIVATE_FILE).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(&beside).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE_FILE))?;
        file.write_all(data)
    });
    let result = written.and_then(|()| fs::rename(&beside, path));
    if result.is_err() {
        // A full disk should get back what little was written.
        fs::remove_file(&beside).ok();
    }
    result
}

/// Reads what is there, oldest first, and returns which entry lies in which file.
fn load(directory: &Path, history: &mut History, counters: &StorageCounters) -> FxHashMap<u64, PathBuf> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            counters.fail("read", directory, &error);
            return FxHashMap::default();
        }
    };
    paths.sort();
    let is_window = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    };
    let mut files = FxHashMap::default();
    for path in paths.into_iter().filter(is_window) {
        match read(&path, history) {
            Ok(Some(entry)) => {
                files.insert(history.push(entry), path);
                counters.loaded.fetch_add(1, Ordering::Relaxed);
            }
            Ok(None) => {
                if let Err(error) = fs::remove_file(&path) {
                    counters.fail("remove", &path, &error);
                }
            }
            Err(error) => {
                let before = counters.corrupt.fetch_add(1, Ordering::Relaxed);
                let message = format!("{} is left out: {error}", path.display());
                if before == 0 {
                    tracing::warn!("history on disk: {message}; said once, counted in /api/v1/status");
                }
                *counters.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
                // Kept for whoever wants to know, but not read again.
                fs::rename(&path, path.with_extension("corrupt")).ok();
            }
        }
    }
    files
}

/// An entry; `None` if it is too old.
fn read(path: &Path, history: &History) -> Result<Option<Entry>, RecordingError> {
    let file = open_own(path)?;
    let length = file.metadata()?.len();
    if length > recording::MAX_PAYLOAD_BYTES {
        return Err(RecordingError::TooLarge { bytes: length });
    }
    let mut data = Vec::new();
    file.take(recording::MAX_PAYLOAD_BYTES).read_to_end(&mut data)?;
    let data: Arc<[u8]> = data.into();
    let profile = recording::read_from(&*data)?;
    let end_ns = profile.window.start_unix_ns.saturating_add(profile.window.duration_ns);
    let age = Duration::from_nanos(super::unix_ns().saturating_sub(end_ns));
    if age > history.settings().retention {
        return Ok(None);
    }
    // A machine that has just booted has no moment that long ago.
    let ended = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
    Entry::with_data(&profile, ended, data).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::settings::HistorySettings, profile::testing};

    fn history() -> History {
        History::new(HistorySettings { retention: Duration::from_hours(1), max_bytes: 1 << 30, path: None })
    }

    fn entry(seconds_ago: u64) -> Entry {
        let mut profile = testing::profile();
        profile.window.start_unix_ns = crate::daemon::unix_ns() - seconds_ago * 1_000_000_000;
        Entry::of(&profile, Instant::now()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_was_written_is_there_again_after_a_restart_and_what_is_too_old_is_not() {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let mut storage = Storage::open(directory.path(), &mut history()).unwrap_or_else(|error| panic!("{error}"));
        for (id, ago) in [(1, 7200), (2, 40), (3, 30), (4, 20)] {
            storage.write(id, &entry(ago));
        }
        storage.remove(3);
        drop(storage);
        let mut again = history();
        let storage = Storage::open(directory.path(), &mut again).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.entries().len(), 2);
        assert_eq!(storage.counters.loaded.load(Ordering::Relaxed), 2);
        assert_eq!(fs::read_dir(directory.path()).map_or(0, Iterator::count), 2, "the old one is gone");
    }

    #[test]
    fn corrupt_files_are_counted_and_left_out() {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let whole = entry(20);
        for (name, bytes) in [
            ("window-1-1.profile", &b"not a recording"[..]),
            ("window-2-1.profile", &whole.data[..whole.data.len() / 2]),
            ("window-3-1.profile", &[]),
            ("unrelated.txt", b"left alone"),
        ] {
            fs::write(directory.path().join(name), bytes).unwrap_or_else(|error| panic!("{error}"));
        }
        let mut history = history();
        let storage = Storage::open(directory.path(), &mut history).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(history.entries().len(), 0);
        assert_eq!(storage.counters.corrupt.load(Ordering::Relaxed), 3);
        assert!(directory.path().join("unrelated.txt").exists());
        assert!(directory.path().join("window-1-1.corrupt").exists());
    }

    fn open(path: &Path, history: &mut History) -> Storage {
        Storage::open(path, history).unwrap_or_else(|error| panic!("{error}"))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).map_or(0, |metadata| metadata.mode() & 0o7777)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn directory_and_files_are_their_owners_alone() {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let below = directory.path().join("a/b");
        let mut storage = open(&below, &mut history());
        storage.write(1, &entry(10));
        drop(storage);
        let files: Vec<PathBuf> =
            fs::read_dir(&below).into_iter().flatten().flatten().map(|found| found.path()).collect();
        assert_eq!(files.len(), 1);
        assert_eq!((mode(&below), mode(&files[0])), (0o700, 0o600));
        // What an earlier version left open is closed.
        set_mode(&below, 0o755);
        let mut again = history();
        drop(open(&below, &mut again));
        assert_eq!((mode(&below), again.entries().len()), (0o700, 1));
    }

    #[test]
    fn a_directory_of_another_user_is_refused_with_what_to_do_and_ones_own_is_closed() {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        for wide in [0o770, 0o777, 0o1777] {
            set_mode(directory.path(), wide);
            drop(open(directory.path(), &mut history()));
            assert_eq!(mode(directory.path()), 0o700, "{wide:o}");
        }
        // Only root can give it away.
        if std::os::unix::fs::chown(directory.path(), Some(12_345), None).is_ok() {
            let error = Storage::open(directory.path(), &mut history()).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains("user 12345") && error.contains("chown")));
        }
    }

    #[test]
    fn files_that_others_may_have_written_are_left_out_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let whole = entry(20);
        let put = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, &*whole.data).unwrap_or_else(|error| panic!("{error}"));
            path
        };
        set_mode(&put("window-1-1.profile"), 0o600);
        set_mode(&put("window-2-1.profile"), 0o666);
        let elsewhere = put("elsewhere");
        std::os::unix::fs::symlink(elsewhere, directory.path().join("window-3-1.profile"))
            .unwrap_or_else(|error| panic!("{error}"));
        let mut history = history();
        let storage = open(directory.path(), &mut history);
        assert_eq!(history.entries().len(), 1);
        assert_eq!(storage.counters.corrupt.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_disk_that_stays_full_is_said_once_and_counted_and_said_when_it_is_over() {
        let counters = StorageCounters::default();
        for window in 1..=3 {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            counters.fail("write", Path::new(&format!("/h/window-{window}")), &full);
        }
        assert_eq!(counters.failed.load(Ordering::Relaxed), 3);
        assert!(counters.last_error().is_some_and(|error| error.contains("window-3")));
        assert!(!counters.trouble.is_new("write: StorageFull"), "it has been said");
        counters.succeed();
        assert_eq!(counters.last_error(), None);
        assert!(counters.trouble.is_new("write: StorageFull"), "it may be said again");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_counted_and_said() {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
        let mut storage =
            Storage::open(&file.path().join("below"), &mut history()).unwrap_or_else(|error| panic!("{error}"));
        let counters = Arc::clone(&storage.counters);
        storage.write(1, &entry(10));
        drop(storage);
        assert!(counters.failed.load(Ordering::Relaxed) >= 2);
        assert!(counters.last_error().is_some_and(|error| error.contains("below")));
    }
}
