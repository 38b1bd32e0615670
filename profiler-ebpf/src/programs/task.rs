//! What is remembered of each thread: a slot in its own task storage, so that thread ids may be reused and no map can be
//! full.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type},
    helpers::generated::bpf_task_storage_get,
};

use crate::{kernel::Task, maps::TASKS};

/// Not yet woken for the first time, or ended: no time is accounted.
pub const ABSENT: u32 = 0;
/// On a CPU.
pub const RUNNING: u32 = 1;
/// Wants a CPU.
pub const RUNNABLE: u32 = 2;
/// Waits for anything else; `reason` says for what.
pub const BLOCKED: u32 = 3;

/// No syscall.
pub const NO_SYSCALL: u32 = u32::MAX;
/// Perhaps in a syscall, but one that is not to be counted: entered before the thread was measured, or, by a forked child, not at
/// all.
pub const UNSEEN_SYSCALL: u32 = u32::MAX - 1;

/// A thread's slot. Written under the run-queue lock of the CPU the thread is on, by the thread itself, or (the settling
/// of a window's end) by the iterator, which first takes `since_ns` by compare-and-swap.
#[repr(C)]
pub struct TaskSlot {
    /// Since when the current state lasts, or from which on it is not yet accounted (CLOCK_MONOTONIC, ns).
    pub since_ns: u64,
    /// [`ABSENT`], [`RUNNING`], [`RUNNABLE`] or [`BLOCKED`].
    pub state: u32,
    /// Container index.
    pub container: u32,
    /// Address of the `css_set` that `container` was looked up for; 0 if it is to be looked up anew.
    pub css_set: u64,
    /// Syscall it is in, or [`NO_SYSCALL`], or [`UNSEEN_SYSCALL`].
    pub syscall: u32,
    /// Whether the filters let its process through.
    pub selected: u32,
    /// Where its process's mappings lie, and how many there are, as they were found last.
    pub mappings: u64,
    /// The generation in which they were found; 0 for none.
    pub mappings_generation: u32,
    pub unused: u32,
    /// When it entered that syscall.
    pub syscall_entered_ns: u64,

    /// When the current off-CPU gap began; the window's start if it began before and that part was written out.
    pub gap_start_ns: u64,
    /// Blocked time of the gap.
    pub gap_blocked_ns: u64,
    /// Runnable time of the gap behind the same container, on CPUs it has left.
    pub gap_self_ns: u64,
    /// Runnable time of the gap behind others, on CPUs it has left.
    pub gap_other_ns: u64,
    /// Throttled time of the gap, on CPUs it has left.
    pub gap_throttled_ns: u64,
    /// A `Part`: why it is or was blocked in this gap.
    pub reason: u32,
    /// Syscall that the gap was spent in, or [`NO_SYSCALL`].
    pub gap_syscall: u32,
    /// Number of gaps so far.
    pub sequence: u64,
    /// Sequence of the first gap of this syscall whose user stack sys_exit is to take; 0 for none.
    pub want_user_stack: u64,
    /// How long it took to take the user stack of this gap at the switch, in nanoseconds; 0 if it was not taken.
    pub taking_ns: u64,
    /// The user stack of this gap was to be taken with probability this / T; `u64::MAX` where sys_exit takes it.
    pub take_ns: u64,
    /// Running means of gaps outside syscalls, in nanoseconds: those that began as another thread of its process took over, and
    /// those that began as anybody else did. The first are mostly brief, the second last as long as others' slices.
    pub predicted_ns: [u64; 2],
    /// Which of the two the current gap belongs to.
    pub follower: u32,
    pub reserved: u32,

    /// When it became runnable (for the run-queue latency).
    pub runnable_ns: u64,
    /// Since when it waits on `cpu`; 0 if it was found waiting. What of it is accounted is told by `since_ns`.
    pub queued_ns: u64,
    /// The container's clock on that CPU at that time, moved on by what of the wait is accounted.
    pub queued_clock_ns: u64,
    /// The throttle clock of its run queue at that time, likewise.
    pub queued_throttled_ns: u64,
    /// The CPU it waits on.
    pub cpu: u32,
    /// [`FileKind`](crate::kernel::FileKind) of the files that `file_operations` serves.
    pub file_kind: u32,
    /// Operations of the file that it last blocked on.
    pub file_operations: u64,

    /// `utime` when last read.
    pub user_ticks_ns: u64,
    /// `stime` when last read.
    pub kernel_ticks_ns: u64,
    /// `sum_exec_runtime` as far as it is accounted.
    pub exec_ns: u64,
    /// When the slot was created with a state; equal to `since_ns` while no event has touched it.
    pub created_ns: u64,
}

/// `BPF_MAP_TYPE_TASK_STORAGE`, whose definition is not in the library. The layout is the one its other BTF maps have.
#[repr(C)]
pub struct TaskStorage {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const TaskSlot,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers are never followed; they carry the definition's types into BTF.
unsafe impl Sync for TaskStorage {}

impl TaskStorage {
    /// The definition.
    pub const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    #[inline(always)]
    fn get(&self, task: Task, flags: u64) -> Option<&'static mut TaskSlot> {
        // SAFETY: the map is a task storage and the task is typed; the kernel returns null or a slot that lives as long
        // as the task, which the caller holds. Who writes which member is told at `TaskSlot`.
        unsafe {
            bpf_task_storage_get((&raw const *self).cast_mut().cast::<c_void>(), task.0, core::ptr::null_mut(), flags)
                .cast::<TaskSlot>()
                .as_mut()
        }
    }
}

/// The slot of a thread, if it has one.
#[inline(always)]
pub fn slot_of(task: Task) -> Option<&'static mut TaskSlot> {
    TASKS.get(task, 0)
}

/// The slot of a thread, created zeroed if it has none. Allocates: never under a run-queue lock.
#[inline(always)]
pub fn create_slot(task: Task) -> Option<&'static mut TaskSlot> {
    TASKS.get(task, u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE))
}
