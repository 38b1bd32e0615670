//! One step of the walker leads where one step of framehop leads, from any instruction of real files, expressions included.

use std::path::Path;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};
use object::{Object, ObjectSection, ObjectSegment};
use profiler_ebpf::unwind::rule::Cfa;
use profiler_ebpf::unwind::storage::PAGE_BITS;
use profiler_ebpf::unwind::walk::{flag, step};
use profiler_ebpf::unwind::{Memory, Rule, Stop, Tables, Walk};

use super::real_files::real_files;
use crate::process::unwind::{Limits, Table, build};

const BASE: u64 = 0x5000_0000_0000;
const STACK: u64 = 0x7f00_0000_0000;
const STACK_WORDS: u64 = 1 << 21;

/// A stack whose every word is another address further up, so that whatever is read from it can be read from again.
struct Stack;

impl Memory for Stack {
    fn word(&mut self, address: u64) -> Option<u64> {
        word(address)
    }
}

fn word(address: u64) -> Option<u64> {
    let index = address.checked_sub(STACK).filter(|_| address.is_multiple_of(8))? / 8;
    (index < STACK_WORDS).then(|| STACK + 8 * (index + 1 + (index * 2_654_435_761) % (STACK_WORDS - index)))
}

/// A table as the only module of a process.
struct OneModule<'t>(&'t Table, &'t [(u64, u64, u64)]);

impl Tables for OneModule<'_> {
    fn rule(&mut self, address: u64) -> Result<Rule, Stop> {
        let address = address - BASE;
        let segment = self.1.iter().find(|(start, size, _)| (*start..start + size).contains(&address));
        let (start, _, offset) = segment.ok_or(Stop::NoMapping)?;
        Ok(self.0.rule_at(address - start + offset))
    }
}

fn framehop_module(path: &Path, bytes: &'static [u8]) -> Module<&'static [u8]> {
    let elf = object::File::parse(bytes).unwrap();
    let section = |name| elf.section_by_name(name).map(|section| (section.address(), section.data().unwrap()));
    let range = |found: Option<(u64, &'static [u8])>| found.map(|(start, data)| start..start + data.len() as u64);
    let (frames, header) = (section(".eh_frame"), section(".eh_frame_hdr"));
    let end = elf.segments().map(|segment| segment.address() + segment.size()).max().unwrap();
    Module::new(
        path.display().to_string(),
        BASE..BASE + end,
        BASE,
        ExplicitModuleSectionInfo {
            base_svma: 0,
            eh_frame_svma: range(frames),
            eh_frame: frames.map(|(_, data)| data),
            eh_frame_hdr_svma: range(header),
            eh_frame_hdr: header.map(|(_, data)| data),
            ..Default::default()
        },
    )
}

#[test]
fn a_step_leads_where_framehop_goes() {
    for (path, file) in real_files().into_iter().filter(|(path, _)| !path.ends_with("node")) {
        // What is found by following instructions is not in the sections that framehop reads.
        let table = build(&file, &Limits { derived_instructions: 0, ..Limits::default() }).unwrap();
        let bytes: &'static [u8] = std::fs::read(&path).unwrap().leak();
        let elf = object::File::parse(bytes).unwrap();
        let segments: Vec<(u64, u64, u64)> =
            elf.segments().map(|segment| (segment.address(), segment.file_range().1, segment.file_range().0)).collect();
        let mut unwinder: UnwinderX86_64<&'static [u8]> = UnwinderX86_64::new();
        unwinder.add_module(framehop_module(&path, bytes));
        let mut cache = CacheX86_64::<_>::new();

        let (mut alike, mut expressions) = (0_u32, 0);
        for (page, rows) in table.pages().enumerate() {
            for row in rows {
                let offset = ((u64::from(table.first_page()) + page as u64) << PAGE_BITS) + u64::from(row.pc_low);
                let rule = table.rules()[usize::from(row.rule)];
                let segment = segments.iter().find(|(_, size, start)| (*start..start + size).contains(&offset));
                let Some((start, _, segment_offset)) = segment else { continue };
                if rule == Rule::no_info() || rule == Rule::unsupported() {
                    continue;
                }
                let pc = BASE + offset - segment_offset + start;
                let (sp, bp) = (STACK + 0x10_000, STACK + 0x18_000);
                let mut walk = Walk::from_registers(pc, sp, bp);
                let stop = step(&mut walk, &mut Stack, &mut OneModule(&table, &segments));
                let mut registers = UnwindRegsX86_64::new(pc, sp, bp);
                let theirs = unwinder.unwind_frame(
                    FrameAddress::from_instruction_pointer(pc),
                    &mut registers,
                    &mut cache,
                    &mut |address| word(address).ok_or(()),
                );
                let same = match theirs {
                    Ok(Some(address)) => {
                        let bp_same = walk.flags & flag::NO_BP != 0 || walk.bp == registers.bp();
                        stop == 0 && walk.pc == address && walk.sp == registers.sp() && bp_same
                    }
                    Ok(None) => stop == Stop::End as u32,
                    Err(_) => stop != 0,
                };
                if same {
                    alike += 1;
                } else {
                    // framehop takes frames whose CFA is an expression by their frame pointers.
                    let plain = [Cfa::Rsp as u32, Cfa::Rbp as u32, Cfa::End as u32].contains(&rule.cfa());
                    assert!(!plain, "{} {pc:#x} {rule:?}: {walk:x?} {stop} {theirs:x?} {registers:x?}", path.display());
                    expressions += 1;
                }
            }
        }
        assert!(alike > 1000, "{}: {alike} steps compared", path.display());
        assert!(expressions * 200 < alike, "{}: {expressions} of {alike} by expressions", path.display());
    }
}
