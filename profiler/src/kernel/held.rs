//! Slots of threads, made anew. In: a thread that is to be selected, or whose time is to begin now. Out: a slot that knows nothing
//! of before.
//!
//! Programs look whether a process is selected when they make a thread's slot, and no later. Removing one and letting the
//! iterator make it again, as those of all threads at the start, is therefore how a single thread is selected and how the time
//! of a command begins when its process, which existed before the programs were loaded, is let go.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::maps::{HashMap, Map};
use aya_obj::generated::bpf_cmd::BPF_MAP_DELETE_ELEM;
use profiler_ebpf::map;

use super::{Kernel, KernelError, load::wrong, sys};

/// The map of threads' slots.
const TASKS: &str = "TASKS";

impl Kernel {
    /// Lets the time of a process begin now. It has one thread, and that one is blocked.
    pub fn begin_process_anew(&mut self, pid: u32) -> Result<(), KernelError> {
        let failed = |source: io::Error| KernelError::Map { map: TASKS, source };
        let process = rustix::process::Pid::from_raw(pid as i32).ok_or_else(|| failed(no_such("process")))?;
        let descriptor = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())
            .map_err(|error| failed(error.into()))?;
        self.remove_slot(descriptor.as_fd()).map_err(failed)?;
        self.create_slots()
    }

    /// Selects the threads that were asked for: their processes are selected only while they get new slots. To be called before
    /// the first window.
    pub(super) fn select_threads(&mut self) -> Result<(), KernelError> {
        let threads = std::mem::take(&mut self.options.threads);
        if threads.is_empty() {
            return Ok(());
        }
        for (thread, process) in &threads {
            self.change_selected(|selected| selected.insert(process, 1, 0))?;
            match sys::thread_descriptor(*thread) {
                Ok(descriptor) => self.remove_slot(descriptor.as_fd()),
                // It has ended meanwhile: nothing of it will be seen, and the report says so.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                Err(error) => Err(error),
            }
            .map_err(|source| KernelError::Map { map: TASKS, source })?;
        }
        self.give_slots()?;
        // Several threads may be one process's.
        for process in threads.iter().map(|(_, process)| *process).collect::<BTreeSet<u32>>() {
            self.change_selected(|selected| selected.remove(&process))?;
        }
        self.options.threads = threads;
        Ok(())
    }

    fn change_selected(
        &mut self,
        change: impl FnOnce(&mut HashMap<&mut aya::maps::MapData, u32, u32>) -> Result<(), aya::maps::MapError>,
    ) -> Result<(), KernelError> {
        let found = self.ebpf.map_mut(map::SELECTED);
        let found = found.ok_or_else(|| KernelError::Map { map: map::SELECTED, source: no_such("map") })?;
        let mut selected = HashMap::try_from(found).map_err(|error| wrong(map::SELECTED, &error))?;
        change(&mut selected).map_err(|error| wrong(map::SELECTED, &error))
    }

    fn remove_slot(&self, thread: BorrowedFd<'_>) -> io::Result<()> {
        let map = match self.ebpf.map(TASKS) {
            Some(Map::Unsupported(data)) => data.fd().as_fd().as_raw_fd(),
            _ => return Err(no_such("map")),
        };
        let key = thread.as_raw_fd();
        let mut attr = sys::empty_attr();
        attr.__bindgen_anon_2.map_fd = map as u32;
        attr.__bindgen_anon_2.key = (&raw const key) as u64;
        match sys::bpf(BPF_MAP_DELETE_ELEM as u32, &mut attr) {
            Ok(_) => Ok(()),
            // It had none, or has ended.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn no_such(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such {what}"))
}
