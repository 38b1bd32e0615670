//! Arguments of a request. In: names and values as they came. Out: which containers, which stretch of time and how, or what is
//! wrong with them in a sentence.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{output::Kind, profile::Selection, quantity::parse_duration};

/// Longest pattern, and most stars in it: each star may be tried at every character.
const LONGEST_PATTERN: usize = 512;
const MOST_STARS: usize = 8;

/// Patterns of one request.
const MOST_PATTERNS: usize = 64;

/// The range where none is given, in nanoseconds.
const DEFAULT_RANGE_NS: u64 = 60_000_000_000;

/// Arguments that name containers.
pub const SELECTION: [&str; 3] = ["container", "pod", "namespace"];

/// Arguments that name a stretch of time.
pub const RANGE: [&str; 2] = ["from", "to"];

/// A stretch of time in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Start.
    pub from_unix_ns: u64,
    /// End.
    pub to_unix_ns: u64,
}

/// The arguments of one request, each known to its route.
#[derive(Debug, Clone)]
pub struct Query {
    pairs: Vec<(String, String)>,
    now_unix_ns: u64,
}

impl Query {
    /// Takes the arguments; one that is not among `known` is refused, so that a slip of the pen is not taken for everything.
    pub fn new(pairs: Vec<(String, String)>, known: &[&str], now_unix_ns: u64) -> Result<Self, String> {
        for (position, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(format!("there is no argument `{}` here; there are {}", shown(name), known.join(", ")));
            }
            let again = pairs.iter().take(position).any(|(other, _)| other == name);
            if again && !SELECTION.contains(&name.as_str()) {
                return Err(format!("`{name}` is given twice"));
            }
        }
        Ok(Self { pairs, now_unix_ns })
    }

    /// The value of an argument; an empty one counts as not given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// `true`, `1`, `false` or `0`.
    pub fn switch(&self, name: &str) -> Result<bool, String> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(format!("`{}` for {name} is neither true nor false", shown(other))),
        }
    }

    /// A number between two others.
    pub fn number(&self, name: &str, default: f64, least: f64, most: f64) -> Result<f64, String> {
        let Some(text) = self.text(name) else { return Ok(default) };
        match text.parse::<f64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!("`{}` for {name} is no number between {least} and {most}", shown(text))),
        }
    }

    /// The containers meant.
    pub fn selection(&self) -> Result<Selection, String> {
        let patterns = |name: &str| -> Result<Vec<String>, String> {
            let values = self.pairs.iter().filter(|(key, _)| key == name).flat_map(|(_, value)| value.split(','));
            let patterns: Vec<String> = values.filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect();
            if patterns.len() > MOST_PATTERNS {
                return Err(format!("{} patterns for {name}; {MOST_PATTERNS} at most", patterns.len()));
            }
            for pattern in &patterns {
                check_pattern(name, pattern)?;
            }
            Ok(patterns)
        };
        Ok(Selection { containers: patterns("container")?, pods: patterns("pod")?, namespaces: patterns("namespace")? })
    }

    /// The kind of stacks, if one is named.
    pub fn kind(&self) -> Result<Option<Kind>, String> {
        match self.text("kind") {
            None => Ok(None),
            Some("cpu") => Ok(Some(Kind::Cpu)),
            Some("offcpu") => Ok(Some(Kind::OffCpu)),
            Some("wall") => Ok(Some(Kind::Wall)),
            Some(other) => Err(format!("`{}` is no kind of stacks; there are cpu, offcpu and wall", shown(other))),
        }
    }

    /// The stretch of time between `from` and `to`; the last minute where nothing is said.
    pub fn range(&self) -> Result<Range, String> {
        let range = self.range_between("from", "to")?;
        let to_unix_ns = self.now_unix_ns;
        Ok(range.unwrap_or(Range { from_unix_ns: to_unix_ns.saturating_sub(DEFAULT_RANGE_NS), to_unix_ns }))
    }

    /// The stretch of time to compare with, if one is named.
    pub fn base_range(&self) -> Result<Option<Range>, String> {
        self.range_between("base_from", "base_to")
    }

    fn range_between(&self, from: &str, to: &str) -> Result<Option<Range>, String> {
        if self.text(from).is_none() && self.text(to).is_none() {
            return Ok(None);
        }
        let moment = |name| self.text(name).map(|text| self.moment(name, text)).transpose();
        let to_unix_ns = moment(to)?.unwrap_or(self.now_unix_ns);
        let from_unix_ns = moment(from)?.unwrap_or(to_unix_ns.saturating_sub(DEFAULT_RANGE_NS));
        if from_unix_ns >= to_unix_ns {
            return Err(format!("{from} is not before {to}"));
        }
        Ok(Some(Range { from_unix_ns, to_unix_ns }))
    }

    fn moment(&self, name: &str, text: &str) -> Result<u64, String> {
        let wrong = || {
            format!(
                "`{}` for {name} is no time; write 2026-01-02T03:04:05Z, seconds since the epoch, or -5m",
                shown(text)
            )
        };
        if text == "now" {
            return Ok(self.now_unix_ns);
        }
        if let Some(ago) = text.strip_prefix('-') {
            let ago = parse_duration(ago).map_err(|_| wrong())?;
            return Ok(self.now_unix_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)));
        }
        if let Ok(seconds) = text.parse::<f64>() {
            return if (0.0..1e10).contains(&seconds) { Ok((seconds * 1e9) as u64) } else { Err(wrong()) };
        }
        // A plus in a query is a space where nobody escaped it.
        let moment = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).map_err(|_| wrong())?;
        u64::try_from(moment.unix_timestamp_nanos()).map_err(|_| wrong())
    }
}

fn check_pattern(name: &str, pattern: &str) -> Result<(), String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!("a pattern for {name} has {} characters; {LONGEST_PATTERN} at most", pattern.len()));
    }
    if pattern.matches('*').count() > MOST_STARS {
        return Err(format!("`{}` for {name} has more than {MOST_STARS} stars", shown(pattern)));
    }
    match glob::Pattern::new(pattern) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`{}` for {name} is no pattern: {error}", shown(pattern))),
    }
}

/// The beginning of what a stranger wrote, without anything that would break a line.
fn shown(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000_000_000;
    const ALL: [&str; 8] = ["container", "pod", "namespace", "kind", "from", "to", "base_from", "base_to"];

    fn query(pairs: &[(&str, &str)]) -> Result<Query, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Query::new(pairs, &ALL, NOW)
    }

    fn range(pairs: &[(&str, &str)]) -> Result<(u64, u64), String> {
        query(pairs)?.range().map(|range| (range.from_unix_ns, range.to_unix_ns))
    }

    #[test]
    fn times_are_dates_seconds_or_ago() {
        let minute = 60_000_000_000;
        assert_eq!(range(&[]), Ok((NOW - minute, NOW)));
        assert_eq!(range(&[("from", "-5m")]), Ok((NOW - 5 * minute, NOW)));
        assert_eq!(range(&[("to", "-5m")]), Ok((NOW - 6 * minute, NOW - 5 * minute)));
        let date = "2027-01-15T08:00:00Z";
        assert_eq!(range(&[("from", "2027-01-15T07:59:00+00:00"), ("to", date)]), Ok((NOW - minute, NOW)));
        assert_eq!(range(&[("from", "2027-01-15T07:59:00 00:00"), ("to", "now")]), Ok((NOW - minute, NOW)));
        assert_eq!(range(&[("from", "1799999940"), ("to", "1800000000.0")]), Ok((NOW - minute, NOW)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (name, value, reason) in [
            ("from", "yesterday", "is no time"),
            ("from", "-5 parsecs", "is no time"),
            ("from", "1e300", "is no time"),
            ("from", "NaN", "is no time"),
            ("from", "-0s", "is no time"),
            ("to", "1", "is not before"),
            ("from", "9999-12-31T23:59:59Z", "is no time"),
        ] {
            let pairs = if name == "to" { vec![("from", "-5m"), (name, value)] } else { vec![(name, value)] };
            assert!(range(&pairs).is_err_and(|error| error.contains(reason)), "{value}");
        }
        assert!(query(&[("contianer", "x")]).is_err_and(|error| error.contains("contianer") && error.contains("pod")));
        assert!(query(&[("from", "-5m"), ("from", "-6m")]).is_err_and(|error| error.contains("twice")));
        let kind = query(&[("kind", "gpu")]).and_then(|query| query.kind().map(|_| ()));
        assert!(kind.is_err_and(|error| error.contains("offcpu")));
        let stars = "*a".repeat(9);
        for pattern in ["[", "a**b", stars.as_str(), "x".repeat(600).as_str()] {
            assert!(query(&[("pod", pattern)]).and_then(|query| query.selection()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_may_be_repeated_or_separated_by_commas() {
        let selection = query(&[("container", "a,b"), ("container", "c*"), ("pod", "")]).and_then(|q| q.selection());
        assert_eq!(selection.map(|s| (s.containers, s.pods)), Ok((vec!["a".into(), "b".into(), "c*".into()], vec![])));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken_or_refused_and_never_panics(
            name in prop::sample::select(ALL.to_vec()),
            value in "\\PC{0,40}|-?[0-9]{1,12}[smhdu.e+]{0,3}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{0,12}[Z+]?",
        ) {
            if let Ok(query) = query(&[(name, &value)]) {
                drop((query.range(), query.base_range(), query.selection(), query.kind()));
            }
        }
    }
}
