//! Every map, and the one way to each.
//!
//! Sizes by CPU and by container are set by userspace at load; what stands here is a placeholder.

use core::ptr;

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, Queue, RingBuf, Stack},
    macros::btf_map,
};
use profiler_ebpf::{
    Account, Control, CpuState, Event, Offsets, Ring, Settings, SyscallRow,
    settings::COUNTERS,
    syscall,
    unwind::{
        ProcessEntry, TableEntry,
        storage::{PROCESSES, SEGMENT_BYTES, SEGMENTS},
    },
};

use crate::{kernel_stack::KernelStacks, task::TaskStorage};

/// `BPF_F_MMAPABLE`: userspace reads and zeroes these in place.
const MMAPABLE: usize = 1 << 10;

/// `BPF_F_NO_PREALLOC`: room is taken by those that are there.
const NO_PREALLOC: usize = 1;

#[btf_map]
pub static ACCOUNTS: Array<Account, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static CPUS: Array<CpuState, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static CONTAINERS: HashMap<u64, u32, 1> = HashMap::new();
#[btf_map]
pub static CONTAINER_CGROUPS: Array<u64, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static CONTAINER_FREE: Queue<u32, 1> = Queue::new();
#[btf_map]
pub static CONTAINER_FILTER: Array<u8, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static SELECTED: HashMap<u32, u32, 1024> = HashMap::new();
#[btf_map]
pub static SYSCALL_INDEX: Array<u32, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static SYSCALLS: Array<SyscallRow, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static SYSCALL_FREE: Stack<u32, 1> = Stack::new();
/// Pairs of containers: many on a node that is short of CPUs, hardly any elsewhere.
#[btf_map]
pub static WAITED_BEHIND: HashMap<u64, u64, 4096, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static ON_CPU_RINGS: Array<Ring, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static OFF_CPU_RINGS: Array<Ring, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static SYSCALL_RINGS: Array<Ring, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, 524288> = RingBuf::new();
#[btf_map]
pub static COUNTERS_BY_CPU: Array<[u64; COUNTERS], 1, MMAPABLE> = Array::new();
#[btf_map]
pub static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static TASKS: TaskStorage = TaskStorage::new();
/// One value a segment.
#[repr(C, align(8))]
pub struct Segment([u8; SEGMENT_BYTES]);

#[btf_map]
pub static UNWIND_SEGMENTS: ArrayOfMaps<Array<Segment, 1, MMAPABLE>, { SEGMENTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static UNWIND_TABLES: Array<TableEntry, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static UNWIND_RULES: Array<u64, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static UNWIND_PROCESSES: HashMap<u32, ProcessEntry, { PROCESSES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static KERNEL_STACKS: Array<KernelStacks, 1> = Array::new();
#[btf_map]
pub static SCRATCH: Array<[u8; 4096], 1> = Array::new();

#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::absent();

#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    cpus: 1,
    containers: 1,
    syscall_rows: 1,
    ring_bytes: 4096,
    offcpu_threshold_ns: 1_000_000,
    hierarchy: 0,
    off_cpu: 0,
    user_stack_at_exit: 0,
    syscalls: 0,
    filter_containers: 0,
    filter_processes: 0,
    unwind: 0,
    files_struct_type: 0,
};

#[unsafe(no_mangle)]
static SYSCALL_CLASSES: [u8; syscall::SYSCALLS] = [0; syscall::SYSCALLS];

/// A constant of [`Offsets`]: known to the verifier, because the map that holds it is frozen.
macro_rules! offset {
    ($member:ident) => {
        $crate::maps::constant(&raw const $crate::maps::OFFSETS.$member)
    };
}

/// A constant of [`Settings`].
macro_rules! setting {
    ($member:ident) => {
        $crate::maps::constant(&raw const $crate::maps::SETTINGS.$member)
    };
}

pub(crate) use {offset, setting};

/// Reads a constant where it stands: the compiler must not fold in the placeholder that stands here.
#[inline(always)]
pub fn constant<T: Copy>(place: *const T) -> T {
    // SAFETY: only called with a place inside one of the statics above, which live forever and are only read.
    unsafe { ptr::read_volatile(place) }
}

/// Class byte of a syscall, 0 for a number beyond the table.
#[inline(always)]
pub fn syscall_class(number: u64) -> u8 {
    if number >= syscall::SYSCALLS as u64 {
        return 0;
    }
    // The compiler would drop the mask behind the check above, but verifiers before 6.2 do not carry a check over to
    // another copy of the register: so it must not know what it masks.
    // SAFETY: a local of this function, read where it stands.
    let index = unsafe { ptr::read_volatile(&raw const number) } as usize & (syscall::SYSCALLS - 1);
    // SAFETY: the index was just masked to the table's length.
    let place = unsafe { (&raw const SYSCALL_CLASSES).cast::<u8>().add(index) };
    constant(place)
}

/// Address of the operations that timers' files have; 0 if unknown.
#[inline(always)]
pub fn timer_operations() -> u64 {
    // SAFETY: a looked-up element stays valid while the program runs; the word is stored whole.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe { ptr::read_volatile(&raw const (*control).timer_operations) })
}

/// The generation of what is known of processes' mappings.
#[inline(always)]
pub fn mappings_generation() -> u32 {
    // SAFETY: as above.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe { ptr::read_volatile(&raw const (*control).mappings_generation) })
}

/// The window word that is in force.
#[inline(always)]
pub fn window() -> u64 {
    match CONTROL.get_ptr(0) {
        // SAFETY: a looked-up element stays valid while the program runs; userspace stores the word whole.
        Some(control) => unsafe { ptr::read_volatile(&raw const (*control).window) },
        None => 0,
    }
}
