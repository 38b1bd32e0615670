//! A container's system calls beside the CPU time below them. In: the counters, which are exact and by call; the samples,
//! which are by stack. Out: how often, how well and how expensively each function makes each call.
//!
//! Counters do not know the caller. A function is taken to make a call as often as its share of the CPU time in that call.

use rustc_hash::FxHashMap;

use super::finding::{Basis, Finding, LEAST_CALLS};
use super::group::{Group, Lift, by_blame};
use super::kind::Kind;
use super::mark::{self, Marks};
use super::scene::{Area, FunctionId, Place, Scene};
use crate::profile::{Errno, SyscallStats};

/// Calls that open files.
const OPENS: [&str; 3] = ["openat", "open", "openat2"];

/// Calls that read them.
pub const FILE_READS: [&str; 2] = ["read", "pread64"];

/// Calls that make, set up and end a connection.
pub const CONNECTION: [&str; 9] =
    ["bind", "close", "connect", "fcntl", "getpeername", "getsockname", "setsockopt", "shutdown", "socket"];

/// What to try where connections are made anew all the time.
pub const KEEP_CONNECTIONS: &str = "keep connections open and use them again: keep-alive, a pool";

/// Calls of a connection that is made for one piece of work, at least: socket, connect, something to set it up, close.
const CALLS_EACH: f64 = 4.0;

/// Reads of a file that is small enough to be read at once: one or two for its parts, one that finds its end.
const READS_EACH: f64 = 4.0;

/// Calls of one container.
#[derive(Debug)]
pub struct Calls<'p> {
    /// Exact counters by name.
    pub stats: FxHashMap<&'p str, &'p SyscallStats>,
    /// By on-CPU row: the call it is in, under the name that the counters have for it.
    pub of_row: Vec<Option<&'p str>>,
    /// CPU nanoseconds by call.
    pub cpu_ns: FxHashMap<&'p str, f64>,
    /// Length of the window in seconds.
    pub window_s: f64,
}

/// CPU time that a function spends on some calls.
#[derive(Debug, Clone)]
pub struct CallCost {
    /// The kernel's part, by function to blame.
    pub group: Group,
    /// The kernel's part without what only runs because this profiler is attached.
    pub unobserved_ns: f64,
    /// Rows of user code of the same function, with the part of each that goes with the calls.
    pub user: Vec<(usize, f64)>,
    /// Their sum.
    pub user_ns: f64,
}

impl CallCost {
    /// All of it.
    pub fn claims_ns(&self) -> f64 {
        self.group.ns + self.user_ns
    }

    /// What would be won if none of the calls were made. Part of their cost is this profiler's own, and cannot be told
    /// apart exactly (a watched call also takes the kernel's slow path, and evicts more). It stays in the bound as long as
    /// it is at most half: what is won without the profiler is then at least half of the bound.
    pub fn gain_ns(&self) -> f64 {
        self.claims_ns().min(2.0 * (self.unobserved_ns + self.user_ns))
    }

    /// A figure that says how much of the cost is this profiler's own, where it is worth saying.
    fn observed(&self, window_ns: f64) -> Option<String> {
        let own_ns = self.group.ns - self.unobserved_ns;
        let large = own_ns > 0.1 * self.group.ns;
        large.then(|| {
            format!("{:.3} cores of that is the cost of being watched (frames of kernel programs)", own_ns / window_ns)
        })
    }

    /// Takes the time off the rows and hands it in.
    pub fn finding(
        self,
        scene: &mut Scene<'_>,
        place: usize,
        kind: Kind,
        title: String,
        mut evidence: Vec<String>,
    ) -> Finding {
        evidence.extend(self.observed(scene.window_ns));
        claim(scene, place, &self.group.rows);
        claim(scene, place, &self.user);
        Finding {
            place,
            kind,
            blame: Some(self.group.function),
            about: None,
            stack: Some(self.group.stack),
            claims_ns: self.claims_ns(),
            gain_ns: self.gain_ns(),
            title,
            evidence,
            remedy: None,
            basis: Basis::CpuSamples(self.group.samples),
        }
    }
}

/// How much of a function's user code goes with its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// As much as the calls themselves cost: wrappers, arguments, results. So a fix wins between half and all of the sum.
    AsMuch,
    /// All of it: a loop that does nothing but ask.
    All,
}

impl<'p> Calls<'p> {
    /// Of a container.
    pub fn of(scene: &Scene<'p>, place: usize) -> Self {
        let mut this = Self {
            stats: FxHashMap::default(),
            of_row: Vec::new(),
            cpu_ns: FxHashMap::default(),
            window_s: scene.window_ns / 1e9,
        };
        let Some(place) = scene.places.get(place) else { return this };
        this.stats = place.container.syscalls.iter().map(|stats| (stats.name.as_str(), stats)).collect();
        for row in &place.cpu {
            let call = scene
                .facts(row.stack)
                .filter(|facts| facts.area == Area::Call && !facts.marks.any(Marks::STARTUP))
                .and_then(|facts| facts.call)
                .and_then(|name| mark::alike(name).find_map(|name| this.stats.get(name)))
                .map(|stats| stats.name.as_str());
            if let Some(call) = call {
                *this.cpu_ns.entry(call).or_default() += row.ns;
            }
            this.of_row.push(call);
        }
        this
    }

    /// How often these calls returned.
    pub fn count(&self, names: &[&str]) -> f64 {
        // An empty sum is -0.0, and would be printed as such: here and below.
        names.iter().filter_map(|name| self.stats.get(name)).fold(0.0, |sum, stats| sum + stats.count as f64)
    }

    /// Calls a second.
    pub fn rate(&self, name: &str) -> f64 {
        self.count(&[name]) / self.window_s
    }

    /// How often the call failed with one of the errnos for which `which` holds.
    pub fn failed(&self, name: &str, which: impl Fn(Errno) -> bool) -> f64 {
        let errors = self.stats.get(name).map(|stats| &stats.errors);
        errors.into_iter().flatten().filter(|(errno, _)| which(**errno)).fold(0.0, |sum, (_, n)| sum + *n as f64)
    }

    /// CPU nanoseconds of one call on average, in the kernel.
    pub fn mean_cpu_ns(&self, name: &str) -> f64 {
        self.cpu_ns.get(name).copied().unwrap_or(0.0) / self.count(&[name]).max(1.0)
    }

    /// Whether files are opened anew for each few reads: then the reads are as many as the opens ask for, and it is the
    /// opening that could be less.
    pub fn reopens(&self) -> bool {
        let opens = self.count(&OPENS);
        opens / self.window_s >= LEAST_CALLS / READS_EACH && opens >= self.count(&FILE_READS) / READS_EACH
    }

    /// Whether connections are opened anew all the time: then what opening and closing one costs counts whole, handshake
    /// included, and it is the opening that could be less. One that fails is `syscall_errors`'.
    pub fn reconnects(&self) -> bool {
        let in_vain = |errno: Errno| !matches!(i32::from(errno.0), libc::EINPROGRESS | libc::EINTR);
        let connects = self.count(&["connect"]) - self.failed("connect", in_vain);
        connects / self.window_s >= LEAST_CALLS / CALLS_EACH
    }

    /// Bytes that a successful call moved on average.
    pub fn mean_bytes(&self, name: &str) -> f64 {
        let well = self.count(&[name]) - self.failed(name, |_| true);
        self.stats.get(name).map_or(0.0, |stats| stats.bytes as f64) / well.max(1.0)
    }

    /// The part of a call's number that a function makes: its share of the CPU time in it.
    pub fn count_by(&self, scene: &Scene<'_>, place: usize, rows: &[(usize, f64)], name: &str) -> f64 {
        let Some(place) = scene.places.get(place) else { return 0.0 };
        let here: f64 =
            rows.iter().filter(|(at, _)| self.of_row[*at] == Some(name)).map(|(at, _)| place.cpu[*at].ns).sum();
        let all = self.cpu_ns.get(name).copied().unwrap_or(0.0);
        if all > 0.0 { self.count(&[name]) * here / all } else { 0.0 }
    }

    /// What is still unclaimed of the CPU time in calls for which `which` holds, by function to blame.
    pub fn costs(
        &self,
        scene: &Scene<'_>,
        place: usize,
        floor_ns: f64,
        around: Around,
        which: impl Fn(&str, Marks) -> bool,
    ) -> Vec<CallCost> {
        let Some(here) = scene.places.get(place) else { return Vec::new() };
        let rows: Vec<(usize, f64)> = here
            .cpu
            .iter()
            .enumerate()
            .filter(|(at, row)| {
                let marks = scene.facts(row.stack).map(|facts| facts.marks).unwrap_or_default();
                self.of_row[*at].is_some_and(|call| which(call, marks))
            })
            .map(|(at, row)| (at, row.left_ns))
            .collect();
        // The user code around the calls counts as well, at most as much as the calls: half of the floor is enough here.
        by_blame(scene, place, &rows, floor_ns / 2.0, Lift::ToCallers)
            .into_iter()
            .map(|group| with_user(scene, place, group, around))
            .filter(|cost| cost.claims_ns() >= floor_ns)
            .collect()
    }
}

/// What these rows are without what only runs because this profiler is attached.
pub fn unobserved_ns(scene: &Scene<'_>, here: &Place<'_>, rows: &[(usize, f64)]) -> f64 {
    let observer = |at: usize| scene.facts(here.cpu[at].stack).is_some_and(|facts| facts.marks.any(Marks::OBSERVER));
    rows.iter().filter(|(at, _)| !observer(*at)).map(|row| row.1).sum()
}

/// Adds the user code that goes with the calls of a group.
pub fn with_user(scene: &Scene<'_>, place: usize, group: Group, around: Around) -> CallCost {
    let here = &scene.places[place];
    let unobserved_ns = unobserved_ns(scene, here, &group.rows);
    let is_user = |stack| scene.facts(stack).is_some_and(|facts| facts.area == Area::User);
    let whole = own_process_only(scene, place, &group);
    let mut user: Vec<(usize, f64)> = here
        .cpu
        .iter()
        .enumerate()
        .filter(|(_, row)| is_user(row.stack) && row.left_ns > 0.0)
        .filter(|(_, row)| {
            scene.blame(row.process, row.stack) == Some(group.function)
                || whole.is_some_and(|process| {
                    row.process == process && scene.facts(row.stack).is_some_and(|facts| facts.chain.is_empty())
                })
        })
        .map(|(at, row)| (at, row.left_ns))
        .collect();
    let sum: f64 = user.iter().map(|row| row.1).sum();
    let part = match around {
        Around::AsMuch if sum > group.ns => group.ns / sum,
        Around::AsMuch | Around::All => 1.0,
    };
    for row in &mut user {
        row.1 *= part;
    }
    CallCost { group, unobserved_ns, user, user_ns: sum * part }
}

/// The process whose nameless user code goes with a group that has no function of the application to blame.
fn own_process_only(scene: &Scene<'_>, place: usize, group: &Group) -> Option<crate::profile::ProcessIndex> {
    if scene.functions.get(group.function.0 as usize).is_none_or(|function| function.own) {
        return None;
    }
    let here = &scene.places[place];
    let first = here.cpu[group.rows.first()?.0].process;
    group.rows.iter().all(|(at, _)| here.cpu[*at].process == first).then_some(first)
}

/// Takes claimed time off the rows.
pub fn claim(scene: &mut Scene<'_>, place: usize, rows: &[(usize, f64)]) {
    for (at, ns) in rows {
        let row = &mut scene.places[place].cpu[*at];
        row.left_ns = (row.left_ns - ns).max(0.0);
    }
}

/// Whether the function is the scheduler of a runtime: its calls are not the application's.
pub fn of_runtime(scene: &Scene<'_>, cost: &CallCost) -> bool {
    let own = scene.functions.get(cost.group.function.0 as usize).is_some_and(|function| function.own);
    !own && scene.facts(cost.group.stack).is_some_and(|facts| facts.marks.any(Marks::SCHEDULER))
}

/// The name of a function.
pub fn name_of(scene: &Scene<'_>, function: FunctionId) -> String {
    scene.functions.get(function.0 as usize).map_or_else(String::new, |function| function.name.clone())
}
