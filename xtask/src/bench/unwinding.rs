//! What a sample's user stack costs: time by the number of its frames, with and without frame pointers, and memory by the number of
//! binaries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::Table;

use super::beside::Beside;
use super::contender::{self, Contender};
use super::kernel_figures::{self, Statistics};
use super::load::median;
use super::{figures, megabytes};
use crate::step::{Step, say};
use crate::workspace;

/// On-CPU samples a second, of each CPU: enough for a mean within seconds.
pub const FREQUENCY: u32 = 1999;

/// Calls below one another, beside the ten frames or so that lead to the first.
const DEPTHS: [u32; 4] = [1, 20, 50, 90];

/// The stack that many a program has.
const USUAL_FRAMES: f64 = 30.0;

/// A chain of calls is sampled for so many spans of this length, and the median of their means counts: where others share the machine,
/// a few samples last as long as a hundred.
const SPANS: usize = 9;
const SPAN: Duration = Duration::from_millis(500);

/// Binaries that are in use at once.
const BINARIES: usize = 50;

/// How long they run: tables are built when code is seen.
const SEEN: Duration = Duration::from_secs(15);

/// How a workload is compiled.
struct Kind {
    name: &'static str,
    flags: [&'static str; 2],
}

const KINDS: [Kind; 2] = [
    Kind { name: "no frame pointers", flags: ["-O2", "-fomit-frame-pointer"] },
    Kind { name: "frame pointers", flags: ["-O1", "-fno-omit-frame-pointer"] },
];

/// Nanoseconds of a sample: a straight line through what was measured at each depth.
struct Line {
    frame_ns: f64,
    besides_ns: f64,
}

impl Line {
    /// By least squares, through points of frames and nanoseconds.
    fn through(points: &[(f64, f64)]) -> Self {
        let count = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (frames, times) = (mean(|point| point.0), mean(|point| point.1));
        let above: f64 = points.iter().map(|point| (point.0 - frames) * (point.1 - times)).sum();
        let below: f64 = points.iter().map(|point| (point.0 - frames).powi(2)).sum();
        let frame_ns = above / below;
        Self { frame_ns, besides_ns: times - frame_ns * frames }
    }

    fn at(&self, frames: f64) -> f64 {
        self.besides_ns + self.frame_ns * frames
    }
}

/// One line a tool and kind of code.
pub fn stacks(only_own: bool) -> Result<Table> {
    let mut table = figures(["tool", "code", "ns a frame", "ns besides", "ns, 30 frames"]);
    let folder = workspace::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let recording = folder.join("deep.folded");
    for kind in &KINDS {
        let program = compile(&folder, kind)?;
        let frequency = FREQUENCY.to_string();
        let mut tools = vec![("profiler", contender::recording_to(&recording, &["--cpu", "--frequency", &frequency]))];
        if !only_own {
            let stacks = format!("profile:hz:{FREQUENCY} {{ @[ustack(127)] = count(); }}");
            tools.push(("bpftrace ustack", contender::bpftrace("bpftrace ustack", &stacks)));
            let nothing = format!("profile:hz:{FREQUENCY} {{ @ = 1; }}");
            tools.push(("bpftrace, no stack", contender::bpftrace("bpftrace, no stack", &nothing)));
        }
        // How many frames there are is told by the first of them, which is ours.
        let mut frames = Vec::new();
        for (name, tool) in &tools {
            let mut points = Vec::new();
            for (at, depth) in DEPTHS.into_iter().enumerate() {
                say(format!("{} calls deep, {}, under {name}", depth, kind.name));
                let sample_ns = sample_ns(tool, &program, depth)?;
                if frames.len() == at {
                    frames.push(frames_of(&recording)?);
                }
                points.push((frames[at], sample_ns));
            }
            let line = Line::through(&points);
            table.add_row([
                (*name).to_owned(),
                kind.name.to_owned(),
                format!("{:.0}", line.frame_ns),
                format!("{:.0}", line.besides_ns),
                format!("{:.0}", line.at(USUAL_FRAMES)),
            ]);
        }
    }
    Ok(table)
}

fn compile(folder: &Path, kind: &Kind) -> Result<PathBuf> {
    let program = folder.join("deep");
    Step::new("compile a chain of calls", "cc")
        .args(kind.flags)
        .args(["-fno-optimize-sibling-calls", "-o"])
        .arg(&program)
        .arg(workspace::root().join("examples/c/deep.c"))
        .run()?;
    Ok(program)
}

/// Time of a sample while every CPU runs the chain: one that was idle would have its own, cheaper samples.
fn sample_ns(tool: &Contender, program: &Path, depth: u32) -> Result<f64> {
    let cpus = available_parallelism().context("how many CPUs there are")?.get();
    let mut chains = Vec::new();
    for cpu in 0..cpus {
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu.to_string()]).arg(program).args(["burn", &depth.to_string(), "3600"]);
        chains.push(Beside::silent(&mut command)?);
    }
    let statistics = Statistics::on()?;
    let means: Vec<f64> = tool.watch(|running| {
        // What is mapped and what it calls has been taken in by then.
        sleep(Duration::from_secs(1));
        (0..SPANS).map(|_| span(running)).collect()
    })?;
    drop(statistics);
    Ok(median(means))
}

/// Mean time of a run of the sampling program in one span.
fn span(running: &contender::Running) -> Result<f64> {
    let figures = running.figures(|| {
        sleep(SPAN);
        Ok(1)
    })?;
    let sampling = figures.programs.iter().filter(|program| program.runs > 0 && !program.name.starts_with("sched"));
    let sampling = sampling.max_by_key(|program| program.runs).context("no program ran")?;
    Ok(sampling.time_ns as f64 / sampling.runs as f64)
}

/// Mean number of user frames of the chain's samples in a recording.
fn frames_of(recording: &Path) -> Result<f64> {
    let text = fs::read_to_string(recording).with_context(|| format!("cannot read {}", recording.display()))?;
    mean_frames(&text).with_context(|| format!("{} has no sample of the chain", recording.display()))
}

fn mean_frames(folded: &str) -> Option<f64> {
    let (mut samples, mut frames) = (0.0, 0.0);
    for line in folded.lines() {
        let Some((stack, count)) = line.rsplit_once(' ') else { continue };
        let Some((_, below)) = stack.split_once(";deep;") else { continue };
        let count: f64 = count.parse().ok()?;
        samples += count;
        frames += count * below.split(';').filter(|frame| !frame.ends_with("_[k]")).count() as f64;
    }
    (samples > 0.0).then(|| frames / samples)
}

/// One line a scene.
pub fn memory() -> Result<Table> {
    let mut table = figures(["", "binaries", "their MB", "unwind maps MB", "resident MB"]);
    let path = workspace::target().join("bench/binaries.folded");
    let tool = contender::recording_to(&path, &["--cpu", "--frequency", &FREQUENCY.to_string()]);
    let files = largest_binaries(BINARIES)?;
    for (name, files) in [("idle host", Vec::new()), ("many binaries", files)] {
        say(format!("memory: {name}"));
        let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum();
        let running = if files.is_empty() { None } else { Some(run_inside(&files)?) };
        let (unwinding, resident) = tool.watch(|recording| {
            sleep(SEEN);
            let unwinding = kernel_figures::memory_of_maps(&["UNWIND_", "unwind_segment"])?;
            // They would be in the way of what the recording still has to do.
            drop(running);
            Ok((unwinding, recording.agent()?.peak_rss_bytes))
        })?;
        table.add_row([
            name.to_owned(),
            files.len().to_string(),
            megabytes(bytes),
            megabytes(unwinding),
            megabytes(resident),
        ]);
    }
    Ok(table)
}

fn run_inside(files: &[PathBuf]) -> Result<Beside> {
    Beside::ready(Command::new(workspace::release_binary("many_binaries")).args(files))
}

/// The largest programs and libraries of this machine, each once.
fn largest_binaries(count: usize) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for folder in ["/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu"] {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))?;
        for entry in entries.flatten() {
            let Ok(path) = entry.path().canonicalize() else { continue };
            if path.is_file() && is_elf(&path) {
                let bytes = fs::metadata(&path).map_or(0, |file| file.len());
                found.insert((bytes, path));
            }
        }
    }
    Ok(found.into_iter().rev().take(count).map(|(_, path)| path).collect())
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_through_points_on_a_line_is_that_line() {
        let line = Line::through(&[(10.0, 3_400.0), (30.0, 6_200.0), (100.0, 16_000.0)]);
        assert!((line.frame_ns - 140.0).abs() < 1e-6 && (line.besides_ns - 2_000.0).abs() < 1e-6);
        assert!((line.at(USUAL_FRAMES) - 6_200.0).abs() < 1e-6);
    }

    #[test]
    fn frames_are_those_below_the_process_that_are_not_the_kernels() {
        let folded = "host;deep;main;burn 3\nhost;deep;main;a;burn;irq_[k] 1\nhost;other;main 9\n";
        assert_eq!(mean_frames(folded), Some(2.25));
        assert_eq!(mean_frames("host;other;main 9\n"), None);
    }
}
