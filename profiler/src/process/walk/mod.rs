//! Laying out what the walk of user stacks reads, and walking those that only userspace can. In: processes' mappings as they
//! change, and files' tables. Out: the kernel's memory filled, and stacks of threads that sleep.

mod builder;
mod lists;
mod patience;
mod places;
mod rules;
mod tables;
mod unwinder;

pub use unwinder::{Ask, Unwinder, UnwinderCounters, UnwinderOptions};

/// A row that names no rule of its table cannot be followed.
const UNKNOWN_RULE: u16 = profiler_ebpf::unwind::rule::UNSUPPORTED;
