//! OTLP profiles (`v1development`). In: a profile. Out: gzipped `ExportProfilesServiceRequest`s, with a resource for each container and
//! in each a profile of CPU time and one of time off the CPU.

use std::{collections::BTreeMap, io::Write};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::profiles::v1development::{ExportProfilesServiceRequest, ExportProfilesServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    profiles::v1development as otlp,
    resource::v1::Resource,
};
use prost::Message;
use rustc_hash::FxHashMap;

use super::backoff::random_id;
use crate::{
    output::rows::RoundedSum,
    profile::{Container, FrameId, FrameKind, ProcessIndex, Profile, StackId, TextId},
};

/// Samples after which another request is begun: collectors take 20 MiB, those in between often 4.
const REQUEST_SAMPLES: usize = 8192;

/// What is told along with each profile.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// This node.
    pub node: String,
    /// Whatever the operator wants.
    pub labels: BTreeMap<String, String>,
}

/// Requests that bring a profile.
pub fn requests(profile: &Profile, extra: &Extra) -> Vec<Bytes> {
    let count = profile.containers.len();
    let (mut on_cpu, mut off_cpu) = (vec![Vec::new(); count], vec![Vec::new(); count]);
    for sample in &profile.on_cpu {
        if let Some(samples) = on_cpu.get_mut(sample.container.0 as usize) {
            samples.push(sample);
        }
    }
    for sample in &profile.off_cpu {
        if let Some(samples) = off_cpu.get_mut(sample.container.0 as usize) {
            samples.push(sample);
        }
    }
    let period = profile.settings.sample_period_ns();
    let mut requests = Vec::new();
    let mut request = Request::new(profile);
    for ((container, on_cpu), off_cpu) in profile.containers.iter().zip(on_cpu).zip(off_cpu) {
        let mut profiles = Vec::new();
        if !on_cpu.is_empty() {
            let mut cpu = request.profile("cpu");
            for sample in on_cpu {
                let value = sample.count.saturating_mul(period) as i64;
                let attributes = request.whose(sample.process, sample.thread);
                cpu.samples.push(request.sample(sample.stack, attributes, value));
            }
            let (type_strindex, unit_strindex) = (request.text("cpu"), request.text("nanoseconds"));
            cpu.period_type = Some(otlp::ValueType { type_strindex, unit_strindex });
            cpu.period = period as i64;
            profiles.push(cpu);
        }
        if !off_cpu.is_empty() {
            let mut waiting = request.profile("off_cpu");
            let mut rounded = RoundedSum::default();
            for sample in off_cpu {
                let value = rounded.add(sample.weight_ns) as i64;
                let mut attributes = request.whose(sample.process, sample.thread);
                attributes.push(request.attribute("profiler.off_cpu.reason", sample.reason.name()));
                waiting.samples.push(request.sample(sample.stack, attributes, value));
            }
            profiles.push(waiting);
        }
        if !profiles.is_empty() {
            request.add(resource(container, extra), profiles);
        }
        if request.samples >= REQUEST_SAMPLES {
            requests.push(std::mem::replace(&mut request, Request::new(profile)).finish());
        }
    }
    if request.samples > 0 {
        requests.push(request.finish());
    }
    requests
}

/// How many profiles an answer says were rejected, and why; `None` for none.
pub fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    // What is no such answer says nothing of the sort.
    let partial = ExportProfilesServiceResponse::decode(answer).ok()?.partial_success?;
    let profiles = u64::try_from(partial.rejected_profiles).unwrap_or(0);
    (profiles > 0).then(|| (profiles, partial.error_message.chars().take(200).filter(|c| !c.is_control()).collect()))
}

/// A container by the names of OpenTelemetry's semantic conventions.
fn resource(container: &Container, extra: &Extra) -> Resource {
    let own = container.label();
    let service = match &container.namespace {
        Some(namespace) => format!("{namespace}/{own}"),
        None => container.name.clone(),
    };
    let mut attributes: BTreeMap<&str, &str> =
        extra.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let kubernetes = container.pod.is_some();
    let of = |text: &'_ Option<String>| text.clone().unwrap_or_default();
    let (namespace, pod, image) = (of(&container.namespace), of(&container.pod), of(&container.image));
    // Units of the host, and the host itself, are no containers.
    let id = if container.runtime == "host" { "" } else { container.id.as_str() };
    attributes.extend([
        ("service.name", service.as_str()),
        ("container.id", id),
        ("container.name", if id.is_empty() { "" } else { own }),
        ("container.image.name", image.as_str()),
        ("k8s.namespace.name", namespace.as_str()),
        ("k8s.pod.name", pod.as_str()),
        ("k8s.container.name", if kubernetes { own } else { "" }),
        ("k8s.node.name", if kubernetes { extra.node.as_str() } else { "" }),
        ("host.name", extra.node.as_str()),
    ]);
    let attributes = attributes.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| KeyValue {
        key: key.to_owned(),
        value: Some(text_value(value)),
        ..KeyValue::default()
    });
    Resource { attributes: attributes.collect(), ..Resource::default() }
}

fn text_value(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

/// A request under construction: what its profiles share is told once.
struct Request<'p> {
    source: &'p Profile,
    resources: Vec<otlp::ResourceProfiles>,
    dictionary: otlp::ProfilesDictionary,
    samples: usize,
    texts: FxHashMap<String, i32>,
    attributes: FxHashMap<(String, String), i32>,
    mappings: FxHashMap<TextId, i32>,
    functions: FxHashMap<(TextId, TextId), i32>,
    locations: FxHashMap<Vec<FrameId>, i32>,
    stacks: FxHashMap<StackId, i32>,
}

impl<'p> Request<'p> {
    fn new(source: &'p Profile) -> Self {
        // The first entry of each table stands for nothing.
        let dictionary = otlp::ProfilesDictionary {
            mapping_table: vec![otlp::Mapping::default()],
            location_table: vec![otlp::Location::default()],
            function_table: vec![otlp::Function::default()],
            link_table: vec![otlp::Link::default()],
            string_table: vec![String::new()],
            attribute_table: vec![otlp::KeyValueAndUnit::default()],
            stack_table: vec![otlp::Stack::default()],
        };
        Self {
            source,
            resources: Vec::new(),
            dictionary,
            samples: 0,
            texts: FxHashMap::default(),
            attributes: FxHashMap::default(),
            mappings: FxHashMap::default(),
            functions: FxHashMap::default(),
            locations: FxHashMap::default(),
            stacks: FxHashMap::default(),
        }
    }

    fn finish(self) -> Bytes {
        let request =
            ExportProfilesServiceRequest { resource_profiles: self.resources, dictionary: Some(self.dictionary) };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Into memory: neither can fail, and what there is would be refused and said.
        encoder.write_all(&request.encode_to_vec()).ok();
        encoder.finish().unwrap_or_default().into()
    }

    fn add(&mut self, resource: Resource, profiles: Vec<otlp::Profile>) {
        self.samples += profiles.iter().map(|profile| profile.samples.len()).sum::<usize>();
        let scope = InstrumentationScope {
            name: "profiler".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_profiles =
            vec![otlp::ScopeProfiles { scope: Some(scope), profiles, ..otlp::ScopeProfiles::default() }];
        let resource = Some(resource);
        self.resources.push(otlp::ResourceProfiles { resource, scope_profiles, ..otlp::ResourceProfiles::default() });
    }

    /// A profile of nanoseconds without samples.
    fn profile(&mut self, of: &str) -> otlp::Profile {
        otlp::Profile {
            sample_type: Some(otlp::ValueType {
                type_strindex: self.text(of),
                unit_strindex: self.text("nanoseconds"),
            }),
            time_unix_nano: self.source.window.start_unix_ns,
            duration_nano: self.source.window.duration_ns,
            profile_id: random_id().to_vec(),
            ..otlp::Profile::default()
        }
    }

    fn sample(&mut self, stack: StackId, attribute_indices: Vec<i32>, value: i64) -> otlp::Sample {
        otlp::Sample {
            stack_index: self.stack(stack),
            attribute_indices,
            values: vec![value],
            ..otlp::Sample::default()
        }
    }

    /// Attributes that say which process and thread.
    fn whose(&mut self, process: ProcessIndex, thread: TextId) -> Vec<i32> {
        let source = self.source;
        let command = source.processes.get(process.0 as usize).map(|process| source.stacks.text_of(process.command));
        [("process.executable.name", command.unwrap_or_default()), ("thread.name", source.stacks.text_of(thread))]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| self.attribute(key, value))
            .collect()
    }

    fn text(&mut self, text: &str) -> i32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(at) = self.texts.get(text) {
            return *at;
        }
        let at = self.dictionary.string_table.len() as i32;
        self.dictionary.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), at);
        at
    }

    fn attribute(&mut self, key: &str, value: &str) -> i32 {
        let pair = (key.to_owned(), value.to_owned());
        if let Some(at) = self.attributes.get(&pair) {
            return *at;
        }
        let at = self.dictionary.attribute_table.len() as i32;
        let key_strindex = self.text(key);
        let value = Some(text_value(value));
        self.dictionary.attribute_table.push(otlp::KeyValueAndUnit { key_strindex, value, unit_strindex: 0 });
        self.attributes.insert(pair, at);
        at
    }

    /// A stack, leaf first.
    fn stack(&mut self, stack: StackId) -> i32 {
        if let Some(at) = self.stacks.get(&stack) {
            return *at;
        }
        let table = &self.source.stacks;
        let frames = table.stacks().get(stack.0 as usize).map_or(&[][..], Vec::as_slice);
        let inlined = |frame: &FrameId| table.frame_of(*frame).is_some_and(|f| f.kind == FrameKind::UserInlined);
        // A function and what is inlined into it are one location with several lines.
        let mut location_indices: Vec<i32> =
            frames.chunk_by(|_, next| inlined(next)).map(|group| self.location(group)).collect();
        location_indices.reverse();
        let at = self.dictionary.stack_table.len() as i32;
        self.dictionary.stack_table.push(otlp::Stack { location_indices });
        self.stacks.insert(stack, at);
        at
    }

    fn location(&mut self, frames: &[FrameId]) -> i32 {
        if let Some(at) = self.locations.get(frames) {
            return *at;
        }
        let table = &self.source.stacks;
        let mut location = otlp::Location::default();
        if let Some(outermost) = frames.first().and_then(|frame| table.frame_of(*frame)) {
            location.mapping_index = self.mapping(outermost.module);
            let kind = if outermost.kind == FrameKind::Kernel { "kernel" } else { "native" };
            location.attribute_indices.push(self.attribute("profile.frame.type", kind));
        }
        // The innermost inlined function comes first.
        for frame in frames.iter().rev().filter_map(|frame| table.frame_of(*frame)) {
            let function_index = self.function(frame.function, frame.file);
            location.lines.push(otlp::Line { function_index, line: i64::from(frame.line), column: 0 });
        }
        let at = self.dictionary.location_table.len() as i32;
        self.dictionary.location_table.push(location);
        self.locations.insert(frames.to_vec(), at);
        at
    }

    fn function(&mut self, name: TextId, file: TextId) -> i32 {
        if let Some(at) = self.functions.get(&(name, file)) {
            return *at;
        }
        let table = &self.source.stacks;
        let name_strindex = self.text(table.text_of(name));
        let filename_strindex = self.text(table.text_of(file));
        let at = self.dictionary.function_table.len() as i32;
        self.dictionary.function_table.push(otlp::Function {
            name_strindex,
            system_name_strindex: name_strindex,
            filename_strindex,
            start_line: 0,
        });
        self.functions.insert((name, file), at);
        at
    }

    fn mapping(&mut self, module: TextId) -> i32 {
        let name = self.source.stacks.text_of(module);
        if name.is_empty() {
            return 0;
        }
        if let Some(at) = self.mappings.get(&module) {
            return *at;
        }
        let at = self.dictionary.mapping_table.len() as i32;
        let filename_strindex = self.text(name);
        self.dictionary.mapping_table.push(otlp::Mapping { filename_strindex, ..otlp::Mapping::default() });
        self.mappings.insert(module, at);
        at
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesPartialSuccess;

    use super::*;
    use crate::profile::testing;

    fn decoded(body: &Bytes) -> ExportProfilesServiceRequest {
        let mut bytes = Vec::new();
        let read = flate2::read::GzDecoder::new(&**body).read_to_end(&mut bytes);
        assert!(read.is_ok());
        ExportProfilesServiceRequest::decode(&*bytes).unwrap_or_else(|error| panic!("{error}"))
    }

    fn sent() -> ExportProfilesServiceRequest {
        let extra = Extra { node: "node-1".to_owned(), labels: [("team".to_owned(), "a".to_owned())].into() };
        let requests = requests(&testing::profile(), &extra);
        assert_eq!(requests.len(), 1);
        decoded(&requests[0])
    }

    #[test]
    fn every_index_points_into_its_table_whose_first_entry_is_nothing() {
        let request = sent();
        let dictionary = request.dictionary.unwrap_or_default();
        assert_eq!(dictionary.string_table[0], "");
        assert_eq!(dictionary.stack_table[0], otlp::Stack::default());
        assert_eq!(dictionary.attribute_table[0], otlp::KeyValueAndUnit::default());
        assert_eq!(dictionary.link_table.len(), 1);
        let inside = |at: i32, length: usize| (at as usize) < length && at >= 0;
        for stack in &dictionary.stack_table {
            assert!(stack.location_indices.iter().all(|at| *at > 0 && inside(*at, dictionary.location_table.len())));
        }
        for location in dictionary.location_table.iter().skip(1) {
            assert!(inside(location.mapping_index, dictionary.mapping_table.len()) && !location.lines.is_empty());
            let lines = location.lines.iter();
            assert!(
                lines.map(|line| line.function_index).all(|at| at > 0 && inside(at, dictionary.function_table.len()))
            );
        }
        for function in dictionary.function_table.iter().skip(1) {
            assert!(function.name_strindex > 0 && inside(function.name_strindex, dictionary.string_table.len()));
        }
        let profiles = request.resource_profiles.iter().flat_map(|resource| &resource.scope_profiles[0].profiles);
        for sample in profiles.flat_map(|profile| &profile.samples) {
            assert!(inside(sample.stack_index, dictionary.stack_table.len()));
            assert!(sample.attribute_indices.iter().all(|at| inside(*at, dictionary.attribute_table.len())));
            assert_eq!(sample.values.len(), 1);
        }
    }

    #[test]
    fn containers_are_resources_and_no_value_is_lost() {
        let (request, profile) = (sent(), testing::profile());
        let texts = request.dictionary.clone().unwrap_or_default().string_table;
        let total = |of: &str| -> i64 {
            let profiles = request.resource_profiles.iter().flat_map(|resource| &resource.scope_profiles[0].profiles);
            let of = profiles
                .filter(|profile| profile.sample_type.is_some_and(|kind| texts[kind.type_strindex as usize] == of));
            of.flat_map(|profile| &profile.samples).flat_map(|sample| &sample.values).sum()
        };
        let samples: u64 = profile.on_cpu.iter().map(|sample| sample.count).sum();
        assert_eq!(total("cpu"), (samples * profile.settings.sample_period_ns()) as i64);
        let off_cpu_ns: f64 = profile.off_cpu.iter().map(|sample| sample.weight_ns).sum();
        assert!((total("off_cpu") as f64 - off_cpu_ns).abs() < 10.0);
        let attributes: BTreeMap<String, String> = request.resource_profiles[0]
            .resource
            .iter()
            .flat_map(|resource| &resource.attributes)
            .map(|pair| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => (pair.key.clone(), text.clone()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((attributes["host.name"].as_str(), attributes["team"].as_str()), ("node-1", "a"));
        assert!(attributes.contains_key("service.name") && attributes.values().all(|value| !value.is_empty()));
    }

    #[test]
    fn large_profiles_go_in_several_requests_that_hold_everything_together() {
        let mut profile = testing::profile();
        let samples = profile.on_cpu.clone();
        let most = REQUEST_SAMPLES / samples.len() + 1;
        profile.on_cpu = (0..most * 2).flat_map(|_| samples.clone()).collect();
        let requests: Vec<_> = requests(&profile, &Extra::default()).iter().map(decoded).collect();
        assert!(requests.len() > 1);
        let sent: usize = requests
            .iter()
            .flat_map(|request| &request.resource_profiles)
            .flat_map(|resource| &resource.scope_profiles[0].profiles)
            .map(|profile| profile.samples.len())
            .sum();
        assert_eq!(sent, profile.on_cpu.len() + profile.off_cpu.len());
    }

    #[test]
    fn what_a_server_rejected_is_read_and_nonsense_is_not() {
        let partial = ExportProfilesPartialSuccess { rejected_profiles: 3, error_message: "too\nold".to_owned() };
        let answer = ExportProfilesServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(rejected(&answer), Some((3, "tooold".to_owned())));
        assert_eq!(rejected(b""), None);
        assert_eq!(rejected(b"<html>"), None);
    }
}
