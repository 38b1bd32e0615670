//! Exact accounts: what the kernel programs wrote of a container in a window. In: raw accounts. Out: parts of a profile.

use profiler_ebpf::{
    Part,
    account::{ERRNO_RESTART, ERRNOS, PARTS},
};

use crate::{
    kernel::{LedgerAccount, SyscallAccount, syscalls},
    profile::{Errno, Histogram, Ledger, SyscallStats},
};

/// `ERESTARTSYS` in outputs: the first of the kernel's codes for calls that are restarted.
const ERESTARTSYS: u16 = 512;

/// The ledger's parts are exact but for the split of CPU time, which follows the kernel's ticks.
pub(super) fn ledger(account: &LedgerAccount, kernel_threads: bool) -> Ledger {
    let parts_ns = without_debts(account.parts_ns);
    let part = |part: Part| parts_ns[part as usize];
    let cpu_ns = part(Part::Cpu);
    let stolen_ns = part(Part::Stolen);
    let ticks_ns = account.user_ticks_ns + account.kernel_ticks_ns;
    let cpu_kernel_ns = if kernel_threads {
        cpu_ns
    } else if ticks_ns == 0 {
        0
    } else {
        (u128::from(cpu_ns) * u128::from(account.kernel_ticks_ns) / u128::from(ticks_ns)) as u64
    };
    Ledger {
        thread_ns: parts_ns.iter().sum(),
        cpu_user_ns: cpu_ns - cpu_kernel_ns,
        cpu_kernel_ns,
        runnable_self_ns: part(Part::RunnableSelf),
        runnable_other_ns: part(Part::RunnableOther),
        throttled_ns: part(Part::Throttled),
        blocked_lock_ns: part(Part::BlockedLock),
        blocked_disk_ns: part(Part::BlockedDisk),
        blocked_network_ns: part(Part::BlockedNetwork),
        blocked_sleep_ns: part(Part::BlockedSleep),
        blocked_other_ns: part(Part::BlockedOther) + stolen_ns,
        stolen_ns,
        voluntary_switches: account.voluntary,
        involuntary_switches: account.involuntary,
    }
}

/// Parts are corrected by differences of clocks, so one that holds nothing else may be a little below zero. The sum is exact: what one part
/// owes the largest of the others has too much.
fn without_debts(parts_ns: [u64; PARTS]) -> [u64; PARTS] {
    let mut owed_ns: u64 = parts_ns.iter().map(|ns| ns.cast_signed().min(0).unsigned_abs()).sum();
    let mut parts_ns = parts_ns.map(|ns| ns.cast_signed().max(0).cast_unsigned());
    while owed_ns > 0
        && let Some(largest_ns) = parts_ns.iter_mut().max().filter(|ns| **ns > 0)
    {
        let paid_ns = owed_ns.min(*largest_ns);
        *largest_ns -= paid_ns;
        owed_ns -= paid_ns;
    }
    parts_ns
}

/// Adds a container's account of a system call to what is known of its calls.
pub(super) fn add_syscall(syscalls: &mut Vec<SyscallStats>, account: SyscallAccount) {
    let name = syscalls::name(account.number);
    let place = syscalls.iter().position(|known| known.name == name).unwrap_or_else(|| {
        syscalls.push(SyscallStats { name, ..SyscallStats::default() });
        syscalls.len() - 1
    });
    let stats = &mut syscalls[place];
    stats.bytes += account.bytes;
    stats.total_ns += account.total_ns;
    stats.max_ns = stats.max_ns.max(account.max_ns);
    let latency = Histogram::from_first(account.first_bucket, account.latency);
    stats.count += latency.count() + account.skipped;
    if stats.latency == Histogram::default() {
        stats.latency = latency;
    } else {
        stats.latency.merge(&latency);
    }
    for (place, n) in account.errors {
        let errno = match place {
            ERRNO_RESTART => ERESTARTSYS,
            place if place as usize == ERRNOS - 1 => u16::MAX,
            place => place as u16,
        };
        *stats.errors.entry(Errno(errno)).or_default() += n;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn parts(known: &[(Part, i64)]) -> [u64; PARTS] {
        let mut parts_ns = [0; PARTS];
        for (part, ns) in known {
            parts_ns[*part as usize] = ns.cast_unsigned();
        }
        parts_ns
    }

    #[test]
    fn what_a_part_owes_is_taken_off_the_largest_so_that_the_parts_sum_to_the_threads_time() {
        let account = LedgerAccount {
            parts_ns: parts(&[(Part::Cpu, 1_000), (Part::Stolen, -300), (Part::RunnableOther, 5_000)]),
            ..LedgerAccount::default()
        };
        let ledger = ledger(&account, true);
        assert_eq!((ledger.thread_ns, ledger.runnable_other_ns, ledger.stolen_ns), (5_700, 4_700, 0));
        assert_eq!(ledger.cpu_kernel_ns, 1_000);
    }

    #[test]
    fn more_owed_than_there_is_leaves_nothing() {
        assert_eq!(without_debts(parts(&[(Part::Cpu, 10), (Part::Stolen, -300)])), [0; PARTS]);
    }

    #[test]
    fn calls_that_never_began_are_counted_with_their_errors_but_are_in_no_bucket() {
        let account = |skipped, latency: &[u64], errors: &[(u32, u64)]| SyscallAccount {
            container: 3,
            number: 0,
            total_ns: 70,
            max_ns: 50,
            bytes: 0,
            skipped,
            first_bucket: 4,
            latency: latency.to_vec(),
            errors: errors.to_vec(),
        };
        let mut calls = Vec::new();
        add_syscall(&mut calls, account(200, &[], &[(1, 200)]));
        add_syscall(&mut calls, account(0, &[2, 1], &[(11, 1)]));
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].count, calls[0].latency.count()), (203, 3));
        assert_eq!(calls[0].errors, [(Errno(1), 200), (Errno(11), 1)].into());
    }

    proptest! {
        #[test]
        fn the_sum_of_the_parts_is_kept_unless_it_is_below_zero(
            known in prop::collection::vec(any::<i32>(), PARTS),
        ) {
            let mut parts_ns = [0_u64; PARTS];
            for (part, ns) in parts_ns.iter_mut().zip(&known) {
                *part = i64::from(*ns).cast_unsigned();
            }
            let sum: i64 = known.iter().map(|ns| i64::from(*ns)).sum();
            let paid = without_debts(parts_ns);
            prop_assert_eq!(paid.iter().sum::<u64>(), sum.max(0).cast_unsigned());
            let no_more = paid.iter().zip(&known).all(|(paid, ns)| *paid <= u64::from(ns.max(&0).unsigned_abs()));
            prop_assert!(no_more, "a part grew: {:?} of {:?}", paid, known);
        }
    }
}
