//! Records out of the rings.

use std::{
    mem::{MaybeUninit, offset_of},
    ptr, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use profiler_ebpf::{RecordHeader, RecordKind, Ring, record::RECORD_BYTES};

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
        let (header, kernel, user) = Self::layout(bytes)?;
        Some(Self { header, kernel: words(kernel), user: words(user) })
    }

    /// Where the parts of the record at the beginning of `bytes` lie: its fixed part, kernel and user addresses.
    fn layout(bytes: &[u8]) -> Option<(RecordHeader, &[u8], &[u8])> {
        let headed = RecordKind::header_bytes(*bytes.get(offset_of!(RecordHeader, kind))?);
        let fixed = bytes.get(..headed)?;
        let mut header = MaybeUninit::<RecordHeader>::zeroed();
        // SAFETY: no kind's fixed part is longer than the header, which is plain integers: zeros are a value, and so are whatever bytes
        // come over them.
        let header = unsafe {
            ptr::copy_nonoverlapping(fixed.as_ptr(), header.as_mut_ptr().cast::<u8>(), headed);
            header.assume_init()
        };
        let length = header.length as usize;
        if length < headed || length > bytes.len() || !length.is_multiple_of(8) {
            return None;
        }
        let kernel_bytes = usize::try_from(header.kernel_bytes).unwrap_or(0);
        if !kernel_bytes.is_multiple_of(8) {
            return None;
        }
        let frames = bytes.get(headed..length)?;
        let (kernel, user) = frames.split_at_checked(kernel_bytes)?;
        Some((header, kernel, user))
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

/// What one look into the rings found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Records.
    pub records: u64,
    /// Bytes that were no records.
    pub skipped_bytes: u64,
    /// Bytes that lay in the fullest ring.
    pub fullest_bytes: u64,
}

/// The records that lie one after another in `bytes`, up to what is none.
pub fn parse_all(mut bytes: &[u8]) -> impl Iterator<Item = Record> {
    std::iter::from_fn(move || {
        let record = Record::parse(bytes)?;
        bytes = bytes.get(record.length()..)?;
        Some(record)
    })
}

/// The rings of one context, one a CPU.
pub struct Rings {
    mapped: MappedArray<Ring>,
    ring_bytes: u64,
}

impl Rings {
    /// Takes the mapped rings, of which `ring_bytes` each are used.
    pub fn new(mapped: MappedArray<Ring>, ring_bytes: u32) -> Self {
        Self { mapped, ring_bytes: u64::from(ring_bytes) }
    }

    /// Takes out everything that is there and adds it to `records`, as it is. A record that makes no sense (none was ever
    /// seen) ends that ring's reading and is returned as an error's worth of bytes skipped.
    pub fn drain(&mut self, records: &mut Vec<u8>) -> Drained {
        let mut drained = Drained::default();
        for cpu in 0..self.mapped.len() {
            let Some(ring) = self.mapped.at(cpu) else { continue };
            // SAFETY: inside the mapping; the kernel stores `head` with a full barrier after the records before it.
            let head = unsafe { AtomicU64::from_ptr(&raw mut (*ring).head) }.load(Ordering::Acquire);
            // SAFETY: as above; only we write `tail`.
            let tail = unsafe { AtomicU64::from_ptr(&raw mut (*ring).tail) };
            let mut at = tail.load(Ordering::Relaxed);
            drained.fullest_bytes = drained.fullest_bytes.max(head.wrapping_sub(at));
            while at != head {
                let place = (at & (self.ring_bytes - 1)) as usize;
                let length = RECORD_BYTES.min((head - at) as usize);
                // SAFETY: no more than the longest record, for which there is room behind every place, in the spare bytes behind the
                // ring if need be; and no more than lies between `tail` and `head`, where the kernel does not write.
                let bytes = unsafe { slice::from_raw_parts((&raw const (*ring).data).cast::<u8>().add(place), length) };
                let whole = Record::layout(bytes).and_then(|(header, ..)| bytes.get(..header.length as usize));
                let Some(record) = whole else {
                    drained.skipped_bytes += head - at;
                    at = head;
                    break;
                };
                at += record.len() as u64;
                records.extend_from_slice(record);
                drained.records += 1;
            }
            tail.store(at, Ordering::Release);
        }
        drained
    }

    /// Bytes that each ring has room for.
    pub fn bytes(&self) -> u64 {
        self.ring_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use proptest::prelude::*;

    use profiler_ebpf::record::{HEADER_BYTES, SHORT_HEADER_BYTES};

    use super::*;
    use crate::kernel::mapped::testing;

    type TestResult = Result<(), Box<dyn Error>>;

    const SMALL: u32 = 4096;

    /// A sample with these stacks, as the kernel programs lay it out.
    fn bytes_of(tid: u32, kernel: &[u64], user: &[u64]) -> Vec<u8> {
        kind_of_bytes(RecordKind::OnCpu, tid, kernel, user)
    }

    fn kind_of_bytes(kind: RecordKind, tid: u32, kernel: &[u64], user: &[u64]) -> Vec<u8> {
        let headed = RecordKind::header_bytes(kind as u8);
        let length = headed + (kernel.len() + user.len()) * 8;
        let mut bytes = vec![0; headed];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(RecordHeader, length), &(length as u32).to_ne_bytes());
        put(offset_of!(RecordHeader, kind), &[kind as u8]);
        put(offset_of!(RecordHeader, tid), &tid.to_ne_bytes());
        put(offset_of!(RecordHeader, kernel_bytes), &(kernel.len() as i32 * 8).to_ne_bytes());
        put(offset_of!(RecordHeader, user_bytes), &(user.len() as i32 * 8).to_ne_bytes());
        put(offset_of!(RecordHeader, comm), b"thread\0rubbish");
        bytes.extend(kernel.iter().chain(user).flat_map(|frame| frame.to_ne_bytes()));
        bytes
    }

    /// The kernel's side of a ring: writes where `head` is, into the spare bytes if need be, and moves it. False if there
    /// is no room.
    fn write(ring: *mut Ring, record: &[u8]) -> bool {
        // SAFETY: the ring is mapped for as long as the test runs, and nobody else touches it meanwhile.
        unsafe {
            if (*ring).head - (*ring).tail + record.len() as u64 > u64::from(SMALL) {
                return false;
            }
            let place = ((*ring).head & u64::from(SMALL - 1)) as usize;
            (&mut (*ring).data)[place..place + record.len()].copy_from_slice(record);
            (*ring).head += record.len() as u64;
        }
        true
    }

    /// Small rings, one a CPU, and where they are.
    fn rings(cpus: usize) -> Result<(Rings, Vec<*mut Ring>), Box<dyn Error>> {
        let (_file, mapped) = testing::in_memory::<Ring>(cpus)?;
        let places = (0..cpus).filter_map(|cpu| mapped.at(cpu)).collect();
        Ok((Rings::new(mapped, SMALL), places))
    }

    fn drained(rings: &mut Rings) -> (Vec<Record>, u64) {
        let mut bytes = Vec::new();
        let drained = rings.drain(&mut bytes);
        let records: Vec<Record> = parse_all(&bytes).collect();
        assert_eq!(records.len() as u64, drained.records);
        (records, drained.skipped_bytes)
    }

    #[test]
    fn records_come_out_once_in_order_and_cpu_by_cpu() -> TestResult {
        let (mut rings, places) = rings(2)?;
        assert!(write(places[1], &bytes_of(3, &[7], &[])));
        assert!(write(places[0], &bytes_of(1, &[0x10, 0x20], &[0x30])));
        assert!(write(places[0], &bytes_of(2, &[], &[0x40])));
        let (records, skipped) = drained(&mut rings);
        assert_eq!(records.iter().map(|record| record.header.tid).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((records[0].kernel.as_slice(), records[0].user.as_slice()), (&[0x10, 0x20][..], &[0x30][..]));
        assert_eq!((records[1].kernel.len(), records[1].user.as_slice()), (0, &[0x40][..]));
        assert_eq!(records[0].thread_name(), "thread");
        assert_eq!(skipped, 0);
        assert_eq!(drained(&mut rings), (Vec::new(), 0));
        Ok(())
    }

    #[test]
    fn a_record_at_the_end_runs_on_into_the_spare_bytes() -> TestResult {
        let (mut rings, places) = rings(1)?;
        let ring = places[0];
        let start = u64::from(SMALL) * 5 - 64;
        // SAFETY: the ring is mapped, and only this test touches it.
        unsafe {
            (*ring).head = start;
            (*ring).tail = start;
        }
        let kernel: Vec<u64> = (0..100).collect();
        let (long, next) = (bytes_of(1, &kernel, &[1, 2]), bytes_of(2, &[9], &[]));
        assert!(write(ring, &long) && write(ring, &next));
        let (records, skipped) = drained(&mut rings);
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].kernel, kernel);
        assert_eq!(records[0].user, [1, 2]);
        assert_eq!(records[1].kernel, [9]);
        assert_eq!(skipped, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { (*ring).tail }, start + (long.len() + next.len()) as u64);
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_counted_and_the_ring_goes_on() -> TestResult {
        let (mut rings, places) = rings(1)?;
        let mut odd = bytes_of(1, &[1, 2], &[]);
        odd[offset_of!(RecordHeader, length)] = 3;
        let good = bytes_of(2, &[5], &[]);
        assert!(write(places[0], &good) && write(places[0], &odd) && write(places[0], &good));
        let (records, skipped) = drained(&mut rings);
        assert_eq!(records.len(), 1);
        assert_eq!(skipped, (odd.len() + good.len()) as u64);
        assert!(write(places[0], &good));
        let (records, skipped) = drained(&mut rings);
        assert_eq!((records.len(), skipped), (1, 0));
        assert_eq!(records[0].kernel, [5]);
        Ok(())
    }

    #[test]
    fn a_stack_that_could_not_be_taken_leaves_the_other() {
        let mut bytes = bytes_of(1, &[], &[8, 9]);
        let at = offset_of!(RecordHeader, kernel_bytes);
        bytes[at..at + 4].copy_from_slice(&(-libc::EFAULT).to_ne_bytes());
        let record = Record::parse(&bytes);
        assert!(record.is_some_and(|record| record.kernel.is_empty() && record.user == [8, 9]));
    }

    #[test]
    fn damaged_lengths_are_refused() {
        let bytes = bytes_of(1, &[1, 2], &[3]);
        let with = |at: usize, value: u32| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            Record::parse(&bytes)
        };
        let length = offset_of!(RecordHeader, length);
        let kernel_bytes = offset_of!(RecordHeader, kernel_bytes);
        for wrong in [0, 8, SHORT_HEADER_BYTES as u32 + 4, bytes.len() as u32 + 8, u32::MAX] {
            assert_eq!(with(length, wrong), None, "length {wrong}");
        }
        for wrong in [4, 32, i32::MAX as u32] {
            assert_eq!(with(kernel_bytes, wrong), None, "kernel bytes {wrong}");
        }
        assert!(with(length, bytes.len() as u32).is_some());
        assert_eq!(Record::parse(&bytes[..SHORT_HEADER_BYTES - 1]), None);
    }

    #[test]
    fn gaps_have_a_longer_fixed_part_than_other_records() {
        let mut bytes = kind_of_bytes(RecordKind::Gap, 1, &[5], &[6]);
        let at = offset_of!(RecordHeader, throttled_ns);
        bytes[at..at + 8].copy_from_slice(&9_u64.to_ne_bytes());
        assert_eq!(bytes.len(), HEADER_BYTES + 16);
        let gap = Record::parse(&bytes);
        assert!(gap.is_some_and(|gap| gap.header.throttled_ns == 9 && gap.kernel == [5] && gap.user == [6]));
        assert_eq!(Record::parse(&bytes[..HEADER_BYTES - 1]), None);
        // What lies behind a sample's is frames, not the times of a gap.
        let sample = Record::parse(&bytes_of(1, &[5], &[6]));
        assert!(sample.is_some_and(|sample| sample.header.blocked_ns == 0 && sample.kernel == [5]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(record) = Record::parse(&bytes) {
                prop_assert!(record.length() <= bytes.len());
                prop_assert_eq!(RecordKind::header_bytes(record.header.kind) + (record.kernel.len() + record.user.len()) * 8, record.length());
            }
        }

        /// However long the records and whenever the ring is drained: each record that found room comes out, whole, once.
        #[test]
        fn every_record_that_found_room_comes_out(
            steps in proptest::collection::vec((0_usize..=127, 0_usize..=127, any::<bool>()), 1..60)
        ) {
            let Ok((mut rings, places)) = rings(1) else { return Err(TestCaseError::fail("no memory")) };
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            for (tid, (kernel, user, drain)) in steps.into_iter().enumerate() {
                let kernel: Vec<u64> = (0..kernel as u64).map(|frame| frame << 8 | tid as u64).collect();
                let user: Vec<u64> = (0..user as u64).map(|frame| frame << 40 | tid as u64).collect();
                if write(places[0], &bytes_of(tid as u32, &kernel, &user)) {
                    expected.push((tid as u32, kernel, user));
                }
                if drain {
                    prop_assert_eq!(rings.drain(&mut found).skipped_bytes, 0);
                }
            }
            prop_assert_eq!(rings.drain(&mut found).skipped_bytes, 0);
            let found: Vec<_> =
                parse_all(&found).map(|record| (record.header.tid, record.kernel, record.user)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
