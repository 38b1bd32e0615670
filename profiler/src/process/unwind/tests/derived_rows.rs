//! Rows found by following instructions: what they say where a compiler says it too, and where nobody does.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSection};
use profiler_ebpf::unwind::Rule;
use profiler_ebpf::unwind::storage::PAGE_BITS;

use super::real_files::libc_path;
use crate::process::unwind::{Limits, agreement, build};

/// Functions as compilers write them: arguments on the stack, a frame pointer for a size that is not constant, a table of
/// jumps, an early way out, a call that does not return in the middle.
const SOURCE: &str = r"
#include <stdlib.h>
#include <string.h>
volatile long sink;
__attribute__((noinline, noreturn)) static void give_up(long why) { sink = why; exit(1); }
__attribute__((noinline)) long many(long a, long b, long c, long d, long e, long f, long g, long h) {
    char buffer[200];
    memset(buffer, (int)a, sizeof buffer);
    if (b == 7) give_up(buffer[c & 127]);
    return buffer[b & 127] + c + d + e + f + g + h;
}
__attribute__((noinline)) long sized(long n) {
    char room[n];
    memset(room, 1, n);
    return many(room[0], n, 3, 4, 5, 6, 7, 8);
}
__attribute__((noinline)) long chosen(long n) {
    long sum = many(n, 1, 2, 3, 4, 5, 6, 7);
    switch (n % 9) {
    case 0: return sum + many(1, n, 0, 0, 0, 0, 0, 0);
    case 1: return sum * sized(n);
    case 2: sum ^= 77; break;
    case 3: sum -= sized(2 * n); break;
    case 4: return 5;
    case 5: give_up(sum);
    case 6: sum += n * sum; break;
    case 7: sum = -sum; break;
    default: sum += 8;
    }
    return sized(sum & 63);
}
int main(int count, char **arguments) {
    long sum = 0;
    for (long i = 0; i < 1000 * count; i++) sum += chosen(i + arguments[0][0]);
    return (int)sum;
}
";

fn compile(directory: &Path, flags: &[&str]) -> std::path::PathBuf {
    let (source, program) = (directory.join("code.c"), directory.join(format!("code{}", flags.concat())));
    std::fs::write(&source, SOURCE).unwrap();
    let compiled = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(&source).args(flags).status().unwrap();
    assert!(compiled.success());
    program
}

#[test]
fn instructions_tell_what_the_compiler_tells() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { derived_instructions: 8 << 20, ..Limits::default() };
    let files = [compile(directory.path(), &["-static"]), libc_path()];
    for (path, least) in files.iter().zip([0.99, 0.99]) {
        let found = agreement(&File::open(path).unwrap(), &limits).unwrap();
        let alike = found.alike as f64 / found.compared as f64;
        let derived = found.derived_bytes as f64 / found.described_bytes as f64;
        println!("{}: {derived:.3} of the code, {alike:.4} of {} instructions", path.display(), found.compared);
        assert!(alike >= least, "{}: {alike:.4} of {} instructions", path.display(), found.compared);
        assert!(derived >= 0.85, "{}: {derived:.3} of the code", path.display());
    }
}

/// The same program without its unwind sections gets, for its own functions, the rows that they would have given.
#[test]
fn a_program_without_sections_for_unwinding_gets_its_rows_from_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let path = compile(directory.path(), &["-static"]);
    let whole = build(&File::open(&path).unwrap(), &Limits { derived_instructions: 0, ..Limits::default() }).unwrap();
    let bare = directory.path().join("bare");
    let mut bytes = std::fs::read(&path).unwrap();
    hide_section(&mut bytes, ".eh_frame");
    std::fs::write(&bare, &bytes).unwrap();
    let derived = build(&File::open(&bare).unwrap(), &Limits::default()).unwrap();
    assert!(derived.statistics().derived_bytes > 300_000, "{:?}", derived.statistics());
    let elf = object::File::parse(&*bytes).unwrap();
    let text = elf.section_by_name(".text").unwrap();
    let (start, size) = text.file_range().unwrap();
    let (mut both, mut other_depth) = (0_u32, 0_u32);
    for offset in start..start + size {
        let (theirs, ours) = (whole.rule_at(offset), derived.rule_at(offset));
        if theirs.cfa() == Rule::rsp(8).cfa() && ours.cfa() == theirs.cfa() {
            both += 1;
            other_depth += u32::from(ours.offset() != theirs.offset());
        }
    }
    assert!(both > 300_000 && other_depth * 100 < both, "{other_depth} of {both} bytes");
}

#[test]
fn what_is_described_is_never_derived() {
    let file = File::open(libc_path()).unwrap();
    let with = build(&file, &Limits::default()).unwrap();
    let without = build(&file, &Limits { derived_instructions: 0, ..Limits::default() }).unwrap();
    for (page, rows) in without.pages().enumerate() {
        for row in rows {
            let offset = ((u64::from(without.first_page()) + page as u64) << PAGE_BITS) + u64::from(row.pc_low);
            let rule = without.rule_at(offset);
            assert!(rule == Rule::no_info() || with.rule_at(offset) == rule, "{offset:#x}");
        }
    }
}

#[test]
fn little_time_gives_few_rows_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = compile(directory.path(), &["-static"]);
    let mut bytes = std::fs::read(path).unwrap();
    hide_section(&mut bytes, ".eh_frame");
    let table = build(&bytes[..], &Limits { derived_instructions: 1000, ..Limits::default() }).unwrap();
    assert!(table.statistics().derived_cut_off);
    assert!(table.statistics().derived_bytes < 10_000, "{:?}", table.statistics());
}

/// Gives a section another name and type, and takes its program header away.
fn hide_section(bytes: &mut [u8], name: &str) {
    const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    let half = |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes(*bytes[at..].first_chunk().unwrap()));
    let (programs, count) = (word(bytes, 32), half(bytes, 56));
    for header in (0..count).map(|index| programs + 56 * index) {
        if bytes[header..].starts_with(&PT_GNU_EH_FRAME.to_le_bytes()) {
            bytes[header..header + 4].copy_from_slice(&0_u32.to_le_bytes());
        }
    }
    let (sections, count, names) = (word(bytes, 40), half(bytes, 60), half(bytes, 62));
    let names = word(bytes, sections + 64 * names + 24);
    for header in (0..count).map(|index| sections + 64 * index) {
        let at = u32::from_le_bytes(*bytes[header..].first_chunk().unwrap()) as usize;
        if bytes[names + at..].starts_with(name.as_bytes()) {
            bytes[header + 4..header + 8].copy_from_slice(&8_u32.to_le_bytes());
        }
    }
}
