//! Names of one perf map, packed. In: names, one after the other. Out: a number for each, and the name of a number.
//!
//! A runtime's map has half a million names of which a profile shows some hundreds. Names are kept in blocks that are
//! deflated once they are full: a fifth of their length or less, since names in one map are much alike.

use std::sync::Arc;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use rustc_hash::FxHashMap;

use super::name::NAME_MAX;

/// Bits of a number that tell where in its block a name begins.
const BLOCK_BITS: u32 = 14;

/// Bytes of a block.
const BLOCK: usize = 1 << BLOCK_BITS;

/// Bytes of names that were asked for and are kept ready to be shared.
const ASKED_MAX: usize = 64 << 10;

/// Ends a name. No name holds it: lines are split there.
const END: u8 = b'\n';

/// The names.
#[derive(Default)]
pub(super) struct PackedNames {
    full: Vec<Block>,
    open: Vec<u8>,
    /// Bytes of the full blocks.
    bytes: usize,
    last: Option<u32>,
    packer: Option<Box<Compress>>,
    /// The block that was unpacked last.
    unpacked: Option<(usize, Vec<u8>)>,
    asked: FxHashMap<u32, Arc<str>>,
    asked_bytes: usize,
}

enum Block {
    Deflated(Box<[u8]>),
    /// One that does not become shorter.
    Plain(Box<[u8]>),
}

impl PackedNames {
    /// Adds a name of at most [`NAME_MAX`] bytes. `None` if numbers have run out.
    pub(super) fn add(&mut self, name: &str) -> Option<u32> {
        if let Some(last) = self.last
            && self.open.get(last as usize % BLOCK..).and_then(|open| open.strip_suffix(&[END]))
                == Some(name.as_bytes())
        {
            return Some(last);
        }
        debug_assert!(name.len() <= NAME_MAX);
        if self.open.len() + name.len() + 1 > BLOCK {
            self.close_block();
        }
        let block = u32::try_from(self.full.len()).ok().filter(|block| *block < 1 << (32 - BLOCK_BITS))?;
        let number = block << BLOCK_BITS | self.open.len() as u32;
        self.open.extend_from_slice(name.as_bytes());
        self.open.push(END);
        self.last = Some(number);
        Some(number)
    }

    /// The name of a number.
    pub(super) fn get(&mut self, number: u32) -> Option<Arc<str>> {
        if let Some(name) = self.asked.get(&number) {
            return Some(name.clone());
        }
        let (block, at) = ((number >> BLOCK_BITS) as usize, number as usize % BLOCK);
        let bytes = if block == self.full.len() { self.open.get(at..)? } else { self.unpack(block)?.get(at..)? };
        let length = memchr::memchr(END, bytes)?;
        let name: Arc<str> = String::from_utf8_lossy(&bytes[..length]).into();
        if self.asked_bytes > ASKED_MAX {
            self.asked.clear();
            self.asked_bytes = 0;
        }
        self.asked_bytes += name.len() + size_of::<(u32, Arc<str>)>();
        self.asked.insert(number, name.clone());
        Some(name)
    }

    /// Bytes of memory that the names take.
    pub(super) fn bytes(&self) -> usize {
        let unpacked = self.unpacked.as_ref().map_or(0, |(_, block)| block.capacity());
        self.bytes + self.full.capacity() * size_of::<Block>() + self.open.capacity() + unpacked + self.asked_bytes
    }

    /// Gives back what only adding needs.
    pub(super) fn rest(&mut self) {
        self.packer = None;
    }

    fn close_block(&mut self) {
        let packer = self.packer.get_or_insert_with(|| Box::new(Compress::new(Compression::fast(), false)));
        packer.reset();
        let mut packed = vec![0; self.open.len()];
        let finished = packer.compress(&self.open, &mut packed, FlushCompress::Finish);
        let block = if matches!(finished, Ok(flate2::Status::StreamEnd)) {
            packed.truncate(packer.total_out() as usize);
            Block::Deflated(packed.into())
        } else {
            Block::Plain(self.open.as_slice().into())
        };
        self.bytes += match &block {
            Block::Deflated(bytes) | Block::Plain(bytes) => bytes.len(),
        };
        self.full.push(block);
        self.open.clear();
        self.last = None;
    }

    fn unpack(&mut self, number: usize) -> Option<&[u8]> {
        let packed = match self.full.get(number)? {
            Block::Plain(bytes) => return Some(bytes),
            Block::Deflated(packed) => packed,
        };
        if self.unpacked.as_ref().is_none_or(|(unpacked, _)| *unpacked != number) {
            let mut bytes = Vec::with_capacity(BLOCK);
            Decompress::new(false).decompress_vec(packed, &mut bytes, FlushDecompress::Finish).ok()?;
            self.unpacked = Some((number, bytes));
        }
        self.unpacked.as_ref().map(|(_, bytes)| bytes.as_slice())
    }
}

impl std::fmt::Debug for PackedNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedNames")
            .field("blocks", &self.full.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn names_that_are_alike_take_a_fifth_and_a_repeated_one_nothing() {
        let mut names = PackedNames::default();
        let name =
            |at: usize| format!("LazyCompile:*handle{at} /srv/app/node_modules/router/lib/layer{}.js:{at}:13", at % 97);
        let mut length = 0;
        let numbers: Vec<Option<u32>> = (0..100_000)
            .map(|at| {
                length += name(at).len();
                names.add(&name(at))
            })
            .collect();
        assert!(names.bytes() < length / 5, "{} of {length}", names.bytes());
        assert_eq!(names.add("again"), names.add("again"));
        for at in (0..100_000).step_by(997) {
            assert_eq!(numbers[at].and_then(|number| names.get(number)).as_deref(), Some(&*name(at)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
        #[test]
        fn every_name_comes_back(added in prop::collection::vec("[ -~]{1,200}|[é漢]{300}|[0-9a-f]{1024}", 1..400)) {
            let mut names = PackedNames::default();
            let numbers: Vec<Option<u32>> = added.iter().map(|name| names.add(name)).collect();
            for (name, number) in added.iter().zip(numbers) {
                let found = number.and_then(|number| names.get(number));
                prop_assert_eq!(found.as_deref(), Some(name.as_str()));
            }
        }
    }
}
