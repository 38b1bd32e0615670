//! `cargo xtask build`: the kernel programs' object if it is stale, then `profiler` and the examples.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::object;
use crate::setup;
use crate::step::{Step, say};
use crate::workspace;

#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
/// Builds the program, and the kernel programs if their sources changed.
#[derive(Args, Default)]
pub struct Build {
    /// Build the kernel programs' object only, whether it is stale or not.
    #[arg(long)]
    object_only: bool,
    /// Check that the object in the tree is the one its sources give; build nothing else.
    #[arg(long, conflicts_with = "object_only")]
    check: bool,
    /// Build without optimization, into target/debug.
    #[arg(long, conflicts_with = "release")]
    dev: bool,
    /// Build with optimization, into target/release (the default).
    #[arg(long)]
    release: bool,
    /// Leave a program that needs no shared libraries in target/static too, as the image holds it.
    #[arg(long = "static", conflicts_with_all = ["dev", "object_only", "check"])]
    linked_statically: bool,
}

impl Build {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        if self.check {
            return object::check();
        }
        if self.object_only {
            return object::rebuild();
        }
        object::refresh()?;
        if self.linked_statically {
            say(format!("built {}", statically_linked()?.display()));
        }
        programs(!self.dev)?;
        if !self.dev {
            say(format!("built {}", workspace::release_binary("profiler").display()));
        }
        Ok(())
    }
}

/// Builds `profiler` and the example workloads.
pub fn programs(optimized: bool) -> Result<()> {
    setup::for_building()?;
    let step = Step::cargo("build profiler and the examples").args(["build", "--package", "profiler"]);
    let step = step.args(["--package", "examples", "--bins"]);
    if optimized { step.arg("--release").run() } else { step.run() }
}

/// Builds `profiler` without shared libraries and leaves it in target/static. What it is linked from is what the dynamic program is
/// linked from: only the last crate is compiled with the flag.
pub fn statically_linked() -> Result<PathBuf> {
    setup::for_building()?;
    Step::cargo("link profiler statically")
        .args(["rustc", "--release", "--package", "profiler", "--bin", "profiler"])
        .args(["--", "-C", "target-feature=+crt-static"])
        .run()?;
    let to = workspace::target().join("static/profiler");
    let folder = to.parent().context("the program has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let built = workspace::release_binary("profiler");
    fs::copy(&built, &to).with_context(|| format!("cannot copy {} to {}", built.display(), to.display()))?;
    Ok(to)
}
