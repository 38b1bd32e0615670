//! Any bytes as an ELF file, or as one section of a sound one: a table that keeps its promises comes out, or a reason.

use profiler::process::unwind::{Limits, Refused, Table, build};
use profiler_ebpf::unwind::storage::PAGE_BITS;

use super::elf::wrapped;

/// Runs one input. Its first byte says what the others are.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let limits = Limits {
        section_bytes: 1 << 20,
        functions: 4096,
        instructions: 1 << 16,
        rows: 1 << 16,
        derived_instructions: 1 << 14,
    };
    let built = match kind {
        b'f' => build(&wrapped(bytes, ".eh_frame")[..], &limits),
        b'd' => build(&wrapped(bytes, ".debug_frame")[..], &limits),
        _ => build(bytes, &limits),
    };
    match built {
        Ok(table) => check(&table, &limits),
        Err(refused) => assert!(Refused::NAMES.contains(&refused.as_str())),
    }
}

fn check(table: &Table, limits: &Limits) {
    assert!(table.rows().len() as u64 <= limits.rows + 1);
    let first = u64::from(table.first_page()) << PAGE_BITS;
    for (page, rows) in table.pages().enumerate() {
        assert!(rows.first().is_none_or(|row| row.pc_low == 0), "a page begins at its beginning");
        assert!(rows.windows(2).all(|pair| pair[0].pc_low < pair[1].pc_low), "rows ascend");
        assert!(rows.windows(2).all(|pair| pair[0].rule != pair[1].rule), "neighbours differ");
        for row in rows {
            let rule = table.rules()[usize::from(row.rule)];
            assert_eq!(table.rule_at(first + ((page as u64) << PAGE_BITS) + u64::from(row.pc_low)), rule);
        }
    }
}
