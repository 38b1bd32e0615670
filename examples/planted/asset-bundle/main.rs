//! Serves parts of a bundle of 8 MiB; reads the whole bundle for every part. Fixed: reads the part.

#[path = "../support/meter.rs"]
mod meter;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use meter::Meter;

const BUNDLE: usize = 8 << 20;
const PART: usize = 4096;

#[inline(never)]
fn load_bundle(file: &File, room: &mut [u8]) -> std::io::Result<()> {
    file.read_exact_at(room, 0)
}

#[inline(never)]
fn serve_part(file: &File, room: &mut [u8], part: usize, whole: bool) -> std::io::Result<u64> {
    let offset = part * PART % BUNDLE;
    if whole {
        load_bundle(file, room)?;
    } else {
        file.read_exact_at(&mut room[offset..offset + PART], offset as u64)?;
    }
    Ok(room[offset..offset + PART].iter().map(|byte| u64::from(*byte)).sum())
}

fn main() -> std::io::Result<()> {
    let path = std::env::temp_dir().join(format!("bundle-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(&vec![7; BUNDLE])?;
    file.seek(SeekFrom::Start(0))?;
    let mut room = vec![0; BUNDLE];
    let mut meter = Meter::new();
    meter.ready();
    let mut due = Instant::now();
    let mut part = 0;
    while meter.goes_on() {
        let since = Meter::next_request(&mut due, 600.0);
        std::hint::black_box(serve_part(&file, &mut room, part, !meter.fixed)?);
        part += 1;
        meter.did(1, since);
    }
    meter.report("parts");
    Ok(())
}
