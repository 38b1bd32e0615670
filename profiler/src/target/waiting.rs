//! What a blocked thread waits for. In: off-CPU rows. Out: a lock, durability, the disk, an answer; or idleness, which is
//! everything that is not known to be one of those.
//!
//! The ledger's classes say what a thread was doing; whether that was bad, its stack says:
//!
//! - **futex**: the functions of the C library, of runtimes and of lock libraries that acquire a lock are known by name.
//!   Everything else on a futex is parked: condition variables, semaphores, queues, joins. Python's lock object serves
//!   both; without names of Python functions, how the interpreter calls it tells: a `with` statement calls a bound
//!   method (`cfunction_call`), and takes a lock; queues, events and conditions call `acquire` to wait for work.
//! - **sockets**: receiving is waiting for an answer only if this side has asked. It has where it is known to be a client
//!   (a client library's frames), where it is below a function that itself waits for new requests (the thread that
//!   serves one is asking on its behalf), or where the container sends as often as it receives and never accepts. Accepting
//!   is idle. epoll is idle: an event loop waits for everything at once.
//! - **schedulers** of runtimes with more tasks than threads (Go, Tokio, libuv): a parked thread is no waiting request.

use rustc_hash::FxHashSet;

use super::mark::Marks;
use super::scene::{FunctionId, Scene, WaitRow};
use super::small_io::WRITES;
use crate::profile::OffCpuReason;

/// What a row waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitFor {
    /// Runnable: the ledger judges that.
    Cpu,
    /// Work, time, or nothing known.
    Idle,
    /// A lock that others hold.
    Lock,
    /// Writes to be durable.
    Durability,
    /// The disk.
    Disk,
    /// A peer's answer.
    Answer,
}

/// By container, by row.
pub type Waits = Vec<Vec<WaitFor>>;

/// Classifies every row.
pub fn classify(scene: &Scene<'_>) -> Waits {
    (0..scene.places.len()).map(|place| classify_place(scene, place)).collect()
}

fn classify_place(scene: &Scene<'_>, place: usize) -> Vec<WaitFor> {
    let here = &scene.places[place];
    let receiving: Vec<bool> = here.waits.iter().map(|row| is_receiving(scene, row)).collect();
    // Functions that wait for new requests: their callees' waits are on behalf of one.
    let loops: FxHashSet<FunctionId> = here
        .waits
        .iter()
        .zip(&receiving)
        .filter(|(_, receiving)| **receiving)
        .filter_map(|(row, _)| scene.facts(row.stack)?.chain.last().copied())
        .collect();
    let is_client = asks_only(scene, place);
    here.waits
        .iter()
        .zip(&receiving)
        .map(|(row, receiving)| {
            if *receiving && answers(scene, row, &loops, is_client) {
                WaitFor::Answer
            } else {
                plain(scene, row, *receiving)
            }
        })
        .collect()
}

/// Whether the row is a blocked receive, connect, or poll of one.
fn is_receiving(scene: &Scene<'_>, row: &WaitRow) -> bool {
    let Some(facts) = scene.facts(row.stack) else { return false };
    let marks = facts.marks;
    if row.reason != OffCpuReason::Network || marks.any(Marks::ACCEPT.with(Marks::EPOLL).with(Marks::SCHEDULER)) {
        return false;
    }
    marks.any(Marks::RECEIVE.with(Marks::CONNECT).with(Marks::USER_RECEIVE).with(Marks::POLL))
}

fn answers(scene: &Scene<'_>, row: &WaitRow, loops: &FxHashSet<FunctionId>, is_client: bool) -> bool {
    let Some(facts) = scene.facts(row.stack) else { return false };
    if facts.marks.any(Marks::CLIENT.with(Marks::CONNECT)) {
        return true;
    }
    let callers = facts.chain.len().saturating_sub(1);
    let below_a_loop = facts.chain[..callers].iter().any(|caller| loops.contains(caller));
    let polls = facts.marks.any(Marks::POLL) && !facts.marks.any(Marks::USER_RECEIVE.with(Marks::RECEIVE));
    below_a_loop || is_client && !polls
}

/// Receives nobody could have sent unasked: the container sends about as often as it receives, waits for each answer only
/// shortly, and accepts nobody.
fn asks_only(scene: &Scene<'_>, place: usize) -> bool {
    let container = scene.places[place].container;
    let count = |names: &[&str]| -> f64 {
        let known = container.syscalls.iter().filter(|stats| names.contains(&stats.name.as_str()));
        known.map(|stats| stats.count as f64).sum()
    };
    let accepts = scene.places[place]
        .waits
        .iter()
        .any(|row| scene.facts(row.stack).is_some_and(|facts| facts.marks.any(Marks::ACCEPT)));
    if accepts || count(&["accept", "accept4"]) > 0.0 || container.syscalls.is_empty() {
        return false;
    }
    let (mut ns, mut waits) = (0.0, 0.0);
    for row in scene.places[place].waits.iter().filter(|row| is_receiving(scene, row)) {
        ns += row.ns;
        waits += row.count;
    }
    // Answers come within a second or the waiting is for news; each needs a question.
    waits > 0.0 && ns / waits < 1e9 && count(&WRITES) >= waits / 2.0
}

fn plain(scene: &Scene<'_>, row: &WaitRow, receiving: bool) -> WaitFor {
    if matches!(row.reason, OffCpuReason::RunnableSelf | OffCpuReason::RunnableOther | OffCpuReason::Throttled) {
        return WaitFor::Cpu;
    }
    let Some(facts) = scene.facts(row.stack) else { return WaitFor::Idle };
    let marks = facts.marks;
    if facts.kernel_only && marks.any(Marks::KERNEL_THREAD) {
        return WaitFor::Idle;
    }
    if marks.any(Marks::SYNC) {
        return WaitFor::Durability;
    }
    if row.reason == OffCpuReason::Disk || marks.any(Marks::DISK) {
        return WaitFor::Disk;
    }
    if receiving {
        return WaitFor::Idle;
    }
    // Called straight from the application's own code it is its own lock; otherwise a library waits on it for work. The
    // same goes for the virtual machine: parking and waiting are called from Java's library, monitors from anywhere.
    let made = marks.any(Marks::PYTHON_LOCK.with(Marks::JVM)) && facts.made_application;
    let entered = marks.any(Marks::PYTHON_LOCK) && marks.any(Marks::PYTHON_ENTERS);
    let lock = marks.any(Marks::ACQUIRE) || made || entered;
    let futex = row.reason == OffCpuReason::Lock && !marks.any(Marks::SCHEDULER) && lock;
    let in_kernel = marks.any(Marks::KERNEL_LOCK) && row.reason != OffCpuReason::Network;
    if futex || in_kernel { WaitFor::Lock } else { WaitFor::Idle }
}
