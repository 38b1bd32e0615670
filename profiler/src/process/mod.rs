//! What runs: processes and their mappings, followed from exec, mmap and exit events. Addresses in, file offsets out.
//!
//! ```no_run
//! use profiler::process::{Leaf, Pid, Tracker, TrackerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tracker = Tracker::spawn(TrackerOptions::default())?;
//! let stack = [0x7f00_0000_1234, 0x5500_0000_4321];
//! let locations = tracker.call(move |table| table.normalize_stack(Pid(42), &stack, Leaf::Instruction, None))?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Tracker`] thread owns the [`ProcessTable`] and the [`sideband`] rings that feed it. A [`Module`] keeps the file
//! that was mapped open, so that what a [`Location`] says holds after the process is gone and the file is deleted or
//! replaced.

mod foreign;
mod life;
mod mappings;
mod memory;
mod module;
mod namespace;
mod perf_map;
pub mod sideband;
mod table;
mod tracker;
pub mod unwind;
mod vdso;
mod walk;

use std::sync::Arc;

pub use foreign::{Dependency, ForeignFile, ForeignFiles, Patience, ReadError, Subject, Unanswered, Unheard, Urgency};
pub use mappings::{Mapping, MappingKind, MappingLine, Mappings, parse_line};
pub use memory::{FramePointers, Registers, StackMemory, UserStack, walk_stack, walk_thread};
pub(crate) use module::open_regular;
pub use module::{FileIdentity, Module, ModuleCounters, ModuleId, Modules};
pub use namespace::Namespace;
pub use perf_map::{PerfMapFile, PerfMapRefusal, PerfMaps, perf_map_path};
pub use table::{ProcessCounters, ProcessTable};
pub use tracker::{Tracker, TrackerError, TrackerOptions};
pub(crate) use vdso::own_vdso;
pub use walk::{UnwinderCounters, UnwinderOptions};

/// A process, by its id in the initial pid namespace (what the kernel calls tgid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(pub u32);

/// A thread, by its id in the initial pid namespace (what the kernel calls pid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tid(pub u32);

/// Position of a byte in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileOffset(pub u64);

/// What the first address of a stack is. All others are return addresses, which lie one past the call: it may end its
/// function, so the byte before is what is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// The instruction that was interrupted.
    Instruction,
    /// A return address like the others: the innermost frames were skipped.
    ReturnAddress,
}

/// Where an address leads, independent of the process being alive.
#[derive(Debug, Clone)]
pub enum Location {
    /// Into a mapped file.
    Module {
        /// Which file.
        module: Arc<Module>,
        /// Which byte of it.
        offset: FileOffset,
    },
    /// Into the vDSO, this many bytes from its start.
    Vdso {
        /// Bytes from the start of the image.
        offset: u64,
    },
    /// Into executable memory without a file: code made at run time.
    Anonymous {
        /// Whose.
        pid: Pid,
        /// The address itself.
        address: u64,
        /// The files with names that its runtime left, as far as they are found by the time they are asked for.
        perf_maps: Arc<PerfMaps>,
    },
    /// Into the kernel.
    Kernel {
        /// The address itself.
        address: u64,
    },
    /// Nothing is known to be mapped there.
    Unknown {
        /// The address itself.
        address: u64,
    },
}

/// The bytes to look up for a kernel stack, leaf first.
pub fn kernel_locations(addresses: &[u64], leaf: Leaf) -> Vec<Location> {
    lookup_addresses(addresses, leaf).map(|address| Location::Kernel { address }).collect()
}

/// Turns return addresses into addresses of the call.
fn lookup_addresses(addresses: &[u64], leaf: Leaf) -> impl Iterator<Item = u64> + '_ {
    addresses.iter().enumerate().map(move |(position, &address)| {
        if position == 0 && leaf == Leaf::Instruction { address } else { address.saturating_sub(1) }
    })
}

/// Time since boot by the monotonic clock, in nanoseconds: the clock of every event here.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_an_interrupted_leaf_are_looked_up_one_byte_before() {
        let stack = [100, 200, 0];
        assert_eq!(lookup_addresses(&stack, Leaf::Instruction).collect::<Vec<_>>(), [100, 199, 0]);
        assert_eq!(lookup_addresses(&stack, Leaf::ReturnAddress).collect::<Vec<_>>(), [99, 199, 0]);
    }
}
