//! Pushes a counter to a collector after every event, over a connection of its own; nobody listens there. Fixed: after
//! a refusal it holds its tongue for half a second.

#[path = "../support/meter.rs"]
mod meter;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use meter::Meter;

struct Pusher {
    collector: SocketAddr,
    quiet_until: Option<Instant>,
    dropped: u64,
}

impl Pusher {
    #[inline(never)]
    fn push(&mut self, line: &str, patient: bool) {
        if patient && self.quiet_until.is_some_and(|until| Instant::now() < until) {
            self.dropped += 1;
            return;
        }
        let pushed = TcpStream::connect(self.collector).and_then(|mut stream| stream.write_all(line.as_bytes()));
        if pushed.is_ok() {
            self.quiet_until = None;
        } else {
            self.dropped += 1;
            self.quiet_until = Some(Instant::now() + Duration::from_millis(500));
        }
    }
}

#[inline(never)]
fn handle_event(number: u64, pusher: &mut Pusher, patient: bool) {
    let checksum = (0..200).fold(number, |sum, step| sum.rotate_left(5) ^ step);
    pusher.push(&format!("events.handled 1 {checksum}\n"), patient);
}

fn main() -> std::io::Result<()> {
    // A port that was free a moment ago: nobody listens there.
    let collector = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut pusher = Pusher { collector, quiet_until: None, dropped: 0 };
    let mut meter = Meter::new();
    meter.ready();
    let mut due = Instant::now();
    let mut number = 0;
    while meter.goes_on() {
        let since = Meter::next_request(&mut due, 12_000.0);
        handle_event(number, &mut pusher, meter.fixed);
        number += 1;
        meter.did(1, since);
    }
    meter.report("events");
    Ok(())
}
