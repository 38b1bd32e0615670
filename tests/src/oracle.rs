//! Stacks walked a second time by somebody else's code. In: processes that run. Out: how often framehop finds the callers that our
//! walker finds, on the very same registers and bytes of the stack.
//!
//! The kernel samples both CPUs with a copy of each stack (`perf_event_open`); the copy is walked by [`profiler_ebpf::unwind`]
//! over tables of [`profiler::process::unwind`], as the kernel programs do, and by framehop over the same files' sections.

mod image;
mod ours;
mod sampler;
mod theirs;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use profiler_ebpf::unwind::Stop;
use serde::Serialize;

use image::{Files, Image};
use sampler::Sampler;

/// One stack as the kernel copied it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The process.
    pub pid: u32,
    /// Program counter, stack pointer and frame pointer in user space.
    pub registers: [u64; 3],
    /// The stack from the stack pointer on.
    pub stack: Vec<u8>,
}

impl Snapshot {
    /// The word at an address, if it was copied.
    pub fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.registers[1])?).ok()?;
        self.stack.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
    }
}

/// What came of the comparison.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    /// Stacks that both walked beyond their innermost frame.
    pub samples: u64,
    /// Those of them in which every frame that framehop found is one of ours, at the same place.
    pub alike: u64,
    /// Frames that framehop found in all.
    pub frames: u64,
    /// Frames that only our walker found: framehop had ended.
    pub frames_beyond: u64,
    /// Stacks of which framehop found no caller: nothing to compare.
    pub alone: u64,
    /// Stacks whose innermost code nothing describes (made at run time, or assembled): framehop guesses there.
    pub undescribed: u64,
    /// Some that are not alike: the innermost address, how many frames agree, our frames, theirs.
    #[serde(skip)]
    pub unlike: Vec<(u32, usize, Vec<u64>, Vec<u64>)>,
}

impl Comparison {
    /// Share of stacks that are alike.
    pub fn share(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.alike as f64 / self.samples as f64)
    }
}

/// Samples for a while and compares the stacks of the processes that `wanted` names.
pub fn compare(duration: Duration, frequency: u64, wanted: impl Fn(u32) -> bool) -> Result<Comparison> {
    let mut sampler = Sampler::open(frequency)?;
    let until = Instant::now() + duration;
    let mut processes: HashMap<u32, Option<Image>> = HashMap::new();
    let mut files = Files::default();
    let mut comparison = Comparison::default();
    let mut snapshots = Vec::new();
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
        sampler.drain(&mut snapshots);
        for snapshot in snapshots.drain(..) {
            let pid = snapshot.pid;
            let process = processes
                .entry(pid)
                .or_insert_with(|| if wanted(pid) { Image::of(pid, &mut files).ok() } else { None });
            let Some(process) = process else { continue };
            if !process.covers(snapshot.registers[0])
                && let Ok(fresh) = Image::of(pid, &mut files)
            {
                *process = fresh;
            }
            count(&mut comparison, process, &snapshot);
        }
    }
    Ok(comparison)
}

fn count(comparison: &mut Comparison, process: &mut Image, snapshot: &Snapshot) {
    const KEPT: usize = 20;
    if process.is_guesswork(snapshot.registers[0]) {
        comparison.undescribed += 1;
        return;
    }
    let (ours, stop) = ours::walk(process, snapshot);
    let theirs = theirs::walk(process, snapshot);
    if theirs.len() < 2 {
        comparison.alone += 1;
        return;
    }
    let agreeing = ours.iter().zip(&theirs).take_while(|(one, two)| one == two).count();
    // A stack that is longer than its copy ends for both where the copy does.
    let cut = stop == Stop::Unreadable && agreeing == ours.len();
    let alike = agreeing == theirs.len() || cut;
    comparison.samples += 1;
    comparison.alike += u64::from(alike);
    comparison.frames += theirs.len() as u64;
    comparison.frames_beyond += ours.len().saturating_sub(theirs.len()) as u64;
    if !alike && comparison.unlike.len() < KEPT {
        comparison.unlike.push((snapshot.pid, agreeing, ours, theirs));
    }
}
