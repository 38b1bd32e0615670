//! Why a file has no unwind table. In: what the builder met. Out: a reason with a name, to be counted and shown.

use std::io;

/// Why no table was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Reading failed.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is a device, a pipe, a directory.
    #[error("it is not a regular file")]
    NotAFile,
    /// It ends before what its headers promise.
    #[error("it ends before what its headers promise: it is damaged, or being written")]
    Truncated,
    /// It is not an ELF executable or library.
    #[error("it is not an ELF executable or library")]
    NotElf,
    /// It is for another processor, for 32 bits, or big-endian.
    #[error("it is not for 64-bit x86")]
    OtherMachine,
    /// Its headers contradict themselves.
    #[error("its headers are malformed: {0}")]
    Malformed(&'static str),
    /// It has neither .eh_frame nor .debug_frame, and is not Go's.
    #[error("it carries no unwind information; frame pointers are followed instead")]
    NoUnwindInfo,
    /// A limit on memory or time was reached.
    #[error("it asks for more than the limit of {limit} {what}")]
    TooLarge {
        /// What there was too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl Refused {
    /// Name of the reason, as counters and coverage call it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::NotAFile => "not_a_file",
            Self::Truncated => "truncated",
            Self::NotElf => "not_elf",
            Self::OtherMachine => "other_machine",
            Self::Malformed(_) => "malformed",
            Self::NoUnwindInfo => "no_unwind_info",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// Every name that [`Self::as_str`] gives.
    pub const NAMES: [&'static str; 8] = [
        "unreadable",
        "not_a_file",
        "truncated",
        "not_elf",
        "other_machine",
        "malformed",
        "no_unwind_info",
        "too_large",
    ];
}
