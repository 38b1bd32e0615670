//! A sound ELF file around bytes that need not be. In: the contents of a section. Out: the file.

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
