//! A profile in fewer bytes: what says next to nothing alone is added up. In: a profile. Out: the same sums, with less detail.

use super::{Container, Profile, SyscallStats};

/// Under which name small system calls are one. No system call is called this.
pub const OTHER_SYSCALLS: &str = "other";

/// Calls of one kind are told apart if they took at least this part of the window altogether.
const TOLD_APART_PART: u64 = 100_000;

/// To what CPU time by second is rounded, in nanoseconds: a hundred-thousandth of a core.
const SECONDS_STEP_NS: u64 = 10_000;

impl Profile {
    /// Gives up what is smaller than a hundred-thousandth of a core: each container's kinds of system call that took less than
    /// that part of the window become one, [`OTHER_SYSCALLS`], with the exact sums of them all, and CPU time by second is rounded.
    ///
    /// Of four hundred small containers with thirty kinds of call each that is more than half of what a recording takes.
    pub fn coarsen(&mut self) {
        let least_ns = self.window.duration_ns / TOLD_APART_PART;
        for container in &mut self.containers {
            container.add_up_small_syscalls(least_ns);
            for ns in &mut container.cpu_ns_by_second {
                *ns = ns.saturating_add(SECONDS_STEP_NS / 2) / SECONDS_STEP_NS * SECONDS_STEP_NS;
            }
        }
    }
}

impl Container {
    fn add_up_small_syscalls(&mut self, least_ns: u64) {
        let is_small = |call: &SyscallStats| call.total_ns < least_ns || call.name == OTHER_SYSCALLS;
        if self.syscalls.iter().filter(|call| is_small(call)).count() < 2 {
            return;
        }
        let mut small: Vec<SyscallStats> = self.syscalls.extract_if(.., |call| is_small(call)).collect();
        for call in &mut small {
            OTHER_SYSCALLS.clone_into(&mut call.name);
        }
        self.add_syscalls(&small);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Errno, Histogram, Ledger, Window};

    fn call(name: &str, count: u64, each_ns: u64) -> SyscallStats {
        let mut latency = Histogram::default();
        (0..count).for_each(|_| latency.record(each_ns));
        SyscallStats {
            name: name.to_owned(),
            count,
            errors: [(Errno(9), 1)].into(),
            bytes: 10,
            total_ns: count * each_ns,
            max_ns: each_ns,
            latency,
        }
    }

    fn profile(syscalls: Vec<SyscallStats>) -> Profile {
        let ledger = Ledger { thread_ns: 7, ..Ledger::default() };
        let cpu_ns_by_second = vec![0, 4_999, 5_000, 1_000_000_001, u64::MAX];
        let containers = vec![Container { ledger, cpu_ns_by_second, syscalls, ..Container::default() }];
        Profile { window: Window { start_unix_ns: 0, duration_ns: 1_000_000_000 }, containers, ..Profile::default() }
    }

    #[test]
    fn small_calls_are_one_with_the_sums_of_all() {
        let calls =
            vec![call("read", 3, 5_000), call("getpid", 9, 100), call("close", 2, 900), call("futex", 1, 10_000)];
        let mut coarse = profile(calls.clone());
        coarse.coarsen();
        let names = |profile: &Profile| -> Vec<String> {
            profile.containers[0].syscalls.iter().map(|call| call.name.clone()).collect()
        };
        assert_eq!(names(&coarse), ["read", "futex", "other"], "10 µs of a second are told apart");
        assert_eq!(coarse.containers[0].syscalls[0], calls[0]);
        let other = &coarse.containers[0].syscalls[2];
        assert_eq!((other.count, other.bytes, other.total_ns, other.max_ns), (11, 20, 2_700, 900));
        assert_eq!((other.errors.get(&Errno(9)), other.latency.count()), (Some(&2), 11));
        assert_eq!(coarse.containers[0].ledger, profile(Vec::new()).containers[0].ledger);

        let before = coarse.clone();
        coarse.coarsen();
        assert_eq!(coarse, before, "once is enough");
        coarse.merge(before);
        coarse.coarsen();
        assert_eq!((names(&coarse).len(), coarse.containers[0].syscalls[2].count), (3, 22));
    }

    #[test]
    fn a_single_small_call_keeps_its_name() {
        let mut coarse = profile(vec![call("getpid", 1, 100), call("read", 1, 20_000)]);
        coarse.coarsen();
        assert!(coarse.containers[0].syscalls.iter().any(|call| call.name == "getpid"));
    }

    #[test]
    fn seconds_are_rounded_to_a_hundred_thousandth_of_a_core() {
        let mut coarse = profile(Vec::new());
        coarse.coarsen();
        let most = u64::MAX / SECONDS_STEP_NS * SECONDS_STEP_NS;
        assert_eq!(coarse.containers[0].cpu_ns_by_second, [0, 0, 10_000, 1_000_000_000, most]);
    }
}
