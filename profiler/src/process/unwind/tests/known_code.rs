//! Code that is known without call frame information: Go's first functions, ways back from signals, linkage tables.

use std::cell::Cell;

use profiler_ebpf::unwind::Rule;

use crate::process::unwind::code::{Code, Range};
use crate::process::unwind::gaps::{plt_rule, signal_returns};
use crate::process::unwind::go_functions::top_frames;
use crate::process::unwind::image::{Extent, Segment};
use crate::process::unwind::{Refused, Source};

/// A table of functions as Go 1.20 writes it, each with its entry and its flags.
fn go_table(text: u64, functions: &[(u32, u8)], end: u32) -> Vec<u8> {
    const HEADER: u64 = 72;
    let mut table = 0xffff_fff1_u32.to_le_bytes().to_vec();
    table.extend([0, 0, 1, 8]);
    for word in [functions.len() as u64, 0, text, 0, 0, 0, 0, HEADER] {
        table.extend(word.to_le_bytes());
    }
    let list = 8 * functions.len() as u32 + 4;
    for ((entry, _), index) in functions.iter().zip(0..) {
        table.extend(entry.to_le_bytes());
        table.extend((list + 44 * index).to_le_bytes());
    }
    table.extend(end.to_le_bytes());
    for (_, flags) in functions {
        let mut record = [0; 44];
        record[41] = *flags;
        table.extend(record);
    }
    table
}

fn found(table: &[u8], text: u64) -> Option<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    top_frames(table, text, |start, end| found.push((start, end))).map(|()| found)
}

#[test]
fn the_functions_of_go_that_nobody_calls_are_found() {
    let functions = [(0, 0), (0x20, 1), (0x60, 2), (0x100, 3)];
    let table = go_table(0x40_1000, &functions, 0x140);
    assert_eq!(found(&table, 0).unwrap(), [(0x40_1020, 0x40_1060), (0x40_1100, 0x40_1140)]);
    let relocated = go_table(0, &functions, 0x140);
    assert_eq!(found(&relocated, 0x7000).unwrap(), [(0x7020, 0x7060), (0x7100, 0x7140)]);
}

#[test]
fn a_table_of_go_that_is_cut_off_or_lies_is_none() {
    let table = go_table(0x40_1000, &[(0, 0), (0x20, 1)], 0x40);
    for length in 0..72 {
        assert_eq!(found(&table[..length], 0), None, "{length} bytes");
    }
    let mut far = table.clone();
    far[64..72].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(found(&far, 0), None, "a list beyond the end");
    let mut many = table.clone();
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(found(&many, 0).is_none(), "more functions than there is room for");
    let mut high = table;
    high[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(found(&high, 0), None, "addresses that wrap around");
}

#[test]
fn a_way_back_from_a_signal_is_found_in_either_encoding_and_across_reads() {
    const LONG: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 5];
    const SHORT: [u8; 7] = [0xb8, 15, 0, 0, 0, 0x0f, 5];
    let mut bytes = vec![0x90; 600 << 10];
    // One of them where one read ends and the next begins.
    let places = [0x100, (256 << 10) - 3, 0x80_000];
    bytes[places[0]..places[0] + 9].copy_from_slice(&LONG);
    bytes[places[1]..places[1] + 9].copy_from_slice(&LONG);
    bytes[places[2]..places[2] + 7].copy_from_slice(&SHORT);
    let segment = Segment { offset: 0, file_size: bytes.len() as u64, address: 0x40_0000, executable: true };
    let code = Code::new(&[segment]).unwrap();
    let search = |described: &[Range]| {
        let mut found = Vec::new();
        let gaps = code.gaps(described.iter().copied());
        assert_eq!(signal_returns(&bytes[..], &code, gaps.into_iter(), |range| found.push(range)), 0);
        found.sort_unstable_by_key(|range| range.start);
        found.dedup();
        found
    };
    let all: Vec<Range> = places
        .into_iter()
        .zip([9, 9, 7])
        .map(|(at, length)| Range { start: at as u32 - 1, end: (at + length) as u32 })
        .collect();
    assert_eq!(search(&[]), all);
    assert_eq!(search(&[Range { start: 0x80, end: 0x200 }]), all[1..], "what is described is not searched");
}

#[test]
fn gaps_near_one_another_are_read_at_once_and_what_is_described_between_them_is_not_searched() {
    struct Counting(Vec<u8>, Cell<u32>);
    impl Source for Counting {
        fn length(&self) -> Result<u64, Refused> {
            Ok(self.0.len() as u64)
        }

        fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Refused> {
            self.1.set(self.1.get() + 1);
            self.0[..].read(offset, bytes)
        }
    }
    const SHORT: [u8; 7] = [0xb8, 15, 0, 0, 0, 0x0f, 5];
    let mut source = Counting(vec![0x90; 64 << 10], Cell::new(0));
    // In a gap, in described code, across the start of a gap, and in a gap far away.
    for at in [0x100, 0x200, 0x30c, 0x8010] {
        source.0[at..at + 7].copy_from_slice(&SHORT);
    }
    let segment = Segment { offset: 0, file_size: source.0.len() as u64, address: 0, executable: true };
    let code = Code::new(&[segment]).unwrap();
    let gaps = [(0x100, 0x110), (0x310, 0x320), (0x400, 0x410), (0x8000, 0x8020)];
    let mut found = Vec::new();
    let gaps = gaps.map(|(start, end)| Range { start, end });
    assert_eq!(signal_returns(&source, &code, gaps.into_iter(), |range| found.push(range)), 0);
    assert_eq!(found, [Range { start: 0x100, end: 0x107 }, Range { start: 0x800f, end: 0x8017 }]);
    assert_eq!(source.1.get(), 2);
}

#[test]
fn entries_of_linkage_tables_are_told_by_their_bytes() {
    let plt = |entry: &[u8]| {
        let mut bytes = [0; 64];
        bytes[16..16 + entry.len()].copy_from_slice(entry);
        plt_rule(&bytes[..], Extent { offset: 0, size: 64, address: 0x1000, compressed: false })
    };
    assert_eq!(plt(&[0xff, 0x25, 1, 2, 3, 4, 0x68, 0, 0, 0, 0]), Some(Rule::plt(11)));
    assert_eq!(plt(&[0xf3, 0x0f, 0x1e, 0xfa, 0x68, 0, 0, 0, 0]), Some(Rule::plt(9)));
    assert_eq!(plt(&[0x90]), None);
    let none = plt_rule(&[0_u8; 16][..], Extent { offset: u64::MAX - 8, size: 64, address: 0, compressed: false });
    assert_eq!(none, None);
}
