//! Executable mappings of one process. In: lines of `/proc/PID/maps` and mmap events. Out: address to mapping.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::module::{FileIdentity, Module};

/// What an executable mapping holds.
#[derive(Debug, Clone)]
pub enum MappingKind {
    /// A file.
    Module(Arc<Module>),
    /// The vDSO.
    Vdso,
    /// No file: code made at run time.
    Anonymous,
}

/// One executable mapping.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// File offset of the first address, in bytes.
    pub offset: u64,
    /// Since when (CLOCK_MONOTONIC, ns); 0 if it was there when it was first looked for.
    pub since_ns: u64,
    /// What it holds.
    pub kind: MappingKind,
}

impl Mapping {
    /// Whether an address inside both means the same in both.
    pub(super) fn means_the_same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (MappingKind::Module(one), MappingKind::Module(two)) => {
                one.is_same_file(two) && self.offset.wrapping_sub(self.start) == other.offset.wrapping_sub(other.start)
            }
            (MappingKind::Vdso, MappingKind::Vdso) => self.start == other.start,
            // Whatever is made there at run time is named by its address.
            (MappingKind::Anonymous, MappingKind::Anonymous) => true,
            _ => false,
        }
    }

    /// The part of it that lies inside a range, which it overlaps.
    fn part(&self, start: u64, end: u64) -> Self {
        let (from, to) = (self.start.max(start), self.end.min(end));
        Self { start: from, end: to, offset: self.offset.wrapping_add(from - self.start), ..self.clone() }
    }
}

/// The executable mappings of a process, sorted, without overlap.
#[derive(Debug, Clone, Default)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// The mapping that covers an address.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        self.0[..after].last().filter(|mapping| address < mapping.end)
    }

    /// Adds a mapping; what was there before gives way, as mmap with `MAP_FIXED` does, and is returned unless it was the very
    /// same. munmap makes no event, so an old mapping stays until something else takes its place.
    pub fn insert(&mut self, mut mapping: Mapping) -> Vec<Mapping> {
        if mapping.start >= mapping.end {
            return Vec::new();
        }
        let (start, end) = (mapping.start, mapping.end);
        let first = self.0.partition_point(|old| old.end <= start);
        let last = self.0.partition_point(|old| old.start < end);
        let overlapped = &self.0[first..last];
        let mut gone = Vec::new();
        let same = overlapped.iter().all(|old| old.means_the_same(&mapping));
        if same && (matches!(mapping.kind, MappingKind::Anonymous) || covers(overlapped, start, end)) {
            let since = overlapped.iter().map(|old| old.since_ns).min();
            mapping.since_ns = since.map_or(mapping.since_ns, |since| since.min(mapping.since_ns));
        } else {
            gone = overlapped.iter().map(|old| old.part(start, end)).collect();
        }
        let mut pieces = Vec::with_capacity(3);
        pieces.extend(overlapped.first().filter(|old| old.start < start).map(|old| old.part(old.start, start)));
        let rest = overlapped.last().filter(|old| old.end > end).map(|old| old.part(end, old.end));
        pieces.push(mapping);
        pieces.extend(rest);
        self.0.splice(first..last, pieces);
        gone
    }

    /// Whether a mapping is there already.
    pub fn hold(&self, mapping: &Mapping) -> bool {
        let first = self.0.partition_point(|old| old.end <= mapping.start);
        let last = self.0.partition_point(|old| old.start < mapping.end);
        let Some(overlapped) = self.0.get(first..last) else { return false };
        covers(overlapped, mapping.start, mapping.end)
            && overlapped.iter().all(|old| old.since_ns <= mapping.since_ns && old.means_the_same(mapping))
    }

    /// Whether any mapping covers any of these addresses.
    pub fn overlap(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|mapping| mapping.end <= start);
        self.0.get(first).is_some_and(|mapping| mapping.start < end)
    }

    /// All mappings, lowest address first.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether mappings, lowest address first, cover every address of a range.
fn covers(mappings: &[Mapping], start: u64, end: u64) -> bool {
    let reached = mappings.iter().fold(start, |reached, old| if old.start <= reached { old.end } else { reached });
    reached >= end
}

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingLine<'line> {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Whether code can run there.
    pub executable: bool,
    /// File offset of the first address, in bytes.
    pub offset: u64,
    /// Which file; device and inode are 0 without one.
    pub file: FileIdentity,
    /// Path in the process's mount namespace, with ` (deleted)` behind it if so; `[vdso]` and the like; or empty.
    pub name: &'line OsStr,
}

/// Reads one line of `/proc/PID/maps`; `None` if it is not one.
pub fn parse_line(line: &[u8]) -> Option<MappingLine<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut range = fields.next()?.splitn(2, |byte| *byte == b'-');
    let (start, end) = (hexadecimal(range.next()?)?, hexadecimal(range.next()?)?);
    let executable = *fields.next()?.get(2)? == b'x';
    let offset = hexadecimal(fields.next()?)?;
    let mut device = fields.next()?.splitn(2, |byte| *byte == b':');
    let (major, minor) = (hexadecimal(device.next()?)?, hexadecimal(device.next()?)?);
    let inode = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let name = fields.next().unwrap_or_default().trim_ascii_start();
    let file = FileIdentity { major: u32::try_from(major).ok()?, minor: u32::try_from(minor).ok()?, inode };
    (start < end).then_some(MappingLine { start, end, executable, offset, file, name: OsStr::from_bytes(name) })
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn anonymous(start: u64, end: u64) -> Mapping {
        Mapping { start, end, offset: start, since_ns: 0, kind: MappingKind::Anonymous }
    }

    #[test]
    fn a_line_of_maps_is_read() {
        let line = b"7f12-7f56 r-xp 00026000 fe:01 1049077                    /usr/lib/a b.so (deleted)";
        let parsed = parse_line(line);
        let file = FileIdentity { major: 0xfe, minor: 1, inode: 1_049_077 };
        let name = OsStr::new("/usr/lib/a b.so (deleted)");
        let expected = MappingLine { start: 0x7f12, end: 0x7f56, executable: true, offset: 0x26000, file, name };
        assert_eq!(parsed, Some(expected));
    }

    #[test]
    fn a_line_without_a_name_and_a_broken_line_are_told_apart() {
        let anonymous = parse_line(b"7f12-7f56 rw-p 00000000 00:00 0 ");
        assert!(anonymous.is_some_and(|line| line.name.is_empty() && !line.executable));
        assert_eq!(parse_line(b"7f12-7f56 rw-p"), None);
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn a_new_mapping_in_the_middle_of_an_old_one_leaves_both_ends() {
        let mut mappings = Mappings::default();
        mappings.insert(anonymous(0x1000, 0x9000));
        mappings.insert(Mapping { offset: 7, ..anonymous(0x3000, 0x4000) });
        let found: Vec<_> = mappings.iter().map(|m| (m.start, m.end, m.offset)).collect();
        assert_eq!(found, [(0x1000, 0x3000, 0x1000), (0x3000, 0x4000, 7), (0x4000, 0x9000, 0x4000)]);
        assert!(mappings.find(0xfff).is_none() && mappings.find(0x9000).is_none());
        assert_eq!(mappings.find(0x3fff).map(|m| m.offset), Some(7));
    }

    proptest! {
        #[test]
        fn reading_a_line_never_panics(line in prop::collection::vec(any::<u8>(), 0..200)) {
            parse_line(&line);
        }

        #[test]
        fn the_latest_mapping_wins_and_none_overlap(ranges in prop::collection::vec((0_u64..64, 1_u64..16), 1..40)) {
            let mut mappings = Mappings::default();
            let mut model = [None; 80];
            for (order, (start, length)) in ranges.iter().enumerate() {
                let mapping = Mapping { offset: order as u64 * 1000, ..anonymous(*start, start + length) };
                mappings.insert(mapping);
                for position in *start..start + length {
                    model[position as usize] = Some(order as u64 * 1000 + position - start);
                }
            }
            let mut end = 0;
            for mapping in mappings.iter() {
                prop_assert!(mapping.start >= end && mapping.start < mapping.end);
                end = mapping.end;
            }
            for (address, expected) in model.iter().enumerate() {
                let found = mappings.find(address as u64).map(|m| m.offset + address as u64 - m.start);
                prop_assert_eq!(found, *expected);
            }
        }
    }
}
