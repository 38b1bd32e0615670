//! The other end of the socket that a thread waited on. Looked up only for gaps that are kept, so by the checked helper.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use profiler_ebpf::{
    Offsets, Part,
    record::{ADDRESS_BYTES, Peer, RecordHeader},
    syscall::{ARGUMENT_MASK, ARGUMENT_SHIFT, CLASS_DESCRIPTOR, CLASS_MASK, CLASS_NETWORK},
};

use crate::{
    kernel::{FileKind, Task},
    maps::{offset, syscall_class},
    task::{NO_SYSCALL, TaskSlot},
};

/// `AF_UNIX`.
const AF_UNIX: u16 = 1;
/// `AF_INET`.
const AF_INET: u16 = 2;
/// `AF_INET6`.
const AF_INET6: u16 = 10;
/// `sockaddr_un.sun_path` lies behind the family.
const SUN_PATH: u32 = 2;

/// Fills in the peer of a gap's record, if the gap was spent in a call on a socket that is still open. Waits on many
/// descriptors at once (poll, epoll) have none.
#[inline(always)]
pub fn describe(record: *mut u8, task: Task, slot: &TaskSlot) {
    if slot.reason != Part::BlockedNetwork as u32 || slot.gap_syscall == NO_SYSCALL {
        return;
    }
    let class = syscall_class(u64::from(slot.gap_syscall));
    if class & CLASS_MASK != CLASS_NETWORK && class & CLASS_MASK != CLASS_DESCRIPTOR {
        return;
    }
    let descriptor = task.registers().argument((class >> ARGUMENT_SHIFT) & ARGUMENT_MASK) & 0xffff_ffff;
    let Some(file) = task.file(descriptor) else { return };
    if file.kind(file.operations()) != FileKind::Socket {
        return;
    }
    let header = record.cast::<RecordHeader>();
    // SAFETY: the record has room for a header.
    let peer = unsafe { &mut (*header).peer };
    let socket = word(file.address(), offset!(file_private_data));
    remote(word(socket, offset!(socket_sk)), peer);
}

#[inline(always)]
fn remote(sock: u64, peer: &mut Peer) {
    let family: u16 = read(sock, offset!(sock_family));
    let (address, length) = match family {
        AF_INET => (sock + u64::from(offset!(sock_remote_ipv4)), 4),
        AF_INET6 => (sock + u64::from(offset!(sock_remote_ipv6)), 16),
        AF_UNIX => {
            let other = word(sock, offset!(unix_peer));
            let name = word(other, offset!(unix_address));
            let length: u32 = read(name, offset!(unix_address_length));
            if name == 0 || length <= SUN_PATH {
                return;
            }
            (name + u64::from(offset!(unix_address_name) + SUN_PATH), length - SUN_PATH)
        }
        _ => return,
    };
    let bytes = if length < ADDRESS_BYTES as u32 { length } else { ADDRESS_BYTES as u32 };
    // SAFETY: at most the array's length is written; the helper checks what it reads.
    let failed =
        unsafe { generated::bpf_probe_read_kernel((&raw mut peer.address).cast(), bytes, address as *const _) };
    if failed == 0 {
        peer.port = read(sock, offset!(sock_remote_port));
        peer.length = length;
        peer.family = family;
    }
}

#[inline(always)]
fn word(base: u64, offset: u32) -> u64 {
    read(base, offset)
}

/// A member, zero if it cannot be read or the kernel does not have it.
#[inline(always)]
fn read<T: Copy + Default>(base: u64, offset: u32) -> T {
    if base == 0 || offset == Offsets::ABSENT {
        return T::default();
    }
    // SAFETY: the helper checks what it reads.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.unwrap_or_default()
}
