//! Whether this kernel lets us do what the programs need, found out by doing a little of it. Nothing stays behind.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_cmd::BPF_MAP_CREATE, bpf_map_type::BPF_MAP_TYPE_ARRAY};

use super::{HierarchyKind, KernelError, cpus, sampler, sys, trial};

const MEMBARRIER_CMD_QUERY: libc::c_int = 0;
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// Creates the smallest of all maps.
pub fn bpf_map() -> io::Result<()> {
    let mut attr = sys::empty_attr();
    attr.__bindgen_anon_1.map_type = BPF_MAP_TYPE_ARRAY as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = 8;
    attr.__bindgen_anon_1.max_entries = 1;
    sys::bpf(BPF_MAP_CREATE as u32, &mut attr).map(close)
}

/// Opens a sampling event on one online CPU, without starting it.
pub fn sampling_event() -> io::Result<()> {
    let cpu = cpus::online()?.first().copied().unwrap_or(0);
    sampler::open_event(cpu, u64::from(u32::MAX)).map(drop)
}

/// Loads and attaches every program that a recording does, and takes all away again.
pub fn programs(hierarchy: HierarchyKind) -> Result<(), KernelError> {
    trial::load_and_attach_all(hierarchy)
}

/// Lets the kernel count the run time of programs, for an instant.
pub fn run_time_statistics() -> io::Result<()> {
    sys::enable_run_time_statistics().map(drop)
}

/// Whether membarrier(2) waits for kernel programs; nohz_full hosts refuse that, and some sandboxes the call.
pub fn grace_period() -> bool {
    // SAFETY: takes no pointers.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) };
    commands >= 0 && commands & MEMBARRIER_CMD_GLOBAL != 0
}

fn close(fd: libc::c_long) {
    // SAFETY: a fresh descriptor, owned by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Privileged or not, a probe answers, and a refusal is the kernel's.
    #[test]
    fn a_probe_works_or_says_what_the_kernel_said() {
        for result in [bpf_map(), sampling_event(), run_time_statistics()] {
            if let Err(error) = result {
                assert!(error.raw_os_error().is_some(), "{error}");
            }
        }
        grace_period();
    }
}
