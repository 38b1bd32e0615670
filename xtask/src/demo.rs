//! `cargo xtask demo`: the main job from nothing. Builds the program, starts a small workload, profiles the whole host
//! for ten seconds, prints the report and leaves recording and flamegraph in `profiler-out/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use crate::setup;
use crate::step::{Step, say};
use crate::workspace;

/// Profiles this host for ten seconds while a small workload runs.
#[derive(Args)]
pub struct Demo {
    /// How long to record.
    #[arg(long, short, default_value = "10s")]
    duration: String,
    /// The workload: a program of examples/, or `none`.
    #[arg(long, default_value = "mixed")]
    workload: String,
    /// Where the results go.
    #[arg(long, short, default_value = "profiler-out")]
    output: PathBuf,
}

impl Demo {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            bail!("this kernel has no BTF (/sys/kernel/btf/vmlinux); profiler needs Linux 5.15 or newer with BTF");
        }
        let elevated = elevation()?;
        build::programs(true)?;
        let folder = workspace::root().join(&self.output);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let recording = folder.join("profile.profile");
        let flamegraph = folder.join("flamegraph.svg");

        let workload = (self.workload != "none").then(|| Workload::start(&self.workload)).transpose()?;
        let recorded = profiler(&format!("record this host for {}", self.duration), elevated)
            .args(["record", "--duration", &self.duration, "--output"])
            .arg(&recording)
            .run();
        drop(workload);
        recorded?;
        profiler("draw the flamegraph", None)
            .args(["flamegraph", "--kind", "wall", "-o"])
            .arg(&flamegraph)
            .arg(&recording)
            .run()?;
        profiler("report", None).arg("report").arg(&recording).run()?;
        say(format!("flamegraph: {}", flamegraph.display()));
        say(format!("recording:  {} (`profiler report`, `flamegraph` and `export` read it)", recording.display()));
        Ok(())
    }
}

/// What makes a command root: nothing if this is root already.
fn elevation() -> Result<Option<&'static str>> {
    if setup::is_root()? {
        return Ok(None);
    }
    if workspace::find_program("sudo").is_none() {
        bail!("loading kernel programs needs root, and there is no sudo: run this as root");
    }
    Ok(Some("sudo"))
}

fn profiler(title: &str, elevated: Option<&str>) -> Step {
    let program = workspace::release_binary("profiler");
    match elevated {
        Some(sudo) => Step::new(title, sudo).arg(program),
        None => Step::new(title, program),
    }
}

/// A running example; it ends with this value.
struct Workload(Child);

impl Workload {
    fn start(name: &str) -> Result<Self> {
        let program = workspace::release_binary(name);
        say(format!("start the workload {name}"));
        let child = Command::new(&program).stdin(Stdio::null()).stdout(Stdio::null()).spawn().with_context(|| {
            format!("cannot start the workload {}; `ls examples/src/bin` names them", program.display())
        })?;
        Ok(Self(child))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            say(format!("cannot end the workload {}: {error}", self.0.id()));
        }
    }
}
