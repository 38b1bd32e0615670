//! Keeps sessions under one mutex, and writes the session out below it. Fixed: writes it out after letting go.

#[path = "../support/meter.rs"]
mod meter;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use meter::Meter;

#[derive(Default)]
struct Sessions {
    seen: Mutex<HashMap<u64, u64>>,
}

#[inline(never)]
fn write_out(session: u64, count: u64) {
    // The store answers in this time.
    thread::sleep(Duration::from_micros(500 + (session ^ count) % 64));
}

impl Sessions {
    #[inline(never)]
    fn touch(&self, session: u64, outside: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(session).or_default();
        *count += 1;
        let count = *count;
        if outside {
            drop(seen);
            write_out(session, count);
        } else {
            write_out(session, count);
        }
    }
}

fn main() {
    let sessions = Sessions::default();
    let mut meter = Meter::new();
    meter.ready();
    thread::scope(|scope| {
        for client in 0..6_u64 {
            let (sessions, meter) = (&sessions, &meter);
            scope.spawn(move || {
                let mut session = client;
                while meter.goes_on() {
                    let since = Instant::now();
                    sessions.touch(session % 500, meter.fixed);
                    session += 7;
                    meter.did(1, since);
                }
            });
        }
    });
    meter.report("touches");
}
