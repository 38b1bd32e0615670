//! Loading and attaching: sizes, constants, programs, and the order in which they start.

use std::{
    borrow::Cow,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, Map, Queue, RingBuf, Stack},
    programs::{BtfTracePoint, Iter, PerfEvent, Program, ProgramError},
};
use profiler_ebpf::{
    Account, CONTAINER_FIRST, Control, Counter, CpuState, Settings, map, record::RING_BYTES, settings::iterate,
    syscall::SYSCALLS, unwind::rule::RULES, unwind::storage::TABLES,
};

use super::{
    Kernel, KernelError, KernelOptions, Sizes,
    btf::KernelTypes,
    cast::Cast,
    containers::Indices,
    cost::Costs,
    cpus, drain,
    drainer::{AllRings, Drainer},
    idle::IdleClock,
    mapped::MappedArray,
    offsets,
    pairs::Pairs,
    records::Rings,
    rows::Rows,
    sampler::Sampler,
    syscalls, trial,
    unwind::UnwindMaps,
};

/// The compiled programs.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../profiler-ebpf/prebuilt/profiler.bpf.o");

/// Programs that follow the life of threads, processes and cgroups; always attached.
const LIFE: [&str; 4] = ["task_newtask", "sched_process_exec", "cgroup_mkdir", "cgroup_rmdir"];

/// Programs of the ledger; always attached.
const LEDGER: [&str; 4] = ["sched_switch", "sched_wakeup", "sched_wakeup_new", "sched_migrate_task"];

/// Memory that the accounts may take, of all CPUs together.
const ACCOUNT_BYTES: u32 = 64 << 20;

/// Walks over all threads until each has a slot, at most.
const MOST_WALKS: u32 = 20;

/// Memory of a thread's slot, with what the kernel keeps beside it, in bytes.
const SLOT_BYTES: u64 = 384;

/// Memory of a pair of which one waits behind the other, with what the kernel keeps beside it, in bytes.
const PAIR_BYTES: u64 = 64;

impl Sizes {
    pub(super) fn of(options: &KernelOptions) -> Result<Self, KernelError> {
        let cpus = cpus::possible().map_err(|source| KernelError::Machine { what: "the possible CPUs", source })?;
        if options.tiny_maps {
            return Ok(Self { cpus, containers: 8, syscall_rows: 8, ring_bytes: 4096 });
        }
        // Room for twice the cgroups there are and some more.
        let most = ACCOUNT_BYTES / (size_of::<Account>() as u32 * (cpus + 1));
        let by_cgroups = options.cgroups as u32 * 2 + 64;
        let containers = by_cgroups.max(options.least_containers).clamp(128, 4096).min(most.max(32));
        Ok(Self {
            cpus,
            containers,
            // A program calls some 25 different system calls in a window. Room that may stay empty is made smaller.
            syscall_rows: (options.cgroups as u32 * 24 + 1024).max(containers * 8).clamp(2048, 16_384),
            ring_bytes: RING_BYTES as u32,
        })
    }

    /// Pairs of containers of which one waits behind the other. Few of all that are possible ever meet.
    pub(super) fn waited_behind(self) -> u32 {
        (self.containers * 64).clamp(4096, 65_536)
    }

    /// An account for each container on each CPU, and one on none.
    fn accounts(self) -> usize {
        (self.cpus as usize + 1) * self.containers as usize
    }
}

impl Kernel {
    /// Loads and attaches the programs and gives every thread its slot. Nothing is recorded until [`Self::begin`].
    pub fn start(options: KernelOptions) -> Result<Self, KernelError> {
        check_lockdown()?;
        let sizes = Sizes::of(&options)?;
        let (mut ebpf, btf) = load_object(&options, sizes)?;
        let map_bytes = memory_of_maps(&ebpf);
        let mut maps = Maps { ebpf: &mut ebpf };
        let (cpus, containers) = (sizes.cpus as usize, sizes.containers as usize);
        let control = maps.array(map::CONTROL, 1)?;
        control.write(0, Control { mappings_generation: 1, ..Control::default() });
        let cpu_states = maps.array(map::CPUS, cpus)?;
        seed(&cpu_states);
        let accounts = maps.array(map::ACCOUNTS, sizes.accounts())?;
        let syscall_index = maps.array(map::SYSCALL_INDEX, containers * SYSCALLS)?;
        let syscall_rows = maps.array(map::SYSCALLS, 2 * sizes.syscall_rows as usize)?;
        let container_cgroups = maps.array(map::CONTAINER_CGROUPS, containers)?;
        let container_filter = maps.array(map::CONTAINER_FILTER, containers)?;
        let counters = maps.array(map::COUNTERS, cpus)?;
        let rings = AllRings::new(
            Rings::new(maps.array(map::ON_CPU_RINGS, cpus)?, sizes.ring_bytes),
            Rings::new(maps.array(map::OFF_CPU_RINGS, cpus)?, sizes.ring_bytes),
            Rings::new(maps.array(map::SYSCALL_RINGS, cpus)?, sizes.ring_bytes),
        );
        let drainer = Drainer::spawn(rings)
            .map_err(|source| KernelError::Machine { what: "the rings: no thread for it", source })?;
        maps.fill(&options, sizes)?;
        attach(&mut ebpf, &btf, &options)?;
        // A map may only leave the loader once every program that names it is loaded.
        let mut maps = Maps { ebpf: &mut ebpf };
        let events = RingBuf::try_from(maps.take(map::EVENTS)?).map_err(|error| wrong(map::EVENTS, &error))?;
        let waited_behind = maps.pairs(sizes.waited_behind())?;
        let unwind = if unwinds_by_tables() { Some(maps.unwind()?) } else { None };
        let given = HashMap::try_from(maps.take(map::CONTAINERS)?).map_err(|error| wrong(map::CONTAINERS, &error))?;
        let ready =
            Queue::try_from(maps.take(map::CONTAINER_FREE)?).map_err(|error| wrong(map::CONTAINER_FREE, &error))?;
        let free_rows =
            Stack::try_from(maps.take(map::SYSCALL_FREE)?).map_err(|error| wrong(map::SYSCALL_FREE, &error))?;
        let indices = Indices::new(given, ready, sizes.containers, options.cgroups);
        let log = if options.kernel_log { kernel_log(&mut ebpf) } else { None };
        let mut kernel = Self {
            ebpf,
            sizes,
            sampler: None,
            control,
            cpu_states,
            accounts,
            syscall_rows: Rows::new(syscall_index, syscall_rows, free_rows),
            container_cgroups,
            container_filter,
            counters,
            drainer,
            events,
            indices,
            waited_behind,
            unwind,
            log,
            map_bytes,
            costs: Costs::default(),
            idle: IdleClock::new(cpus),
            so_far: drain::SoFar::default(),
            options,
        };
        kernel.learn_timers()?;
        kernel.give_slots()?;
        kernel.select_threads()?;
        Ok(kernel)
    }

    /// Begins the first window.
    pub fn begin(&mut self) -> Result<(), KernelError> {
        self.begin_first_window()?;
        // Only now, so that every sample and every period due belongs to the window.
        if let Some(frequency_hz) = self.options.frequency_hz {
            let program: &mut PerfEvent = typed(&mut self.ebpf, "cpu_clock")?;
            let program = program.fd().map_err(|error| failed("attach", "cpu_clock", error))?.as_fd();
            self.sampler = Some(Sampler::start(program, frequency_hz)?);
        }
        Ok(())
    }

    /// The maps that user stacks are walked by, to be laid out before [`Self::begin`]; none where the kernel is too old (before
    /// 5.17, which has no loops of calls) and stacks are walked by frame pointers. Gone once taken.
    pub fn take_unwind_maps(&mut self) -> Option<UnwindMaps> {
        self.unwind.take()
    }

    /// Shows the programs a timer, by which they tell others'.
    fn learn_timers(&mut self) -> Result<(), KernelError> {
        let timer =
            rustix::time::timerfd_create(rustix::time::TimerfdClockId::Monotonic, rustix::time::TimerfdFlags::CLOEXEC)
                .map_err(|error| KernelError::Machine { what: "a timer of our own", source: error.into() })?;
        if let Some(control) = self.control.at(0) {
            // SAFETY: inside the mapping; only we write these members.
            unsafe {
                std::ptr::write_volatile(
                    &raw mut (*control).own_thread,
                    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(),
                );
                std::ptr::write_volatile(&raw mut (*control).own_timerfd, timer.as_raw_fd().unsigned_abs());
            }
        }
        self.walk_threads(iterate::LEARN)?;
        if self.control.read(0).is_none_or(|control| control.timer_operations == 0) {
            tracing::debug!("timers cannot be told from other files: reads of them count as blocked_other");
        }
        Ok(())
    }

    /// Gives every thread its slot. The kernel allocates them from a small reserve that it refills in the background, so
    /// several walks may be needed.
    pub(super) fn give_slots(&mut self) -> Result<(), KernelError> {
        self.create_slots()?;
        self.walk_threads(iterate::CORRECT)?;
        Ok(())
    }

    /// The same for threads that are known not to move meanwhile.
    pub(super) fn create_slots(&mut self) -> Result<(), KernelError> {
        let mut failed = self.counted(Counter::SlotNotCreated);
        for _ in 0..MOST_WALKS {
            self.walk_threads(iterate::CREATE)?;
            let now = self.counted(Counter::SlotNotCreated);
            if now == failed {
                break;
            }
            failed = now;
        }
        Ok(())
    }

    /// Lets the iterator walk over all threads and returns what it wrote.
    pub(super) fn walk_threads(&mut self, task: u32) -> Result<Vec<u8>, KernelError> {
        if let Some(control) = self.control.at(0) {
            // SAFETY: inside the mapping; only we write this member.
            unsafe { std::ptr::write_volatile(&raw mut (*control).iterate, task) };
        }
        let program: &mut Iter = typed(&mut self.ebpf, "iter_task")?;
        let link = program
            .attach()
            .and_then(|id| program.take_link(id))
            .map_err(|error| failed("attach", "iter_task", error))?;
        let mut file = link.into_file().map_err(|error| KernelError::Threads(io::Error::other(error)))?;
        let mut written = Vec::new();
        loop {
            match file.read_to_end(&mut written) {
                Ok(_) => return Ok(written),
                // A thread is to be shown once more, or so many were shown that the kernel takes a break.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(KernelError::Threads(error)),
            }
        }
    }

    /// Gives a container, known by its index, a verdict of [`super::filter`].
    pub fn set_filter(&self, container: u32, verdict: u8) {
        self.container_filter.write(container as usize, verdict);
    }

    /// Cgroup id of a container index; none if the index was not given to a cgroup.
    pub fn cgroup_of(&self, container: u32) -> Option<u64> {
        if container < CONTAINER_FIRST {
            return None;
        }
        self.container_cgroups.read(container as usize).filter(|cgroup| *cgroup != 0)
    }

    /// Number of container indices.
    pub fn containers(&self) -> u32 {
        self.sizes.containers
    }

    /// Memory of all maps in bytes, as the kernel accounts it, and of what has come into them since they were made: pairs of
    /// containers, and the slots of `threads` threads.
    pub fn map_bytes(&self, threads: u64) -> u64 {
        let (pairs, _) = self.waited_behind_use();
        self.map_bytes + pairs * PAIR_BYTES + threads * SLOT_BYTES
    }
}

pub(super) fn check_lockdown() -> Result<(), KernelError> {
    // Absent where the kernel has no lockdown.
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if modes.contains("[confidentiality]") {
        return Err(KernelError::Lockdown { mode: "confidentiality".to_owned() });
    }
    Ok(())
}

/// Creates the maps, with the running kernel's constants in place. No program is loaded yet.
pub(super) fn load_object(options: &KernelOptions, sizes: Sizes) -> Result<(Ebpf, Btf), KernelError> {
    let types = KernelTypes::of_running_kernel()?;
    let offsets = offsets::resolve(&types, &options.hierarchy)?;
    let cast = Cast::find(&types);
    let btf = types.hooks()?;
    drop(types);
    let settings = Settings {
        cpus: sizes.cpus,
        containers: sizes.containers,
        syscall_rows: sizes.syscall_rows,
        ring_bytes: sizes.ring_bytes,
        offcpu_threshold_ns: (options.offcpu_threshold.as_nanos() as u64).clamp(1, 4_000_000_000),
        hierarchy: options.hierarchy.number(),
        off_cpu: options.off_cpu.into(),
        user_stack_at_exit: options.off_cpu.into(),
        syscalls: options.syscalls.into(),
        filter_containers: options.filter_containers.into(),
        filter_processes: (!options.processes.is_empty() || !options.threads.is_empty()).into(),
        unwind: unwinds_by_tables().into(),
        files_struct_type: cast.map_or(0, |cast| cast.files_struct_type),
    };
    let mut object = cast.map_or(Cow::Borrowed(OBJECT), |cast| Cow::Owned(cast.called_in(OBJECT)));
    if let Some(program) = std::env::var(trial::FAIL_PROGRAM).ok().filter(|program| !program.is_empty()) {
        object = Cow::Owned(trial::refused(object.into_owned(), &program).ok_or_else(|| {
            let found = format!("{} names `{program}`, which is no kernel program", trial::FAIL_PROGRAM);
            KernelError::Machine { what: "the kernel programs", source: io::Error::other(found) }
        })?);
    }
    let classes = syscalls::classes();
    let log_level = if options.kernel_log { u8::MAX } else { 0 };
    let containers = sizes.containers;
    let ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .allow_unsupported_maps()
        .override_global("OFFSETS", bytes_of(&offsets), true)
        .override_global("SETTINGS", bytes_of(&settings), true)
        .override_global("SYSCALL_CLASSES", &classes[..], true)
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries(map::ACCOUNTS, sizes.accounts() as u32)
        .map_max_entries(map::CPUS, sizes.cpus)
        .map_max_entries(map::CONTAINERS, containers)
        .map_max_entries(map::CONTAINER_CGROUPS, containers)
        .map_max_entries(map::CONTAINER_FREE, containers)
        .map_max_entries(map::CONTAINER_FILTER, containers)
        .map_max_entries(map::WAITED_BEHIND, sizes.waited_behind())
        .map_max_entries(map::SYSCALL_INDEX, containers * SYSCALLS as u32)
        .map_max_entries(map::SYSCALLS, 2 * sizes.syscall_rows)
        .map_max_entries(map::SYSCALL_FREE, sizes.syscall_rows)
        .map_max_entries(map::ON_CPU_RINGS, sizes.cpus)
        .map_max_entries(map::OFF_CPU_RINGS, sizes.cpus)
        .map_max_entries(map::SYSCALL_RINGS, sizes.cpus)
        .map_max_entries(map::KERNEL_STACKS, sizes.cpus)
        .map_max_entries(map::COUNTERS, sizes.cpus)
        .map_max_entries(map::UNWIND_TABLES, TABLES)
        .map_max_entries(map::UNWIND_RULES, RULES as u32)
        .load(&object)
        .map_err(load_failed)?;
    Ok((ebpf, btf))
}

fn load_failed(error: aya::EbpfError) -> KernelError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if cause.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
            return KernelError::NotPermitted { what: "create BPF maps".to_owned(), missing: missing_capabilities() };
        }
        source = cause.source();
    }
    KernelError::Load(Box::new(error))
}

/// Names of the capabilities that are needed and not there.
fn missing_capabilities() -> String {
    use caps::{CapSet, Capability};
    let needed = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_PTRACE];
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) {
        return "CAP_SYS_ADMIN is held, but something else (seccomp, lockdown, a container's policy) forbids it; \
                CAP_BPF and CAP_PERFMON"
            .to_owned();
    }
    let missing: Vec<String> = needed
        .into_iter()
        .filter(|capability| !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false))
        .map(|capability| capability.to_string())
        .collect();
    missing.join(", ")
}

/// The contract's structs as bytes, for the loader.
fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the contract's structs are plain integers without padding (their sizes are asserted), borrowed as long as
    // the slice.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// The loaded maps, taken by name.
struct Maps<'a> {
    ebpf: &'a mut Ebpf,
}

impl Maps<'_> {
    fn take(&mut self, name: &'static str) -> Result<Map, KernelError> {
        self.ebpf.take_map(name).ok_or_else(|| no_such_map(name))
    }

    fn get(&mut self, name: &'static str) -> Result<&mut Map, KernelError> {
        self.ebpf.map_mut(name).ok_or_else(|| no_such_map(name))
    }

    /// Maps an array into memory.
    fn array<T>(&mut self, name: &'static str, length: usize) -> Result<MappedArray<T>, KernelError> {
        match self.get(name)? {
            Map::Array(data) => MappedArray::map(name, data.fd().as_fd(), length),
            _ => Err(KernelError::Map { map: name, source: io::Error::other("not an array") }),
        }
    }

    /// Who waited behind whom.
    fn pairs(&mut self, capacity: u32) -> Result<Pairs, KernelError> {
        let map = self.take(map::WAITED_BEHIND)?;
        let fd = match &map {
            Map::HashMap(data) => data.fd().as_fd().try_clone_to_owned(),
            _ => Err(io::Error::other("not a hash map")),
        }
        .map_err(|source| KernelError::Map { map: map::WAITED_BEHIND, source })?;
        let map = HashMap::try_from(map).map_err(|error| wrong(map::WAITED_BEHIND, &error))?;
        Ok(Pairs::new(map, fd, capacity))
    }

    /// What user stacks are walked by.
    fn unwind(&mut self) -> Result<UnwindMaps, KernelError> {
        let segments = match self.get(map::UNWIND_SEGMENTS)? {
            Map::ArrayOfMaps(data) => data.fd().as_fd().try_clone_to_owned(),
            _ => Err(io::Error::other("not an array of maps")),
        }
        .map_err(|source| KernelError::Map { map: map::UNWIND_SEGMENTS, source })?;
        let tables = self.array(map::UNWIND_TABLES, TABLES as usize)?;
        let rules = self.array(map::UNWIND_RULES, RULES)?;
        let processes = HashMap::try_from(self.take(map::UNWIND_PROCESSES)?)
            .map_err(|error| wrong(map::UNWIND_PROCESSES, &error))?;
        let control = self.array(map::CONTROL, 1)?;
        Ok(UnwindMaps::new(segments, processes, control, tables, rules))
    }

    /// Puts in what the programs expect to find.
    fn fill(&mut self, options: &KernelOptions, sizes: Sizes) -> Result<(), KernelError> {
        let mut ready: Queue<_, u32> =
            Queue::try_from(self.get(map::CONTAINER_FREE)?).map_err(|error| wrong(map::CONTAINER_FREE, &error))?;
        for index in Indices::first(sizes.containers, options.cgroups) {
            ready.push(index, 0).map_err(|error| wrong(map::CONTAINER_FREE, &error))?;
        }
        let mut rows: Stack<_, u32> =
            Stack::try_from(self.get(map::SYSCALL_FREE)?).map_err(|error| wrong(map::SYSCALL_FREE, &error))?;
        // What is put in last is taken first: memory is touched from the beginning on.
        for row in (0..sizes.syscall_rows).rev() {
            rows.push(row, 0).map_err(|error| wrong(map::SYSCALL_FREE, &error))?;
        }
        let mut selected: HashMap<_, u32, u32> =
            HashMap::try_from(self.get(map::SELECTED)?).map_err(|error| wrong(map::SELECTED, &error))?;
        for pid in &options.processes {
            selected.insert(pid, 1, 0).map_err(|error| wrong(map::SELECTED, &error))?;
        }
        Ok(())
    }
}

/// Whether the running kernel has what the walk by tables is made of: `bpf_loop`, from 5.17 on.
fn unwinds_by_tables() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|digits| digits.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 17)
}

fn no_such_map(map: &'static str) -> KernelError {
    KernelError::Map { map, source: io::Error::other("the object has no such map") }
}

pub(super) fn wrong(map: &'static str, error: &aya::maps::MapError) -> KernelError {
    KernelError::Map { map, source: io::Error::other(error.to_string()) }
}

/// What the kernel says all maps take, in bytes.
fn memory_of_maps(ebpf: &Ebpf) -> u64 {
    let mut bytes = 0;
    for (_, map) in ebpf.maps() {
        let fd = match map {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::Queue(data)
            | Map::Stack(data)
            | Map::RingBuf(data)
            | Map::Unsupported(data) => data.fd().as_fd().as_raw_fd(),
            _ => continue,
        };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let memory = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
        bytes += memory.unwrap_or(0);
    }
    bytes
}

/// Gives every CPU's random numbers a start that is not zero.
fn seed(states: &MappedArray<CpuState>) {
    for cpu in 0..states.len() {
        if let Some(state) = states.at(cpu) {
            let seed = super::sys::monotonic_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (cpu as u64 + 1);
            // SAFETY: inside the mapping; no program runs yet.
            unsafe { std::ptr::write_volatile(&raw mut (*state).random, seed | 1) };
        }
    }
}

fn kernel_log(ebpf: &mut Ebpf) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::warn!("the kernel programs' log cannot be read: {error}");
            None
        }
    }
}

/// Attaches in the order that leaves no gap: forks first, so that every thread gets a slot either there or by the
/// iterator, then the scheduler, then the rest.
pub(super) fn attach(ebpf: &mut Ebpf, btf: &Btf, options: &KernelOptions) -> Result<(), KernelError> {
    for program in LIFE.into_iter().chain(LEDGER) {
        attach_tracepoint(ebpf, btf, program, program)?;
    }
    let iterator: &mut Iter = typed(ebpf, "iter_task")?;
    iterator.load("task", btf).map_err(|error| failed("load", "iter_task", error))?;
    let sampler: &mut PerfEvent = typed(ebpf, "cpu_clock")?;
    sampler.load().map_err(|error| failed("load", "cpu_clock", error))?;
    if options.syscalls {
        attach_tracepoint(ebpf, btf, "sys_enter", "sys_enter")?;
    }
    if options.syscalls || options.off_cpu {
        attach_tracepoint(ebpf, btf, "sys_exit", "sys_exit")?;
    }
    Ok(())
}

pub(super) fn attach_tracepoint(ebpf: &mut Ebpf, btf: &Btf, name: &'static str, hook: &str) -> Result<(), KernelError> {
    let program: &mut BtfTracePoint = typed(ebpf, name)?;
    program.load(hook, btf).map_err(|error| failed("load", name, error))?;
    program.attach().map_err(|error| failed("attach", name, error))?;
    Ok(())
}

pub(super) fn typed<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, KernelError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| failed("load", name, ProgramError::NotLoaded))?
        .try_into()
        .map_err(|error| failed("load", name, error))
}

pub(super) fn failed(step: &'static str, program: &'static str, error: ProgramError) -> KernelError {
    let denied = match &error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EPERM),
        ProgramError::SyscallError(call) => call.io_error.raw_os_error() == Some(libc::EPERM),
        _ => false,
    };
    if denied {
        return KernelError::NotPermitted { what: format!("{step} `{program}`"), missing: missing_capabilities() };
    }
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            refused(step, program, &io_error, verifier_log.to_string())
        }
        error => KernelError::Program { step, program, why: in_one_line(&error), verifier_log: None },
    }
}

/// The verifier's reason is the last line of what it says, before its statistics; what comes before are the instructions it
/// went through.
fn refused(step: &'static str, program: &'static str, error: &io::Error, log: String) -> KernelError {
    const STATISTICS: [&str; 4] = ["processed ", "verification time ", "stack depth ", "mark_precise: "];
    let said = log.lines().rev().map(str::trim).find(|line| {
        !line.is_empty() && !STATISTICS.iter().any(|beginning| line.starts_with(beginning)) && !is_instruction(line)
    });
    let why = match said {
        Some(said) => format!("the kernel's verifier refuses it: {said} ({error})"),
        None => format!("the kernel refuses it: {error}"),
    };
    KernelError::Program { step, program, why, verifier_log: Some(log).filter(|log| !log.trim().is_empty()) }
}

/// Whether a line of the verifier's shows an instruction or where it came from: `12: (79) r1 = …`, `; let x`, `from 3 to 5: …`.
fn is_instruction(line: &str) -> bool {
    let number = line.split(':').next().unwrap_or_default();
    line.starts_with(';') || line.starts_with("from ") || (number != line && number.bytes().all(|b| b.is_ascii_digit()))
}

/// An error with its causes.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(log: &str) -> String {
        let log = log.to_owned();
        refused("load", "iter_task", &io::Error::from_raw_os_error(libc::EACCES), log).to_string()
    }

    #[test]
    fn a_refusal_is_one_line_with_the_verifiers_reason() {
        let log = "0: R1=ctx() R10=fp0\n; let on_cpu = task.on_cpu() @ kernel.rs:160\n105: (61) r1 = *(u32 *)(r6 +52)\n\
                   access beyond the end of member on_cpu (mend:53) in struct task_struct with off 52 size 4\n\
                   verification time 1874 usec\nstack depth 16\n\
                   processed 105 insns (limit 1000000) max_states_per_insn 0 total_states 5 peak_states 5 mark_read 2\n\n";
        let said = line(log);
        assert!(said.contains("iter_task") && said.contains("(mend:53) in struct task_struct"), "{said}");
        assert!(said.lines().count() == 1 && !said.contains("processed"), "{said}");
    }

    #[test]
    fn a_refusal_without_a_reason_tells_the_error() {
        for log in ["", "\n", "0: R1=ctx()\n1: (95) exit\nprocessed 2 insns (limit 1000000)"] {
            let said = line(log);
            assert!(said.contains("the kernel refuses it: Permission denied"), "{said}");
        }
    }
}
