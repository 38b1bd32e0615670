//! Plants: one wait of five seconds in a program that is otherwise well, and two threads blocked since before the start
//! that never return.
//!
//! The profiler must say: an off-CPU stack through `hang_handle_request;hang_query_backend;hang_wait_for_answer` with the
//! whole hang as its weight (`blocked_other`), and, for as long as the window lasts, one through
//! `never_answered_root;never_answered_step;never_answered_block` (`blocked_other`) and one through
//! `never_woken_root;never_woken_block` (`blocked_lock`).

use std::io::{Write, pipe};
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use examples::crew::Crew;
use examples::path::{hang_handle_request, never_answered_root, never_woken_root};
use examples::run::{RunOptions, parse_seconds};
use examples::truth::monotonic_ns;
use serde::Serialize;

/// A thread that hangs once, and two that hang for ever.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// Length of the hang
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    seconds: f64,
}

#[derive(Serialize)]
struct Hung {
    /// Length of the hang by the clock.
    hung_ns: u64,
    /// Threads that never return.
    never_returning: u32,
}

fn main() -> Result<()> {
    static NEVER_WOKEN: AtomicU32 = AtomicU32::new(0);
    let options = Options::parse();
    let hang = Duration::from_secs_f64(options.seconds);
    let mut crew = Crew::new(&options.run)?;

    let (silent, _never_written) = pipe()?;
    crew.bystander("never-answered", move || while never_answered_root(silent.as_raw_fd()) < 0 {})?;
    crew.bystander("never-woken", || {
        loop {
            never_woken_root(&NEVER_WOKEN);
        }
    })?;

    let (question, mut answer) = pipe()?;
    crew.worker("hang", move || {
        let begin_ns = monotonic_ns();
        while hang_handle_request(question.as_raw_fd()) < 0 {}
        monotonic_ns() - begin_ns
    })?;
    crew.worker("backend", move || {
        thread::sleep(hang);
        // The reader is another thread of this process and waits for nothing else.
        if answer.write_all(b"!").is_err() {
            eprintln!("hang: nobody waits for the answer");
        }
        0
    })?;
    crew.measure("hang", None, |waits| Hung { hung_ns: waits.into_iter().sum(), never_returning: 2 })
}
