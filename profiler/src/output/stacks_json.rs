//! The stacks as JSON, for programs that want more than folded lines say: frames once each, samples that point at them.

use std::io::Write;

use serde::Serialize;

use super::report_json::{Coverage, Host, Window, seconds};
use super::{OutputError, Scope};
use crate::profile::{ContainerIndex, FrameKind, ProcessIndex, StackId, TextId};

/// The stacks of a profile.
#[derive(Debug, Serialize)]
pub struct Stacks<'p> {
    /// Version of this document's shape.
    pub schema: u32,
    /// When it was measured.
    pub window: Window,
    /// Where it was measured.
    pub host: Host<'p>,
    /// How much of what happened was seen.
    pub coverage: Coverage<'p>,
    /// Seconds of CPU time that one sample stands for.
    pub sample_period_s: f64,
    /// Every frame once; stacks hold positions in this list.
    pub frames: Vec<Frame<'p>>,
    /// On-CPU samples.
    pub on_cpu: Vec<OnCpu<'p>>,
    /// Off-CPU time.
    pub off_cpu: Vec<OffCpu<'p>>,
}

/// A frame.
#[derive(Debug, Serialize)]
pub struct Frame<'p> {
    /// Demangled function name, or `[module+0xoffset]`.
    pub function: &'p str,
    /// Binary or library, `[kernel]`, or empty.
    pub module: &'p str,
    /// `user`, `inlined`, `kernel`, `unresolved` or `note`.
    pub kind: &'static str,
    /// Source file.
    pub file: Option<&'p str>,
    /// Source line.
    pub line: Option<u32>,
}

/// Whose a sample is.
#[derive(Debug, Serialize)]
pub struct Owner<'p> {
    /// Display name of the container.
    pub container: &'p str,
    /// Command name of the process.
    pub process: &'p str,
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// Name of the thread, if recorded.
    pub thread: Option<&'p str>,
}

/// An on-CPU sample.
#[derive(Debug, Serialize)]
pub struct OnCpu<'p> {
    /// Whose.
    #[serde(flatten)]
    pub owner: Owner<'p>,
    /// Positions of its frames, root first.
    pub stack: Vec<u32>,
    /// Number of samples.
    pub samples: u64,
}

/// An off-CPU sample.
#[derive(Debug, Serialize)]
pub struct OffCpu<'p> {
    /// Whose.
    #[serde(flatten)]
    pub owner: Owner<'p>,
    /// Positions of its frames, root first.
    pub stack: Vec<u32>,
    /// Why.
    pub reason: &'static str,
    /// Seconds off the CPU, estimated.
    pub s: f64,
    /// Number of waits, estimated.
    pub count: f64,
}

/// Writes the stacks.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    serde_json::to_writer(&mut *writer, &stacks(scope)).map_err(std::io::Error::from)?;
    writeln!(writer)?;
    Ok(())
}

/// The stacks of the selected containers.
pub fn stacks<'p>(scope: &Scope<'p>) -> Stacks<'p> {
    let profile = scope.profile;
    let text = |id| profile.stacks.text_of(id);
    let on_cpu = profile.on_cpu.iter().filter(|sample| scope.selected.contains(sample.container));
    let off_cpu = profile.off_cpu.iter().filter(|sample| scope.selected.contains(sample.container));
    Stacks {
        schema: 1,
        window: Window::of(profile),
        host: Host::of(profile),
        coverage: Coverage::of(profile),
        sample_period_s: seconds(profile.settings.sample_period_ns()),
        frames: profile
            .stacks
            .frames()
            .iter()
            .map(|frame| Frame {
                function: text(frame.function),
                module: text(frame.module),
                kind: kind_name(frame.kind),
                file: Some(text(frame.file)).filter(|file| !file.is_empty()),
                line: Some(frame.line).filter(|line| *line > 0),
            })
            .collect(),
        on_cpu: on_cpu
            .map(|sample| OnCpu {
                owner: owner(scope, sample.container, sample.process, sample.thread),
                stack: frames(scope, sample.stack),
                samples: sample.count,
            })
            .collect(),
        off_cpu: off_cpu
            .map(|sample| OffCpu {
                owner: owner(scope, sample.container, sample.process, sample.thread),
                stack: frames(scope, sample.stack),
                reason: sample.reason.name(),
                s: sample.weight_ns / 1e9,
                count: sample.count,
            })
            .collect(),
    }
}

fn owner<'p>(scope: &Scope<'p>, container: ContainerIndex, process: ProcessIndex, thread: TextId) -> Owner<'p> {
    let profile = scope.profile;
    let process = profile.processes.get(process.0 as usize);
    Owner {
        container: profile.containers.get(container.0 as usize).map_or("", |container| &container.name),
        process: process.map_or("", |process| profile.stacks.text_of(process.command)),
        pid: process.map_or(0, |process| process.pid),
        thread: Some(profile.stacks.text_of(thread)).filter(|thread| !thread.is_empty()),
    }
}

fn frames(scope: &Scope<'_>, stack: StackId) -> Vec<u32> {
    let stack = scope.profile.stacks.stacks().get(stack.0 as usize);
    stack.map(|frames| frames.iter().map(|frame| frame.0).collect()).unwrap_or_default()
}

fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::User => "user",
        FrameKind::UserInlined => "inlined",
        FrameKind::Kernel => "kernel",
        FrameKind::Unresolved => "unresolved",
        FrameKind::Note => "note",
    }
}
