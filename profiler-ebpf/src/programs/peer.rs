//! The other end of the socket that a thread waited on. Looked up only for gaps that are kept, so by the checked helper.

use aya_ebpf::helpers::generated;
use profiler_ebpf::{
    Member, Part, Pointer,
    record::{ADDRESS_BYTES, Peer, RecordHeader},
    syscall::{ARGUMENT_MASK, ARGUMENT_SHIFT, CLASS_DESCRIPTOR, CLASS_MASK, CLASS_NETWORK},
};

use crate::{
    kernel::{FileKind, Loaded, Task, probe, probe_pointer},
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
    if file.kind() != FileKind::Socket {
        return;
    }
    let header = record.cast::<RecordHeader>();
    // SAFETY: the record has room for a header.
    let peer = unsafe { &mut (*header).peer };
    let socket = follow(file.address(), offset!(file_private_data));
    remote(follow(socket, offset!(socket_sk)), peer);
}

#[inline(always)]
fn remote(sock: u64, peer: &mut Peer) {
    let family = read(sock, offset!(sock_family));
    let length = match family {
        AF_INET => copy::<4>(sock + u64::from(offset!(sock_remote_ipv4)), peer),
        AF_INET6 => copy::<16>(sock + u64::from(offset!(sock_remote_ipv6)), peer),
        AF_UNIX => {
            let name = follow(follow(sock, offset!(unix_peer)), offset!(unix_address));
            let length = read(name, offset!(unix_address_length));
            let path = name + u64::from(offset!(unix_address_name) + SUN_PATH);
            // What lies behind a short path is cut off by its length.
            if name == 0 || length <= SUN_PATH || copy::<ADDRESS_BYTES>(path, peer) == 0 {
                return;
            }
            length - SUN_PATH
        }
        _ => return,
    };
    peer.port = read(sock, offset!(sock_remote_port));
    peer.length = length;
    peer.family = family;
}

/// Copies an address of a constant length (which older verifiers need) and returns that; 0 if it cannot be read.
#[inline(always)]
fn copy<const BYTES: usize>(address: u64, peer: &mut Peer) -> u32 {
    // SAFETY: no more than the array's length is written; the helper checks what it reads.
    let failed =
        unsafe { generated::bpf_probe_read_kernel((&raw mut peer.address).cast(), BYTES as u32, address as *const _) };
    if failed == 0 { BYTES as u32 } else { 0 }
}

/// A pointer, zero if it cannot be read or the kernel does not have it.
#[inline(always)]
fn follow(base: u64, member: Member<Pointer>) -> u64 {
    if base == 0 || member.is_absent() { 0 } else { probe_pointer(base, member) }
}

/// A member, zero if it cannot be read or the kernel does not have it.
#[inline(always)]
fn read<T: Loaded>(base: u64, member: Member<T>) -> T {
    if base == 0 || member.is_absent() { T::default() } else { probe(base, member) }
}
