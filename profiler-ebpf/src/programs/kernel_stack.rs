//! The kernel stack of a thread that is off the CPU: compared with one that was walked before, and only walked if it differs.
//!
//! Threads block in few places, and walking a stack by the kernel's tables costs more than all the rest of a switch: each frame is a search
//! in cold memory. What the walk finds are words of the stack itself. Where a function's frame has a fixed size, the
//! return address tells where the next one lies; so a stack with the same addresses at the same distances from its
//! pointer is the same stack, and comparing it takes one load a frame. docs/decisions/0009 has the cases that this leaves.

use core::{
    ffi::{c_long, c_void},
    ptr,
};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{bpf_loop, bpf_probe_read_kernel as copy},
};

use crate::{
    kernel::Task,
    maps::{KERNEL_STACKS, offset},
    ring,
    task::{NO_SYSCALL, TaskSlot},
};

/// Stacks that a CPU remembers; a power of two.
const STACKS: usize = 64;
/// Longer than the longest stack that is remembered, in frames; a power of two.
const FRAMES: usize = 32;
/// Words of a stack that are looked through for its addresses.
const WORDS: u32 = 256;
/// Where a thread that is off the CPU has the address it goes on at: behind the six registers that the switch saves
/// (`struct inactive_task_frame`).
const FIRST_PLACE: u32 = 6;
/// Bytes between the outermost address and the user registers behind it: its own.
const TO_REGISTERS: u64 = 8;
/// One in so many stacks that differ from the remembered one replaces it; a power of two.
const REPLACE_EVERY: u32 = 4;

/// A mask that lets through the bytes of fewer addresses than there is room for.
const ADDRESSES_MASK: usize = FRAMES * 8 - 1;

/// A stack that was walked.
#[repr(C)]
pub struct Remembered {
    /// Frames; 0 if none is remembered.
    frames: u32,
    /// How many stacks differed from what stood here.
    differed: u32,
    /// While addresses are looked for: how many were found.
    found: u32,
    reserved: u32,
    /// Distance of each address from the stack pointer, in words; not of the outermost.
    places: [u8; FRAMES],
    /// The addresses, innermost first.
    addresses: [u64; FRAMES],
}

/// Those of a CPU. Its scheduler's events follow one another, so nobody else looks at them meanwhile.
#[repr(C)]
pub struct KernelStacks([Remembered; STACKS]);

impl Remembered {
    /// The one of a CPU at a place.
    #[inline(always)]
    fn at(cpu: u32, place: u32) -> Option<*mut Self> {
        let of_cpu = KERNEL_STACKS.get_ptr_mut(cpu)?.cast::<Self>();
        // SAFETY: the index is masked to the array's length.
        Some(unsafe { of_cpu.add(place as usize & (STACKS - 1)) })
    }
}

/// The kernel stack of a thread whose gap in `slot` ends on this CPU. Returns its bytes or a negative errno.
#[inline(always)]
pub fn of_blocked(task: Task, slot: &TaskSlot, cpu: u32, stack: *mut u8) -> i64 {
    // A thread that was preempted has an interrupt's frame on its stack.
    if offset!(task_stack_pointer).is_absent() || slot.gap_syscall == NO_SYSCALL {
        return ring::kernel_stack_of(task, stack);
    }
    // Whoever reads from a pipe blocks elsewhere than whoever reads from a socket.
    let place = slot.gap_syscall ^ (slot.file_operations >> 6) as u32;
    let Some(remembered) = Remembered::at(cpu, place) else { return ring::kernel_stack_of(task, stack) };
    let pointer = task.stack_pointer();
    let frames = kernel_stack_is_remembered(cpu, place, pointer) as usize;
    if frames != 0 {
        let bytes = (frames * 8) & ADDRESSES_MASK;
        // SAFETY: the addresses are as many bytes, and a stack has room for them.
        unsafe { copy(stack.cast(), bytes as u32, (&raw const (*remembered).addresses).cast()) };
        return bytes as i64;
    }
    let bytes = ring::kernel_stack_of(task, stack);
    // SAFETY: the element lives while the program runs, and only this CPU looks at it.
    let differed = unsafe { (*remembered).differed };
    // SAFETY: as above.
    unsafe { (*remembered).differed = differed.wrapping_add(1) };
    if differed & (REPLACE_EVERY - 1) == 0 && bytes > 8 && bytes < (FRAMES * 8) as i64 {
        // The compiler would drop the mask behind the check, which the verifier does not carry over to another copy of the register.
        // SAFETY: a local of this function, read where it stands.
        let length = unsafe { ptr::read_volatile(&raw const bytes) } as usize & ADDRESSES_MASK;
        // SAFETY: as above; there is room for as many.
        unsafe { copy((&raw mut (*remembered).addresses).cast(), length as u32, stack.cast()) };
        remember(remembered, task, pointer, (length / 8) as u32);
    }
    bytes
}

/// Frames of the stack remembered at a place if a thread whose stack pointer this is has the same, else 0. A global function:
/// verified once for all callers.
#[unsafe(no_mangle)]
pub extern "C" fn kernel_stack_is_remembered(cpu: u32, place: u32, pointer: u64) -> u32 {
    let Some(remembered) = Remembered::at(cpu, place) else { return 0 };
    // SAFETY: the element lives while the program runs, and only this CPU looks at it.
    let frames = unsafe { ptr::read_volatile(&raw const (*remembered).frames) };
    let mut frame = 0;
    while frame < FRAMES {
        // Who called the outermost but one is told by its own address: the entry from user mode, which may have left a gap of random
        // size between the two.
        if frame as u32 + 1 >= frames {
            return frames;
        }
        // SAFETY: as above; the index is below the arrays' length.
        let (place, address) = unsafe {
            let places = (&raw const (*remembered).places).cast::<u8>();
            let addresses = (&raw const (*remembered).addresses).cast::<u64>();
            (ptr::read_volatile(places.add(frame)), ptr::read_volatile(addresses.add(frame)))
        };
        if word(pointer, u32::from(place)) != address {
            return 0;
        }
        frame += 1;
    }
    0
}

/// What a look at a word of a stack is told.
struct Search {
    remembered: *mut Remembered,
    pointer: u64,
    /// Where the thread's user registers are saved: where the stack begins.
    registers: u64,
    frames: u32,
}

/// Finds where the addresses that were put down lie on the stack that they were walked on. Remembers them if each is there, in
/// order, no two that follow one another could be mistaken, and the last is where user mode was left: a walk that went no
/// further says nothing of who called the last frame.
#[inline(always)]
fn remember(remembered: *mut Remembered, task: Task, pointer: u64, frames: u32) {
    let registers = task.registers().0 as u64;
    let mut search = Search { remembered, pointer, registers, frames };
    // SAFETY: the element lives while the program runs, and only this CPU looks at it. The helper gives the context to `look_at_word`
    // and to nobody else.
    unsafe {
        (*remembered).frames = 0;
        (*remembered).found = 0;
        bpf_loop(WORDS - FIRST_PLACE, look_at_word as *mut c_void, (&raw mut search).cast(), 0);
    }
}

/// Returns 1 when there is nothing more to be found.
extern "C" fn look_at_word(index: u64, context: *mut c_void) -> c_long {
    // SAFETY: the context that was given to the helper, which calls nobody else meanwhile.
    let search = unsafe { &*context.cast::<Search>() };
    let at = index as u32 + FIRST_PLACE;
    let word = word(search.pointer, at);
    // SAFETY: as in `remember`; indices are masked to the arrays' length.
    unsafe {
        let remembered = search.remembered;
        let addresses = (&raw const (*remembered).addresses).cast::<u64>();
        let found = ptr::read_volatile(&raw const (*remembered).found);
        let next = found as usize & (FRAMES - 1);
        if word == ptr::read_volatile(addresses.add(next)) {
            (&raw mut (*remembered).places).cast::<u8>().add(next).write_volatile(at as u8);
            (*remembered).found = found + 1;
            if found + 1 < search.frames {
                return 0;
            }
            if search.pointer + u64::from(at) * 8 + TO_REGISTERS == search.registers {
                (*remembered).frames = search.frames;
            }
            return 1;
        }
        // Left over from an earlier call: which of the two is the frame's cannot be told.
        let before = found.wrapping_sub(1) as usize & (FRAMES - 1);
        c_long::from(found != 0 && word == ptr::read_volatile(addresses.add(before)))
    }
}

/// A word of a stack; 0 if there is none.
#[inline(always)]
fn word(pointer: u64, place: u32) -> u64 {
    // SAFETY: the helper checks what it reads.
    unsafe { bpf_probe_read_kernel((pointer + u64::from(place) * 8) as *const u64) }.unwrap_or(0)
}
