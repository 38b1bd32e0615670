//! A runner of background jobs whose worker yields while its queue is empty. Fixed: it waits on a condition variable.

#[path = "../support/meter.rs"]
mod meter;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use meter::Meter;

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<u64>>,
    length: AtomicUsize,
    arrived: Condvar,
    closed: AtomicBool,
}

impl Queue {
    fn put(&self, job: u64) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
        self.length.fetch_add(1, Ordering::Release);
        self.arrived.notify_one();
    }

    #[inline(never)]
    fn take(&self, wait: bool) -> Option<u64> {
        while !self.closed.load(Ordering::Relaxed) {
            if wait {
                let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = self.arrived.wait_timeout_while(jobs, Duration::from_millis(200), |jobs| jobs.is_empty());
                if let Some(job) = waited.unwrap_or_else(PoisonError::into_inner).0.pop_front() {
                    return Some(job);
                }
            } else if self.length.load(Ordering::Acquire) > 0 {
                self.length.fetch_sub(1, Ordering::AcqRel);
                return self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            } else {
                thread::yield_now();
            }
        }
        None
    }
}

#[inline(never)]
fn run_job(job: u64) -> u64 {
    (0..20_000).fold(job, |state, step| state.rotate_left(7).wrapping_mul(31) ^ step)
}

fn main() {
    let queue = Arc::new(Queue::default());
    let mut meter = Meter::new();
    meter.ready();
    let meter = Arc::new(meter);
    let worker = thread::spawn({
        let (queue, meter) = (Arc::clone(&queue), Arc::clone(&meter));
        move || {
            while let Some(job) = queue.take(meter.fixed) {
                let since = Instant::now();
                std::hint::black_box(run_job(job));
                meter.did(1, since);
            }
        }
    });
    let mut due = Instant::now();
    let mut job = 0;
    while meter.goes_on() {
        Meter::next_request(&mut due, 300.0);
        queue.put(job);
        job += 1;
    }
    queue.closed.store(true, Ordering::Relaxed);
    drop(worker.join());
    meter.report("jobs");
}
