//! Where each type's record begins. A record's length follows from its kind; kinds that are newer than this program are
//! skipped, for the types that matter here keep their form.
//!
//! The length of an unknown kind is told by the kernel where it publishes the layout of kinds (a section that the header
//! names from its 25th byte on). Elsewhere it is found by trying: only with the right one do the records that follow have
//! names inside the strings and end where the section ends.

use super::{BtfError, word_at};

/// Kinds as they are numbered.
pub(super) const INT: u32 = 1;
pub(super) const PTR: u32 = 2;
pub(super) const ARRAY: u32 = 3;
pub(super) const STRUCT: u32 = 4;
pub(super) const UNION: u32 = 5;
pub(super) const ENUM: u32 = 6;
pub(super) const FWD: u32 = 7;
pub(super) const TYPEDEF: u32 = 8;
pub(super) const VOLATILE: u32 = 9;
pub(super) const CONST: u32 = 10;
pub(super) const RESTRICT: u32 = 11;
pub(super) const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
pub(super) const TYPE_TAG: u32 = 18;
pub(super) const ENUM64: u32 = 19;

/// Kinds there can be.
const KINDS: usize = 128;
/// How often another length is tried, at most.
const MOST_TRIES: u32 = 512;

/// A record's second word.
#[derive(Clone, Copy)]
pub(super) struct Info(pub u32);

impl Info {
    /// Older kernels have fewer bits for the kind and for the number, and zeros above them.
    pub fn kind(self) -> u32 {
        (self.0 >> 24) & 0x7f
    }

    /// Elements that follow.
    pub fn count(self) -> usize {
        (self.0 & 0x00ff_ffff) as usize
    }

    /// The flag: of a struct that its members' offsets hold their sizes in bits, of an enum that its values have a sign.
    pub fn flag(self) -> bool {
        self.0 >> 31 != 0
    }
}

/// What follows the three words that every record begins with, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    fixed: usize,
    each: usize,
}

const fn layout(fixed: usize, each: usize) -> Layout {
    Layout { fixed, each }
}

/// What unknown kinds may have, the likeliest first.
const CANDIDATES: [Layout; 12] = [
    layout(0, 0),
    layout(4, 0),
    layout(0, 4),
    layout(0, 8),
    layout(0, 12),
    layout(8, 0),
    layout(12, 0),
    layout(0, 16),
    layout(16, 0),
    layout(4, 4),
    layout(4, 8),
    layout(4, 12),
];

fn known(kind: u32) -> Option<Layout> {
    Some(match kind {
        INT | VAR | DECL_TAG => layout(4, 0),
        ARRAY => layout(12, 0),
        STRUCT | UNION | DATASEC | ENUM64 => layout(0, 12),
        ENUM | FUNC_PROTO => layout(0, 8),
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => layout(0, 0),
        _ => return None,
    })
}

/// Where the sections lie.
#[derive(Clone, Copy)]
pub(super) struct Sections {
    pub types: (usize, usize),
    pub strings: (usize, usize),
    layouts: (usize, usize),
}

impl Sections {
    /// Reads the header.
    pub fn of(data: &[u8]) -> Result<Self, BtfError> {
        const MAGIC: u16 = 0xeb9f;
        const HEADER_BYTES: usize = 24;
        const HEADER_BYTES_WITH_LAYOUTS: usize = 32;
        if data.len() < HEADER_BYTES || u16::from_ne_bytes([data[0], data[1]]) != MAGIC {
            return Err(BtfError::Malformed("no BTF header"));
        }
        let word = |at: usize| word_at(data, at).map(|word| word as usize);
        let header = word(4).ok_or(BtfError::Malformed("header cut short"))?;
        let section = |at: usize| {
            let start = header.checked_add(word(at)?)?;
            let end = start.checked_add(word(at + 4)?)?;
            (end <= data.len()).then_some((start, end))
        };
        let beyond = BtfError::Malformed("sections reach beyond the end");
        let (Some(types), Some(strings)) = (section(8), section(16)) else { return Err(beyond) };
        let layouts = if header >= HEADER_BYTES_WITH_LAYOUTS { section(24).unwrap_or((0, 0)) } else { (0, 0) };
        Ok(Self { types, strings, layouts })
    }
}

/// Positions of all records; the first, of number 0 (`void`), has none.
pub(super) fn positions(data: &[u8], sections: Sections) -> Result<Vec<u32>, BtfError> {
    let mut layouts = [None; KINDS];
    for (kind, layout) in (0_u32..).zip(&mut layouts) {
        *layout = known(kind).or_else(|| published(data, sections.layouts, kind));
    }
    let mut walk = Walk { data, sections, positions: vec![0], tries: 0 };
    walk.from(sections.types.0, &mut layouts)?;
    Ok(walk.positions)
}

/// What the kernel says of a kind: a byte for what follows once, a byte for each element.
fn published(data: &[u8], (start, end): (usize, usize), kind: u32) -> Option<Layout> {
    const ENTRY_BYTES: usize = 4;
    let at = kind as usize * ENTRY_BYTES;
    let entry = data.get(start..end)?.get(at..at + ENTRY_BYTES)?;
    (kind != 0).then(|| layout(entry[0].into(), entry[1].into()))
}

struct Walk<'a> {
    data: &'a [u8],
    sections: Sections,
    positions: Vec<u32>,
    tries: u32,
}

impl Walk<'_> {
    /// Goes from one record to the next until the end.
    fn from(&mut self, mut at: usize, layouts: &mut [Option<Layout>; KINDS]) -> Result<(), BtfError> {
        const SHORT: BtfError = BtfError::Malformed("a type is cut short");
        let end = self.sections.types.1;
        let strings = self.sections.strings.1 - self.sections.strings.0;
        while at < end {
            let (Some(name), Some(info)) = (word_at(self.data, at), word_at(self.data, at + 4)) else {
                return Err(SHORT);
            };
            let info = Info(info);
            if name as usize >= strings.max(1) || info.kind() == 0 {
                return Err(BtfError::Malformed("a type is none"));
            }
            let Some(Some(layout)) = layouts.get(info.kind() as usize).copied() else {
                return self.with_unknown(at, info, layouts);
            };
            let next = at + 12 + layout.fixed + layout.each * info.count();
            if next > end {
                return Err(SHORT);
            }
            self.positions.push(at as u32);
            at = next;
        }
        Ok(())
    }

    /// Tries what the record at `at`, of an unknown kind, may have.
    fn with_unknown(&mut self, at: usize, info: Info, layouts: &mut [Option<Layout>; KINDS]) -> Result<(), BtfError> {
        let known = self.positions.len();
        let kind = info.kind() as usize;
        for candidate in CANDIDATES {
            self.tries += 1;
            if self.tries > MOST_TRIES {
                break;
            }
            layouts[kind] = Some(candidate);
            if self.from(at, layouts).is_ok() {
                return Ok(());
            }
            self.positions.truncate(known);
        }
        layouts[kind] = None;
        Err(BtfError::UnknownKind(info.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: u32 = 20;

    /// BTF with these records behind each other and `int` at the end.
    fn blob(records: &[&[u32]], layouts: Option<&[[u8; 4]]>) -> Vec<u8> {
        let types: Vec<u32> = records.concat().into_iter().chain([1, INT << 24, 4, 32]).collect();
        let length = types.len() as u32 * 4;
        let header = if layouts.is_some() { 32 } else { 24 };
        let mut words = vec![0xeb9f | 1 << 16, header, 0, length, length, 5];
        let layouts = layouts.unwrap_or_default().concat();
        if header == 32 {
            words.extend([length + 5, layouts.len() as u32]);
        }
        let mut data: Vec<u8> = words.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        data.extend(b"\0int\0");
        data.extend(layouts);
        data
    }

    fn offsets(data: &[u8]) -> Result<Vec<u32>, BtfError> {
        let sections = Sections::of(data)?;
        let positions = positions(data, sections)?;
        Ok(positions[1..].iter().map(|at| at - sections.types.0 as u32).collect())
    }

    #[test]
    fn an_unknown_kind_is_skipped_whatever_follows_it() -> Result<(), BtfError> {
        for more in [0, 1, 2, 3, 4] {
            let new = [&[0, NEW << 24, 0][..], &[7; 4][..more]].concat();
            let data = blob(&[&new, &[0, PTR << 24, 3], &new], None);
            let length = 12 + 4 * more as u32;
            assert_eq!(offsets(&data)?, [0, length, length + 12, 2 * length + 12], "{more} words");
        }
        Ok(())
    }

    #[test]
    fn two_unknown_kinds_with_elements_are_skipped() -> Result<(), BtfError> {
        let pairs = [&[0, NEW << 24 | 3, 0][..], &[5; 6]].concat();
        let triples = [&[0, 0x7e << 24 | 2, 0][..], &[1, 0, 64, 1, 0, 128]].concat();
        let data = blob(&[&pairs, &triples, &[0, CONST << 24, 1]], None);
        assert_eq!(offsets(&data)?, [0, 36, 72, 84]);
        Ok(())
    }

    #[test]
    fn what_the_kernel_says_of_a_kind_is_believed() -> Result<(), BtfError> {
        let mut layouts = [[0; 4]; 21];
        layouts[NEW as usize] = [8, 20, 0, 0];
        // A length that no candidate has.
        let new = [&[0, NEW << 24 | 1, 0][..], &[9; 7]].concat();
        let data = blob(&[&new], Some(&layouts));
        assert_eq!(offsets(&data)?, [0, 40]);
        assert!(matches!(offsets(&blob(&[&new], None)), Err(BtfError::UnknownKind(NEW))));
        Ok(())
    }
}
