//! Exact accounts: thread-time by container and state, syscalls by container and number.

use crate::histogram::BUCKETS;

/// Where a moment of a thread belongs. The values are positions in [`LedgerRow::parts_ns`]; what most switches add to comes
/// first, so that it lies in the row's first cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Part {
    /// On a CPU.
    Cpu = 0,
    /// On a CPU by the clock on the wall but not by the scheduler's: the hypervisor ran another machine, or (where the
    /// kernel accounts them apart) interrupts were served. A difference of two clocks: a little may be owed, as a
    /// negative number in two's complement.
    Stolen = 1,
    /// Runnable while the CPU ran anybody else or was idle.
    RunnableOther = 2,
    /// Runnable while the CPU ran the same container.
    RunnableSelf = 3,
    /// Runnable but out of CPU quota.
    Throttled = 4,
    /// Blocked in the futex family.
    BlockedLock = 5,
    /// Blocked on block I/O.
    BlockedDisk = 6,
    /// Blocked on a socket or polling descriptors.
    BlockedNetwork = 7,
    /// Sleeping until a time.
    BlockedSleep = 8,
    /// Blocked on anything else.
    BlockedOther = 9,
}

/// Number of [`Part`]s, rounded up to a power of two so that an index is bounded by a mask.
pub const PARTS: usize = 16;

/// One container's ledger on one CPU in one generation.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerRow {
    /// User time by the kernel's own ticks, in nanoseconds: only its ratio to `kernel_ticks_ns` is used.
    pub user_ticks_ns: u64,
    /// Kernel time by the kernel's own ticks, in nanoseconds.
    pub kernel_ticks_ns: u64,
    /// Switches away from a thread that blocked.
    pub voluntary: u64,
    /// Switches away from a thread that could have run on.
    pub involuntary: u64,
    /// Longest run-queue latency in nanoseconds.
    pub run_queue_max_ns: u64,
    /// Thread-nanoseconds by [`Part`].
    pub parts_ns: [u64; PARTS],
    /// Unused.
    pub reserved: [u64; 3],
    /// Run-queue latency, throttled waits included.
    pub run_queue: [u32; BUCKETS],
}

/// One container's account on one CPU. Written only by that CPU with interrupts off (by the iterator in an account that no
/// CPU has), so plain additions suffice.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// How long the container ran on the CPU since the programs were loaded, up to the end of its last slice there, in
    /// nanoseconds.
    pub clock_ns: u64,
    /// Unused.
    pub reserved: [u64; 7],
    /// The ledger by generation.
    pub ledger: [LedgerRow; 2],
}

/// Slices of CPU time that a CPU remembers, newest last; a power of two.
pub const SLICES: usize = 32;

/// A stretch of time that a CPU ran one container.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slice {
    /// When it began (CLOCK_MONOTONIC, ns).
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Which container ran.
    pub container: u32,
    /// Unused.
    pub reserved: u32,
}

/// What a CPU is doing, and has just done.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuState {
    /// Since when the current thread runs (CLOCK_MONOTONIC, ns).
    pub running_since_ns: u64,
    /// Container of the current thread.
    pub running: u32,
    /// Number of slices ever ended; the next goes to this modulo [`SLICES`].
    pub slices_ended: u32,
    /// State of this CPU's random numbers; never 0.
    pub random: u64,
    /// The window in force, as [`crate::Control::join`] makes it: the same word for every CPU, kept where it is at hand.
    pub window: u64,
    /// What CLOCK_MONOTONIC is ahead of the clock of this CPU's run queue, in nanoseconds (modulo 2^64).
    pub ahead_ns: u64,
    /// When the two were compared last, by the run queue's clock; 0 if never.
    pub compared_ns: u64,
    /// Unused.
    pub reserved: [u64; 2],
    /// The last slices.
    pub slices: [Slice; SLICES],
}

/// Errno values counted apart: 1 to 133, and one for the kernel-internal restart codes.
pub const ERRNOS: usize = 136;
/// Position of `ERESTARTSYS` and its kin (512 and above) among the errnos.
pub const ERRNO_RESTART: u32 = 134;
/// Position of everything else.
pub const ERRNO_OTHER: u32 = 135;

/// One container's account of one syscall in one generation. Written from every CPU, by atomic additions.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyscallRow {
    /// Summed latency in nanoseconds.
    pub total_ns: u64,
    /// Longest latency in nanoseconds.
    pub max_ns: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Calls that returned without having begun (refused by seccomp, skipped by a tracer): in no bucket of `latency`.
    pub skipped: u64,
    /// Latency.
    pub latency: [u32; BUCKETS],
    /// Failed calls by errno.
    pub errors: [u32; ERRNOS],
}

const _: () = assert!(size_of::<LedgerRow>() == 832);
const _: () = assert!(size_of::<Account>() == 64 + 2 * 832);
const _: () = assert!(size_of::<CpuState>() == 64 + SLICES * 24);
const _: () = assert!(size_of::<SyscallRow>() == 1216);
