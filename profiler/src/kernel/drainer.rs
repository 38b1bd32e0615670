//! A thread that does nothing but empty the rings, in time even when every CPU is taken. Rings in, batches of records out.

use std::{io, thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use super::records::Rings;

/// Time between two looks into the rings: while there is much in them, and at most, reached by doubling it each time that there is
/// little. Most nodes are quiet most of the time, and each look costs a switch there and back.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(160);

/// So small a part of a ring is little: were it as much in every look, after the next pause it would be a sixteenth, and a ring
/// lasts until there is suddenly thirty times as much.
const LITTLE: u64 = 32;

/// Batches that may wait to be taken: most of a minute's.
const BATCHES: usize = 2048;

/// What one look found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records one after another as they lay in the rings, those that other records may be waiting for last. Whoever takes them
    /// reads them one at a time: apart, each would be made by one thread and freed by another, which allocators do not like.
    pub records: Vec<u8>,
    /// How many these are.
    pub count: u64,
    /// Bytes that were no records.
    pub skipped_bytes: u64,
    /// Records of earlier batches that found no room.
    pub lost_records: u64,
}

/// Handle on the thread. Dropping it ends the thread.
pub struct Drainer {
    requests: Option<Sender<Sender<()>>>,
    batches: Receiver<Batch>,
    thread: Option<JoinHandle<()>>,
}

/// The rings of all contexts.
pub struct AllRings {
    /// Stacks found on a CPU.
    on_cpu: Rings,
    /// Off-CPU gaps.
    off_cpu: Rings,
    /// User stacks taken on the way out of a syscall.
    at_exit: Rings,
    /// Memory for the next look.
    spare: Vec<u8>,
    /// How much the last look found.
    last_bytes: usize,
}

/// How much there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Little,
    Much,
}

impl Fill {
    /// How long to wait for the next look, after this was found `pause` after the last.
    fn next(self, pause: Duration) -> Duration {
        match self {
            Self::Little => (pause * 2).min(LONGEST),
            Self::Much => SHORTEST,
        }
    }
}

impl AllRings {
    /// The rings of each context.
    pub fn new(on_cpu: Rings, off_cpu: Rings, at_exit: Rings) -> Self {
        Self { on_cpu, off_cpu, at_exit, spare: Vec::new(), last_bytes: 0 }
    }

    /// A gap's record is written before the user stack taken at its syscall's end, so those are read first and passed on
    /// last.
    fn drain(&mut self) -> (Batch, Fill) {
        let (mut at_exit, mut records) = (std::mem::take(&mut self.spare), Vec::with_capacity(self.last_bytes));
        let drained =
            [self.at_exit.drain(&mut at_exit), self.off_cpu.drain(&mut records), self.on_cpu.drain(&mut records)];
        records.extend_from_slice(&at_exit);
        at_exit.clear();
        // After a burst on many CPUs it may be large.
        at_exit.shrink_to(self.at_exit.bytes() as usize);
        self.spare = at_exit;
        self.last_bytes = records.len();
        let skipped_bytes = drained.iter().map(|ring| ring.skipped_bytes).sum();
        let count = drained.iter().map(|ring| ring.records).sum();
        let much = drained.iter().any(|ring| ring.fullest_bytes > self.on_cpu.bytes() / LITTLE);
        (Batch { records, count, skipped_bytes, lost_records: 0 }, if much { Fill::Much } else { Fill::Little })
    }
}

impl Drainer {
    /// Starts the thread.
    pub fn spawn(mut rings: AllRings) -> io::Result<Self> {
        let (requests, requested) = bounded::<Sender<()>>(1);
        let (batch, batches) = bounded(BATCHES);
        let thread = std::thread::Builder::new().name("drain".to_owned()).spawn(move || {
            hurry();
            let mut lost_records = 0;
            let mut pause = SHORTEST;
            loop {
                // Not by the channel, which yields the CPU ten times before it sleeps: that cost more than the rings.
                std::thread::park_timeout(pause);
                let request = requested.try_recv();
                if matches!(request, Err(TryRecvError::Disconnected)) {
                    return;
                }
                let (mut found, fill) = rings.drain();
                pause = fill.next(pause);
                found.lost_records = std::mem::take(&mut lost_records);
                if !found.records.is_empty() || found.skipped_bytes + found.lost_records > 0 {
                    match batch.try_send(found) {
                        Ok(()) => {}
                        Err(TrySendError::Full(found)) => {
                            lost_records = found.lost_records + found.count;
                        }
                        Err(TrySendError::Disconnected(_)) => return,
                    }
                }
                if let Ok(answer) = request {
                    // Whoever asked may have given up.
                    answer.send(()).ok();
                }
            }
        })?;
        Ok(Self { requests: Some(requests), batches, thread: Some(thread) })
    }

    /// Empties the rings now and waits until that is done.
    pub fn drain_now(&self) {
        let (answer, answered) = bounded(1);
        if self.requests.as_ref().is_some_and(|requests| requests.send(answer).is_ok()) {
            self.wake();
            // An error means that the thread is gone, and nothing more will come.
            answered.recv().ok();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// What has been found so far.
    pub fn take(&self) -> impl Iterator<Item = Batch> + '_ {
        self.batches.try_iter()
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        self.requests = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Puts this thread before all others that are not real-time: it needs a fraction of a percent of a CPU, but that at once.
fn hurry() {
    // SAFETY: the parameter outlives the call; 0 is the calling thread.
    let result = unsafe {
        let parameter = libc::sched_param { sched_priority: 1 };
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if result == 0 {
        return;
    }
    // SAFETY: takes no pointers; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } != 0 {
        tracing::debug!("the rings are emptied at normal priority: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_while_there_is_little_and_frequent_at_once_when_there_is_much() {
        let quiet = Fill::Little.next(Fill::Little.next(Fill::Little.next(SHORTEST)));
        assert_eq!(quiet, LONGEST);
        assert_eq!(Fill::Little.next(quiet), LONGEST);
        assert_eq!(Fill::Much.next(quiet), SHORTEST);
    }
}
