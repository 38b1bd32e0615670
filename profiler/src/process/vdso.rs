//! The vDSO: one image for all processes of this architecture. In: our own memory. Out: its bytes.

use std::{fs::File, os::unix::fs::FileExt};

use super::parse_line;

/// Largest image that is believed.
const LARGEST: u64 = 1 << 20;

/// A copy of our own vDSO; `None` where the kernel gives none.
pub(crate) fn own_vdso() -> Option<Vec<u8>> {
    let maps = std::fs::read("/proc/self/maps").ok()?;
    let range = maps.split(|byte| *byte == b'\n').filter_map(parse_line).find(|line| line.name == "[vdso]")?;
    let length = range.end - range.start;
    if length > LARGEST {
        return None;
    }
    let mut image = vec![0; length as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut image, range.start).ok()?;
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_vdso_is_an_elf_image() {
        assert!(own_vdso().is_none_or(|image| image.starts_with(b"\x7fELF")));
    }
}
