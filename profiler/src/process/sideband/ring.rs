//! One CPU's ring of perf records, opened by hand. In: a CPU. Out: the bytes of records.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SidebandError;

/// Pages of each ring; 64 (256 KiB) hold some two thousand events and fit the default `perf_event_mlock_kb`.
const RING_PAGES: usize = 64;

/// Fewest pages worth having, where locked memory is short.
const RING_PAGES_MIN: usize = 8;

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
const CLOSE_ON_EXEC: libc::c_ulong = 8;

/// One CPU's event and its ring.
#[derive(Debug)]
pub(super) struct Ring {
    cpu: u32,
    file: OwnedFd,
    base: NonNull<AtomicU64>,
    length: usize,
    data: usize,
    mask: usize,
    record: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn open(cpu: u32) -> Result<Self, SidebandError> {
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

    /// The CPU it listens on.
    pub(super) fn cpu(&self) -> u32 {
        self.cpu
    }

    /// The event.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Hands over every whole record between tail and head.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        // `data_head` and `data_tail` of struct perf_event_mmap_page.
        const HEAD: usize = 1024 / size_of::<AtomicU64>();
        const TAIL: usize = 1032 / size_of::<AtomicU64>();
        // SAFETY: the first page is mapped read-write for as long as `self` lives; both fields are aligned u64 there,
        // which the kernel accesses with the matching barriers.
        let (head, tail) = unsafe { (&*self.base.as_ptr().add(HEAD), &*self.base.as_ptr().add(TAIL)) };
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
            let data = self.base.as_ptr().cast::<u8>().add(self.data);
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

fn map_shared(file: &OwnedFd, length: usize) -> Result<NonNull<AtomicU64>, rustix::io::Errno> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe {
        mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file.as_fd(), 0)?
    };
    NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)
}
