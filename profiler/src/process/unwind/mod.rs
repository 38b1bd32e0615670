//! Unwind tables: an ELF file in, untrusted; a compact [`Table`] out, or the reason why there is none.
//!
//! ```
//! use profiler::process::unwind::{Limits, build};
//!
//! let program = std::fs::File::open("/proc/self/exe")?;
//! let table = build(&program, &Limits::default())?;
//! println!("{} rows, {:.2} bytes each", table.rows().len(), table.bytes() as f64 / table.rows().len() as f64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What comes in was made by whoever runs a container on this host, so nothing in it is believed: files are read with
//! pread ([`Source`]), every count is bounded before memory is taken or time is spent ([`Limits`]), nothing panics, and
//! there is no unsafe code in this room. See `docs/decisions/`.

mod build;
mod cfi;
mod code;
mod derived;
mod expression;
mod frame_section;
mod gaps;
mod go_functions;
mod identity;
mod image;
mod refused;
mod section;
mod source;
mod statistics;
mod table;
mod vdso;

pub use build::build;
pub use derived::{Agreement, agreement};
pub use identity::Identity;
pub use refused::Refused;
pub use source::Source;
pub use statistics::{Statistics, Unsupported};
pub use table::Table;
pub use vdso::build_vdso;

/// What building one table may take. The defaults let through everything that is found in practice, and keep a hostile
/// file to 64 MiB and about a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of unwind sections, unpacked.
    pub section_bytes: u64,
    /// Functions described.
    pub functions: u64,
    /// Call frame instructions run.
    pub instructions: u64,
    /// Rows of the table.
    pub rows: u64,
    /// Machine instructions followed where nothing else tells how to unwind; 0 leaves that out.
    pub derived_instructions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            section_bytes: 32 << 20,
            functions: 1 << 20,
            instructions: 32 << 20,
            rows: 4 << 20,
            derived_instructions: 2 << 20,
        }
    }
}

#[cfg(test)]
mod tests;
