//! A lean private copy of an ELF file. In: an open file, untrusted. Out: an ELF file in a memfd with the function
//! symbols, and on request the debug sections, of the original; and where its segments are loaded.
//!
//! The parser downstream maps files into memory. It maps this copy, which nobody else can shrink, and finds in it only
//! symbols that may name something: functions with a size. A label without a size inside a function would hide that
//! function's name, and data symbols would only take memory.

use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use super::Unresolved;

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const SECTION: usize = 64;
const SYMBOL: usize = 24;

const SEGMENTS_MAX: usize = 4096;
const SECTIONS_MAX: usize = 65_536;
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Longest section name that is looked at: those that matter are short, and names may overlap, so that long ones would
/// cost many times the bytes that there are.
const SECTION_NAME_MAX: usize = 64;

/// Longest run of bytes that is copied into a string table as one string. Each look-up reads a name to its end.
const STRING_MAX: usize = 8 * 1024;

/// Function symbols of one table.
const FUNCTIONS_MAX: usize = 3 << 19;

/// Function symbols at one address, largest first; a look-up passes over all of them. One function has a few names.
const ALIASES_MAX: usize = 16;

const SEGMENT_LOAD: u32 = 1;
const SECTION_PROGBITS: u32 = 1;
const SECTION_SYMTAB: u32 = 2;
const SECTION_STRTAB: u32 = 3;
const SECTION_RELA: u32 = 4;
const SECTION_NOTE: u32 = 7;
const SECTION_NOBITS: u32 = 8;
const SECTION_DYNSYM: u32 = 11;
const SECTION_COMPRESSED: u64 = 1 << 11;
const COMPRESS_ZLIB: u32 = 1;
const COMPRESS_ZSTD: u32 = 2;
const BUILD_ID_NOTE: u32 = 3;

/// What to copy besides function symbols, and how much at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyOptions {
    /// Debug sections too.
    pub debug_sections: bool,
    /// Most bytes, and most after decompression.
    pub limit_bytes: u64,
}

/// Where a separate file with symbols may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DebugLink {
    /// Its base name.
    pub name: String,
    /// CRC-32 of the whole file.
    pub crc: u32,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The address that it is linked at; 0 if it is not loaded.
    pub address: u64,
}

/// One loaded segment.
#[derive(Debug, Clone, Copy)]
struct Segment {
    offset: u64,
    file_size: u64,
    address: u64,
}

/// The private copy.
#[derive(Debug)]
pub(crate) struct ElfCopy {
    file: OwnedFd,
    bytes: u64,
    /// Function symbols of the full table, and of the table of what is exported or imported.
    functions: (u64, u64),
    has_lines: bool,
    segments: Vec<Segment>,
    build_id: Vec<u8>,
    debug_link: Option<DebugLink>,
    entry: u64,
    mini_debug: Option<Extent>,
    go_table: Option<Extent>,
    relocations: Option<Extent>,
    unwind_table: Option<Extent>,
}

impl ElfCopy {
    /// Copies what is wanted of a file.
    pub(crate) fn new(source: &File, options: CopyOptions) -> Result<Self, Unresolved> {
        Copier::new(source, options)?.copy()
    }

    /// Where the parser finds it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Size of the copy.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of function symbols in the full table (`.symtab`).
    pub(crate) fn functions(&self) -> u64 {
        self.functions.0
    }

    /// Number of function symbols in the table that dynamic linking needs (`.dynsym`).
    pub(crate) fn exported_functions(&self) -> u64 {
        self.functions.1
    }

    /// The address at which the program begins; 0 if it is none.
    pub(crate) fn entry(&self) -> u64 {
        self.entry
    }

    /// The compressed ELF file with the symbols that were stripped (`.gnu_debugdata`).
    pub(crate) fn mini_debug(&self) -> Option<Extent> {
        self.mini_debug
    }

    /// Go's own table of functions (`.gopclntab`).
    pub(crate) fn go_table(&self) -> Option<Extent> {
        self.go_table
    }

    /// What the loader adjusts (`.rela.dyn`).
    pub(crate) fn relocations(&self) -> Option<Extent> {
        self.relocations
    }

    /// How to unwind (`.eh_frame`).
    pub(crate) fn unwind_table(&self) -> Option<Extent> {
        self.unwind_table
    }

    /// Whether debug sections were copied.
    pub(crate) fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// The build id; empty if there is none.
    pub(crate) fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    /// The separate file with symbols, if one is named.
    pub(crate) fn debug_link(&self) -> Option<&DebugLink> {
        self.debug_link.as_ref()
    }

    /// The address that a byte of the file is linked at.
    pub(crate) fn virtual_address(&self, offset: u64) -> Option<u64> {
        let inside = |segment: &&Segment| offset.checked_sub(segment.offset).is_some_and(|at| at < segment.file_size);
        self.segments.iter().find(inside).and_then(|s| (offset - s.offset).checked_add(s.address))
    }
}

#[derive(Debug, Clone, Copy)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
}

impl Section {
    fn extent(&self) -> Extent {
        Extent { offset: self.offset, size: self.size, address: self.address }
    }
}

/// What is in a section that is copied whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    /// Strings, each ended by a zero.
    Strings,
    Other,
}

struct Copier<'file> {
    source: &'file File,
    options: CopyOptions,
    header: [u8; HEADER],
    program_headers: Vec<u8>,
    section_headers: Vec<u8>,
    names: Vec<u8>,
    /// The copy, its headers last.
    file: File,
    /// Bytes in it.
    written: u64,
    /// What comes after them.
    out: Vec<u8>,
    copied: u64,
}

impl<'file> Copier<'file> {
    fn new(source: &'file File, options: CopyOptions) -> Result<Self, Unresolved> {
        let mut header = [0; HEADER];
        let length = source.read_at(&mut header, 0).map_err(|_| Unresolved::Unreadable)?;
        if length < 4 || header[..4] != *b"\x7fELF" {
            return Err(Unresolved::NotElf);
        }
        if length < HEADER {
            return Err(Unresolved::Truncated);
        }
        if header[4..6] != [2, 1] {
            return Err(Unresolved::Unsupported);
        }
        let mut copier = Self {
            source,
            options,
            header,
            program_headers: Vec::new(),
            section_headers: Vec::new(),
            names: Vec::new(),
            file: memory_file("symbols", &[]).map_err(|_| Unresolved::Unreadable)?,
            written: 0,
            out: Vec::new(),
            copied: 0,
        };
        copier.read_headers()?;
        Ok(copier)
    }

    fn read_headers(&mut self) -> Result<(), Unresolved> {
        let header = self.header;
        let (segments_at, sections_at) = (u64_at(&header, 32), u64_at(&header, 40));
        let (mut segments, mut sections) = (usize::from(u16_at(&header, 56)), usize::from(u16_at(&header, 60)));
        let mut names = usize::from(u16_at(&header, 62));
        if sections_at == 0 {
            (sections, names) = (0, 0);
        } else {
            if usize::from(u16_at(&header, 58)) != SECTION {
                return Err(Unresolved::Malformed);
            }
            // Counts that do not fit are in the first section header.
            let first = self.read(sections_at, SECTION)?;
            if sections == 0 {
                sections = usize::try_from(u64_at(&first, 32)).unwrap_or(usize::MAX);
            }
            if names == 0xffff {
                names = u32_at(&first, 40) as usize;
            }
            if segments == 0xffff {
                segments = u32_at(&first, 44) as usize;
            }
        }
        if segments > SEGMENTS_MAX || sections > SECTIONS_MAX {
            return Err(Unresolved::TooLarge);
        }
        if segments != 0 && usize::from(u16_at(&header, 54)) != SEGMENT {
            return Err(Unresolved::Malformed);
        }
        self.program_headers = self.read(segments_at, segments * SEGMENT)?;
        self.section_headers = self.read(sections_at, sections * SECTION)?;
        if sections != 0 {
            let table = self.section(names).ok_or(Unresolved::Malformed)?;
            if table.size > 16 << 20 {
                return Err(Unresolved::TooLarge);
            }
            self.names = self.read(table.offset, table.size as usize)?;
        }
        Ok(())
    }

    fn copy(mut self) -> Result<ElfCopy, Unresolved> {
        let segments = self.segments();
        let (mut functions, mut has_lines) = ((0, 0), false);
        let (mut build_id, mut debug_link) = (Vec::new(), None);
        let (mut mini_debug, mut go_table, mut relocations, mut unwind_table) = (None, None, None, None);
        let program_headers_at = HEADER as u64;
        let sections_at = program_headers_at + self.program_headers.len() as u64;
        self.out = vec![0; sections_at as usize + self.section_headers.len()];
        self.flush()?;
        for index in 0..self.section_headers.len() / SECTION {
            let Some(section) = self.section(index) else { break };
            let name = self.name(&section).to_vec();
            let debug = name.starts_with(b".debug_") && section.kind == SECTION_PROGBITS;
            let start = self.written;
            let copied = match section.kind {
                SECTION_SYMTAB => {
                    functions.0 += self.copy_functions(&section)?;
                    true
                }
                SECTION_DYNSYM => {
                    functions.1 += self.copy_functions(&section)?;
                    true
                }
                // Linkers compress debug sections alone.
                SECTION_STRTAB if section.flags & SECTION_COMPRESSED != 0 => return Err(Unresolved::Unsupported),
                SECTION_STRTAB => self.copy_whole(&section, Contents::Strings).map(|()| true)?,
                SECTION_PROGBITS if debug && self.options.debug_sections => {
                    has_lines |= name == b".debug_info";
                    let strings = matches!(name.as_slice(), b".debug_str" | b".debug_line_str");
                    let strings = strings && section.flags & SECTION_COMPRESSED == 0;
                    let contents = if strings { Contents::Strings } else { Contents::Other };
                    self.copy_whole(&section, contents).map(|()| true)?
                }
                SECTION_NOTE if name == b".note.gnu.build-id" => {
                    build_id = self.read_small(&section).and_then(|note| parse_build_id(&note)).unwrap_or_default();
                    false
                }
                SECTION_PROGBITS if name == b".gnu_debuglink" => {
                    debug_link = self.read_small(&section).and_then(|link| parse_debug_link(&link));
                    false
                }
                _ => {
                    let place = match (section.kind, name.as_slice()) {
                        (SECTION_NOBITS, _) => &mut None,
                        (_, b".gnu_debugdata") => &mut mini_debug,
                        (_, b".gopclntab" | b".data.rel.ro.gopclntab") => &mut go_table,
                        (SECTION_RELA, b".rela.dyn" | b".rela") => &mut relocations,
                        (_, b".eh_frame") => &mut unwind_table,
                        _ => &mut None,
                    };
                    *place = Some(section.extent());
                    false
                }
            };
            let header = &mut self.section_headers[index * SECTION..(index + 1) * SECTION];
            if copied {
                let size = self.written - start;
                header[24..32].copy_from_slice(&start.to_le_bytes());
                header[32..40].copy_from_slice(&size.to_le_bytes());
                self.out.resize((self.written.next_multiple_of(16) - self.written) as usize, 0);
                self.flush()?;
            } else if section.kind != 0 {
                header[4..8].copy_from_slice(&SECTION_NOBITS.to_le_bytes());
            }
        }
        let mut header = self.header;
        header[32..40].copy_from_slice(&program_headers_at.to_le_bytes());
        let sections_at = if self.section_headers.is_empty() { 0 } else { sections_at };
        header[40..48].copy_from_slice(&sections_at.to_le_bytes());
        self.out.extend_from_slice(&header);
        self.out.extend_from_slice(&self.program_headers);
        self.out.extend_from_slice(&self.section_headers);
        self.file.write_all_at(&self.out, 0).map_err(|_| Unresolved::Unreadable)?;
        Ok(ElfCopy {
            file: self.file.into(),
            bytes: self.written,
            functions,
            has_lines,
            segments,
            build_id,
            debug_link,
            entry: u64_at(&self.header, 24),
            mini_debug,
            go_table,
            relocations,
            unwind_table,
        })
    }

    fn segments(&self) -> Vec<Segment> {
        let loaded = self.program_headers.chunks_exact(SEGMENT).filter(|header| u32_at(header, 0) == SEGMENT_LOAD);
        loaded
            .map(|header| Segment {
                offset: u64_at(header, 8),
                file_size: u64_at(header, 32),
                address: u64_at(header, 16),
            })
            .collect()
    }

    fn section(&self, index: usize) -> Option<Section> {
        let header = self.section_headers.get(index * SECTION..(index + 1) * SECTION)?;
        Some(Section {
            name: u32_at(header, 0),
            kind: u32_at(header, 4),
            flags: u64_at(header, 8),
            address: u64_at(header, 16),
            offset: u64_at(header, 24),
            size: u64_at(header, 32),
        })
    }

    fn name(&self, section: &Section) -> &[u8] {
        let name = self.names.get(section.name as usize..).unwrap_or_default();
        let name = &name[..name.len().min(SECTION_NAME_MAX)];
        name.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Copies the functions of a symbol table that have a size.
    fn copy_functions(&mut self, section: &Section) -> Result<u64, Unresolved> {
        if section.flags & SECTION_COMPRESSED != 0 {
            return Err(Unresolved::Unsupported);
        }
        self.account(section.size)?;
        let (mut at, end) = (section.offset, section.offset.checked_add(section.size).ok_or(Unresolved::Malformed)?);
        while end - at >= SYMBOL as u64 {
            let whole = (end - at).min((CHUNK / SYMBOL * SYMBOL) as u64) as usize / SYMBOL * SYMBOL;
            let chunk = self.read(at, whole)?;
            for symbol in chunk.chunks_exact(SYMBOL).filter(|symbol| names_code(symbol)) {
                self.out.extend_from_slice(symbol);
            }
            if self.out.len() > FUNCTIONS_MAX * SYMBOL {
                return Err(Unresolved::TooLarge);
            }
            at += whole as u64;
        }
        let functions = (self.out.len() / SYMBOL) as u64;
        drop_aliases(&mut self.out);
        self.flush()?;
        Ok(functions)
    }

    fn copy_whole(&mut self, section: &Section, contents: Contents) -> Result<(), Unresolved> {
        self.account(section.size)?;
        if section.flags & SECTION_COMPRESSED != 0 {
            self.account(self.decompressed_size(section)?)?;
        }
        let (mut at, end) = (section.offset, section.offset.checked_add(section.size).ok_or(Unresolved::Malformed)?);
        let mut run = 0;
        while at < end {
            let mut chunk = self.read(at, (end - at).min(CHUNK as u64) as usize)?;
            if contents == Contents::Strings {
                // A character that is not whole is read again with what follows.
                if at + (chunk.len() as u64) < end {
                    chunk.truncate(chunk.len() - unfinished(&chunk));
                }
                run = end_long_strings(&mut chunk, run);
                make_utf8(&mut chunk);
            }
            at += chunk.len() as u64;
            self.out = chunk;
            self.flush()?;
        }
        Ok(())
    }

    /// Appends to the copy what is to come.
    fn flush(&mut self) -> Result<(), Unresolved> {
        self.file.write_all_at(&self.out, self.written).map_err(|_| Unresolved::Unreadable)?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn account(&mut self, bytes: u64) -> Result<(), Unresolved> {
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > self.options.limit_bytes { Err(Unresolved::TooLarge) } else { Ok(()) }
    }

    /// Unpacks a section once to see that it becomes what its header promises and no more: the parser trusts it.
    fn decompressed_size(&self, section: &Section) -> Result<u64, Unresolved> {
        let header = self.read(section.offset, 24)?;
        let (algorithm, promised) = (u32_at(&header, 0), u64_at(&header, 8));
        let left = self.options.limit_bytes.saturating_sub(self.copied);
        if promised > left {
            return Err(Unresolved::TooLarge);
        }
        let packed = SectionReader {
            file: self.source,
            at: section.offset + 24,
            end: section.offset.saturating_add(section.size),
        };
        let packed = io::BufReader::new(packed);
        let mut limited: Box<dyn Read> = match algorithm {
            COMPRESS_ZLIB => Box::new(flate2::bufread::ZlibDecoder::new(packed).take(promised + 1)),
            COMPRESS_ZSTD => {
                let decoder = zstd::Decoder::with_buffer(packed).map_err(|_| Unresolved::Malformed)?;
                Box::new(decoder.take(promised + 1))
            }
            _ => return Err(Unresolved::Unsupported),
        };
        let unpacked = io::copy(&mut limited, &mut io::sink()).map_err(|_| Unresolved::Malformed)?;
        if unpacked == promised { Ok(promised) } else { Err(Unresolved::Malformed) }
    }

    fn read_small(&self, section: &Section) -> Option<Vec<u8>> {
        (section.size <= 4096).then(|| self.read(section.offset, section.size as usize).ok())?
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, Unresolved> {
        read(self.source, at, length)
    }
}

/// Bytes of a file; none are allocated that are not there.
pub(crate) fn read(file: &File, at: u64, length: usize) -> Result<Vec<u8>, Unresolved> {
    // A size beyond the end of the file must not be allocated first.
    let mut bytes = Vec::new();
    if length == 0 {
        return Ok(bytes);
    }
    let last = at.checked_add(length as u64 - 1).ok_or(Unresolved::Malformed)?;
    if length > CHUNK && !matches!(file.read_at(&mut [0], last), Ok(1)) {
        return Err(Unresolved::Truncated);
    }
    bytes.resize(length, 0);
    file.read_exact_at(&mut bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Unresolved::Truncated,
        io::ErrorKind::InvalidInput => Unresolved::Malformed,
        _ => Unresolved::Unreadable,
    })?;
    Ok(bytes)
}

/// A part of a file as a stream.
pub(crate) struct SectionReader<'file> {
    file: &'file File,
    at: u64,
    end: u64,
}

impl<'file> SectionReader<'file> {
    pub(crate) fn new(file: &'file File, extent: Extent) -> Self {
        Self { file, at: extent.offset, end: extent.offset.saturating_add(extent.size) }
    }
}

impl Read for SectionReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at).min(into.len() as u64) as usize;
        let length = self.file.read_at(&mut into[..left], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// A file of our own, in memory.
pub(crate) fn memory_file(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// Whether a symbol may name code: a function, or of no type as in assembly; defined; with a size that makes sense.
fn names_code(symbol: &[u8]) -> bool {
    const NO_TYPE: u8 = 0;
    const FUNCTION: u8 = 2;
    const INDIRECT_FUNCTION: u8 = 10;
    let defined = u16_at(symbol, 6) != 0;
    let (value, size) = (u64_at(symbol, 8), u64_at(symbol, 16));
    let code = matches!(symbol[4] & 0xf, NO_TYPE | FUNCTION | INDIRECT_FUNCTION);
    code && defined && size != 0 && value.checked_add(size).is_some()
}

/// Sorts symbols by address, the largest first, and drops what is too many at one address.
fn drop_aliases(symbols: &mut Vec<u8>) {
    let (all, _) = symbols.as_chunks_mut::<SYMBOL>();
    all.sort_by_key(|symbol| (u64_at(symbol, 8), Reverse(u64_at(symbol, 16))));
    let (mut kept, mut last, mut aliases) = (0, 0, 0);
    for index in 0..all.len() {
        let address = u64_at(&all[index], 8);
        aliases = if address == last { aliases + 1 } else { 1 };
        last = address;
        if aliases <= ALIASES_MAX {
            all[kept] = all[index];
            kept += 1;
        }
    }
    symbols.truncate(kept * SYMBOL);
}

/// Ends strings that are longer than [`STRING_MAX`]; `run` bytes of the first one came before. Returns the bytes of the
/// last one so far.
fn end_long_strings(bytes: &mut [u8], mut run: usize) -> usize {
    for byte in bytes {
        if *byte == 0 || run >= STRING_MAX {
            *byte = 0;
            run = 0;
        } else {
            run += 1;
        }
    }
    run
}

fn parse_build_id(note: &[u8]) -> Option<Vec<u8>> {
    let (name, description) = (u32_at(note.get(..12)?, 0) as usize, u32_at(note, 4) as usize);
    let at = 12 + name.checked_next_multiple_of(4)?;
    (u32_at(note, 8) == BUILD_ID_NOTE).then(|| note.get(at..at.checked_add(description)?).map(<[u8]>::to_vec))?
}

/// Bytes at the end that begin a character of UTF-8 and do not finish it: three at most.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    // Of what a character begins with, the tail's first bytes may be its last.
    (0..tail.len())
        .find_map(|from| match str::from_utf8(&tail[from..]) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => Some(tail.len() - from),
            _ => None,
        })
        .unwrap_or(0)
}

/// Puts a question mark in the place of every byte that belongs to no character of UTF-8: the parser takes no other names, and
/// ELF does not ask for them. Every name stays where symbols say that it is.
fn make_utf8(names: &mut [u8]) {
    let mut at = 0;
    while let Some(Err(error)) = names.get(at..).map(str::from_utf8) {
        let bad = at + error.valid_up_to();
        let length = error.error_len().unwrap_or(names.len() - bad);
        names[bad..bad + length].fill(b'?');
        at = bad + length;
    }
}

/// A name padded with zeros to a multiple of four, then the CRC.
fn parse_debug_link(link: &[u8]) -> Option<DebugLink> {
    let end = link.iter().position(|byte| *byte == 0)?;
    let name = str::from_utf8(&link[..end]).ok().filter(|name| !name.is_empty() && !name.contains('/'))?;
    let at = (end + 1).next_multiple_of(4);
    Some(DebugLink { name: name.into(), crc: u32_at(link.get(at..at + 4)?, 0) })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn symbol(address: u64, size: u64, name: u32) -> [u8; SYMBOL] {
        let mut symbol = [0; SYMBOL];
        symbol[..4].copy_from_slice(&name.to_le_bytes());
        symbol[8..16].copy_from_slice(&address.to_le_bytes());
        symbol[16..].copy_from_slice(&size.to_le_bytes());
        symbol
    }

    #[test]
    fn of_very_many_symbols_at_one_address_a_few_of_the_largest_stay() {
        let mut symbols = Vec::new();
        for name in 0..1000 {
            symbols.extend(symbol(0x2000, u64::from(name), name));
        }
        symbols.extend(symbol(0x3000, 1, 5000));
        symbols.extend(symbol(0x1000, 1, 6000));
        drop_aliases(&mut symbols);
        let names: Vec<u32> = symbols.chunks_exact(SYMBOL).map(|symbol| u32_at(symbol, 0)).collect();
        let expected: Vec<u32> = [6000].into_iter().chain((984..1000).rev()).chain([5000]).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_string_that_is_too_long_is_ended_wherever_the_chunks_meet() {
        let mut bytes = vec![b'x'; 3 * STRING_MAX];
        bytes[10] = 0;
        let mut whole = bytes.clone();
        end_long_strings(&mut whole, 0);
        let longest = whole.split(|byte| *byte == 0).map(<[u8]>::len).max();
        assert_eq!(longest, Some(STRING_MAX));
        let mut run = 0;
        for chunk in bytes.chunks_mut(1000) {
            run = end_long_strings(chunk, run);
        }
        assert_eq!(bytes, whole);
    }

    /// An ELF file of so many sections, whose names all begin in one string of 15 MiB.
    fn sections_of_one_long_name(count: usize) -> Vec<u8> {
        let names = 15 << 20;
        let mut file = vec![0; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let sections_at = HEADER + names;
        file[40..48].copy_from_slice(&(sections_at as u64).to_le_bytes());
        file[58..60].copy_from_slice(&(SECTION as u16).to_le_bytes());
        file[60..62].copy_from_slice(&(count as u16).to_le_bytes());
        file.resize(sections_at, b'n');
        for _ in 0..count {
            let mut section = [0; SECTION];
            section[4..8].copy_from_slice(&SECTION_PROGBITS.to_le_bytes());
            section[24..32].copy_from_slice(&(HEADER as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(names as u64).to_le_bytes());
            file.extend(section);
        }
        file
    }

    #[test]
    fn a_long_string_that_is_the_name_of_every_section_is_not_read_for_each() -> io::Result<()> {
        let file = memory_file("sections", &sections_of_one_long_name(60_000))?;
        let begun = Instant::now();
        let options = CopyOptions { debug_sections: false, limit_bytes: 1 << 20 };
        assert!(ElfCopy::new(&file, options).is_ok());
        // Minutes where each section's name is read to its end.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        Ok(())
    }
}
