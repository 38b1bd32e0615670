//! Any bytes as an ELF file, or as one section of a sound one: a table that keeps its promises comes out, or a reason.

use profiler::process::unwind::{Limits, Refused, Table, build};

/// Runs one input. Its first byte says what the others are.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let limits = Limits { section_bytes: 1 << 20, functions: 4096, instructions: 1 << 16, rows: 1 << 16 };
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
    let first = u64::from(table.first_page()) << 16;
    for (page, rows) in table.pages().enumerate() {
        assert!(rows.first().is_none_or(|row| row.pc_low == 0), "a page begins at its beginning");
        assert!(rows.windows(2).all(|pair| pair[0].pc_low < pair[1].pc_low), "rows ascend");
        assert!(rows.windows(2).all(|pair| pair[0].rule != pair[1].rule), "neighbours differ");
        for row in rows {
            let rule = table.rules()[usize::from(row.rule)];
            assert_eq!(table.rule_at(first + ((page as u64) << 16) + u64::from(row.pc_low)), rule);
        }
    }
}

/// An ELF file of one executable segment, itself, with `section` behind its headers. Code is at 0x1000 and beyond.
pub fn wrapped(section: &[u8], name: &str) -> Vec<u8> {
    const HEADER: u64 = 64;
    const CODE_END: u64 = 0x30_000;
    let names = b"\0.eh_frame\0.debug_frame\0.shstrtab\0";
    let name = if name == ".eh_frame" { 1 } else { 11 };
    let mut file = vec![0; HEADER as usize + 56 + 3 * 64];
    let section_at = file.len() as u64;
    file.extend(section);
    let names_at = file.len() as u64;
    file.extend(names);
    file.resize(file.len().max(CODE_END as usize), 0);

    file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0");
    put(&mut file, 32, &HEADER.to_le_bytes());
    put(&mut file, 40, &(HEADER + 56).to_le_bytes());
    put(&mut file, 52, &[64, 0, 56, 0, 1, 0, 64, 0, 3, 0, 2, 0]);
    // PT_LOAD, readable and executable: the file at address 0.
    let length = file.len() as u64;
    put(&mut file, 64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(&mut file, 64 + 32, &length.to_le_bytes());
    put(&mut file, 64 + 40, &length.to_le_bytes());
    for (index, name, offset, size) in [(1, name, section_at, section.len()), (2, 24, names_at, names.len())] {
        let at = HEADER as usize + 56 + 64 * index;
        put(&mut file, at, &[name, 0, 0, 0, 1, 0, 0, 0]);
        put(&mut file, at + 16, &offset.to_le_bytes());
        put(&mut file, at + 24, &offset.to_le_bytes());
        put(&mut file, at + 32, &(size as u64).to_le_bytes());
    }
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
