//! A thread enters a syscall.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_ebpf::syscall::{COMPAT, SYSCALLS};

use crate::{
    container,
    kernel::Task,
    lifecycle,
    task::{self, UNSEEN_SYSCALL},
};

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
    let slot = match task::slot_of(task) {
        Some(slot) => slot,
        // A thread without a slot is counted when the call returns.
        None => match lifecycle::adopt(task) {
            Some(slot) => slot,
            None => return,
        },
    };
    if !container::is_wanted(slot) {
        // The filter may let its container through before the call returns.
        slot.syscall = UNSEEN_SYSCALL;
        return;
    }
    slot.syscall = number_of(task, number);
    // SAFETY: the helper has no preconditions. Read last, so that the time above is not counted.
    slot.syscall_entered_ns = unsafe { bpf_ktime_get_ns() };
}

/// The number that a call is counted under.
#[inline(always)]
pub fn number_of(task: Task, number: u64) -> u32 {
    if number >= SYSCALLS as u64 || task.in_compat_syscall() { COMPAT } else { number as u32 }
}
