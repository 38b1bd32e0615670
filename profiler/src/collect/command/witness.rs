//! Whether a signal was meant for the whole process group. In: a signal that this process got. Out: whether others of its
//! group got it too.
//!
//! A terminal sends SIGINT to the foreground group, `timeout` and `kill -- -PGID` send to a group as well: the command then
//! has the signal already, and a second one would make many programs give up their orderly end. What came with the signal
//! does not tell: `timeout` looks like `kill PID`. A process of the group that blocks all signals does: what was sent to
//! the group is pending there.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

/// What `ps` shows, so that the witness is not taken for the profiler by those who look for its name.
const NAME: &std::ffi::CStr = c"signal-witness";

/// A process of our group that does nothing but have signals pending. It ends with this process.
#[derive(Debug)]
pub(super) struct GroupWitness {
    pid: i32,
    /// Its end is what the witness waits for.
    _lifeline: OwnedFd,
}

impl GroupWitness {
    /// Forks. To be called while this process has one thread only.
    pub fn start() -> io::Result<Self> {
        let (held, lifeline) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let arguments = arguments_in(&fs::read_to_string("/proc/self/stat").unwrap_or_default());
        // SAFETY: sets of signals are plain integers, for which zero is a value, and are written by the calls below.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // Blocked before the fork, so that there is no moment in which a signal could end the child.
        // SAFETY: both sets are ours and outlive the calls.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        // SAFETY: only one thread exists; the child makes only async-signal-safe calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            wait_for_the_end(held.as_raw_fd(), arguments);
        }
        let error = io::Error::last_os_error();
        // SAFETY: the set was filled in above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
        if pid < 0 { Err(error) } else { Ok(Self { pid, _lifeline: lifeline }) }
    }

    /// Whether the group was sent this signal.
    pub fn saw(&self, signal: i32) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        is_pending(&status, signal)
    }
}

impl Drop for GroupWitness {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: our own child, which was not waited for before, so the id is still its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &raw mut status, 0);
        }
    }
}

/// Whether a process's status file says that the signal is pending for it.
fn is_pending(status: &str, signal: i32) -> bool {
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && pending & (1 << (signal - 1)) != 0
}

/// Where this process's arguments lie in memory (fields 48 and 49 of its stat file, which are its own to see).
fn arguments_in(stat: &str) -> Option<(usize, usize)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let mut address = || fields.next()?.parse::<usize>().ok();
    let (start, end) = (address()?, address()?);
    (start != 0 && start < end).then_some((start, end))
}

/// In the child: keeps nothing of what it inherited, and ends with the parent.
fn wait_for_the_end(held: i32, arguments: Option<(usize, usize)>) -> ! {
    let mut byte = 0_u8;
    // SAFETY: async-signal-safe calls only. The arguments' memory is the child's own copy, which the kernel wrote whole and
    // nothing of the child reads any more.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        if let Some((start, end)) = arguments {
            ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(start), 0, end - start);
        }
        if held > 0 {
            libc::syscall(libc::SYS_close_range, 0, held - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, held + 1, libc::c_uint::MAX, 0);
        // Nothing interrupts it: every signal that could is blocked.
        libc::read(held, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_is_a_bit_of_the_shared_set() {
        let status = "Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004002\nSigBlk:\tffff\n";
        assert!(is_pending(status, libc::SIGINT) && is_pending(status, libc::SIGTERM));
        assert!(!is_pending(status, libc::SIGHUP) && !is_pending(status, 0) && !is_pending("", libc::SIGINT));
    }

    #[test]
    fn this_process_knows_where_its_arguments_lie() -> io::Result<()> {
        let (start, end) = arguments_in(&fs::read_to_string("/proc/self/stat")?).unwrap_or_default();
        assert!(end > start, "{start} to {end}");
        assert_eq!(arguments_in("1 (x) S 0"), None);
        Ok(())
    }
}
