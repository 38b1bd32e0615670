//! User stacks of code without frame pointers: whole, wherever the code comes from.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::figures::{measured, within};
use tests::observation::{Observation, observe_for};
use tests::pprof::Sample;
use tests::requirement::kernel;
use tests::workload::compile_deep;

/// Frames of the planted chain.
const DEPTH: usize = 50;

/// A running program, killed when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the program")?;
        let mut ready = [0; 6];
        child.stdout.as_mut().context("a program without output")?.read_exact(&mut ready)?;
        ensure!(&ready == b"ready\n", "the program said {ready:?}");
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone and reaped in the good case; then both are refused, and that is fine.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether a stack holds the whole chain: from the program's start (or whatever called the chain) to its last function.
fn is_whole(sample: &Sample, root: &[&str], last: &str) -> bool {
    let mut chain = root.to_vec();
    chain.extend(["enter_chain"]);
    let descend = (0..DEPTH).map(|level| if level % 2 == 0 { "descend_odd" } else { "descend_even" });
    let below: Vec<&str> = ["compare"].into_iter().chain(descend).chain([last]).collect();
    // Between them lie what qsort is made of.
    sample.goes_through(&chain) && sample.goes_through(&below)
}

/// Samples of the chain's last function, and the share of them that are whole.
fn whole_share(observation: &Observation, name: &str, root: &[&str]) -> Result<f64> {
    let mine = |sample: &Sample| sample.is("container", name) && sample.frames.iter().any(|frame| frame == "burn");
    let all = observation.profile.sum("samples/count", mine)?;
    let whole = observation.profile.sum("samples/count", |sample| mine(sample) && is_whole(sample, root, "burn"))?;
    ensure!(all >= 100.0, "{all} samples of the chain are too few");
    Ok(whole / all)
}

fn at_least(share: f64, least: f64) -> Result<()> {
    ensure!(share >= least, "{:.2} % of the stacks are whole, {:.0} % must be", 100.0 * share, 100.0 * least);
    Ok(())
}

const FREQUENCY: [&str; 2] = ["--frequency", "499"];
const MAIN: [&str; 2] = ["__libc_start_call_main", "main"];

#[test]
fn a_chain_without_frame_pointers_below_a_callback_is_whole_in_on_cpu_samples() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempfile::tempdir()?;
        let deep = compile_deep(directory.path(), false)?;
        let cgroup = Cgroup::new()?;
        let running = Running::start(cgroup.command(&deep).args(["burn", "50", "60"]))?;
        let observation = observe_for(Duration::from_secs(2), &FREQUENCY)?;
        drop(running);
        at_least(whole_share(&observation, cgroup.name(), &MAIN)?, 0.98)
    })
}

#[test]
fn the_same_chain_is_whole_where_it_blocks() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempfile::tempdir()?;
        let deep = compile_deep(directory.path(), false)?;
        let cgroup = Cgroup::new()?;
        let running = Running::start(cgroup.command(&deep).args(["block", "50", "60"]))?;
        let observation = observe_for(Duration::from_secs(2), &[])?;
        drop(running);
        let mine = |sample: &Sample| sample.is("container", cgroup.name());
        let all_ns =
            observation.profile.sum("off_cpu/nanoseconds", |sample| mine(sample) && sample.is("reason", "sleep"))?;
        let whole_ns = observation.profile.sum("off_cpu/nanoseconds", |sample| {
            mine(sample) && sample.is("reason", "sleep") && is_whole(sample, &MAIN, "wait_here")
        })?;
        within("the time asleep", all_ns / 1e9, observation.window_s(), 0.05)?;
        at_least(whole_ns / all_ns, 0.98)
    })
}

/// Opens a library after a while and works in it.
const OPENER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    printf("ready\n");
    fflush(stdout);
    usleep((useconds_t)atol(argv[2]) * 1000);
    void *library = dlopen(argv[1], RTLD_NOW);
    int (*entry)(int, char **) = library ? (int (*)(int, char **))dlsym(library, "deep_main") : NULL;
    char *arguments[] = { argv[0], "burn", "50", "60", NULL };
    return entry ? entry(4, arguments) : 1;
}
"#;

fn compile_opener(directory: &Path) -> Result<std::path::PathBuf> {
    let (source, program) = (directory.join("opener.c"), directory.join("opener"));
    std::fs::write(&source, OPENER)?;
    let status = Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(&source).arg("-ldl").status()?;
    ensure!(status.success(), "cc cannot compile {}", source.display());
    Ok(program)
}

#[test]
fn a_library_opened_while_the_recording_runs_is_unwound_from_then_on() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempfile::tempdir()?;
        let library = compile_deep(directory.path(), true)?;
        let opener = compile_opener(directory.path())?;
        let cgroup = Cgroup::new()?;
        let running = Running::start(cgroup.command(&opener).arg(&library).arg("5000"))?;
        let observation = observe_for(Duration::from_secs(8), &FREQUENCY)?;
        drop(running);
        at_least(whole_share(&observation, cgroup.name(), &["main", "deep_main"])?, 0.98)
    })
}

#[test]
fn a_program_that_a_shell_becomes_is_unwound_from_then_on() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempfile::tempdir()?;
        let deep = compile_deep(directory.path(), false)?;
        let cgroup = Cgroup::new()?;
        let script = "echo ready; sleep 2; exec \"$0\" burn 50 60";
        let running = Running::start(cgroup.command(Path::new("/bin/sh")).args(["-c", script]).arg(&deep))?;
        let observation = observe_for(Duration::from_secs(5), &FREQUENCY)?;
        drop(running);
        at_least(whole_share(&observation, cgroup.name(), &MAIN)?, 0.98)
    })
}
