//! `cargo xtask vm`: boots other kernels under emulation, records inside them, and checks what came out.
//!
//! The guest is a kernel of Debian's, an initramfs with busybox, `profiler` and two workloads, and nothing else. What the
//! guest has to say leaves it through a second serial line, so that kernel messages cannot fall into it.

mod boot;
mod initramfs;
mod kernel;
mod verdict;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::build;
use crate::setup;
use crate::step::say;

/// The kernels that are tried, by version.
pub const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Boots other kernels under emulation and records inside them.
#[derive(Args)]
pub struct Vm {
    /// Which kernel: 6.1, 6.12 or all.
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
/// tried, then the failures are told.
pub fn run_all(versions: &[&str]) -> Result<()> {
    let images: Vec<Result<PathBuf>> = versions.iter().map(|version| kernel::fetch(version)).collect();
    let outcomes: Vec<Result<()>> = thread::scope(|scope| {
        let guests: Vec<_> = versions
            .iter()
            .zip(images)
            .map(|(version, image)| scope.spawn(move || run_one(version, &image?)))
            .collect();
        guests.into_iter().map(|guest| guest.join().unwrap_or_else(|_| Err(anyhow!("its thread panicked")))).collect()
    });
    let mut failures = Vec::new();
    for (version, outcome) in versions.iter().zip(outcomes) {
        if let Err(error) = outcome {
            say(format!("kernel {version} failed: {error:#}"));
            failures.push(format!("kernel {version}: {error:#}"));
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
