//! Checks archives with a pool of ten threads on one CPU. Fixed: a pool of one.

#[path = "../support/meter.rs"]
mod meter;

use std::collections::HashMap;
use std::thread;
use std::time::Instant;

use meter::Meter;

#[inline(never)]
fn adler(data: &[u8]) -> u32 {
    let (low, high) = data.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    high << 16 | low
}

#[inline(never)]
fn crc(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0_u32.wrapping_sub(crc & 1) & 0xedb8_8320);
        }
        crc
    })
}

#[inline(never)]
fn histogram(data: &[u8]) -> usize {
    let mut counts: HashMap<u8, usize> = HashMap::new();
    for byte in data {
        *counts.entry(*byte).or_default() += 1;
    }
    counts.into_values().max().unwrap_or_default()
}

#[inline(never)]
fn sorted_middle(data: &[u8]) -> u8 {
    let mut copy = data.to_vec();
    copy.sort_unstable_by(|a, b| b.cmp(a));
    copy[copy.len() / 2]
}

fn main() {
    let data: Vec<u8> = (0..60_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut meter = Meter::new();
    let threads = if meter.fixed { 1 } else { 10 };
    meter.ready();
    let (meter, data) = (&meter, &data);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(move || {
                while meter.goes_on() {
                    let since = Instant::now();
                    for part in data.chunks(20_000) {
                        std::hint::black_box((adler(part), crc(&part[..3000]), histogram(&part[..2000])));
                        std::hint::black_box(sorted_middle(&part[..4000]));
                    }
                    meter.did(1, since);
                }
            });
        }
    });
    meter.report("archives");
}
