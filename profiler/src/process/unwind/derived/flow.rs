//! Following code from where functions begin. In: entries. Out: the state in which each instruction that was reached finds its
//! frame.
//!
//! A call is gone past only when its callee is known to return: what the compiler puts behind a call that does not return
//! is another way's code, and with it would come a wrong depth. So each way waits at a call until some way through the callee has
//! reached a return; what waits in the end waits for functions that never return. Ways behind calls through pointers, of which
//! that is not known, are *weak*: they are taken when nothing else is left, and give way to others.

use iced_x86::{
    Code as Encoding, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};
use rustc_hash::FxHashMap;

use super::by_address::ByAddress;
use super::jump_table::Clues;
use super::state::{Effect, Rbp, State};
use super::text::Text;

/// Bytes before an instruction in which a system call makes it one of a new thread's first.
const NEW_THREAD_BYTES: usize = 24;

/// Times that an instruction is followed anew since another way reached it, at most.
const REVISITS: u8 = 6;

/// Ways that may wait at once, to be followed or for functions to return: 16 MiB of them.
const WAITING_MAX: usize = 1 << 17;

/// Whether a function comes back to who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Returns {
    /// No way to a return was found.
    No,
    /// It goes on to where it is not known.
    Perhaps,
    /// There is one.
    Yes,
}

/// What must speak for a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: it is enough that nothing speaks against it.
    None,
    /// That it returns.
    Returns,
}

/// How sure it is that a way is ever taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Behind a call of which it is not known whether it returns.
    Weak,
    /// Certain.
    Strong,
}

/// How an instruction was reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    /// What it finds.
    pub state: State,
    /// Bytes of the instruction.
    pub length: u8,
    way: Way,
    revisits: u8,
    function: u32,
}

#[derive(Debug)]
struct Function {
    returns: Returns,
    /// Whether it is a guess that a function is entered there.
    guessed: bool,
    /// Some way through it makes no sense: it is none.
    broken: bool,
    /// The same of weak ways.
    weakly_broken: bool,
    waiting: Vec<Waiting>,
}

/// What goes on once a function is known to return.
#[derive(Debug)]
enum Waiting {
    /// A way behind a call.
    Way(Step),
    /// A function that ends by jumping to it.
    Caller(u32),
}

#[derive(Debug, Clone, Copy)]
struct Step {
    function: u32,
    address: u64,
    state: State,
    way: Way,
    clues: Clues,
}

/// Runs of addresses, ascending, of which it is known already how to unwind them.
#[derive(Debug, Default)]
pub(super) struct Described(pub Vec<(u64, u64)>);

impl Described {
    /// Where what is described next begins, seen from code that is not; `None` from code that is.
    fn open_until(&self, address: u64) -> Option<u64> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        let inside = after.checked_sub(1).and_then(|before| self.0.get(before)).is_some_and(|(_, end)| address < *end);
        (!inside).then(|| self.0.get(after).map_or(u64::MAX, |(start, _)| *start))
    }

    fn find(&self, address: u64) -> Option<(u64, u64)> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        self.0.get(after.checked_sub(1)?).copied().filter(|(_, end)| address < *end)
    }
}

/// What was found out so far.
pub(super) struct Flow<'t> {
    text: &'t Text,
    described: &'t Described,
    described_returns: FxHashMap<u64, Returns>,
    functions: Vec<Function>,
    by_entry: FxHashMap<u64, u32>,
    visits: ByAddress<Visit>,
    strong: Vec<Step>,
    weak: Vec<Step>,
    /// Addresses of code that instructions load: pointers to functions.
    loaded: Vec<u64>,
    /// Ways and functions that wait for others to return.
    waiting: usize,
    factory: InstructionInfoFactory,
    /// Instructions that may still be followed.
    budget: u64,
}

impl<'t> Flow<'t> {
    pub fn new(text: &'t Text, described: &'t Described, budget: u64) -> Self {
        let (first, end) = text.span();
        Self {
            text,
            described,
            described_returns: FxHashMap::default(),
            functions: Vec::new(),
            by_entry: FxHashMap::default(),
            visits: ByAddress::new(first, end),
            strong: Vec::new(),
            weak: Vec::new(),
            loaded: Vec::new(),
            waiting: 0,
            factory: InstructionInfoFactory::new(),
            budget,
        }
    }

    /// Whether everything that was asked for could be followed.
    pub fn is_exhausted(&self) -> bool {
        self.budget == 0
    }

    /// Whether an instruction there was reached.
    pub fn is_reached(&self, address: u64) -> bool {
        self.visit(address).is_some()
    }

    /// Whether nothing is known of the code at an address, and there is some.
    pub fn is_open(&self, address: u64) -> bool {
        self.text.is_code(address) && self.described.find(address).is_none()
    }

    /// How an instruction was reached, unless that makes no sense.
    pub fn visit(&self, address: u64) -> Option<&Visit> {
        self.visits.get(address).filter(|visit| self.is_sound(visit))
    }

    /// Every instruction that was reached, in no order.
    pub fn visits(&self) -> impl Iterator<Item = (u64, &Visit)> {
        self.visits.iter().filter(|(_, visit)| self.is_sound(visit))
    }

    fn is_sound(&self, visit: &Visit) -> bool {
        self.makes_sense(visit.function, visit.way)
    }

    fn makes_sense(&self, function: u32, way: Way) -> bool {
        self.functions
            .get(function as usize)
            .is_some_and(|function| !(function.broken || function.weakly_broken && way == Way::Weak))
    }

    /// Follows the function that begins at an address.
    pub fn explore(&mut self, address: u64, state: State) {
        if self.is_open(address) {
            self.function_at(address, state);
            self.run();
        }
    }

    /// Follows what may be a function, or a part of one. It is none if something speaks against it, or if, where that is asked
    /// for, nothing speaks for it: that it returns.
    pub fn guess(&mut self, address: u64, state: State, proof: Proof) {
        let proof = if state == State::ENTRY && self.begins_function(address) { Proof::None } else { proof };
        if !self.is_open(address) || (state == State::ENTRY && self.by_entry.contains_key(&address)) {
            return;
        }
        let number = self.add_function(address, state);
        if let Some(function) = self.functions.get_mut(number as usize) {
            function.guessed = true;
        }
        if state == State::ENTRY {
            self.by_entry.insert(address, number);
        }
        self.run();
        if let Some(function) = self.functions.get_mut(number as usize) {
            function.broken |= proof == Proof::Returns && function.returns == Returns::No;
        }
        if !self.is_whole(number) {
            self.by_entry.remove(&address);
        }
    }

    /// Notes what the described function at an address loads: a C library is described where the program is not.
    pub fn read_described(&mut self, address: u64) {
        let Some((start, end)) = self.described.find(address) else { return };
        let code = self.text.code(start).unwrap_or_default();
        let code = code.get(..(end - start) as usize).unwrap_or(code);
        for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            self.budget = self.budget.saturating_sub(1);
            self.loaded.extend(loaded_address(&instruction).filter(|pointer| self.is_open(*pointer)));
        }
    }

    /// Follows the functions that instructions load the addresses of.
    pub fn guess_loaded(&mut self) {
        while let Some(address) = self.loaded.pop() {
            if !self.is_reached(address) {
                self.guess(address, State::ENTRY, Proof::None);
            }
        }
    }

    /// Whether an instruction is one that functions begin with and hardly anything else.
    pub fn begins_function(&self, address: u64) -> bool {
        let Some(code) = self.text.code(address) else { return false };
        let first = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
        match first.mnemonic() {
            Mnemonic::Endbr64 => true,
            Mnemonic::Push => {
                let kept = [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];
                kept.contains(&first.op0_register())
            }
            Mnemonic::Sub => first.op0_register() == Register::RSP && first.op1_kind() != OpKind::Register,
            _ => false,
        }
    }

    fn run(&mut self) {
        while let Some(step) = self.strong.pop().or_else(|| self.weak.pop()) {
            self.follow(step);
        }
    }

    fn is_whole(&self, function: u32) -> bool {
        self.functions.get(function as usize).is_some_and(|function| !function.broken)
    }

    fn function_at(&mut self, address: u64, state: State) -> u32 {
        if let Some(function) = self.by_entry.get(&address) {
            return *function;
        }
        let number = self.add_function(address, state);
        self.by_entry.insert(address, number);
        number
    }

    fn add_function(&mut self, address: u64, state: State) -> u32 {
        let number = self.functions.len() as u32;
        self.functions.push(Function {
            returns: Returns::No,
            guessed: false,
            broken: false,
            weakly_broken: false,
            waiting: Vec::new(),
        });
        self.later(Step { function: number, address, state, way: Way::Strong, clues: Clues::default() });
        number
    }

    /// Whether another function than this begins there.
    fn begins_another(&self, function: u32, address: u64) -> bool {
        self.by_entry.get(&address).is_some_and(|other| *other != function && self.is_whole(*other))
    }

    fn later(&mut self, step: Step) {
        if self.strong.len() + self.weak.len() >= WAITING_MAX {
            self.budget = 0;
            return;
        }
        if step.way == Way::Strong { self.strong.push(step) } else { self.weak.push(step) }
    }

    /// Follows one way to its end, and leaves for later those that branch off.
    fn follow(&mut self, step: Step) {
        let Step { function, mut address, mut state, mut way, mut clues } = step;
        let text = self.text;
        if !self.makes_sense(function, way) {
            return;
        }
        let Some(code) = text.code(address) else { return self.broke(function, way) };
        let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let (mut is_first, mut open_until) = (true, 0);
        loop {
            if !is_first && self.begins_another(function, address) {
                // Behind the function's last instruction lies another function: that one is fallen into, or never run.
                if state.is_back() {
                    self.tail(function, address);
                }
                return;
            }
            if address >= open_until {
                match self.described.open_until(address) {
                    Some(end) => open_until = end,
                    None => return self.note_returns(function, Returns::Perhaps),
                }
            }
            match self.arrive(function, address, state, way) {
                Some(joined) => state = joined,
                None => return,
            }
            is_first = false;
            if self.budget == 0 || !decoder.can_decode() {
                return;
            }
            self.budget -= 1;
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                // No instruction is there, and no row speaks of one.
                if let Some(visit) = self.visits.get_mut(address) {
                    visit.state = State::UNKNOWN;
                }
                return self.broke(function, way);
            }
            if let Some(visit) = self.visits.get_mut(address) {
                visit.length = instruction.len() as u8;
            }
            clues.note(&instruction);
            if let Some(pointer) = loaded_address(&instruction).filter(|pointer| self.is_open(*pointer)) {
                self.loaded.push(pointer);
            }
            let branch = |address, state| Step { function, address, state, way, clues };
            match instruction.flow_control() {
                FlowControl::Next => {
                    if state.follow(&instruction, &mut self.factory) == Effect::ZeroedRbp
                        && state.saved.is_none()
                        && follows_system_call(text, address)
                    {
                        state.outermost = true;
                    }
                }
                FlowControl::ConditionalBranch => {
                    let target = instruction.near_branch_target();
                    if state.is_back() && self.is_elsewhere(function, target) {
                        self.tail(function, target);
                    } else {
                        let step = branch(target, state);
                        self.later(step);
                    }
                }
                FlowControl::UnconditionalBranch => {
                    let target = instruction.near_branch_target();
                    if state.is_back() && self.is_elsewhere(function, target) {
                        return self.tail(function, target);
                    }
                    let step = branch(target, state);
                    return self.later(step);
                }
                FlowControl::Call if is_near(&instruction) => {
                    let (target, next) = (instruction.near_branch_target(), instruction.next_ip());
                    if target == next {
                        state.depth = state.depth.map(|depth| depth + 8);
                    } else {
                        let step = branch(next, state);
                        return self.call(target, step);
                    }
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    way = Way::Weak;
                    let step = Step { function, address: instruction.next_ip(), state, way, clues };
                    return self.later(step);
                }
                FlowControl::IndirectBranch => {
                    let targets = clues.targets(&instruction, text);
                    if targets.is_empty() {
                        return self.note_returns(function, Returns::Perhaps);
                    }
                    for target in targets {
                        let step = Step { clues: Clues::default(), ..branch(target, state) };
                        self.later(step);
                    }
                    return;
                }
                FlowControl::Return => {
                    if state.cannot_return() {
                        return self.broke(function, way);
                    }
                    return self.note_returns(function, Returns::Yes);
                }
                FlowControl::Interrupt if instruction.mnemonic() != Mnemonic::Int3 => {}
                FlowControl::XbeginXabortXend => {}
                FlowControl::Interrupt | FlowControl::Exception => return,
            }
            if instruction.mnemonic() == Mnemonic::Hlt {
                return;
            }
            address = instruction.next_ip();
        }
    }

    /// Whether a jump leads out of its function, as far as is known.
    fn is_elsewhere(&self, function: u32, target: u64) -> bool {
        self.begins_another(function, target) || self.described.find(target).is_some()
    }

    /// What an instruction finds now that another way has reached it; `None` if there is nothing new.
    fn arrive(&mut self, function: u32, address: u64, state: State, way: Way) -> Option<State> {
        let known = self.visits.get(address).copied().filter(|visit| self.is_sound(visit));
        let Some(known) = known else {
            self.visits.insert(address, Visit { state, length: 1, way, revisits: 0, function });
            return Some(state);
        };
        if known.function != function && self.functions.get(function as usize).is_some_and(|function| function.guessed)
        {
            if known.state.contradicts(state) {
                self.broke(function, way);
            } else {
                self.goes_on_in(function, known.function);
            }
            return None;
        }
        if known.function != function {
            if known.state.contradicts(state) || self.begins_another(function, address) {
                return None;
            }
            self.goes_on_in(function, known.function);
        }
        let joined = match way.cmp(&known.way) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Greater => state,
            std::cmp::Ordering::Equal => known.state.join(state),
        };
        let visit = self.visits.get_mut(address)?;
        visit.way = way;
        if joined == known.state || known.revisits >= REVISITS {
            return None;
        }
        *visit = Visit { state: joined, revisits: known.revisits + 1, ..*visit };
        Some(joined)
    }

    fn call(&mut self, target: u64, step: Step) {
        let returns = if self.described.find(target).is_some() {
            self.described_returns(target)
        } else if self.text.code(target).is_some() {
            let callee = self.function_at(target, State::ENTRY);
            let known = self.functions.get(callee as usize).map_or(Returns::Perhaps, |callee| callee.returns);
            if known != Returns::Yes
                && self.waiting < WAITING_MAX
                && let Some(callee) = self.functions.get_mut(callee as usize)
            {
                callee.waiting.push(Waiting::Way(step));
                self.waiting += 1;
            }
            known
        } else {
            Returns::Perhaps
        };
        match returns {
            Returns::Yes => self.later(step),
            Returns::Perhaps => self.later(Step { way: Way::Weak, ..step }),
            Returns::No => {}
        }
    }

    /// A function ends by going on in another.
    fn tail(&mut self, function: u32, target: u64) {
        if self.described.find(target).is_some() {
            let returns = self.described_returns(target);
            return self.note_returns(function, returns);
        }
        let callee = self.function_at(target, State::ENTRY);
        self.goes_on_in(function, callee);
    }

    /// A function ends in another, or shares its end with it.
    fn goes_on_in(&mut self, function: u32, callee: u32) {
        let Some(callee) = self.functions.get_mut(callee as usize) else { return };
        let returns = callee.returns;
        if returns != Returns::Yes && self.waiting < WAITING_MAX {
            callee.waiting.push(Waiting::Caller(function));
            self.waiting += 1;
        }
        self.note_returns(function, returns);
    }

    /// Notes that a function returns, and lets go what waited for that.
    fn note_returns(&mut self, function: u32, returns: Returns) {
        let mut told = vec![(function, returns)];
        while let Some((function, returns)) = told.pop() {
            let Some(known) = self.functions.get_mut(function as usize).filter(|known| known.returns < returns) else {
                continue;
            };
            known.returns = returns;
            let waiting = std::mem::take(&mut known.waiting);
            self.waiting = self.waiting.saturating_sub(waiting.len());
            for waiting in &waiting {
                match waiting {
                    Waiting::Caller(caller) => told.push((*caller, returns)),
                    Waiting::Way(step) if returns == Returns::Yes => self.later(*step),
                    Waiting::Way(step) => self.later(Step { way: Way::Weak, ..*step }),
                }
            }
            if returns != Returns::Yes
                && let Some(known) = self.functions.get_mut(function as usize)
            {
                self.waiting += waiting.len();
                known.waiting = waiting;
            }
        }
    }

    fn broke(&mut self, function: u32, way: Way) {
        if let Some(function) = self.functions.get_mut(function as usize) {
            if way == Way::Strong {
                function.broken = true;
            } else {
                function.weakly_broken = true;
            }
        }
        // Whoever calls it knows no more than of a pointer.
        self.note_returns(function, Returns::Perhaps);
    }

    /// Whether code that is described returns: whether there is an instruction in it that does, or that leaves it.
    fn described_returns(&mut self, target: u64) -> Returns {
        let Some((start, end)) = self.described.find(target) else { return Returns::Perhaps };
        if let Some(known) = self.described_returns.get(&start) {
            return *known;
        }
        let length = (end - start) as usize;
        let code = self.text.code(start).map(|code| code.get(..length).unwrap_or(code)).unwrap_or_default();
        let mut returns = Returns::No;
        for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            self.budget = self.budget.saturating_sub(1);
            let found = match instruction.flow_control() {
                FlowControl::Return => Returns::Yes,
                FlowControl::IndirectBranch => Returns::Perhaps,
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
                    if !(start..end).contains(&instruction.near_branch_target()) =>
                {
                    Returns::Perhaps
                }
                _ => continue,
            };
            returns = returns.max(found);
            if returns == Returns::Yes || self.budget == 0 {
                break;
            }
        }
        self.described_returns.insert(start, returns);
        returns
    }

    /// The state at an instruction that nothing leads to, told by what it leads to: a return, or code that is known.
    pub fn state_before(&mut self, address: u64) -> Option<State> {
        const FAR: u32 = 400;
        let code = self.text.code(address)?;
        let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
        // As if the CFA were where rsp is now, and rbp the caller's.
        let mut state = State { depth: Some(0), rbp: Rbp::Callers, saved: None, outermost: false };
        let mut popped = None;
        for _ in 0..FAR {
            let here = decoder.ip();
            let is_entry = here != address && self.by_entry.contains_key(&here);
            let known = if here == address || is_entry { None } else { self.visit(here).map(|visit| visit.state) };
            if let Some(known) = known {
                let depth = known.depth? - state.depth?;
                return Some(match popped {
                    Some(popped) => State { depth: Some(depth), rbp: Rbp::Other, saved: Some(depth + popped), ..known },
                    None if state.rbp == Rbp::Callers => State { depth: Some(depth), ..known },
                    None => State { depth: Some(depth), rbp: Rbp::Other, ..known },
                });
            }
            if self.described.find(here).is_some() || is_entry {
                return None;
            }
            self.budget = self.budget.checked_sub(1)?;
            let instruction = decoder.decode();
            match instruction.flow_control() {
                FlowControl::Return => {
                    let depth = 8 - state.depth?;
                    return Some(match popped {
                        Some(popped) => {
                            State { depth: Some(depth), rbp: Rbp::Other, saved: Some(depth + popped), outermost: false }
                        }
                        None => State { depth: Some(depth), ..State::ENTRY },
                    });
                }
                FlowControl::UnconditionalBranch => {
                    let target = instruction.near_branch_target();
                    decoder = Decoder::with_ip(64, self.text.code(target)?, target, DecoderOptions::NONE);
                }
                FlowControl::Next => {
                    let is_pop = instruction.mnemonic() == Mnemonic::Pop && instruction.op0_register() == Register::RBP;
                    if is_pop && state.saved != state.depth {
                        popped = state.depth;
                    }
                    if instruction.mnemonic() == Mnemonic::Leave {
                        return None;
                    }
                    state.follow(&instruction, &mut self.factory);
                }
                FlowControl::Call if is_near(&instruction) => {
                    let target = instruction.near_branch_target();
                    self.explore(target, State::ENTRY);
                    let callee = self.by_entry.get(&target);
                    let callee = callee.and_then(|callee| self.functions.get(*callee as usize));
                    if callee.is_some_and(|callee| callee.returns == Returns::No) {
                        return None;
                    }
                }
                FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch => {}
                _ => return None,
            }
            if instruction.is_invalid() {
                return None;
            }
        }
        None
    }
}

/// The address that an instruction puts into a register, if that is all it does.
fn loaded_address(instruction: &Instruction) -> Option<u64> {
    match instruction.mnemonic() {
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => Some(instruction.ip_rel_memory_address()),
        Mnemonic::Mov if instruction.op0_kind() == OpKind::Register => match instruction.op1_kind() {
            OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => Some(instruction.immediate(1)),
            _ => None,
        },
        _ => None,
    }
}

fn is_near(call: &Instruction) -> bool {
    call.code() == Encoding::Call_rel32_64 && call.op0_kind() == OpKind::NearBranch64
}

fn follows_system_call(text: &Text, address: u64) -> bool {
    const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];
    let start = address.saturating_sub(NEW_THREAD_BYTES as u64);
    text.code(start)
        .and_then(|code| code.get(..(address - start) as usize))
        .is_some_and(|before| before.windows(SYSTEM_CALL.len()).any(|bytes| bytes == SYSTEM_CALL))
}
