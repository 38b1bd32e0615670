//! A profile in; flamegraph SVG, folded stacks, pprof, speedscope, JSON and reports out.
//!
//! One file a format. [`write()`] picks the format by the output's extension, [`write_as`] takes it by name, and
//! [`render`] writes to anything. What several formats share is beside them: [`rows`] flattens stacks into labelled
//! rows, [`mod@coverage`] puts the coverage into words, [`destination`] replaces files whole or not at all.

pub mod coverage;
pub mod destination;
pub mod flamegraph;
pub mod folded;
mod kind;
pub mod pprof;
pub mod report_json;
mod report_markdown;
mod report_tables;
mod report_text;
pub mod rows;
pub mod speedscope;
pub mod stacks_json;
pub mod targets;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use kind::Kind;

use crate::profile::recording::RecordingError;
use crate::profile::{Profile, Selected, Selection, SelectionError, recording};
use destination::Access;

/// What a profile can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `.profile`: everything, to be read again.
    Recording,
    /// `.svg`: an interactive flamegraph.
    Svg,
    /// `.folded`: one line a stack.
    Folded,
    /// `.pb.gz`: pprof.
    Pprof,
    /// `.speedscope.json`.
    Speedscope,
    /// The stacks as JSON.
    StacksJson,
    /// `.json`: the report.
    ReportJson,
    /// `.txt`: the report, to be read on a terminal.
    ReportText,
    /// `.md`: the report as Markdown.
    ReportMarkdown,
}

/// Extensions and what they stand for; the first that fits counts, so the longer ones come first.
const EXTENSIONS: [(&str, Format); 9] = [
    (".speedscope.json", Format::Speedscope),
    (".stacks.json", Format::StacksJson),
    (".profile", Format::Recording),
    (".svg", Format::Svg),
    (".folded", Format::Folded),
    (".pb.gz", Format::Pprof),
    (".json", Format::ReportJson),
    (".txt", Format::ReportText),
    (".md", Format::ReportMarkdown),
];

impl Format {
    /// The format that a file's extension stands for. `-`, standard output, is a recording, so that it can be piped.
    pub fn from_path(path: &Path) -> Result<Self, OutputError> {
        if path == Path::new("-") {
            return Ok(Self::Recording);
        }
        let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        EXTENSIONS
            .iter()
            .find(|(extension, _)| name.ends_with(extension))
            .map(|(_, format)| *format)
            .ok_or_else(|| OutputError::UnknownExtension { path: path.to_owned() })
    }

    /// The extension that files of this format carry, with its dot.
    pub fn extension(self) -> &'static str {
        EXTENSIONS.iter().find(|(_, format)| *format == self).map_or("", |(extension, _)| extension)
    }

    /// Whether a terminal can show it.
    pub fn is_readable(self) -> bool {
        !matches!(self, Self::Recording | Self::Svg | Self::Pprof)
    }
}

/// Which way a flamegraph grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Growth {
    /// Roots at the bottom.
    #[default]
    Flame,
    /// Roots at the top.
    Icicle,
}

/// Whether rows carry the thread's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Threads {
    /// All threads of a process together.
    #[default]
    Together,
    /// The thread's name below the process.
    Named,
}

/// Whether frames carry file and line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lines {
    /// Functions only.
    #[default]
    Hidden,
    /// `function (file:line)` where they are known.
    Shown,
}

/// Whether text may carry terminal colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// No escape sequences.
    #[default]
    Plain,
    /// Bold headings.
    Terminal,
}

/// How to write a profile. Each format takes from it what concerns it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The kind of stacks for formats that hold one; `None` picks on-CPU where it was recorded, else off-CPU.
    pub kind: Option<Kind>,
    /// The containers to write. A recording always holds all.
    pub selection: Selection,
    /// Whether rows carry the thread's name.
    pub threads: Threads,
    /// Whether frames carry file and line.
    pub lines: Lines,
    /// Which way the flamegraph grows.
    pub growth: Growth,
    /// Title of the flamegraph; `None` composes one.
    pub title: Option<String>,
    /// Whether a text report may carry terminal colours.
    pub style: Style,
    /// Who may read what is written; a recording is its owner's in any case.
    pub access: Access,
}

/// Why a profile could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The extension stands for no format.
    #[error(
        "cannot tell a format from the name {}; end it in .profile (a recording), .svg, .folded, .pb.gz, \
         .speedscope.json, .json, .txt or .md",
        path.display()
    )]
    UnknownExtension {
        /// The output.
        path: PathBuf,
    },
    /// The output cannot be written.
    #[error("cannot write {}: {error}; {remedy}", path.display())]
    Unwritable {
        /// The output.
        path: PathBuf,
        /// What to do.
        remedy: String,
        /// What the system said.
        error: io::Error,
    },
    /// A pattern matches no container.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// Stacks of this kind were not recorded.
    #[error("there are no {} stacks in this recording; {}", kind.title(), kind.remedy())]
    NotRecorded {
        /// The kind asked for.
        kind: Kind,
    },
    /// The recording could not be composed.
    #[error(transparent)]
    Recording(RecordingError),
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<RecordingError> for OutputError {
    fn from(error: RecordingError) -> Self {
        match error {
            RecordingError::Io(error) => Self::Io(error),
            other => Self::Recording(other),
        }
    }
}

/// Writes `profile` to `path`, in the format that its extension stands for.
pub fn write(profile: &Profile, path: &Path, options: &WriteOptions) -> Result<(), OutputError> {
    write_as(profile, Format::from_path(path)?, path, options)
}

/// Writes `profile` to `path` (`-` is standard output) as `format`.
pub fn write_as(profile: &Profile, format: Format, path: &Path, options: &WriteOptions) -> Result<(), OutputError> {
    let access = if format == Format::Recording { Access::Private } else { options.access };
    destination::write(path, access, |writer| render(profile, format, options, writer))
}

/// Writes `profile` as `format` to `writer`.
pub fn render(
    profile: &Profile,
    format: Format,
    options: &WriteOptions,
    writer: &mut dyn Write,
) -> Result<(), OutputError> {
    let selected = options.selection.resolve(profile)?;
    let scope = Scope { profile, selected, options };
    match format {
        Format::Recording => Ok(recording::write_to(profile, writer)?),
        Format::Svg => flamegraph::write(&scope, writer),
        Format::Folded => folded::write(&scope, writer),
        Format::Pprof => pprof::write(&scope, writer),
        Format::Speedscope => speedscope::write(&scope, writer),
        Format::StacksJson => stacks_json::write(&scope, writer),
        Format::ReportJson => report_json::write(&scope, writer),
        Format::ReportText => report_text::write(&scope, writer),
        Format::ReportMarkdown => report_markdown::write(&scope, writer),
    }
}

/// What is to be written: a profile, the containers meant, and how.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// Its containers that are meant.
    pub selected: Selected,
    /// How to write it.
    pub options: &'a WriteOptions,
}

#[cfg(test)]
mod tests;
