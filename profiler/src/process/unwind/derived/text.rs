//! The bytes of an image, by address. In: its segments. Out: code to decode, and words that may be addresses of code.

use super::super::image::{Image, Segment};
use super::super::{Refused, Source};

/// The loaded bytes of an image.
#[derive(Debug)]
pub(super) struct Text {
    parts: Vec<(Segment, Vec<u8>)>,
}

impl Text {
    /// Reads all segments; none if there are more than `limit` bytes of them.
    pub fn read<S: Source + ?Sized>(source: &S, image: &Image, limit: u64) -> Result<Option<Self>, Refused> {
        let bytes = image.segments.iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.file_size));
        if bytes > limit {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(image.segments.len());
        for segment in &image.segments {
            let mut bytes = vec![0; segment.file_size as usize];
            source.read(segment.offset, &mut bytes)?;
            parts.push((*segment, bytes));
        }
        Ok(Some(Self { parts }))
    }

    /// From an address to the end of its segment.
    pub fn bytes(&self, address: u64) -> Option<&[u8]> {
        let (segment, bytes) =
            self.parts.iter().find(|(segment, _)| (segment.address..segment.end()).contains(&address))?;
        bytes.get((address - segment.address) as usize..)
    }

    /// From the first address of code to behind the last.
    pub fn span(&self) -> (u64, u64) {
        let code = || self.parts.iter().map(|(segment, _)| segment).filter(|segment| segment.executable);
        let first = code().map(|segment| segment.address).min().unwrap_or(0);
        (first, code().map(Segment::end).max().unwrap_or(first))
    }

    /// Whether there is code at an address.
    pub fn is_code(&self, address: u64) -> bool {
        self.parts.iter().any(|(segment, _)| segment.executable && (segment.address..segment.end()).contains(&address))
    }

    /// Code from an address on.
    pub fn code(&self, address: u64) -> Option<&[u8]> {
        let executable = |segment: &Segment| segment.executable && (segment.address..segment.end()).contains(&address);
        let (segment, bytes) = self.parts.iter().find(|(segment, _)| executable(segment))?;
        bytes.get((address - segment.address) as usize..)
    }

    /// The 64-bit word at an address.
    pub fn long(&self, address: u64) -> Option<u64> {
        self.bytes(address)?.first_chunk().copied().map(u64::from_le_bytes)
    }

    /// The signed 32-bit word at an address.
    pub fn signed_word(&self, address: u64) -> Option<i32> {
        self.bytes(address)?.first_chunk().copied().map(i32::from_le_bytes)
    }

    /// Every aligned word of data: pointers to code are among them, relocations' too.
    pub fn data_words(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().filter(|(segment, _)| !segment.executable).flat_map(|(segment, bytes)| {
            let unaligned = (segment.address.wrapping_neg() & 7) as usize;
            let words = bytes.get(unaligned..).unwrap_or_default().chunks_exact(8);
            words.map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        })
    }
}
