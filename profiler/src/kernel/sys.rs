//! The few system calls that the library has no function for.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use aya_obj::generated::{
    bpf_attach_type::BPF_PERF_EVENT,
    bpf_attr,
    bpf_cmd::{BPF_ENABLE_STATS, BPF_LINK_CREATE, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_GET_NEXT_ID},
    bpf_prog_info,
};

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

/// Calls bpf(2).
pub(super) fn bpf(command: u32, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is a whole, initialized union that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An attribute of bpf(2) to fill in.
pub(super) fn empty_attr() -> bpf_attr {
    // SAFETY: a union of plain integers, for which zero is the documented default.
    unsafe { std::mem::zeroed() }
}

/// Attaches a program to a perf event that we keep.
pub fn link_perf_event(program: BorrowedFd<'_>, event: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    attr.link_create.attach_type = BPF_PERF_EVENT as u32;
    let fd = bpf(BPF_LINK_CREATE as u32, &mut attr)?;
    // SAFETY: a fresh descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lets the kernel count the run time of every program for as long as the result is kept.
pub fn enable_run_time_statistics() -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    let fd = bpf(BPF_ENABLE_STATS as u32, &mut attr)?;
    // SAFETY: a fresh descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What the kernel counts of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgramStatistics {
    /// Time in the program while statistics were on, in nanoseconds.
    pub run_time_ns: u64,
    /// Runs while statistics were on.
    pub runs: u64,
    /// Runs that the kernel skipped because the program was running already on that CPU.
    pub recursion_misses: u64,
}

/// Reads a program's statistics.
pub fn program_statistics(program: BorrowedFd<'_>) -> io::Result<ProgramStatistics> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = empty_attr();
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut info) as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD as u32, &mut attr)?;
    Ok(ProgramStatistics { run_time_ns: info.run_time_ns, runs: info.run_cnt, recursion_misses: info.recursion_misses })
}

/// Ids of the programs that are loaded, whoever loaded them. The kernel tells them to CAP_SYS_ADMIN.
pub fn loaded_programs() -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut attr = empty_attr();
    loop {
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = ids.last().copied().unwrap_or(0);
        match bpf(BPF_PROG_GET_NEXT_ID as u32, &mut attr) {
            // SAFETY: the call has filled in this member of the union; any value is an id.
            Ok(_) => ids.push(unsafe { attr.__bindgen_anon_6.next_id }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(ids),
            Err(error) => return Err(error),
        }
    }
}

/// Waits until every kernel program that was running has ended. Where the kernel refuses (nohz_full hosts), waits a fixed
/// time that is long against any program instead and returns false.
pub fn wait_for_programs() -> bool {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return true;
    }
    std::thread::sleep(Duration::from_millis(50));
    false
}

/// A descriptor of a single thread. Kernels before 6.9 know those of processes alone, and answer EINVAL.
pub fn thread_descriptor(thread: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, thread, PIDFD_THREAD) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
