//! Records of a perf ring. In: the bytes of one record. Out: an event.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Event, What};
use crate::process::{FileIdentity, Pid, Tid};

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
const MISC_COMM_EXEC: u16 = 1 << 13;

/// `sample_id` behind every record: pid and tid, time.
const TRAILER: usize = 16;

/// What a record holds.
pub(super) enum Parsed {
    Event(Event),
    /// Nothing that matters here.
    Other,
}

/// Reads one record, header included.
pub(super) fn parse_record(record: &[u8]) -> Option<Parsed> {
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
