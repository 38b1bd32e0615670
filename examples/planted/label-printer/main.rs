//! Prints parcel labels to a spooler through a pipe; every part of a label is a write. Fixed: a buffer between.

#[path = "../support/meter.rs"]
mod meter;

use std::io::{BufWriter, Read, Write};
use std::thread;
use std::time::Instant;

use meter::Meter;

#[inline(never)]
fn print_label(out: &mut dyn Write, parcel: u64) -> std::io::Result<()> {
    write!(out, "^XA^FO{},{}^FD", parcel % 800, parcel % 600)?;
    for digit in parcel.to_string().bytes() {
        out.write_all(&[digit])?;
    }
    out.write_all(b"^FS^XZ\n")
}

fn main() -> std::io::Result<()> {
    let (mut paper, spooler) = std::io::pipe()?;
    thread::spawn(move || {
        let mut room = vec![0; 1 << 16];
        while paper.read(&mut room).is_ok_and(|got| got > 0) {
            thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    let mut meter = Meter::new();
    let mut out: Box<dyn Write> =
        if meter.fixed { Box::new(BufWriter::with_capacity(16_384, spooler)) } else { Box::new(spooler) };
    meter.ready();
    let mut due = Instant::now();
    let mut parcel = 1_000_000_000;
    while meter.goes_on() {
        let since = Meter::next_request(&mut due, 200.0);
        for _ in 0..100 {
            print_label(out.as_mut(), parcel)?;
            parcel += 1;
        }
        meter.did(100, since);
    }
    out.flush()?;
    meter.report("labels");
    Ok(())
}
