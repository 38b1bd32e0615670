//! Any bytes as a recording, and as the payload of one whose lengths and checksum are right: without the second nothing
//! would get past the checksum.

use profiler::profile::recording::{read_from, write_to};

/// Runs one input.
pub fn run(data: &[u8]) {
    let read = read_from(data).or_else(|_| read_from(&recording(data)[..]));
    // What was read is whole: it can be written, and reads as the same again.
    if let Ok(profile) = read {
        let mut written = Vec::new();
        write_to(&profile, &mut written).expect("what was read can be written");
        read_from(&written[..]).expect("what was written can be read");
    }
}

/// A recording of the current version around a payload.
pub fn recording(payload: &[u8]) -> Vec<u8> {
    let stored = zstd::bulk::compress(payload, 1).expect("memory can be compressed");
    let version = profiler::profile::recording::VERSION.to_le_bytes();
    let (stored_bytes, payload_bytes) = ((stored.len() as u64).to_le_bytes(), (payload.len() as u64).to_le_bytes());
    let mut checksum = flate2::Crc::new();
    checksum.update(&version);
    checksum.update(&stored_bytes);
    checksum.update(&payload_bytes);
    checksum.update(&stored);
    let mut file = b"\x89PRF\r\n\x1a\n".to_vec();
    file.extend(version);
    file.extend(checksum.sum().to_le_bytes());
    file.extend(stored_bytes);
    file.extend(payload_bytes);
    file.extend(stored);
    file
}
