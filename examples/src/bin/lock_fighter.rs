//! Plants: threads that contend for one mutex, held for a known time.
//!
//! The profiler must say: `blocked_lock_s` = `waited_ns` (less the time the woken threads then waited for a CPU, which is
//! `run_delay_ns` at most), with stacks through `lock_fight_acquire;lock_fight_wait`.

use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use examples::crew::Crew;
use examples::path::{lock_fight_acquire, lock_fight_hold_spinning, lock_fight_release};
use examples::run::{RunOptions, goes_on, parse_seconds};
use examples::truth::monotonic_ns;
use serde::Serialize;

/// Threads that contend for one mutex.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// How long to work
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    seconds: f64,
    /// Number of threads
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// How long the lock is held each time, in microseconds
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    hold: u64,
    /// What the holder does meanwhile
    #[arg(long, value_enum, default_value_t = Holding::Sleep)]
    holding: Holding,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Holding {
    Spin,
    Sleep,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Fight {
    /// Times the lock was taken.
    taken: u64,
    /// Times a thread was woken from a wait for it.
    waits: u64,
    /// Time in FUTEX_WAIT by the clock.
    waited_ns: u64,
    /// Time the lock was held.
    held_ns: u64,
}

fn fight(lock: &AtomicU32, hold: Duration, holding: Holding) -> Fight {
    let mut fight = Fight::default();
    while goes_on() {
        fight.waited_ns += lock_fight_acquire(lock, &mut fight.waits);
        let begin_ns = monotonic_ns();
        match holding {
            Holding::Spin => {
                lock_fight_hold_spinning(hold.as_nanos() as u64);
            }
            Holding::Sleep => thread::sleep(hold),
        }
        fight.held_ns += monotonic_ns() - begin_ns;
        fight.taken += 1;
        lock_fight_release(lock);
    }
    fight
}

fn main() -> Result<()> {
    static LOCK: AtomicU32 = AtomicU32::new(0);
    let options = Options::parse();
    let (hold, holding) = (Duration::from_micros(options.hold), options.holding);
    let mut crew = Crew::new(&options.run)?;
    for index in 0..options.threads {
        crew.worker(&format!("fight-{index}"), move || fight(&LOCK, hold, holding))?;
    }
    crew.measure("lock_fighter", Some(options.seconds), |fights| {
        fights.into_iter().fold(Fight::default(), |sum, fight| Fight {
            taken: sum.taken + fight.taken,
            waits: sum.waits + fight.waits,
            waited_ns: sum.waited_ns + fight.waited_ns,
            held_ns: sum.held_ns + fight.held_ns,
        })
    })
}
