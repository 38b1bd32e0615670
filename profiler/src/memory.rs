//! Memory that is not needed any more goes back to the system. In: nothing. Out: less resident memory.
//!
//! The kernel's types are read and forgotten, tables and symbols of one binary after the other; a daemon builds, compresses and forgets
//! window after window, a hundred thousand small pieces each, and among them lies what stays. The C library keeps what was freed
//! between pieces that stay, and looks for room among it: after minutes of churn half of its pool, and a fifth of the daemon's
//! time. jemalloc keeps pieces of one size together, gives pages back that hold none, and asks nothing of what it does not touch.

use std::{
    ffi::{CStr, c_char},
    hint::black_box,
    ptr,
};

/// How the allocator is set up: one pool for all threads, since they work one after the other on the same windows; what
/// was freed goes back after a second, or when [`give_back`] says so; threads keep little for themselves.
///
/// jemalloc finds it by its name.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Settings = Settings(c"narenas:1,tcache_max:4096,dirty_decay_ms:1000,muzzy_decay_ms:0".as_ptr());

#[repr(transparent)]
struct Settings(*const c_char);

// SAFETY: the pointer is to a constant.
unsafe impl Sync for Settings {}

/// What makes all pools give back what they hold unused: 4096 stands for all (`MALLCTL_ARENAS_ALL`).
const PURGE_ALL: &CStr = c"arena.4096.purge";

/// Gives back what lies unused. Without effect where the program has another allocator.
pub fn give_back() {
    // Nothing else refers to them, and what nothing refers to is not linked.
    black_box(&SETTINGS);
    // SAFETY: the name is a C string, and this control neither takes nor gives anything.
    let status =
        unsafe { tikv_jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) };
    if status != 0 {
        tracing::debug!("the allocator does not give back: {}", std::io::Error::from_raw_os_error(status));
    }
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

    /// As the program has it.
    #[global_allocator]
    static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

    fn pools() -> Result<u32, std::io::Error> {
        let (mut pools, mut length) = (0_u32, size_of::<u32>());
        let (into, name) = ((&raw mut pools).cast(), c"opt.narenas");
        // SAFETY: the name is a C string; this control gives an `unsigned`, for which there is room, and takes nothing.
        match unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), into, &raw mut length, ptr::null_mut(), 0) } {
            0 => Ok(pools),
            error => Err(std::io::Error::from_raw_os_error(error)),
        }
    }

    #[test]
    fn what_was_freed_goes_back_to_the_system() -> Result<(), std::io::Error> {
        assert_eq!(pools()?, 1, "the allocator did not find its settings");
        let before = resident_bytes();
        let mut blocks: Vec<Vec<u8>> = (0..80_000).map(|_| vec![1; 3 << 10]).collect();
        let most = resident_bytes();
        assert!(most > before + (200 << 20), "{before} {most}");
        // One in a hundred stays: pages among them go back all the same.
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 100 == 0
        });
        give_back();
        assert!(resident_bytes() < most - (150 << 20), "{} of {most}", resident_bytes());
        drop(blocks);
        Ok(())
    }
}
