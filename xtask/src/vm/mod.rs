//! `cargo xtask vm`: boots other kernels under emulation, records inside them, and checks what came out.
//!
//! The guest is a kernel of Debian's, an initramfs with busybox, `profiler` and two workloads, and nothing else. What the
//! guest has to say leaves it through a second serial line, so that kernel messages cannot fall into it.

mod boot;
mod initramfs;
mod kernel;
mod newest;
mod verdict;

use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::build;
use crate::setup;
use crate::step::say;

/// The newest kernel of Debian's unstable archive, whatever version that is.
const NEWEST: &str = "sid";

/// The kernels that are tried, by version.
pub const KERNELS: [&str; 3] = ["6.1", "6.12", NEWEST];

/// Boots other kernels under emulation and records inside them.
#[derive(Args)]
pub struct Vm {
    /// Which kernel: 6.1, 6.12, sid (the newest of Debian's) or all.
    #[arg(long, default_value = "all")]
    kernel: String,
    /// Use the programs in target/release as they are.
    #[arg(long)]
    no_build: bool,
}

impl Vm {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        setup::install(&setup::VM)?;
        if !self.no_build {
            build::programs(true)?;
        }
        match self.kernel.as_str() {
            "all" => run_all(&KERNELS),
            version if KERNELS.contains(&version) => run_all(&[version]),
            other => bail!("no kernel {other}: there are {} and all", KERNELS.join(", ")),
        }
    }
}

/// Boots each kernel with the programs in target/release, all at the same time: an emulated machine keeps one CPU busy. All are
/// tried, then the failures are told. A newest kernel that cannot be fetched, and one that is newer than any tried before and
/// does not pass, are told as loudly but fail nothing.
pub fn run_all(versions: &[&str]) -> Result<()> {
    let mut kernels = Vec::new();
    for version in versions {
        if *version == NEWEST {
            kernels.extend(newest::fetch().map(|(version, image)| (version, Ok(image))));
        } else {
            kernels.push(((*version).to_owned(), kernel::fetch(version)));
        }
    }
    let outcomes: Vec<(String, Result<()>)> = thread::scope(|scope| {
        let guests: Vec<_> = kernels
            .into_iter()
            .map(|(version, image)| {
                let of_guest = version.clone();
                (version, scope.spawn(move || run_one(&of_guest, &image?)))
            })
            .collect();
        let outcome = |guest: thread::ScopedJoinHandle<'_, Result<()>>| {
            guest.join().unwrap_or_else(|_| Err(anyhow!("its thread panicked")))
        };
        guests.into_iter().map(|(version, guest)| (version, outcome(guest))).collect()
    });
    let mut failures = Vec::new();
    for (version, outcome) in outcomes {
        match outcome {
            Err(error) if newest::is_news(&version) => say(format!(
                "WARNING: kernel {version}, newer than the {} that is known to pass, FAILED: {error:#}",
                newest::RECORDED
            )),
            Err(error) => {
                say(format!("kernel {version} failed: {error:#}"));
                failures.push(format!("kernel {version}: {error:#}"));
            }
            Ok(()) if newest::is_news(&version) => say(format!(
                "kernel {version} is newer than the {} that is recorded, and passes: record it in xtask/src/vm/newest.rs",
                newest::RECORDED
            )),
            Ok(()) => {}
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

fn run_one(version: &str, image: &Path) -> Result<()> {
    let guest = initramfs::build(version)?;
    let started = Instant::now();
    say(format!("boot {version} under emulation and record in it"));
    let results = boot::run(image, &guest)?;
    let summary = verdict::check(&results, version)?;
    say(format!("kernel {version}: {summary} ({:.1} s)", started.elapsed().as_secs_f64()));
    Ok(())
}
