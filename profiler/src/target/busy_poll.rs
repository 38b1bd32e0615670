//! `busy_poll`: CPU spent asking again and again for what is not there.
//!
//! **Rule.** At least [`LEAST_CALLS`](super::finding::LEAST_CALLS) calls a second of one of these:
//! - `sched_yield`: whatever it waits for, it asks in a loop;
//! - a poll-family call whose median latency is below [`AT_ONCE_NS`] and of which there are [`MANY_TO_ONE`] or more for
//!   every successful transfer or accept: it did not wait, and found nothing;
//! - a read or accept that ends in `EAGAIN` [`MANY_TO_ONE`] times or more for each success. (Once for each success is how
//!   event loops read a socket until it is empty.)
//!
//! **What a fix leaves.** Nothing: whatever the loop does around its questions, it does for nothing. So all of
//! the function's own CPU time is claimed with the calls, and all of it can be won: a loop that spins uses the CPU time it
//! gets, watched or not.

use super::calls::{Around, Calls, name_of, of_runtime};
use super::finding::{Finding, LEAST_CALLS, LEAST_CORES, LEAST_SHARE};
use super::kind::Kind;
use super::scene::Scene;
use super::small_io::{READS, WRITES};
use crate::profile::Errno;

const EAGAIN: Errno = Errno(11);

const POLLS: [&str; 7] = ["poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"];

const ACCEPTS: [&str; 2] = ["accept", "accept4"];

/// A call that returns sooner has not slept: a sleep and its two context switches take several microseconds.
const AT_ONCE_NS: f64 = 5_000.0;

/// Four questions in vain for each success: then 80 % of the questions are waste.
const MANY_TO_ONE: f64 = 4.0;

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, calls: &Calls<'_>) -> Vec<Finding> {
    let vain = |name: &str| calls.failed(name, |errno| errno == EAGAIN);
    let transfers: f64 =
        READS.iter().chain(&WRITES).chain(&ACCEPTS).map(|name| calls.count(&[name]) - vain(name)).sum();
    let at_once = |name: &str| {
        let median = calls.stats.get(name).and_then(|stats| stats.latency.quantile_ns(0.5));
        median.is_some_and(|median| median <= AT_ONCE_NS)
    };
    let mut asking: Vec<&str> = Vec::new();
    for name in POLLS {
        if at_once(name) && calls.count(&[name]) >= MANY_TO_ONE * transfers {
            asking.push(name);
        }
    }
    for name in READS.iter().chain(&ACCEPTS).copied() {
        if vain(name) >= MANY_TO_ONE * (calls.count(&[name]) - vain(name)).max(1.0) {
            asking.push(name);
        }
    }
    asking.push("sched_yield");
    asking.retain(|name| calls.rate(name) >= LEAST_CALLS);
    if asking.is_empty() {
        return Vec::new();
    }
    let floor_ns = (LEAST_CORES * scene.window_ns).max(LEAST_SHARE * scene.places[place].cpu_ns());
    let costs = calls.costs(scene, place, floor_ns, Around::All, |name, _| asking.contains(&name));
    let mut findings = Vec::new();
    for cost in costs {
        if of_runtime(scene, &cost) {
            continue;
        }
        let most = asking.iter().copied().max_by(|a, b| {
            let count = |name: &str| calls.count_by(scene, place, &cost.group.rows, name);
            count(a).total_cmp(&count(b)).then(b.cmp(a))
        });
        let Some(most) = most else { continue };
        let function = name_of(scene, cost.group.function);
        let evidence = vec![
            format!(
                "{most}: {:.0} calls a second, {:.0} of them EAGAIN, beside {:.0} transfers a second (syscall counters)",
                calls.rate(most),
                vain(most) / calls.window_s,
                transfers / calls.window_s
            ),
            format!(
                "{:.3} cores in and around these calls in {function} (on-CPU samples)",
                cost.claims_ns() / scene.window_ns
            ),
        ];
        let title =
            format!("{function} asks in a loop: {:.0} {most} calls a second that find nothing", calls.rate(most));
        let mut finding = cost.finding(scene, place, Kind::BusyPoll, title, evidence);
        finding.gain_ns = finding.claims_ns;
        findings.push(finding);
    }
    findings
}
