//! Stacks as the kernel copies them. In: a frequency. Out: snapshots of whatever runs on any CPU.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use super::Snapshot;

/// Bytes of stack that are copied: what fits in a record of 64 KiB.
const STACK_BYTES: u32 = 56 << 10;
/// Bytes of each CPU's ring.
const RING_BYTES: usize = 16 << 20;
const PAGE: usize = 4096;

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
const PERF_SAMPLE_TID: u64 = 1 << 1;
const PERF_SAMPLE_REGS_USER: u64 = 1 << 12;
const PERF_SAMPLE_STACK_USER: u64 = 1 << 13;
const PERF_RECORD_SAMPLE: u32 = 9;
/// rbp, rsp and rip of the kernel's `enum perf_event_x86_regs`; they are written in this order.
const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;
/// `freq` and `exclude_guest`, bits of `perf_event_attr`.
const FLAGS: u64 = 1 << 10 | 1 << 20;
const CLOSE_ON_EXEC: libc::c_ulong = 8;

/// `struct perf_event_attr` as far as it is needed (PERF_ATTR_SIZE_VER5, 112 bytes).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    frequency: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const _: () = assert!(size_of::<Attributes>() == 112);

/// Samples all CPUs.
pub struct Sampler {
    rings: Vec<Ring>,
}

impl Sampler {
    /// Opens an event on every CPU.
    pub fn open(frequency: u64) -> Result<Self> {
        let cpus = std::thread::available_parallelism().context("how many CPUs are there?")?.get();
        let rings = (0..cpus).map(|cpu| Ring::open(cpu as i32, frequency)).collect::<io::Result<_>>();
        Ok(Self { rings: rings.context("cannot sample with perf_event_open")? })
    }

    /// Takes what was sampled since.
    pub fn drain(&mut self, snapshots: &mut Vec<Snapshot>) {
        for ring in &mut self.rings {
            ring.drain(snapshots);
        }
    }
}

struct Ring {
    _file: File,
    base: NonNull<AtomicU64>,
}

impl Ring {
    fn open(cpu: i32, frequency: u64) -> io::Result<Self> {
        let attributes = Attributes {
            kind: PERF_TYPE_SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: PERF_COUNT_SW_CPU_CLOCK,
            frequency,
            sample_type: PERF_SAMPLE_TID | PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER,
            flags: FLAGS,
            sample_regs_user: REGISTERS,
            sample_stack_user: STACK_BYTES,
            ..Attributes::default()
        };
        // SAFETY: the attributes are a valid structure of the size they say.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, cpu, -1, CLOSE_ON_EXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor, owned by nobody else.
        let file = unsafe { File::from_raw_fd(fd as i32) };
        // SAFETY: a new mapping where the kernel likes; it is checked below.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE + RING_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(base.cast()) {
            Some(base) if base.as_ptr() as usize != usize::MAX => Ok(Self { _file: file, base }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The positions up to which the kernel has written and we have read, `data_head` and `data_tail` of the first page.
    fn position(&self, at: usize) -> &AtomicU64 {
        // SAFETY: inside the first page, aligned, and alive as long as the mapping is.
        unsafe { self.base.add(at / size_of::<AtomicU64>()).as_ref() }
    }

    fn drain(&mut self, snapshots: &mut Vec<Snapshot>) {
        const HEAD: usize = 1024;
        const TAIL: usize = 1032;
        let head = self.position(HEAD).load(Ordering::Acquire);
        let mut tail = self.position(TAIL).load(Ordering::Relaxed);
        while tail < head {
            let header = self.copy(tail, 8);
            let kind = u32::from_le_bytes(header[..4].try_into().unwrap_or_default());
            let size = u64::from(u16::from_le_bytes(header[6..8].try_into().unwrap_or_default()));
            if size < 8 {
                break;
            }
            if kind == PERF_RECORD_SAMPLE {
                snapshots.extend(parse(&self.copy(tail + 8, size as usize - 8)));
            }
            tail += size;
        }
        self.position(TAIL).store(tail.max(head.min(tail)), Ordering::Release);
    }

    fn copy(&self, position: u64, length: usize) -> Vec<u8> {
        let start = (position % RING_BYTES as u64) as usize;
        let first = length.min(RING_BYTES - start);
        let mut bytes = vec![0; length];
        // SAFETY: both pieces lie inside the ring, which the kernel does not write before the tail is moved past them.
        unsafe {
            let ring = self.base.cast::<u8>().as_ptr().add(PAGE);
            ring.add(start).copy_to_nonoverlapping(bytes.as_mut_ptr(), first);
            ring.copy_to_nonoverlapping(bytes.as_mut_ptr().add(first), length - first);
        }
        bytes
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody uses it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), PAGE + RING_BYTES) };
    }
}

/// `PERF_SAMPLE_REGS_ABI_64`.
const ABI_64: u64 = 2;

/// A sample: process and thread, registers, stack. None where there is no user space.
fn parse(record: &[u8]) -> Option<Snapshot> {
    let long = |at: usize| record.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
    let pid = u32::from_le_bytes(record.get(..4)?.try_into().ok()?);
    if long(8)? != ABI_64 {
        return None;
    }
    let [bp, sp, pc] = [long(16)?, long(24)?, long(32)?];
    let size = long(40)? as usize;
    let stack = record.get(48..48 + size)?;
    let copied = long(48 + size)? as usize;
    Some(Snapshot { pid, registers: [pc, sp, bp], stack: stack.get(..copied)?.to_vec() })
}
