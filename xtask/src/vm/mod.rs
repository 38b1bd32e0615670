//! `cargo xtask vm`: boots other kernels under emulation, records inside them, and checks what came out.
//!
//! The guest is a kernel of Debian's, an initramfs with busybox, `profiler` and two workloads, and nothing else. What the
//! guest has to say leaves it through a second serial line, so that kernel messages cannot fall into it.

mod boot;
mod initramfs;
mod kernel;
mod verdict;

use std::time::Instant;

use anyhow::{Result, bail};
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

/// Boots each kernel with the programs in target/release; all are tried, then the first failure is told.
pub fn run_all(versions: &[&str]) -> Result<()> {
    let mut failures = Vec::new();
    for version in versions {
        if let Err(error) = run_one(version) {
            say(format!("kernel {version} failed: {error:#}"));
            failures.push(format!("kernel {version}: {error:#}"));
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

fn run_one(version: &str) -> Result<()> {
    let image = kernel::fetch(version)?;
    let guest = initramfs::build(version)?;
    let started = Instant::now();
    say(format!("boot {version} under emulation and record in it"));
    let results = boot::run(&image, &guest)?;
    let summary = verdict::check(&results, version)?;
    say(format!("kernel {version}: {summary} ({:.1} s)", started.elapsed().as_secs_f64()));
    Ok(())
}
