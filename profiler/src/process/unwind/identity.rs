//! Which binary a file holds. In: an open file. Out: a key under which its table may be shared between processes and
//! containers.

use std::fs::File;

use rustix::fs::fstat;

use super::image::Image;
use super::{Refused, Source};

/// What tells one binary from another.
///
/// A build id is chosen by whoever builds the file. That two files which share one also share their size and their
/// segments keeps accidents away, not malice: a forged copy of all three can spoil the stacks through the binary that it
/// poses as, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// By its build id, wherever the file lies.
    Build {
        /// The GNU build id.
        id: Box<[u8]>,
        /// Bytes of the file.
        size: u64,
        /// First byte in the file, bytes and address of each executable segment.
        code: Box<[(u64, u64, u64)]>,
    },
    /// By the file itself, where it has no build id.
    File {
        /// Device that it lies on.
        device: u64,
        /// Its inode.
        inode: u64,
        /// Bytes of the file.
        size: u64,
        /// When it was last written, in nanoseconds since 1970.
        modified_ns: i128,
    },
}

impl Identity {
    /// Reads the headers of a file.
    pub fn of(file: &File) -> Result<Self, Refused> {
        let image = Image::read_headers(file)?;
        let size = file.length()?;
        if let Some(id) = image.build_id {
            let code = image.segments.iter().filter(|segment| segment.executable);
            let code = code.map(|segment| (segment.offset, segment.file_size, segment.address)).collect();
            return Ok(Self::Build { id, size, code });
        }
        let status = fstat(file).map_err(|error| Refused::Unreadable(error.into()))?;
        Ok(Self::File {
            device: status.st_dev,
            inode: status.st_ino,
            size,
            modified_ns: i128::from(status.st_mtime) * 1_000_000_000 + i128::from(status.st_mtime_nsec),
        })
    }
}
