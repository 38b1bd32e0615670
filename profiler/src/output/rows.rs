//! Stacks flattened into rows of labels: container, process, perhaps the thread, then the frames, root first.
//!
//! Rows of equal labels are summed (processes of one name are one), and sums are kept: the values of all rows add up to
//! the rounded total, whatever the fractions of each.

use rustc_hash::FxHashMap;

use super::{Kind, Lines, OutputError, Scope, Threads};
use crate::profile::{ContainerIndex, Frame, FrameKind, ProcessIndex, StackId, TextId};
use crate::terminal::is_unprintable;

/// What a label stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The container.
    Container,
    /// The process, by its command name.
    Process,
    /// The thread, by its name.
    Thread,
    /// A frame.
    Frame(FrameKind),
}

/// One element of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// As folded lines say it, without anything that would break the line.
    pub text: String,
    /// What it stands for.
    pub part: Part,
    /// Source file, if known; else the module.
    pub file: String,
    /// Source line, 0 if unknown.
    pub line: u32,
}

/// A stack with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Positions in [`Rows::labels`], root first.
    pub labels: Vec<usize>,
    /// Samples, or microseconds.
    pub value: u64,
}

/// All stacks of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The labels, each once.
    pub labels: Vec<Label>,
    /// The rows, sorted by the texts of their labels.
    pub rows: Vec<Row>,
}

impl Rows {
    /// Collects the rows of `kind`.
    pub fn collect(scope: &Scope<'_>, kind: Kind) -> Result<Self, OutputError> {
        let kind = Kind::choose(Some(kind), scope.profile)?;
        let mut collector = Collector::new(scope);
        let us_per_sample = 1e6 / f64::from(scope.profile.settings.frequency_hz.max(1));
        if kind != Kind::OffCpu {
            for sample in &scope.profile.on_cpu {
                let value = match kind {
                    Kind::Cpu => sample.count as f64,
                    Kind::OffCpu | Kind::Wall => sample.count as f64 * us_per_sample,
                };
                collector.add(sample.container, sample.process, sample.thread, sample.stack, value);
            }
        }
        if kind != Kind::Cpu {
            for sample in &scope.profile.off_cpu {
                collector.add(sample.container, sample.process, sample.thread, sample.stack, sample.weight_ns / 1e3);
            }
        }
        Ok(collector.finish())
    }

    /// The labels of a row, root first.
    pub fn labels_of(&self, row: &Row) -> impl DoubleEndedIterator<Item = &Label> {
        row.labels.iter().filter_map(|index| self.labels.get(*index))
    }

    /// Sum of all values.
    pub fn total(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(row.value))
    }
}

struct Collector<'s> {
    scope: &'s Scope<'s>,
    labels: Vec<Label>,
    ids: FxHashMap<Label, usize>,
    frames: FxHashMap<Frame, usize>,
    values: FxHashMap<Vec<usize>, f64>,
    row: Vec<usize>,
}

impl<'s> Collector<'s> {
    fn new(scope: &'s Scope<'s>) -> Self {
        Self {
            scope,
            labels: Vec::new(),
            ids: FxHashMap::default(),
            frames: FxHashMap::default(),
            values: FxHashMap::default(),
            row: Vec::new(),
        }
    }

    fn add(&mut self, container: ContainerIndex, process: ProcessIndex, thread: TextId, stack: StackId, value: f64) {
        let profile = self.scope.profile;
        if !self.scope.selected.contains(container) {
            return;
        }
        let container = profile.containers.get(container.0 as usize).map_or("", |container| &container.name);
        let process = profile.processes.get(process.0 as usize).map_or("", |p| profile.stacks.text_of(p.command));
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        row.push(self.name(container, Part::Container));
        row.push(self.name(process, Part::Process));
        if self.scope.options.threads == Threads::Named {
            row.push(self.name(profile.stacks.text_of(thread), Part::Thread));
        }
        for frame in profile.stacks.frames_of(stack) {
            row.push(self.frame(frame));
        }
        if let Some(sum) = self.values.get_mut(row.as_slice()) {
            *sum += value;
        } else {
            self.values.insert(row.clone(), value);
        }
        self.row = row;
    }

    fn name(&mut self, text: &str, part: Part) -> usize {
        self.label(Label { text: printable(text), part, file: String::new(), line: 0 })
    }

    fn frame(&mut self, frame: &Frame) -> usize {
        let stacks = &self.scope.profile.stacks;
        let lines = self.scope.options.lines == Lines::Shown;
        // Without lines, frames that differ in nothing else are one.
        let frame = if lines { *frame } else { Frame { file: TextId(u32::MAX), line: 0, ..*frame } };
        if let Some(index) = self.frames.get(&frame) {
            return *index;
        }
        let source = stacks.text_of(frame.file);
        let file = if source.is_empty() { stacks.text_of(frame.module) } else { source };
        let label = Label {
            text: frame_text(stacks.text_of(frame.function), frame.kind, source, frame.line),
            part: Part::Frame(frame.kind),
            file: file.to_owned(),
            line: frame.line,
        };
        let index = self.label(label);
        self.frames.insert(frame, index);
        index
    }

    fn label(&mut self, label: Label) -> usize {
        if let Some(index) = self.ids.get(&label) {
            return *index;
        }
        let index = self.labels.len();
        self.labels.push(label.clone());
        self.ids.insert(label, index);
        index
    }

    fn finish(self) -> Rows {
        let labels = self.labels;
        let mut sums: Vec<(Vec<usize>, f64)> = self.values.into_iter().collect();
        sums.sort_by(|(a, _), (b, _)| {
            a.iter().filter_map(|index| labels.get(*index)).cmp(b.iter().filter_map(|index| labels.get(*index)))
        });
        // Each value is the growth of the rounded running sum, so that rounding never adds up.
        let mut running = RoundedSum::default();
        let rows = sums
            .into_iter()
            .map(|(labels, sum)| Row { labels, value: running.add(sum) })
            .filter(|row| row.value > 0)
            .collect();
        Rows { labels, rows }
    }
}

/// Rounds addends so that their sum is the rounded sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundedSum {
    exact: f64,
    given: u64,
}

impl RoundedSum {
    /// The whole number that stands for this addend.
    pub fn add(&mut self, addend: f64) -> u64 {
        self.exact += addend;
        let whole = (self.exact.round() as u64).saturating_sub(self.given);
        self.given = self.given.saturating_add(whole);
        whole
    }
}

/// `function_[k]`, `function_[i]` or as it is, with `(file:line)` behind the function where that is known.
fn frame_text(function: &str, kind: FrameKind, file: &str, line: u32) -> String {
    let mut text = printable(function);
    if line > 0 && !file.is_empty() {
        let base = file.rsplit('/').next().unwrap_or(file);
        text = format!("{text} ({}:{line})", printable(base));
    }
    match kind {
        FrameKind::Kernel => text + "_[k]",
        FrameKind::UserInlined => text + "_[i]",
        FrameKind::User | FrameKind::Unresolved | FrameKind::Note => text,
    }
}

/// Ends of names by which readers tell what a frame is: kernel, inlined, made at run time, waker.
const MARKS: [&str; 4] = ["_[k]", "_[i]", "_[j]", "_[w]"];

/// A name without what means something in a folded line: `;` separates frames, a line end ends the stack, a number after a
/// space is the count, and a mark at the end says what the frame is. A name of somebody's own choice that ends in one has
/// round brackets there instead.
pub fn printable(name: &str) -> String {
    let mut text: String = name
        .trim()
        .chars()
        .map(|c| match c {
            ';' => ':',
            c if is_unprintable(c) => ' ',
            c => c,
        })
        .collect();
    if text.is_empty() {
        return "[unnamed]".to_owned();
    }
    if let Some(space) = text.rfind(char::is_whitespace) {
        let number = text[space..].trim_start();
        if number.chars().all(|c| c.is_ascii_digit() || c == '.') {
            let head = text[..space].trim_end().to_owned();
            text = format!("{head}_{number}");
        }
    }
    if let Some(mark) = MARKS.iter().find(|mark| text.ends_with(**mark)) {
        let round = mark.replace('[', "(").replace(']', ")");
        text.truncate(text.len() - mark.len());
        text.push_str(&round);
    }
    if text.starts_with("# ") {
        // Readers take such a line for a comment.
        text.replace_range(1..2, "_");
    }
    text
}
