//! Writing records with stacks into this CPU's ring.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_F_USER_STACK,
    btf_maps::Array,
    helpers::generated::{bpf_get_stack, bpf_get_task_stack},
};
use profiler_ebpf::{
    MAX_FRAMES, RecordHeader, RecordKind, Ring,
    record::{RECORD_BYTES, RING_BYTES, user_stack},
};

use crate::{
    atomic,
    kernel::Task,
    maps::setting,
    peer,
    task::{NO_SYSCALL, TaskSlot},
};

/// Bytes of the longest stack.
const STACK_BYTES: u32 = MAX_FRAMES as u32 * 8;

/// `BPF_MAP_TYPE_ARRAY` of rings, as the maps file declares them.
type Rings = Array<Ring, 1, { 1 << 10 }>;

/// Room for one record.
pub struct Room {
    /// The ring it is in.
    pub ring: *mut Ring,
    head: u64,
    /// Where the record goes; [`RECORD_BYTES`] may be written.
    pub record: *mut u8,
}

/// Room for a record in a CPU's ring, or none: userspace has not kept up.
#[inline(always)]
pub fn reserve(rings: &Rings, cpu: u32) -> Option<Room> {
    let ring = rings.get_ptr_mut(cpu)?;
    // SAFETY: the element lives while the program runs; `head` is written by this CPU alone, `tail` by userspace.
    let (head, tail) =
        unsafe { (ptr::read_volatile(&raw const (*ring).head), ptr::read_volatile(&raw const (*ring).tail)) };
    let bytes = u64::from(setting!(ring_bytes));
    if head.wrapping_sub(tail) + RECORD_BYTES as u64 > bytes {
        return None;
    }
    let place = (head & (bytes - 1)) as usize & (RING_BYTES - 1);
    // SAFETY: `place` is below RING_BYTES, and as many spare bytes as the longest record has stand behind.
    let record = unsafe { (&raw mut (*ring).data).cast::<u8>().add(place) };
    Some(Room { ring, head, record })
}

impl Room {
    /// Makes the record visible.
    #[inline(always)]
    pub fn submit(self, length: u64) {
        // SAFETY: within the element. Only this CPU writes `head`; the atomic exchange orders the record before it.
        unsafe { atomic::swap(&raw mut (*self.ring).head, self.head + length) };
    }
}

/// What the record is about.
#[derive(Clone, Copy)]
pub struct About {
    pub kind: RecordKind,
    pub time_ns: u64,
    /// Number of the gap; 0 for none.
    pub sequence: u64,
}

/// Fills in what every record has; the stacks' lengths are set when they are known.
#[inline(always)]
pub fn describe(record: *mut u8, about: About, task: Task, container: u32) {
    let header = record.cast::<RecordHeader>();
    // SAFETY: the record has room for a header. Rings keep records at multiples of eight bytes.
    unsafe {
        (*header).kind = about.kind as u8;
        (*header).user_stop = 0;
        (*header).reason = 0;
        (*header).user_stack = user_stack::NONE;
        (*header).time_ns = about.time_ns;
        (*header).pid = task.pid();
        (*header).tid = task.tid();
        (*header).container = container;
        (*header).syscall = -1;
        (*header).sequence = about.sequence;
    }
    task.copy_comm(header);
}

/// Fills in what gaps have besides.
#[inline(always)]
pub fn describe_gap(record: *mut u8, user_stack: u8, task: Task, slot: &TaskSlot) {
    let header = record.cast::<RecordHeader>();
    // SAFETY: as above.
    unsafe {
        (*header).reason = slot.reason as u8;
        (*header).user_stack = user_stack;
        (*header).syscall = if slot.gap_syscall == NO_SYSCALL { -1 } else { slot.gap_syscall as i32 };
        (*header).gap_start_ns = slot.gap_start_ns;
        (*header).blocked_ns = slot.gap_blocked_ns;
        (*header).runnable_self_ns = slot.gap_self_ns;
        (*header).runnable_other_ns = slot.gap_other_ns;
        (*header).throttled_ns = slot.gap_throttled_ns;
        (*header).peer.family = 0;
    }
    peer::describe(record, task, slot);
}

/// Sets the lengths.
#[inline(always)]
pub fn close(record: *mut u8, kind: RecordKind, kernel_bytes: i64, user_bytes: i64) -> u64 {
    let length = RecordKind::header_bytes(kind as u8) as u64 + positive(kernel_bytes) + positive(user_bytes);
    let header = record.cast::<RecordHeader>();
    // SAFETY: the record has room for a header.
    unsafe {
        (*header).length = length as u32;
        (*header).kernel_bytes = kernel_bytes as i32;
        (*header).user_bytes = user_bytes as i32;
    }
    length
}

#[inline(always)]
fn positive(bytes: i64) -> u64 {
    if bytes > 0 { bytes as u64 } else { 0 }
}

/// Where the stacks of a record lie.
#[inline(always)]
pub fn stacks(record: *mut u8, kind: RecordKind) -> *mut u8 {
    // SAFETY: the record has room for a header.
    unsafe { record.add(RecordKind::header_bytes(kind as u8)) }
}

/// The kernel stack that the context is in. Returns its bytes or a negative errno.
#[inline(always)]
pub fn kernel_stack(context: *mut c_void, stack: *mut u8) -> i64 {
    // SAFETY: two stacks have room there.
    unsafe { bpf_get_stack(context, stack.cast(), STACK_BYTES, 0) }
}

/// The kernel stack of another thread, which is off the CPU.
#[inline(always)]
pub fn kernel_stack_of(task: Task, stack: *mut u8) -> i64 {
    // SAFETY: as above; the task is typed.
    unsafe { bpf_get_task_stack(task.0, stack.cast(), STACK_BYTES, 0) }
}

/// The current thread's user stack, by frame pointers.
#[inline(always)]
pub fn user_stack(context: *mut c_void, stack: *mut u8) -> i64 {
    // SAFETY: at most one stack lies before, so a second one fits.
    unsafe { bpf_get_stack(context, stack.cast(), STACK_BYTES, u64::from(BPF_F_USER_STACK)) }
}
