//! A sampling event fires: which code is on this CPU right now.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::perf_event,
    programs::PerfEventContext,
};
use profiler_ebpf::{Counter, RecordKind};

use crate::{
    container,
    counter::count,
    kernel::Task,
    maps::ON_CPU_RINGS,
    ring::{self, About},
    task, unwind,
};

/// Overflow of a `cpu-clock` event, in the timer interrupt of its CPU.
#[perf_event]
pub fn cpu_clock(context: PerfEventContext) -> u32 {
    sample(&context);
    0
}

/// Whether the event interrupted code outside the kernel: the low bits of the code segment are the privilege level.
#[inline(always)]
fn in_user_mode(context: &PerfEventContext) -> bool {
    // SAFETY: the context lives while the program runs. Registers in it are loaded whole; a narrower load, which the compiler might
    // make of an ordinary one, is refused.
    unsafe { (&raw const (*context.ctx).regs.cs).read_volatile() & 3 != 0 }
}

#[inline(always)]
fn sample(context: &PerfEventContext) {
    // SAFETY: the helpers have no preconditions.
    let (task, cpu, now_ns) =
        unsafe { (Task(bpf_get_current_task_btf()), bpf_get_smp_processor_id(), bpf_ktime_get_ns()) };
    if task.tid() == 0 {
        count(Counter::SamplesIdle);
        return;
    }
    let Some(slot) = task::slot_of(task) else {
        count(Counter::SamplesNoSlot);
        return;
    };
    if !container::is_wanted(slot) {
        count(Counter::SamplesFiltered);
        return;
    }
    let Some(room) = ring::reserve(&ON_CPU_RINGS, cpu) else {
        count(Counter::SamplesRingFull);
        return;
    };
    let about = About { kind: RecordKind::OnCpu, time_ns: now_ns, sequence: 0 };
    ring::describe(room.record, about, task, slot.container);
    // The helper would return nothing, and clear all the room for it.
    let stacks = ring::stacks(room.record, about.kind);
    let kernel_bytes = if in_user_mode(context) { 0 } else { ring::kernel_stack(context.as_ptr(), stacks) };
    let user_bytes = if task.has_user_stack() {
        unwind::user_stack(context.as_ptr(), &room, about.kind, kernel_bytes, slot)
    } else {
        0
    };
    let length = ring::close(room.record, about.kind, kernel_bytes, user_bytes);
    room.submit(length);
    count(Counter::SamplesKept);
}
