//! A thread moves to another CPU. If it was waiting for the one it leaves, that part of its wait is settled there.

use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, macros::btf_tracepoint, programs::BtfTracePointContext};
use profiler_ebpf::Counter;

use crate::{
    account, clock, container,
    counter::count,
    kernel::Task,
    task::{self, TaskSlot},
    wait, window,
};

/// `sched_migrate_task(struct task_struct *p, int dest_cpu)`
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate_task(context: BtfTracePointContext) -> i32 {
    let task = Task(context.arg(0));
    let destination: u64 = context.arg(1);
    match task::slot_of(task) {
        Some(slot) if slot.state == task::RUNNABLE => migrate(slot, task, destination as u32),
        Some(_) => {}
        None => count(Counter::SwitchNoSlot),
    }
    0
}

#[inline(always)]
fn migrate(slot: &mut TaskSlot, task: Task, destination: u32) {
    let (Some(left), Some(joined)) = (clock::cpu_state(slot.cpu), clock::cpu_state(destination)) else { return };
    // SAFETY: the helper has no preconditions.
    let here = unsafe { bpf_get_smp_processor_id() };
    let now_ns = clock::now(left, task.queue_clock_ns());
    if container::is_wanted(slot) {
        let stretch = window::end_state(slot, window::of(left), now_ns);
        let elapsed_ns = stretch.total_ns();
        let clock_ns = clock::read(left, slot.cpu, slot.container, now_ns);
        let waited = wait::waited(slot, elapsed_ns, clock_ns, task.throttled_ns());
        if let Some(account) = account::of(here, slot.container) {
            window::account_waited(account, stretch, waited);
        }
        slot.gap_self_ns += waited.own_ns;
        slot.gap_other_ns += waited.other_ns;
        slot.gap_throttled_ns += waited.throttled_ns;
        if let Some(state) = clock::cpu_state(here) {
            let random = clock::random(state);
            let begun_ns = now_ns - elapsed_ns;
            wait::name_neighbours(slot.cpu, slot.container, begun_ns, now_ns, waited.other_ns, random);
        }
    }
    slot.since_ns = now_ns;
    let clock_ns = clock::read(joined, destination, slot.container, now_ns);
    wait::queue(slot, destination, now_ns, clock_ns, task.throttled_on_ns(destination));
}
