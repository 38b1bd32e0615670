//! Names of code made at run time. In: the file that a runtime appends `START SIZE name` lines to. Out: names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::name::{NAME_MAX, cut};
use super::packed_names::PackedNames;

/// Bytes taken in of one file; a runtime that writes more is named only in part.
const LIMIT_BYTES: u64 = 64 << 20;

/// Ranges kept of one file.
const LIMIT_RANGES: usize = 1 << 20;

/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;

/// Bytes before the place read to that are compared to see whether the file was only appended to.
const TAIL: usize = 64;

/// Fewest ranges that are put in order at a time.
const RECENT: usize = 4096;

/// Bytes that a range among the recent ones takes, the tree's own included.
const RECENT_BYTES: usize = 48;

/// Code under one name.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    length: u32,
    name: u32,
}

impl Range {
    fn end(self) -> u64 {
        self.start + u64::from(self.length)
    }

    /// The part before an address inside it.
    fn before(self, address: u64) -> Self {
        Self { length: (address - self.start) as u32, ..self }
    }

    /// The part from an address inside it on.
    fn from(self, address: u64) -> Self {
        Self { start: address, length: (self.end() - address) as u32, ..self }
    }
}

/// What may be read and kept when a file is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Bytes of memory that the map may come to.
    pub memory: usize,
    /// Bytes of the file that may be read.
    pub read: u64,
}

/// What was read of one file.
#[derive(Debug, Default)]
pub(crate) struct PerfMap {
    /// By address, without overlap.
    settled: Vec<Range>,
    /// What came after, by where it begins, without overlap; it hides what is settled.
    recent: BTreeMap<u64, Range>,
    names: PackedNames,
    /// Bytes of the file taken in: whole lines only.
    read: u64,
    /// The last of them.
    tail: Vec<u8>,
    /// Bytes taken in of all the file's contents, one after the other.
    taken: u64,
    /// Whether something was left out for want of memory or time.
    cut_short: bool,
}

impl PerfMap {
    /// Takes in what was appended to the file, or all of it if it was written anew (as the JVM does each time it is told
    /// to). Names that a new content does not speak of stay: they were true when the code was sampled. Returns how many
    /// bytes were read.
    pub(crate) fn refresh(&mut self, file: &File, budget: Budget) -> u64 {
        let mut tail = vec![0; self.tail.len()];
        let at = self.read - self.tail.len() as u64;
        if file.read_exact_at(&mut tail, at).is_err() || tail != self.tail {
            if self.cut_short || self.taken > LIMIT_BYTES / 2 || self.len() > LIMIT_RANGES / 2 {
                *self = Self::default();
            }
            self.read = 0;
            self.tail.clear();
        }
        let before = self.taken;
        self.read_on(file, budget);
        if self.recent.len() > self.settled.len() / 16 {
            self.settle();
        }
        self.names.rest();
        self.taken - before
    }

    /// The name at an address.
    pub(crate) fn find(&mut self, address: u64) -> Option<Arc<str>> {
        let holds = |range: &Range| address >= range.start && address < range.end();
        let recent = self.recent.range(..=address).next_back().map(|(_, range)| *range).filter(holds);
        let settled = || {
            let after = self.settled.partition_point(|range| range.start <= address);
            self.settled.get(after.checked_sub(1)?).copied().filter(holds)
        };
        let range = recent.or_else(settled)?;
        self.names.get(range.name)
    }

    /// Number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.settled.len() + self.recent.len()
    }

    /// Bytes of memory that the map takes.
    pub(crate) fn bytes(&self) -> usize {
        self.settled.capacity() * size_of::<Range>() + self.recent.len() * RECENT_BYTES + self.names.bytes()
    }

    /// Whether a limit was reached, so that some names are missing.
    pub(crate) fn is_full(&self) -> bool {
        self.cut_short || self.taken >= LIMIT_BYTES || self.len() >= LIMIT_RANGES
    }

    fn read_on(&mut self, file: &File, budget: Budget) {
        let mut bytes = Vec::new();
        let begun = self.taken;
        self.cut_short = false;
        while !self.is_full() {
            bytes.resize(CHUNK, 0);
            let Ok(filled @ 1..) = file.read_at(&mut bytes, self.read) else { return };
            // Half a line waits for its other half, unless it is longer than any name deserves.
            let whole = memchr::memrchr(b'\n', &bytes[..filled]).map_or(0, |last| last + 1);
            if whole == 0 && filled < CHUNK {
                return;
            }
            if self.bytes() >= budget.memory || self.taken - begun >= budget.read {
                self.cut_short = true;
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
            if let Some(Line { start, length, name }) = parse_line(line)
                && let Some(name) = self.names.add(&name)
            {
                self.insert(Range { start, length, name });
            }
        }
    }

    /// The latest line wins: runtimes use the memory of discarded code again. A line leaves at most two ranges more than
    /// there were, whatever it covers, and a range is a few bytes however long its name is.
    fn insert(&mut self, new: Range) {
        while let Some((&start, &old)) = self.recent.range(..new.end()).next_back() {
            if old.end() <= new.start {
                break;
            }
            self.recent.remove(&start);
            if old.end() > new.end() {
                self.recent.insert(new.end(), old.from(new.end()));
            }
            if start < new.start {
                self.recent.insert(start, old.before(new.start));
                break;
            }
        }
        self.recent.insert(new.start, new);
        // Each time the settled ones are a quarter more, so that a range is moved a few times in all.
        if self.recent.len() >= RECENT.max(self.settled.len() / 4) {
            self.settle();
        }
    }

    /// Puts what is recent among what is settled.
    fn settle(&mut self) {
        let recent = std::mem::take(&mut self.recent);
        let mut settled = std::mem::take(&mut self.settled).into_iter();
        let mut all = Vec::with_capacity(settled.len() + recent.len());
        let mut next = settled.next();
        for new in recent.into_values() {
            while let Some(old) = next.filter(|old| old.start < new.start) {
                if old.end() <= new.start {
                    all.push(old);
                    next = settled.next();
                } else {
                    all.push(old.before(new.start));
                    next = Some(old.from(new.start));
                }
            }
            all.push(new);
            while let Some(old) = next.filter(|old| old.start < new.end()) {
                next = if old.end() > new.end() { Some(old.from(new.end())) } else { settled.next() };
            }
        }
        all.extend(next);
        all.extend(settled);
        if all.capacity() > all.len() + all.len() / 8 {
            all.shrink_to_fit();
        }
        self.settled = all;
    }
}

/// A line of a perf map.
struct Line<'line> {
    start: u64,
    length: u32,
    name: Cow<'line, str>,
}

/// Start and size are hexadecimal; the name may hold spaces. Of a size of 4 GiB or more the first 4 GiB are taken.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let digits = str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    start.checked_add(size).filter(|end| *end > start)?;
    let length = u32::try_from(size).unwrap_or(u32::MAX);
    let whole = fields.next()?.trim_ascii();
    if whole.is_empty() {
        return None;
    }
    // No more is looked at of a longer one; a character that is no longer whole is left out below.
    let name = String::from_utf8_lossy(&whole[..whole.len().min(NAME_MAX)]);
    // Bytes that are no text become more.
    let name = if whole.len().max(name.len()) > NAME_MAX { cut(&name, whole).into() } else { name };
    Some(Line { start, length, name })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;
    use crate::symbol::name::is_cut;

    #[test]
    fn lines_are_read_and_broken_ones_left_out() {
        let mut map = PerfMap::default();
        map.take(b"7f00 10 LazyCompile:~work app.js:3\nrubbish\n0x8000 0x8 stub\n9000 0 empty\nffffffffffffffff 9 x\n");
        assert_eq!(map.find(0x7f0f).as_deref(), Some("LazyCompile:~work app.js:3"));
        assert_eq!(map.find(0x7f10), None, "past its size");
        assert_eq!(map.find(0x8004).as_deref(), Some("stub"));
        assert_eq!(map.find(0x9000), None);
    }

    /// What the file says of an address now.
    fn look(map: &mut PerfMap, file: &File, address: u64) -> Option<Arc<str>> {
        map.refresh(file, AMPLE);
        map.find(address)
    }

    const AMPLE: Budget = Budget { memory: 64 << 20, read: 128 << 20 };

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
        map.refresh(&file, AMPLE);
        assert!(map.is_full() && map.taken < LIMIT_BYTES + CHUNK as u64);
        map.refresh(&file, AMPLE);
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
        assert_eq!(map.find(0x7f2a_0001_0010).as_deref(), Some("JS:*fibonacciHot /app/w.js:1:22"));
        assert_eq!(map.find(0x7f36_a0ed_9480).as_deref(), Some("long Work.fibonacciHot(int)"));
        assert_eq!(map.find(0x7f0c_5c1b_601a).as_deref(), Some("py::fibonacci_hot:/app/w.py"));
    }

    #[test]
    fn what_a_long_name_is_cut_into_does_not_hold_it_again() {
        let mut map = PerfMap::default();
        let mut text = format!("1000 7fffffff {}\n", "A".repeat(200_000)).into_bytes();
        for piece in 0..20_000 {
            text.extend(format!("{:x} 1 b\n", 0x1010 + 16 * piece).bytes());
        }
        map.take(&text);
        assert_eq!(map.find(0x1010).as_deref(), Some("b"));
        let name = map.find(0x1011).unwrap_or_default();
        assert!(is_cut(&name) && name.len() <= NAME_MAX && name.starts_with("AAAA"), "{name}");
        assert!(map.bytes() < 8 * text.len(), "{} of {}", map.bytes(), text.len());
    }

    #[test]
    fn half_a_million_names_of_a_hundred_bytes_take_a_third_of_their_file() -> std::io::Result<()> {
        let (mut file, mut map) = (tempfile::tempfile()?, PerfMap::default());
        let line = |at: u64| {
            format!(
                "{:x} 80 LazyCompile:*handler{at} /srv/app/node_modules/@scope/library/dist/routes/r{}.js:{at}:7",
                0x7f00_0000_0000 + at * 0x80,
                at % 311
            )
        };
        let text: String = (0..500_000).map(|at| line(at) + "\n").collect();
        file.write_all(text.as_bytes())?;
        assert_eq!(map.refresh(&file, AMPLE), text.len() as u64);
        assert_eq!((map.len(), map.is_full()), (500_000, false));
        for at in [0, 1, 250_000, 499_999] {
            let name = map.find(0x7f00_0000_0000 + at * 0x80 + 5);
            assert!(name.is_some_and(|name| line(at).ends_with(&*name)), "{at}");
        }
        assert!(map.bytes() < text.len() / 3, "{} of {}", map.bytes(), text.len());
        Ok(())
    }

    #[test]
    fn what_exceeds_the_budget_is_left_out_and_read_when_there_is_one() -> std::io::Result<()> {
        let (mut file, mut map) = (tempfile::tempfile()?, PerfMap::default());
        // Names that do not become shorter when they are packed.
        let mut state = 1_u64;
        for at in 0_u64..40_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            writeln!(file, "{at:x}0 10 {state:016x}{:016x}", state.rotate_left(29) ^ at)?;
        }
        map.refresh(&file, Budget { memory: 500_000, ..AMPLE });
        assert!(map.is_full() && map.bytes() < 1_500_000, "{}", map.bytes());
        assert!(map.find(0x5).is_some() && map.find(39_999 << 4).is_none());
        let read = map.refresh(&file, Budget { read: 1, ..AMPLE });
        assert!(map.is_full() && read <= CHUNK as u64, "{read}");
        map.refresh(&file, AMPLE);
        assert!(!map.is_full() && map.find(39_999 << 4).is_some());
        Ok(())
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            PerfMap::default().take(&bytes);
        }

        #[test]
        fn the_latest_line_wins(ranges in prop::collection::vec((0_u64..64, 1_u64..16, any::<bool>()), 1..40)) {
            let (mut map, mut model) = (PerfMap::default(), vec![None; 80]);
            for (order, (start, size, settle)) in ranges.iter().enumerate() {
                map.take(format!("{start:x} {size:x} f{order}\n").as_bytes());
                if *settle {
                    map.settle();
                }
                model[*start as usize..(start + size) as usize].fill(Some(format!("f{order}")));
            }
            for (address, expected) in model.iter().enumerate() {
                let found = map.find(address as u64);
                prop_assert_eq!(found.as_deref(), expected.as_deref());
            }
        }
    }
}
