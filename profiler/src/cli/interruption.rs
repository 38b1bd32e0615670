//! Signals that ask a recording to end. In: SIGINT, SIGTERM, SIGQUIT and SIGHUP. Out: one request after the other.

use std::{io, mem, ptr, time::Duration};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};

use crate::inherited;

/// Signals this close together are one request: `timeout` signals its child and then the group, systemd sends SIGHUP after
/// SIGTERM.
pub const ONE_REQUEST: Duration = Duration::from_millis(100);

/// Requests to end.
#[derive(Debug)]
pub struct Interruptions {
    pending: Signals,
    numbers: Vec<i32>,
}

/// While it lives, signals that ask for the end wait: this thread does not handle them, nor do threads that it starts.
#[derive(Debug)]
pub struct Postponed {
    before: libc::sigset_t,
}

impl Interruptions {
    /// From now on these signals do not end the process. A SIGHUP that was ignored (`nohup`) stays so.
    pub fn listen() -> io::Result<Self> {
        let mut signals = vec![SIGINT, SIGTERM, SIGQUIT];
        if !inherited::is_ignored(SIGHUP) {
            signals.push(SIGHUP);
        }
        Ok(Self { pending: Signals::new(&signals)?, numbers: signals })
    }

    /// Lets signals wait: the kernel breaks off what takes long, such as the check of a program, when one comes.
    pub fn postpone(&self) -> Postponed {
        // SAFETY: sets of signals are plain integers, for which zero is a value.
        let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { mem::zeroed() };
        // SAFETY: both sets are ours and outlive the calls.
        unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in &self.numbers {
                libc::sigaddset(&raw mut set, *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
        }
        Postponed { before }
    }

    /// A signal that has come since the last call, if one has.
    pub fn take(&mut self) -> Option<i32> {
        self.pending.pending().next()
    }

    /// Forgets what came with the request that was taken last.
    pub fn forget(&mut self) {
        self.pending.pending().for_each(drop);
    }
}

impl Drop for Postponed {
    fn drop(&mut self) {
        // SAFETY: the set was filled in when the signals were postponed.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postponed_signal_comes_afterwards() -> io::Result<()> {
        let mut interruptions = Interruptions::listen()?;
        let postponed = interruptions.postpone();
        // To this thread alone: others of the test's process do not postpone it.
        // SAFETY: takes no pointers.
        unsafe { libc::pthread_kill(libc::pthread_self(), SIGQUIT) };
        assert_eq!(interruptions.take(), None);
        drop(postponed);
        assert_eq!(interruptions.take(), Some(SIGQUIT));
        assert_eq!(interruptions.take(), None);
        Ok(())
    }
}
