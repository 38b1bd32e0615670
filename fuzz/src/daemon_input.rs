//! What operators and strangers write to the daemon: arguments of requests, its configuration, the web configuration, a destination's
//! address. Each is taken, or refused in words.

use profiler::daemon::{
    http::web_config,
    push::destination::{Protocol, url},
    query::{Query, RANGE, SELECTION},
    settings,
};

/// Longest message that is sensible.
const LONGEST: usize = 64 << 10;

/// A moment in 2027, in nanoseconds since the epoch.
const NOW: u64 = 1_800_000_000_000_000_000;

/// Runs one input: its first byte says which reader gets the rest.
pub fn run(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match which % 4 {
        0 => arguments(text),
        1 => settings(text),
        2 => said(web_config::check(text)),
        _ => address(text),
    }
}

fn said<T>(result: Result<T, String>) {
    if let Err(error) = result {
        assert!(!error.trim().is_empty() && error.len() < LONGEST, "a reason of {} bytes", error.len());
    }
}

fn arguments(text: &str) {
    let pairs = text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let known = [&SELECTION[..], &RANGE, &["kind", "base_from", "base_to", "seconds", "threads"]].concat();
    let query = match Query::new(pairs, &known, NOW) {
        Ok(query) => query,
        Err(error) => return said::<()>(Err(error)),
    };
    match query.range() {
        Ok(range) => assert!(range.from_unix_ns < range.to_unix_ns),
        Err(error) => said::<()>(Err(error)),
    }
    said(query.base_range());
    said(query.selection());
    said(query.kind());
    said(query.switch("threads"));
    match query.number("seconds", 10.0, 1.0, 300.0) {
        Ok(seconds) => assert!((1.0..=300.0).contains(&seconds)),
        Err(error) => said::<()>(Err(error)),
    }
}

fn settings(text: &str) {
    match settings::settled(text) {
        Ok(settings) => {
            assert!((1..=60).contains(&settings.window.as_secs()));
            assert!(settings.history.retention >= settings.window);
            assert!(settings.push.destinations.len() <= 2);
        }
        Err(error) => said::<()>(Err(error)),
    }
}

fn address(text: &str) {
    for protocol in [Protocol::Pyroscope, Protocol::Otlp] {
        match url(protocol, text) {
            Ok(url) => assert!(url.host().is_some_and(|host| !host.is_empty()) && url.query().is_none()),
            Err(error) => said::<()>(Err(error)),
        }
    }
}
