//! A CPU passes from one thread to the next: the moment that ends one state of each and begins another.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_ebpf::{
    CONTAINER_IDLE, CONTAINER_OVERFLOW, Counter, CpuState, LedgerRow, Part, RecordKind,
    account::{SLICES, Slice},
    histogram::{self, BUCKETS},
    record::user_stack,
};

use crate::{
    account, clock, container,
    counter::count,
    kernel::{Task, is_dead},
    kernel_stack,
    maps::{OFF_CPU_RINGS, setting},
    ring::{self, About},
    task::{self, NO_SYSCALL, TaskSlot},
    unwind, wait,
    window::{self, Waited, Window},
};

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, ...)`
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let preempted: u64 = context.arg(0);
    switch(context.as_ptr(), preempted & 1 != 0, Task(context.arg(1)), Task(context.arg(2)));
    0
}

/// When and where an event happens.
#[derive(Clone, Copy)]
struct Moment {
    window: Window,
    cpu: u32,
    now_ns: u64,
    /// The same moment by the clock of the CPU's run queue, where that is known.
    queue_ns: Option<u64>,
}

/// Who leaves the CPU, and who takes over.
#[derive(Clone, Copy)]
struct Threads {
    leaves: Task,
    follows: Task,
}

#[inline(always)]
fn switch(context: *mut c_void, preempted: bool, previous: Task, next: Task) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(state) = clock::cpu_state(cpu) else { return };
    let queue_ns = previous.queue_clock_ns();
    let now_ns = clock::now(state, queue_ns);
    let moment = Moment { window: window::of(state), cpu, now_ns, queue_ns };
    end_slice(state, cpu, now_ns);
    if previous.tid() != 0 {
        match task::slot_of(previous) {
            Some(slot) => {
                let threads = Threads { leaves: previous, follows: next };
                leave(context, state, slot, threads, preempted, moment);
            }
            None => count(Counter::SwitchNoSlot),
        }
    }
    state.running = if next.tid() == 0 {
        CONTAINER_IDLE
    } else {
        match task::slot_of(next) {
            Some(slot) => {
                arrive(state, slot, next, moment);
                slot.container
            }
            None => {
                count(Counter::SwitchNoSlot);
                CONTAINER_OVERFLOW
            }
        }
    };
    state.running_since_ns = now_ns;
}

/// The slice that ends advances its container's clock and is remembered for those who waited behind it.
#[inline(always)]
fn end_slice(state: &mut CpuState, cpu: u32, now_ns: u64) {
    let since_ns = state.running_since_ns;
    if since_ns == 0 {
        return;
    }
    if let Some(account) = account::of(cpu, state.running) {
        account.clock_ns += now_ns.saturating_sub(since_ns);
    }
    // A container's threads often follow one another: their slices are remembered as one.
    let (running, ended) = (state.running, state.slices_ended);
    let last = slice(state, ended.wrapping_sub(1));
    if last.container == running && last.end_ns == since_ns {
        last.end_ns = now_ns;
    } else {
        let next = slice(state, ended);
        next.start_ns = since_ns;
        next.end_ns = now_ns;
        next.container = running;
        state.slices_ended = ended.wrapping_add(1);
    }
    // Settled: a clock read from here on must not count this slice again.
    state.running_since_ns = now_ns;
}

#[inline(always)]
fn slice(state: &mut CpuState, number: u32) -> &mut Slice {
    let place = (number as usize) & (SLICES - 1);
    // SAFETY: the index is masked to the array's length.
    unsafe { &mut *(&raw mut state.slices).cast::<Slice>().add(place) }
}

/// A thread leaves the CPU: its running time ends, and a gap begins.
#[inline(always)]
fn leave(
    context: *mut c_void,
    state: &mut CpuState,
    slot: &mut TaskSlot,
    threads: Threads,
    preempted: bool,
    moment: Moment,
) {
    let Moment { cpu, now_ns, .. } = moment;
    let task = threads.leaves;
    let wanted = container::is_wanted(slot);
    let task_state = task.state();
    let runnable = preempted || task_state == 0;
    if wanted && slot.state == task::RUNNING {
        account_running(slot, task, moment, runnable);
    }
    container::refresh(slot, task);
    slot.since_ns = now_ns;
    if is_dead(task_state) {
        slot.state = task::ABSENT;
        return;
    }
    slot.gap_start_ns = now_ns;
    slot.gap_blocked_ns = 0;
    slot.gap_self_ns = 0;
    slot.gap_other_ns = 0;
    slot.gap_throttled_ns = 0;
    slot.sequence += 1;
    slot.take_ns = u64::MAX;
    if runnable {
        slot.state = task::RUNNABLE;
        slot.runnable_ns = now_ns;
        slot.reason = Part::RunnableOther as u32;
        slot.gap_syscall = NO_SYSCALL;
        let clock_ns = clock::read(state, cpu, slot.container, now_ns);
        wait::queue(slot, cpu, now_ns, clock_ns, task.throttled_ns());
    } else {
        slot.state = task::BLOCKED;
        if wanted {
            let registers = task.registers();
            slot.gap_syscall = wait::syscall_of(registers);
            slot.reason = wait::reason(slot, task, registers, task_state) as u32;
        }
    }
    if setting!(off_cpu) != 0 && wanted && slot.gap_syscall == NO_SYSCALL && task.has_user_stack() {
        foresee(context, state, slot, threads, cpu, now_ns);
    }
}

#[inline(always)]
fn account_running(slot: &mut TaskSlot, task: Task, moment: Moment, runnable: bool) {
    let (user_ns, kernel_ns, exec_ns) = (task.user_ticks_ns(), task.kernel_ticks_ns(), task.exec_ns());
    let ran_ns = exec_ns.wrapping_sub(slot.exec_ns);
    let stretch = window::end_state(slot, moment.window, moment.now_ns);
    if let Some(account) = account::of(moment.cpu, slot.container) {
        let row = window::account_ran(account, stretch, ran_ns);
        row.user_ticks_ns += user_ns.wrapping_sub(slot.user_ticks_ns);
        row.kernel_ticks_ns += kernel_ns.wrapping_sub(slot.kernel_ticks_ns);
        if runnable {
            row.involuntary += 1;
        } else {
            row.voluntary += 1;
        }
    }
    slot.user_ticks_ns = user_ns;
    slot.kernel_ticks_ns = kernel_ns;
    slot.exec_ns = exec_ns;
}

/// A gap outside syscalls (preempted, or in a page fault) has no sys_exit that could take its user stack, so it is taken
/// now, with a probability that depends only on how long such gaps of this thread were before and on who takes over.
#[inline(always)]
fn foresee(context: *mut c_void, state: &mut CpuState, slot: &mut TaskSlot, threads: Threads, cpu: u32, now_ns: u64) {
    let threshold_ns = setting!(offcpu_threshold_ns);
    let task = threads.leaves;
    slot.follower = u32::from(threads.follows.pid() != task.pid());
    let predicted_ns = *predicted(slot);
    let expected_ns = if predicted_ns == 0 { threshold_ns } else { predicted_ns };
    // Twice what is expected: a gap that turns out longer has no stack.
    let expected_ns = expected_ns * 2;
    slot.take_ns = if expected_ns < threshold_ns { expected_ns } else { threshold_ns };
    slot.taking_ns = 0;
    if (u64::from(clock::random(state)) * threshold_ns) >> 32 >= slot.take_ns {
        return;
    }
    take_at_switch(context, slot, task, cpu, now_ns);
}

/// Takes the user stack of a gap that begins. Not a function of its own as other rare things are: with the walker's two frames there
/// would be more stack than kernels up to 6.12 allow.
#[inline(always)]
fn take_at_switch(context: *mut c_void, slot: &mut TaskSlot, task: Task, cpu: u32, now_ns: u64) {
    let Some(room) = ring::reserve(&OFF_CPU_RINGS, cpu) else {
        count(Counter::UserStackRingFull);
        return;
    };
    let about = About { kind: RecordKind::UserStackAtSwitch, time_ns: now_ns, sequence: slot.sequence };
    ring::describe(room.record, about, task, slot.container);
    // SAFETY: the helper has no preconditions.
    let begun_ns = unsafe { bpf_ktime_get_ns() };
    let user_bytes = unwind::user_stack(context, &room, about.kind, 0, slot);
    let length = ring::close(room.record, about.kind, 0, user_bytes);
    room.submit(length);
    // SAFETY: as above.
    slot.taking_ns = unsafe { bpf_ktime_get_ns() }.saturating_sub(begun_ns) + 1;
}

/// How long gaps like the thread's current one were so far.
#[inline(always)]
fn predicted(slot: &mut TaskSlot) -> &mut u64 {
    let place = (slot.follower & 1) as usize;
    // SAFETY: the index is masked to the array's length.
    unsafe { &mut *(&raw mut slot.predicted_ns).cast::<u64>().add(place) }
}

/// A thread comes back to the CPU: its gap ends.
#[inline(always)]
fn arrive(state: &mut CpuState, slot: &mut TaskSlot, task: Task, moment: Moment) {
    let Moment { window, cpu, now_ns, .. } = moment;
    if container::is_wanted(slot) && (slot.state == task::RUNNABLE || slot.state == task::BLOCKED) {
        // One number serves both draws of this moment: each estimate is unbiased by itself.
        let random = clock::random(state);
        if slot.state == task::RUNNABLE {
            let waited = end_wait(slot, task, moment);
            let begun_ns = now_ns.saturating_sub(waited.total_ns());
            wait::name_neighbours(cpu, slot.container, begun_ns, now_ns, waited.other_ns, random);
            slot.gap_self_ns += waited.own_ns;
            slot.gap_other_ns += waited.other_ns;
            slot.gap_throttled_ns += waited.throttled_ns;
        } else {
            end_unseen_block(slot, window.generation, window.start_ns, cpu, now_ns);
        }
        keep(slot, task, cpu, now_ns, random);
    }
    slot.since_ns = now_ns;
    slot.state = task::RUNNING;
    container::refresh(slot, task);
}

/// Ends the blocked time of a thread that was woken before it had a slot: rare.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn end_unseen_block(slot: &mut TaskSlot, generation: u32, start_ns: u64, cpu: u32, now_ns: u64) {
    let stretch = window::end_state(slot, Window { generation, start_ns }, now_ns);
    window::account(stretch, cpu, slot.container, slot.reason);
    slot.gap_blocked_ns = now_ns.saturating_sub(slot.gap_start_ns);
}

#[inline(always)]
fn end_wait(slot: &mut TaskSlot, task: Task, moment: Moment) -> Waited {
    let Moment { window, cpu, now_ns, queue_ns } = moment;
    // The scheduler's own figure for this wait begins when it puts the thread on the queue, a little before or behind the
    // event that told of it. What ours is longer by, its blocked time is longer by too. Both are of the whole wait, of which
    // windows' ends may have settled a part. Where the scheduler's is longer, it began before the thread came to this CPU (one
    // that is throttled moves without leaving the queue): that part is accounted there.
    let surplus_ns = match (queue_ns, task.queued_since_ns()) {
        (Some(queue_ns), Some(since_ns)) if slot.queued_ns != 0 => {
            let whole_ns = now_ns.saturating_sub(slot.queued_ns);
            whole_ns.saturating_sub(queue_ns.saturating_sub(since_ns))
        }
        _ => 0,
    };
    let stretch = window::end_state(slot, window, now_ns);
    let seen_ns = stretch.total_ns();
    let left_ns = seen_ns.saturating_sub(surplus_ns);
    let surplus_ns = seen_ns - left_ns;
    // This CPU's slice has just ended, so its clocks are settled.
    let throttled_ns = task.throttled_ns();
    let waited = match account::of(cpu, slot.container) {
        Some(account) => {
            let waited = wait::waited(slot, left_ns, account.clock_ns, throttled_ns);
            let row = window::account_waited(account, stretch, waited);
            // What the wait is accounted shorter than it was seen goes to the part that came before it, so that the parts go on
            // to sum to the thread's lifetime.
            let before = if slot.gap_blocked_ns == 0 { Part::Stolen as u32 } else { slot.reason };
            account::add(row, before, surplus_ns);
            count_latency(row, now_ns.saturating_sub(slot.runnable_ns));
            waited
        }
        None => wait::waited(slot, left_ns, 0, throttled_ns),
    };
    if slot.gap_blocked_ns != 0 {
        slot.gap_blocked_ns += surplus_ns;
    }
    waited
}

#[inline(always)]
fn count_latency(row: &mut LedgerRow, ns: u64) {
    if ns > row.run_queue_max_ns {
        row.run_queue_max_ns = ns;
    }
    let bucket = histogram::bucket_of(ns) as usize;
    if bucket < BUCKETS {
        // SAFETY: the index was just checked.
        unsafe { *(&raw mut row.run_queue).cast::<u32>().add(bucket) += 1 };
    }
}

/// Keeps the gap with probability d / T (always from T on) and takes its kernel stack if so.
#[inline(always)]
fn keep(slot: &mut TaskSlot, task: Task, cpu: u32, now_ns: u64, random: u32) {
    if setting!(off_cpu) == 0 {
        return;
    }
    let foreseen = slot.take_ns != u64::MAX;
    if foreseen {
        forget_taking(slot);
    }
    let gap_ns = slot.gap_blocked_ns + slot.gap_self_ns + slot.gap_other_ns + slot.gap_throttled_ns;
    if foreseen {
        // Mean of the last gaps like this one, the newest weighing a quarter.
        let mean_ns = predicted(slot);
        let before_ns = if *mean_ns == 0 { gap_ns } else { *mean_ns };
        *mean_ns = before_ns - before_ns / 4 + gap_ns / 4;
    }
    if !choose(slot, gap_ns, foreseen, u64::from(random)) {
        return;
    }
    write_gap(slot, task, cpu, now_ns, foreseen);
}

/// Writes down a gap that was chosen: few are.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn write_gap(slot: &mut TaskSlot, task: Task, cpu: u32, now_ns: u64, foreseen: bool) {
    count(Counter::GapsChosen);
    let source = if foreseen {
        if slot.taking_ns != 0 { user_stack::AT_SWITCH } else { user_stack::NOT_TAKEN }
    } else if task.has_user_stack() && setting!(user_stack_at_exit) != 0 {
        if slot.want_user_stack == 0 {
            slot.want_user_stack = slot.sequence;
        }
        user_stack::AT_EXIT
    } else {
        user_stack::NONE
    };
    let Some(room) = ring::reserve(&OFF_CPU_RINGS, cpu) else {
        count(Counter::GapsRingFull);
        return;
    };
    let about = About { kind: RecordKind::Gap, time_ns: now_ns, sequence: slot.sequence };
    ring::describe(room.record, about, task, slot.container);
    ring::describe_gap(room.record, source, task, slot);
    let kernel_bytes = kernel_stack::of_blocked(task, slot, cpu, ring::stacks(room.record, about.kind));
    let length = ring::close(room.record, about.kind, kernel_bytes, 0);
    room.submit(length);
}

/// Taking the stack made the gap longer. Were that counted, gaps whose stack was taken would be chosen too often and weigh
/// too much: for short ones by a tenth.
#[inline(always)]
fn forget_taking(slot: &mut TaskSlot) {
    if slot.gap_self_ns >= slot.taking_ns {
        slot.gap_self_ns -= slot.taking_ns;
    } else if slot.gap_other_ns >= slot.taking_ns {
        slot.gap_other_ns -= slot.taking_ns;
    } else if slot.gap_blocked_ns > slot.taking_ns {
        slot.gap_blocked_ns -= slot.taking_ns;
    }
}

/// Draws with probability d / T in all, whatever was foreseen; a gap whose user stack was taken is preferred as far as
/// that is possible without favouring any stack: see docs/decisions on sampling gaps.
#[inline(always)]
fn choose(slot: &TaskSlot, gap_ns: u64, foreseen: bool, random: u64) -> bool {
    let threshold_ns = setting!(offcpu_threshold_ns);
    if gap_ns >= threshold_ns {
        return true;
    }
    if !foreseen {
        return (random * threshold_ns) >> 32 < gap_ns;
    }
    let take_ns = slot.take_ns;
    if slot.taking_ns != 0 {
        gap_ns >= take_ns || (random * take_ns) >> 32 < gap_ns
    } else {
        gap_ns > take_ns && (random * (threshold_ns - take_ns)) >> 32 < gap_ns - take_ns
    }
}
