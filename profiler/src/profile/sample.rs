//! Stacks and the samples that point at them. Names, frames and stacks are stored once each.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{ContainerIndex, OffCpuReason};

/// Position of a text in a [`StackTable`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TextId(pub u32);

/// Position of a frame in [`StackTable::frames`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FrameId(pub u32);

/// Position of a stack in [`StackTable::stacks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StackId(pub u32);

/// Position of a process in [`super::Profile::processes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessIndex(pub u32);

/// Where a frame's code runs, and whether it has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FrameKind {
    /// A user-space function.
    User,
    /// A user-space function inlined into the frame above it (towards the root).
    UserInlined,
    /// A kernel function.
    Kernel,
    /// User code without a name: `function` holds `[module+0xoffset]`.
    Unresolved,
    /// A note in place of frames that could not be had (`[user stack: process exited]`).
    Note,
}

/// One frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Where it runs.
    pub kind: FrameKind,
    /// Demangled function name, or `[module+0xoffset]`.
    pub function: TextId,
    /// Base name of the binary or library, `[kernel]`, or empty.
    pub module: TextId,
    /// Source file; empty if unknown or not asked for.
    pub file: TextId,
    /// Source line; 0 if unknown or not asked for.
    pub line: u32,
}

/// Frames, root first.
pub type Stack = Vec<FrameId>;

/// A process that samples belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// Command name of the process (its main thread's).
    pub command: TextId,
}

/// `count` times this stack was found on a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OnCpuSample {
    /// Whose.
    pub container: ContainerIndex,
    /// Which process.
    pub process: ProcessIndex,
    /// Name of the thread.
    pub thread: TextId,
    /// Which stack.
    pub stack: StackId,
    /// Number of samples; each stands for [`super::Settings::sample_period_ns`].
    pub count: u64,
}

/// Time off the CPU below this stack, estimated without bias from sampled gaps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OffCpuSample {
    /// Whose.
    pub container: ContainerIndex,
    /// Which process.
    pub process: ProcessIndex,
    /// Name of the thread.
    pub thread: TextId,
    /// Which stack.
    pub stack: StackId,
    /// Why.
    pub reason: OffCpuReason,
    /// Weighted thread-nanoseconds.
    pub weight_ns: f64,
    /// Weighted number of gaps.
    pub count: f64,
    /// Whom the thread waited for: the other end of the one socket it waited on, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<TextId>,
}

/// Texts, frames and stacks, each stored once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StackTable {
    texts: Vec<Box<str>>,
    frames: Vec<Frame>,
    stacks: Vec<Stack>,
    #[serde(skip)]
    text_ids: FxHashMap<Box<str>, TextId>,
    #[serde(skip)]
    frame_ids: FxHashMap<Frame, FrameId>,
    #[serde(skip)]
    stack_ids: FxHashMap<Stack, StackId>,
}

impl PartialEq for StackTable {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts && self.frames == other.frames && self.stacks == other.stacks
    }
}

impl StackTable {
    /// Interns a text.
    pub fn text(&mut self, text: &str) -> TextId {
        if let Some(id) = self.text_ids.get(text) {
            return *id;
        }
        let id = TextId(self.texts.len() as u32);
        self.texts.push(text.into());
        self.text_ids.insert(text.into(), id);
        id
    }

    /// Interns a frame.
    pub fn frame(&mut self, frame: Frame) -> FrameId {
        if let Some(id) = self.frame_ids.get(&frame) {
            return *id;
        }
        let id = FrameId(self.frames.len() as u32);
        self.frames.push(frame);
        self.frame_ids.insert(frame, id);
        id
    }

    /// Interns a stack, root first.
    pub fn stack(&mut self, frames: &[FrameId]) -> StackId {
        if let Some(id) = self.stack_ids.get(frames) {
            return *id;
        }
        let id = StackId(self.stacks.len() as u32);
        self.stacks.push(frames.to_vec());
        self.stack_ids.insert(frames.to_vec(), id);
        id
    }

    /// The text behind an id; empty for an id of another table.
    pub fn text_of(&self, id: TextId) -> &str {
        self.texts.get(id.0 as usize).map_or("", |text| text)
    }

    /// The frame behind an id.
    pub fn frame_of(&self, id: FrameId) -> Option<&Frame> {
        self.frames.get(id.0 as usize)
    }

    /// The frames of a stack, root first; empty for an id of another table.
    pub fn frames_of(&self, id: StackId) -> impl DoubleEndedIterator<Item = &Frame> {
        let stack = self.stacks.get(id.0 as usize).map_or(&[][..], Vec::as_slice);
        stack.iter().filter_map(|frame| self.frame_of(*frame))
    }

    /// Number of texts.
    pub fn text_count(&self) -> usize {
        self.texts.len()
    }

    /// All frames; [`FrameId`] is the position.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// All stacks; [`StackId`] is the position.
    pub fn stacks(&self) -> &[Stack] {
        &self.stacks
    }

    /// Rebuilds what is not stored in a recording, so that more can be interned after reading one.
    pub fn reindex(&mut self) {
        self.text_ids = self.texts.iter().enumerate().map(|(i, t)| (t.clone(), TextId(i as u32))).collect();
        self.frame_ids = self.frames.iter().enumerate().map(|(i, f)| (*f, FrameId(i as u32))).collect();
        self.stack_ids = self.stacks.iter().enumerate().map(|(i, s)| (s.clone(), StackId(i as u32))).collect();
    }
}
