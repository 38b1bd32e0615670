//! pprof: gzipped protobuf with four sample types, read by `go tool pprof`, Pyroscope, Parca and others.
//!
//! The messages are written by hand from the public `profile.proto` (github.com/google/pprof), without the fields that
//! stay empty here. Containers, processes and reasons are labels, so that `-tagroot container` and `-tagfocus` work.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use rustc_hash::FxHashMap;

use super::coverage;
use super::rows::RoundedSum;
use super::{Kind, OutputError, Scope};
use crate::profile::{Container, ContainerIndex, FrameId, FrameKind, OffCpuReason, ProcessIndex, StackId, TextId};

/// Writes the gzipped profile.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    let mut encoder = GzEncoder::new(writer, Compression::default());
    encoder.write_all(&build(scope).encode_to_vec())?;
    encoder.finish()?;
    Ok(())
}

/// The profile as a pprof message, for servers that compress or embed it themselves.
pub fn build(scope: &Scope<'_>) -> proto::Profile {
    let mut builder = Builder::new(scope);
    let period = scope.profile.settings.sample_period_ns();
    for sample in &scope.profile.on_cpu {
        if scope.selected.contains(sample.container) {
            let count = sample.count as i64;
            let cpu_ns = sample.count.saturating_mul(period) as i64;
            let labels = builder.labels(sample.container, sample.process, sample.thread, None);
            builder.add(sample.stack, [count, cpu_ns, 0, 0], labels);
        }
    }
    let (mut waits, mut off_cpu) = (RoundedSum::default(), RoundedSum::default());
    for sample in &scope.profile.off_cpu {
        if scope.selected.contains(sample.container) {
            let values = [0, 0, waits.add(sample.count) as i64, off_cpu.add(sample.weight_ns) as i64];
            let labels = builder.labels(sample.container, sample.process, sample.thread, Some(sample.reason));
            builder.add(sample.stack, values, labels);
        }
    }
    builder.finish()
}

struct Builder<'s> {
    scope: &'s Scope<'s>,
    profile: proto::Profile,
    strings: FxHashMap<String, i64>,
    mappings: FxHashMap<TextId, u64>,
    functions: FxHashMap<(TextId, TextId), u64>,
    locations: FxHashMap<Vec<FrameId>, u64>,
    stacks: FxHashMap<StackId, Vec<u64>>,
}

impl<'s> Builder<'s> {
    fn new(scope: &'s Scope<'s>) -> Self {
        let mut builder = Self {
            scope,
            profile: proto::Profile::default(),
            strings: FxHashMap::default(),
            mappings: FxHashMap::default(),
            functions: FxHashMap::default(),
            locations: FxHashMap::default(),
            stacks: FxHashMap::default(),
        };
        // The format wants the empty string first.
        builder.string("");
        builder
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn value_type(&mut self, name: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.string(name), unit: self.string(unit) }
    }

    fn labels(
        &mut self,
        container: ContainerIndex,
        process: ProcessIndex,
        thread: TextId,
        reason: Option<OffCpuReason>,
    ) -> Vec<proto::Label> {
        let profile = self.scope.profile;
        let container: Option<&Container> = profile.containers.get(container.0 as usize);
        let process = profile.processes.get(process.0 as usize).map(|process| profile.stacks.text_of(process.command));
        let pairs = [
            ("container", container.map(|container| container.name.as_str())),
            ("pod", container.and_then(|container| container.pod.as_deref())),
            ("namespace", container.and_then(|container| container.namespace.as_deref())),
            ("process", process),
            ("thread", Some(profile.stacks.text_of(thread))),
            ("reason", reason.map(OffCpuReason::name)),
        ];
        let present = pairs.into_iter().filter_map(|(key, value)| Some((key, value.filter(|text| !text.is_empty())?)));
        present.map(|(key, value)| proto::Label { key: self.string(key), str: self.string(value) }).collect()
    }

    fn add(&mut self, stack: StackId, values: [i64; 4], label: Vec<proto::Label>) {
        let location_id = self.stack(stack);
        self.profile.sample.push(proto::Sample { location_id, value: values.to_vec(), label });
    }

    /// The locations of a stack, leaf first.
    fn stack(&mut self, stack: StackId) -> Vec<u64> {
        if let Some(locations) = self.stacks.get(&stack) {
            return locations.clone();
        }
        let table = &self.scope.profile.stacks;
        let frames = table.stacks().get(stack.0 as usize).map_or(&[][..], Vec::as_slice);
        let inlined = |frame: &FrameId| table.frame_of(*frame).is_some_and(|f| f.kind == FrameKind::UserInlined);
        // A function and what is inlined into it are one location with several lines.
        let mut locations: Vec<u64> =
            frames.chunk_by(|_, next| inlined(next)).map(|group| self.location(group)).collect();
        locations.reverse();
        self.stacks.insert(stack, locations.clone());
        locations
    }

    fn location(&mut self, frames: &[FrameId]) -> u64 {
        if let Some(id) = self.locations.get(frames) {
            return *id;
        }
        let table = &self.scope.profile.stacks;
        let mapping_id =
            frames.first().and_then(|frame| table.frame_of(*frame)).map_or(0, |frame| self.mapping(frame.module));
        let mut line = Vec::with_capacity(frames.len());
        // The innermost inlined function comes first.
        for frame in frames.iter().rev().filter_map(|frame| table.frame_of(*frame)) {
            let function_id = self.function(frame.function, frame.file);
            line.push(proto::Line { function_id, line: i64::from(frame.line) });
        }
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(proto::Location { id, mapping_id, line });
        self.locations.insert(frames.to_vec(), id);
        id
    }

    fn function(&mut self, name: TextId, file: TextId) -> u64 {
        if let Some(id) = self.functions.get(&(name, file)) {
            return *id;
        }
        let table = &self.scope.profile.stacks;
        let filename = self.string(table.text_of(file));
        let text = self.string(table.text_of(name));
        let id = self.profile.function.len() as u64 + 1;
        self.profile.function.push(proto::Function { id, name: text, system_name: text, filename });
        self.functions.insert((name, file), id);
        id
    }

    fn mapping(&mut self, module: TextId) -> u64 {
        let name = self.scope.profile.stacks.text_of(module);
        if name.is_empty() {
            return 0;
        }
        if let Some(id) = self.mappings.get(&module) {
            return *id;
        }
        let filename = self.string(name);
        let id = self.profile.mapping.len() as u64 + 1;
        let lines = self.scope.profile.settings.lines;
        self.profile.mapping.push(proto::Mapping {
            id,
            filename,
            // Readers then do not look for the binary to find names that are here already.
            has_functions: true,
            has_filenames: lines,
            has_line_numbers: lines,
            has_inline_frames: lines,
        });
        self.mappings.insert(module, id);
        id
    }

    fn finish(mut self) -> proto::Profile {
        let source = self.scope.profile;
        let types = [("samples", "count"), ("cpu", "nanoseconds"), ("waits", "count"), ("off_cpu", "nanoseconds")];
        self.profile.sample_type = types.map(|(name, unit)| self.value_type(name, unit)).to_vec();
        self.profile.period_type = Some(self.value_type("cpu", "nanoseconds"));
        self.profile.period = source.settings.sample_period_ns() as i64;
        self.profile.time_nanos = source.window.start_unix_ns as i64;
        self.profile.duration_nanos = source.window.duration_ns as i64;
        let default = if Kind::Cpu.is_recorded(source) { "cpu" } else { "off_cpu" };
        self.profile.default_sample_type = self.string(default);
        let kinds = [Kind::Cpu, Kind::OffCpu].into_iter().filter(|kind| kind.is_recorded(source));
        let comments: Vec<String> =
            kinds.map(|kind| format!("{}: {}", kind.title(), coverage::summary(self.scope, kind))).collect();
        self.profile.comment = comments.iter().map(|comment| self.string(comment)).collect();
        self.profile
    }
}

/// The messages of `profile.proto`.
pub mod proto {
    /// A set of samples and what they point at.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        /// What the values of each sample are.
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        /// The samples.
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        /// Binaries and libraries.
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        /// Places in the code.
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        /// Functions.
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        /// All texts; the first is empty.
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        /// Start, in nanoseconds since the Unix epoch.
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        /// Length in nanoseconds.
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        /// What a period counts.
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        /// Nanoseconds of CPU between samples.
        #[prost(int64, tag = "12")]
        pub period: i64,
        /// Remarks, as texts.
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        /// Name of the sample type that readers show first, a text.
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }

    /// Meaning and unit of a value.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct ValueType {
        /// Meaning, a text.
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        /// Unit, a text.
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    /// Values of one stack.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        /// The stack, leaf first.
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        /// One value for each sample type.
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
        /// Who and why.
        #[prost(message, repeated, tag = "3")]
        pub label: Vec<Label>,
    }

    /// A label of a sample.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Label {
        /// Key, a text.
        #[prost(int64, tag = "1")]
        pub key: i64,
        /// Value, a text.
        #[prost(int64, tag = "2")]
        pub str: i64,
    }

    /// A binary or library.
    #[expect(clippy::struct_excessive_bools, reason = "the format has them")]
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Mapping {
        /// Identifier, from 1.
        #[prost(uint64, tag = "1")]
        pub id: u64,
        /// Name, a text.
        #[prost(int64, tag = "5")]
        pub filename: i64,
        /// Whether its functions have names.
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        /// Whether its functions have files.
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        /// Whether its locations have lines.
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        /// Whether inlined functions are there.
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    /// A place in the code.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        /// Identifier, from 1.
        #[prost(uint64, tag = "1")]
        pub id: u64,
        /// Its mapping, 0 for none.
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        /// Its functions: what is inlined first, what it is inlined into last.
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    /// A line of a function.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Line {
        /// The function.
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        /// Line in its file.
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    /// A function.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Function {
        /// Identifier, from 1.
        #[prost(uint64, tag = "1")]
        pub id: u64,
        /// Name, a text.
        #[prost(int64, tag = "2")]
        pub name: i64,
        /// Name as the system knows it, a text.
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        /// Source file, a text.
        #[prost(int64, tag = "4")]
        pub filename: i64,
    }
}
