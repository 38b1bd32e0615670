//! A walk over all threads: gives each its slot at the start, and settles what is still open at a window's end.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_seq_write},
};
use profiler_ebpf::{Counter, LedgerRow, RecordHeader, RecordKind, record::user_stack, settings::iterate};

use crate::{
    account, clock, container,
    counter::count,
    kernel::{Task, is_dead, is_new},
    lifecycle,
    maps::{CONTROL, SCRATCH, setting},
    ring::{self, About},
    task::{self, NO_SYSCALL, TaskSlot},
    wait,
    window::{self, Waited, Window},
};

/// `struct bpf_iter__task`
#[repr(C)]
pub struct IterTask {
    meta: *const IterMeta,
    task: *mut c_void,
}

/// `struct bpf_iter_meta`
#[repr(C)]
struct IterMeta {
    seq: *mut seq_file,
}

/// Time between two ticks on most kernels (HZ = 250).
const TICK_NS: u64 = 4_000_000;

/// What the kernel is told of a thread that is done with.
const DONE: i32 = 0;
/// What the kernel is told to show a thread once more: it forgets what was written of it. Whoever reads may be told `EAGAIN`.
const AGAIN: i32 = 1;

/// Called once a thread, and once more without one.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn iter_task(context: *const IterTask) -> i32 {
    // SAFETY: the kernel passes a context of this layout.
    let (task, meta) = unsafe { (ptr::read_volatile(&raw const (*context).task), &raw const (*context).meta) };
    if task.is_null() {
        return DONE;
    }
    let task = lifecycle::typed(task);
    let Some(control) = CONTROL.get_ptr(0) else { return DONE };
    // SAFETY: a looked-up element lives while the program runs.
    match unsafe { ptr::read_volatile(&raw const (*control).iterate) } {
        iterate::CREATE => create(task),
        iterate::CORRECT => correct(task),
        iterate::LEARN => learn(task),
        // A slot could not be made when the thread was born: from now on it is measured.
        _ if task::slot_of(task).is_none() => create(task),
        // SAFETY: the kernel's context, as above.
        _ => return settle(task, unsafe { ptr::read_volatile(&raw const (*ptr::read_volatile(meta)).seq) }),
    }
    DONE
}

/// A timer's file is told by its operations, whose address the kernel need not tell: the loader has a timer open.
#[inline(always)]
fn learn(task: Task) {
    let Some(control) = CONTROL.get_ptr_mut(0) else { return };
    // SAFETY: a looked-up element lives while the program runs; the iterator is the only one to write this member.
    unsafe {
        if task.tid() == ptr::read_volatile(&raw const (*control).own_thread) {
            let timer = ptr::read_volatile(&raw const (*control).own_timerfd);
            ptr::write_volatile(&raw mut (*control).timer_operations, task.file_operations(u64::from(timer)));
        }
    }
}

#[inline(always)]
fn create(task: Task) {
    if task::slot_of(task).is_some() {
        return;
    }
    let state = task.state();
    if is_dead(state) {
        return;
    }
    let Some(slot) = task::create_slot(task) else {
        count(Counter::SlotNotCreated);
        return;
    };
    lifecycle::initialize(slot, task, 0);
    observe(slot, task, state);
}

/// Threads whose slot no event has touched since it was made, but whose state is another by now, changed it in between.
#[inline(always)]
fn correct(task: Task) {
    let Some(slot) = task::slot_of(task) else { return };
    if slot.created_ns == 0 || slot.since_ns != slot.created_ns {
        return;
    }
    let state = task.state();
    if slot.state != state_of(task, state) {
        observe(slot, task, state);
    }
}

#[inline(always)]
fn state_of(task: Task, state: u32) -> u32 {
    if is_new(state) || is_dead(state) {
        task::ABSENT
    } else if task.on_cpu() {
        task::RUNNING
    } else if state == 0 {
        task::RUNNABLE
    } else {
        task::BLOCKED
    }
}

/// Sets the slot to the state that the thread is seen in.
#[inline(always)]
fn observe(slot: &mut TaskSlot, task: Task, state: u32) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    slot.gap_start_ns = now_ns;
    slot.runnable_ns = now_ns;
    let registers = task.registers();
    slot.gap_syscall = wait::syscall_of(registers);
    if slot.gap_syscall == NO_SYSCALL {
        // Interrupted in user mode: the next call is seen whole.
        slot.syscall = NO_SYSCALL;
    }
    slot.reason = wait::reason(slot, task, registers, state) as u32;
    let cpu = task.cpu();
    if let Some(state) = clock::cpu_state(cpu) {
        let clock_ns = clock::read(state, cpu, slot.container, now_ns);
        wait::queue(slot, cpu, now_ns, clock_ns, task.throttled_ns());
        // It may have waited before: then it is not from now on that the scheduler counts this wait.
        slot.queued_ns = 0;
    }
    // Zero stands for no gap where sys_exit is asked for a stack.
    slot.sequence += 1;
    slot.created_ns = now_ns;
    slot.since_ns = now_ns;
    slot.state = state_of(task, state);
    if slot.state == task::RUNNING
        && let Some(cpu) = clock::cpu_state(task.cpu())
        && cpu.running_since_ns == 0
    {
        cpu.running = slot.container;
        cpu.running_since_ns = now_ns;
    }
}

/// Accounts what lies before the window's start, unless the thread has changed its state since and did it itself.
///
/// A wait is written out before it is claimed: where the buffer is full the kernel shows the thread again, to be settled then.
#[inline(always)]
fn settle(task: Task, seq: *mut seq_file) -> i32 {
    let Some(slot) = task::slot_of(task) else { return DONE };
    container::verify(slot, task);
    let Window { generation, start_ns } = window::current();
    let (since_ns, state) = (slot.since_ns, slot.state);
    if state == task::ABSENT || since_ns >= start_ns || !container::is_wanted(slot) {
        return DONE;
    }
    let previous_ns = start_ns - since_ns;
    if state == task::RUNNING {
        if window::claim(slot, since_ns, start_ns)
            && let Some(row) = row(slot, generation)
        {
            settle_running(slot, task, row, since_ns, previous_ns);
        }
        return DONE;
    }
    let (waited, blocked_ns) = if state == task::RUNNABLE {
        (waited_before(slot, task, since_ns, start_ns), slot.gap_blocked_ns)
    } else {
        (Waited { own_ns: 0, other_ns: 0, throttled_ns: 0 }, start_ns.saturating_sub(slot.gap_start_ns))
    };
    let written =
        if setting!(off_cpu) != 0 { write_open_gap(slot, task, seq, blocked_ns, waited) } else { Written::No };
    if matches!(written, Written::NoRoom) {
        return DONE;
    }
    if !window::claim(slot, since_ns, start_ns) {
        // The thread went on meanwhile and tells of this wait itself.
        return if matches!(written, Written::Yes) { AGAIN } else { DONE };
    }
    if let Some(row) = row(slot, generation) {
        if state == task::RUNNABLE {
            settle_wait(slot, row, waited, since_ns, start_ns);
        } else {
            account::add(row, slot.reason, previous_ns);
        }
    }
    slot.gap_start_ns = start_ns;
    slot.gap_blocked_ns = 0;
    slot.gap_self_ns = 0;
    slot.gap_other_ns = 0;
    slot.gap_throttled_ns = 0;
    DONE
}

/// The ended window's row of a thread's container, in the account that belongs to no CPU.
#[inline(always)]
fn row(slot: &TaskSlot, generation: u32) -> Option<&'static mut LedgerRow> {
    account::of(setting!(cpus), slot.container).map(|account| account::row(account, generation ^ 1))
}

/// The part of a running stretch before the window's start. What the scheduler has accounted so far is as old as the last
/// tick, so that much less is not taken for stolen; what is said here too little is made up when the stretch ends.
#[inline(always)]
fn settle_running(slot: &mut TaskSlot, task: Task, row: &mut LedgerRow, since_ns: u64, previous_ns: u64) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let elapsed_ns = now_ns.saturating_sub(since_ns);
    let known_ns = task.exec_ns().wrapping_sub(slot.exec_ns) + TICK_NS;
    let ran_ns = if known_ns >= elapsed_ns { previous_ns } else { window::share(known_ns, previous_ns, elapsed_ns) };
    account::add_ran(row, previous_ns, ran_ns);
    slot.exec_ns = slot.exec_ns.wrapping_add(ran_ns);
}

/// What a runnable thread waited before the window's start and is not accounted yet: that share of what it waited up to now.
#[inline(always)]
fn waited_before(slot: &TaskSlot, task: Task, since_ns: u64, start_ns: u64) -> Waited {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let clock_ns = clock::cpu_state(slot.cpu).map_or(0, |state| clock::read(state, slot.cpu, slot.container, now_ns));
    let (part_ns, whole_ns) = (start_ns - since_ns, now_ns.saturating_sub(since_ns));
    let waited = wait::waited(slot, whole_ns, clock_ns, task.throttled_ns());
    let own_ns = window::share(waited.own_ns, part_ns, whole_ns);
    let throttled_ns = window::share(waited.throttled_ns, part_ns, whole_ns);
    Waited { own_ns, other_ns: part_ns.saturating_sub(own_ns + throttled_ns), throttled_ns }
}

/// Accounts the part of a runnable wait before the window's start. The baselines move on by it, so that the rest of the wait is
/// accounted whole; when the wait began stays as it was, since that is what the scheduler's own figure is compared with.
#[inline(always)]
fn settle_wait(slot: &mut TaskSlot, row: &mut LedgerRow, waited: Waited, since_ns: u64, start_ns: u64) {
    slot.queued_clock_ns += waited.own_ns;
    slot.queued_throttled_ns += waited.throttled_ns;
    window::add_waited(row, waited);
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    wait::name_neighbours(slot.cpu, slot.container, since_ns, start_ns, waited.other_ns, random);
}

/// What became of an open wait's record.
enum Written {
    Yes,
    /// The buffer is full.
    NoRoom,
    /// None was wanted, or there is no memory to make it in.
    No,
}

/// Writes the wait that a thread is in, with what of it lies before the window's start.
#[inline(always)]
fn write_open_gap(slot: &TaskSlot, task: Task, seq: *mut seq_file, blocked_ns: u64, waited: Waited) -> Written {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        count(Counter::OpenWaitsLost);
        return Written::No;
    };
    let record = scratch.cast::<u8>();
    // SAFETY: the helpers have no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let about = About { kind: RecordKind::OpenGap, time_ns: now_ns, sequence: slot.sequence };
    ring::describe(record, about, task, slot.container);
    ring::describe_gap(record, user_stack::NONE, task, slot);
    let registers = task.registers();
    let user = task.has_user_stack();
    let header = record.cast::<RecordHeader>();
    // SAFETY: the scratch element has room for a record and is used by this iterator alone, one reader at a time.
    unsafe {
        (*header).blocked_ns = blocked_ns;
        (*header).runnable_self_ns += waited.own_ns;
        (*header).runnable_other_ns += waited.other_ns;
        (*header).throttled_ns += waited.throttled_ns;
        (*header).ip = if user { registers.ip() } else { 0 };
        (*header).sp = if user { registers.sp() } else { 0 };
        (*header).fp = if user { registers.fp() } else { 0 };
    }
    let kernel_bytes = ring::kernel_stack_of(task, ring::stacks(record, about.kind));
    let length = ring::close(record, about.kind, kernel_bytes, 0);
    if length > profiler_ebpf::record::RECORD_BYTES as u64 {
        count(Counter::OpenWaitsLost);
        return Written::No;
    }
    // SAFETY: `seq` is the iterator's own file; the length was just bounded.
    if unsafe { bpf_seq_write(seq, record.cast_const().cast(), length as u32) } == 0 {
        Written::Yes
    } else {
        Written::NoRoom
    }
}
