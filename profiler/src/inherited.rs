//! What this process was started with, before the language's runtime changed it: it ignores SIGPIPE and opens descriptors 0
//! to 2 where they are closed. In: a call before `main`. Out: what a command that we start has to be given back.

use std::sync::atomic::{AtomicU8, Ordering};

const SIGPIPE_IGNORED: u8 = 1 << 3;

/// One bit for each of the descriptors 0 to 2 that was closed, and [`SIGPIPE_IGNORED`]. Written once, before there is a second
/// thread.
static STATE: AtomicU8 = AtomicU8::new(0);

/// Looks. To be called before `main`, from the table of constructors: the runtime leaves no other moment.
pub extern "C" fn note() {
    let mut state = 0;
    for descriptor in 0..3 {
        // SAFETY: takes no pointers.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            state |= 1 << descriptor;
        }
    }
    if is_ignored(libc::SIGPIPE) {
        state |= SIGPIPE_IGNORED;
    }
    STATE.store(state, Ordering::Relaxed);
}

/// Whether SIGPIPE was ignored.
pub fn sigpipe_was_ignored() -> bool {
    STATE.load(Ordering::Relaxed) & SIGPIPE_IGNORED != 0
}

/// Those of the descriptors 0 to 2 that were closed.
pub fn closed_descriptors() -> impl Iterator<Item = i32> {
    let state = STATE.load(Ordering::Relaxed);
    (0..3).filter(move |descriptor| state & (1 << descriptor) != 0)
}

/// Whether this process ignores a signal now.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: plain integers and pointers, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only, into a structure of ours.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}
