//! Where the bytes of an image come from. In: an open file, or bytes in memory. Out: reads at offsets that either give
//! all that was asked for or say why not.
//!
//! Files are read with pread and never mapped: whoever may write a mapped file could shrink it, and the access that
//! follows would end the profiler with SIGBUS.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, fstat};

use super::Refused;

/// Bytes that can be read at offsets.
pub trait Source {
    /// Length in bytes.
    fn length(&self) -> Result<u64, Refused>;

    /// Fills `bytes` from `offset` on.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Refused>;
}

impl Source for File {
    fn length(&self) -> Result<u64, Refused> {
        let status = fstat(self).map_err(|error| Refused::Unreadable(error.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Refused::NotAFile);
        }
        u64::try_from(status.st_size).map_err(|_| Refused::NotAFile)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        self.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            // The file is shorter than it was, or than its headers say.
            std::io::ErrorKind::UnexpectedEof => Refused::Truncated,
            _ => Refused::Unreadable(error),
        })
    }
}

impl Source for [u8] {
    fn length(&self) -> Result<u64, Refused> {
        Ok(self.len() as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        let start = usize::try_from(offset).map_err(|_| Refused::Truncated)?;
        let end = start.checked_add(bytes.len()).ok_or(Refused::Truncated)?;
        bytes.copy_from_slice(self.get(start..end).ok_or(Refused::Truncated)?);
        Ok(())
    }
}
