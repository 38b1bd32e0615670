//! Plants: processes that each run inside the code of another file, however large that is, without running anything of it.
//!
//! The profiler must say: samples in each of these files, and hold unwind tables for all of them in the memory it is
//! allowed. One line of `{"binaries": N}` on standard output says that all run; they end with standard input.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Processes inside the code of other files.
#[derive(Parser)]
struct Options {
    /// Files, one process each
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// A loop of one instruction: `jmp` to itself.
const LOOP: [u8; 2] = [0xeb, 0xfe];

/// The processes; ended when dropped.
struct Children(Vec<libc::pid_t>);

impl Drop for Children {
    fn drop(&mut self) {
        for &pid in &self.0 {
            // SAFETY: takes no pointers; a child of ours that nobody has waited for, so the number is still its.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        for &pid in &self.0 {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
    }
}

fn main() -> Result<()> {
    let mut children = Children(Vec::new());
    for file in &Options::parse().files {
        children.0.push(start(file)?);
    }
    println!("{{\"binaries\": {}}}", children.0.len());
    // Whatever ends standard input, the processes end.
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    Ok(())
}

/// Starts a process that loops in the middle of a file's bytes, in a copy of that page which nobody else sees.
fn start(path: &Path) -> Result<libc::pid_t> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = file.metadata()?.len() as usize;
    if length < LOOP.len() {
        bail!("{} is too short", path.display());
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: a new mapping, at an address that the kernel picks; its result is looked at.
    let memory =
        unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if memory == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot map {}", path.display()));
    }
    // SAFETY: this process has one thread, so the child may go on as it is.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: takes no pointers. It would loop for ever if the parent were killed before it could end it.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: the middle of a mapping that is longer than the loop, writable, executable and this process's own.
        unsafe {
            let place = memory.cast::<u8>().add((length - LOOP.len()) / 2);
            place.copy_from_nonoverlapping(LOOP.as_ptr(), LOOP.len());
            let endless: extern "C" fn() -> ! = std::mem::transmute(place);
            endless();
        }
    }
    // SAFETY: mapped above, and used by the child alone, which has a mapping of its own.
    unsafe { libc::munmap(memory, length) };
    if pid < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot fork");
    }
    Ok(pid)
}
