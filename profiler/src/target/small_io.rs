//! `small_io`: CPU spent in calls that move few bytes each, many a second, from one path.
//!
//! **Rule.** A call of the read/write/send/recv family moves at most [`FEW_BYTES`] bytes on average, at least
//! [`LEAST_CALLS`](super::finding::LEAST_CALLS) times a second, and the calls could be merged.
//!
//! **Why 512 bytes.** A call costs 100 to 1,000 ns before it moves anything; a core copies some 10 bytes a nanosecond.
//! Below 512 bytes more than half of a call, above 4 KiB less than half, is the fixed cost.
//!
//! **Could be merged.** On sockets and pipes a message that is answered before the next one is sent cannot wait for
//! company, so calls of one direction count only as far as they outnumber those of the other three to one, and reads
//! only as far as they did not wait for their data. What wakes and moves no data (eventfd, timerfd) never counts. A small
//! file that is opened, read whole and closed has no calls to merge either: `syscall_storm` has the opening.
//!
//! **What a fix leaves.** One call for every [`BUFFER_BYTES`] bytes.

use super::calls::{Around, Calls, FILE_READS, name_of, of_runtime};
use super::finding::{Finding, LEAST_CALLS, LEAST_CORES, LEAST_SHARE};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::Scene;

/// Calls that take data.
pub const READS: [&str; 8] = ["read", "pread64", "readv", "preadv", "recvfrom", "recvmsg", "preadv2", "recvmmsg"];

/// Calls that give data.
pub const WRITES: [&str; 8] = ["write", "pwrite64", "writev", "pwritev", "sendto", "sendmsg", "pwritev2", "sendmmsg"];

/// At most this many bytes a call.
const FEW_BYTES: f64 = 512.0;

/// What a buffer holds.
const BUFFER_BYTES: f64 = 4096.0;

/// Calls of one direction for one of the other, above which they are no question and answer.
const ONE_SIDED: f64 = 3.0;

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, calls: &Calls<'_>) -> Vec<Finding> {
    let small: Vec<&str> = READS
        .iter()
        .chain(&WRITES)
        .copied()
        .filter(|name| calls.rate(name) >= LEAST_CALLS && calls.mean_bytes(name) <= FEW_BYTES)
        .filter(|name| calls.failed(name, |_| true) < calls.count(&[name]) / 2.0)
        .collect();
    if small.is_empty() {
        return Vec::new();
    }
    let (reads, writes) = (calls.count(&READS), calls.count(&WRITES));
    let waits = received_waits(scene, place);
    let one_sided = |name: &str| {
        if READS.contains(&name) { reads >= ONE_SIDED * writes.max(waits) } else { writes >= ONE_SIDED * reads }
    };
    let reopening = calls.reopens();
    let floor_ns = (LEAST_CORES * scene.window_ns).max(LEAST_SHARE * scene.places[place].cpu_ns());
    let costs = calls.costs(scene, place, floor_ns, Around::AsMuch, |name, marks| {
        let messages = marks.any(Marks::SOCKET) || marks.any(Marks::PIPE);
        let whole = reopening && FILE_READS.contains(&name) && !messages;
        small.contains(&name) && !marks.any(Marks::EVENT) && !whole && (!messages || one_sided(name))
    });
    let mut findings = Vec::new();
    for cost in costs {
        if of_runtime(scene, &cost) {
            continue;
        }
        let here: Vec<(&str, f64)> = small
            .iter()
            .map(|name| (*name, calls.count_by(scene, place, &cost.group.rows, name)))
            .filter(|(_, count)| *count > 0.0)
            .collect();
        let count: f64 = here.iter().map(|(_, count)| count).sum();
        if count / calls.window_s < LEAST_CALLS {
            continue;
        }
        let bytes: f64 = here.iter().map(|(name, count)| count * calls.mean_bytes(name)).sum();
        let mean = bytes / count;
        let Some((most, _)) = here.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(a.0))) else {
            continue;
        };
        let function = name_of(scene, cost.group.function);
        let evidence = vec![
            format!("{most}: {:.0} calls a second, {mean:.0} bytes each (syscall counters)", calls.rate(most)),
            format!("{:.3} cores in these calls below {function} (on-CPU samples)", cost.group.ns / scene.window_ns),
        ];
        let title =
            format!("{function} moves {mean:.0} bytes a call in {:.0} {most} calls a second", count / calls.window_s);
        let mut finding = cost.finding(scene, place, Kind::SmallIo, title, evidence);
        finding.gain_ns *= 1.0 - (mean / BUFFER_BYTES).min(1.0);
        findings.push(finding);
    }
    findings
}

/// How often threads waited for data on sockets and pipes.
fn received_waits(scene: &Scene<'_>, place: usize) -> f64 {
    let data = |stack| {
        scene.facts(stack).is_some_and(|facts| {
            facts.marks.any(Marks::RECEIVE)
                || facts.marks.any(Marks::PIPE)
                || facts.marks.any(Marks::POLL.with(Marks::EPOLL))
        })
    };
    scene.places[place].waits.iter().filter(|row| data(row.stack)).map(|row| row.count).sum()
}
