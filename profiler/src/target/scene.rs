//! What all kinds look at, worked out once. In: a profile. Out: for each stack whose code it runs and what the kernel does
//! in it; for each container its on-CPU time and its waits, with what is still unclaimed of each.
//!
//! Everything is decided once a frame and once a stack, so that the work is linear in what was recorded.

use rustc_hash::{FxHashMap, FxHashSet};

use super::mark::{self, Marks};
use super::role::{self, Language, Role};
use super::work::{self, Work};
use crate::profile::{Container, Frame, FrameId, FrameKind, OffCpuReason, ProcessIndex, Profile, StackId, TextId};

/// A function that can be blamed; position in [`Scene::functions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// A function as its owner knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Function {
    /// Name, without hashes and closures.
    pub name: String,
    /// File name of the binary or library.
    pub module: String,
    /// Whether it is the application's. Otherwise it stands in where no frame of the application was seen.
    pub own: bool,
}

/// What a stack's innermost part does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Runs user code.
    User,
    /// Serves a system call.
    Call,
    /// Handles a page fault.
    Fault,
    /// Serves an interrupt: nobody's doing.
    Interrupt,
}

/// What is known of a stack, whoever it belongs to.
#[derive(Debug, Clone)]
pub struct StackFacts<'p> {
    /// The application's functions, root first.
    pub chain: Vec<FunctionId>,
    /// Position of the innermost frame of the application.
    pub own_at: Option<usize>,
    /// Position of the user frame with a name that stands in for the application's.
    pub named_at: Option<usize>,
    /// What it does.
    pub area: Area,
    /// The system call it is in.
    pub call: Option<&'p str>,
    /// What the library code below the application does, where its name tells.
    pub work: Option<Work>,
    /// Marks of all its frames.
    pub marks: Marks,
    /// Whether the innermost function made at run time (Python, Java) is the application's own.
    pub made_application: bool,
    /// Whether no user frame was seen, a note instead of one apart.
    pub kernel_only: bool,
    /// What the user frames are, as one number: stacks that share them have the same.
    pub user_path: u64,
}

/// On-CPU time below one stack.
#[derive(Debug, Clone, Copy)]
pub struct CpuRow {
    /// Whose process.
    pub process: ProcessIndex,
    /// Which stack.
    pub stack: StackId,
    /// CPU nanoseconds, scaled so that a container's rows sum to its ledger.
    pub ns: f64,
    /// What no target claims.
    pub left_ns: f64,
    /// Samples it stands for.
    pub samples: u64,
}

/// Off-CPU time below one stack.
#[derive(Debug, Clone, Copy)]
pub struct WaitRow {
    /// Whose process.
    pub process: ProcessIndex,
    /// Which stack.
    pub stack: StackId,
    /// Why.
    pub reason: OffCpuReason,
    /// Thread-nanoseconds.
    pub ns: f64,
    /// Number of waits.
    pub count: f64,
    /// Whom it waited for, if that is known.
    pub peer: Option<TextId>,
}

/// A container with its rows.
#[derive(Debug)]
pub struct Place<'p> {
    /// The container.
    pub container: &'p Container,
    /// Its on-CPU time.
    pub cpu: Vec<CpuRow>,
    /// Its waits.
    pub waits: Vec<WaitRow>,
    /// Nanoseconds that a sample stands for here.
    pub ns_per_sample: f64,
}

impl Place<'_> {
    /// On-CPU nanoseconds, exact.
    pub fn cpu_ns(&self) -> f64 {
        self.container.ledger.cpu_ns() as f64
    }
}

/// Everything the kinds look at.
#[derive(Debug)]
pub struct Scene<'p> {
    /// The profile.
    pub profile: &'p Profile,
    /// Length of the window in nanoseconds, never 0.
    pub window_ns: f64,
    /// Functions that can be blamed.
    pub functions: Vec<Function>,
    /// By stack.
    pub stacks: Vec<StackFacts<'p>>,
    /// By container.
    pub places: Vec<Place<'p>>,
    stand_ins: FxHashMap<(TextId, TextId), FunctionId>,
}

/// What is known of a frame, whatever stack it is in.
#[derive(Debug, Clone, Copy)]
struct FrameFacts<'p> {
    role: Role,
    function: Option<FunctionId>,
    work: Option<Work>,
    marks: Marks,
    call: Option<&'p str>,
    made: bool,
    unnamed: bool,
    module: TextId,
    stands_in: Standing,
}

/// How well a function can stand in where no frame of the application is on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It says nothing of whose fault it is: the system's libraries, the kernel, what has no name, program entries.
    No,
    /// A library that was chosen.
    Library,
    /// A library or Go's runtime inside the program's own file.
    Inside,
    /// What runs a thread's closure, into which compilers put the closure.
    Closure,
}

fn standing(kind: FrameKind, role: Role, function: &str, module: &str) -> Standing {
    let named = matches!(kind, FrameKind::User | FrameKind::UserInlined);
    if !named || role::is_system_module(module) {
        Standing::No
    } else if function.contains("__rust_begin_short_backtrace") {
        Standing::Closure
    } else if role == Role::Runtime && !function.starts_with("runtime.") {
        Standing::No
    } else if role::is_library_module(module) {
        Standing::Library
    } else {
        Standing::Inside
    }
}

impl<'p> Scene<'p> {
    /// Works everything out.
    pub fn of(profile: &'p Profile) -> Self {
        let mut functions = Interner::default();
        let frames = frames(profile, &mut functions);
        let stacks = profile.stacks.stacks().iter().map(|stack| facts(profile, &frames, stack)).collect();
        let mut scene = Self {
            profile,
            window_ns: profile.window.duration_ns.max(1) as f64,
            functions: functions.list,
            stacks,
            places: Vec::new(),
            stand_ins: FxHashMap::default(),
        };
        scene.name_calls();
        scene.fill_places();
        scene
    }

    /// Facts of a stack.
    pub fn facts(&self, stack: StackId) -> Option<&StackFacts<'p>> {
        self.stacks.get(stack.0 as usize)
    }

    /// Number of CPUs, at least one.
    pub fn cpus(&self) -> f64 {
        f64::from(self.profile.host.cpus.max(1))
    }

    /// The most CPU that a container can have, in cores.
    pub fn most_cores(&self, container: &Container) -> f64 {
        container.cpu_limit_cores.map_or(self.cpus(), |limit| limit.min(self.cpus()))
    }

    /// Blames for each row of each place have to exist before kinds look for them. A stack without a frame of the
    /// application is blamed on the innermost named function of the program's own file (the compiler may have put the
    /// application's code into it), else of a library other than the system's, else on the program.
    pub fn blame(&self, process: ProcessIndex, stack: StackId) -> Option<FunctionId> {
        let facts = self.facts(stack)?;
        facts.chain.last().copied().or_else(|| self.stand_in(process, stack))
    }

    fn stand_in(&self, process: ProcessIndex, stack: StackId) -> Option<FunctionId> {
        self.stand_ins.get(&self.stand_in_key(process, stack)?).copied()
    }

    fn stand_in_key(&self, process: ProcessIndex, stack: StackId) -> Option<(TextId, TextId)> {
        let facts = self.facts(stack)?;
        if facts.kernel_only && facts.area != Area::Call {
            return None;
        }
        let command = self.profile.processes.get(process.0 as usize)?.command;
        let frames = self.profile.stacks.stacks().get(stack.0 as usize)?;
        let named = facts.named_at.and_then(|at| self.profile.stacks.frame_of(*frames.get(at)?));
        match named {
            Some(frame) if !in_interpreter(self.profile, frames) => Some((frame.function, frame.module)),
            _ => Some((TextId(u32::MAX), command)),
        }
    }

    fn fill_places(&mut self) {
        let profile = self.profile;
        let period = profile.settings.sample_period_ns() as f64;
        self.places = profile
            .containers
            .iter()
            .map(|container| Place { container, cpu: Vec::new(), waits: Vec::new(), ns_per_sample: period })
            .collect();
        let agent = profile.overhead.agent_pid;
        let is_agent = |process: ProcessIndex| {
            agent != 0 && profile.processes.get(process.0 as usize).is_some_and(|process| process.pid == agent)
        };
        let mut sampled = vec![0_u64; self.places.len()];
        for sample in &profile.on_cpu {
            if let Some(count) = sampled.get_mut(sample.container.0 as usize) {
                *count = count.saturating_add(sample.count);
            }
        }
        for (place, count) in self.places.iter_mut().zip(sampled) {
            // The ledger is exact, samples are not: together they have to say the same.
            if count > 0 && place.container.ledger.cpu_ns() > 0 {
                place.ns_per_sample = place.container.ledger.cpu_ns() as f64 / count as f64;
            }
        }
        for sample in profile.on_cpu.iter().filter(|sample| !is_agent(sample.process)) {
            if let Some(place) = self.places.get_mut(sample.container.0 as usize) {
                let ns = sample.count as f64 * place.ns_per_sample;
                let row =
                    CpuRow { process: sample.process, stack: sample.stack, ns, left_ns: ns, samples: sample.count };
                place.cpu.push(row);
            }
        }
        for sample in profile.off_cpu.iter().filter(|sample| !is_agent(sample.process)) {
            if let Some(place) = self.places.get_mut(sample.container.0 as usize) {
                place.waits.push(WaitRow {
                    process: sample.process,
                    stack: sample.stack,
                    reason: sample.reason,
                    ns: sample.weight_ns,
                    count: sample.count,
                    peer: sample.peer,
                });
            }
        }
        self.make_stand_ins();
    }

    fn make_stand_ins(&mut self) {
        let cpu = self.places.iter().flat_map(|place| place.cpu.iter().map(|row| (row.process, row.stack)));
        let waits = self.places.iter().flat_map(|place| place.waits.iter().map(|row| (row.process, row.stack)));
        let without =
            |(_, stack): &(ProcessIndex, StackId)| self.facts(*stack).is_some_and(|facts| facts.chain.is_empty());
        let keys: FxHashSet<(TextId, TextId)> =
            cpu.chain(waits).filter(without).filter_map(|(process, stack)| self.stand_in_key(process, stack)).collect();
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable();
        for key in keys {
            let (function, module) = key;
            let texts = &self.profile.stacks;
            let function = if function == TextId(u32::MAX) {
                Function { name: format!("[{}]", texts.text_of(module)), module: String::new(), own: false }
            } else {
                let name = role::plain_name(texts.text_of(function)).to_owned();
                Function { name, module: texts.text_of(module).to_owned(), own: false }
            };
            self.stand_ins.insert(key, FunctionId(self.functions.len() as u32));
            self.functions.push(function);
        }
    }

    /// A sample at the door of the kernel does not say which call it is: it is the one that its user code makes.
    fn name_calls(&mut self) {
        let mut known: FxHashMap<u64, &'p str> = FxHashMap::default();
        for facts in &self.stacks {
            if let Some(call) = facts.call {
                let entry = known.entry(facts.user_path).or_insert(call);
                *entry = (*entry).min(call);
            }
        }
        for facts in &mut self.stacks {
            if facts.area == Area::Call && facts.call.is_none() {
                facts.call = known.get(&facts.user_path).copied();
            }
        }
    }

    /// The functions from the root to the blamed one, as their frames are named.
    pub fn path(&self, stack: StackId, blamed: FunctionId) -> Vec<FrameId> {
        let Some(frames) = self.profile.stacks.stacks().get(stack.0 as usize) else { return Vec::new() };
        let Some(facts) = self.facts(stack) else { return Vec::new() };
        let Some(function) = self.functions.get(blamed.0 as usize) else { return Vec::new() };
        let is_blamed = |id: &FrameId| {
            self.profile.stacks.frame_of(*id).is_some_and(|frame| {
                frame.kind != FrameKind::Kernel
                    && role::plain_name(self.profile.stacks.text_of(frame.function)) == function.name
            })
        };
        let user = frames
            .iter()
            .take_while(|id| self.profile.stacks.frame_of(**id).is_some_and(|frame| frame.kind != FrameKind::Kernel));
        let user = user.count();
        let end = frames[..user].iter().rposition(is_blamed).or(facts.own_at);
        end.map_or_else(Vec::new, |end| frames[..=end.min(frames.len() - 1)].to_vec())
    }
}

fn in_interpreter(profile: &Profile, frames: &[FrameId]) -> bool {
    frames
        .iter()
        .filter_map(|id| profile.stacks.frame_of(*id))
        .any(|frame| frame.kind != FrameKind::Kernel && role::is_runtime_module(profile.stacks.text_of(frame.module)))
}

#[derive(Default)]
struct Interner {
    list: Vec<Function>,
    ids: FxHashMap<(String, TextId), FunctionId>,
}

fn frames<'p>(profile: &'p Profile, functions: &mut Interner) -> Vec<FrameFacts<'p>> {
    let texts = &profile.stacks;
    let go: FxHashSet<TextId> = texts
        .frames()
        .iter()
        .filter(|frame| role::tells_go(texts.text_of(frame.function)))
        .map(|frame| frame.module)
        .collect();
    let language = |module: TextId| if go.contains(&module) { Language::Go } else { Language::Native };
    texts
        .frames()
        .iter()
        .map(|frame: &Frame| {
            let (function, module) = (texts.text_of(frame.function), texts.text_of(frame.module));
            let role = role::role(frame.kind, function, module, language(frame.module));
            let own = (role == Role::Application).then(|| {
                let name = role::plain_name(function);
                *functions.ids.entry((name.to_owned(), frame.module)).or_insert_with(|| {
                    functions.list.push(Function { name: name.to_owned(), module: module.to_owned(), own: true });
                    FunctionId(functions.list.len() as u32 - 1)
                })
            });
            let kernel = role == Role::Kernel;
            FrameFacts {
                role,
                function: own,
                work: matches!(role, Role::Library | Role::Runtime).then(|| work::of_user(function, module)).flatten(),
                marks: match role {
                    Role::Kernel => mark::of_kernel(function, module),
                    Role::Note => Marks::default(),
                    _ => mark::of_user(function, module),
                },
                call: if kernel { mark::syscall_of_kernel(function) } else { None },
                made: function.starts_with("py::") || module == "[jit]",
                unnamed: frame.kind == FrameKind::Unresolved,
                module: frame.module,
                stands_in: standing(frame.kind, role, function, module),
            }
        })
        .collect()
}

fn facts<'p>(profile: &'p Profile, frames: &[FrameFacts<'p>], stack: &[FrameId]) -> StackFacts<'p> {
    let known = |id: &FrameId| frames.get(id.0 as usize);
    let mut facts = StackFacts {
        chain: Vec::new(),
        own_at: None,
        named_at: None,
        area: Area::User,
        call: None,
        work: None,
        marks: Marks::default(),
        made_application: false,
        kernel_only: true,
        user_path: 0xcbf2_9ce4_8422_2325,
    };
    let mut first_kernel = None;
    let mut leaf = None;
    let mut named = None;
    let mut standing = Standing::No;
    for (at, id) in stack.iter().enumerate() {
        let Some(frame) = known(id) else { continue };
        facts.marks = facts.marks.with(frame.marks);
        match frame.role {
            Role::Kernel => {
                first_kernel.get_or_insert(frame.marks);
                facts.call = facts.call.or(frame.call);
                continue;
            }
            Role::Note => continue,
            // Without a name beside named ones: a jump into a library, an assembly routine.
            Role::Application if frame.unnamed && named.is_some_and(|module| module == frame.module) => {}
            Role::Application => {
                if !frame.unnamed {
                    named = Some(frame.module);
                }
                facts.own_at = Some(at);
                facts.work = None;
                if let Some(function) = frame.function
                    && facts.chain.last() != Some(&function)
                {
                    facts.chain.push(function);
                }
            }
            // The outermost says what it is for: memory that an encoder asks for is encoding.
            Role::Library | Role::Runtime => facts.work = facts.work.or(frame.work),
        }
        facts.kernel_only = false;
        facts.user_path = (facts.user_path ^ u64::from(id.0)).wrapping_mul(0x0100_0000_01b3);
        let frame_of = profile.stacks.frame_of(*id);
        if frame.stands_in > Standing::No && frame.stands_in >= standing {
            standing = frame.stands_in;
            facts.named_at = Some(at);
        }
        if frame.made {
            facts.made_application = frame.role == Role::Application;
        }
        leaf = frame_of;
    }
    if let Some(entry) = first_kernel {
        facts.area = if facts.marks.any(Marks::FAULT) {
            Area::Fault
        } else if entry.any(Marks::INTERRUPT) {
            Area::Interrupt
        } else {
            Area::Call
        };
    }
    if facts.area == Area::Call && facts.call.is_none() {
        let module = leaf.map_or("", |frame| profile.stacks.text_of(frame.module));
        let in_c = module.starts_with("libc") || module.starts_with("libpthread") || module.starts_with("ld-musl");
        let name = leaf.map_or("", |frame| profile.stacks.text_of(frame.function));
        facts.call =
            (in_c && !name.is_empty()).then(|| mark::syscall_of_wrapper(name)).filter(|name| *name != "syscall");
    }
    facts
}
