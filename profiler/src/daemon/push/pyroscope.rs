//! Pyroscope's push API. In: a profile. Out: `push.v1.PushRequest`s, with a series for each container.
//!
//! The messages are written by hand from the public `push.proto`. Pyroscope makes a series of its own of each combination of
//! labels inside a pprof profile. So of the labels that our pprof has elsewhere only the reason of a wait stays: the container's
//! are the series' own, the process becomes the outermost frame, and threads are added up.

use std::{collections::BTreeMap, io::Write};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use rustc_hash::FxHashMap;

use super::{backoff::random_id, otlp::Extra};
use crate::{
    output::{Scope, WriteOptions, pprof},
    profile::{Container, ContainerIndex, Profile, Selected},
};

/// Bytes of profiles after which another request is begun.
const REQUEST_BYTES: usize = 1 << 20;

/// Requests that bring a profile.
pub fn requests(profile: &Profile, extra: &Extra) -> Vec<Bytes> {
    let options = WriteOptions::default();
    let mut requests = Vec::new();
    let (mut request, mut bytes) = (proto::PushRequest::default(), 0);
    for (index, container) in profile.containers.iter().enumerate() {
        let selected = Selected::one(ContainerIndex(index as u32));
        let mut whole = pprof::build(&Scope { profile, selected, options: &options });
        if whole.sample.is_empty() {
            continue;
        }
        simplify(&mut whole);
        let raw_profile = compressed(&whole.encode_to_vec());
        bytes += raw_profile.len();
        request.series.push(proto::RawProfileSeries {
            labels: labels(container, extra),
            samples: vec![proto::RawSample { raw_profile, id: hex(random_id()) }],
        });
        if bytes >= REQUEST_BYTES {
            requests.push(std::mem::take(&mut request).encode_to_vec().into());
            bytes = 0;
        }
    }
    if !request.series.is_empty() {
        requests.push(request.encode_to_vec().into());
    }
    requests
}

/// The labels of a container's series, sorted by name. Pyroscope joins the first with the types inside to
/// `process_cpu:cpu:nanoseconds:cpu:nanoseconds` and the like, as for profiles that it pulls.
fn labels(container: &Container, extra: &Extra) -> Vec<proto::LabelPair> {
    let own = container.label();
    let service = match &container.namespace {
        Some(namespace) => format!("{namespace}/{own}"),
        None => container.name.clone(),
    };
    let mut labels: BTreeMap<&str, &str> =
        extra.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    labels.extend([
        ("__name__", "process_cpu"),
        ("service_name", &service),
        ("container", own),
        ("node", &extra.node),
        ("namespace", container.namespace.as_deref().unwrap_or_default()),
        ("pod", container.pod.as_deref().unwrap_or_default()),
    ]);
    let pair = |(name, value): (&str, &str)| proto::LabelPair { name: name.to_owned(), value: value.to_owned() };
    labels.into_iter().filter(|(_, value)| !value.is_empty()).map(pair).collect()
}

/// A stack with the reason it waited for, and what is said of it.
type Sums = BTreeMap<(Vec<u64>, Option<i64>), (Vec<i64>, Vec<pprof::proto::Label>)>;

/// Puts the process below each stack and leaves of the labels the reason; what is then the same is added up.
fn simplify(profile: &mut pprof::proto::Profile) {
    let key = |name: &str| profile.string_table.iter().position(|text| text == name).map(|at| at as i64);
    let (process, reason) = (key("process"), key("reason"));
    let mut roots: FxHashMap<i64, u64> = FxHashMap::default();
    let mut sums = Sums::new();
    for mut sample in std::mem::take(&mut profile.sample) {
        let labelled = |key: Option<i64>| sample.label.iter().find(|label| Some(label.key) == key).copied();
        let (of, why) = (labelled(process), labelled(reason));
        if let Some(command) = of {
            let root = *roots.entry(command.str).or_insert_with(|| root(profile, command.str));
            sample.location_id.push(root);
        }
        let sum = sums
            .entry((sample.location_id, why.map(|label| label.str)))
            .or_insert_with(|| (vec![0; sample.value.len()], why.into_iter().collect()));
        for (sum, value) in sum.0.iter_mut().zip(&sample.value) {
            *sum = sum.saturating_add(*value);
        }
    }
    profile.sample = sums
        .into_iter()
        .map(|((location_id, _), (value, label))| pprof::proto::Sample { location_id, value, label })
        .collect();
}

/// A place that stands for a process.
fn root(profile: &mut pprof::proto::Profile, name: i64) -> u64 {
    let function_id = profile.function.len() as u64 + 1;
    profile.function.push(pprof::proto::Function { id: function_id, name, system_name: name, filename: 0 });
    let id = profile.location.len() as u64 + 1;
    let line = vec![pprof::proto::Line { function_id, line: 0 }];
    profile.location.push(pprof::proto::Location { id, mapping_id: 0, line });
    id
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Into memory: neither can fail, and what there is would be refused and said.
    encoder.write_all(bytes).ok();
    encoder.finish().unwrap_or_default()
}

fn hex(bytes: [u8; 16]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // As a UUID is written.
    let parts = [0..4, 4..6, 6..8, 8..10, 10..16];
    parts.map(|part| digits.get(part).unwrap_or_default().concat()).join("-")
}

/// The messages of `push.proto`.
pub mod proto {
    /// Series of profiles.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PushRequest {
        /// The series.
        #[prost(message, repeated, tag = "1")]
        pub series: Vec<RawProfileSeries>,
    }

    /// Profiles of one container.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RawProfileSeries {
        /// Whose.
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<LabelPair>,
        /// The profiles.
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<RawSample>,
    }

    /// A label.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct LabelPair {
        /// Its name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Its value.
        #[prost(string, tag = "2")]
        pub value: String,
    }

    /// A profile.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct RawSample {
        /// Gzipped pprof.
        #[prost(bytes = "vec", tag = "1")]
        pub raw_profile: Vec<u8>,
        /// A name that no other profile has.
        #[prost(string, tag = "2")]
        pub id: String,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::profile::testing;

    fn decoded(requests: &[Bytes]) -> Vec<(BTreeMap<String, String>, pprof::proto::Profile)> {
        let series = requests
            .iter()
            .flat_map(|body| proto::PushRequest::decode(body.clone()).unwrap_or_else(|error| panic!("{error}")).series);
        series
            .map(|series| {
                let labels = series.labels.into_iter().map(|pair| (pair.name, pair.value)).collect();
                let mut bytes = Vec::new();
                let read = flate2::read::GzDecoder::new(&*series.samples[0].raw_profile).read_to_end(&mut bytes);
                assert!(read.is_ok() && series.samples.len() == 1);
                (labels, pprof::proto::Profile::decode(&*bytes).unwrap_or_else(|error| panic!("{error}")))
            })
            .collect()
    }

    #[test]
    fn every_container_is_a_series_and_no_value_is_lost() {
        let profile = testing::profile();
        let extra = Extra { node: "node-1".to_owned(), labels: [("cluster".to_owned(), "a".to_owned())].into() };
        let series = decoded(&requests(&profile, &extra));
        assert!(series.len() > 1);
        let (labels, _) = &series[0];
        assert_eq!(labels["__name__"], "process_cpu");
        assert_eq!((labels["cluster"].as_str(), labels["node"].as_str()), ("a", "node-1"));
        let total = |at: usize| -> i64 {
            series.iter().flat_map(|(_, profile)| &profile.sample).map(|sample| sample.value[at]).sum()
        };
        let samples: u64 = profile.on_cpu.iter().map(|sample| sample.count).sum();
        assert_eq!(total(0), samples as i64);
        assert_eq!(total(1), (samples * profile.settings.sample_period_ns()) as i64);
        let off_cpu_ns: f64 = profile.off_cpu.iter().map(|sample| sample.weight_ns).sum();
        assert!((total(3) as f64 - off_cpu_ns).abs() < 10.0);
    }

    #[test]
    fn samples_carry_no_label_but_the_reason_and_the_process_is_the_outermost_frame() {
        let profile = testing::profile();
        let commands: Vec<&str> =
            profile.processes.iter().map(|process| profile.stacks.text_of(process.command)).collect();
        for (_, pprof) in decoded(&requests(&profile, &Extra::default())) {
            let text = |at: i64| pprof.string_table[at as usize].as_str();
            for sample in &pprof.sample {
                assert!(sample.label.iter().all(|label| text(label.key) == "reason"));
                let root = sample.location_id.last().map(|id| &pprof.location[*id as usize - 1]);
                let function = root.map(|root| &pprof.function[root.line[0].function_id as usize - 1]);
                assert!(function.is_some_and(|function| commands.contains(&text(function.name))));
            }
            let mut keys: Vec<_> = pprof.sample.iter().map(|sample| (&sample.location_id, &sample.label)).collect();
            keys.dedup();
            assert_eq!(keys.len(), pprof.sample.len(), "what is the same is added up");
        }
    }

    #[test]
    fn ids_look_like_uuids() {
        assert_eq!(hex([0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }
}
