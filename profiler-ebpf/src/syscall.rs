//! What blocking in a syscall means, as a byte a syscall that userspace fills for the running architecture.

/// Syscall numbers known; larger ones are folded into the last, which also holds 32-bit callers' calls.
pub const SYSCALLS: usize = 512;

/// Number that stands for calls made through another architecture's table.
pub const COMPAT: u32 = SYSCALLS as u32 - 1;

/// Mask of the class within a syscall's byte.
pub const CLASS_MASK: u8 = 0x0f;
/// Anything else: pipes, children, signals.
pub const CLASS_OTHER: u8 = 0;
/// Futex family.
pub const CLASS_LOCK: u8 = 1;
/// Sleeps.
pub const CLASS_SLEEP: u8 = 2;
/// Socket calls.
pub const CLASS_NETWORK: u8 = 3;
/// Depends on the descriptor in an argument.
pub const CLASS_DESCRIPTOR: u8 = 4;
/// Polls as many descriptors as an argument says: sleeps when that is 0.
pub const CLASS_POLL: u8 = 5;
/// Files' metadata and syncing: disk when uninterruptible.
pub const CLASS_FILE: u8 = 6;

/// Position of the argument that `CLASS_DESCRIPTOR` and `CLASS_POLL` look at: 0, 1 or 2.
pub const ARGUMENT_SHIFT: u8 = 4;
/// Mask of that position, shifted down.
pub const ARGUMENT_MASK: u8 = 0x3;

/// Set where the result is a number of bytes moved.
pub const MOVES_BYTES: u8 = 0x80;
