//! What every program of this folder measures of itself; see `meter.h`, whose output this prints too.

#![allow(dead_code, reason = "no program uses all of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Counts work, and the time and CPU time it took.
pub struct Meter {
    /// Whether the problem is to be fixed.
    pub fixed: bool,
    seconds: f64,
    begun: Instant,
    cpu_begun: f64,
    work: AtomicU64,
    busy_ns: AtomicU64,
}

fn cpu() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

impl Meter {
    /// Reads the options.
    pub fn new() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let seconds = arguments.windows(2).find(|pair| pair[0] == "--seconds");
        Self {
            fixed: arguments.iter().any(|argument| argument == "--fixed"),
            seconds: seconds.and_then(|pair| pair[1].parse().ok()).unwrap_or(10.0),
            begun: Instant::now(),
            cpu_begun: 0.0,
            work: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
        }
    }

    /// Says that the set-up is over.
    pub fn ready(&mut self) {
        println!("ready");
        self.cpu_begun = cpu();
        self.begun = Instant::now();
    }

    /// Whether there is time left.
    pub fn goes_on(&self) -> bool {
        self.begun.elapsed().as_secs_f64() < self.seconds
    }

    /// Counts work that began at `since`.
    pub fn did(&self, pieces: u64, since: Instant) {
        self.work.fetch_add(pieces, Ordering::Relaxed);
        self.busy_ns.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Waits for the next of `rate` requests a second; at once while behind.
    pub fn next_request(due: &mut Instant, rate: f64) -> Instant {
        let now = Instant::now();
        if now.saturating_duration_since(*due) > Duration::from_millis(500) {
            *due = now;
        }
        let ahead = due.saturating_duration_since(now);
        if ahead > Duration::from_millis(2) {
            thread::sleep(ahead);
        }
        *due += Duration::from_secs_f64(1.0 / rate);
        Instant::now()
    }

    /// Prints what was done.
    pub fn report(&self, unit: &str) {
        println!(
            r#"{{"unit":"{unit}","work":{},"seconds":{:.3},"cpu_s":{:.4},"busy_s":{:.4}}}"#,
            self.work.load(Ordering::Relaxed),
            self.begun.elapsed().as_secs_f64(),
            cpu() - self.cpu_begun,
            self.busy_ns.load(Ordering::Relaxed) as f64 / 1e9,
        );
    }
}
