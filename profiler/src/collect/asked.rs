//! Whether the processes that are to be measured can be. In: ids as the user wrote them. Out: nothing, or what is wrong.

use std::fs;

use super::CollectError;
use crate::process::Namespace;

/// Refuses what would record nothing: ids of nobody, of threads, and of another pid namespace.
pub(super) fn check(pids: &[u32]) -> Result<(), CollectError> {
    if pids.is_empty() {
        return Ok(());
    }
    if Namespace::Pid.is_of_our_own() {
        return Err(CollectError::PidNamespace);
    }
    pids.iter().try_for_each(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| CollectError::NoProcess(*pid))?;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        judge(*pid, &status, threads)
    })
}

/// What a status file says about an id, given how many threads its process has.
fn judge(pid: u32, status: &str, threads: usize) -> Result<(), CollectError> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    match field("Tgid:").parse::<u32>() {
        Ok(process) if process != pid => {
            return Err(CollectError::IsThread { thread: pid, name: field("Name:").to_owned(), process });
        }
        _ => {}
    }
    // A process whose first thread has ended lives on in the others.
    if field("State:").starts_with(['Z', 'X']) && threads <= 1 {
        return Err(CollectError::Ended(pid));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tworker\nState:\tS (sleeping)\nTgid:\t40\nPid:\t42\n";

    #[test]
    fn a_threads_id_is_told_with_its_process() {
        let error = judge(42, STATUS, 2).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("42 is a thread (worker) of process 40") && error.contains("--pid 40"), "{error}");
        assert!(judge(40, STATUS, 2).is_ok());
    }

    #[test]
    fn what_has_ended_is_refused_unless_other_threads_live_on() {
        let status = "Name:\tgone\nState:\tZ (zombie)\nTgid:\t7\n";
        assert!(matches!(judge(7, status, 1), Err(CollectError::Ended(7))));
        assert!(judge(7, status, 3).is_ok());
    }

    #[test]
    fn kernel_threads_can_be_asked_for() {
        assert!(judge(2, "Name:\tkthreadd\nState:\tS (sleeping)\nTgid:\t2\n", 1).is_ok());
    }
}
