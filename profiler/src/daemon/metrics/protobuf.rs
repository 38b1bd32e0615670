//! Prometheus' protobuf format with native histograms. In: families and samples. Out: length-delimited messages.
//!
//! The messages are those of `io.prometheus.client` (<https://github.com/prometheus/client_model>, `metrics.proto`), of which
//! only the fields in use are declared. Histograms are native at schema 2: bucket n holds (2^((n-1)/4), 2^(n/4)] seconds, which
//! are the buckets that the kernel programs count in, so that nothing is lost on the way.

use prost::Message;

use super::{Exposition, Family, Kind, Labels, Value};
use crate::profile::Histogram;

/// Bucket 0 of this project ends at 2^(1/4 - 30) seconds, which is Prometheus' bucket -119.
const FIRST_BUCKET: i32 = 4 * profiler_ebpf::histogram::FIRST_OCTAVE + 1;

/// Everything up to this counts as zero: 2^-128, as Prometheus' own client has it. It also marks a histogram as native where
/// it is empty.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// The longest gap of empty buckets that is written out as zeros: a new span costs more.
const LONGEST_GAP: usize = 2;

/// Writes messages.
#[derive(Debug, Default)]
pub struct Protobuf {
    bytes: Vec<u8>,
    family: Option<proto::MetricFamily>,
}

impl Protobuf {
    /// All messages.
    pub fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }

    /// A family without samples is left out.
    fn flush(&mut self) {
        if let Some(family) = self.family.take().filter(|family| !family.metric.is_empty()) {
            self.bytes.extend(family.encode_length_delimited_to_vec());
        }
    }
}

impl Exposition for Protobuf {
    fn family(&mut self, family: Family) {
        self.flush();
        let kind = match family.kind {
            Kind::Counter => proto::COUNTER,
            Kind::Gauge => proto::GAUGE,
            Kind::Histogram => proto::HISTOGRAM,
        };
        self.family = Some(proto::MetricFamily {
            name: family.name.to_owned(),
            help: format!("{}.", family.help),
            kind,
            metric: Vec::new(),
        });
    }

    fn sample(&mut self, labels: Labels<'_>, value: Value<'_>) {
        let Some(family) = &mut self.family else { return };
        let mut metric = proto::Metric {
            label: labels
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| proto::LabelPair { name: (*name).to_owned(), value: (*value).to_owned() })
                .collect(),
            ..proto::Metric::default()
        };
        match value {
            Value::Number(value) if family.kind == proto::COUNTER => metric.counter = Some(proto::Number { value }),
            Value::Number(value) => metric.gauge = Some(proto::Number { value }),
            Value::Histogram(histogram, sum) => metric.histogram = Some(native(histogram, sum)),
        }
        family.metric.push(metric);
    }
}

fn native(counted: &Histogram, sum: f64) -> proto::Histogram {
    let mut histogram = proto::Histogram {
        sample_count: counted.count(),
        sample_sum: sum,
        schema: 2,
        zero_threshold: ZERO_THRESHOLD,
        ..proto::Histogram::default()
    };
    let mut previous = 0;
    // The bucket behind the last span.
    let mut next = 0;
    for (index, count) in counted.buckets() {
        match histogram.positive_span.last_mut() {
            Some(span) if index - next <= LONGEST_GAP => {
                for _ in next..index {
                    histogram.positive_delta.push(-previous);
                    previous = 0;
                    span.length += 1;
                }
                span.length += 1;
            }
            last => {
                // The first span's offset is the index itself, the others' the gap before them.
                let offset = if last.is_none() { index as i32 + FIRST_BUCKET } else { (index - next) as i32 };
                histogram.positive_span.push(proto::BucketSpan { offset, length: 1 });
            }
        }
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        histogram.positive_delta.push(count - previous);
        previous = count;
        next = index + 1;
    }
    histogram
}

/// The messages.
#[expect(missing_docs, reason = "the names are those of metrics.proto, where they are documented")]
pub mod proto {
    /// `MetricType.COUNTER`
    pub const COUNTER: i32 = 0;
    /// `MetricType.GAUGE`
    pub const GAUGE: i32 = 1;
    /// `MetricType.HISTOGRAM`
    pub const HISTOGRAM: i32 = 4;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LabelPair {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    /// `Gauge` and `Counter`
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Number {
        #[prost(double, tag = "1")]
        pub value: f64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct BucketSpan {
        #[prost(sint32, tag = "1")]
        pub offset: i32,
        #[prost(uint32, tag = "2")]
        pub length: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Histogram {
        #[prost(uint64, tag = "1")]
        pub sample_count: u64,
        #[prost(double, tag = "2")]
        pub sample_sum: f64,
        #[prost(sint32, tag = "5")]
        pub schema: i32,
        #[prost(double, tag = "6")]
        pub zero_threshold: f64,
        #[prost(uint64, tag = "7")]
        pub zero_count: u64,
        #[prost(message, repeated, tag = "12")]
        pub positive_span: Vec<BucketSpan>,
        #[prost(sint64, repeated, tag = "13")]
        pub positive_delta: Vec<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<LabelPair>,
        #[prost(message, optional, tag = "2")]
        pub gauge: Option<Number>,
        #[prost(message, optional, tag = "3")]
        pub counter: Option<Number>,
        #[prost(message, optional, tag = "7")]
        pub histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricFamily {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub help: String,
        #[prost(int32, tag = "3")]
        pub kind: i32,
        #[prost(message, repeated, tag = "4")]
        pub metric: Vec<Metric>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::bucket_upper_ns;

    /// Counts by Prometheus' bucket number, as a reader takes them from spans and deltas.
    fn read(histogram: &proto::Histogram) -> Vec<(i32, i64)> {
        let (mut bucket, mut count) = (0, 0);
        let mut deltas = histogram.positive_delta.iter();
        let mut all = Vec::new();
        for span in &histogram.positive_span {
            bucket += span.offset;
            for _ in 0..span.length {
                count += deltas.next().copied().unwrap_or_default();
                all.push((bucket, count));
                bucket += 1;
            }
        }
        assert!(deltas.next().is_none(), "every delta lies in a span");
        all
    }

    #[test]
    fn native_buckets_hold_what_the_kernel_counted_under_the_same_bounds() {
        let mut counts = vec![0; 140];
        for (index, count) in [(40, 7), (41, 2), (44, 9), (60, 1), (139, 3)] {
            counts[index] = count;
        }
        let histogram = native(&Histogram::from_counts(counts.iter().copied()), 1.5);
        assert_eq!((histogram.sample_count, histogram.schema), (22, 2));
        for (bucket, count) in read(&histogram).into_iter().filter(|(_, count)| *count > 0) {
            let upper_s = (f64::from(bucket) / 4.0).exp2();
            let index = counts.iter().enumerate().position(|(index, there)| {
                *there == count as u64 && (bucket_upper_ns(index) / 1e9 / upper_s - 1.0).abs() < 1e-9
            });
            assert!(index.is_some(), "bucket {bucket} with {count}");
        }
        assert_eq!(histogram.positive_span.len(), 3, "short gaps are written out");
    }

    #[test]
    fn an_empty_histogram_is_native_all_the_same() {
        let histogram = native(&Histogram::default(), 0.0);
        assert!(histogram.zero_threshold > 0.0 && histogram.positive_span.is_empty());
    }

    #[test]
    fn messages_are_read_back_whole() {
        let mut writer = Protobuf::default();
        writer.family(Family { name: "a_total", help: "A", kind: Kind::Counter });
        writer.sample(&[("x", "1"), ("empty", "")], Value::Number(5.0));
        writer.family(Family { name: "nothing", help: "No samples", kind: Kind::Gauge });
        writer.family(Family { name: "b", help: "B", kind: Kind::Gauge });
        writer.sample(&[], Value::Number(-1.0));
        let bytes = writer.finish();
        let mut rest = bytes.as_slice();
        let mut names = Vec::new();
        while !rest.is_empty() {
            let family = proto::MetricFamily::decode_length_delimited(&mut rest).unwrap_or_default();
            assert_eq!(family.metric.len(), 1);
            assert!(family.metric[0].label.len() <= 1);
            names.push(family.name);
        }
        assert_eq!(names, ["a_total", "b"]);
    }
}
