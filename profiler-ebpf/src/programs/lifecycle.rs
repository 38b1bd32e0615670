//! Threads are born and become other programs.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use profiler_ebpf::{CONTAINER_KERNEL, Counter, Event, EventKind};

use crate::{
    container,
    counter::count,
    kernel::Task,
    maps::{EVENTS, SELECTED, setting},
    task::{self, NO_SYSCALL, TaskSlot, UNSEEN_SYSCALL},
    unwind,
};

/// How events are handed over: userspace looks for them now and then, and is not woken.
pub const QUIETLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// `task_newtask(struct task_struct *task, unsigned long clone_flags)`, the end of every way to make a thread, io_uring's and vhost's
/// workers included (of which `sched_process_fork` does not tell): no run-queue lock is held here, so this is where the thread's slot
/// is made. It is called by whoever makes the thread.
#[btf_tracepoint(function = "task_newtask")]
pub fn task_newtask(context: BtfTracePointContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    let (parent, child) = (Task(unsafe { bpf_get_current_task_btf() }), Task(context.arg(0)));
    if child.tid() == 0 {
        // The idle thread of a CPU that comes online.
        return 0;
    }
    let inherited = task::slot_of(parent).map_or(0, |slot| slot.selected);
    debug!(&context, "fork: {} begins {}", parent.tid(), child.tid());
    unwind::inherit(parent, child);
    match task::create_slot(child) {
        Some(slot) => initialize(slot, child, inherited),
        None => count(Counter::SlotNotCreated),
    }
    0
}

/// Fills a new slot. The thread's state is left absent.
#[inline(always)]
pub fn initialize(slot: &mut TaskSlot, task: Task, inherited: u32) {
    slot.syscall = UNSEEN_SYSCALL;
    slot.gap_syscall = NO_SYSCALL;
    slot.take_ns = u64::MAX;
    slot.user_ticks_ns = task.user_ticks_ns();
    slot.exec_ns = task.exec_ns();
    slot.kernel_ticks_ns = task.kernel_ticks_ns();
    slot.selected = inherited;
    if setting!(filter_processes) != 0 && inherited == 0 {
        // SAFETY: only whether there is an element is looked at.
        slot.selected = u32::from(unsafe { SELECTED.get(task.pid()) }.is_some());
    }
    if task.is_kernel_thread() {
        slot.container = CONTAINER_KERNEL;
    } else {
        slot.css_set = task.css_set();
        slot.container = container::index_of(task.cgroup_id());
    }
}

/// Makes the slot of the current thread, for which none could be made when it was born (the kernel's allocator may run dry
/// for a moment in a storm of forks).
#[inline(never)]
pub fn adopt(task: Task) -> Option<&'static mut TaskSlot> {
    let Some(slot) = task::create_slot(task) else {
        count(Counter::SlotNotCreated);
        return None;
    };
    initialize(slot, task, 0);
    // SAFETY: the helper has no preconditions.
    slot.since_ns = unsafe { bpf_ktime_get_ns() };
    slot.state = task::RUNNING;
    Some(slot)
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(context: BtfTracePointContext) -> i32 {
    let task = Task(context.arg(0));
    if let Some(slot) = task::slot_of(task) {
        // The address space that its gaps were spent in is gone.
        slot.want_user_stack = 0;
        slot.mappings_generation = 0;
    }
    unwind::forget(task);
    debug!(&context, "exec: {}", task.pid());
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::EventsRingFull);
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    entry.write(Event { kind: EventKind::Exec as u32, pid: task.pid(), time_ns, cgroup: 0 });
    entry.submit(QUIETLY);
    0
}

/// The pointer that an iterator passes for a thread, typed.
#[inline(always)]
pub fn typed(task: *mut c_void) -> Task {
    Task(task.cast())
}
