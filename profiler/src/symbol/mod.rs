//! File offsets and kernel addresses in, function names out.
//!
//! ```no_run
//! use profiler::process::{Leaf, kernel_locations};
//! use profiler::symbol::{Options, Symbolizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let symbolizer = Symbolizer::spawn(Options::default())?;
//! for frames in symbolizer.resolve(kernel_locations(&[0xffff_ffff_8100_0000], Leaf::Instruction))? {
//!     for frame in frames.iter() {
//!         println!("{} {}", frame.module, frame.function);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A name is given only to addresses inside the symbol's own size; everything else is `[module+0xoffset]`. So a
//! symbol without a size (a label in assembly) names nothing, and what is inside a stripped binary stays a number.
//!
//! Binaries are other people's: their headers, symbols and debug sections are read with pread, checked against limits
//! and copied into memory of our own (see `elf`) before any parser sees them, so that a file that is truncated meanwhile
//! cannot raise SIGBUS. Whatever cannot be read is counted by reason and the recording goes on.

mod allowance;
mod demangle;
mod elf;
mod examine;
mod foreign;
mod function_file;
mod go_table;
mod jit_names;
mod kernel;
mod mini_debug;
mod name;
mod packed_names;
mod perf_map;
mod separate;
mod user;
mod vdso;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::process::Location;
use crate::profile::FrameKind;
pub use examine::{Examined, examine, names_in};
pub use user::Origin;
use worker::{Request, Worker};

/// What to look up, and how much memory it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// File and line and inlined functions, from DWARF: takes hundreds of megabytes for large binaries.
    pub lines: bool,
    /// Addresses whose names are remembered.
    pub cached_addresses: usize,
    /// Bytes of symbols and debug sections kept at a time, over all binaries.
    pub image_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { lines: false, cached_addresses: 65_536, image_bytes: 8 << 20 }
    }
}

/// One named frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedFrame {
    /// Demangled function name, or `[module+0xoffset]`.
    pub function: Arc<str>,
    /// Base name of the binary or library; `[kernel]`, `[bpf]`, `[vdso]`, `[jit]` or the kernel module's `[name]`;
    /// empty where nothing is known.
    pub module: Arc<str>,
    /// Where it runs, and whether it has a name.
    pub kind: FrameKind,
    /// Source file; empty if unknown or not asked for.
    pub file: Arc<str>,
    /// Source line; 0 if unknown or not asked for.
    pub line: u32,
    /// Why it has no name, as [`SymbolCounters::unresolved`] counts it; `None` if it has one.
    pub unresolved: Option<&'static str>,
}

impl ResolvedFrame {
    /// Whether the frame has a name. A kernel frame without one is of kind [`FrameKind::Kernel`] all the same.
    pub fn is_named(&self) -> bool {
        self.unresolved.is_none()
    }
}

/// The frames of one address, outermost first: a function, then what is inlined into it there. Never empty.
pub type ResolvedFrames = Arc<[ResolvedFrame]>;

/// How lookups ended. Addresses answered from memory count as they did the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymbolCounters {
    /// Addresses that got a name.
    pub resolved: u64,
    /// Addresses that got none, by reason.
    pub unresolved: BTreeMap<&'static str, u64>,
    /// What is amiss and what to do about it, in the user's words.
    pub notes: Vec<String>,
}

/// Why nothing can be looked up.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    /// The thread could not be started.
    #[error("cannot start the thread that looks up symbols: {0}")]
    Spawn(io::Error),
    /// The thread is gone.
    #[error("the thread that looks up symbols has ended")]
    Gone,
}

/// Handle on the thread that looks up names. Dropping it ends the thread.
#[derive(Debug)]
pub struct Symbolizer {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Symbolizer {
    /// Starts the thread.
    pub fn spawn(options: Options) -> Result<Self, SymbolError> {
        let (requests, inbox) = bounded(4);
        let builder = std::thread::Builder::new().name("symbols".into());
        let thread = builder.spawn(move || Worker::new(options).run(&inbox)).map_err(SymbolError::Spawn)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Names for locations, in their order.
    pub fn resolve(&self, locations: Vec<Location>) -> Result<Vec<ResolvedFrames>, SymbolError> {
        self.ask(locations)?.recv().map_err(|_| SymbolError::Gone)
    }

    /// Asks for names without waiting for them: the symbols of a large binary take seconds to read.
    pub fn ask(&self, locations: Vec<Location>) -> Result<Receiver<Vec<ResolvedFrames>>, SymbolError> {
        let (reply, answer) = bounded(1);
        self.send(Request::Resolve(locations, reply))?;
        Ok(answer)
    }

    /// Reads the kernel's list of symbols ahead of the first question, without waiting for it: it takes a while, which
    /// a recording has before its end.
    pub fn warm_up(&self) -> Result<(), SymbolError> {
        self.send(Request::WarmUp)
    }

    /// How lookups ended so far.
    pub fn counters(&self) -> Result<SymbolCounters, SymbolError> {
        let (reply, answer) = bounded(1);
        self.send(Request::Counters(reply))?;
        answer.recv().map_err(|_| SymbolError::Gone)
    }

    /// Lets the thread end when it likes: from now on it is asked nothing, and nobody waits for it.
    pub fn leave(&mut self) {
        self.requests = None;
        self.thread = None;
    }

    fn send(&self, request: Request) -> Result<(), SymbolError> {
        self.requests.as_ref().ok_or(SymbolError::Gone)?.send(request).map_err(|_| SymbolError::Gone)
    }
}

impl Drop for Symbolizer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The frames of locations that nobody will name any more.
pub fn numbers(locations: &[Location]) -> Vec<ResolvedFrames> {
    locations.iter().map(|location| worker::unnamed(location, Unresolved::EndedFirst)).collect()
}

/// Why an address has no name. Each is a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unresolved {
    /// No mapping covers the address.
    #[error("no mapping covers the address")]
    Unmapped,
    /// The mapped file could not be opened.
    #[error("the mapped file could not be opened")]
    NoFile,
    /// The file is not an ELF file.
    #[error("the file is not an ELF file")]
    NotElf,
    /// The file is an ELF file of another kind than 64-bit little-endian.
    #[error("the file is an ELF file of another kind than 64-bit little-endian")]
    Unsupported,
    /// The file ends before what its headers promise.
    #[error("the file ends before what its headers promise")]
    Truncated,
    /// The file's headers or symbols contradict themselves.
    #[error("the file's headers or symbols contradict themselves")]
    Malformed,
    /// The file's symbols exceed the memory limit.
    #[error("the file's symbols exceed the memory limit")]
    TooLarge,
    /// The file could not be read.
    #[error("the file could not be read")]
    Unreadable,
    /// The file has no function symbols.
    #[error("the file has no function symbols")]
    Stripped,
    /// No symbol's own size covers the address.
    #[error("no symbol's own size covers the address")]
    NoSymbol,
    /// The parser failed on this file.
    #[error("the parser failed on this file")]
    ParserFailed,
    /// Code made at run time, without a perf map.
    #[error("code made at run time, without a perf map")]
    NoPerfMap,
    /// Code made at run time, not in the perf map.
    #[error("code made at run time, not in the perf map")]
    NotInPerfMap,
    /// Code made at run time, not in what was read of a perf map beyond the limit.
    #[error("code made at run time, not in what was read of a perf map beyond the limit")]
    PerfMapTooLarge,
    /// Kernel addresses are hidden.
    #[error("kernel addresses are hidden")]
    KernelHidden,
    /// The file system of the file, or of its separate symbols, does not answer.
    #[error("the file system does not answer")]
    Unanswered,
    /// The collection was told to end before the name was found.
    #[error("the collection was told to end before the name was found")]
    EndedFirst,
}

impl Unresolved {
    /// Name of the counter.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unmapped => "unmapped",
            Self::NoFile => "file_unavailable",
            Self::NotElf => "not_elf",
            Self::Unsupported => "elf_unsupported",
            Self::Truncated => "elf_truncated",
            Self::Malformed => "elf_malformed",
            Self::TooLarge => "elf_too_large",
            Self::Unreadable => "file_unreadable",
            Self::Stripped => "stripped",
            Self::NoSymbol => "no_symbol",
            Self::ParserFailed => "parser_failed",
            Self::NoPerfMap => "no_perf_map",
            Self::NotInPerfMap => "not_in_perf_map",
            Self::PerfMapTooLarge => "perf_map_too_large",
            Self::KernelHidden => "kernel_hidden",
            Self::Unanswered => "file_unanswered",
            Self::EndedFirst => "ended_first",
        }
    }
}

#[cfg(test)]
mod tests;
