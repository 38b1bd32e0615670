//! Records with stacks, and the rings they travel in: one ring a CPU and context, written by that CPU alone and read
//! through mmap, so neither side takes a lock or makes a call.

use core::mem::offset_of;

use crate::{COMM_BYTES, MAX_FRAMES, unwind::USER_FRAMES};

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A thread found on a CPU.
    OnCpu = 1,
    /// An off-CPU gap that has ended, with the kernel stack it was spent in.
    Gap = 2,
    /// A gap still open at a window's end, from the task iterator, with the user registers.
    OpenGap = 3,
    /// The user stack of a thread's gaps up to `sequence`, taken as it left the syscall they were spent in;
    /// `gap_start_ns` holds the sequence of the first of them.
    UserStackAtExit = 4,
    /// The user stack of a thread's gap `sequence`, taken as it left the CPU.
    UserStackAtSwitch = 5,
}

impl RecordKind {
    /// Bytes of the fixed part that records of a kind have: what the programs do not write costs them no memory.
    #[inline(always)]
    pub const fn header_bytes(kind: u8) -> usize {
        if kind == Self::Gap as u8 || kind == Self::OpenGap as u8 { HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }
}

/// Where a gap's user stack comes from.
pub mod user_stack {
    /// There is none: a kernel thread, or not asked for.
    pub const NONE: u8 = 0;
    /// A `UserStackAtExit` record follows when the thread leaves its syscall.
    pub const AT_EXIT: u8 = 1;
    /// A `UserStackAtSwitch` record with the same sequence was written before.
    pub const AT_SWITCH: u8 = 2;
    /// It was not taken: the gap was expected to be shorter than it was.
    pub const NOT_TAKEN: u8 = 3;
}

/// Bytes of a peer's address; a longer UNIX path is cut.
pub const ADDRESS_BYTES: usize = 56;

/// The other end of the socket that a gap was spent waiting on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// `AF_UNIX`, `AF_INET` or `AF_INET6`; 0 for none.
    pub family: u16,
    /// Port, in network order.
    pub port: u16,
    /// Bytes of the address; of a UNIX path also what was cut.
    pub length: u32,
    /// The address in network order, or the path.
    pub address: [u8; ADDRESS_BYTES],
}

/// The fixed part of every record; its kernel frames and then its user frames (leaf first, 8 bytes each) follow. Records that are not
/// of a gap end before [`Self::blocked_ns`]: see [`RecordKind::header_bytes`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the record in bytes with its frames, a multiple of 8.
    pub length: u32,
    /// A [`RecordKind`].
    pub kind: u8,
    /// Why the walk of the user stack ended: a [`crate::unwind::Stop`].
    pub user_stop: u8,
    /// A [`crate::account::Part`] of the blocked time; meaningless where `blocked_ns` is 0.
    pub reason: u8,
    /// One of [`user_stack`].
    pub user_stack: u8,
    /// When it was written (CLOCK_MONOTONIC, ns).
    pub time_ns: u64,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Container index.
    pub container: u32,
    /// Syscall number, or -1.
    pub syscall: i32,
    /// Bytes of kernel frames, or a negative errno.
    pub kernel_bytes: i32,
    /// Bytes of user frames, or a negative errno.
    pub user_bytes: i32,
    /// Name of the thread.
    pub comm: [u8; COMM_BYTES],
    /// Number of this gap in its thread.
    pub sequence: u64,
    /// When the gap began (CLOCK_MONOTONIC, ns).
    pub gap_start_ns: u64,
    /// Its blocked time in nanoseconds.
    pub blocked_ns: u64,
    /// Its runnable time behind the same container in nanoseconds.
    pub runnable_self_ns: u64,
    /// Its runnable time behind anybody else in nanoseconds.
    pub runnable_other_ns: u64,
    /// Its throttled time in nanoseconds.
    pub throttled_ns: u64,
    /// User instruction pointer (open gaps only).
    pub ip: u64,
    /// User stack pointer (open gaps only).
    pub sp: u64,
    /// User frame pointer (open gaps only).
    pub fp: u64,
    /// Whom it waited for (gaps on sockets only).
    pub peer: Peer,
}

/// Bytes of a gap's fixed part.
pub const HEADER_BYTES: usize = size_of::<RecordHeader>();

/// Bytes of any other record's fixed part.
pub const SHORT_HEADER_BYTES: usize = offset_of!(RecordHeader, blocked_ns);

/// Bytes of the longest record.
pub const RECORD_BYTES: usize = HEADER_BYTES + (MAX_FRAMES + USER_FRAMES) * 8;

/// Bytes in which the walk of a record's user stack keeps its state.
pub const WALK_BYTES: usize = 448;

/// Bytes of a ring's data; a smaller power of two may be used ([`crate::Settings::ring_bytes`]).
pub const RING_BYTES: usize = 1 << 19;

/// A ring of records. A record begins at `head` modulo the ring's size and is never split: what does not fit before the
/// end runs on into the spare bytes behind it, and the bytes it would have had at the beginning stay unused.
#[repr(C, align(64))]
pub struct Ring {
    /// Bytes ever written, by the kernel. Stored after the record it makes visible.
    pub head: u64,
    /// Non-zero while a record is being written, where that can be preempted.
    pub busy: u64,
    /// Keeps the two ends on cache lines of their own.
    pub reserved: [u64; 6],
    /// Bytes ever read, by userspace.
    pub tail: u64,
    /// As above.
    pub reserved_too: [u64; 7],
    /// The walk under way: beside what every record touches, so that it costs no memory that is not at hand.
    pub walk: [u64; WALK_BYTES / 8],
    /// The records.
    pub data: [u8; RING_BYTES + SPARE_BYTES],
}

/// Bytes behind a ring's end: room for the longest record, rounded up to keep the struct's alignment.
pub const SPARE_BYTES: usize = 4096;

const _: () = assert!(HEADER_BYTES == 192);
const _: () = assert!(SHORT_HEADER_BYTES == 72);
const _: () = assert!(RECORD_BYTES <= SPARE_BYTES);
