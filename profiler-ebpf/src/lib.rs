//! The contract between kernel programs and userspace: keys, values and constants that both sides must agree on, and
//! nothing else. Every struct is `#[repr(C)]` without padding that either side would have to guess; sizes are asserted.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::inline_always,
    reason = "a BPF call passes five arguments at most and the verifier follows a program whole, so helpers are inlined"
)]

pub mod account;
pub mod clock;
pub mod event;
pub mod histogram;
pub mod member;
pub mod record;
pub mod settings;
pub mod syscall;
pub mod unwind;

pub use account::{Account, CpuState, LedgerRow, Part, SyscallRow};
pub use event::{Event, EventKind, EventWithPath};
pub use member::{Member, Pointer};
pub use record::{RecordHeader, RecordKind, Ring};
pub use settings::{Control, Counter, Offsets, Settings};

/// Frames of one stack that the kernel walks, at most; user stacks walked by tables hold [`unwind::USER_FRAMES`].
pub const MAX_FRAMES: usize = 127;

/// Length of a thread's name in the kernel (`TASK_COMM_LEN`), the final NUL included.
pub const COMM_BYTES: usize = 16;

/// Container index that stands for an idle CPU.
pub const CONTAINER_IDLE: u32 = 0;
/// Container index of kernel threads.
pub const CONTAINER_KERNEL: u32 = 1;
/// Container index of whatever came when all others were taken; counted in [`Counter::ContainersExhausted`].
pub const CONTAINER_OVERFLOW: u32 = 2;
/// First container index that stands for one cgroup.
pub const CONTAINER_FIRST: u32 = 3;

/// Names of the maps, as both sides call them.
pub mod map {
    /// `Account` by (CPU, container).
    pub const ACCOUNTS: &str = "ACCOUNTS";
    /// `CpuState` by CPU.
    pub const CPUS: &str = "CPUS";
    /// Container index by cgroup id.
    pub const CONTAINERS: &str = "CONTAINERS";
    /// Cgroup id by container index.
    pub const CONTAINER_CGROUPS: &str = "CONTAINER_CGROUPS";
    /// Container indices that are free.
    pub const CONTAINER_FREE: &str = "CONTAINER_FREE";
    /// One byte of [`crate::settings::filter`] by container index.
    pub const CONTAINER_FILTER: &str = "CONTAINER_FILTER";
    /// Process ids that the user selected.
    pub const SELECTED: &str = "SELECTED";
    /// `SyscallRow` number plus one by (container, syscall).
    pub const SYSCALL_INDEX: &str = "SYSCALL_INDEX";
    /// `SyscallRow` by (generation, number).
    pub const SYSCALLS: &str = "SYSCALLS";
    /// Numbers of `SyscallRow`s that are free.
    pub const SYSCALL_FREE: &str = "SYSCALL_FREE";
    /// Nanoseconds by (waiter, runner) container.
    pub const WAITED_BEHIND: &str = "WAITED_BEHIND";
    /// Stacks found on a CPU, one ring a CPU.
    pub const ON_CPU_RINGS: &str = "ON_CPU_RINGS";
    /// Off-CPU gaps with their kernel stacks, one ring a CPU.
    pub const OFF_CPU_RINGS: &str = "OFF_CPU_RINGS";
    /// User stacks taken on the way out of a syscall, one ring a CPU.
    pub const SYSCALL_RINGS: &str = "SYSCALL_RINGS";
    /// Kernel stacks that each CPU has seen threads block in; only the programs look at them.
    pub const KERNEL_STACKS: &str = "KERNEL_STACKS";
    /// Life of processes and cgroups.
    pub const EVENTS: &str = "EVENTS";
    /// `settings::COUNTERS` numbers a CPU.
    pub const COUNTERS: &str = "COUNTERS_BY_CPU";
    /// Memory of unwind tables and mappings: an array of maps.
    pub const UNWIND_SEGMENTS: &str = "UNWIND_SEGMENTS";
    /// `unwind::TableEntry` by number.
    pub const UNWIND_TABLES: &str = "UNWIND_TABLES";
    /// `unwind::Rule` by index.
    pub const UNWIND_RULES: &str = "UNWIND_RULES";
    /// `unwind::ProcessEntry` by process id.
    pub const UNWIND_PROCESSES: &str = "UNWIND_PROCESSES";
    /// The one `Control`.
    pub const CONTROL: &str = "CONTROL";
}
