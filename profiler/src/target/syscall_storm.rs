//! `syscall_storm`: CPU spent in very many successful calls that could be fewer.
//!
//! **Rule.** At least [`LEAST_CALLS`](super::finding::LEAST_CALLS) calls a second from one path that tell or change
//! something small: time, identity, metadata, descriptors, wake-ups. Not counted: transfers of data
//! (`small_io` judges them), calls that wait, memory (`memory_faults`), what a contended lock costs (`lock_contention`),
//! and the calls of a runtime's own scheduler. Files that are opened, read and closed for each piece of work are one thing:
//! the reads count where the same function makes them and opens are at least a quarter as many. So are connections that are
//! made and ended for each piece of work: `connect` counts, and what it and `close` cost for the handshake.
//!
//! **Many, each with little CPU.** A call of at most [`SMALL_CALL_NS`] costs what it costs by being made: entry and exit,
//! a path walk, a descriptor. One that takes more works for what it was asked, and there `kernel_overhead` says so.
//!
//! **What a fix leaves.** Nearly nothing: one call where there were thousands.

use super::calls::{Around, CONNECTION, Calls, FILE_READS, KEEP_CONNECTIONS, name_of, of_runtime};
use super::finding::{Finding, LEAST_CALLS, LEAST_CORES, LEAST_SHARE};
use super::kind::Kind;
use super::mark::Marks;
use super::scene::Scene;

/// Calls that could be fewer.
const AVOIDABLE: [&str; 62] = [
    "access",
    "alarm",
    "bind",
    "chdir",
    "chmod",
    "clock_getres",
    "clock_gettime",
    "close",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "eventfd2",
    "faccessat",
    "faccessat2",
    "fchmod",
    "fchown",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcpu",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpeername",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getrusage",
    "getsockname",
    "getsockopt",
    "gettid",
    "gettimeofday",
    "getuid",
    "getxattr",
    "ioctl",
    "kill",
    "lseek",
    "lstat",
    "newfstatat",
    "open",
    "openat",
    "pipe2",
    "prctl",
    "readlink",
    "readlinkat",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "setsockopt",
    "socket",
    "stat",
    "statfs",
    "statx",
    "sysinfo",
    "time",
    "timerfd_settime",
];

/// More that reads little and says much: asked for as often as the above.
const AVOIDABLE_TOO: [&str; 8] =
    ["timer_settime", "times", "uname", "unlink", "sigaltstack", "rt_sigreturn", "socketpair", "utimensat"];

/// Kernel CPU of a call that is dear by its number: 0.1 to 1 µs to enter and leave, up to ten for a path of a dozen parts or
/// a new descriptor, twice that where caches are cold and while it is watched.
const SMALL_CALL_NS: f64 = 20_000.0;

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, calls: &Calls<'_>) -> Vec<Finding> {
    let reconnecting = calls.reconnects();
    let avoidable = |name: &str| {
        (AVOIDABLE.contains(&name) || AVOIDABLE_TOO.contains(&name)) && calls.mean_cpu_ns(name) <= SMALL_CALL_NS
            || reconnecting && CONNECTION.contains(&name)
    };
    let many: f64 = calls.stats.keys().filter(|name| avoidable(name)).map(|name| calls.rate(name)).sum();
    if many < LEAST_CALLS {
        return Vec::new();
    }
    let reopening = calls.reopens();
    let floor_ns = (LEAST_CORES * scene.window_ns).max(LEAST_SHARE * scene.places[place].cpu_ns());
    let costs = calls.costs(scene, place, floor_ns, Around::AsMuch, |name, marks| {
        let lock = name == "futex" && marks.any(Marks::ACQUIRE.with(Marks::CONTENDED));
        let reads =
            reopening && FILE_READS.contains(&name) && !marks.any(Marks::SOCKET.with(Marks::PIPE).with(Marks::EVENT));
        (avoidable(name) && !lock) || reads
    });
    let mut findings = Vec::new();
    for cost in costs {
        if of_runtime(scene, &cost) {
            continue;
        }
        let mut here: Vec<(&str, f64)> = calls
            .stats
            .keys()
            .filter(|name| avoidable(name))
            .map(|name| (*name, calls.count_by(scene, place, &cost.group.rows, name)))
            .filter(|(_, count)| *count > 0.0)
            .collect();
        here.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let count: f64 = here.iter().map(|(_, count)| count).sum();
        if count / calls.window_s < LEAST_CALLS {
            continue;
        }
        let names: Vec<&str> = here.iter().take(3).map(|(name, _)| *name).collect();
        let function = name_of(scene, cost.group.function);
        let mut evidence: Vec<String> = here
            .iter()
            .take(3)
            .map(|(name, count)| {
                let all = calls.rate(name);
                format!(
                    "{name}: {all:.0} calls a second, about {:.0} of them from here (syscall counters)",
                    count / calls.window_s
                )
            })
            .collect();
        evidence.push(format!(
            "{:.3} cores in these calls below {function} (on-CPU samples)",
            cost.group.ns / scene.window_ns
        ));
        let connects = here.iter().find(|(name, _)| *name == "connect").map_or(0.0, |(_, count)| *count);
        // Each of these calls is made about once a connection: with fewer connections than that, most calls are of something else.
        let (title, remedy) = if reconnecting && connects >= count / CONNECTION.len() as f64 {
            let title = format!("{function} opens {:.0} connections a second", connects / calls.window_s);
            (title, Some(KEEP_CONNECTIONS.to_owned()))
        } else {
            let (all, names) = (count / calls.window_s, names.join(", "));
            (format!("{function} makes {all:.0} calls a second that could be fewer: {names}"), None)
        };
        let finding = cost.finding(scene, place, Kind::SyscallStorm, title, evidence);
        findings.push(Finding { remedy, ..finding });
    }
    findings
}
