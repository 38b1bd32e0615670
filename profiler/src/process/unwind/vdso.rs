//! The table of the vDSO, which is in no file. In: the memory of a process, and where its vDSO lies. Out: the table, its
//! file offsets counted from the first byte of the image.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Limits, Refused, Table, build};

/// Most bytes of a vDSO. It has two or four pages.
const BYTES_MAX: u64 = 1 << 20;

/// Builds the table of the image at `start..end`. `memory` is the process's `/proc/PID/mem`.
pub fn build_vdso(memory: &File, (start, end): (u64, u64), limits: &Limits) -> Result<Table, Refused> {
    let length = end.checked_sub(start).ok_or(Refused::Malformed("range of the vDSO"))?;
    if length > BYTES_MAX {
        return Err(Refused::TooLarge { what: "bytes of the vDSO", limit: BYTES_MAX });
    }
    let mut image = vec![0; length as usize];
    memory.read_exact_at(&mut image, start).map_err(Refused::Unreadable)?;
    build(image.as_slice(), limits)
}
