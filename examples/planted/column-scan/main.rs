//! Sums columns of a mapped table of 128 MiB whose pages were dropped: every touch of a page faults and waits for the
//! disk. Fixed: the column is read with one large read beforehand.

#[path = "../support/meter.rs"]
mod meter;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Result, ensure};
use meter::Meter;
use rustix::fs::{Advice, fadvise};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const COLUMN: usize = 256 << 10;
const COLUMNS: usize = 512;

/// Sums one column in the mapping, touching a value a page.
#[inline(never)]
fn sum_mapped(table: &File, column: usize) -> Result<u64> {
    // SAFETY: the mapping is private to this function, of a file that nobody truncates, and unmapped below.
    let start = unsafe {
        mmap(std::ptr::null_mut(), COLUMN, ProtFlags::READ, MapFlags::SHARED, table.as_fd(), (column * COLUMN) as u64)?
    };
    // SAFETY: it lies in the mapping made above, which is COLUMN bytes long.
    unsafe { rustix::mm::madvise(start, COLUMN, rustix::mm::Advice::Random)? };
    // SAFETY: as above; the bytes are initialised by the kernel.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), COLUMN) };
    let sum = bytes.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
    // SAFETY: nobody holds `bytes` any more.
    unsafe { munmap(start, COLUMN)? };
    Ok(sum)
}

#[inline(never)]
fn sum_read(table: &File, column: usize, room: &mut [u8]) -> Result<u64> {
    table.read_exact_at(room, (column * COLUMN) as u64)?;
    Ok(room.iter().step_by(4096).map(|byte| u64::from(*byte)).sum())
}

fn main() -> Result<()> {
    let path = format!("/var/tmp/column-scan-{}", std::process::id());
    let mut table = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    for _ in 0..COLUMNS {
        table.write_all(&vec![5; COLUMN])?;
    }
    table.sync_all()?;
    fadvise(&table, 0, None, Advice::DontNeed)?;
    let mut room = vec![0; COLUMN];
    let mut meter = Meter::new();
    meter.ready();
    let mut due = Instant::now();
    let mut column = 0;
    while meter.goes_on() {
        let since = Meter::next_request(&mut due, 60.0);
        let at = column * 37 % COLUMNS;
        let sum = if meter.fixed { sum_read(&table, at, &mut room)? } else { sum_mapped(&table, at)? };
        ensure!(sum > 0, "the table is empty");
        // What else runs on the host wants the page cache.
        fadvise(&table, (at * COLUMN) as u64, std::num::NonZeroU64::new(COLUMN as u64), Advice::DontNeed)?;
        column += 1;
        meter.did(1, since);
    }
    meter.report("columns");
    Ok(())
}
