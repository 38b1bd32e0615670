//! A thread becomes runnable: its blocked time ends, and its wait for a CPU begins. Runs under the lock of the run queue
//! that the thread is put on, so that CPU's clock stands still.

use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, macros::btf_tracepoint, programs::BtfTracePointContext};
use profiler_ebpf::Counter;

use crate::{
    clock, container,
    counter::count,
    kernel::Task,
    task::{self, NO_SYSCALL, TaskSlot},
    wait,
    window::{self, Window},
};

/// `sched_wakeup(struct task_struct *p)`
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(context: BtfTracePointContext) -> i32 {
    wake(Task(context.arg(0)));
    0
}

/// `sched_wakeup_new(struct task_struct *p)`: the first wake-up of a new thread, where its life begins.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(context: BtfTracePointContext) -> i32 {
    wake(Task(context.arg(0)));
    0
}

#[inline(always)]
fn wake(task: Task) {
    let Some(slot) = task::slot_of(task) else {
        count(Counter::SwitchNoSlot);
        return;
    };
    // A thread that wakes itself, or was woken before it left the CPU, never blocked.
    if slot.state == task::RUNNING || slot.state == task::RUNNABLE {
        return;
    }
    let cpu = task.cpu();
    let Some(state) = clock::cpu_state(cpu) else { return };
    let now_ns = clock::now(state, task.queue_clock_ns());
    if slot.state == task::BLOCKED {
        if container::is_wanted(slot) {
            end_block(slot, window::of(state), now_ns);
        }
    } else {
        begin_life(slot, task, now_ns);
    }
    slot.state = task::RUNNABLE;
    slot.since_ns = now_ns;
    slot.runnable_ns = now_ns;
    let clock_ns = clock::read(state, cpu, slot.container, now_ns);
    wait::queue(slot, cpu, now_ns, clock_ns, task.throttled_ns());
}

#[inline(always)]
fn end_block(slot: &mut TaskSlot, window: Window, now_ns: u64) {
    // SAFETY: the helper has no preconditions. Interrupts are off, so the waker's CPU is this one until the end.
    let here = unsafe { bpf_get_smp_processor_id() };
    window::account(window::end_state(slot, window, now_ns), here, slot.container, slot.reason);
    slot.gap_blocked_ns = now_ns.saturating_sub(slot.gap_start_ns);
}

#[inline(always)]
fn begin_life(slot: &mut TaskSlot, task: Task, now_ns: u64) {
    container::refresh(slot, task);
    slot.gap_start_ns = now_ns;
    slot.gap_blocked_ns = 0;
    slot.gap_self_ns = 0;
    slot.gap_other_ns = 0;
    slot.gap_throttled_ns = 0;
    slot.gap_syscall = NO_SYSCALL;
    slot.take_ns = u64::MAX;
    slot.sequence += 1;
}
