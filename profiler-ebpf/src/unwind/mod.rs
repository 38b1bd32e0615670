//! Unwinding user stacks without frame pointers: the tables' layout, and the walker that reads them.
//!
//! The same code runs in the kernel programs, in userspace (threads that sit blocked when a window ends), in tests and in
//! fuzzers: [`walk::step`] goes one frame up and knows nothing but two traits, [`Memory`] and [`Tables`].
//!
//! # Addresses
//!
//! Tables speak of **file offsets**, not of virtual addresses: a mapping says which offset of which file its first address
//! shows, and that is all that is needed to get from a program counter to a row, table built or not.
//!
//! # What a builder of tables makes
//!
//! For one ELF file, its executable bytes cut into pages of 8 KiB of file offset, and for each page its [`Row`]s:
//!
//! - sorted by `pc_low`, each value once; **the first row of every page that has rows is at `pc_low` 0** (what the page
//!   before ended with, or [`rule::NO_INFO`]); a row holds until the next one or the page's end;
//! - neighbours with the same rule are one row;
//! - a page without rows means [`rule::NO_INFO`] throughout;
//! - `rule` is an index into the rules that the builder returns beside the rows, of which the first
//!   [`rule::WELL_KNOWN`] are always those of [`rule::well_known`]; whoever loads the table renumbers the others.
//!
//! Code of which nothing is said is `NO_INFO`: the walker takes its frame by the frame pointer. Where an FDE ends and no other
//! begins, a `NO_INFO` row must stand. Two kinds of code without FDE deserve rows all the same: entries of a procedure
//! linkage table (linkers other than GNU's say nothing of them: [`Rule::plt`]), and a signal's way back
//! (`mov $15, %rax; syscall` of musl and Go, [`Rule::signal`] from one byte *before* its first instruction, since it
//! is looked up as a return address).

pub mod lookup;
pub mod rule;
pub mod stop;
pub mod storage;
pub mod walk;

pub use rule::Rule;
pub use stop::Stop;
pub use storage::{Mapping, Page, ProcessEntry, Row, TableEntry};
pub use walk::{Memory, Tables, Walk};

/// User frames of one stack, at most.
pub const USER_FRAMES: usize = 256;

#[cfg(test)]
mod tests;
