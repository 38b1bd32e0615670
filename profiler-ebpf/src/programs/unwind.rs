//! The user stack of the current thread, walked by the tables that userspace has laid out: registers in, frames and the
//! reason for stopping out.

use core::{
    ffi::{c_long, c_void},
    mem::MaybeUninit,
};

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_user},
};
use profiler_ebpf::{
    RecordHeader,
    record::{HEADER_BYTES, RECORD_BYTES, WALK_BYTES},
    unwind::{
        ProcessEntry, Stop, TableEntry, USER_FRAMES, Walk,
        lookup::{self, Lookup, Segments},
        stop::GO_ON,
        storage::SEGMENT_BYTES,
        walk::{self, Memory},
    },
};

use crate::{
    kernel::Task,
    maps::{UNWIND_PROCESSES, UNWIND_RULES, UNWIND_SEGMENTS, UNWIND_TABLES, setting},
    ring,
};

/// Bytes of kernel stack that may lie before the user stack in a record.
const KERNEL_STACK_MASK: usize = 1023;
const _: () = assert!(profiler_ebpf::MAX_FRAMES * 8 <= KERNEL_STACK_MASK);
const _: () = assert!(USER_FRAMES.is_power_of_two());

/// The current thread's user stack, behind `kernel_bytes` of kernel stack. Returns its bytes or a negative errno.
#[inline(always)]
pub fn user_stack(context: *mut c_void, record: *mut u8, kernel_bytes: i64) -> i64 {
    if setting!(unwind) == 0 {
        return ring::user_stack(context, record, kernel_bytes);
    }
    walk_current(record, kernel_bytes)
}

/// The maps, as the search sees them.
#[derive(Clone, Copy)]
struct Maps;

impl Segments for Maps {
    type Segment = *const u8;

    #[inline(always)]
    fn segment(&self, number: u32) -> Option<*const u8> {
        UNWIND_SEGMENTS.get_value_ptr_mut(number, &0).map(|segment| segment.cast_const().cast())
    }

    #[inline(always)]
    fn word(&self, segment: *const u8, place: u32) -> u32 {
        let offset = (place as usize * 4) & (SEGMENT_BYTES - 4);
        // SAFETY: the offset is masked to the segment; userspace changes only what nothing points to.
        unsafe { segment.add(offset).cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    fn long(&self, segment: *const u8, place: u32) -> u64 {
        let offset = (place as usize * 4) & (SEGMENT_BYTES - 8);
        // SAFETY: as above; masked to a multiple of eight.
        unsafe { segment.add(offset).cast::<u64>().read_volatile() }
    }

    #[inline(always)]
    fn table(&self, number: u32) -> Option<TableEntry> {
        let entry = UNWIND_TABLES.get_ptr(number)?;
        // SAFETY: the element lives while the program runs. The state is stored last when a table becomes ready, and nothing
        // else of the entry changes until a grace period after it no longer is.
        Some(unsafe {
            TableEntry {
                state: (&raw const (*entry).state).read_volatile(),
                directory: (&raw const (*entry).directory).read_volatile(),
                first_page: (&raw const (*entry).first_page).read_volatile(),
                pages: (&raw const (*entry).pages).read_volatile(),
            }
        })
    }

    #[inline(always)]
    fn rule(&self, index: u16) -> Option<u64> {
        // SAFETY: the element lives while the program runs; a rule never changes once a row names it.
        UNWIND_RULES.get_ptr(u32::from(index)).map(|rule| unsafe { rule.read_volatile() })
    }

    #[inline(always)]
    fn last_mapping(&self, place: u32, mappings: u32, address: u64) -> u32 {
        unwind_last_mapping(place, mappings, address)
    }

    #[inline(always)]
    fn last_row(&self, place: u32, rows: u32, low: u64) -> u16 {
        unwind_last_row(place, rows, low) as u16
    }
}

/// See [`lookup::last_mapping`]. A global function, which the verifier follows once by itself and not again for each way that
/// leads here.
#[unsafe(no_mangle)]
pub extern "C" fn unwind_last_mapping(place: u32, mappings: u32, address: u64) -> u32 {
    lookup::last_mapping(&Maps, place, mappings, address)
}

/// See [`lookup::last_row`]. As above.
#[unsafe(no_mangle)]
pub extern "C" fn unwind_last_row(place: u32, rows: u32, low: u64) -> u32 {
    u32::from(lookup::last_row(&Maps, place, rows, low))
}

/// The current thread's own memory.
struct UserMemory;

impl Memory for UserMemory {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        let mut word = MaybeUninit::<u64>::uninit();
        // SAFETY: the helper writes eight bytes, or fills with zeros and fails.
        unsafe {
            let result = bpf_probe_read_user(word.as_mut_ptr().cast(), 8, address as *const c_void);
            if result == 0 { Some(word.assume_init()) } else { None }
        }
    }

    #[inline(always)]
    fn pair(&mut self, address: u64) -> Option<(u64, u64)> {
        let mut pair = MaybeUninit::<[u64; 2]>::uninit();
        // SAFETY: as above, sixteen bytes.
        unsafe {
            let result = bpf_probe_read_user(pair.as_mut_ptr().cast(), 16, address as *const c_void);
            if result != 0 {
                return None;
            }
            let [first, second] = pair.assume_init();
            Some((first, second))
        }
    }
}

/// A walk under way. It lies behind the record that it fills: of what is in a map the verifier believes nothing, so that every
/// frame looks to it like the one before. On the program's stack it would follow each of their differences.
struct Run {
    walk: Walk,
    lookup: Lookup<Maps>,
    count: u32,
    stop: u32,
}

const _: () = assert!(size_of::<Run>() <= WALK_BYTES);

/// What a frame is told of the walk.
struct Way {
    /// The record.
    record: *mut u8,
    /// Where its user frames go.
    frames: *mut u8,
}

/// Not inlined: the program's own variables do not share its stack.
#[inline(never)]
fn walk_current(record: *mut u8, kernel_bytes: i64) -> i64 {
    // SAFETY: the helper has no preconditions.
    let task = Task(unsafe { bpf_get_current_task_btf() });
    let behind = if kernel_bytes > 0 { kernel_bytes as usize & KERNEL_STACK_MASK } else { 0 };
    let (place, mappings) = mappings_of(task.pid());
    let registers = task.registers();
    let (ip, sp, bp) = (registers.ip(), registers.sp(), registers.fp());
    // SAFETY: the record has room for a header and two stacks.
    let mut way = Way { record, frames: unsafe { record.add(HEADER_BYTES + behind) } };
    let run = run_of(record);
    run.walk = Walk::from_registers(ip, sp, bp);
    run.lookup = Lookup::new(Maps, place, mappings);
    run.count = 1;
    run.stop = Stop::TooDeep as u32;
    if mappings == 0 {
        run.stop = Stop::NoProcess as u32;
        put(&way, 0, ip);
    } else {
        // SAFETY: the callback has the signature that the helper calls; the context outlives the call.
        unsafe { bpf_loop(USER_FRAMES as u32, one_frame as *mut c_void, (&raw mut way).cast(), 0) };
    }
    let run = run_of(record);
    // SAFETY: the record has room for a header.
    unsafe { (*record.cast::<RecordHeader>()).user_stop = run.stop as u8 };
    let count = run.count;
    if count > USER_FRAMES as u32 { 0 } else { i64::from(count) * 8 }
}

/// The state of the walk that fills a record.
#[inline(always)]
fn run_of<'record>(record: *mut u8) -> &'record mut Run {
    // SAFETY: the room for a record ends in as many bytes as were asserted to suffice, at a multiple of eight; nobody else has
    // it, and any bits are a value.
    unsafe { &mut *record.add(RECORD_BYTES).cast::<Run>() }
}

/// Keeps a frame and goes to the next. Returns 1 when there is none.
extern "C" fn one_frame(index: u64, context: *mut c_void) -> c_long {
    // SAFETY: the context that was given to the helper, which calls nobody else meanwhile.
    let way = unsafe { &*context.cast::<Way>() };
    let run = run_of(way.record);
    put(way, index as usize, run.walk.frame(index == 0));
    run.count = index as u32 + 1;
    let stop = walk::step(&mut run.walk, &mut UserMemory, &mut run.lookup);
    if stop == GO_ON {
        return 0;
    }
    run.stop = stop;
    1
}

#[inline(always)]
fn put(way: &Way, index: usize, frame: u64) {
    let at = (index & (USER_FRAMES - 1)) * 8;
    // SAFETY: the record has room for USER_FRAMES behind the kernel stack; records lie at multiples of eight.
    unsafe { way.frames.add(at).cast::<u64>().write_volatile(frame) };
}

/// Place and number of a process's mappings; none if they are not known.
#[inline(always)]
fn mappings_of(pid: u32) -> (u32, u32) {
    // SAFETY: the element may be used anew for another process, which is looked at below; it is never freed meanwhile.
    let Some(entry) = (unsafe { UNWIND_PROCESSES.get(pid) }) else { return (0, 0) };
    let entry: *const ProcessEntry = entry;
    // SAFETY: as above.
    unsafe {
        let (place, mappings) =
            ((&raw const (*entry).place).read_volatile(), (&raw const (*entry).mappings).read_volatile());
        if (&raw const (*entry).pid).read_volatile() == pid { (place, mappings) } else { (0, 0) }
    }
}

/// A process was born: it has its parent's mappings until userspace says otherwise.
#[inline(always)]
pub fn inherit(parent: Task, child: Task) {
    if setting!(unwind) == 0 {
        return;
    }
    let (from, to) = (parent.pid(), child.pid());
    if from == to {
        return;
    }
    let (place, mappings) = mappings_of(from);
    if mappings == 0 {
        return;
    }
    let entry = ProcessEntry { pid: to, place, mappings, generation: 0 };
    // Without room the child is walked when userspace has heard of it; until then its stacks say so.
    UNWIND_PROCESSES.insert(to, entry, u64::from(BPF_ANY)).ok();
}

/// A process became another program: what is known of its mappings is no longer true.
#[inline(always)]
pub fn forget(task: Task) {
    if setting!(unwind) != 0 {
        // There may have been none.
        UNWIND_PROCESSES.remove(task.pid()).ok();
    }
}
