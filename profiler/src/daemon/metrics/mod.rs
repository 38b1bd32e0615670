//! Prometheus metrics. In: profiles, window by window, and what the daemon says of itself. Out: an answer to a scrape, in the
//! format that the scraper asked for.
//!
//! [`series`] adds windows up, [`own`] is about the profiler itself, both tell their figures to an [`Exposition`]; there is one
//! in [`text`] for the two text formats and one in [`protobuf`].

mod counts;
pub mod labels;
pub mod own;
pub mod protobuf;
pub mod series;
pub mod text;

use crate::profile::Histogram;

/// What a scraper can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Delimited `io.prometheus.client.MetricFamily` with native histograms.
    Protobuf,
    /// OpenMetrics 1.0 text.
    OpenMetrics,
    /// Text 0.0.4.
    Text,
}

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in seconds, in this project's buckets.
    Histogram,
}

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Full name; that of a counter ends in `_total`.
    pub name: &'static str,
    /// What it says, in a sentence without its full stop.
    pub help: &'static str,
    /// What its samples are.
    pub kind: Kind,
}

/// One figure.
#[derive(Debug, Clone, Copy)]
pub enum Value<'v> {
    /// Of a counter or gauge.
    Number(f64),
    /// Counts by bucket, and the sum in seconds.
    Histogram(&'v Histogram, f64),
}

/// Labels of one sample, in order.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// Writes families and their samples in some format.
pub trait Exposition {
    /// Begins a family; its samples follow.
    fn family(&mut self, family: Family);
    /// A sample of the family begun last. Labels without a value are left out.
    fn sample(&mut self, labels: Labels<'_>, value: Value<'_>);
}

impl Format {
    /// The format that an `Accept` header asks for, by its weights; text where it says nothing that is had.
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut family, mut delimited) = (1.0_f64, true, true);
            for parameter in parts {
                match parameter.split_once('=').map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))) {
                    Some(("q", value)) => weight = value.parse().unwrap_or(0.0),
                    Some(("proto", value)) => family = value == "io.prometheus.client.MetricFamily",
                    Some(("encoding", value)) => delimited = value == "delimited",
                    _ => {}
                }
            }
            let format = match kind.as_str() {
                "application/vnd.google.protobuf" if family && delimited => Self::Protobuf,
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" | "*/*" => Self::Text,
                _ => continue,
            };
            if weight > best.0 {
                best = (weight, format);
            }
        }
        best.1
    }

    /// What the answer's `Content-Type` says.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_like_best_of_what_there_is() {
        // What Prometheus 2.42 sends with and without native histograms.
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
                      application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::negotiate(native), Format::Protobuf);
        let text = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                    text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::negotiate(text), Format::OpenMetrics);
        for (accept, format) in [
            ("", Format::Text),
            ("text/html,*/*;q=0.8", Format::Text),
            ("application/vnd.google.protobuf;proto=other.Thing;encoding=delimited", Format::Text),
            ("application/vnd.google.protobuf;q=0", Format::Text),
            ("application/openmetrics-text;q=nonsense", Format::Text),
            (";;;,=,q=", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept}");
        }
    }
}
