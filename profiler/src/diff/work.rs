//! How much work was done, and how long it took. In: a load tool's own file. Out: requests and latency percentiles.
//!
//! Read are Locust's `_stats.csv` and `--json`, and JMeter's JTL as CSV or XML; which it is, its first line tells.

use std::path::{Path, PathBuf};

/// Work done while recording.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    /// Pieces of work that were done.
    pub done: f64,
    /// Those of them that failed.
    pub failed: f64,
    /// Latencies in milliseconds by percentile, rising: `(95.0, 87.0)`.
    pub percentiles_ms: Vec<(f64, f64)>,
}

/// Why a file says nothing of work.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is none of the known formats, or says nothing.
    #[error(
        "{} is no Locust _stats.csv or --json and no JMeter JTL that could be read: {why}; give the number itself (--work-a 12000)",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
}

/// The largest file that is read: a JTL of a million requests has about 100 MB.
const MOST_BYTES: u64 = 1 << 30;

/// The percentiles that a list of latencies is reduced to.
const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9];

impl Work {
    /// A number, or what a file says.
    pub fn parse(text: &str) -> Result<Self, WorkError> {
        if let Ok(done) = text.parse::<f64>()
            && done.is_finite()
            && done > 0.0
        {
            return Ok(Self { done, ..Self::default() });
        }
        let path = Path::new(text);
        let unreadable = |error| WorkError::Unreadable { path: path.to_owned(), error };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        let unknown = |why: String| WorkError::Unknown { path: path.to_owned(), why };
        if length > MOST_BYTES {
            return Err(unknown(format!("it has {length} bytes, more than {MOST_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        Self::read(&String::from_utf8_lossy(&bytes)).map_err(unknown)
    }

    /// From the text of a file.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let work = if text.starts_with('[') || text.starts_with('{') {
            locust_json(text)?
        } else if text.starts_with('<') {
            jmeter_xml(text)?
        } else {
            csv(text)?
        };
        if work.done > 0.0 { Ok(work) } else { Err("it counts no request".to_owned()) }
    }

    /// A latency percentile in milliseconds.
    pub fn percentile_ms(&self, percentile: f64) -> Option<f64> {
        self.percentiles_ms.iter().find(|(p, _)| (p - percentile).abs() < 1e-9).map(|(_, ms)| *ms)
    }

    fn of_latencies(mut latencies: Vec<f64>, failed: f64) -> Self {
        latencies.retain(|ms| ms.is_finite());
        latencies.sort_by(f64::total_cmp);
        let at = |p: f64| {
            // Nearest rank: the smallest latency that p per cent of all do not exceed.
            let rank = (p / 100.0 * latencies.len() as f64).ceil().max(1.0) as usize;
            latencies.get(rank - 1).map(|ms| (p, *ms))
        };
        Self { done: latencies.len() as f64, failed, percentiles_ms: PERCENTILES.into_iter().filter_map(at).collect() }
    }
}

fn csv(text: &str) -> Result<Work, String> {
    let mut rows = rows(text);
    let header = rows.next().ok_or("it is empty")?;
    let column = |name: &str| header.iter().position(|heading| heading.trim() == name);
    if let (Some(count), Some(name)) = (column("Request Count"), column("Name")) {
        let failures = column("Failure Count");
        let total = rows.find(|row| row.get(name).is_some_and(|name| name == "Aggregated"));
        let total = total.ok_or("it has no row 'Aggregated'; was Locust still running?")?;
        let number =
            |at: usize| total.get(at).and_then(|cell| cell.trim().parse::<f64>().ok()).filter(|n| n.is_finite());
        let percentiles = header.iter().enumerate().filter_map(|(at, heading)| {
            let percentile: f64 = heading.trim().strip_suffix('%')?.parse().ok()?;
            Some((percentile, number(at)?))
        });
        return Ok(Work {
            done: number(count).ok_or("its 'Request Count' is no number")?,
            failed: failures.and_then(number).unwrap_or(0.0),
            percentiles_ms: percentiles.collect(),
        });
    }
    let elapsed = column("elapsed").ok_or("its first line names neither 'Request Count' nor 'elapsed'")?;
    let success = column("success");
    let (mut latencies, mut failed) = (Vec::new(), 0.0);
    for row in rows {
        let Some(ms) = row.get(elapsed).and_then(|cell| cell.trim().parse::<f64>().ok()) else { continue };
        latencies.push(ms);
        failed += f64::from(u8::from(success.and_then(|at| row.get(at)).is_some_and(|cell| cell.trim() == "false")));
    }
    Ok(Work::of_latencies(latencies, failed))
}

/// Rows of a CSV file, quotes and line ends inside them understood.
fn rows(text: &str) -> impl Iterator<Item = Vec<String>> {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        chars.peek()?;
        let (mut row, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    cell.push('"');
                    chars.next();
                }
                '"' => quoted = !quoted,
                ',' if !quoted => row.push(std::mem::take(&mut cell)),
                '\r' if !quoted => {}
                '\n' if !quoted => break,
                c => cell.push(c),
            }
        }
        row.push(cell);
        Some(row)
    })
}

fn locust_json(text: &str) -> Result<Work, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let entries = value.as_array().or_else(|| value.get("stats").and_then(|stats| stats.as_array()));
    let entries = entries.ok_or("it holds no list of requests")?;
    let (mut done, mut failed, mut times) = (0.0, 0.0, Vec::new());
    for entry in entries.iter().filter(|entry| entry.get("name").and_then(|name| name.as_str()) != Some("Aggregated")) {
        let number = |name: &str| entry.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        done += number("num_requests");
        failed += number("num_failures");
        for (ms, count) in entry.get("response_times").and_then(|times| times.as_object()).into_iter().flatten() {
            if let (Ok(ms), Some(count)) = (ms.parse::<f64>(), count.as_u64()) {
                times.push((ms, count));
            }
        }
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: u64 = times.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count));
    let at = |p: f64| {
        let rank = ((p / 100.0 * all as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let holds = |(ms, count): &(f64, u64)| {
            seen = seen.saturating_add(*count);
            (seen >= rank).then_some((p, *ms))
        };
        times.iter().find_map(holds)
    };
    Ok(Work { done, failed, percentiles_ms: PERCENTILES.into_iter().filter_map(at).collect() })
}

fn jmeter_xml(text: &str) -> Result<Work, String> {
    let (mut latencies, mut failed, mut depth) = (Vec::new(), 0.0, 0_usize);
    for tag in text.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else { continue };
        let sample = |tag: &str| tag.starts_with("httpSample") || tag.starts_with("sample");
        if tag.strip_prefix('/').is_some_and(sample) {
            depth = depth.saturating_sub(1);
        } else if sample(tag) {
            // Samples inside samples are their parts: redirects, embedded resources.
            if depth == 0 {
                let attribute =
                    |name: &str| tag.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split('"').next());
                if let Some(ms) = attribute("t").and_then(|t| t.parse::<f64>().ok()) {
                    latencies.push(ms);
                    failed += f64::from(u8::from(attribute("s") == Some("false")));
                }
            }
            depth += usize::from(!tag.ends_with('/'));
        }
    }
    if latencies.is_empty() { Err("it has no samples".to_owned()) } else { Ok(Work::of_latencies(latencies, failed)) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_work_itself() {
        assert_eq!(Work::parse("12000").map(|work| work.done).ok(), Some(12_000.0));
        for wrong in ["-3", "0", "inf", "/nowhere"] {
            assert!(Work::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn locusts_csv_gives_the_aggregated_row() {
        let text = "Type,Name,Request Count,Failure Count,Median Response Time,50%,95%,99%,100%\n\
                    GET,\"/a,b\",3,0,5,5,9,9,9\n,Aggregated,1200,7,12,12,80,140,310\n";
        let work = Work::read(text).unwrap();
        assert_eq!((work.done, work.failed, work.percentile_ms(95.0)), (1200.0, 7.0, Some(80.0)));
    }

    #[test]
    fn locusts_json_gives_percentiles_over_all_requests() {
        let text = r#"[{"name":"/a","num_requests":90,"num_failures":0,"response_times":{"10":90}},
                       {"name":"/b","num_requests":10,"num_failures":2,"response_times":{"200":10}}]"#;
        let work = Work::read(text).unwrap();
        assert_eq!((work.done, work.failed), (100.0, 2.0));
        assert_eq!((work.percentile_ms(90.0), work.percentile_ms(95.0)), (Some(10.0), Some(200.0)));
    }

    #[test]
    fn jmeters_lists_are_counted_in_both_forms() {
        let csv = "timeStamp,elapsed,label,success\n1,10,a,true\n2,20,\"x\ny\",false\n3,30,a,true\n";
        let work = Work::read(csv).unwrap();
        assert_eq!((work.done, work.failed, work.percentile_ms(50.0)), (3.0, 1.0, Some(20.0)));
        let xml = "<?xml version=\"1.0\"?><testResults><httpSample t=\"10\" s=\"true\" lb=\"a\"><httpSample t=\"4\" s=\"true\"/>\
                   </httpSample><sample t=\"30\" s=\"false\"/></testResults>";
        let work = Work::read(xml).unwrap();
        assert_eq!((work.done, work.failed, work.percentile_ms(99.0)), (2.0, 1.0, Some(30.0)));
    }

    #[test]
    fn what_says_nothing_is_refused_in_words() {
        for text in ["", "a,b\n1,2\n", "[]", "{\"x\":", "<html></html>", "elapsed\n"] {
            assert!(Work::read(text).is_err(), "{text:?}");
        }
    }
}
