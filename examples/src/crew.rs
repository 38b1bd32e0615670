//! The threads that do the work. They are there before the work begins and stay after it has ended, parked in a pipe
//! read (`blocked_other` in the ledger's terms), so that schedstat is exact and complete on both sides.

use std::io::{PipeReader, PipeWriter, pipe};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use crate::run::{self, Observer, RunOptions, read_byte, write_bytes};
use crate::truth::{self, Moment, Truth};

/// Pins the calling thread to one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        bail!("cannot pin to CPU {cpu}: the last one possible is {}", CpuSet::MAX_CPU - 1);
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin a thread to CPU {cpu}: is it online?"))
}

/// Threads of one workload; each returns a `T`.
pub struct Crew<T> {
    options: RunOptions,
    arrivals: (PipeReader, PipeWriter),
    departures: (PipeReader, PipeWriter),
    start: (PipeReader, PipeWriter),
    leave: (PipeReader, PipeWriter),
    workers: Vec<Worker<T>>,
    bystanders: usize,
}

struct Worker<T> {
    thread: JoinHandle<Result<()>>,
    result: Arc<Mutex<Option<T>>>,
}

impl<T: Send + 'static> Crew<T> {
    /// A crew of nobody yet.
    pub fn new(options: &RunOptions) -> Result<Self> {
        run::end_on_signal()?;
        let pipes = || pipe().context("cannot make a pipe");
        Ok(Self {
            options: options.clone(),
            arrivals: pipes()?,
            departures: pipes()?,
            start: pipes()?,
            leave: pipes()?,
            workers: Vec::new(),
            bystanders: 0,
        })
    }

    /// The CPU that the `index`th thread is to be pinned to, if the options name any.
    pub fn cpu(&self, index: usize) -> Option<usize> {
        if self.options.cpu.is_empty() { None } else { Some(self.options.cpu[index % self.options.cpu.len()]) }
    }

    /// Adds a thread that works from the begin of the work until it returns.
    pub fn worker(&mut self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<()> {
        let cpu = self.cpu(self.workers.len());
        self.worker_on(cpu, name, work)
    }

    /// The same on a given CPU.
    pub fn worker_on(
        &mut self,
        cpu: Option<usize>,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<()> {
        let mut arrived = self.arrivals.1.try_clone()?;
        let mut departed = self.departures.1.try_clone()?;
        let mut start = self.start.0.try_clone()?;
        let mut leave = self.leave.0.try_clone()?;
        let result = Arc::new(Mutex::new(None));
        let place = Arc::clone(&result);
        let body = move || -> Result<()> {
            if let Some(cpu) = cpu {
                pin(cpu)?;
            }
            write_bytes(&mut arrived, b"a")?;
            drop(arrived);
            read_byte(&mut start)?;
            let done = work();
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            write_bytes(&mut departed, b"d")?;
            drop(departed);
            read_byte(&mut leave)?;
            Ok(())
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body).context("cannot start a thread")?;
        self.workers.push(Worker { thread, result });
        Ok(())
    }

    /// Adds a thread that starts at once and is never waited for: it is blocked before the work begins.
    pub fn bystander(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut arrived = self.arrivals.1.try_clone()?;
        let cpu = self.cpu(self.bystanders);
        let body = move || {
            // A thread that cannot be pinned blocks all the same; one that cannot report is missed by the count below.
            if cpu.is_none_or(|cpu| pin(cpu).is_ok()) && write_bytes(&mut arrived, b"a").is_ok() {
                drop(arrived);
                body();
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(body).context("cannot start a thread")?;
        self.bystanders += 1;
        Ok(())
    }

    /// Runs the work for at most `seconds` (or until everybody is done), and publishes the truth with what `details`
    /// makes of the workers' results.
    pub fn measure<D: Serialize>(
        self,
        workload: &'static str,
        seconds: Option<f64>,
        details: impl FnOnce(Vec<T>) -> D,
    ) -> Result<()> {
        let Self { options, arrivals, departures, mut start, leave, workers, bystanders } = self;
        // Only the threads' own ends stay open, so that a thread that failed is an end of file and not a wait for ever.
        let (mut arrived, own_arrival) = arrivals;
        let (mut departed, own_departure) = departures;
        drop((own_arrival, own_departure));
        for _ in 0..workers.len() + bystanders {
            if read_byte(&mut arrived)?.is_none() {
                return Err(first_failure(workers, leave));
            }
        }
        let mut observer = Observer::new(&options)?;
        let before = truth::threads()?;

        observer.say("ready")?;
        let begin = Moment::now();
        run::set_deadline(seconds);
        write_bytes(&mut start.1, &vec![b's'; workers.len()])?;
        for _ in 0..workers.len() {
            if read_byte(&mut departed)?.is_none() {
                return Err(first_failure(workers, leave));
            }
        }
        let end = Moment::now();
        observer.say("ended")?;

        let mut threads: Vec<_> = truth::threads()?.into_values().collect();
        threads.retain(|thread| before.contains_key(&thread.tid));
        for thread in &mut threads {
            thread.schedstat = thread.schedstat.since(before[&thread.tid].schedstat);
        }
        drop(leave);
        let mut results = Vec::new();
        for Worker { thread, result } in workers {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(_) => bail!("a thread of {workload} panicked"),
            }
            results.extend(result.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        let truth = Truth {
            workload,
            pid: std::process::id(),
            begin,
            end,
            exec_ns: threads.iter().map(|thread| thread.schedstat.exec_ns).sum(),
            run_delay_ns: threads.iter().map(|thread| thread.schedstat.run_delay_ns).sum(),
            threads,
            details: details(results),
        };
        run::publish(&options, &truth)
    }
}

fn first_failure<T>(workers: Vec<Worker<T>>, leave: (PipeReader, PipeWriter)) -> anyhow::Error {
    drop(leave);
    workers
        .into_iter()
        .filter(|worker| worker.thread.is_finished())
        .find_map(|worker| worker.thread.join().ok()?.err())
        .unwrap_or_else(|| anyhow::anyhow!("a thread ended before its work"))
}
