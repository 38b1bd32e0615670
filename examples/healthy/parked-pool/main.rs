//! A pool of sixteen threads at rest on a condition variable; a short job four times a second.

#[path = "../../planted/support/meter.rs"]
mod meter;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use meter::Meter;

fn main() {
    let mut meter = Meter::new();
    let (jobs, arrived, over) = (Mutex::new(Vec::<u64>::new()), Condvar::new(), AtomicBool::new(false));
    meter.ready();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut waiting = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                while !over.load(Ordering::Relaxed) {
                    if let Some(job) = waiting.pop() {
                        let since = Instant::now();
                        std::hint::black_box((0..100_000).fold(job, |sum, n| sum.rotate_left(3) ^ n));
                        meter.did(1, since);
                    } else {
                        waiting = arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            });
        }
        let mut due = Instant::now();
        while meter.goes_on() {
            Meter::next_request(&mut due, 4.0);
            jobs.lock().unwrap_or_else(PoisonError::into_inner).push(7);
            arrived.notify_one();
        }
        over.store(true, Ordering::Relaxed);
        arrived.notify_all();
    });
    meter.report("jobs");
}
