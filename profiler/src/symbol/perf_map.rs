//! Names of code made at run time. In: the file that a runtime appends `START SIZE name` lines to. Out: names.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of names kept of one file; a runtime that writes more is named only in part.
const LIMIT_BYTES: u64 = 64 << 20;

/// Names kept of one file.
const LIMIT_ENTRIES: usize = 500_000;

/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;

#[derive(Debug, Clone)]
struct Entry {
    end: u64,
    name: Box<str>,
}

/// What was read of one file.
#[derive(Debug, Default)]
pub(crate) struct PerfMap {
    entries: BTreeMap<u64, Entry>,
    /// Bytes of the file taken in: whole lines only.
    read: u64,
}

impl PerfMap {
    /// The name at an address; reads what was appended to the file if the address is new.
    pub(crate) fn find(&mut self, file: &File, address: u64) -> Option<&str> {
        if self.lookup(address).is_none() {
            self.read_on(file);
        }
        self.lookup(address)
    }

    fn lookup(&self, address: u64) -> Option<&str> {
        let (_, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then_some(&*entry.name)
    }

    fn read_on(&mut self, file: &File) {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if length < self.read {
            // Written anew.
            *self = Self::default();
        }
        let mut bytes = vec![0; CHUNK];
        while self.read < LIMIT_BYTES && self.entries.len() < LIMIT_ENTRIES {
            let Ok(filled @ 1..) = file.read_at(&mut bytes, self.read) else { return };
            // Half a line waits for its other half, unless it is longer than any name deserves.
            let whole = bytes[..filled].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            if whole == 0 && filled < CHUNK {
                return;
            }
            let whole = if whole == 0 { filled } else { whole };
            self.take(&bytes[..whole]);
            self.read += whole as u64;
        }
    }

    fn take(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            if let Some((start, end, name)) = parse_line(line) {
                self.insert(start, end, name);
            }
        }
    }

    /// The latest line wins: runtimes use the memory of discarded code again.
    fn insert(&mut self, start: u64, end: u64, name: String) {
        while let Some((&old_start, old)) = self.entries.range(..end).next_back() {
            if old.end <= start {
                break;
            }
            let old = old.clone();
            self.entries.remove(&old_start);
            if old.end > end {
                self.entries.insert(end, old.clone());
            }
            if old_start < start {
                self.entries.insert(old_start, Entry { end: start, name: old.name });
                break;
            }
        }
        self.entries.insert(start, Entry { end, name: name.into() });
    }
}

/// Start and size are hexadecimal; the name may hold spaces.
fn parse_line(line: &[u8]) -> Option<(u64, u64, String)> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let digits = str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let end = start.checked_add(size).filter(|end| *end > start)?;
    let name = fields.next()?.trim_ascii();
    (!name.is_empty()).then(|| (start, end, String::from_utf8_lossy(name).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn lines_are_read_and_broken_ones_left_out() {
        let mut map = PerfMap::default();
        map.take(b"7f00 10 LazyCompile:~work app.js:3\nrubbish\n0x8000 0x8 stub\n9000 0 empty\nffffffffffffffff 9 x\n");
        assert_eq!(map.lookup(0x7f0f), Some("LazyCompile:~work app.js:3"));
        assert_eq!(map.lookup(0x7f10), None, "past its size");
        assert_eq!(map.lookup(0x8004), Some("stub"));
        assert_eq!(map.lookup(0x9000), None);
    }

    #[test]
    fn what_is_appended_is_found_and_half_a_line_waits() -> std::io::Result<()> {
        let mut file = tempfile::tempfile()?;
        let mut map = PerfMap::default();
        write!(file, "1000 10 one\n2000 10 tw")?;
        assert_eq!(map.find(&file, 0x1000), Some("one"));
        assert_eq!(map.find(&file, 0x2000), None);
        writeln!(file, "o")?;
        assert_eq!(map.find(&file, 0x2000), Some("two"));
        file.set_len(0)?;
        file.write_at(b"1000 10 anew\n", 0)?;
        assert_eq!(map.find(&file, 0x3000), None);
        assert_eq!(map.find(&file, 0x1000), Some("anew"));
        Ok(())
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            PerfMap::default().take(&bytes);
        }

        #[test]
        fn the_latest_line_wins(ranges in prop::collection::vec((0_u64..64, 1_u64..16), 1..40)) {
            let (mut map, mut model) = (PerfMap::default(), vec![None; 80]);
            for (order, (start, size)) in ranges.iter().enumerate() {
                map.take(format!("{start:x} {size:x} f{order}\n").as_bytes());
                model[*start as usize..(start + size) as usize].fill(Some(format!("f{order}")));
            }
            for (address, expected) in model.iter().enumerate() {
                prop_assert_eq!(map.lookup(address as u64), expected.as_deref());
            }
        }
    }
}
