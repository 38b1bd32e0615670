//! The `.profile` recording: a [`Profile`] in; a versioned, compressed, checked, self-contained file out, and back.
//!
//! A file is a header of 32 bytes and a payload; all numbers are little-endian:
//!
//! | Bytes | What |
//! | --- | --- |
//! | 0..8 | magic, `\x89PRF\r\n\x1a\n`: not text, and broken by whatever rewrites line ends |
//! | 8..12 | format version |
//! | 12..16 | CRC-32 of the version, both lengths and the payload |
//! | 16..24 | length of the payload as stored |
//! | 24..32 | length of the payload once decompressed |
//! | 32.. | zstd frame of the profile as JSON |
//!
//! JSON, because fields carry their names: a reader skips fields it does not know, and a field added later says what it
//! is when it is missing (`serde(default)`), so a model that grows stays readable both ways, and `tail -c +33 FILE | zstd -d | jq` works. Below zstd the repeated names cost
//! next to nothing. The version rises only when a reader would misunderstand.
//!
//! A reader trusts nothing: lengths are bounded before memory is taken, the checksum is verified before anything is
//! decompressed, and every index is checked ([`Profile::check`]) before the profile is handed out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Inconsistency, Profile};

/// The format version that this program writes, and the newest that it reads.
///
/// 2: histograms begin at their first count ([`super::Histogram`]). 3: system calls stand in columns (`columns.rs`).
pub const VERSION: u32 = 3;

/// The largest payload, stored or decompressed, that is read or written: a few hundred thousand distinct stacks. What it
/// becomes in memory is bounded with it, because items of lists have no fields that may be left out.
pub const MAX_PAYLOAD_BYTES: u64 = 128 << 20;

const MAGIC: [u8; 8] = *b"\x89PRF\r\n\x1a\n";
const HEADER_BYTES: usize = 32;

/// Beyond level 3, size falls by a few percent and time grows several times.
const COMPRESSION_LEVEL: i32 = 3;

/// Why something could not be read as a recording, or written as one.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The first bytes are not those of a recording.
    #[error("not a recording: it does not start like one; recordings are made by `profiler record -o FILE.profile`")]
    NotARecording,
    /// The file ends too early.
    #[error("the recording is truncated: {have} of {want} bytes are there; it was cut off while written or copied")]
    Truncated {
        /// Bytes present.
        have: u64,
        /// Bytes that the header promises, or the header's own size.
        want: u64,
    },
    /// A newer program wrote it.
    #[error("the recording has format version {found}, this program reads up to {VERSION}; use a newer `profiler`")]
    Newer {
        /// Its format version.
        found: u32,
    },
    /// The bytes are not those that were written.
    #[error("the recording is corrupt: {0}; copy it again or record anew")]
    Corrupt(String),
    /// The bytes are as written, but what they say does not hold together.
    #[error("the recording is inconsistent: {0}; record anew, and please report it if that does not help")]
    Inconsistent(#[from] Inconsistency),
    /// More than a reader is willing to hold in memory.
    #[error(
        "the recording is too large: {bytes} bytes of payload, the limit is {MAX_PAYLOAD_BYTES}; record a shorter \
         window, or fewer containers"
    )]
    TooLarge {
        /// Its payload in bytes.
        bytes: u64,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// One of the above, with the file it happened to.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: Box<RecordingError>,
    },
}

/// Reads the recording at `path`; `-` is standard input.
pub fn read(path: &Path) -> Result<Profile, RecordingError> {
    let in_file = |error| RecordingError::File { path: path.to_owned(), error: Box::new(error) };
    if path == Path::new("-") {
        return read_from(io::stdin().lock()).map_err(in_file);
    }
    File::open(path).map_err(RecordingError::from).and_then(read_from).map_err(in_file)
}

/// Reads a recording.
pub fn read_from(mut reader: impl Read) -> Result<Profile, RecordingError> {
    let header = Header::read(&mut reader)?;
    let mut stored = Vec::new();
    // One byte more than promised tells whether something follows.
    reader.take(header.stored_bytes + 1).read_to_end(&mut stored)?;
    let have = stored.len() as u64;
    if have < header.stored_bytes {
        let headed = HEADER_BYTES as u64;
        return Err(RecordingError::Truncated { have: headed + have, want: headed + header.stored_bytes });
    }
    if have > header.stored_bytes {
        return Err(RecordingError::Corrupt("there are bytes after its end".to_owned()));
    }
    if checksum(header.version, header.payload_bytes, &stored) != header.checksum {
        return Err(RecordingError::Corrupt("its checksum does not match".to_owned()));
    }
    let payload = decompress(&stored, header.payload_bytes)?;
    drop(stored);
    let mut profile: Profile =
        serde_json::from_slice(&payload).map_err(|error| RecordingError::Corrupt(error.to_string()))?;
    profile.check()?;
    profile.stacks.reindex();
    Ok(profile)
}

/// Writes a recording to `writer`.
pub fn write_to(profile: &Profile, mut writer: impl Write) -> Result<(), RecordingError> {
    profile.check()?;
    let payload = serde_json::to_vec(profile).map_err(io::Error::from)?;
    let payload_bytes = payload.len() as u64;
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(RecordingError::TooLarge { bytes: payload_bytes });
    }
    let stored = zstd::bulk::compress(&payload, COMPRESSION_LEVEL)?;
    drop(payload);
    let header = Header {
        version: VERSION,
        checksum: checksum(VERSION, payload_bytes, &stored),
        stored_bytes: stored.len() as u64,
        payload_bytes,
    };
    writer.write_all(&header.to_bytes())?;
    writer.write_all(&stored)?;
    writer.flush()?;
    Ok(())
}

struct Header {
    version: u32,
    checksum: u32,
    stored_bytes: u64,
    payload_bytes: u64,
}

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, RecordingError> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        reader.take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(RecordingError::NotARecording);
        }
        let Ok(bytes) = <[u8; HEADER_BYTES]>::try_from(bytes.as_slice()) else {
            return Err(RecordingError::Truncated { have: bytes.len() as u64, want: HEADER_BYTES as u64 });
        };
        let header = Self {
            version: u32::from_le_bytes(part(&bytes, 8)),
            checksum: u32::from_le_bytes(part(&bytes, 12)),
            stored_bytes: u64::from_le_bytes(part(&bytes, 16)),
            payload_bytes: u64::from_le_bytes(part(&bytes, 24)),
        };
        if header.version > VERSION {
            return Err(RecordingError::Newer { found: header.version });
        }
        if header.version == 0 {
            return Err(RecordingError::Corrupt("there is no format version 0".to_owned()));
        }
        let bytes = header.stored_bytes.max(header.payload_bytes);
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(RecordingError::TooLarge { bytes });
        }
        Ok(header)
    }

    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[24..].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }
}

/// `N` bytes of the header from `offset` on; both are constants of this file and lie within it.
fn part<const N: usize>(header: &[u8; HEADER_BYTES], offset: usize) -> [u8; N] {
    std::array::from_fn(|index| header[offset + index])
}

fn checksum(version: u32, payload_bytes: u64, stored: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&version.to_le_bytes());
    crc.update(&(stored.len() as u64).to_le_bytes());
    crc.update(&payload_bytes.to_le_bytes());
    crc.update(stored);
    crc.sum()
}

/// Decompresses into at most `expected` bytes, however much the frame would give.
fn decompress(stored: &[u8], expected: u64) -> Result<Vec<u8>, RecordingError> {
    let corrupt = |error: io::Error| RecordingError::Corrupt(error.to_string());
    let mut payload = Vec::new();
    zstd::Decoder::with_buffer(stored)
        .map_err(corrupt)?
        .take(expected + 1)
        .read_to_end(&mut payload)
        .map_err(corrupt)?;
    if payload.len() as u64 == expected {
        Ok(payload)
    } else {
        Err(RecordingError::Corrupt("its payload has another length than its header says".to_owned()))
    }
}

#[cfg(test)]
mod tests;
