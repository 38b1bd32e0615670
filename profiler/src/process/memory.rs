//! User stacks of threads that sleep. In: a thread's registers. Out: its return addresses along the frame pointers,
//! read from the process's memory without stopping it.

use super::Pid;

/// Most frames that are walked.
pub const FRAME_LIMIT: usize = 128;

/// Bytes of stack read at once: most chains end inside.
const WINDOW: usize = 16 * 1024;

/// Windows read for one stack: a chain spread wider is cut.
const WINDOW_LIMIT: usize = 16;

/// Where a thread stood when it entered the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
}

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stop {
    /// The chain ends as it should: a frame pointer or return address of zero.
    Root,
    /// The frame pointer leads nowhere above the last frame: it is used for something else here.
    BrokenChain,
    /// The next frame's memory could not be read.
    Unreadable,
    /// There are more than [`FRAME_LIMIT`] frames.
    TooDeep,
}

impl Stop {
    /// Name of the reason, as coverage counts it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::BrokenChain => "broken_chain",
            Self::Unreadable => "unreadable",
            Self::TooDeep => "too_deep",
        }
    }
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

/// Walks the user stack of a thread that is blocked.
pub fn walk_thread(pid: Pid, registers: Registers) -> UserStack {
    walk_frame_pointers(&mut ProcessMemory(pid), registers)
}

/// Walks a chain of frame pointers: each points at the caller's frame pointer, with the return address above it.
pub fn walk_frame_pointers(memory: &mut impl StackMemory, registers: Registers) -> UserStack {
    let mut addresses = vec![registers.ip];
    let mut window = StackWindow { start: 0, bytes: Vec::new(), reads: 0 };
    let (mut floor, mut frame) = (registers.sp, registers.bp);
    let stop = loop {
        if frame == 0 {
            break Stop::Root;
        }
        // The stack grows down, so callers' frames lie higher; this also ends every cycle.
        if frame < floor || frame % 8 != 0 {
            break Stop::BrokenChain;
        }
        let near = if addresses.len() == 1 { registers.sp } else { frame };
        let Some((caller_frame, return_address)) = window.pair(memory, frame, near) else {
            break Stop::Unreadable;
        };
        if return_address == 0 {
            break Stop::Root;
        }
        if addresses.len() == FRAME_LIMIT {
            break Stop::TooDeep;
        }
        addresses.push(return_address);
        floor = frame + 16;
        frame = caller_frame;
    };
    UserStack { addresses, stop }
}

struct StackWindow {
    start: u64,
    bytes: Vec<u8>,
    reads: usize,
}

impl StackWindow {
    /// The two words at `frame`; reads from `near` on if that covers them.
    fn pair(&mut self, memory: &mut impl StackMemory, frame: u64, near: u64) -> Option<(u64, u64)> {
        if let Some(pair) = self.cached(frame) {
            return Some(pair);
        }
        for start in [near, frame] {
            if frame - start >= WINDOW as u64 - 16 || self.reads == WINDOW_LIMIT {
                continue;
            }
            self.reads += 1;
            self.bytes.resize(WINDOW, 0);
            let length = memory.read(start, &mut self.bytes);
            self.bytes.truncate(length);
            self.start = start;
            if let Some(pair) = self.cached(frame) {
                return Some(pair);
            }
        }
        None
    }

    fn cached(&self, frame: u64) -> Option<(u64, u64)> {
        let at = usize::try_from(frame.checked_sub(self.start)?).ok()?;
        let words = self.bytes.get(at..at.checked_add(16)?)?;
        let (low, high) = words.split_at(8);
        Some((u64::from_le_bytes(low.try_into().ok()?), u64::from_le_bytes(high.try_into().ok()?)))
    }
}

/// Another process's memory, read page by page up to the first that is not there.
struct ProcessMemory(Pid);

impl StackMemory for ProcessMemory {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> usize {
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
            libc::process_vm_readv(
                self.0.0 as libc::pid_t,
                &raw const local,
                1,
                remote.as_ptr(),
                remote.len() as u64,
                0,
            )
        };
        usize::try_from(read).unwrap_or(0)
    }
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

    #[test]
    fn a_chain_is_walked_to_its_root_with_one_read() {
        let mut memory = fake(&[0, 0x1020, 0xaaa, 0, 0, 0xbbb]);
        let stack = walk_frame_pointers(&mut memory, Registers { ip: 0x123, sp: 0x1000, bp: 0x1008 });
        assert_eq!(stack, UserStack { addresses: vec![0x123, 0xaaa, 0xbbb], stop: Stop::Root });
        assert_eq!(memory.reads, 1);
        let mut memory = fake(&[0, 0x1020, 0xaaa, 0, 0x1030, 0]);
        let stack = walk_frame_pointers(&mut memory, Registers { ip: 0x123, sp: 0x1000, bp: 0x1008 });
        assert_eq!(stack, UserStack { addresses: vec![0x123, 0xaaa], stop: Stop::Root }, "no return address");
    }

    #[test]
    fn a_cycle_a_jump_down_and_a_misaligned_frame_break_the_chain() {
        for frame in [0x1008, 0x1000, 0x1013] {
            let mut memory = fake(&[0, frame, 0xaaa]);
            let stack = walk_frame_pointers(&mut memory, Registers { ip: 1, sp: 0x1000, bp: 0x1008 });
            assert_eq!((stack.addresses.len(), stack.stop), (2, Stop::BrokenChain));
        }
    }

    #[test]
    fn memory_that_is_not_there_and_endless_chains_stop() {
        let stack = walk_frame_pointers(&mut fake(&[]), Registers { ip: 1, sp: 0x1000, bp: 0x5000_0000 });
        assert_eq!(stack, UserStack { addresses: vec![1], stop: Stop::Unreadable });
        let words: Vec<u64> = (0..4000).map(|i| if i % 2 == 0 { 0x1000 + (i + 2) * 8 } else { 7 }).collect();
        let stack = walk_frame_pointers(&mut fake(&words), Registers { ip: 1, sp: 0x1000, bp: 0x1000 });
        assert_eq!((stack.addresses.len(), stack.stop), (FRAME_LIMIT, Stop::TooDeep));
    }
}
