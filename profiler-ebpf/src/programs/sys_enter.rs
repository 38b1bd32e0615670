//! A thread enters a syscall.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_ebpf::syscall::{COMPAT, SYSCALLS};

use crate::{container, kernel::Task, task};

/// `sys_enter(struct pt_regs *regs, long id)`
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(context: BtfTracePointContext) -> i32 {
    let number: u64 = context.arg(1);
    enter(number);
    0
}

#[inline(always)]
fn enter(number: u64) {
    // SAFETY: the helper has no preconditions.
    let task = Task(unsafe { bpf_get_current_task_btf() });
    // A thread without a slot is counted when the call returns.
    let Some(slot) = task::slot_of(task) else { return };
    if !container::is_wanted(slot) {
        return;
    }
    slot.syscall = if number >= SYSCALLS as u64 || task.in_compat_syscall() { COMPAT } else { number as u32 };
    // SAFETY: the helper has no preconditions. Read last, so that the time above is not counted.
    slot.syscall_entered_ns = unsafe { bpf_ktime_get_ns() };
}
