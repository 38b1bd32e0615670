//! Memory that is not needed any more goes back to the system. In: nothing. Out: less resident memory.
//!
//! The kernel's types are read and forgotten, tables and symbols of one binary after the other; a daemon builds, compresses and forgets
//! window after window, and each request for a range makes and forgets profiles many times as large. glibc keeps what was freed, for
//! each thread apart: 60 MB of a daemon that needs 20. Told to share two pools, to take large blocks from the system and to give back
//! what lies unused, it is no slower at what is done here.

/// Blocks from this size on come from the system and go back to it when freed.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 64 << 10;

/// Pools: one for the threads that measure and keep, one for when it is taken.
#[cfg(target_env = "gnu")]
const POOLS: libc::c_int = 2;

/// Sets the allocator up. To be called before there are threads.
pub fn be_modest() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, POOLS), (libc::M_MMAP_THRESHOLD, LARGE_BYTES)] {
        // SAFETY: takes numbers; no other thread allocates yet.
        if unsafe { libc::mallopt(parameter, value) } != 1 {
            tracing::debug!("the allocator does not take {parameter} = {value}");
        }
    }
}

/// Gives back what lies unused.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_goes_back_to_the_system() {
        let before = resident_bytes();
        let mut blocks: Vec<Vec<u8>> = (0..8000).map(|_| vec![1; 32 << 10]).collect();
        let most = resident_bytes();
        assert!(most > before + (200 << 20), "{before} {most}");
        // The last block stays, so that the pool does not shrink by itself.
        blocks.drain(..7999);
        give_back();
        assert!(resident_bytes() < most - (150 << 20), "{} of {most}", resident_bytes());
        drop(blocks);
    }
}
