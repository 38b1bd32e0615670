//! The user stack of the current thread, walked by the tables that userspace has laid out: registers in, frames and the
//! reason for stopping out.

use core::ffi::{c_long, c_void};

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_user},
};
use profiler_ebpf::{
    RecordHeader, RecordKind, Ring,
    record::WALK_BYTES,
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
    maps::{self, UNWIND_PROCESSES, UNWIND_RULES, UNWIND_SEGMENTS, UNWIND_TABLES, setting},
    ring::{self, Room},
    task::TaskSlot,
};

/// Bytes of kernel stack that may lie before the user stack in a record.
const KERNEL_STACK_MASK: usize = 1023;
const _: () = assert!(profiler_ebpf::MAX_FRAMES * 8 <= KERNEL_STACK_MASK);
const _: () = assert!(USER_FRAMES.is_power_of_two());

/// The current thread's user stack, behind `kernel_bytes` of kernel stack in a record of a kind. Returns its bytes or a negative
/// errno.
#[inline(always)]
pub fn user_stack(context: *mut c_void, room: &Room, kind: RecordKind, kernel_bytes: i64, slot: &mut TaskSlot) -> i64 {
    let behind = if kernel_bytes > 0 { kernel_bytes as usize & KERNEL_STACK_MASK } else { 0 };
    // SAFETY: the record has room for two stacks behind its header.
    let frames = unsafe { ring::stacks(room.record, kind).add(behind) };
    if setting!(unwind) == 0 {
        return ring::user_stack(context, frames);
    }
    walk_current(room.ring, room.record, frames, slot)
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

/// Bytes of stack that are read at once: several frames' worth, in four cache lines.
const SEEN_BYTES: usize = 256;

/// The part of the current thread's own memory that was read last. One call for several frames: it costs as much as all the rest of a
/// frame.
struct UserMemory {
    start: u64,
    /// Words may begin at so many of its bytes; 0 if nothing was read.
    words: u64,
    /// Set when the end of a mapping was met: from then on no more is read than is needed.
    narrow: u64,
    bytes: [u64; SEEN_BYTES / 8 + 2],
}

/// Bytes of what is read for a frame.
const PAIR_BYTES: usize = 16;

impl UserMemory {
    /// Where the two words at an address were read to.
    #[inline(always)]
    fn pair_at(&mut self, address: u64) -> Option<*const u64> {
        let mut at = address.wrapping_sub(self.start);
        if at >= self.words || at & 7 != 0 {
            self.read(address)?;
            at = 0;
        }
        // SAFETY: the offset is masked to a word of what was asked for, and two words stand behind.
        Some(unsafe { (&raw const self.bytes).cast::<u8>().add(at as usize & (SEEN_BYTES - 8)).cast() })
    }

    #[inline(always)]
    fn read(&mut self, address: u64) -> Option<()> {
        let (bytes, from) = ((&raw mut self.bytes).cast(), address as *const c_void);
        self.start = address;
        if self.narrow == 0 {
            // SAFETY: the helper writes as many bytes as it is told, or fills with zeros and fails.
            if unsafe { bpf_probe_read_user(bytes, SEEN_BYTES as u32, from) } == 0 {
                self.words = (SEEN_BYTES - PAIR_BYTES + 1) as u64;
                return Some(());
            }
            self.narrow = 1;
        }
        // SAFETY: as above.
        let failed = unsafe { bpf_probe_read_user(bytes, PAIR_BYTES as u32, from) } != 0;
        self.words = u64::from(!failed);
        if failed { None } else { Some(()) }
    }
}

impl Memory for UserMemory {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        let place = self.pair_at(address)?;
        // SAFETY: two words can be read there.
        Some(unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn pair(&mut self, address: u64) -> Option<(u64, u64)> {
        let place = self.pair_at(address)?;
        // SAFETY: as above.
        Some(unsafe { (place.read_volatile(), place.add(1).read_volatile()) })
    }
}

/// A walk under way. It lies in a map, beside the ring's ends: of what is in a map the verifier believes nothing, so that every frame
/// looks to it like the one before. On the program's stack it would follow each of their differences.
struct Run {
    walk: Walk,
    lookup: Lookup<Maps>,
    memory: UserMemory,
    count: u32,
    stop: u32,
}

const _: () = assert!(size_of::<Run>() <= WALK_BYTES);

/// What a frame is told of the walk.
struct Way {
    run: *mut Run,
    /// Where its frames go.
    frames: *mut u8,
}

/// Not inlined: the program's own variables do not share its stack.
#[inline(never)]
fn walk_current(ring: *mut Ring, record: *mut u8, frames: *mut u8, slot: &mut TaskSlot) -> i64 {
    // SAFETY: the helper has no preconditions.
    let task = Task(unsafe { bpf_get_current_task_btf() });
    let (place, mappings) = mappings_of_thread(task, slot);
    let registers = task.registers();
    let (ip, sp, bp) = (registers.ip(), registers.sp(), registers.fp());
    // SAFETY: as many bytes as were asserted to suffice, at a multiple of eight; nobody else has them while a record is written, and any
    // bits are a value.
    let mut way = Way { run: unsafe { (&raw mut (*ring).walk).cast() }, frames };
    // SAFETY: as above.
    let run = unsafe { &mut *way.run };
    run.walk = Walk::from_registers(ip, sp, bp).with_rdi(registers.argument(0));
    run.lookup = Lookup::new(Maps, place, mappings);
    run.memory.words = 0;
    run.memory.narrow = 0;
    run.count = 1;
    run.stop = Stop::TooDeep as u32;
    if mappings == 0 {
        run.stop = Stop::NoProcess as u32;
        put(frames, 0, ip);
    } else {
        // SAFETY: the callback has the signature that the helper calls; the context outlives the call.
        unsafe { bpf_loop(USER_FRAMES as u32 / 2, two_frames as *mut c_void, (&raw mut way).cast(), 0) };
    }
    // SAFETY: as above.
    let run = unsafe { &mut *(&raw mut (*ring).walk).cast::<Run>() };
    // SAFETY: the record has room for a header.
    unsafe { (*record.cast::<RecordHeader>()).user_stop = run.stop as u8 };
    let count = run.count;
    if count > USER_FRAMES as u32 { 0 } else { i64::from(count) * 8 }
}

/// Keeps two frames and goes to the next. Returns 1 when there is none.
extern "C" fn two_frames(index: u64, context: *mut c_void) -> c_long {
    // SAFETY: the context that was given to the helper, which calls nobody else meanwhile.
    let way = unsafe { &*context.cast::<Way>() };
    // SAFETY: see where it is set.
    let run = unsafe { &mut *way.run };
    let first = index * 2;
    c_long::from(one_frame(run, way.frames, first, first == 0) || one_frame(run, way.frames, first + 1, false))
}

/// Keeps a frame and goes to the next. Whether the walk has ended.
#[inline(always)]
fn one_frame(run: &mut Run, frames: *mut u8, index: u64, is_innermost: bool) -> bool {
    put(frames, index as usize, run.walk.frame(is_innermost));
    run.count = index as u32 + 1;
    let stop = walk::step(&mut run.walk, &mut run.memory, &mut run.lookup);
    if stop == GO_ON {
        return false;
    }
    run.stop = stop;
    true
}

#[inline(always)]
fn put(frames: *mut u8, index: usize, frame: u64) {
    let at = (index & (USER_FRAMES - 1)) * 8;
    // SAFETY: the record has room for USER_FRAMES behind the kernel stack; records lie at multiples of eight.
    unsafe { frames.add(at).cast::<u64>().write_volatile(frame) };
}

/// Place and number of a thread's mappings, remembered with it until anything changes.
#[inline(always)]
fn mappings_of_thread(task: Task, slot: &mut TaskSlot) -> (u32, u32) {
    let generation = maps::mappings_generation();
    // SAFETY: a word of the slot, which an interrupt on this CPU may write.
    let known = unsafe { (&raw const slot.mappings_generation).read_volatile() };
    if known == generation {
        let mappings = slot.mappings;
        return (mappings as u32, (mappings >> 32) as u32);
    }
    let (place, mappings) = mappings_of(task.pid());
    if mappings != 0 {
        // A sample that interrupts a walk on the way out of a syscall finds no generation, or one that both agree on.
        // SAFETY: as above.
        unsafe {
            (&raw mut slot.mappings_generation).write_volatile(0);
            (&raw mut slot.mappings).write_volatile(u64::from(place) | u64::from(mappings) << 32);
            (&raw mut slot.mappings_generation).write_volatile(generation);
        }
    }
    (place, mappings)
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
