//! Work that may wait for somebody else for ever: other processes' files, whose file system may have stopped answering (a dead
//! NFS server, a FUSE daemon that hangs), and other processes' memory. In: work, and what it depends on. Out: its result, or that
//! there was none in time.
//!
//! The work is done by threads that nobody joins. One that gives no answer in time is left behind: what it depends on is asked
//! nothing until it returns, so that it costs one thread and one deadline, however many processes depend on the same. A thread
//! left behind holds no lock and no descriptor that others need. What is mapped is held by descriptors
//! that were never opened for reading (`O_PATH`), because closing a file of a FUSE daemon that hangs cannot be interrupted.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Pid;
use super::module::reopen;

/// Threads at a time, those that are stuck included.
const WORKERS_MAX: usize = 32;

/// Stuck threads of one container: one whose `/tmp` hangs may still have its programs opened.
const STUCK_PER_OWNER: usize = 2;

/// How long an answer of a moment is waited for, and how long a reader may stand still. Both are divided among those that are
/// stuck already: the more there are, the less each further one may delay everybody else.
const MOMENT: Duration = Duration::from_millis(250);
const STANDSTILL: Duration = Duration::from_secs(1);

/// The least of either.
const LEAST: Duration = Duration::from_millis(30);

/// Looks at a reader that found it waiting after which it is left behind, though it may be slow only.
const WAITING_LOOKS: u32 = 10;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(30);

/// How long it is remembered who owns a process, and of how many.
const OWNER_KNOWN: Duration = Duration::from_secs(10);
const OWNERS_MAX: usize = 8192;

/// What answers as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// A process's address space, which is locked while a mapping waits for its file.
    Memory(Pid),
    /// What is reached by path below a process's root.
    Root(Arc<str>),
    /// A file system, by major and minor number.
    Device(u32, u32),
    /// The directories of this host with separate debug files.
    DebugFolder,
}

/// What work depends on, and on whose account it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// On what.
    pub on: Dependency,
    /// Container, or mount namespace outside of one.
    owner: Option<Arc<str>>,
    /// For which process.
    process: Option<Pid>,
}

impl Subject {
    /// Of this host.
    pub fn of_host(on: Dependency) -> Self {
        Self { on, owner: None, process: None }
    }

    /// The same owner's, but another dependency.
    #[must_use]
    pub fn with(&self, on: Dependency) -> Self {
        Self { on, ..self.clone() }
    }
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A quarter of a second at most.
    Moment,
    /// As long as the work goes on: it may read and compute for seconds, but not wait for one second without anything happening.
    Work,
}

/// At which priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Processes that end soon are concerned.
    Now,
    /// Others go first.
    Ordinary,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// None came in time.
    #[error("there was no answer in time")]
    Late,
    /// It was not asked for: an earlier request for the same still waits.
    #[error("an earlier request still waits for an answer")]
    Stuck,
    /// It was not asked for: too many requests wait for an answer.
    #[error("too many requests wait for an answer")]
    Full,
    /// The work failed in itself, or no thread could be had for it.
    #[error("the work could not be done")]
    Failed,
}

/// What was not answered since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unheard {
    /// Requests that were given up.
    pub requests: u64,
    /// Processes of which something is missing for that.
    pub processes: u64,
}

type Deliver = Box<dyn FnOnce() + Send>;

struct Job {
    number: u64,
    thread: Arc<AtomicI32>,
    /// Returns what hands the result over: that is done when the thread is free again.
    work: Box<dyn FnOnce() -> Deliver + Send>,
}

#[derive(Debug)]
struct UnderWay {
    subject: Subject,
    is_stuck: bool,
}

#[derive(Debug, Default)]
struct State {
    under_way: FxHashMap<u64, UnderWay>,
    /// Threads without work, by urgency.
    idle: [Vec<(u64, Sender<Job>)>; 2],
    workers: usize,
    next: u64,
    given_up: u64,
    processes: FxHashSet<Pid>,
    owners: FxHashMap<Pid, (Owner, Instant)>,
}

#[derive(Debug, Clone)]
struct Owner {
    name: Arc<str>,
    root: Arc<str>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    returned: AtomicU64,
}

/// The threads, and what they wait for. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct ForeignFiles(Arc<Shared>);

impl ForeignFiles {
    /// Has work done, and waits for its result.
    pub fn ask<T: Send + 'static>(
        &self,
        subject: &Subject,
        patience: Patience,
        urgency: Urgency,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (reply, answer) = bounded(1);
        let work = move || -> Deliver {
            let result = work();
            Box::new(move || {
                // Whoever asked may have given up.
                reply.send(result).ok();
            })
        };
        let thread = Arc::new(AtomicI32::new(0));
        let asked = self.begin(subject, urgency, thread.clone(), Box::new(work));
        let result = asked.and_then(|number| self.wait(number, &thread, &answer, patience));
        if result.is_err()
            && let Some(pid) = subject.process
        {
            self.state().processes.insert(pid);
        }
        result
    }

    /// Whether nothing that waits stands in the way of asking.
    pub fn may_ask(&self, subject: &Subject) -> bool {
        self.state().refusal(subject).is_none()
    }

    /// Requests that were given up and have ended since: what was refused meanwhile may be asked again.
    pub fn returned(&self) -> u64 {
        self.0.returned.load(Ordering::Relaxed)
    }

    /// What was not answered since the last call.
    pub fn take_unheard(&self) -> Unheard {
        let mut state = self.state();
        let processes = std::mem::take(&mut state.processes).len() as u64;
        Unheard { requests: std::mem::take(&mut state.given_up), processes }
    }

    /// A process's address space.
    pub fn memory_of(&self, pid: Pid) -> Subject {
        Subject { on: Dependency::Memory(pid), owner: Some(self.owner(pid).name), process: Some(pid) }
    }

    /// What is reached by path below a process's root.
    pub fn root_of(&self, pid: Pid) -> Subject {
        let Owner { name, root } = self.owner(pid);
        Subject { on: Dependency::Root(root), owner: Some(name), process: Some(pid) }
    }

    /// A file of `/proc/PID` for which the process's address space is locked.
    pub fn read_proc(&self, pid: Pid, name: &'static str) -> Option<Vec<u8>> {
        let read = move || std::fs::read(format!("/proc/{}/{name}", pid.0)).ok();
        self.ask(&self.memory_of(pid), Patience::Moment, Urgency::Now, read).ok().flatten()
    }

    /// Whose a process is. Links and memberships are read without asking any file system.
    fn owner(&self, pid: Pid) -> Owner {
        if let Some((owner, at)) = self.state().owners.get(&pid)
            && at.elapsed() < OWNER_KNOWN
        {
            return owner.clone();
        }
        let link = |name| std::fs::read_link(format!("/proc/{}/{name}", pid.0)).unwrap_or_default();
        let memberships = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.0)).unwrap_or_default();
        let (mounts, root) = (link("ns/mnt").display().to_string(), link("root").display().to_string());
        let root = format!("{mounts}{root}").into();
        let owner = Owner { name: container_id(&memberships).map_or_else(|| mounts.into(), Into::into), root };
        let mut state = self.state();
        if state.owners.len() >= OWNERS_MAX {
            state.owners.clear();
        }
        state.owners.insert(pid, (owner.clone(), Instant::now()));
        owner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single step: the state is whole whatever happened to another holder.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        &self,
        subject: &Subject,
        urgency: Urgency,
        thread: Arc<AtomicI32>,
        work: Box<dyn FnOnce() -> Deliver + Send>,
    ) -> Result<u64, Unanswered> {
        let mut state = self.state();
        if let Some(refusal) = state.refusal(subject) {
            return Err(refusal);
        }
        state.next += 1;
        let number = state.next;
        let own = state.idle[urgency as usize].pop();
        // Rather one at another priority than one more.
        let is_full = state.workers >= WORKERS_MAX;
        let other = if own.is_none() && is_full { state.idle.iter_mut().find_map(Vec::pop) } else { None };
        let worker = match own.or(other) {
            Some((_, worker)) => worker,
            None => self.spawn(&mut state, urgency)?,
        };
        state.under_way.insert(number, UnderWay { subject: subject.clone(), is_stuck: false });
        // The thread is there, and its inbox is empty.
        worker.send(Job { number, thread, work }).map(|()| number).map_err(|_| Unanswered::Failed)
    }

    fn spawn(&self, state: &mut State, urgency: Urgency) -> Result<Sender<Job>, Unanswered> {
        let (worker, inbox) = bounded(1);
        let (files, own, id) = (self.clone(), worker.clone(), state.next);
        let spawned = std::thread::Builder::new().name("foreign-files".into()).spawn(move || {
            if urgency == Urgency::Now {
                hurry();
            }
            files.run(&inbox, (id, own), urgency);
        });
        if let Err(error) = spawned {
            tracing::warn!("cannot start a thread that reads other processes' files: {error}; their names are missing");
            return Err(Unanswered::Failed);
        }
        state.workers += 1;
        Ok(worker)
    }

    fn run(&self, inbox: &Receiver<Job>, (id, own): (u64, Sender<Job>), urgency: Urgency) {
        loop {
            let Ok(Job { number, thread, work }) = inbox.recv_timeout(IDLE) else {
                let mut state = self.state();
                let Some(at) = state.idle[urgency as usize].iter().position(|(other, _)| *other == id) else {
                    // Somebody has just chosen it.
                    continue;
                };
                state.idle[urgency as usize].remove(at);
                state.workers -= 1;
                return;
            };
            thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            // The work is guarded by whoever knows what it is; a panic that gets here costs its own result only.
            let deliver = catch_unwind(AssertUnwindSafe(work)).ok();
            self.end(number, urgency, (id, own.clone()));
            if let Some(deliver) = deliver {
                deliver();
            }
        }
    }

    fn end(&self, number: u64, urgency: Urgency, worker: (u64, Sender<Job>)) {
        let mut state = self.state();
        let ended = state.under_way.remove(&number);
        state.idle[urgency as usize].push(worker);
        drop(state);
        if let Some(UnderWay { subject, is_stuck: true }) = ended {
            self.0.returned.fetch_add(1, Ordering::Relaxed);
            tracing::info!("{} answers again", subject.on);
        }
    }

    fn wait<T>(
        &self,
        number: u64,
        thread: &AtomicI32,
        answer: &Receiver<T>,
        patience: Patience,
    ) -> Result<T, Unanswered> {
        let stuck = self.state().under_way.values().filter(|one| one.is_stuck).count() as u32;
        let share = |whole: Duration| (whole / (1 + stuck)).max(LEAST);
        let interval = if patience == Patience::Moment { share(MOMENT) } else { share(STANDSTILL / 2) };
        let (mut before, mut waiting) = (None, 0);
        loop {
            match answer.recv_timeout(interval) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => return Err(Unanswered::Failed),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if patience == Patience::Work {
                let now = switches_if_waiting(thread.load(Ordering::Relaxed));
                waiting += u32::from(now.is_some());
                let stands_still = now.is_some() && now == before;
                before = now;
                if !stands_still && waiting < WAITING_LOOKS {
                    continue;
                }
            }
            if self.give_up(number) {
                return Err(Unanswered::Late);
            }
            // It ended this very moment, and what it found is on its way.
            return answer.recv_timeout(LEAST).map_err(|_| Unanswered::Late);
        }
    }

    /// Leaves a request behind. False if it has ended.
    fn give_up(&self, number: u64) -> bool {
        let mut state = self.state();
        let Some(one) = state.under_way.get_mut(&number) else { return false };
        one.is_stuck = true;
        let subject = one.subject.clone();
        state.given_up += 1;
        drop(state);
        let process = subject.process.map_or_else(String::new, |pid| format!(" (process {})", pid.0));
        tracing::warn!("{}{process} does not answer: nothing more is asked of it until it does", subject.on);
        true
    }
}

impl State {
    fn refusal(&self, subject: &Subject) -> Option<Unanswered> {
        let stuck = || self.under_way.values().filter(|one| one.is_stuck);
        if stuck().any(|one| one.subject.on == subject.on) {
            return Some(Unanswered::Stuck);
        }
        let same_owner = stuck().filter(|one| subject.owner.is_some() && one.subject.owner == subject.owner).count();
        if same_owner >= STUCK_PER_OWNER {
            return Some(Unanswered::Stuck);
        }
        (self.workers >= WORKERS_MAX && self.idle.iter().all(Vec::is_empty)).then_some(Unanswered::Full)
    }
}

impl std::fmt::Display for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(pid) => write!(f, "the memory of process {}", pid.0),
            Self::Root(root) => write!(f, "the root {root}"),
            Self::Device(major, minor) => write!(f, "the file system {major}:{minor}"),
            Self::DebugFolder => write!(f, "the directory of debug files"),
        }
    }
}

/// A file of somebody else's, held but not open.
#[derive(Debug)]
pub struct ForeignFile {
    there: OwnedFd,
    bytes: u64,
    subject: Subject,
    files: ForeignFiles,
}

/// Why nothing was read of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// It cannot be opened.
    #[error("it cannot be opened for reading")]
    Unreadable,
}

impl ForeignFile {
    pub(super) fn new(there: OwnedFd, bytes: u64, subject: Subject, files: ForeignFiles) -> Self {
        Self { there, bytes, subject, files }
    }

    /// Its descriptor, which was not opened for reading.
    pub(super) fn there(&self) -> &OwnedFd {
        &self.there
    }

    /// Its length when it was found.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What reading depends on.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// By whom it is read.
    pub fn files(&self) -> &ForeignFiles {
        &self.files
    }

    /// Opens it for the time of some work.
    pub fn read<T: Send + 'static>(
        self: &Arc<Self>,
        urgency: Urgency,
        work: impl FnOnce(&File) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let this = self.clone();
        let read = move || reopen(&this.there).map(|file| work(&File::from(file)));
        self.files.ask(&self.subject, Patience::Work, urgency, read)?.ok_or(ReadError::Unreadable)
    }

    /// Its descriptor's number.
    pub fn descriptor(&self) -> i32 {
        self.there.as_raw_fd()
    }
}

/// How often a thread of ours has been switched out, if it waits; nothing if it runs, or is about to.
fn switches_if_waiting(thread: i32) -> Option<u64> {
    if thread == 0 {
        // It has not begun: it waits for a CPU.
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("State:")?.starts_with('R') {
        return None;
    }
    field("voluntary_ctxt_switches:")?.parse().ok()
}

/// The id of the innermost container that a cgroup path names: runtimes give 64 hexadecimal digits.
fn container_id(memberships: &str) -> Option<&str> {
    const DIGITS: usize = 64;
    memberships.split(|c: char| !c.is_ascii_hexdigit()).rfind(|word| word.len() == DIGITS)
}

/// Processes of a few milliseconds wait for this thread's answers.
fn hurry() {
    const NICENESS: libc::c_int = -10;
    // SAFETY: takes numbers only; 0 stands for the calling thread. Refused without CAP_SYS_NICE, which does no harm.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

#[cfg(test)]
mod tests;
