//! News of processes from the kernel. In: a dummy software perf event on every online CPU, with the records that ride
//! along. Out: fork, exec, command name, mapping and exit events in the order of their time.
//!
//! perf events need neither kprobes nor tracefs, and their mmap records carry path, device and inode of every
//! executable mapping: what a process of a few milliseconds leaves behind. The kernel can put a build id there instead
//! of device and inode; that is not asked for, since many binaries (Go, static ones) have none.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FileIdentity, Pid, Tid, monotonic_ns};

/// Pages of each ring; 64 (256 KiB) hold some two thousand events and fit the default `perf_event_mlock_kb`.
const RING_PAGES: usize = 64;

/// Fewest pages worth having, where locked memory is short.
const RING_PAGES_MIN: usize = 8;

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

/// `struct perf_event_attr`, version 5 (Linux 4.1).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock_id: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}
const _: () = assert!(size_of::<Attributes>() == 112);

const TYPE_SOFTWARE: u32 = 1;
const CONFIG_DUMMY: u64 = 9;
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const FLAG_MMAP: u64 = 1 << 8;
const FLAG_COMM: u64 = 1 << 9;
const FLAG_TASK: u64 = 1 << 13;
const FLAG_WATERMARK: u64 = 1 << 14;
const FLAG_SAMPLE_ID_ALL: u64 = 1 << 18;
const FLAG_MMAP2: u64 = 1 << 23;
const FLAG_COMM_EXEC: u64 = 1 << 24;
const FLAG_USE_CLOCK_ID: u64 = 1 << 25;

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
const MISC_COMM_EXEC: u16 = 1 << 13;

/// `sample_id` behind every record: pid and tid, time.
const TRAILER: usize = 16;

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
        self.rings.retain(|ring| online.contains(&ring.cpu));
        for cpu in online {
            if self.rings.iter().all(|ring| ring.cpu != cpu) {
                self.rings.push(Ring::open(cpu)?);
            }
        }
        Ok(())
    }

    /// Descriptors that are readable when events wait.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(|ring| ring.file.as_fd())
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

/// One CPU's event and its ring.
#[derive(Debug)]
struct Ring {
    cpu: u32,
    file: OwnedFd,
    base: NonNull<u8>,
    length: usize,
    data: usize,
    mask: usize,
    record: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    fn open(cpu: u32) -> Result<Self, SidebandError> {
        let attributes = Attributes {
            kind: TYPE_SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: CONFIG_DUMMY,
            sample_type: SAMPLE_TID | SAMPLE_TIME,
            flags: FLAG_MMAP
                | FLAG_COMM
                | FLAG_TASK
                | FLAG_WATERMARK
                | FLAG_SAMPLE_ID_ALL
                | FLAG_MMAP2
                | FLAG_COMM_EXEC
                | FLAG_USE_CLOCK_ID,
            // Wake the reader at the first event: the process may be gone in a millisecond.
            wakeup_watermark: 1,
            clock_id: libc::CLOCK_MONOTONIC,
            ..Attributes::default()
        };
        const CLOSE_ON_EXEC: libc::c_ulong = 8;
        // SAFETY: `attributes` is a whole perf_event_attr of the size it states and outlives the call.
        let file = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, cpu as libc::c_int, -1, CLOSE_ON_EXEC)
        };
        if file < 0 {
            return Err(SidebandError::Open { cpu, source: io::Error::last_os_error() });
        }
        // SAFETY: the kernel has just given this descriptor to us.
        let file = unsafe { OwnedFd::from_raw_fd(file as libc::c_int) };
        let page = rustix::param::page_size();
        let mut pages = RING_PAGES;
        loop {
            match map_shared(&file, (pages + 1) * page) {
                Ok(base) => {
                    let (length, mask) = ((pages + 1) * page, pages * page - 1);
                    return Ok(Self { cpu, file, base, length, data: page, mask, record: Vec::new() });
                }
                Err(rustix::io::Errno::PERM) if pages > RING_PAGES_MIN => pages /= 2,
                Err(error) => return Err(SidebandError::Map { cpu, source: error.into() }),
            }
        }
    }

    /// Hands over every whole record between tail and head.
    fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        // `data_head` and `data_tail` of struct perf_event_mmap_page.
        const HEAD: usize = 1024;
        const TAIL: usize = 1032;
        // SAFETY: the first page is mapped read-write for as long as `self` lives; both fields are aligned u64 there,
        // which the kernel accesses with the matching barriers.
        let (head, tail) = unsafe {
            (&*self.base.as_ptr().add(HEAD).cast::<AtomicU64>(), &*self.base.as_ptr().add(TAIL).cast::<AtomicU64>())
        };
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        while at < end {
            let mut header = [0; 8];
            self.copy(at, &mut header);
            let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            if size < 8 || size as u64 > end - at {
                at = end;
                break;
            }
            let mut record = std::mem::take(&mut self.record);
            record.resize(size, 0);
            self.copy(at, &mut record);
            each(&record);
            self.record = record;
            at += size as u64;
        }
        tail.store(at, Ordering::Release);
    }

    fn copy(&self, at: u64, into: &mut [u8]) {
        let start = at as usize & self.mask;
        let first = into.len().min(self.mask + 1 - start);
        let (head, rest) = into.split_at_mut(first);
        // SAFETY: the data area is `mask + 1` bytes from `data` on, all mapped; `start + first` ends inside it, and what
        // remains (at most 65535 bytes, less than the area) starts again at its begin. The kernel does not
        // write between tail and head.
        unsafe {
            let data = self.base.as_ptr().add(self.data);
            data.add(start).copy_to_nonoverlapping(head.as_mut_ptr(), head.len());
            data.copy_to_nonoverlapping(rest.as_mut_ptr(), rest.len().min(self.mask + 1));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `open` with this length, and nothing refers to it any more. An error would
        // leave it mapped, which harms nobody.
        unsafe {
            rustix::mm::munmap(self.base.as_ptr().cast(), self.length).ok();
        }
    }
}

fn map_shared(file: &OwnedFd, length: usize) -> Result<NonNull<u8>, rustix::io::Errno> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe {
        mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file.as_fd(), 0)?
    };
    NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)
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

enum Parsed {
    Event(Event),
    Other,
}

/// Reads one record, header included.
fn parse_record(record: &[u8]) -> Option<Parsed> {
    let (kind, misc) = (word(record, 0)?, u16::from_ne_bytes([*record.get(4)?, *record.get(5)?]));
    let trailer = record.len().checked_sub(TRAILER).filter(|at| *at >= 8)?;
    let (body, trailer) = (&record[8..trailer], &record[trailer..]);
    let at_ns = long(trailer, 8)?;
    let (mut pid, mut tid) = (word(trailer, 0)?, word(trailer, 4)?);
    let what = match kind {
        RECORD_FORK | RECORD_EXIT => {
            let parent = Pid(word(body, 4)?);
            (pid, tid) = (word(body, 0)?, word(body, 8)?);
            if kind == RECORD_FORK { What::Fork { parent } } else { What::Exit }
        }
        RECORD_COMM => {
            (pid, tid) = (word(body, 0)?, word(body, 4)?);
            let command = String::from_utf8_lossy(text(body, 8)?).into_owned();
            if misc & MISC_COMM_EXEC == 0 { What::Comm { command } } else { What::Exec { command } }
        }
        RECORD_MMAP2 => {
            (pid, tid) = (word(body, 0)?, word(body, 4)?);
            let file = FileIdentity { major: word(body, 32)?, minor: word(body, 36)?, inode: long(body, 40)? };
            let path = OsString::from_vec(text(body, 64)?.to_vec());
            What::Mmap { start: long(body, 8)?, length: long(body, 16)?, offset: long(body, 24)?, file, path }
        }
        RECORD_LOST => What::Lost { count: long(body, 8)? },
        _ => return Some(Parsed::Other),
    };
    Some(Parsed::Event(Event { at_ns, pid: Pid(pid), tid: Tid(tid), what }))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Text padded with zeros.
fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at..)?.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;
    use crate::process::testing::skip;

    #[test]
    fn a_cpu_list_is_read() {
        assert_eq!(parse_cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("\n"), [0_u32; 0]);
    }

    #[test]
    fn an_exec_record_is_read() {
        let mut record = Vec::new();
        record.extend(RECORD_COMM.to_ne_bytes());
        record.extend(MISC_COMM_EXEC.to_ne_bytes());
        record.extend(40_u16.to_ne_bytes());
        record.extend([7_u32, 8].iter().flat_map(|word| word.to_ne_bytes()));
        record.extend(b"true\0\0\0\0");
        record.extend([7_u32, 8].iter().flat_map(|word| word.to_ne_bytes()));
        record.extend(99_u64.to_ne_bytes());
        let Some(Parsed::Event(event)) = parse_record(&record) else { panic!("not read") };
        let what = What::Exec { command: "true".into() };
        assert_eq!(event, Event { at_ns: 99, pid: Pid(7), tid: Tid(8), what });
    }

    #[test]
    fn fork_exec_mmap_and_exit_of_a_child_arrive_in_order() -> Result<(), Box<dyn std::error::Error>> {
        let mut sideband = match Sideband::open() {
            Ok(sideband) => sideband,
            Err(error) => return Ok(skip(&error.to_string())),
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

    proptest! {
        #[test]
        fn reading_a_record_never_panics(record in prop::collection::vec(any::<u8>(), 0..200)) {
            parse_record(&record);
        }

        #[test]
        fn reading_a_known_record_never_panics(
            kind in prop::sample::select(vec![RECORD_COMM, RECORD_EXIT, RECORD_FORK, RECORD_LOST, RECORD_MMAP2]),
            rest in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut record = kind.to_ne_bytes().to_vec();
            record.extend(rest);
            parse_record(&record);
        }
    }
}
