//! The vDSO: one image for all processes of this architecture. In: our own. Out: a file with it.

use std::fs::File;

use super::elf::memory_file;
use crate::process::own_vdso;

/// Copies our own vDSO into a file in memory; `None` where the kernel gives none.
pub(crate) fn dump() -> Option<File> {
    memory_file("vdso", &own_vdso()?).ok()
}
