//! What is known of a frame at one instruction, and what each instruction does to that. In: instructions, in the order in
//! which they run. Out: the rule that leads to the caller.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};
use iced_x86::{InstructionInfoFactory, InstructionInfoOptions};
use profiler_ebpf::unwind::Rule;

/// Where rsp lies when a function is entered: the return address alone is between it and the CFA.
const ENTERED: i32 = 8;

/// What rbp holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rbp {
    /// What the caller had in it.
    Callers,
    /// CFA - n bytes.
    Frame(i32),
    /// Something else.
    Other,
}

/// A frame, as one instruction finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// rsp = CFA - n bytes.
    pub depth: Option<i32>,
    /// What rbp holds.
    pub rbp: Rbp,
    /// The caller's rbp is at CFA - n bytes.
    pub saved: Option<i32>,
    /// Nobody called this code.
    pub outermost: bool,
}

/// What an instruction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is followed.
    Followed,
    /// It made rbp zero.
    ZeroedRbp,
}

impl State {
    /// At a function's first instruction.
    pub const ENTRY: Self = Self { depth: Some(ENTERED), rbp: Rbp::Callers, saved: None, outermost: false };
    /// Where nothing is known.
    pub const UNKNOWN: Self = Self { depth: None, rbp: Rbp::Other, saved: None, outermost: false };
    /// Where the kernel begins a program.
    pub const OUTERMOST: Self = Self { depth: None, rbp: Rbp::Other, saved: None, outermost: true };

    /// Whether a return, or a jump to another function, may stand here.
    pub fn is_back(&self) -> bool {
        self.depth == Some(ENTERED) && self.rbp == Rbp::Callers
    }

    /// Whether a return cannot stand here.
    pub fn cannot_return(&self) -> bool {
        !self.outermost && self.depth.is_some_and(|depth| depth != ENTERED || self.rbp != Rbp::Callers)
    }

    /// Whether not both can hold at one instruction.
    pub fn contradicts(&self, other: Self) -> bool {
        let differ = self.depth.zip(other.depth).is_some_and(|(one, two)| one != two);
        differ || (self.rbp == Rbp::Callers) != (other.rbp == Rbp::Callers)
    }

    /// What holds whichever of two ways led here.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let same = |one: Option<i32>, two: Option<i32>| one.filter(|_| one == two);
        Self {
            depth: same(self.depth, other.depth),
            rbp: if self.rbp == other.rbp { self.rbp } else { Rbp::Other },
            saved: same(self.saved, other.saved),
            outermost: self.outermost && other.outermost,
        }
    }

    /// The rule that leads to the caller, if there is one.
    pub fn rule(&self) -> Option<Rule> {
        if self.outermost {
            return Some(Rule::end());
        }
        let rule = match (self.depth, self.rbp) {
            (Some(depth), _) => Rule::rsp(depth),
            (None, Rbp::Frame(frame)) => Rule::rbp(frame),
            (None, _) => return None,
        };
        Some(match (self.rbp, self.saved) {
            (Rbp::Callers, _) => rule,
            (_, Some(saved)) => match i16::try_from(-saved) {
                Ok(offset) => rule.with_rbp_at_cfa(offset),
                Err(_) => rule.with_rbp_undefined(),
            },
            (_, None) => rule.with_rbp_undefined(),
        })
    }

    /// Follows one instruction.
    pub fn follow(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Effect {
        let zeroes = instruction.mnemonic() == Mnemonic::Xor
            && instruction.op0_register().full_register() == Register::RBP
            && instruction.op1_register() == instruction.op0_register();
        if zeroes {
            self.rbp = Rbp::Other;
            return Effect::ZeroedRbp;
        }
        match instruction.mnemonic() {
            Mnemonic::Push => self.push(instruction.stack_pointer_increment(), instruction.op0_register()),
            Mnemonic::Pop => self.pop(instruction.stack_pointer_increment(), instruction.op0_register()),
            Mnemonic::Leave => {
                self.depth = self.frame();
                self.pop(8, Register::RBP);
            }
            Mnemonic::Mov if self.moved(instruction) => {}
            Mnemonic::Lea if self.addressed(instruction) => {}
            Mnemonic::Add | Mnemonic::Sub if self.adjusted(instruction) => {}
            _ if instruction.is_stack_instruction() => match instruction.mnemonic() {
                // What these push is taken by the callee, or by the return itself.
                Mnemonic::Call | Mnemonic::Ret | Mnemonic::Retf => {}
                Mnemonic::Enter => *self = Self { depth: None, rbp: Rbp::Other, ..*self },
                _ => self.grow(-instruction.stack_pointer_increment()),
            },
            _ => self.overwritten(instruction, factory),
        }
        Effect::Followed
    }

    fn frame(&self) -> Option<i32> {
        match self.rbp {
            Rbp::Frame(frame) => Some(frame),
            Rbp::Callers | Rbp::Other => None,
        }
    }

    fn grow(&mut self, bytes: i32) {
        self.depth = self.depth.and_then(|depth| depth.checked_add(bytes));
    }

    fn push(&mut self, increment: i32, register: Register) {
        self.grow(-increment);
        if register == Register::RBP && self.rbp == Rbp::Callers {
            self.saved = self.depth;
        }
    }

    fn pop(&mut self, increment: i32, register: Register) {
        if register == Register::RBP {
            self.restore(self.depth);
        } else if register == Register::RSP {
            self.depth = None;
            return;
        }
        self.grow(-increment);
    }

    /// rbp is loaded from CFA - `from`.
    fn restore(&mut self, from: Option<i32>) {
        if from.is_some() && from == self.saved {
            self.rbp = Rbp::Callers;
            self.saved = None;
        } else {
            self.rbp = Rbp::Other;
        }
    }

    /// The distance below the CFA of what a memory operand names, if that is on the stack.
    fn slot(&self, instruction: &Instruction) -> Option<i32> {
        if instruction.memory_index() != Register::None {
            return None;
        }
        let base = match instruction.memory_base() {
            Register::RSP => self.depth,
            Register::RBP => self.frame(),
            _ => None,
        };
        let displacement = i32::try_from(instruction.memory_displacement64().cast_signed()).ok()?;
        base?.checked_sub(displacement)
    }

    /// Moves that concern rsp and rbp; false for others.
    fn moved(&mut self, instruction: &Instruction) -> bool {
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Register, OpKind::Register) if (to, from) == (Register::RBP, Register::RSP) => {
                self.rbp = self.depth.map_or(Rbp::Other, Rbp::Frame);
            }
            (OpKind::Register, OpKind::Register) if (to, from) == (Register::RSP, Register::RBP) => {
                self.depth = self.frame();
            }
            (OpKind::Register, OpKind::Memory) if to == Register::RBP => self.restore(self.slot(instruction)),
            (OpKind::Memory, OpKind::Register) if from == Register::RBP => {
                if let (Rbp::Callers, Some(slot)) = (self.rbp, self.slot(instruction)) {
                    self.saved = Some(slot);
                }
            }
            _ => return false,
        }
        true
    }

    /// `lea` into rsp or rbp; false for others.
    fn addressed(&mut self, instruction: &Instruction) -> bool {
        let slot = self.slot(instruction);
        match instruction.op0_register() {
            Register::RSP => self.depth = slot,
            Register::RBP => self.rbp = slot.map_or(Rbp::Other, Rbp::Frame),
            _ => return false,
        }
        true
    }

    /// Constants added to or taken from rsp; false for others.
    fn adjusted(&mut self, instruction: &Instruction) -> bool {
        let immediate = match instruction.op1_kind() {
            OpKind::Immediate8to64 => i64::from(instruction.immediate8() as i8),
            OpKind::Immediate32to64 => i64::from(instruction.immediate32().cast_signed()),
            _ => return false,
        };
        if instruction.op0_kind() != OpKind::Register || instruction.op0_register() != Register::RSP {
            return false;
        }
        let Ok(immediate) = i32::try_from(immediate) else { return false };
        let grown = if instruction.mnemonic() == Mnemonic::Sub { Some(immediate) } else { immediate.checked_neg() };
        self.depth = self.depth.zip(grown).and_then(|(depth, grown)| depth.checked_add(grown));
        true
    }

    /// Whatever else is written to rsp or rbp is not followed.
    fn overwritten(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        let names = |register: Register| {
            (0..instruction.op_count()).any(|operand| {
                instruction.op_kind(operand) == OpKind::Register
                    && instruction.op_register(operand).full_register() == register
            })
        };
        if !names(Register::RSP) && !names(Register::RBP) {
            return;
        }
        let info = factory.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
        for used in info.used_registers() {
            let written =
                !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            match used.register().full_register() {
                Register::RSP if written => self.depth = None,
                Register::RBP if written => self.rbp = Rbp::Other,
                _ => {}
            }
        }
    }
}
