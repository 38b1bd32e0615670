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

use super::jump_table::Clues;
use super::state::{Effect, Rbp, State};
use super::text::Text;

/// Bytes before an instruction in which a system call makes it one of a new thread's first.
const NEW_THREAD_BYTES: usize = 24;

/// Times that an instruction is followed anew since another way reached it, at most.
const REVISITS: u8 = 6;

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
    visits: FxHashMap<u64, Visit>,
    strong: Vec<Step>,
    weak: Vec<Step>,
    factory: InstructionInfoFactory,
    /// Instructions that may still be followed.
    budget: u64,
}

impl<'t> Flow<'t> {
    pub fn new(text: &'t Text, described: &'t Described, budget: u64) -> Self {
        Self {
            text,
            described,
            described_returns: FxHashMap::default(),
            functions: Vec::new(),
            by_entry: FxHashMap::default(),
            visits: FxHashMap::default(),
            strong: Vec::new(),
            weak: Vec::new(),
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
        self.described.find(address).is_none() && self.text.code(address).is_some()
    }

    /// How an instruction was reached, unless that makes no sense.
    pub fn visit(&self, address: u64) -> Option<&Visit> {
        self.visits.get(&address).filter(|visit| self.is_sound(visit))
    }

    /// Every instruction that was reached, in no order.
    pub fn visits(&self) -> impl Iterator<Item = (u64, &Visit)> {
        self.visits.iter().filter(|(_, visit)| self.is_sound(visit)).map(|(address, visit)| (*address, visit))
    }

    fn is_sound(&self, visit: &Visit) -> bool {
        self.makes_sense(visit.function, visit.way)
    }

    fn makes_sense(&self, function: u32, way: Way) -> bool {
        self.functions
            .get(function as usize)
            .is_some_and(|function| !function.broken && !(function.weakly_broken && way == Way::Weak))
    }

    /// Follows the function that begins at an address.
    pub fn explore(&mut self, address: u64, state: State) {
        if self.is_open(address) {
            self.function_at(address, state);
            self.run();
        }
    }

    /// Follows what may be a function, or a part of one. It is one if it returns, and nothing speaks against it.
    pub fn guess(&mut self, address: u64, state: State) {
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
            function.broken |= function.returns == Returns::No;
        }
        if !self.is_whole(number) {
            self.by_entry.remove(&address);
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
        let mut is_first = true;
        loop {
            if !is_first && self.begins_another(function, address) {
                // Behind the function's last instruction lies another function: that one is fallen into, or never run.
                return if state.is_back() {
                    self.tail(function, address)
                };
            }
            if self.described.find(address).is_some() {
                return self.note_returns(function, Returns::Perhaps);
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
                self.visits.remove(&address);
                return self.broke(function, way);
            }
            if let Some(visit) = self.visits.get_mut(&address) {
                visit.length = instruction.len() as u8;
            }
            clues.note(&instruction);
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
        let known = self.visits.get(&address).copied().filter(|visit| self.is_sound(visit));
        let Some(known) = known else {
            self.visits.insert(address, Visit { state, length: 1, way, revisits: 0, function });
            return Some(state);
        };
        if known.function != function && self.functions.get(function as usize).is_some_and(|function| function.guessed)
        {
            if known.state.contradicts(state) {
                self.broke(function, way);
            } else {
                // It goes on in what is known to be right.
                let returns = self.functions.get(known.function as usize).map_or(Returns::No, |known| known.returns);
                self.note_returns(function, returns.max(Returns::Perhaps));
            }
            return None;
        }
        if known.function != function && (known.state.contradicts(state) || self.begins_another(function, address)) {
            return None;
        }
        let joined = match way.cmp(&known.way) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Greater => state,
            std::cmp::Ordering::Equal => known.state.join(state),
        };
        let visit = self.visits.get_mut(&address)?;
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
                && let Some(callee) = self.functions.get_mut(callee as usize)
            {
                callee.waiting.push(Waiting::Way(step));
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
        let Some(callee) = self.functions.get_mut(callee as usize) else { return };
        let returns = callee.returns;
        if returns != Returns::Yes {
            callee.waiting.push(Waiting::Caller(function));
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
            let known = if here == address { None } else { self.visit(here).map(|visit| visit.state) };
            if let Some(known) = known {
                let depth = known.depth? - state.depth?;
                return Some(match popped {
                    Some(popped) => State { depth: Some(depth), rbp: Rbp::Other, saved: Some(depth + popped), ..known },
                    None if state.rbp == Rbp::Callers => State { depth: Some(depth), ..known },
                    None => State { depth: Some(depth), rbp: Rbp::Other, ..known },
                });
            }
            if self.described.find(here).is_some() {
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
                    let callee = self.by_entry.get(&instruction.near_branch_target());
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
