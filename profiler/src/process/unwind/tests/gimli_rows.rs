//! Our rule at an address is what gimli's own evaluation of the FDE for that address says.

use std::collections::BTreeMap;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindSection, UnwindTableRow, X86_64,
};
use object::{Object, ObjectSection, ObjectSegment};
use profiler_ebpf::unwind::Rule;

use super::real_files::real_files;
use crate::process::unwind::{Limits, build};

type Row = UnwindTableRow<usize>;

/// What a row means as a rule; `None` where it is one that a walker with three registers cannot follow, or where only an
/// expression tells.
fn expected(row: &Row) -> Option<Rule> {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Undefined) => return Some(Rule::end()),
        Some(RegisterRule::Register(X86_64::RDI)) => return in_rdi(row),
        _ => return None,
    }
    let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
    let rule = match register {
        X86_64::RSP => Rule::rsp(i32::try_from(offset).ok()?),
        X86_64::RBP => Rule::rbp(i32::try_from(offset).ok()?),
        _ => return None,
    };
    match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue) => Some(rule),
        Some(RegisterRule::Offset(offset)) => Some(rule.with_rbp_at_cfa(i16::try_from(offset).ok()?)),
        Some(RegisterRule::Undefined) => Some(rule.with_rbp_undefined()),
        _ => None,
    }
}

/// What a row means whose return address was taken off the stack.
fn in_rdi(row: &Row) -> Option<Rule> {
    match (row.cfa(), row.register(X86_64::RBP)) {
        (CfaRule::RegisterAndOffset { register: X86_64::RSP, offset }, None) => {
            Some(Rule::return_in_rdi(i32::try_from(*offset).ok()?))
        }
        _ => None,
    }
}

#[test]
fn every_row_of_real_files_says_what_gimli_says() {
    for (path, file) in real_files() {
        let table = build(&file, &Limits { derived_instructions: 0, ..Limits::default() }).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let elf = object::File::parse(&*bytes).unwrap();
        let section = elf.section_by_name(".eh_frame").unwrap();
        let frames = EhFrame::new(section.data().unwrap(), LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(section.address());
        // Segments by address, with the distance to the file offset.
        let segments: BTreeMap<u64, (u64, u64)> = elf
            .segments()
            .map(|segment| (segment.address(), (segment.address() + segment.file_range().1, segment.file_range().0)))
            .collect();
        let offset = |address: u64| {
            let (start, (end, offset)) = segments.range(..=address).next_back()?;
            (address < *end).then(|| address - start + offset)
        };

        let mut context = UnwindContext::new();
        let mut entries = frames.entries(&bases);
        let (mut same, mut unsupported, mut expressions) = (0, 0, 0);
        while let Some(entry) = entries.next().unwrap() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let fde = partial.parse(EhFrame::<EndianSlice<'_, LittleEndian>>::cie_from_offset).unwrap();
            if fde.len() == 0 || offset(fde.initial_address()).is_none() {
                continue;
            }
            let mut rows = fde.rows(&frames, &bases, &mut context).unwrap();
            while let Some(row) = rows.next_row().unwrap() {
                if row.start_address() >= row.end_address() {
                    continue;
                }
                for address in [row.start_address(), row.end_address() - 1] {
                    let found = table.rule_at(offset(address).unwrap());
                    let at = format!("{} at {address:#x}: {found:?} for {row:?}", path.display());
                    match expected(row) {
                        Some(rule) => {
                            assert_eq!(found, rule, "{at}");
                            same += 1;
                        }
                        None if found == Rule::unsupported() => unsupported += 1,
                        // Expressions, and signal frames made of them, are judged by what they do, elsewhere.
                        None => {
                            assert!(has_expression(row), "{at}");
                            expressions += 1;
                        }
                    }
                }
            }
        }
        assert!(same > 1000, "{}: {same} rows compared", path.display());
        assert!(unsupported * 50 < same, "{}: {unsupported} of {same} unsupported", path.display());
        println!("{}: {same} alike, {unsupported} unsupported, {expressions} expressions", path.display());
    }
}

fn has_expression(row: &Row) -> bool {
    let of_register = |register: Register| matches!(row.register(register), Some(RegisterRule::Expression(_)));
    matches!(row.cfa(), CfaRule::Expression(_)) || of_register(X86_64::RBP)
}
