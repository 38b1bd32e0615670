//! News of processes from the kernel. In: a dummy software perf event on every online CPU, with the records that ride
//! along. Out: fork, exec, command name, mapping and exit events in the order of their time.
//!
//! perf events need neither kprobes nor tracefs, and their mmap records carry path, device and inode of every
//! executable mapping: what a process of a few milliseconds leaves behind. The kernel can put a build id there instead
//! of device and inode; that is not asked for, since many binaries (Go, static ones) have none.

mod record;
mod ring;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::{FileIdentity, Pid, Tid, monotonic_ns};
use record::{Parsed, parse_record};
use ring::Ring;

/// Why the rings could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SidebandError {
    /// The kernel refused the event.
    #[error("cannot open a perf event for process events on CPU {cpu}: {source}; CAP_PERFMON is needed")]
    Open {
        /// On which CPU.
        cpu: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the ring's memory.
    #[error("cannot map the ring of process events on CPU {cpu}: {source}; raise kernel.perf_event_mlock_kb")]
    Map {
        /// On which CPU.
        cpu: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The list of CPUs could not be read.
    #[error("cannot read /sys/devices/system/cpu/online: {0}")]
    Cpus(io::Error),
}

/// One event in the life of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, by the monotonic clock, in nanoseconds.
    pub at_ns: u64,
    /// Whose.
    pub pid: Pid,
    /// Which thread.
    pub tid: Tid,
    /// What happened.
    pub what: What,
}

/// What happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It was born; with `pid` = `parent` only a thread was.
    Fork {
        /// Its parent.
        parent: Pid,
    },
    /// It became another program; all mappings are gone.
    Exec {
        /// Name of the new program.
        command: String,
    },
    /// A thread took a name.
    Comm {
        /// The name.
        command: String,
    },
    /// It mapped memory for execution.
    Mmap {
        /// First address.
        start: u64,
        /// Length in bytes.
        length: u64,
        /// File offset of the first address, in bytes.
        offset: u64,
        /// Which file; inode 0 without one.
        file: FileIdentity,
        /// Path in the process's mount namespace; `//anon` and the like without a file.
        path: OsString,
    },
    /// A thread ended; the process too, if it was the last.
    Exit,
    /// The ring was full.
    Lost {
        /// How many events are missing.
        count: u64,
    },
}

/// The rings of all CPUs.
#[derive(Debug)]
pub struct Sideband {
    rings: Vec<Ring>,
    pending: Vec<Event>,
    lost: u64,
    malformed: u64,
}

impl Sideband {
    /// Opens a ring on every online CPU.
    pub fn open() -> Result<Self, SidebandError> {
        let mut sideband = Self { rings: Vec::new(), pending: Vec::new(), lost: 0, malformed: 0 };
        sideband.follow_cpus()?;
        Ok(sideband)
    }

    /// Opens rings on CPUs that came online and drops those of CPUs that went: events stay off there even when the
    /// CPU returns.
    pub fn follow_cpus(&mut self) -> Result<(), SidebandError> {
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").map_err(SidebandError::Cpus)?;
        let online = parse_cpu_list(&online);
        self.rings.retain(|ring| online.contains(&ring.cpu()));
        for cpu in online {
            if self.rings.iter().all(|ring| ring.cpu() != cpu) {
                self.rings.push(Ring::open(cpu)?);
            }
        }
        Ok(())
    }

    /// Descriptors that are readable when events wait.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(|ring| ring.file().as_fd())
    }

    /// Appends waiting events in the order of their time.
    ///
    /// While one ring is read, another CPU may write an earlier event to a ring that was read already. So what is younger
    /// than the start of this call stays for the next one.
    pub fn drain(&mut self, events: &mut Vec<Event>) {
        let started = monotonic_ns();
        for ring in &mut self.rings {
            ring.drain(|record| match parse_record(record) {
                Some(Parsed::Event(event)) => {
                    if let What::Lost { count } = event.what {
                        self.lost += count;
                    }
                    self.pending.push(event);
                }
                Some(Parsed::Other) => {}
                None => self.malformed += 1,
            });
        }
        self.pending.sort_by_key(|event| event.at_ns);
        let settled = self.pending.partition_point(|event| event.at_ns <= started);
        events.extend(self.pending.drain(..settled));
    }

    /// Whether events stay for the next [`Self::drain`].
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Events that the kernel could not store, ever since opening.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Records that could not be read, ever since opening.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

/// `0-3,8` as numbers; what is not a number is left out.
fn parse_cpu_list(list: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{TestResult, skip};

    #[test]
    fn a_cpu_list_is_read() {
        assert_eq!(parse_cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("\n"), [0_u32; 0]);
    }

    #[test]
    fn fork_exec_mmap_and_exit_of_a_child_arrive_in_order() -> TestResult {
        let mut sideband = match Sideband::open() {
            Ok(sideband) => sideband,
            Err(error) => return skip(&error.to_string()),
        };
        let mut child = std::process::Command::new("/bin/true").spawn()?;
        let pid = Pid(child.id());
        child.wait()?;
        let mut events = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let exited = |event: &Event| event.pid == pid && event.what == What::Exit;
        while !events.iter().any(exited) && std::time::Instant::now() < deadline {
            sideband.drain(&mut events);
        }
        let mine: Vec<_> = events.iter().filter(|event| event.pid == pid).collect();
        let position = |wanted: fn(&What) -> bool| mine.iter().position(|event| wanted(&event.what));
        let fork = position(|what| matches!(what, What::Fork { .. }));
        let exec = position(|what| matches!(what, What::Exec { command } if command == "true"));
        let libc = position(|what| matches!(what, What::Mmap { path, .. } if path.to_string_lossy().contains("libc")));
        let exit = position(|what| matches!(what, What::Exit));
        assert!(fork.is_some() && fork < exec && exec < libc && libc < exit, "{mine:?}");
        Ok(())
    }
}
