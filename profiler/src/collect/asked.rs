//! Which processes and threads are to be measured. In: ids as the user wrote them. Out: what the kernel side selects by, or what is
//! wrong with them.

use std::{fs, io};

use super::CollectError;
use crate::{kernel::sys, process::Namespace};

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Processes, whole.
    pub processes: Vec<u32>,
    /// Threads, each with its process.
    pub threads: Vec<(u32, u32)>,
}

impl Asked {
    /// Refuses what would record nothing: ids of nobody, and those of another pid namespace.
    pub fn find(ids: &[u32]) -> Result<Self, CollectError> {
        let mut asked = Self::default();
        if ids.is_empty() {
            return Ok(asked);
        }
        if Namespace::Pid.is_of_our_own() {
            return Err(CollectError::PidNamespace);
        }
        for id in ids {
            let status = fs::read_to_string(format!("/proc/{id}/status")).map_err(|_| CollectError::NoProcess(*id))?;
            let threads = fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count);
            match judge(*id, &status, threads)? {
                process if process == *id => asked.processes.push(process),
                process => {
                    sys::thread_descriptor(*id).map_err(|error| refused(*id, &status, process, &error))?;
                    asked.threads.push((*id, process));
                }
            }
        }
        // A thread of a process that is measured whole is measured already.
        let Self { processes, threads } = &mut asked;
        threads.retain(|(_, process)| !processes.contains(process));
        Ok(asked)
    }
}

fn refused(thread: u32, status: &str, process: u32, error: &io::Error) -> CollectError {
    if error.raw_os_error() == Some(libc::ESRCH) {
        return CollectError::NoProcess(thread);
    }
    CollectError::IsThread { thread, name: field(status, "Name:").to_owned(), process }
}

fn field<'s>(status: &'s str, name: &str) -> &'s str {
    status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim)
}

/// The process that an id belongs to, by its status file, given how many threads its process has.
fn judge(id: u32, status: &str, threads: usize) -> Result<u32, CollectError> {
    // A process whose first thread has ended lives on in the others.
    if field(status, "State:").starts_with(['Z', 'X']) && threads <= 1 {
        return Err(CollectError::Ended(id));
    }
    Ok(field(status, "Tgid:").parse().unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tworker\nState:\tS (sleeping)\nTgid:\t40\nPid:\t42\n";

    #[test]
    fn a_threads_id_is_told_from_its_processs() {
        assert!(matches!(judge(42, STATUS, 2), Ok(40)));
        assert!(matches!(judge(40, STATUS, 2), Ok(40)));
    }

    #[test]
    fn a_kernel_that_cannot_pick_threads_is_told_the_process_to_give() {
        let error = refused(42, STATUS, 40, &io::Error::from_raw_os_error(libc::EINVAL)).to_string();
        assert!(error.contains("42 is a thread (worker) of process 40") && error.contains("--pid 40"), "{error}");
        let gone = refused(42, STATUS, 40, &io::Error::from_raw_os_error(libc::ESRCH));
        assert!(matches!(gone, CollectError::NoProcess(42)));
    }

    #[test]
    fn what_has_ended_is_refused_unless_other_threads_live_on() {
        let status = "Name:\tgone\nState:\tZ (zombie)\nTgid:\t7\n";
        assert!(matches!(judge(7, status, 1), Err(CollectError::Ended(7))));
        assert!(matches!(judge(7, status, 3), Ok(7)));
    }

    #[test]
    fn kernel_threads_can_be_asked_for() {
        assert!(matches!(judge(2, "Name:\tkthreadd\nState:\tS (sleeping)\nTgid:\t2\n", 1), Ok(2)));
    }

    #[test]
    fn this_process_is_found_whole() -> Result<(), CollectError> {
        if Namespace::Pid.is_of_our_own() {
            return Ok(());
        }
        let own = std::process::id();
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert_eq!(Asked::find(&[own])?, Asked { processes: vec![own], threads: Vec::new() });
        assert_eq!(Asked::find(&[own, thread])?.threads, [], "its thread is in it");
        Ok(())
    }
}
