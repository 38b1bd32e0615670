//! The two text formats: Prometheus' 0.0.4 and OpenMetrics 1.0. In: families and samples. Out: text.
//!
//! Histograms carry one bucket for every two octaves: text has a line a bucket, and a scrape of it should stay small.

use std::fmt::Write;

use super::{Exposition, Family, Format, Kind, Labels, Value};

/// Bounds of the buckets: from 2^-20 (0.95 µs) to 2^4 (16 s), every two octaves.
const OCTAVES: std::ops::RangeInclusive<i32> = -20..=4;

/// Lines that one histogram takes.
pub const HISTOGRAM_LINES: usize = 16;

/// Writes text.
#[derive(Debug)]
pub struct Text {
    format: Format,
    family: Family,
    written: String,
}

impl Text {
    /// Empty; `format` is one of the two text formats.
    pub fn new(format: Format) -> Self {
        let family = Family { name: "", help: "", kind: Kind::Gauge };
        Self { format, family, written: String::new() }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.written.push_str("# EOF\n");
        }
        self.written
    }

    /// `suffix` goes behind the family's name, `more` behind the labels.
    fn line(&mut self, suffix: &str, labels: Labels<'_>, more: Option<(&str, &str)>, value: f64) {
        self.written.push_str(self.family.name);
        self.written.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(more).filter(|(_, value)| !value.is_empty()) {
            self.written.push(separator);
            self.written.push_str(name);
            self.written.push_str("=\"");
            escape(value, &mut self.written);
            self.written.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.written.push('}');
        }
        // Writing to a string cannot fail.
        writeln!(self.written, " {value}").ok();
    }
}

impl Exposition for Text {
    fn family(&mut self, family: Family) {
        self.family = family;
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // OpenMetrics names a counter's family without its suffix.
        let name = match self.format {
            Format::OpenMetrics => family.name.strip_suffix("_total").unwrap_or(family.name),
            Format::Text | Format::Protobuf => family.name,
        };
        // Writing to a string cannot fail.
        writeln!(self.written, "# HELP {name} {}.\n# TYPE {name} {kind}", family.help).ok();
    }

    fn sample(&mut self, labels: Labels<'_>, value: Value<'_>) {
        match value {
            Value::Number(number) => self.line("", labels, None, number),
            Value::Histogram(histogram, sum) => {
                let mut buckets = histogram.buckets().peekable();
                let mut cumulated: u64 = 0;
                for octave in OCTAVES.step_by(2) {
                    let upto = (octave - profiler_ebpf::histogram::FIRST_OCTAVE).max(0) as usize * 4;
                    while let Some((_, count)) = buckets.next_if(|(index, _)| *index < upto) {
                        cumulated += count;
                    }
                    let bound = f64::from(octave).exp2().to_string();
                    self.line("_bucket", labels, Some(("le", &bound)), cumulated as f64);
                }
                let count = histogram.count() as f64;
                self.line("_bucket", labels, Some(("le", "+Inf")), count);
                self.line("_sum", labels, None, sum);
                self.line("_count", labels, None, count);
            }
        }
    }
}

fn escape(value: &str, into: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Histogram;

    fn written(format: Format) -> String {
        let mut text = Text::new(format);
        text.family(Family { name: "calls_total", help: "Calls", kind: Kind::Counter });
        text.sample(&[("container", "a\"b\\c\nd"), ("pod", "")], Value::Number(3.5));
        text.sample(&[], Value::Number(2.0));
        text.family(Family { name: "wait_seconds", help: "Waits", kind: Kind::Histogram });
        let mut histogram = Histogram::default();
        for ns in [500, 1_000_000, 1_000_000, 90_000_000_000] {
            histogram.record(ns);
        }
        text.sample(&[("container", "x")], Value::Histogram(&histogram, 90.002));
        text.finish()
    }

    #[test]
    fn labels_are_escaped_and_empty_ones_left_out() {
        let text = written(Format::Text);
        assert!(text.contains("# TYPE calls_total counter\n"), "{text}");
        assert!(text.contains("calls_total{container=\"a\\\"b\\\\c\\nd\"} 3.5\n"), "{text}");
        assert!(text.contains("calls_total 2\n"), "{text}");
    }

    #[test]
    fn openmetrics_names_families_without_suffix_and_ends_with_eof() {
        let text = written(Format::OpenMetrics);
        assert!(text.contains("# TYPE calls counter\n") && text.contains("calls_total 2\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn buckets_add_up_to_the_count() {
        let text = written(Format::Text);
        let bucket = |bound: &str| format!("wait_seconds_bucket{{container=\"x\",le=\"{bound}\"}}");
        assert!(text.contains(&(bucket("0.00000095367431640625") + " 1\n")), "{text}");
        assert!(text.contains(&(bucket("0.00390625") + " 3\n")), "{text}");
        assert!(text.contains(&(bucket("16") + " 3\n")), "{text}");
        assert!(text.contains(&(bucket("+Inf") + " 4\n")), "{text}");
        assert!(text.contains("wait_seconds_sum{container=\"x\"} 90.002\n"), "{text}");
        let lines = text.lines().filter(|line| line.starts_with("wait_seconds")).count();
        assert_eq!(lines, HISTOGRAM_LINES);
    }
}
