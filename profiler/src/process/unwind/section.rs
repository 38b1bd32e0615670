//! The bytes of a section. In: where it lies, and how much is allowed. Out: its bytes, unpacked where they were
//! compressed.

use std::io::Read;

use object::LittleEndian as LE;
use object::elf::{CompressionHeader64, ELFCOMPRESS_ZLIB};
use object::pod::from_bytes;

use super::image::Extent;
use super::{Refused, Source};

/// Reads a section. `budget` is what is left of the limit on all sections.
pub(super) fn read<S: Source + ?Sized>(source: &S, extent: Extent, budget: &mut Budget) -> Result<Vec<u8>, Refused> {
    let mut bytes = vec![0; budget.take(extent.size)?];
    source.read(extent.offset, &mut bytes)?;
    if extent.compressed { unpack(&bytes, budget) } else { Ok(bytes) }
}

/// Bytes of sections that may still be read.
pub(super) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    fn take(&mut self, bytes: u64) -> Result<usize, Refused> {
        let too_large = Refused::TooLarge { what: "bytes of unwind sections", limit: self.limit };
        match (self.left.checked_sub(bytes), usize::try_from(bytes)) {
            (Some(left), Ok(bytes)) => {
                self.left = left;
                Ok(bytes)
            }
            _ => Err(too_large),
        }
    }
}

fn unpack(packed: &[u8], budget: &mut Budget) -> Result<Vec<u8>, Refused> {
    const WHAT: Refused = Refused::Malformed("compressed section");
    let (header, stream) = from_bytes::<CompressionHeader64<LE>>(packed).map_err(|()| WHAT)?;
    let size = budget.take(header.ch_size.get(LE))? as u64;
    let mut bytes = Vec::new();
    // Nobody packs this section with zstd, and its decoder here is written in C.
    if header.ch_type.get(LE) != ELFCOMPRESS_ZLIB {
        return Err(WHAT);
    }
    let unpacked = flate2::bufread::ZlibDecoder::new(stream).take(size).read_to_end(&mut bytes);
    if unpacked.is_ok_and(|length| length as u64 == size) { Ok(bytes) } else { Err(WHAT) }
}
