//! What call frame instructions mean. In: the instructions of a CIE or an FDE. Out: from which address on which
//! [`State`] holds, and its rule.
//!
//! The walker knows the stack pointer, the frame pointer and the return address, so only these three are followed. Work
//! is counted over all functions of a file, and bounded.

use gimli::{
    CallFrameInstruction, CallFrameInstructionIter, CommonInformationEntry, FrameDescriptionEntry, Register,
    UnwindSection, X86_64,
};
use profiler_ebpf::unwind::Rule;

use super::expression::{self, Shape};
use super::frame_section::Bytes;
use super::{Refused, Unsupported};

/// States remembered at once. Compilers nest them once or twice.
const REMEMBERED: usize = 16;

/// What the CFA is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cfa {
    Register(Register, i64),
    Expression(Shape),
    Unknown(Unsupported),
}

/// Where a register of the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    /// Nothing is said: for rbp and rsp as the ABI has it.
    Unsaid,
    Undefined,
    AtCfa(i64),
    /// At an address that is computed.
    At(Shape),
    /// In another register, as it is.
    In(Register),
    Unknown,
}

/// What holds at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    cfa: Cfa,
    return_address: Saved,
    rbp: Saved,
    rsp: Saved,
}

impl State {
    const UNSAID: Self = Self {
        cfa: Cfa::Unknown(Unsupported::CfaUndefined),
        return_address: Saved::Unsaid,
        rbp: Saved::Unsaid,
        rsp: Saved::Unsaid,
    };

    /// The rule, or why there is none.
    pub fn rule(&self) -> Result<Rule, Unsupported> {
        let unusual = match self.return_address {
            Saved::AtCfa(-8) => false,
            Saved::Undefined => return Ok(Rule::end()),
            _ => true,
        };
        if let Cfa::Unknown(why) = self.cfa {
            return Err(why);
        }
        if let (Saved::In(X86_64::RDI), Cfa::Register(X86_64::RSP, offset), Saved::Unsaid, Saved::Unsaid) =
            (self.return_address, self.cfa, self.rsp, self.rbp)
        {
            return i32::try_from(offset).map(Rule::return_in_rdi).map_err(|_| Unsupported::Offset);
        }
        if unusual || self.rsp != Saved::Unsaid {
            return if self.is_signal_frame() { Ok(Rule::signal()) } else { Err(Unsupported::ReturnAddress) };
        }
        let rule = match self.cfa {
            Cfa::Register(register, offset) => {
                let offset = i32::try_from(offset).map_err(|_| Unsupported::Offset)?;
                match register {
                    X86_64::RSP => Rule::rsp(offset),
                    X86_64::RBP => Rule::rbp(offset),
                    _ => return Err(Unsupported::CfaRegister),
                }
            }
            Cfa::Expression(Shape::Plt { pushed_from }) => Rule::plt(pushed_from),
            Cfa::Expression(Shape::Deref { register: X86_64::RSP, at, addend }) => Rule::deref_rsp(at, addend),
            Cfa::Expression(Shape::Deref { register: X86_64::RBP, at, addend }) => Rule::deref_rbp(at, addend),
            Cfa::Expression(_) => return Err(Unsupported::CfaExpression),
            Cfa::Unknown(why) => return Err(why),
        };
        Ok(match self.rbp {
            Saved::Unsaid => rule,
            Saved::AtCfa(offset) => match i16::try_from(offset) {
                Ok(offset) => rule.with_rbp_at_cfa(offset),
                Err(_) => rule.with_rbp_undefined(),
            },
            Saved::At(Shape::Plus { register: X86_64::RBP, offset }) => rule.with_rbp_at_rbp(offset),
            Saved::Undefined | Saved::At(_) | Saved::In(_) | Saved::Unknown => rule.with_rbp_undefined(),
        })
    }

    /// The kernel's signal frame, as libc describes the code that returns from it.
    fn is_signal_frame(&self) -> bool {
        const fn at(offset: i16) -> Saved {
            Saved::At(Shape::Plus { register: X86_64::RSP, offset })
        }
        self.cfa == Cfa::Expression(Shape::Deref { register: X86_64::RSP, at: 160, addend: 0 })
            && self.return_address == at(168)
            && self.rbp == at(120)
            && self.rsp == at(160)
    }

    fn register(&mut self, register: Register) -> Option<&mut Saved> {
        match register {
            X86_64::RA => Some(&mut self.return_address),
            X86_64::RBP => Some(&mut self.rbp),
            X86_64::RSP => Some(&mut self.rsp),
            _ => None,
        }
    }
}

/// Runs call frame instructions, within a budget for a whole file.
#[derive(Debug)]
pub(super) struct Interpreter {
    left: u64,
    limit: u64,
    remembered: Vec<State>,
    /// Functions whose instructions could not be followed to their end.
    pub broken: u64,
}

/// What one instruction leads to.
enum Effect {
    None,
    Advance(u64),
    Go(u64),
}

impl Interpreter {
    pub fn new(instructions: u64) -> Self {
        Self { left: instructions, limit: instructions, remembered: Vec::with_capacity(REMEMBERED), broken: 0 }
    }

    /// What the instructions of a CIE leave.
    pub fn initial_state<'d, S: UnwindSection<Bytes<'d>>>(
        &mut self,
        cie: &CommonInformationEntry<Bytes<'d>>,
        mut instructions: CallFrameInstructionIter<'_, Bytes<'d>>,
        section: &S,
    ) -> Result<State, Refused> {
        self.remembered.clear();
        let mut state = State::UNSAID;
        let factor = cie.data_alignment_factor();
        loop {
            match instructions.next() {
                Ok(Some(instruction)) => {
                    self.spend()?;
                    if !matches!(
                        self.apply(&mut state, &State::UNSAID, &instruction, factor, section),
                        Ok(Effect::None)
                    ) {
                        state.cfa = Cfa::Unknown(Unsupported::Instruction);
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    state.cfa = Cfa::Unknown(Unsupported::Instruction);
                    break;
                }
            }
        }
        Ok(state)
    }

    /// Calls `row` with the first address of each run of addresses, ascending, and what holds there.
    pub fn run<'d, S: UnwindSection<Bytes<'d>>>(
        &mut self,
        fde: &FrameDescriptionEntry<Bytes<'d>>,
        initial: State,
        mut instructions: CallFrameInstructionIter<'_, Bytes<'d>>,
        section: &S,
        mut row: impl FnMut(u64, &State) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        self.remembered.clear();
        let code_factor = fde.cie().code_alignment_factor();
        let data_factor = fde.cie().data_alignment_factor();
        let mut state = initial;
        let mut address = fde.initial_address();
        let end = address.saturating_add(fde.len());
        loop {
            let instruction = match instructions.next() {
                Ok(Some(instruction)) => instruction,
                Ok(None) => break,
                Err(_) => {
                    self.broken += 1;
                    state.cfa = Cfa::Unknown(Unsupported::Instruction);
                    state.return_address = Saved::Unknown;
                    break;
                }
            };
            self.spend()?;
            let next = match self.apply(&mut state, &initial, &instruction, data_factor, section) {
                Ok(Effect::None) => continue,
                Ok(Effect::Advance(delta)) => {
                    delta.checked_mul(code_factor).and_then(|delta| address.checked_add(delta))
                }
                Ok(Effect::Go(to)) => Some(to).filter(|to| *to >= address),
                Err(why) => {
                    // From here on nothing is sure.
                    self.broken += 1;
                    state.cfa = Cfa::Unknown(why);
                    state.return_address = Saved::Unknown;
                    break;
                }
            };
            let Some(next) = next.filter(|next| *next <= end) else {
                self.broken += 1;
                break;
            };
            if next > address {
                row(address, &state)?;
                address = next;
            }
        }
        if address < end {
            row(address, &state)?;
        }
        Ok(())
    }

    fn spend(&mut self) -> Result<(), Refused> {
        let Some(left) = self.left.checked_sub(1) else {
            return Err(Refused::TooLarge { what: "call frame instructions", limit: self.limit });
        };
        self.left = left;
        Ok(())
    }

    #[inline]
    fn apply<'d, S: UnwindSection<Bytes<'d>>>(
        &mut self,
        state: &mut State,
        initial: &State,
        instruction: &CallFrameInstruction<usize>,
        factor: i64,
        section: &S,
    ) -> Result<Effect, Unsupported> {
        use CallFrameInstruction as I;
        let scaled = |offset: u64| offset.cast_signed().checked_mul(factor).map_or(Saved::Unknown, Saved::AtCfa);
        let scaled_signed = |offset: i64| offset.checked_mul(factor).map_or(Saved::Unknown, Saved::AtCfa);
        match *instruction {
            I::AdvanceLoc { delta } => return Ok(Effect::Advance(delta.into())),
            I::SetLoc { address } => return Ok(Effect::Go(address)),
            I::DefCfa { register, offset } => state.cfa = Cfa::Register(register, offset.cast_signed()),
            I::DefCfaSf { register, factored_offset } => {
                state.cfa = match factored_offset.checked_mul(factor) {
                    Some(offset) => Cfa::Register(register, offset),
                    None => Cfa::Unknown(Unsupported::Offset),
                };
            }
            I::DefCfaRegister { register } => match &mut state.cfa {
                Cfa::Register(old, _) => *old = register,
                other => *other = Cfa::Unknown(Unsupported::Instruction),
            },
            I::DefCfaOffset { offset } => match &mut state.cfa {
                Cfa::Register(_, old) => *old = offset.cast_signed(),
                other => *other = Cfa::Unknown(Unsupported::Instruction),
            },
            I::DefCfaOffsetSf { factored_offset } => match (&mut state.cfa, factored_offset.checked_mul(factor)) {
                (Cfa::Register(_, old), Some(offset)) => *old = offset,
                (other, _) => *other = Cfa::Unknown(Unsupported::Instruction),
            },
            I::DefCfaExpression { ref expression } => {
                let shape = expression.get(section).ok().and_then(expression::shape);
                state.cfa = shape.map_or(Cfa::Unknown(Unsupported::CfaExpression), Cfa::Expression);
            }
            I::Undefined { register } => set(state, register, Saved::Undefined),
            I::SameValue { register: X86_64::RBP } => state.rbp = Saved::Unsaid,
            I::Offset { register, factored_offset } => {
                if let Some(saved) = state.register(register) {
                    *saved = scaled(factored_offset);
                }
            }
            I::OffsetExtendedSf { register, factored_offset } => set(state, register, scaled_signed(factored_offset)),
            I::ValOffset { register: X86_64::RSP, factored_offset: 0 }
            | I::ValOffsetSf { register: X86_64::RSP, factored_offset: 0 } => state.rsp = Saved::Unsaid,
            I::Register { dest_register, src_register } => set(state, dest_register, Saved::In(src_register)),
            // Said of rsp or of the return address, "the same value" is no frame that returns.
            I::SameValue { register }
            | I::ValOffset { register, .. }
            | I::ValOffsetSf { register, .. }
            | I::ValExpression { register, .. } => {
                set(state, register, Saved::Unknown);
            }
            I::Expression { register, ref expression } => {
                if let Some(saved) = state.register(register) {
                    let shape = expression.get(section).ok().and_then(expression::shape);
                    *saved = shape.map_or(Saved::Unknown, Saved::At);
                }
            }
            I::Restore { register } => {
                let mut initial = *initial;
                if let (Some(saved), Some(before)) = (state.register(register), initial.register(register)) {
                    *saved = *before;
                }
            }
            I::RememberState => {
                if self.remembered.len() == REMEMBERED {
                    return Err(Unsupported::RememberedTooDeep);
                }
                self.remembered.push(*state);
            }
            I::RestoreState => match self.remembered.pop() {
                Some(before) => *state = before,
                None => return Err(Unsupported::Instruction),
            },
            I::ArgsSize { .. } | I::Nop => {}
            I::NegateRaState => return Err(Unsupported::Instruction),
        }
        Ok(Effect::None)
    }
}

fn set(state: &mut State, register: Register, saved: Saved) {
    if let Some(place) = state.register(register) {
        *place = saved;
    }
}
