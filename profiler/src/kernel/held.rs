//! A thread's time begins anew. In: a thread that waits to become the command. Out: a slot that knows nothing of before.
//!
//! The command's process exists before the programs are loaded, so that its id can be selected; until it is let go its time
//! is the profiler's. Its slot is removed while it is blocked, when no program touches it, and made again as those of all
//! threads are at the start.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::{Map, MapData};
use aya_obj::generated::bpf_cmd::BPF_MAP_DELETE_ELEM;
use profiler_ebpf::settings::iterate;

use super::{Kernel, KernelError, sys};

/// The map of threads' slots.
const TASKS: &str = "TASKS";

impl Kernel {
    /// Lets the time of a process begin now. It has one thread, and that one is blocked.
    pub fn begin_process_anew(&mut self, pid: u32) -> Result<(), KernelError> {
        self.forget_thread(pid).map_err(|source| KernelError::Map { map: TASKS, source })?;
        self.walk_threads(iterate::CREATE)?;
        Ok(())
    }

    fn forget_thread(&self, pid: u32) -> io::Result<()> {
        let no_such = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
        let pid = rustix::process::Pid::from_raw(pid as i32).ok_or_else(|| no_such("no process has the id 0"))?;
        let thread = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let map = self.ebpf.map(TASKS).ok_or_else(|| no_such("the object has no such map"))?;
        let data: &MapData = match map {
            Map::Unsupported(data) => data,
            _ => return Err(io::Error::other("not a task storage")),
        };
        let key = thread.as_raw_fd();
        let mut attr = sys::empty_attr();
        attr.__bindgen_anon_2.map_fd = data.fd().as_fd().as_raw_fd() as u32;
        attr.__bindgen_anon_2.key = (&raw const key) as u64;
        match sys::bpf(BPF_MAP_DELETE_ELEM as u32, &mut attr) {
            Ok(_) => Ok(()),
            // It had none.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
