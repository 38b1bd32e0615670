//! A command to be profiled from its first instruction: forked at once, so that its process id can be selected in the
//! kernel, and let go when the programs watch.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use thiserror::Error;

/// Why a command does not run.
#[derive(Debug, Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("cannot run `{command}`: not found; check the name and PATH")]
    NotFound {
        /// As the user wrote it.
        command: String,
    },
    /// The program cannot be executed.
    #[error("cannot run `{command}`: {source}; is it executable?")]
    NotExecutable {
        /// As the user wrote it.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// The process could not be made.
    #[error("cannot start a process for `{command}`: {source}")]
    Process {
        /// As the user wrote it.
        command: String,
        /// Why.
        source: io::Error,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status.
    Exited(u8),
    /// A signal ended it.
    Killed(u8),
}

impl Outcome {
    /// The exit status that a shell would report.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Killed(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// A command whose process exists but does nothing yet.
#[derive(Debug)]
pub struct HeldCommand {
    name: String,
    pid: i32,
    release: Option<OwnedFd>,
    failure: OwnedFd,
    waited: bool,
}

impl HeldCommand {
    /// Forks. To be called while this process has one thread only.
    pub fn hold(command: &[OsString]) -> Result<Self, CommandError> {
        let name = command.first().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let process = |source: io::Error| CommandError::Process { command: name.clone(), source };
        let arguments: Vec<CString> = command
            .iter()
            .map(|argument| CString::new(argument.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|error| process(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let (held, release) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| process(e.into()))?;
        let (failure, failed) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| process(e.into()))?;
        // SAFETY: only one thread exists, so the child's memory is consistent; until it execs or exits it makes only
        // async-signal-safe calls on memory that was prepared before.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(process(io::Error::last_os_error())),
            0 => {
                // The parent's end must be closed here, or its death would never be noticed.
                drop(release);
                drop(failure);
                become_command(&held, &failed, &pointers)
            }
            pid => Ok(Self { name, pid, release: Some(release), failure, waited: false }),
        }
    }

    /// The process id, which stays the same when the command runs.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Lets it run. Returns when the program has begun, or failed to.
    pub fn release(&mut self) -> Result<(), CommandError> {
        let process = |source: io::Error| CommandError::Process { command: self.name.clone(), source };
        if let Some(release) = self.release.take() {
            std::fs::File::from(release).write_all(b"\n").map_err(process)?;
        }
        let mut errno = [0_u8; 4];
        let failure = self.failure.try_clone().map_err(process)?;
        match std::fs::File::from(failure).read(&mut errno) {
            Ok(4) => {
                let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                let command = self.name.clone();
                Err(if source.kind() == io::ErrorKind::NotFound {
                    CommandError::NotFound { command }
                } else {
                    CommandError::NotExecutable { command, source }
                })
            }
            // Closed by exec.
            Ok(_) => Ok(()),
            Err(error) => Err(process(error)),
        }
    }

    /// How it ended; `None` while it runs.
    pub fn poll(&mut self) -> io::Result<Option<Outcome>> {
        let mut status = 0;
        // SAFETY: waits for our own child, into a status of ours.
        match unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) } {
            0 => Ok(None),
            -1 => Err(io::Error::last_os_error()),
            _ => {
                self.waited = true;
                Ok(Some(if libc::WIFEXITED(status) {
                    Outcome::Exited(libc::WEXITSTATUS(status) as u8)
                } else {
                    Outcome::Killed(libc::WTERMSIG(status) as u8)
                }))
            }
        }
    }
}

impl Drop for HeldCommand {
    fn drop(&mut self) {
        // Never let go: it reads the end of its pipe and exits. Let go: it is the user's, and goes on.
        if self.release.take().is_some() && !self.waited {
            let mut status = 0;
            // SAFETY: waits for our own child, which is about to exit, into a status of ours.
            unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        }
    }
}

/// In the child: waits to be let go, then becomes the command.
fn become_command(held: &OwnedFd, failed: &OwnedFd, arguments: &[*const libc::c_char]) -> ! {
    let mut byte = [0_u8];
    // SAFETY: read, execvp, write and _exit are async-signal-safe; the pointers end with null and point into memory
    // that the fork copied.
    unsafe {
        if libc::read(held.as_raw_fd(), byte.as_mut_ptr().cast(), 1) == 1 {
            if let Some(program) = arguments.first().filter(|program| !program.is_null()) {
                libc::execvp(*program, arguments.as_ptr());
            }
            let errno = (*libc::__errno_location()).to_ne_bytes();
            libc::write(failed.as_raw_fd(), errno.as_ptr().cast(), errno.len());
        }
        libc::_exit(127)
    }
}

/// A command line as the user would type it.
pub fn displayed(command: &[OsString]) -> String {
    command.iter().map(OsString::as_os_str).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
