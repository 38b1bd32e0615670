//! A command to be profiled from its first instruction: forked at once, so that its process id can be selected in the
//! kernel, and let go when the programs watch.
//!
//! It runs as it would without us: in our process group, with the descriptors, limits, signal mask and dispositions that this
//! process was started with. Which file it is was found out before, so that the child only calls execve(2).

mod descendants;
mod search;
mod witness;

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use thiserror::Error;

use crate::inherited;
use witness::GroupWitness;

/// What runs files that are executable but no program: scripts that do not say what they are for, as execvp(3) does.
const SHELL: &CStr = c"/bin/sh";

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
    /// None where it could not be started: signals are then passed on whoever else got them.
    witness: Option<GroupWitness>,
}

/// What the child needs, laid out before the fork.
struct Program {
    file: CString,
    arguments: Vec<CString>,
}

impl Program {
    fn of(command: &[OsString]) -> io::Result<Self> {
        let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let file = search::find(name, std::env::var_os("PATH").as_deref())?;
        let text = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
        };
        Ok(Self {
            file: text(file.as_os_str())?,
            arguments: command.iter().map(|argument| text(argument)).collect::<Result<_, _>>()?,
        })
    }

    /// The arguments as execve(2) takes them, and those with which the shell would run the file.
    fn pointers(&self) -> [Vec<*const libc::c_char>; 2] {
        let arguments = self.arguments.iter().map(|argument| argument.as_ptr());
        let by_shell = [SHELL.as_ptr(), self.file.as_ptr()].into_iter().chain(arguments.clone().skip(1));
        [arguments.chain([std::ptr::null()]).collect(), by_shell.chain([std::ptr::null()]).collect()]
    }
}

impl HeldCommand {
    /// Forks. To be called while this process has one thread only, and before it handles signals.
    pub fn hold(command: &[OsString]) -> Result<Self, CommandError> {
        let name = command.first().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let process = |source: io::Error| CommandError::Process { command: name.clone(), source };
        let program = Program::of(command).map_err(|error| not_run(&name, error))?;
        let [arguments, by_shell] = program.pointers();
        let witness = GroupWitness::start()
            .inspect_err(|error| tracing::warn!("signals for the whole process group cannot be told apart: {error}"))
            .ok();
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
                become_command(&held, &failed, &program.file, &arguments, &by_shell)
            }
            pid => {
                wait_for_children();
                Ok(Self { name, pid, release: Some(release), failure, waited: false, witness })
            }
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
            Ok(4) => Err(not_run(&self.name, io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))),
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

/// What to do with a command when this process is told to end.
impl HeldCommand {
    /// Whether the signal was sent to the whole process group, and so to the command as well.
    pub fn has_got(&self, signal: i32) -> bool {
        self.witness.as_ref().is_some_and(|witness| witness.saw(signal))
    }

    /// Passes a signal on to the command's process.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if self.waited {
            return Ok(());
        }
        // SAFETY: takes no pointers; our own child, which was not waited for, so the id is still its own.
        if unsafe { libc::kill(self.pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Kills the command and all that descends from it.
    pub fn kill(&self) -> io::Result<()> {
        let descendants = descendants::of(self.pid);
        self.signal(libc::SIGKILL)?;
        for pid in descendants {
            // One that has ended by now is no failure.
            // SAFETY: takes no pointers.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        Ok(())
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

fn not_run(name: &str, source: io::Error) -> CommandError {
    let command = name.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => CommandError::NotFound { command },
        _ => CommandError::NotExecutable { command, source },
    }
}

/// Where SIGCHLD is ignored, children leave no status behind. The command keeps what we were started with: it was forked
/// before.
fn wait_for_children() {
    if inherited::is_ignored(libc::SIGCHLD) {
        // SAFETY: installs no handler of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    }
}

/// In the child: waits to be let go, then becomes the command.
fn become_command(
    held: &OwnedFd,
    failed: &OwnedFd,
    file: &CStr,
    arguments: &[*const libc::c_char],
    by_shell: &[*const libc::c_char],
) -> ! {
    let mut byte = [0_u8];
    // SAFETY: signal, close, read, execv, write and _exit are async-signal-safe; the lists end with null and point into
    // memory that the fork copied.
    unsafe {
        if !inherited::sigpipe_was_ignored() {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        for descriptor in inherited::closed_descriptors() {
            libc::close(descriptor);
        }
        if libc::read(held.as_raw_fd(), byte.as_mut_ptr().cast(), 1) == 1 {
            libc::execv(file.as_ptr(), arguments.as_ptr());
            let mut errno = *libc::__errno_location();
            if errno == libc::ENOEXEC {
                libc::execv(SHELL.as_ptr(), by_shell.as_ptr());
                errno = *libc::__errno_location();
            }
            let errno = errno.to_ne_bytes();
            libc::write(failed.as_raw_fd(), errno.as_ptr().cast(), errno.len());
        }
        libc::_exit(127)
    }
}

/// A command line as the user would type it.
pub fn displayed(command: &[OsString]) -> String {
    command.iter().map(OsString::as_os_str).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
