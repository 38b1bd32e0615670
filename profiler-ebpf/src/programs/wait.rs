//! Runnable and blocked: why a thread leaves the CPU, and whom it waits behind until it comes back.

use aya_ebpf::bindings::BPF_ANY;
use profiler_ebpf::{
    CONTAINER_OVERFLOW, Counter, CpuState, Part,
    account::{SLICES, Slice},
    syscall::{
        ARGUMENT_MASK, ARGUMENT_SHIFT, CLASS_DESCRIPTOR, CLASS_FILE, CLASS_LOCK, CLASS_MASK, CLASS_NETWORK, CLASS_POLL,
        CLASS_SLEEP,
    },
};

use crate::{
    atomic, clock,
    counter::count,
    kernel::{File, FileKind, Registers, Task, is_uninterruptible},
    maps::{self, WAITED_BEHIND, setting},
    task::{NO_SYSCALL, TaskSlot},
    window::Waited,
};

/// Number of the syscall that the thread is in, or [`NO_SYSCALL`].
#[inline(always)]
pub fn syscall_of(registers: Registers) -> u32 {
    let number = registers.syscall();
    if number < 0 || number > i64::from(u16::MAX) { NO_SYSCALL } else { number as u32 }
}

/// What a thread that is about to block, or is blocked, in `slot.gap_syscall` waits for.
#[inline(always)]
pub fn reason(slot: &mut TaskSlot, task: Task, registers: Registers, state: u32) -> Part {
    let syscall = slot.gap_syscall;
    if task.is_kernel_thread() {
        return Part::BlockedOther;
    }
    // Whoever waits for io_uring's completions is said to wait for I/O too, whatever they are of (6.5 and newer), but can be interrupted.
    if task.in_iowait() && is_uninterruptible(state) {
        return Part::BlockedDisk;
    }
    if syscall == NO_SYSCALL || task.in_compat_syscall() {
        return Part::BlockedOther;
    }
    let class = maps::syscall_class(u64::from(syscall));
    let argument = (class >> ARGUMENT_SHIFT) & ARGUMENT_MASK;
    match class & CLASS_MASK {
        CLASS_LOCK => Part::BlockedLock,
        CLASS_SLEEP => Part::BlockedSleep,
        CLASS_NETWORK => Part::BlockedNetwork,
        CLASS_FILE if is_uninterruptible(state) => Part::BlockedDisk,
        CLASS_POLL if registers.argument(argument) as u32 == 0 => Part::BlockedSleep,
        CLASS_POLL => Part::BlockedNetwork,
        CLASS_DESCRIPTOR => {
            let descriptor = registers.argument(argument) & 0xffff_ffff;
            match file_kind(slot, task, descriptor) {
                FileKind::Socket => Part::BlockedNetwork,
                FileKind::Timer => Part::BlockedSleep,
                FileKind::Disk if is_uninterruptible(state) => Part::BlockedDisk,
                _ => Part::BlockedOther,
            }
        }
        _ => Part::BlockedOther,
    }
}

/// What kind of file a descriptor is. A file's operations serve one kind of file, and a thread mostly waits for the same
/// kind again, so the kind is looked up only when the operations are others than the last time.
#[inline(always)]
fn file_kind(slot: &mut TaskSlot, task: Task, descriptor: u64) -> FileKind {
    let operations = task.file_operations(descriptor);
    if operations != slot.file_operations {
        slot.file_operations = operations;
        slot.file_kind = kind_of(task, descriptor);
    }
    FileKind::from(slot.file_kind)
}

#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn kind_of(task: Task, descriptor: u64) -> u32 {
    task.file(descriptor).map_or(FileKind::Other, File::kind) as u32
}

/// The thread starts to wait on a CPU's run queue, where its container's clock shows `clock_ns`.
#[inline(always)]
pub fn queue(slot: &mut TaskSlot, cpu: u32, now_ns: u64, clock_ns: u64, throttled_ns: u64) {
    slot.cpu = cpu;
    slot.queued_ns = now_ns;
    slot.queued_clock_ns = clock_ns;
    slot.queued_throttled_ns = throttled_ns;
}

/// How the last `elapsed_ns` of the wait on `slot.cpu` were spent, up to now: throttled as far as the run queue's throttle clock grew, behind its own
/// container as far as that container's clock grew, behind others for the rest.
#[inline(always)]
pub fn waited(slot: &TaskSlot, elapsed_ns: u64, clock_ns: u64, throttled_ns: u64) -> Waited {
    let throttled_ns = at_most(throttled_ns.saturating_sub(slot.queued_throttled_ns), elapsed_ns);
    let rest_ns = elapsed_ns - throttled_ns;
    let own_ns = at_most(clock_ns.saturating_sub(slot.queued_clock_ns), rest_ns);
    Waited { own_ns, other_ns: rest_ns - own_ns, throttled_ns }
}

#[inline(always)]
fn at_most(value: u64, limit: u64) -> u64 {
    if value > limit { limit } else { value }
}

/// Names the neighbours behind whom a thread waited on a CPU: its wait is laid over the slices that the CPU remembers and
/// the one under way. Only waits chosen with probability wait / T are looked at and weighted by T / wait, so the sums are
/// unbiased.
#[inline(always)]
pub fn name_neighbours(cpu: u32, container: u32, queued_ns: u64, now_ns: u64, other_ns: u64, random: u32) {
    let threshold_ns = setting!(offcpu_threshold_ns);
    if other_ns == 0 || (other_ns < threshold_ns && (u64::from(random) * threshold_ns) >> 32 >= other_ns) {
        return;
    }
    charge(cpu, container, queued_ns, now_ns, other_ns);
}

/// Charges a wait that was chosen: few are.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn charge(cpu: u32, container: u32, queued_ns: u64, now_ns: u64, other_ns: u64) {
    if let Some(state) = clock::cpu_state(cpu) {
        let left_ns = charge_running(state, container, queued_ns, now_ns, other_ns);
        charge_slices(cpu, container, queued_ns, left_ns, other_ns);
    }
}

/// Charges the slice under way and returns what is left of the wait.
#[inline(always)]
fn charge_running(state: &CpuState, container: u32, queued_ns: u64, now_ns: u64, other_ns: u64) -> u64 {
    if state.running == container {
        return other_ns;
    }
    let since_ns = if state.running_since_ns > queued_ns { state.running_since_ns } else { queued_ns };
    let overlap_ns = at_most(now_ns.saturating_sub(since_ns), other_ns);
    if overlap_ns != 0 {
        charge_pair(container, state.running, weighted(overlap_ns, other_ns));
    }
    other_ns - overlap_ns
}

/// Charges the slices that have ended, newest first, and what they do not cover to nobody known.
///
/// A global function, which the verifier checks once by itself and not again on each path of every caller: with the loop
/// that is the difference between 0.4 s and a few milliseconds of loading.
#[unsafe(no_mangle)]
pub extern "C" fn charge_slices(cpu: u32, container: u32, queued_ns: u64, left_ns: u64, other_ns: u64) -> u32 {
    let mut left_ns = left_ns;
    let Some(state) = clock::cpu_state(cpu) else { return 0 };
    let mut back = 1;
    while back <= SLICES as u32 {
        let place = (state.slices_ended.wrapping_sub(back) as usize) & (SLICES - 1);
        // SAFETY: the index is masked to the array's length.
        let slice = unsafe { &*(&raw const state.slices).cast::<Slice>().add(place) };
        if slice.end_ns <= queued_ns || left_ns == 0 {
            break;
        }
        let start_ns = if slice.start_ns > queued_ns { slice.start_ns } else { queued_ns };
        let overlap_ns = at_most(slice.end_ns.saturating_sub(start_ns), left_ns);
        if slice.container != container && overlap_ns != 0 {
            left_ns -= overlap_ns;
            charge_pair(container, slice.container, weighted(overlap_ns, other_ns));
        }
        back += 1;
    }
    if left_ns != 0 {
        charge_pair(container, CONTAINER_OVERFLOW, weighted(left_ns, other_ns));
    }
    0
}

/// `overlap` weighted by max(1, T / wait).
#[inline(always)]
fn weighted(overlap_ns: u64, wait_ns: u64) -> u64 {
    let threshold_ns = setting!(offcpu_threshold_ns);
    if wait_ns < threshold_ns { overlap_ns * threshold_ns / wait_ns } else { overlap_ns }
}

#[inline(always)]
fn charge_pair(waiter: u32, runner: u32, ns: u64) {
    let key = (u64::from(waiter) << 32) | u64::from(runner);
    if let Some(sum) = WAITED_BEHIND.get_ptr_mut(key) {
        // SAFETY: userspace may delete the element, and another pair may then take its place, but its memory is not given back while a
        // program runs that found it; the addition is atomic.
        unsafe { atomic::add(sum, ns) };
    } else if WAITED_BEHIND.insert(key, ns, u64::from(BPF_ANY)).is_err() {
        count(Counter::WaitedBehindFull);
    }
}
