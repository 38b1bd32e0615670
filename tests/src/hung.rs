//! A file system that stops answering when it is told to, as that of a FUSE daemon that hangs or of a dead server does.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::requirement::missing;

/// Node numbers of the root and of its only file.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// Operations, by the numbers of `linux/fuse.h`.
mod operation {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const BATCH_FORGET: u32 = 42;
}

/// A mounted file system whose root has one file, `program`. Unmounted when dropped, whatever still uses it.
pub struct HungMount {
    directory: TempDir,
    server: Arc<Server>,
}

struct Server {
    device: File,
    program: Vec<u8>,
    hangs: AtomicBool,
    ends: AtomicBool,
    unanswered: Mutex<Vec<Vec<u8>>>,
}

impl HungMount {
    /// Mounts it with a copy of a program; it answers. `None` (and a word about why) where FUSE cannot be mounted.
    pub fn new(program: &Path) -> Result<Option<Self>> {
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            return missing("needs /dev/fuse");
        };
        let directory = tempfile::tempdir()?;
        let target = CString::new(directory.path().as_os_str().as_bytes())?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = CString::new(options)?;
        // SAFETY: all are strings that end in a null byte and outlive the call.
        let mounted =
            unsafe { libc::mount(c"hang".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast()) };
        if mounted != 0 {
            return missing("needs the right to mount FUSE");
        }
        let program = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        let server = Server {
            device,
            program,
            hangs: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            unanswered: Mutex::default(),
        };
        let server = Arc::new(server);
        let serving = Arc::clone(&server);
        thread::spawn(move || serving.serve());
        Ok(Some(Self { directory, server }))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its only file.
    pub fn program(&self) -> PathBuf {
        self.path().join("program")
    }

    /// From now on nothing is answered.
    pub fn hang(&self) {
        self.server.hangs.store(true, Ordering::SeqCst);
    }

    /// From now on everything is answered again, and first what was asked meanwhile.
    pub fn recover(&self) {
        self.server.hangs.store(false, Ordering::SeqCst);
        for request in self.server.unanswered().drain(..) {
            self.server.answer(&request);
        }
    }

    /// How many requests wait for an answer.
    pub fn waiting(&self) -> usize {
        self.server.unanswered().len()
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        // Taking it away looks at it.
        self.recover();
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
        // Once its server is gone, everything that waits is told so.
        self.server.ends.store(true, Ordering::SeqCst);
    }
}

impl Server {
    fn unanswered(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let interval = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut bytes = vec![0; 1 << 18];
        while !self.ends.load(Ordering::SeqCst) {
            if !poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&interval)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            let Ok(length) = (&self.device).read(&mut bytes) else { return };
            // Held while it is decided, so that what is asked is either answered now or found by `recover`.
            let mut unanswered = self.unanswered();
            if self.hangs.load(Ordering::SeqCst) {
                unanswered.push(bytes[..length].to_vec());
            } else {
                drop(unanswered);
                self.answer(&bytes[..length]);
            }
        }
    }

    /// Answers one request: a header of 40 bytes (length, operation, number, node, …), then what the operation wants to know.
    fn answer(&self, request: &[u8]) {
        let word =
            |at: usize| request.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (number, node) = (long(8), long(16));
        let answer = match word(4) {
            operation::FORGET | operation::BATCH_FORGET | operation::INTERRUPT => return,
            operation::INIT => Ok(initial()),
            operation::LOOKUP if request.get(40..).is_some_and(|name| name.starts_with(b"program\0")) => {
                // Node and generation; nothing of it is remembered (valid for 0 s and 0 ns).
                let mut entry = longs(&[FILE, 0, 0, 0, 0]);
                entry.extend(self.attributes(FILE));
                Ok(entry)
            }
            operation::LOOKUP => Err(libc::ENOENT),
            operation::GETATTR => {
                let mut attributes = longs(&[0, 0]);
                attributes.extend(self.attributes(node));
                Ok(attributes)
            }
            operation::OPEN | operation::OPENDIR => Ok(longs(&[1, 0])),
            operation::READ => {
                let (from, length) = (long(48) as usize, word(56) as usize);
                let rest = self.program.get(from..).unwrap_or_default();
                Ok(rest[..length.min(rest.len())].to_vec())
            }
            operation::FLUSH | operation::RELEASE | operation::RELEASEDIR => Ok(Vec::new()),
            _ => Err(libc::ENOSYS),
        };
        let (error, body) = answer.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_le_bytes());
        message.extend(error.to_le_bytes());
        message.extend(number.to_le_bytes());
        message.extend(body);
        // Whoever asked may have ended meanwhile.
        drop((&self.device).write(&message));
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (size, mode) = if node == ROOT { (0, 0o040_755) } else { (self.program.len() as u64, 0o100_755) };
        let mut bytes = longs(&[node, size, size.div_ceil(512), 0, 0, 0]);
        // Nanoseconds of three times, mode, links, user, group, device, block size, flags.
        bytes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_le_bytes));
        bytes
    }
}

/// Protocol 7.31, read-ahead of 64 KiB, no flags, writes of 64 KiB.
fn initial() -> Vec<u8> {
    let mut body: Vec<u8> = [7, 31, 65_536, 0, 0, 65_536, 1].into_iter().flat_map(u32::to_le_bytes).collect();
    body.resize(64, 0);
    body
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().copied().flat_map(u64::to_le_bytes).collect()
}
