//! Files made to do harm to whoever reads their unwind information: each is refused with its reason or makes a sound table,
//! within bounded memory.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use profiler::process::unwind::{Identity, Limits, Refused, Source, Unsupported, build, build_vdso};
use profiler_ebpf::unwind::Rule;

#[path = "../../fuzz/src/elf.rs"]
mod elf;

use elf::wrapped;

/// Counts what is allocated.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// No test here holds more than this of its own; what builders take stays below 64 MiB each.
const MOST_BYTES: usize = 512 << 20;

/// A number that no file is large enough for.
const HUGE: [u8; 8] = u64::MAX.to_le_bytes();
/// Bytes of a file that is mostly a hole.
const LENGTH: u64 = 1 << 40;

fn attempt<S: Source + ?Sized>(source: &S) -> Result<usize, &'static str> {
    let result = build(source, &Limits::default()).map(|table| table.rows().len()).map_err(|refused| refused.as_str());
    assert!(PEAK.load(Ordering::Relaxed) < MOST_BYTES, "{} bytes at once", PEAK.load(Ordering::Relaxed));
    result
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A CIE whose FDEs give absolute addresses, with these initial instructions after the usual ones.
fn cie(instructions: &[u8]) -> Vec<u8> {
    let mut contents = b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\0\x0c\x07\x08\x90\x01".to_vec();
    contents.extend(instructions);
    record(contents)
}

/// An FDE at `at` in its section, of the CIE at `cie`.
fn fde(at: usize, cie: usize, start: u64, length: u64, instructions: &[u8]) -> Vec<u8> {
    let mut contents = ((at + 4).wrapping_sub(cie) as u32).to_le_bytes().to_vec();
    contents.extend(start.to_le_bytes());
    contents.extend(length.to_le_bytes());
    contents.push(0);
    contents.extend(instructions);
    record(contents)
}

fn record(mut contents: Vec<u8>) -> Vec<u8> {
    while !contents.len().is_multiple_of(4) {
        contents.push(0);
    }
    let mut record = (contents.len() as u32).to_le_bytes().to_vec();
    record.extend(contents);
    record
}

fn section(functions: &[(u64, u64, &[u8])]) -> Vec<u8> {
    let mut section = cie(&[]);
    for (start, length, instructions) in functions {
        let at = section.len();
        section.extend(fde(at, 0, *start, *length, instructions));
    }
    section
}

fn eh_frame(section: &[u8]) -> Vec<u8> {
    wrapped(section, ".eh_frame")
}

#[test]
fn a_sound_file_is_read() {
    let file = eh_frame(&section(&[(0x1000, 0x20, b"\x44\x0e\x10\x86\x02"), (0x2000, 0x10, b"")]));
    let table = build(&file[..], &Limits::default()).unwrap();
    assert_eq!(table.rule_at(0x1000), Rule::rsp(8));
    assert_eq!(table.rule_at(0x1004), Rule::rsp(16).with_rbp_at_cfa(-16));
    assert_eq!(table.rule_at(0x1020), Rule::no_info(), "nothing is said between the two");
    assert_eq!(table.rule_at(0x200f), Rule::rsp(8));
    assert_eq!(table.rule_at(0x2010), Rule::no_info());
    assert_eq!(table.rule_at(u64::MAX), Rule::no_info());
    let debug =
        wrapped(&record(b"\xff\xff\xff\xff\x04\0\x08\0\x01\x78\x10\x0c\x07\x08\x90\x01".to_vec()), ".debug_frame");
    assert_eq!(attempt(&debug[..]), Err("no_unwind_info"), "a CIE alone says nothing");
}

#[test]
fn a_file_cut_off_anywhere_is_refused_or_read_as_far_as_it_goes() {
    let whole = eh_frame(&section(&[(0x1000, 0x20, b"\x44\x0e\x10\x86\x02"), (0x2000, 0x10, b"")]));
    for length in (0..1024).chain((1024..whole.len()).step_by(997)) {
        let reason = attempt(&whole[..length]).unwrap_err();
        assert!(["not_elf", "truncated"].contains(&reason), "{length} bytes: {reason}");
    }
    // A real one, with sections that lie beyond the cut.
    let real = std::fs::read("/proc/self/exe").unwrap();
    for length in (0..real.len()).step_by(real.len() / 40) {
        let result = attempt(&real[..length]);
        assert!(result.is_ok() || result.is_err_and(|reason| Refused::NAMES.contains(&reason)));
    }
}

#[test]
fn headers_that_promise_the_impossible_are_refused() {
    let sound = eh_frame(&section(&[(0x1000, 0x20, b"")]));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = sound.clone();
        put(&mut file, at, bytes);
        attempt(&file[..])
    };
    assert_eq!(with(0, b"\x7fELG"), Err("not_elf"));
    assert_eq!(with(4, &[1]), Err("other_machine"), "32 bits");
    assert_eq!(with(18, &[183]), Err("other_machine"), "another processor");
    assert_eq!(with(16, &[1]), Err("not_elf"), "an object file");
    assert_eq!(with(32, &HUGE), Err("truncated"), "program headers beyond the end");
    assert_eq!(with(56, &[0xff, 0xff]), Err("too_large"), "65,535 program headers");
    assert_eq!(with(54, &[57]), Err("malformed"), "program headers of another size");
    assert_eq!(with(40, &HUGE), Err("truncated"), "section headers beyond the end");
    assert_eq!(with(60, &[0xff, 0xff]), Err("too_large"), "65,535 section headers");
    assert_eq!(with(62, &[0xfe, 0]), Err("malformed"), "names in a section that is not there");
    // Numbers taken from the first section header: 2^64 - 1 sections.
    let mut file = sound.clone();
    put(&mut file, 60, &[0, 0]);
    put(&mut file, 120 + 32, &HUGE);
    assert_eq!(attempt(&file[..]), Err("too_large"));
    // The loaded segment.
    assert_eq!(with(64 + 8, &HUGE), Err("truncated"), "beyond the end");
    assert_eq!(with(64 + 32, &HUGE), Err("truncated"), "longer than the file");
    assert_eq!(with(64 + 16, &HUGE), Err("malformed"), "at the end of the address space");
    assert_eq!(with(64 + 4, &[4]), Err("no_unwind_info"), "not executable");
    // The section of unwind information: where it does not lie in the file it is not there.
    assert_eq!(with(184 + 24, &HUGE), Err("no_unwind_info"));
    assert_eq!(with(184 + 32, &HUGE), Err("no_unwind_info"));
    assert_eq!(with(184 + 32, &0_u64.to_le_bytes()), Err("no_unwind_info"));
}

#[test]
fn what_is_not_a_file_is_refused() {
    for path in ["/", "/dev/null", "/dev/zero"] {
        assert_eq!(attempt(&File::open(path).unwrap()), Err("not_a_file"), "{path}");
    }
    assert_eq!(attempt(&File::open("/proc/self/maps").unwrap()), Err("not_elf"), "its length is 0");
    let empty = tempfile::tempfile().unwrap();
    assert_eq!(attempt(&empty), Err("not_elf"));
}

#[test]
fn a_sparse_file_of_a_tebibyte_costs_nothing() {
    let mut file = tempfile::tempfile().unwrap();
    let mut bytes = eh_frame(&section(&[(0x1000, 0x20, b"")]));
    put(&mut bytes, 64 + 32, &LENGTH.to_le_bytes());
    file.write_all(&bytes).unwrap();
    file.set_len(LENGTH).unwrap();
    assert_eq!(attempt(&file), Err("too_large"), "a TiB of code");
    // As much unwind information.
    put(&mut bytes, 64 + 32, &0x1000_u64.to_le_bytes());
    put(&mut bytes, 184 + 32, &(LENGTH / 2).to_le_bytes());
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&bytes).unwrap();
    assert_eq!(attempt(&file), Err("too_large"));
}

#[test]
fn functions_that_overlap_are_settled_as_a_search_would_find_them() {
    let file = eh_frame(&section(&[
        (0x1000, 0x1000, b"\x44\x0e\x10"),
        (0x1100, 0x100, b"\x0e\x20"),
        (0x1000, 0x50, b"\x0e\x30"),
        (0x1800, 0, b""),
        (u64::MAX - 8, 8, b""),
        (0x1900, u64::MAX, b"\x0e\x40"),
    ]));
    let table = build(&file[..], &Limits::default()).unwrap();
    assert_eq!(table.rule_at(0x1004), Rule::rsp(16), "the first of two at the same address");
    assert_eq!(table.rule_at(0x1100), Rule::rsp(32), "the one that begins later");
    assert_eq!(table.rule_at(0x1200), Rule::no_info(), "and what it hid does not come back");
    assert_eq!(table.statistics().functions_outside, 1);
    assert!(table.statistics().functions_hidden >= 1);
    // A function that says it is longer than the address space.
    assert!(table.rows().len() < 100);
}

#[test]
fn entries_that_lead_in_circles_are_counted() {
    let mut section = section(&[(0x1000, 0x20, b"")]);
    // A function that is its own CIE, one whose CIE is a function, one whose CIE lies before the section.
    let function = section.len() - 28;
    for cie in [section.len(), function, usize::MAX - 1000] {
        let at = section.len();
        section.extend(fde(at, cie, 0x3000, 0x20, b""));
    }
    // And one record that reaches past the end.
    section.extend([0xf0, 0xff, 0xff, 0x7f, 1, 2, 3, 4]);
    let table = build(&eh_frame(&section)[..], &Limits::default()).unwrap();
    assert_eq!(table.rule_at(0x1000), Rule::rsp(8));
    assert_eq!(table.rule_at(0x3000), Rule::no_info());
    assert!(table.statistics().malformed >= 4, "{:?}", table.statistics());
}

#[test]
fn states_remembered_without_end_are_cut_off() {
    let mut deep = vec![0x0a; 100_000];
    deep.extend([0x44, 0x0e, 0x10]);
    let table = build(&eh_frame(&section(&[(0x1000, 0x20, &deep)]))[..], &Limits::default()).unwrap();
    assert_eq!(table.rule_at(0x1000), Rule::unsupported());
    let count = table.statistics().unsupported().find(|(why, _)| *why == Unsupported::RememberedTooDeep).unwrap().1;
    assert_eq!(count, 1);
    let table = build(&eh_frame(&section(&[(0x1000, 0x20, &[0x0b])]))[..], &Limits::default()).unwrap();
    assert_eq!(table.rule_at(0x1000), Rule::unsupported(), "restored without being remembered");
}

#[test]
fn enormous_runs_of_instructions_are_cut_off() {
    // Many CIEs, each a run of its own, each needed by functions that take turns, so that keeping them does not help.
    const CIES: usize = 6000;
    let run = cie(&[0x0a, 0x0b].repeat(800));
    let mut section = Vec::new();
    for _ in 0..CIES {
        section.extend(&run);
    }
    for turn in 0..4_u64 {
        for index in 0..CIES {
            let at = section.len();
            section.extend(fde(at, index * run.len(), 0x1000 + 8 * (turn * CIES as u64 + index as u64), 8, b""));
        }
    }
    assert_eq!(attempt(&eh_frame(&section)[..]), Err("too_large"));
}

#[test]
fn more_rows_functions_and_rules_than_allowed_are_refused_or_counted() {
    // Advance by one byte, change the offset: a row for every three bytes.
    let rows: Vec<u8> = (0..60_000_u32).flat_map(|row| [0x41, 0x0e, if row % 2 == 0 { 16 } else { 24 }]).collect();
    let file = eh_frame(&section(&[(0x1000, 0x20_000, &rows)]));
    assert!(attempt(&file[..]).unwrap() > 50_000);
    let few = |limits: Limits| build(&file[..], &limits).map(|table| table.rows().len()).map_err(|why| why.as_str());
    assert_eq!(few(Limits { rows: 1000, ..Limits::default() }), Err("too_large"));
    assert_eq!(few(Limits { instructions: 1000, ..Limits::default() }), Err("too_large"));
    assert_eq!(few(Limits { functions: 0, ..Limits::default() }), Err("too_large"));
    assert_eq!(few(Limits { section_bytes: 100, ..Limits::default() }), Err("too_large"));
    // Ten thousand different rules.
    let rules: Vec<u8> =
        (0..10_000_u32).flat_map(|rule| [0x41, 0x0e, 0x80 | (rule & 0x7f) as u8, (rule >> 7) as u8 & 0x7f]).collect();
    let table = build(&eh_frame(&section(&[(0x1000, 0x10_000, &rules)]))[..], &Limits::default()).unwrap();
    assert!(table.rules().len() <= 4096);
    let refused = table.statistics().unsupported().find(|(why, _)| *why == Unsupported::TooManyRules).unwrap().1;
    assert!(refused > 5000, "{refused}");
}

#[test]
fn a_compressed_section_cannot_unpack_to_more_than_it_promises() {
    for (kind, stream) in [
        (1_u32, {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&vec![0; 64 << 20]).unwrap();
            encoder.finish().unwrap()
        }),
        (2, zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap()),
        (77, Vec::new()),
    ] {
        for promised in [1_u64 << 10, 1 << 62] {
            let mut section = kind.to_le_bytes().to_vec();
            section.extend([0; 4]);
            section.extend(promised.to_le_bytes());
            section.extend(1_u64.to_le_bytes());
            section.extend(&stream);
            let mut file = wrapped(&section, ".debug_frame");
            put(&mut file, 184 + 8, &0x800_u64.to_le_bytes());
            let result = attempt(&file[..]);
            assert!([Err("too_large"), Err("no_unwind_info"), Err("malformed")].contains(&result), "{result:?}");
        }
    }
}

#[test]
fn a_binary_is_known_by_its_build_id_wherever_it_lies() {
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy("/proc/self/exe", copy.path()).unwrap();
    let (one, other) = (File::open("/proc/self/exe").unwrap(), File::open(copy.path()).unwrap());
    let (one, other) = (Identity::of(&one).unwrap(), Identity::of(&other).unwrap());
    assert_eq!(one, other);
    assert!(matches!(one, Identity::Build { ref id, .. } if id.len() == 20), "{one:?}");
    let mut anonymous = tempfile::tempfile().unwrap();
    anonymous.write_all(&eh_frame(&section(&[(0x1000, 0x20, b"")]))).unwrap();
    assert!(matches!(Identity::of(&anonymous).unwrap(), Identity::File { .. }));
}

#[test]
fn the_vdso_is_read_from_memory() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let range = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
    let memory = File::open("/proc/self/mem").unwrap();
    let table = build_vdso(&memory, range, &Limits::default()).unwrap();
    assert!(table.statistics().functions > 3);
    assert_eq!(table.statistics().unsupported_rows(), 0);
    assert!(build_vdso(&memory, (0, 1 << 40), &Limits::default()).is_err());
    assert!(build_vdso(&memory, (range.1, range.0), &Limits::default()).is_err());
}
