//! One section of call frame information. In: the bytes of `.eh_frame` or `.debug_frame`. Out: for each of its functions
//! (FDE) where it lies and where in the section it is described, and on demand its rules.
//!
//! gimli decodes entries and instructions; what they mean is followed here, because of all registers only three matter,
//! and a row that cannot be put into a rule must say why. Records are framed here too, so that one malformed
//! entry does not hide those after it.

use gimli::{BaseAddresses, CommonInformationEntry, EndianSlice, LittleEndian, UnwindSection};
use rustc_hash::FxHashMap;

use super::cfi::{Interpreter, State};
use super::{Limits, Refused};

pub(super) type Bytes<'d> = EndianSlice<'d, LittleEndian>;

/// CIEs kept parsed. One a function would be odd: compilers write one or two a translation unit.
const CIES_KEPT: usize = 4096;

/// How often the bytes of a section may be parsed as CIEs in all. Real ones are kept, so that each is parsed once or
/// twice; a section may also hold more than are kept and have its functions name them in turns, each as long as can be.
const CIE_PARSES: usize = 8;

/// Where one function lies, and where in its section it is described.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Position of its FDE.
    pub entry: u32,
}

/// How the two kinds of sections differ.
pub(super) trait Kind<'d>: UnwindSection<Bytes<'d>> {
    /// Whether the word after a record's length marks a CIE.
    fn marks_cie(long: bool, word: u64) -> bool;
    /// Whether that word has 64 bits in a record with a 64-bit length.
    const LONG_WORDS: bool;
}

impl<'d> Kind<'d> for gimli::EhFrame<Bytes<'d>> {
    fn marks_cie(_: bool, word: u64) -> bool {
        word == 0
    }
    const LONG_WORDS: bool = false;
}

impl<'d> Kind<'d> for gimli::DebugFrame<Bytes<'d>> {
    fn marks_cie(long: bool, word: u64) -> bool {
        word == if long { u64::MAX } else { u64::from(u32::MAX) }
    }
    const LONG_WORDS: bool = true;
}

struct Cie<'d> {
    entry: CommonInformationEntry<Bytes<'d>>,
    /// What its initial instructions leave, once they were run.
    initial: Option<State>,
}

/// A section of call frame information.
pub(super) struct FrameSection<'d, K> {
    kind: K,
    bytes: &'d [u8],
    bases: BaseAddresses,
    cies: FxHashMap<usize, Cie<'d>>,
    /// Bytes that may still be parsed as CIEs.
    cie_bytes: usize,
    /// Records that could not be parsed.
    pub malformed: u64,
}

impl<'d, K: Kind<'d>> FrameSection<'d, K> {
    /// `address` is that of the section's first byte.
    pub fn new(kind: K, bytes: &'d [u8], address: u64) -> Self {
        let bases = BaseAddresses::default().set_eh_frame(address);
        let cie_bytes = bytes.len().saturating_mul(CIE_PARSES);
        Self { kind, bytes, bases, cies: FxHashMap::default(), cie_bytes, malformed: 0 }
    }

    /// Lists the functions in the section's order. A record of length zero ends the list where `terminated` says so;
    /// else it is passed over, since linkers leave some between object files.
    pub fn describe(
        &mut self,
        terminated: bool,
        limits: &Limits,
        mut found: impl FnMut(Described) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut position = 0;
        let mut records = 0;
        while let Some(record) = Record::at(self.bytes, position, K::LONG_WORDS) {
            let this = position;
            position = record.end;
            if record.length == 0 {
                if terminated {
                    break;
                }
                continue;
            }
            records += 1;
            if records > limits.functions {
                return Err(Refused::TooLarge { what: "functions", limit: limits.functions });
            }
            let Some(word) = record.word else {
                self.malformed += 1;
                continue;
            };
            if K::marks_cie(record.long, word) {
                continue;
            }
            match self.function(this) {
                Some(fde) if fde.len() > 0 => {
                    let entry = u32::try_from(this).map_err(|_| Refused::Malformed("section of 4 GiB"))?;
                    let start = fde.initial_address();
                    found(Described { start, end: start.saturating_add(fde.len()), entry })?;
                }
                Some(_) => {}
                None => self.malformed += 1,
            }
        }
        // Bytes too few for a record, or a record that reaches past the end.
        self.malformed += u64::from(!terminated && position < self.bytes.len());
        Ok(())
    }

    /// Runs the instructions of the function whose FDE lies at `entry`. `row` takes an address and what holds from there on.
    pub fn rows(
        &mut self,
        entry: u32,
        interpreter: &mut Interpreter,
        row: impl FnMut(u64, &State) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let Some(fde) = self.function(entry as usize) else { return Ok(()) };
        let key = fde.cie().offset();
        let Some(cie) = self.cies.get_mut(&key) else { return Ok(()) };
        let initial = if let Some(state) = cie.initial {
            state
        } else {
            let instructions = cie.entry.instructions(&self.kind, &self.bases);
            *cie.initial.insert(interpreter.initial_state(&cie.entry, instructions, &self.kind)?)
        };
        let instructions = fde.instructions(&self.kind, &self.bases);
        interpreter.run(&fde, initial, instructions, &self.kind, row)
    }

    fn function(&mut self, position: usize) -> Option<gimli::FrameDescriptionEntry<Bytes<'d>>> {
        let partial = self.kind.partial_fde_from_offset(&self.bases, K::Offset::from(position)).ok()?;
        let (cies, left, bytes) = (&mut self.cies, &mut self.cie_bytes, self.bytes);
        let parsed = partial.parse(|section, bases, offset| {
            let key = gimli::UnwindOffset::into(offset);
            if let Some(cie) = cies.get(&key) {
                return Ok(cie.entry.clone());
            }
            let length = Record::at(bytes, key, K::LONG_WORDS).map_or(0, |record| record.end - key);
            *left = left.checked_sub(length).ok_or(gimli::Error::TooManyRegisterRules)?;
            let entry = section.cie_from_offset(bases, offset)?;
            if cies.len() >= CIES_KEPT {
                cies.clear();
            }
            cies.insert(key, Cie { entry: entry.clone(), initial: None });
            Ok(entry)
        });
        parsed.ok()
    }
}

/// The frame around an entry.
struct Record {
    length: u64,
    long: bool,
    /// First word of its contents, if there is one.
    word: Option<u64>,
    end: usize,
}

impl Record {
    /// `None` at the end, and where a record would reach past it.
    fn at(bytes: &[u8], position: usize, long_words: bool) -> Option<Self> {
        const LONG: u32 = u32::MAX;
        let short = u32::from_le_bytes(array(bytes, position)?);
        let (length, long, start) = if short == LONG {
            (u64::from_le_bytes(array(bytes, position.checked_add(4)?)?), true, position.checked_add(12)?)
        } else {
            (u64::from(short), false, position.checked_add(4)?)
        };
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let contents = bytes.get(start..end)?;
        let word = if long && long_words {
            array(contents, 0).map(u64::from_le_bytes)
        } else {
            array(contents, 0).map(|word| u64::from(u32::from_le_bytes(word)))
        };
        Some(Self { length, long, word, end })
    }
}

/// `N` bytes at a position.
pub(super) fn array<const N: usize>(bytes: &[u8], position: usize) -> Option<[u8; N]> {
    bytes.get(position..position.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use gimli::EhFrame;

    use super::*;

    /// `cies` CIEs, each with an augmentation of `length` bytes that nobody knows, and functions that name them in turns.
    fn section(cies: usize, length: usize, functions: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        let mut positions = Vec::new();
        for _ in 0..cies {
            positions.push(bytes.len());
            // Length, the mark of a CIE, version, augmentation.
            bytes.extend((length as u32 + 6).to_le_bytes());
            bytes.extend([0, 0, 0, 0, 1]);
            bytes.resize(bytes.len() + length, b'?');
            bytes.push(0);
        }
        for function in 0..functions {
            let distance = bytes.len() + 4 - positions[function % cies];
            bytes.extend(20_u32.to_le_bytes());
            bytes.extend((distance as u32).to_le_bytes());
            bytes.extend([0x1000 + 16 * function as u64, 16].iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn cies_that_are_named_in_turns_are_parsed_a_few_times_each() {
        let bytes = section(CIES_KEPT + 1, 500, 300_000);
        let mut frames = FrameSection::new(EhFrame::new(&bytes, LittleEndian), &bytes, 0);
        assert!(frames.describe(false, &Limits::default(), |_| Ok(())).is_ok());
        assert_eq!(frames.malformed, 300_000);
        assert!(frames.cie_bytes < 600, "{} left of {}", frames.cie_bytes, bytes.len() * CIE_PARSES);
    }
}
