//! The thread that owns the process table. In: process events and questions. Out: answers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::module::Modules;
use super::sideband::{Event, Sideband, SidebandError, What};
use super::table::ProcessTable;
use super::walk::{Unwinder, UnwinderOptions};
use super::{Pid, monotonic_ns};
use crate::kernel::UnwindMaps;

/// Time between two looks at the rings while events keep coming: so many wake-ups a second at most.
const COALESCE: Duration = Duration::from_micros(300);

/// Time between two looks for perf maps and new CPUs.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Processes whose mappings are read after exec, in one housekeeping interval.
const IMAGE_BUDGET: usize = 200;

/// How to follow processes.
#[derive(Debug, Default)]
pub struct TrackerOptions {
    /// Most files held open; `None` for what the limit on open files allows, 4096 at most.
    pub open_file_limit: Option<usize>,
    /// Who else wants every event. What does not fit is dropped and counted.
    pub subscriber: Option<Sender<Event>>,
}

/// Why processes cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The thread could not be started.
    #[error("cannot start the thread that follows processes: {0}")]
    Spawn(io::Error),
    /// The thread is gone.
    #[error("the thread that follows processes has ended")]
    Gone,
}

/// What the table is asked, and when (CLOCK_MONOTONIC, ns): it must have heard of everything up to then.
struct Question {
    asked_ns: u64,
    ask: Box<dyn FnOnce(&mut ProcessTable) + Send>,
}

/// Handle on the thread that owns the [`ProcessTable`]. Dropping it ends the thread.
#[derive(Debug)]
pub struct Tracker {
    questions: Option<Sender<Question>>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    degraded: Option<SidebandError>,
}

#[derive(Debug, Default)]
struct Shared {
    undelivered: AtomicU64,
    malformed: AtomicU64,
}

impl Tracker {
    /// Starts following. Where the kernel refuses process events it goes on with `/proc` alone and
    /// [`Self::degraded`] says why.
    pub fn spawn(options: TrackerOptions) -> Result<Self, TrackerError> {
        let (sideband, degraded) = match Sideband::open() {
            Ok(sideband) => (Some(sideband), None),
            Err(error) => (None, Some(error)),
        };
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(bell.map_err(|error| TrackerError::Spawn(error.into()))?);
        let (sender, questions) = bounded(64);
        let shared = Arc::new(Shared::default());
        let state = Worker {
            sideband,
            table: ProcessTable::new(options.open_file_limit.unwrap_or_else(Modules::default_limit)),
            questions,
            bell: bell.clone(),
            subscriber: options.subscriber,
            shared: shared.clone(),
            settled_ns: 0,
            image_budget: IMAGE_BUDGET,
        };
        let thread = std::thread::Builder::new().name("processes".into()).spawn(move || state.run());
        let thread = Some(thread.map_err(TrackerError::Spawn)?);
        Ok(Self { questions: Some(sender), bell, thread, shared, degraded })
    }

    /// Asks the table something on its own thread, after it has taken in every event so far, and waits for the answer.
    pub fn call<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut ProcessTable) -> R + Send + 'static,
    ) -> Result<R, TrackerError> {
        let (reply, answer) = bounded(1);
        self.tell(move |table| {
            reply.send(question(table)).ok();
        })?;
        answer.recv().map_err(|_| TrackerError::Gone)
    }

    /// From now on what user stacks are walked by is laid out in these maps. Waits until the tables of the programs that run
    /// most, after those of the processes in `first`, are there, but no longer than `patience`.
    pub fn unwind(
        &self,
        maps: UnwindMaps,
        options: UnwinderOptions,
        first: Vec<Pid>,
        patience: Duration,
    ) -> Result<(), TrackerError> {
        let unwinder = Unwinder::new(maps, options, &self.bell).map_err(TrackerError::Spawn)?;
        self.call(move |table| table.set_unwinder(unwinder, &first))?;
        self.wait_for_tables(patience)
    }

    /// Has the mappings and tables of these processes laid out, and waits for that no longer than `patience`.
    pub fn want_unwinding(&self, pids: Vec<Pid>, patience: Duration) -> Result<(), TrackerError> {
        self.call(move |table| table.want_unwinding(pids))?;
        self.wait_for_tables(patience)
    }

    fn wait_for_tables(&self, patience: Duration) -> Result<(), TrackerError> {
        let until = Instant::now() + patience;
        while Instant::now() < until && self.call(|table| table.is_building_tables())? {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Asks the table something and does not wait; there is no answer.
    pub fn tell(&self, what: impl FnOnce(&mut ProcessTable) + Send + 'static) -> Result<(), TrackerError> {
        let question = Question { asked_ns: monotonic_ns(), ask: Box::new(what) };
        self.questions.as_ref().ok_or(TrackerError::Gone)?.send(question).map_err(|_| TrackerError::Gone)?;
        self.ring();
        Ok(())
    }

    /// Why short-lived processes cannot be followed, if so.
    pub fn degraded(&self) -> Option<&SidebandError> {
        self.degraded.as_ref()
    }

    /// Events that the subscriber had no room for.
    pub fn undelivered(&self) -> u64 {
        self.shared.undelivered.load(Ordering::Relaxed)
    }

    /// Records of the kernel that could not be read.
    pub fn malformed(&self) -> u64 {
        self.shared.malformed.load(Ordering::Relaxed)
    }

    fn ring(&self) {
        // It fails only when the counter is full, and then the thread is awake anyway.
        rustix::io::write(&*self.bell, &1_u64.to_ne_bytes()).ok();
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.questions = None;
        self.ring();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Asks the scheduler to run this thread soon when it wakes: on a busy host a process of a few milliseconds is gone
/// before a thread like any other gets its turn. It works for microseconds at a time.
fn hurry() {
    const NICENESS: libc::c_int = -15;
    // SAFETY: takes numbers only; 0 stands for the calling thread. Refused without CAP_SYS_NICE, which does no harm.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// Makes the table of descriptors large enough now. When it grows later the kernel waits, for some ten milliseconds each time, and a
/// process that lives shorter is gone before its files are opened.
fn reserve_descriptors(any: &OwnedFd) {
    const ENOUGH: i32 = 2048;
    // The descriptor is closed at once; the table stays large. Where the limit is lower, that is as large as it gets.
    rustix::io::fcntl_dupfd_cloexec(any, ENOUGH - 1).ok();
}

struct Worker {
    sideband: Option<Sideband>,
    table: ProcessTable,
    questions: Receiver<Question>,
    bell: Arc<OwnedFd>,
    subscriber: Option<Sender<Event>>,
    shared: Arc<Shared>,
    /// Events up to this time (CLOCK_MONOTONIC, ns) have been taken in.
    settled_ns: u64,
    /// Processes whose mappings may still be read in this housekeeping interval.
    image_budget: usize,
}

impl Worker {
    fn run(mut self) {
        hurry();
        reserve_descriptors(&self.bell);
        // The rings are open by now, so that nothing falls between this look and the first event.
        self.table.observe_all();
        if self.sideband.is_some() {
            self.table.follow();
        }
        let mut events = Vec::new();
        let mut tidied = Instant::now();
        loop {
            let pending = self.sideband.as_ref().is_some_and(Sideband::has_pending);
            self.wait(if pending { COALESCE } else { HOUSEKEEPING });
            self.follow(&mut events);
            let busy = !events.is_empty();
            loop {
                match self.questions.try_recv() {
                    Ok(question) => {
                        if self.sideband.is_some() && self.settled_ns < question.asked_ns {
                            self.follow(&mut events);
                        }
                        (question.ask)(&mut self.table);
                    }
                    Err(crossbeam_channel::TryRecvError::Empty) => break,
                    Err(crossbeam_channel::TryRecvError::Disconnected) => return,
                }
            }
            if tidied.elapsed() >= HOUSEKEEPING {
                (tidied, self.image_budget) = (Instant::now(), IMAGE_BUDGET);
                self.table.ask_again();
                self.table.look_for_perf_maps();
                self.table.tidy_unwinder();
                if let Some(sideband) = &mut self.sideband
                    && let Err(error) = sideband.follow_cpus()
                {
                    tracing::warn!("processes on a CPU that came online are not followed: {error}");
                }
            } else if busy {
                std::thread::sleep(COALESCE);
            }
        }
    }

    /// Takes in what happened, and tells the unwinder what came of it.
    fn follow(&mut self, events: &mut Vec<Event>) {
        self.take_events(events);
        if !events.is_empty() {
            let execs = events.iter().filter(|event| matches!(event.what, What::Exec { .. }));
            let before = self.table.counters().maps_read;
            self.table.complete_images(execs.map(|event| event.pid), self.image_budget);
            let read = self.table.counters().maps_read - before;
            self.image_budget = self.image_budget.saturating_sub(read as usize);
        }
        self.table.tell_unwinder();
    }

    fn take_events(&mut self, events: &mut Vec<Event>) {
        events.clear();
        self.settled_ns = monotonic_ns();
        let Some(sideband) = &mut self.sideband else { return };
        sideband.drain(events);
        self.shared.malformed.store(sideband.malformed(), Ordering::Relaxed);
        for event in events.iter() {
            self.table.apply(event);
            if let Some(subscriber) = &self.subscriber
                && subscriber.try_send(event.clone()).is_err()
            {
                self.shared.undelivered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sleeps until an event, a question, or the end of the interval.
    fn wait(&self, interval: Duration) {
        let rings = self.sideband.iter().flat_map(Sideband::descriptors);
        let mut descriptors: Vec<PollFd<'_>> =
            rings.chain([self.bell.as_fd()]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let interval = Timespec { tv_sec: interval.as_secs() as i64, tv_nsec: i64::from(interval.subsec_nanos()) };
        // A signal ends the wait early, which does no harm.
        poll(&mut descriptors, Some(&interval)).ok();
        rustix::io::read(&*self.bell, &mut [0_u8; 8]).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{TestResult, skip};

    #[test]
    fn a_process_that_came_and_went_is_known_by_name() -> TestResult {
        let tracker = Tracker::spawn(TrackerOptions::default())?;
        if let Some(reason) = tracker.degraded() {
            return skip(&reason.to_string());
        }
        let mut child = std::process::Command::new("/bin/true").spawn()?;
        let pid = Pid(child.id());
        child.wait()?;
        std::thread::sleep(Duration::from_millis(20));
        let command = tracker.call(move |table| table.command(pid, None))?;
        assert_eq!(command.as_deref(), Some("true"));
        Ok(())
    }
}
