//! Kernel programs in, raw windows out: load, attach, drain. The only room that knows aya.
//!
//! [`Kernel::start`] loads the programs with the running kernel's offsets and gives every thread its slot;
//! [`Kernel::begin`] begins a window.
//! While it runs, [`Kernel::drain_records`] and [`Kernel::drain_events`] take what has gathered;
//! [`Kernel::end_window`] flips to the other generation, waits until no program writes to the old one, settles what is
//! still open and returns the whole window.

pub mod btf;
mod cast;
mod containers;
mod cost;
pub mod cpus;
mod drain;
mod drainer;
mod error;
mod held;
mod idle;
mod load;
mod mapped;
pub mod offsets;
mod pairs;
pub mod probe;
mod records;
mod rows;
mod sampler;
pub mod sys;
pub mod syscalls;
mod trial;
mod unwind;

pub use drain::{LedgerAccount, RawWindow, SyscallAccount};
pub use error::KernelError;
pub use offsets::HierarchyKind;
pub use profiler_ebpf::{Counter, EventKind, RecordHeader, RecordKind, settings::filter};
pub use records::{Record, parse_all};
pub use trial::EmptyPrograms;
pub use unwind::{Announcement, GracePeriod, UnwindMaps};

use std::time::Duration;

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use profiler_ebpf::{Account, Control, CpuState, settings::COUNTERS};

use containers::Indices;
use drainer::Drainer;
use mapped::MappedArray;
use rows::Rows;
use sampler::Sampler;

/// What to measure, and how.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether one thing is asked for")]
pub struct KernelOptions {
    /// Sample on-CPU stacks at this frequency in hertz; `None` for not at all.
    pub frequency_hz: Option<u32>,
    /// Sample off-CPU stacks.
    pub off_cpu: bool,
    /// Count syscalls.
    pub syscalls: bool,
    /// T: gaps shorter than this are sampled with probability gap / T. At most 4 s.
    pub offcpu_threshold: Duration,
    /// Where containers' cgroup ids come from.
    pub hierarchy: HierarchyKind,
    /// Cgroups that exist already: room is made for four times as many.
    pub cgroups: usize,
    /// Make room for at least this many cgroups at a time: a program that runs for months starts before its containers.
    pub least_containers: u32,
    /// Whether containers are filtered; verdicts are given by [`Kernel::set_filter`].
    pub filter_containers: bool,
    /// Measure only these processes and their children, if there are any.
    pub processes: Vec<u32>,
    /// And these threads, each with its process.
    pub threads: Vec<(u32, u32)>,
    /// Write the programs' debugging messages to the log.
    pub kernel_log: bool,
    /// Make rings and tables so small that losses occur, to test that they are counted.
    pub tiny_maps: bool,
}

/// How large the tables are.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    cpus: u32,
    containers: u32,
    syscall_rows: u32,
    ring_bytes: u32,
}

/// The loaded programs and everything that is read from them.
pub struct Kernel {
    ebpf: Ebpf,
    options: KernelOptions,
    sizes: Sizes,
    sampler: Option<Sampler>,
    control: MappedArray<Control>,
    cpu_states: MappedArray<CpuState>,
    accounts: MappedArray<Account>,
    syscall_rows: Rows,
    container_cgroups: MappedArray<u64>,
    container_filter: MappedArray<u8>,
    counters: MappedArray<[u64; COUNTERS]>,
    drainer: Drainer,
    events: RingBuf<MapData>,
    indices: Indices,
    waited_behind: pairs::Pairs,
    /// Until they are taken.
    unwind: Option<UnwindMaps>,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    /// Memory of all maps in bytes, as the kernel accounts it.
    map_bytes: u64,
    costs: cost::Costs,
    idle: idle::IdleClock,
    so_far: drain::SoFar,
}
