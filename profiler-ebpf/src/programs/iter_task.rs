//! A walk over all threads: gives each its slot at the start, and settles what is still open at a window's end.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_ktime_get_ns, bpf_seq_write},
};
use profiler_ebpf::{Counter, Part, RecordHeader, RecordKind, record::user_stack, settings::iterate};

use crate::{
    account, clock, container,
    counter::count,
    kernel::{Task, is_dead, is_new},
    lifecycle,
    maps::{CONTROL, SCRATCH, setting},
    ring::{self, About},
    task::{self, TaskSlot},
    wait,
    window::{self, Window},
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

/// Called once a thread, and once more without one.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn iter_task(context: *const IterTask) -> i32 {
    // SAFETY: the kernel passes a context of this layout.
    let (task, meta) = unsafe { (ptr::read_volatile(&raw const (*context).task), &raw const (*context).meta) };
    if task.is_null() {
        return 0;
    }
    let task = lifecycle::typed(task);
    let Some(control) = CONTROL.get_ptr(0) else { return 0 };
    // SAFETY: a looked-up element lives while the program runs.
    match unsafe { ptr::read_volatile(&raw const (*control).iterate) } {
        iterate::CREATE => create(task),
        iterate::CORRECT => correct(task),
        iterate::LEARN => learn(task),
        // A slot could not be made when the thread was born: from now on it is measured.
        _ if task::slot_of(task).is_none() => create(task),
        // SAFETY: the kernel's context, as above.
        _ => settle(task, unsafe { ptr::read_volatile(&raw const (*ptr::read_volatile(meta)).seq) }),
    }
    0
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
    slot.reason = wait::reason(slot, task, registers, state) as u32;
    let cpu = task.cpu();
    if let Some(state) = clock::cpu_state(cpu) {
        let clock_ns = clock::read(state, cpu, slot.container, now_ns);
        wait::queue(slot, cpu, now_ns, clock_ns, task.throttled_ns());
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
#[inline(always)]
fn settle(task: Task, seq: *mut seq_file) {
    let Some(slot) = task::slot_of(task) else { return };
    container::verify(slot, task);
    let Window { generation, start_ns } = window::current();
    let (since_ns, state) = (slot.since_ns, slot.state);
    if state == task::ABSENT || since_ns >= start_ns || !container::is_wanted(slot) {
        return;
    }
    let queued_ns = slot.queued_ns;
    if !window::claim(slot, since_ns, start_ns) {
        return;
    }
    let previous_ns = start_ns - since_ns;
    // The account that belongs to no CPU.
    let Some(account) = account::of(setting!(cpus), slot.container) else { return };
    let row = account::row(account, generation ^ 1);
    match state {
        task::RUNNING => {
            settle_running(slot, task, row, since_ns, previous_ns);
            return;
        }
        task::RUNNABLE => settle_wait(slot, task, row, queued_ns, start_ns),
        _ => {
            account::add(row, slot.reason, previous_ns);
            slot.gap_blocked_ns = start_ns.saturating_sub(slot.gap_start_ns);
        }
    }
    if setting!(off_cpu) != 0 {
        write_open_gap(slot, task, seq);
    }
    slot.gap_start_ns = start_ns;
    slot.gap_blocked_ns = 0;
    slot.gap_self_ns = 0;
    slot.gap_other_ns = 0;
    slot.gap_throttled_ns = 0;
}

/// The part of a running stretch before the window's start. What the scheduler has accounted so far is as old as the last
/// tick, so that much less is not taken for stolen; what is said here too little is made up when the stretch ends.
#[inline(always)]
fn settle_running(
    slot: &mut TaskSlot,
    task: Task,
    row: &mut profiler_ebpf::LedgerRow,
    since_ns: u64,
    previous_ns: u64,
) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let elapsed_ns = now_ns.saturating_sub(since_ns);
    let known_ns = task.exec_ns().wrapping_sub(slot.exec_ns) + TICK_NS;
    let ran_ns = if known_ns >= elapsed_ns { previous_ns } else { window::share(known_ns, previous_ns, elapsed_ns) };
    account::add_ran(row, previous_ns, ran_ns);
    slot.exec_ns = slot.exec_ns.wrapping_add(ran_ns);
}

/// The part of a runnable wait before the window's start: the share of what was waited up to now. The baselines move on by
/// it, so that the rest of the wait is accounted whole.
#[inline(always)]
fn settle_wait(slot: &mut TaskSlot, task: Task, row: &mut profiler_ebpf::LedgerRow, queued_ns: u64, start_ns: u64) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let clock_ns = clock::cpu_state(slot.cpu).map_or(0, |state| clock::read(state, slot.cpu, slot.container, now_ns));
    let waited = wait::waited(slot, now_ns, clock_ns, task.throttled_ns());
    let (part_ns, whole_ns) = (start_ns.saturating_sub(queued_ns), now_ns.saturating_sub(queued_ns));
    let own_ns = window::share(waited.own_ns, part_ns, whole_ns);
    let throttled_ns = window::share(waited.throttled_ns, part_ns, whole_ns);
    let other_ns = part_ns.saturating_sub(own_ns + throttled_ns);
    slot.queued_ns = start_ns;
    slot.queued_clock_ns += own_ns;
    slot.queued_throttled_ns += throttled_ns;
    account::add(row, Part::RunnableSelf as u32, own_ns);
    account::add(row, Part::RunnableOther as u32, other_ns);
    account::add(row, Part::Throttled as u32, throttled_ns);
    slot.gap_self_ns += own_ns;
    slot.gap_other_ns += other_ns;
    slot.gap_throttled_ns += throttled_ns;
}

#[inline(always)]
fn write_open_gap(slot: &TaskSlot, task: Task, seq: *mut seq_file) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
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
        (*header).ip = if user { registers.ip() } else { 0 };
        (*header).sp = if user { registers.sp() } else { 0 };
        (*header).fp = if user { registers.fp() } else { 0 };
    }
    let kernel_bytes = ring::kernel_stack_of(task, ring::stacks(record, about.kind));
    let length = ring::close(record, about.kind, kernel_bytes, 0);
    if length > profiler_ebpf::record::RECORD_BYTES as u64 {
        return;
    }
    // SAFETY: `seq` is the iterator's own file; the length was just bounded.
    if unsafe { bpf_seq_write(seq, record.cast_const().cast(), length as u32) } != 0 {
        count(Counter::OpenWaitsLost);
    }
}
