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

/// Bytes before the place read to that are compared to see whether the file was only appended to.
const TAIL: usize = 64;

/// What was read of one file.
#[derive(Debug, Default)]
pub(crate) struct PerfMap {
    entries: BTreeMap<u64, Entry>,
    /// Bytes of the file taken in: whole lines only.
    read: u64,
    /// The last of them.
    tail: Vec<u8>,
    /// Bytes taken in of all the file's contents, one after the other.
    taken: u64,
}

impl PerfMap {
    /// Takes in what was appended to the file, or all of it if it was written anew (as the JVM does each time it is told
    /// to). Names that a new content does not speak of stay: they were true when the code was sampled.
    pub(crate) fn refresh(&mut self, file: &File) {
        let mut tail = vec![0; self.tail.len()];
        let at = self.read - self.tail.len() as u64;
        if file.read_exact_at(&mut tail, at).is_err() || tail != self.tail {
            if self.taken > LIMIT_BYTES / 2 || self.entries.len() > LIMIT_ENTRIES / 2 {
                *self = Self::default();
            }
            self.read = 0;
            self.tail.clear();
        }
        self.read_on(file);
    }

    /// The name at an address.
    pub(crate) fn find(&self, address: u64) -> Option<&str> {
        let (_, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then_some(&*entry.name)
    }

    /// Number of names.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a limit was reached, so that some names are missing.
    pub(crate) fn is_full(&self) -> bool {
        self.taken >= LIMIT_BYTES || self.entries.len() >= LIMIT_ENTRIES
    }

    fn read_on(&mut self, file: &File) {
        let mut bytes = Vec::new();
        while !self.is_full() {
            bytes.resize(CHUNK, 0);
            let Ok(filled @ 1..) = file.read_at(&mut bytes, self.read) else { return };
            // Half a line waits for its other half, unless it is longer than any name deserves.
            let whole = bytes[..filled].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            if whole == 0 && filled < CHUNK {
                return;
            }
            let whole = if whole == 0 { filled } else { whole };
            self.take(&bytes[..whole]);
            self.read += whole as u64;
            self.taken += whole as u64;
            self.tail = bytes[whole.saturating_sub(TAIL)..whole].to_vec();
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
        assert_eq!(map.find(0x7f0f), Some("LazyCompile:~work app.js:3"));
        assert_eq!(map.find(0x7f10), None, "past its size");
        assert_eq!(map.find(0x8004), Some("stub"));
        assert_eq!(map.find(0x9000), None);
    }

    /// What the file says of an address now.
    fn look(map: &mut PerfMap, file: &File, address: u64) -> Option<String> {
        map.refresh(file);
        map.find(address).map(str::to_owned)
    }

    #[test]
    fn what_is_appended_is_found_and_half_a_line_waits() -> std::io::Result<()> {
        let mut file = tempfile::tempfile()?;
        let mut map = PerfMap::default();
        write!(file, "1000 10 one\n2000 10 tw")?;
        assert_eq!(look(&mut map, &file, 0x1000).as_deref(), Some("one"));
        assert_eq!(look(&mut map, &file, 0x2000), None);
        writeln!(file, "o")?;
        assert_eq!(look(&mut map, &file, 0x2000).as_deref(), Some("two"));
        writeln!(file, "1000 10 later")?;
        assert_eq!(look(&mut map, &file, 0x1000).as_deref(), Some("later"), "code moves");
        Ok(())
    }

    #[test]
    fn a_file_written_anew_is_read_anew_whatever_its_length() -> std::io::Result<()> {
        for length in [1, 5, 40] {
            let mut file = tempfile::tempfile()?;
            let mut map = PerfMap::default();
            for line in 0..5 {
                writeln!(file, "{line}000 10 old{line}")?;
            }
            assert_eq!(look(&mut map, &file, 0x4000).as_deref(), Some("old4"));
            let lines: Vec<String> = (1..=length).map(|line| format!("{line}000 10 new{line}\n")).collect();
            let anew = lines.concat();
            file.set_len(0)?;
            file.write_all_at(anew.as_bytes(), 0)?;
            assert_eq!(look(&mut map, &file, 0x1000).as_deref(), Some("new1"), "{length}");
            assert_eq!(look(&mut map, &file, 0x0000).as_deref(), Some("old0"), "it was there once");
        }
        Ok(())
    }

    #[test]
    fn a_huge_file_and_an_endless_line_are_read_up_to_the_limit() -> std::io::Result<()> {
        let file = tempfile::tempfile()?;
        file.set_len(1 << 40)?;
        let mut map = PerfMap::default();
        map.refresh(&file);
        assert!(map.is_full() && map.taken < LIMIT_BYTES + CHUNK as u64);
        map.refresh(&file);
        assert!(map.taken < LIMIT_BYTES + CHUNK as u64, "nor again");
        Ok(())
    }

    #[test]
    fn the_lines_of_node_the_jvm_and_python_are_understood() {
        let mut map = PerfMap::default();
        map.take(
            b"7f2a00010000 1a4 JS:*fibonacciHot /app/w.js:1:22\n\
              0x00007f36a0ed9480 0x0000000000000178 long Work.fibonacciHot(int)\n\
              7f0c5c1b6010 b py::fibonacci_hot:/app/w.py\n",
        );
        assert_eq!(map.find(0x7f2a_0001_0010), Some("JS:*fibonacciHot /app/w.js:1:22"));
        assert_eq!(map.find(0x7f36_a0ed_9480), Some("long Work.fibonacciHot(int)"));
        assert_eq!(map.find(0x7f0c_5c1b_601a), Some("py::fibonacci_hot:/app/w.py"));
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
                prop_assert_eq!(map.find(address as u64), expected.as_deref());
            }
        }
    }
}
