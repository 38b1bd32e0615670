//! Compares freight rates: asks the rate service for six carriers in turn. Fixed: in one question.

#[path = "../support/meter.rs"]
mod meter;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result};
use meter::Meter;

struct Rates {
    out: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Rates {
    #[inline(never)]
    fn ask(&mut self, question: &str) -> Result<usize> {
        self.out.write_all(question.as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.split_whitespace().count())
    }
}

#[inline(never)]
fn cheapest(rates: &mut Rates, parcel: u64, together: bool) -> Result<usize> {
    const CARRIERS: [&str; 6] = ["north", "south", "east", "west", "air", "sea"];
    if together {
        let keys = CARRIERS.map(|carrier| format!("{carrier}:{parcel}"));
        return rates.ask(&format!("get {}\n", keys.join(" ")));
    }
    CARRIERS.iter().map(|carrier| rates.ask(&format!("get {carrier}:{parcel}\n"))).sum()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments.windows(2).find(|pair| pair[0] == "--port").context("--port is missing")?;
    let out = TcpStream::connect(("127.0.0.1", port[1].parse()?))?;
    out.set_nodelay(true)?;
    let answers = BufReader::new(out.try_clone()?);
    let mut rates = Rates { out, answers };
    let mut meter = Meter::new();
    meter.ready();
    let mut parcel = 0;
    while meter.goes_on() {
        let since = Instant::now();
        cheapest(&mut rates, parcel, meter.fixed)?;
        parcel += 1;
        meter.did(1, since);
    }
    meter.report("comparisons");
    Ok(())
}
