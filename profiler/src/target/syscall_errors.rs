//! `syscall_errors`: CPU spent in calls of which most fail, with an errno that tells of a mistake, from one path.
//!
//! **Rule.** Of the calls of one name in a container more than half fail with an errno that says that something is not
//! there, not allowed or not reachable; at least [`LEAST_FAILURES`] a second do. `EAGAIN`, `EINTR`, `EINPROGRESS`,
//! timeouts and restarts are how calls normally end, and count for nothing.
//!
//! **Why half.** Below it the successful calls are what the code is there for, and the failures beside them a search.
//!
//! **What a fix leaves.** Nothing of the failing calls. For a `connect` that fails, the socket was made and closed for
//! nothing: those calls of the same function are claimed along.

use super::calls::{Around, Calls, name_of, of_runtime};
use super::finding::{Finding, LEAST_CORES, LEAST_SHARE};
use super::kind::Kind;
use super::scene::Scene;
use crate::profile::{Errno, errno};

/// Failures a second: fewer cannot cost a twentieth of a core unless each takes half a millisecond.
const LEAST_FAILURES: f64 = 100.0;

/// Errnos that tell of a mistake: EPERM, ENOENT, ESRCH, ENXIO, EBADF, EACCES, EFAULT, EEXIST, EXDEV, ENODEV, ENOTDIR,
/// EISDIR, EINVAL, ENOTTY, ESPIPE, EROFS, ENAMETOOLONG, ENOSYS, ELOOP, ENODATA, ENOTSOCK, EPROTONOSUPPORT, EOPNOTSUPP,
/// EADDRINUSE, EADDRNOTAVAIL, ENETUNREACH, ECONNRESET, ENOTCONN, ECONNREFUSED, EHOSTUNREACH.
const MISTAKES: [u16; 30] = [
    1, 2, 3, 6, 9, 13, 14, 17, 18, 19, 20, 21, 22, 25, 29, 30, 36, 38, 40, 61, 88, 93, 95, 98, 99, 101, 104, 107, 111,
    113,
];

/// Whether an errno tells of a mistake.
pub fn is_mistake(errno: Errno) -> bool {
    MISTAKES.contains(&errno.0)
}

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, calls: &Calls<'_>) -> Vec<Finding> {
    let mut failing: Vec<&str> = calls
        .stats
        .values()
        .map(|stats| stats.name.as_str())
        .filter(|name| {
            let failed = calls.failed(name, is_mistake);
            failed > calls.count(&[name]) / 2.0 && failed / calls.window_s >= LEAST_FAILURES
        })
        .collect();
    failing.sort_unstable();
    if failing.is_empty() {
        return Vec::new();
    }
    let connects = failing.contains(&"connect");
    let along = ["socket", "close", "setsockopt", "getsockopt", "bind"];
    let floor_ns = (LEAST_CORES * scene.window_ns).max(LEAST_SHARE * scene.places[place].cpu_ns());
    let costs = calls.costs(scene, place, floor_ns, Around::AsMuch, |name, _| {
        failing.contains(&name) || connects && along.contains(&name)
    });
    let mut findings = Vec::new();
    for cost in costs {
        if of_runtime(scene, &cost) {
            continue;
        }
        let mut here: Vec<(&str, f64)> = failing
            .iter()
            .map(|name| (*name, calls.count_by(scene, place, &cost.group.rows, name)))
            .filter(|(_, count)| *count > 0.0)
            .collect();
        here.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let Some((most, _)) = here.first().copied() else { continue };
        let (worst_errno, _) = worst(calls, most);
        let share = calls.failed(most, is_mistake) / calls.count(&[most]).max(1.0);
        let function = name_of(scene, cost.group.function);
        let mut evidence: Vec<String> = here
            .iter()
            .take(3)
            .map(|(name, _)| {
                let (worst_errno, n) = worst(calls, name);
                format!(
                    "{name}: {:.0} calls a second, {:.0} % fail, {n} with {} (syscall counters)",
                    calls.rate(name),
                    100.0 * calls.failed(name, is_mistake) / calls.count(&[name]).max(1.0),
                    errno::name(worst_errno)
                )
            })
            .collect();
        evidence.push(format!(
            "{:.3} cores in these calls below {function} (on-CPU samples)",
            cost.group.ns / scene.window_ns
        ));
        let title = format!(
            "{function} makes {most} calls of which {:.0} % fail with {}",
            100.0 * share,
            errno::name(worst_errno)
        );
        findings.push(cost.finding(scene, place, Kind::SyscallErrors, title, evidence));
    }
    findings
}

fn worst(calls: &Calls<'_>, name: &str) -> (Errno, u64) {
    let errors = calls.stats.get(name).map(|stats| &stats.errors);
    let mistakes = errors.into_iter().flatten().filter(|(errno, _)| is_mistake(**errno));
    mistakes.max_by_key(|(errno, n)| (**n, std::cmp::Reverse(**errno))).map_or((Errno(0), 0), |(errno, n)| (*errno, *n))
}
