//! From one frame to its caller's. Registers in, the next return address or the reason for stopping out.

use super::{
    rule::{Cfa, Rbp, Rule},
    stop::{GO_ON, Stop},
};

/// The memory of the thread whose stack is walked.
pub trait Memory {
    /// The word at an address.
    fn word(&mut self, address: u64) -> Option<u64>;

    /// Two words, the one at the address first.
    #[inline(always)]
    fn pair(&mut self, address: u64) -> Option<(u64, u64)> {
        let first = self.word(address)?;
        let second = self.word(address.wrapping_add(8))?;
        Some((first, second))
    }
}

/// What is known of the code of the process whose stack is walked.
pub trait Tables {
    /// The rule of the instruction at an address.
    fn rule(&mut self, address: u64) -> Result<Rule, Stop>;
}

/// Where a walk has got to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// Address of the frame's instruction: the interrupted one, or the return address.
    pub pc: u64,
    /// Stack pointer in that frame.
    pub sp: u64,
    /// Frame pointer in that frame, if it is known.
    pub bp: u64,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Times that a frame pointer led down the stack: runtimes that change stacks keep such chains.
    pub jumps: u32,
    /// The register in which a function may hold its return address, if it is known: that of the innermost frame.
    pub rdi: u64,
}

/// What is known of a frame besides its registers.
pub mod flag {
    /// `pc` is an instruction that was interrupted, not a return address.
    pub const EXACT: u32 = 1;
    /// `bp` is not known.
    pub const NO_BP: u32 = 2;
    /// `rdi` is known.
    pub const RDI: u32 = 4;
}

/// Steps down the stack that a chain of frame pointers may take.
const MOST_JUMPS: u32 = 4;

/// Where rbp, rsp and rip lie above the stack pointer on a signal's way back (`struct ucontext` of x86-64 Linux).
const SIGNAL_RBP: u64 = 120;
const SIGNAL_RSP: u64 = 160;

impl Walk {
    /// The innermost frame, from the thread's registers.
    pub const fn from_registers(pc: u64, sp: u64, bp: u64) -> Self {
        Self { pc, sp, bp, flags: flag::EXACT, jumps: 0, rdi: 0 }
    }

    /// The same, with one more of the thread's registers.
    #[must_use]
    #[inline(always)]
    pub const fn with_rdi(self, rdi: u64) -> Self {
        Self { rdi, flags: self.flags | flag::RDI, ..self }
    }

    /// The frame as a stack holds it: the innermost one's instruction, and return addresses, of which the byte before is looked
    /// up. What a signal interrupted is made to look like one.
    #[inline(always)]
    pub const fn frame(&self, is_innermost: bool) -> u64 {
        if is_innermost || self.flags & flag::EXACT == 0 { self.pc } else { self.pc.wrapping_add(1) }
    }

    /// The address that belongs to the frame's instruction: a return address lies one past the call.
    #[inline(always)]
    pub const fn lookup_address(&self) -> u64 {
        if self.flags & flag::EXACT != 0 { self.pc } else { self.pc.wrapping_sub(1) }
    }
}

/// Goes one frame up. Returns [`GO_ON`], or a [`Stop`] as a number; then `walk` is where the walk ended.
#[inline(always)]
pub fn step<M: Memory, T: Tables>(walk: &mut Walk, memory: &mut M, tables: &mut T) -> u32 {
    let rule = match tables.rule(walk.lookup_address()) {
        Ok(rule) => rule,
        Err(stop) => return stop as u32,
    };
    let cfa = match canonical_frame(walk, rule, memory) {
        Ok(cfa) => cfa,
        Err(stop) => {
            return if stop as u32 != Stop::NotWalked as u32 {
                stop as u32
            } else if rule.cfa() == Cfa::Signal as u32 {
                signal_frame(walk, memory)
            } else if rule.cfa() == Cfa::ReturnInRdi as u32 {
                return_in_rdi(walk, rule)
            } else {
                frame_pointer(walk, memory)
            };
        }
    };
    if cfa <= walk.sp {
        return Stop::NotProgressing as u32;
    }
    caller(walk, rule, cfa, memory)
}

/// The CFA by a rule that has one; [`Stop::NotWalked`] for the kinds of frames that are taken otherwise.
#[inline(always)]
fn canonical_frame<M: Memory>(walk: &Walk, rule: Rule, memory: &mut M) -> Result<u64, Stop> {
    let kind = rule.cfa();
    if kind == Cfa::Rsp as u32 {
        return Ok(walk.sp.wrapping_add_signed(rule.offset()));
    }
    if kind == Cfa::Rbp as u32 {
        if walk.flags & flag::NO_BP != 0 {
            return Err(Stop::LostRegister);
        }
        return Ok(walk.bp.wrapping_add_signed(rule.offset()));
    }
    if kind == Cfa::NoInfo as u32 || kind == Cfa::Signal as u32 || kind == Cfa::ReturnInRdi as u32 {
        return Err(Stop::NotWalked);
    }
    if kind == Cfa::End as u32 {
        return Err(Stop::End);
    }
    if kind == Cfa::Plt as u32 {
        let pushed = if (walk.pc & 15).cast_signed() >= rule.offset() { 8 } else { 0 };
        return Ok(walk.sp.wrapping_add(8 + pushed));
    }
    let base = if kind == Cfa::DerefRsp as u32 {
        walk.sp
    } else if kind == Cfa::DerefRbp as u32 {
        if walk.flags & flag::NO_BP != 0 {
            return Err(Stop::LostRegister);
        }
        walk.bp
    } else {
        return Err(Stop::UnsupportedRule);
    };
    match memory.word(base.wrapping_add_signed(rule.deref_at())) {
        Some(word) => Ok(word.wrapping_add_signed(rule.deref_addend())),
        None => Err(Stop::Unreadable),
    }
}

/// The caller's registers, from the CFA on.
#[inline(always)]
fn caller<M: Memory>(walk: &mut Walk, rule: Rule, cfa: u64, memory: &mut M) -> u32 {
    let (kind, at) = (rule.rbp_kind(), rule.rbp_offset());
    let pc;
    if kind == Rbp::AtCfa as u32 && at == -16 {
        // Where it usually is: beside the return address.
        let Some((bp, word)) = memory.pair(cfa.wrapping_sub(16)) else { return Stop::Unreadable as u32 };
        pc = word;
        walk.bp = bp;
        walk.flags = 0;
    } else {
        let Some(word) = memory.word(cfa.wrapping_sub(8)) else { return Stop::Unreadable as u32 };
        pc = word;
        if kind == Rbp::Unchanged as u32 {
            walk.flags &= flag::NO_BP;
        } else if kind == Rbp::AtCfa as u32 || (kind == Rbp::AtRbp as u32 && walk.flags & flag::NO_BP == 0) {
            let base = if kind == Rbp::AtCfa as u32 { cfa } else { walk.bp };
            let Some(bp) = memory.word(base.wrapping_add_signed(at)) else { return Stop::Unreadable as u32 };
            walk.bp = bp;
            walk.flags = 0;
        } else {
            walk.flags = flag::NO_BP;
        }
    }
    walk.sp = cfa;
    arrive(walk, pc)
}

/// Code that no table speaks of keeps its caller's frame pointer, and beside it the return address, where rbp points.
#[inline(always)]
fn frame_pointer<M: Memory>(walk: &mut Walk, memory: &mut M) -> u32 {
    if walk.flags & flag::NO_BP != 0 {
        return Stop::LostRegister as u32;
    }
    let frame = walk.bp;
    if frame == 0 {
        return Stop::FramePointerEnd as u32;
    }
    if frame & 7 != 0 {
        return Stop::NoFramePointer as u32;
    }
    if frame < walk.sp {
        walk.jumps += 1;
        if walk.jumps > MOST_JUMPS {
            return Stop::NotProgressing as u32;
        }
    }
    let Some((bp, pc)) = memory.pair(frame) else { return Stop::NoFramePointer as u32 };
    walk.sp = frame.wrapping_add(16);
    walk.bp = bp;
    walk.flags = 0;
    arrive(walk, pc)
}

/// The return address was taken off the stack, into a register that no caller's frame keeps: only the innermost one may have it.
#[inline(always)]
fn return_in_rdi(walk: &mut Walk, rule: Rule) -> u32 {
    if walk.flags & flag::RDI == 0 {
        return Stop::LostRegister as u32;
    }
    let cfa = walk.sp.wrapping_add_signed(rule.offset());
    if cfa < walk.sp {
        return Stop::NotProgressing as u32;
    }
    walk.sp = cfa;
    walk.flags &= flag::NO_BP;
    arrive(walk, walk.rdi)
}

/// The kernel pushed all registers of what the signal interrupted. It may run on another stack, so the stack pointer may go
/// down.
#[inline(always)]
fn signal_frame<M: Memory>(walk: &mut Walk, memory: &mut M) -> u32 {
    let Some((sp, pc)) = memory.pair(walk.sp.wrapping_add(SIGNAL_RSP)) else { return Stop::Unreadable as u32 };
    let Some(bp) = memory.word(walk.sp.wrapping_add(SIGNAL_RBP)) else { return Stop::Unreadable as u32 };
    walk.sp = sp;
    walk.bp = bp;
    walk.flags = flag::EXACT;
    arrive(walk, pc)
}

#[inline(always)]
fn arrive(walk: &mut Walk, pc: u64) -> u32 {
    walk.pc = pc;
    if pc == 0 { Stop::NullReturn as u32 } else { GO_ON }
}

/// Walks to the end: fills `frames`, innermost first, and returns how many there are and why there are no more.
pub fn walk_all<M: Memory, T: Tables>(
    walk: &mut Walk,
    memory: &mut M,
    tables: &mut T,
    frames: &mut [u64],
) -> (usize, Stop) {
    for (count, frame) in frames.iter_mut().enumerate() {
        *frame = walk.frame(count == 0);
        let stop = step(walk, memory, tables);
        if stop != GO_ON {
            return (count + 1, Stop::from_number(stop as u8));
        }
    }
    (frames.len(), Stop::TooDeep)
}
