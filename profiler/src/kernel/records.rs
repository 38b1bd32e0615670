//! Records out of the rings.

use std::{
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use profiler_ebpf::{
    RecordHeader, Ring,
    record::{HEADER_BYTES, RECORD_BYTES},
};

use super::mapped::MappedArray;

/// One record, copied out of its ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The fixed part.
    pub header: RecordHeader,
    /// Kernel addresses, leaf first.
    pub kernel: Vec<u64>,
    /// User addresses, leaf first.
    pub user: Vec<u64>,
}

impl Record {
    /// Reads one record from the beginning of `bytes`; none if they are not a whole record.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        // SAFETY: as many bytes as the header has were just checked to be there; it is plain integers, and read
        // unaligned.
        let header = unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<RecordHeader>()) };
        let length = header.length as usize;
        if length < HEADER_BYTES || length > bytes.len() || !length.is_multiple_of(8) {
            return None;
        }
        let kernel_bytes = usize::try_from(header.kernel_bytes).unwrap_or(0);
        if !kernel_bytes.is_multiple_of(8) {
            return None;
        }
        let frames = bytes.get(HEADER_BYTES..length)?;
        let (kernel, user) = frames.split_at_checked(kernel_bytes)?;
        Some(Self { header, kernel: words(kernel), user: words(user) })
    }

    /// Length in bytes.
    pub fn length(&self) -> usize {
        self.header.length as usize
    }

    /// Name of the thread.
    pub fn thread_name(&self) -> String {
        let comm = self.header.comm;
        let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        String::from_utf8_lossy(&comm[..end]).into_owned()
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect()
}

/// The rings of one context, one a CPU.
pub struct Rings {
    mapped: MappedArray<Ring>,
    ring_bytes: u64,
    buffer: Vec<u8>,
}

impl Rings {
    /// Takes the mapped rings, of which `ring_bytes` each are used.
    pub fn new(mapped: MappedArray<Ring>, ring_bytes: u32) -> Self {
        Self { mapped, ring_bytes: u64::from(ring_bytes), buffer: vec![0; RECORD_BYTES] }
    }

    /// Takes out everything that is there. A record that makes no sense (none was ever seen) ends that ring's reading and
    /// is returned as an error's worth of bytes skipped.
    pub fn drain(&mut self, mut take: impl FnMut(Record)) -> u64 {
        let mut skipped = 0;
        for cpu in 0..self.mapped.len() {
            let Some(ring) = self.mapped.at(cpu) else { continue };
            // SAFETY: inside the mapping; the kernel stores `head` with a full barrier after the records before it.
            let head = unsafe { AtomicU64::from_ptr(&raw mut (*ring).head) }.load(Ordering::Acquire);
            // SAFETY: as above; only we write `tail`.
            let tail = unsafe { AtomicU64::from_ptr(&raw mut (*ring).tail) };
            let mut at = tail.load(Ordering::Relaxed);
            while at != head {
                let place = (at & (self.ring_bytes - 1)) as usize;
                let length = RECORD_BYTES.min((head - at) as usize);
                // SAFETY: a record never reaches further than the spare bytes behind the ring, and the kernel does not
                // write between `tail` and `head`.
                unsafe {
                    let data = (&raw const (*ring).data).cast::<u8>().add(place);
                    ptr::copy_nonoverlapping(data, self.buffer.as_mut_ptr(), length);
                }
                let Some(record) = self.buffer.get(..length).and_then(Record::parse) else {
                    skipped += head - at;
                    at = head;
                    break;
                };
                at += record.length() as u64;
                take(record);
            }
            tail.store(at, Ordering::Release);
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(record) = Record::parse(&bytes) {
                prop_assert!(record.length() <= bytes.len());
                prop_assert_eq!(HEADER_BYTES + (record.kernel.len() + record.user.len()) * 8, record.length());
            }
        }
    }
}
