//! User stacks of threads that sleep. In: a thread's registers. Out: its return addresses, by the same walk that the kernel
//! programs do, from the process's memory, read without stopping it.

use profiler_ebpf::unwind::{Memory, Rule, Stop, Tables, USER_FRAMES, Walk, walk::walk_all};

use super::Pid;
use super::foreign::{ForeignFiles, Patience, Subject, Urgency};

/// Bytes of stack read at once: most stacks end inside.
const WINDOW: usize = 16 * 1024;

/// Windows read for one stack: one spread wider is cut.
const WINDOW_LIMIT: usize = 64;

/// Where a thread stood when it entered the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
    /// First argument of a call, if it is known: some functions keep their return address there.
    pub di: Option<u64>,
}

/// A user stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStack {
    /// Leaf first: the instruction pointer, then return addresses.
    pub addresses: Vec<u64>,
    /// Why it ends where it ends.
    pub stop: Stop,
}

/// Memory that a stack is read from.
pub trait StackMemory {
    /// Fills the start of `bytes` from `address` on; returns how many bytes could be read.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> usize;
}

/// Walks the user stack of a thread that is blocked, by tables.
pub fn walk_thread(files: &ForeignFiles, pid: Pid, registers: Registers, tables: &mut impl Tables) -> UserStack {
    walk_stack(&mut ProcessMemory { pid, files, subject: files.memory_of(pid) }, registers, tables)
}

/// Walks a stack in any memory, by tables.
pub fn walk_stack(memory: &mut impl StackMemory, registers: Registers, tables: &mut impl Tables) -> UserStack {
    let mut walk = Walk::from_registers(registers.ip, registers.sp, registers.bp);
    if let Some(di) = registers.di {
        walk = walk.with_rdi(di);
    }
    let mut window = StackWindow { memory, near: registers.sp, start: 0, bytes: Vec::new(), reads: 0 };
    let mut addresses = vec![0; USER_FRAMES];
    let (count, stop) = walk_all(&mut walk, &mut window, tables, &mut addresses);
    addresses.truncate(count);
    UserStack { addresses, stop }
}

/// No table at all: every frame by its frame pointer.
#[derive(Debug, Clone, Copy)]
pub struct FramePointers;

impl Tables for FramePointers {
    fn rule(&mut self, _: u64) -> Result<Rule, Stop> {
        Ok(Rule::no_info())
    }
}

/// The part of the stack that was read last.
struct StackWindow<'memory, M> {
    memory: &'memory mut M,
    /// Where the innermost frame is: what is read first begins here if that covers it.
    near: u64,
    start: u64,
    bytes: Vec<u8>,
    reads: usize,
}

impl<M: StackMemory> Memory for StackWindow<'_, M> {
    fn word(&mut self, address: u64) -> Option<u64> {
        if let Some(word) = self.cached(address) {
            return Some(word);
        }
        for start in [self.near, address] {
            if address.wrapping_sub(start) > WINDOW as u64 - 8 || self.reads == WINDOW_LIMIT {
                continue;
            }
            self.reads += 1;
            self.near = u64::MAX;
            self.bytes.resize(WINDOW, 0);
            let length = self.memory.read(start, &mut self.bytes);
            self.bytes.truncate(length);
            self.start = start;
            if let Some(word) = self.cached(address) {
                return Some(word);
            }
        }
        None
    }
}

impl<M> StackWindow<'_, M> {
    fn cached(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        Some(u64::from_le_bytes(self.bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }
}

/// Another process's memory. What is mapped there may be a file that nobody gives any more, and the address space may be locked.
struct ProcessMemory<'files> {
    pid: Pid,
    files: &'files ForeignFiles,
    subject: Subject,
}

impl StackMemory for ProcessMemory<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let (pid, mut buffer) = (self.pid, vec![0; bytes.len()]);
        let read = move || {
            let length = read_memory(pid, address, &mut buffer);
            buffer.truncate(length);
            buffer
        };
        let read = self.files.ask(&self.subject, Patience::Moment, Urgency::Now, read).unwrap_or_default();
        bytes[..read.len()].copy_from_slice(&read);
        read.len()
    }
}

/// Reads page by page up to the first that is not there.
fn read_memory(Pid(pid): Pid, address: u64, bytes: &mut [u8]) -> usize {
    // A transfer stops short only at the border of an entry: one entry a page, so that what lies before an unmapped page
    // is still read.
    const PAGE: u64 = 4096;
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut remote = Vec::with_capacity(bytes.len() / PAGE as usize + 2);
    let (mut at, mut left) = (address, bytes.len() as u64);
    while left > 0 {
        let length = (PAGE - at % PAGE).min(left);
        remote.push(libc::iovec { iov_base: at as *mut libc::c_void, iov_len: length as usize });
        let Some(next) = at.checked_add(length) else { break };
        (at, left) = (next, left - length);
    }
    // SAFETY: `local` describes `bytes`, which outlives the call and is written only inside its length; the remote
    // addresses are checked by the kernel and never dereferenced here.
    let read = unsafe {
        libc::process_vm_readv(pid as libc::pid_t, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
    };
    usize::try_from(read).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        base: u64,
        words: Vec<u64>,
        reads: usize,
    }

    impl StackMemory for Fake {
        fn read(&mut self, address: u64, bytes: &mut [u8]) -> usize {
            self.reads += 1;
            let all: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let Some(tail) = address.checked_sub(self.base).and_then(|at| all.get(at as usize..)) else { return 0 };
            let length = tail.len().min(bytes.len());
            bytes[..length].copy_from_slice(&tail[..length]);
            length
        }
    }

    fn fake(words: &[u64]) -> Fake {
        Fake { base: 0x1000, words: words.to_vec(), reads: 0 }
    }

    fn walked(memory: &mut Fake, bp: u64) -> UserStack {
        walk_stack(memory, Registers { ip: 0x123, sp: 0x1000, bp, di: None }, &mut FramePointers)
    }

    #[test]
    fn a_chain_is_walked_to_its_root_with_one_read() {
        let mut memory = fake(&[0, 0x1020, 0xaaa, 0, 0, 0xbbb]);
        let stack = walked(&mut memory, 0x1008);
        assert_eq!(stack, UserStack { addresses: vec![0x123, 0xaaa, 0xbbb], stop: Stop::FramePointerEnd });
        assert_eq!(memory.reads, 1);
        let mut memory = fake(&[0, 0x1020, 0xaaa, 0, 0x1030, 0]);
        let stack = walked(&mut memory, 0x1008);
        assert_eq!(stack, UserStack { addresses: vec![0x123, 0xaaa], stop: Stop::NullReturn });
    }

    #[test]
    fn a_cycle_and_a_misaligned_frame_end_the_walk() {
        let cycle = walked(&mut fake(&[0, 0x1008, 0xaaa]), 0x1008);
        assert!(cycle.addresses.len() < 10, "{cycle:?}");
        assert_eq!(cycle.stop, Stop::NotProgressing);
        let misaligned = walked(&mut fake(&[0, 0x1013, 0xaaa]), 0x1008);
        assert_eq!((misaligned.addresses.len(), misaligned.stop), (2, Stop::NoFramePointer));
    }

    #[test]
    fn memory_that_is_not_there_and_endless_chains_stop() {
        let stack = walked(&mut fake(&[]), 0x5000_0000);
        assert_eq!(stack, UserStack { addresses: vec![0x123], stop: Stop::NoFramePointer });
        let words: Vec<u64> = (0..4000).map(|i| if i % 2 == 0 { 0x1000 + (i + 2) * 8 } else { 7 }).collect();
        let stack = walked(&mut fake(&words), 0x1000);
        assert_eq!((stack.addresses.len(), stack.stop), (USER_FRAMES, Stop::TooDeep));
    }

    #[test]
    fn a_stack_wider_than_a_window_is_read_piece_by_piece() {
        // Frames of 12 KiB each.
        let mut words = vec![0_u64; 12_000];
        for frame in 0..6 {
            let next = if frame < 5 { 0x1000 + (frame + 1) * 1536 * 8 } else { 0 };
            words[frame as usize * 1536] = next;
            words[frame as usize * 1536 + 1] = 0xaa0 + frame;
        }
        let mut memory = fake(&words);
        let stack = walked(&mut memory, 0x1000);
        assert_eq!((stack.addresses.len(), stack.stop), (7, Stop::FramePointerEnd));
        assert!(memory.reads <= 6);
    }
}
