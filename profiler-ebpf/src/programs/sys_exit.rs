//! A thread leaves a syscall: how long it took, what became of it, and, if a gap within it was chosen, from where it was
//! called.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_ebpf::{
    Control, Counter, RecordHeader, RecordKind, SyscallRow,
    account::{ERRNO_OTHER, ERRNO_RESTART, ERRNOS},
    histogram::{self, BUCKETS},
    syscall::{MOVES_BYTES, SYSCALLS},
};

use crate::{
    atomic, container,
    counter::count,
    kernel::Task,
    maps::{self, SYSCALL_FREE, SYSCALL_INDEX, SYSCALL_RINGS, SYSCALLS as ROWS, setting},
    ring::{self, About},
    sys_enter,
    task::{self, NO_SYSCALL, TaskSlot, UNSEEN_SYSCALL},
    unwind,
};

/// Largest errno a syscall returns (`MAX_ERRNO`).
const MAX_ERRNO: u64 = 4095;
/// First of the kernel's internal codes for restarted calls (`ERESTARTSYS`).
const FIRST_RESTART: u64 = 512;
/// Marks an index element whose row is being allocated.
const ALLOCATING: u32 = u32::MAX;

/// `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(context: BtfTracePointContext) -> i32 {
    let result: u64 = context.arg(1);
    exit(&context, result);
    0
}

#[inline(always)]
fn exit(context: &BtfTracePointContext, result: u64) {
    // SAFETY: the helpers have no preconditions.
    let (now_ns, task) = unsafe { (bpf_ktime_get_ns(), Task(bpf_get_current_task_btf())) };
    let Some(slot) = task::slot_of(task) else {
        count(Counter::SyscallsNoSlot);
        return;
    };
    let number = slot.syscall;
    slot.syscall = NO_SYSCALL;
    if slot.want_user_stack != 0 {
        take_user_stack(context.as_ptr(), slot, task, now_ns);
        slot.want_user_stack = 0;
    }
    if setting!(syscalls) == 0 || !container::is_wanted(slot) {
        return;
    }
    if number >= UNSEEN_SYSCALL {
        if number == NO_SYSCALL {
            skipped(slot.container, task, result);
        }
        return;
    }
    account(slot.container, number, now_ns.saturating_sub(slot.syscall_entered_ns), result);
}

/// A call that returns without having begun: seccomp refused it, left it to a signal's handler or to another process, or a tracer
/// skipped it. There is no time to tell of it, and what it moved nobody knows.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn skipped(container: u32, task: Task, result: u64) {
    let number = task.registers().syscall();
    if number < 0 {
        // A tracer has put another number in the place of the call's.
        count(Counter::SyscallsNotEntered);
        return;
    }
    let number = sys_enter::number_of(task, number as u64);
    let Some(row) = row(container, number) else { return };
    add(&mut row.skipped, 1);
    count_error(row, result);
}

/// Counts the call's errno; false if it has none.
#[inline(always)]
fn count_error(row: &mut SyscallRow, result: u64) -> bool {
    if result <= u64::MAX - MAX_ERRNO {
        return false;
    }
    let errno = errno_place(result.wrapping_neg()) as usize;
    if errno < ERRNOS {
        // SAFETY: the index was just checked.
        add_u32(unsafe { &mut *(&raw mut row.errors).cast::<u32>().add(errno) });
    }
    true
}

#[inline(always)]
fn account(container: u32, number: u32, ns: u64, result: u64) {
    let Some(row) = row(container, number) else { return };
    add(&mut row.total_ns, ns);
    let bucket = histogram::bucket_of(ns) as usize;
    if bucket < BUCKETS {
        // SAFETY: the index was just checked.
        add_u32(unsafe { &mut *(&raw mut row.latency).cast::<u32>().add(bucket) });
    }
    if ns > row.max_ns {
        raise(row, ns);
    }
    if !count_error(row, result) && result != 0 && maps::syscall_class(u64::from(number)) & MOVES_BYTES != 0 {
        add(&mut row.bytes, result);
    }
}

#[inline(always)]
fn add(place: &mut u64, value: u64) {
    // SAFETY: aligned and inside an element that lives while the program runs; every writer adds atomically.
    unsafe { atomic::add(place, value) };
}

#[inline(always)]
fn add_u32(place: &mut u32) {
    // SAFETY: as above.
    unsafe { atomic::add_u32(place, 1) };
}

/// Raises the row's maximum; given up after a few tries against other CPUs, each of which raised it too.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn raise(row: &mut SyscallRow, ns: u64) {
    let mut tries = 0;
    while tries < 4 {
        let max_ns = row.max_ns;
        if ns <= max_ns {
            return;
        }
        // SAFETY: as above.
        if unsafe { atomic::replace(&raw mut row.max_ns, max_ns, ns) } {
            return;
        }
        tries += 1;
    }
}

#[inline(always)]
fn errno_place(errno: u64) -> u32 {
    if errno < u64::from(ERRNO_RESTART) {
        errno as u32
    } else if errno >= FIRST_RESTART && errno < FIRST_RESTART + 16 {
        ERRNO_RESTART
    } else {
        ERRNO_OTHER
    }
}

/// The row of a container's syscall in the current generation, allocated when it is first called.
#[inline(always)]
fn row(container: u32, number: u32) -> Option<&'static mut SyscallRow> {
    let number = number & (SYSCALLS as u32 - 1);
    let index = SYSCALL_INDEX.get_ptr_mut(container * SYSCALLS as u32 + number)?;
    // SAFETY: an aligned word inside an element that lives while the program runs.
    let mut place = unsafe { core::ptr::read_volatile(index) };
    if place == 0 || place == ALLOCATING {
        place = allocate(index)?;
    }
    let (generation, _) = Control::split(maps::window());
    // SAFETY: the element lives while the program runs; all writers add atomically.
    ROWS.get_ptr_mut(generation * setting!(syscall_rows) + (place - 1)).map(|row| unsafe { &mut *row })
}

#[inline(never)]
fn allocate_row(index: *mut u32) -> u32 {
    // SAFETY: as above.
    if !unsafe { atomic::replace_u32(index, 0, ALLOCATING) } {
        // SAFETY: as above. Another thread is allocating, or has by now.
        let place = unsafe { core::ptr::read_volatile(index) };
        return if place == ALLOCATING { 0 } else { place };
    }
    let free = match SYSCALL_FREE.pop() {
        Ok(Some(row)) => row + 1,
        _ => 0,
    };
    // SAFETY: as above. Without a row the next call tries again.
    unsafe { core::ptr::write_volatile(index, free) };
    free
}

#[inline(always)]
fn allocate(index: *mut u32) -> Option<u32> {
    let place = allocate_row(index);
    if place == 0 {
        count(Counter::SyscallRowsExhausted);
        return None;
    }
    Some(place)
}

/// Takes the user stack that a gap in this call wants: few calls have one.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn take_user_stack(context: *mut c_void, slot: &mut TaskSlot, task: Task, now_ns: u64) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(ring) = SYSCALL_RINGS.get_ptr_mut(cpu) else { return };
    // Unlike the other rings' contexts this one can be preempted by another thread that leaves a syscall here.
    // SAFETY: the element lives while the program runs.
    let busy = unsafe { &raw mut (*ring).busy };
    // SAFETY: as above.
    if unsafe { atomic::swap(busy, 1) } != 0 {
        count(Counter::UserStackBusy);
        return;
    }
    match ring::reserve(&SYSCALL_RINGS, cpu) {
        Some(room) => {
            let about = About { kind: RecordKind::UserStackAtExit, time_ns: now_ns, sequence: slot.sequence };
            ring::describe(room.record, about, task, slot.container);
            // SAFETY: the record has room for a header.
            unsafe { (*room.record.cast::<RecordHeader>()).gap_start_ns = slot.want_user_stack };
            let user_bytes = unwind::user_stack(context, &room, about.kind, 0, slot);
            let length = ring::close(room.record, about.kind, 0, user_bytes);
            room.submit(length);
        }
        None => count(Counter::UserStackRingFull),
    }
    // SAFETY: as above.
    unsafe { atomic::swap(busy, 0) };
}
