//! The JSON of the API and the stacks in all formats. In: arguments. Out: answers as `docs/http-api.md` describes them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    extract::{Query as RawQuery, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Context,
    answer::{Refusal, bytes, json as answer, takes_gzip},
    profiles::{Work, heavily, no_window, of_entries, of_range},
    refusals::Reason,
};
use crate::{
    daemon::{
        flame::flame,
        history::Entry,
        query::{Query, RANGE, SELECTION},
        summary::Summary,
        unix_ns,
    },
    output::{
        Format, Growth, Lines, OutputError, Scope, Threads, WriteOptions, render,
        report_json::{self, Report, Window},
    },
    profile::{Container, Ledger, Profile},
};

type Answer = Result<Response, Refusal>;
type Shared = State<Arc<Context>>;

/// Seconds that a pull of pprof may cover.
const PULL: (f64, f64, f64) = (10.0, 1.0, 300.0);

/// A moment as text.
pub fn rfc3339(unix_ns: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ns)).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}

fn arguments(uri: &Uri, known: &[&[&str]]) -> Result<Query, Refusal> {
    let pairs = RawQuery::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| Refusal::Wrong(format!("the query cannot be read: {error}")))?;
    let known: Vec<&str> = known.concat();
    Query::new(pairs.0, &known, unix_ns()).map_err(Refusal::Wrong)
}

fn wrong(error: OutputError) -> Refusal {
    match error {
        error @ (OutputError::Selection(_) | OutputError::NotRecorded { .. }) => Refusal::Nothing(error.to_string()),
        error => Refusal::Failed(error.to_string()),
    }
}

/// Takes the selection and the range, and gives the report on them to `view`.
async fn reported<T: Serialize>(
    context: &Arc<Context>,
    uri: &Uri,
    headers: &HeaderMap,
    view: impl FnOnce(Report<'_>, &Context) -> T + Send + 'static,
) -> Answer {
    let query = arguments(uri, &[&SELECTION, &RANGE])?;
    let selection = query.selection().map_err(Refusal::Wrong)?;
    let range = query.range().map_err(Refusal::Wrong)?;
    let gzip = takes_gzip(headers);
    heavily(context, move |context| {
        let profile = of_range(context, range)?;
        let selected = selection.resolve(&profile).map_err(|error| wrong(error.into()))?;
        let options = WriteOptions { selection, ..WriteOptions::default() };
        let scope = Scope { profile: &profile, selected, options: &options };
        // The answer may borrow from the report, so it is made here.
        let value = serde_json::to_value(view(report_json::report(&scope), context));
        answer(&value.map_err(|error| Refusal::Failed(error.to_string()))?, gzip)
    })
    .await
}

/// `/api/v1/report`
pub async fn report(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    reported(&context, &uri, &headers, |report, _| serde_json::to_value(&report).unwrap_or_default()).await
}

/// `/api/v1/targets`
pub async fn targets(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    reported(&context, &uri, &headers, |report, _| json!({ "window": report.window, "targets": report.targets })).await
}

/// `/api/v1/coverage`
pub async fn coverage(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    reported(&context, &uri, &headers, |report, _| json!({ "window": report.window, "coverage": report.coverage }))
        .await
}

/// `/api/v1/overhead`
pub async fn overhead(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    reported(&context, &uri, &headers, |report, _| {
        let resident = crate::memory::resident_bytes();
        json!({ "window": report.window, "overhead": report.overhead, "agent_resident_bytes": resident })
    })
    .await
}

/// `/api/v1/syscalls`
pub async fn syscalls(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let query = arguments(&uri, &[&SELECTION, &RANGE])?;
    let selection = query.selection().map_err(Refusal::Wrong)?;
    let range = query.range().map_err(Refusal::Wrong)?;
    let gzip = takes_gzip(&headers);
    heavily(&context, move |context| {
        let profile = of_range(context, range)?;
        let selected = selection.resolve(&profile).map_err(|error| wrong(error.into()))?;
        let mut sum = Profile { window: profile.window, ..Profile::default() };
        let mut whole = Container::default();
        let mut names = Vec::new();
        for (index, container) in profile.containers.iter().enumerate() {
            if selected.contains(crate::profile::ContainerIndex(index as u32)) {
                names.push(container.name.as_str());
                whole.add_syscalls(&container.syscalls);
            }
        }
        sum.containers.push(whole);
        let options = WriteOptions::default();
        let scope = Scope { profile: &sum, selected: options.selection.matching(&sum), options: &options };
        let report = report_json::report(&scope);
        let syscalls = report.containers.first().map(|container| &container.syscalls);
        answer(&json!({ "window": Window::of(&profile), "containers": names, "syscalls": syscalls }), gzip)
    })
    .await
}

/// `/api/v1/containers`
pub async fn containers(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let query = arguments(&uri, &[&SELECTION, &RANGE])?;
    let selection = query.selection().map_err(Refusal::Wrong)?;
    let range = query.range().map_err(Refusal::Wrong)?;
    let gzip = takes_gzip(&headers);
    heavily(&context, move |context| {
        let (entries, newest) = {
            let history = context.shared.history();
            (history.select(range.from_unix_ns, range.to_unix_ns), history.newest().map(|entry| entry.id))
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(Refusal::Nothing(no_window(context)));
        };
        let mut found: BTreeMap<String, (Container, u64, bool)> = BTreeMap::new();
        for entry in &entries {
            context.go_on()?;
            let mine = summary(entry)?.containers.into_iter().filter(|container| selection.matches(container));
            for mut container in mine {
                let (known, seen, running) = found.entry(container.name.clone()).or_default();
                container.ledger.merge(&known.ledger);
                *known = container;
                *seen = entry.end_unix_ns().max(*seen);
                *running |= Some(entry.id) == newest;
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by_key(|(who, ..)| std::cmp::Reverse(who.ledger.cpu_ns()));
        let containers: Vec<_> = found
            .into_iter()
            .map(|(who, seen, running)| {
                json!({
                    "id": who.id, "name": who.name, "image": who.image, "runtime": who.runtime, "pod": who.pod,
                    "namespace": who.namespace, "container": who.container, "labels": who.labels, "cgroup": who.cgroup,
                    "cpu_limit": who.cpu_limit_cores, "last_seen": rfc3339(seen), "running": running,
                    "ledger": report_json::ledger(&who.ledger),
                })
            })
            .collect();
        let span_ns = last.end_unix_ns().saturating_sub(first.window.start_unix_ns);
        let window = json!({ "start": rfc3339(first.window.start_unix_ns), "duration_s": span_ns as f64 / 1e9 });
        answer(&json!({ "window": window, "containers": containers }), gzip)
    })
    .await
}

fn summary(entry: &Entry) -> Result<Summary, Refusal> {
    entry.summary().map_err(|error| Refusal::Failed(format!("the summary of a window cannot be read: {error}")))
}

/// `/api/v1/timeline`
pub async fn timeline(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let query = arguments(&uri, &[&SELECTION, &RANGE])?;
    let selection = query.selection().map_err(Refusal::Wrong)?;
    let range = query.range().map_err(Refusal::Wrong)?;
    let gzip = takes_gzip(&headers);
    heavily(&context, move |context| {
        let entries = context.shared.history().select(range.from_unix_ns, range.to_unix_ns);
        if entries.is_empty() {
            return Err(Refusal::Nothing(no_window(context)));
        }
        let read = |entry| context.go_on().and_then(|()| summary(entry));
        let summaries = entries.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for who in summaries.iter().flat_map(|summary| &summary.containers) {
            if selection.matches(who) {
                places.entry(&who.name).or_default();
            }
        }
        for (place, (_, at)) in places.iter_mut().enumerate() {
            *at = place;
        }
        let windows: Vec<_> = entries
            .iter()
            .zip(&summaries)
            .map(|(entry, summary)| {
                let mut ledgers: Vec<Option<[f64; 10]>> = vec![None; places.len()];
                for who in &summary.containers {
                    if let Some(place) = places.get(who.name.as_str()) {
                        ledgers[*place] = Some(parts(&who.ledger));
                    }
                }
                json!({
                    "start": rfc3339(entry.window.start_unix_ns), "duration_s": entry.window.duration_ns as f64 / 1e9,
                    "steal_s": summary.steal_ns as f64 / 1e9, "ledgers": ledgers,
                })
            })
            .collect();
        let containers: Vec<&str> = places.keys().copied().collect();
        answer(&json!({ "parts": PARTS, "containers": containers, "windows": windows }), gzip)
    })
    .await
}

const PARTS: [&str; 10] = [
    "cpu_user_s",
    "cpu_kernel_s",
    "runnable_self_s",
    "runnable_other_s",
    "throttled_s",
    "blocked_lock_s",
    "blocked_disk_s",
    "blocked_network_s",
    "blocked_sleep_s",
    "blocked_other_s",
];

fn parts(ledger: &Ledger) -> [f64; 10] {
    [
        ledger.cpu_user_ns,
        ledger.cpu_kernel_ns,
        ledger.runnable_self_ns,
        ledger.runnable_other_ns,
        ledger.throttled_ns,
        ledger.blocked_lock_ns,
        ledger.blocked_disk_ns,
        ledger.blocked_network_ns,
        ledger.blocked_sleep_ns,
        ledger.blocked_other_ns,
    ]
    // Microseconds are fine enough for a picture, and a third of the digits.
    .map(|ns| (ns as f64 / 1e3).round() / 1e6)
}

/// `/api/v1/flame`
pub async fn flame_tree(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let own = ["kind", "threads", "lines", "min_share", "base_from", "base_to"];
    let query = arguments(&uri, &[&SELECTION, &RANGE, &own])?;
    let options = write_options(&query)?;
    let range = query.range().map_err(Refusal::Wrong)?;
    let base_range = query.base_range().map_err(Refusal::Wrong)?;
    let min_share = query.number("min_share", 0.0002, 0.0, 0.1).map_err(Refusal::Wrong)?;
    let gzip = takes_gzip(&headers);
    heavily(&context, move |context| {
        let profile = of_range(context, range)?;
        let base = base_range.map(|range| of_range(context, range)).transpose()?;
        let tree = flame(&profile, base.as_deref(), options.kind, &options, min_share).map_err(wrong)?;
        answer(&tree, gzip)
    })
    .await
}

fn write_options(query: &Query) -> Result<WriteOptions, Refusal> {
    let switch = |name| query.switch(name).map_err(Refusal::Wrong);
    Ok(WriteOptions {
        kind: query.kind().map_err(Refusal::Wrong)?,
        selection: query.selection().map_err(Refusal::Wrong)?,
        threads: if switch("threads")? { Threads::Named } else { Threads::Together },
        lines: if switch("lines")? { Lines::Shown } else { Lines::Hidden },
        growth: if switch("icicle")? { Growth::Icicle } else { Growth::Flame },
        ..WriteOptions::default()
    })
}

fn rendered(profile: &Profile, format: Format, options: &WriteOptions, gzip: bool) -> Answer {
    let mut body = Vec::new();
    render(profile, format, options, &mut body).map_err(wrong)?;
    // pprof and recordings are compressed as they are.
    let gzip = gzip && !matches!(format, Format::Pprof | Format::Recording);
    Ok(bytes(content_type(format), body, gzip))
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Svg => "image/svg+xml",
        Format::Pprof | Format::Recording => "application/octet-stream",
        Format::Speedscope | Format::StacksJson | Format::ReportJson => "application/json",
        Format::Folded | Format::ReportText | Format::ReportMarkdown => "text/plain; charset=utf-8",
    }
}

/// `/api/v1/profile`
pub async fn profile(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let query = arguments(&uri, &[&SELECTION, &RANGE, &["kind", "format", "threads", "lines", "icicle"]])?;
    let format = match query.text("format") {
        None | Some("pprof") => Format::Pprof,
        Some("folded") => Format::Folded,
        Some("speedscope") => Format::Speedscope,
        Some("json") => Format::StacksJson,
        Some("svg") => Format::Svg,
        Some("recording") => Format::Recording,
        Some(_) => {
            let reason = "no such format; there are pprof, folded, speedscope, json, svg and recording";
            return Err(Refusal::Wrong(reason.to_owned()));
        }
    };
    ranged(&context, &query, format, takes_gzip(&headers)).await
}

/// `/flamegraph.svg`
pub async fn flamegraph(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let query = arguments(&uri, &[&SELECTION, &RANGE, &["kind", "threads", "lines", "icicle"]])?;
    ranged(&context, &query, Format::Svg, takes_gzip(&headers)).await
}

async fn ranged(context: &Arc<Context>, query: &Query, format: Format, gzip: bool) -> Answer {
    let options = write_options(query)?;
    let range = query.range().map_err(Refusal::Wrong)?;
    heavily(context, move |context| rendered(&*of_range(context, range)?, format, &options, gzip)).await
}

/// `/debug/pprof/profile`: the windows that end within the next seconds.
pub async fn pull(State(context): Shared, uri: Uri) -> Answer {
    // Others' programs ask with arguments of Go's own.
    let query = arguments(&uri, &[&SELECTION, &["seconds", "debug", "gc", "type"]])?;
    let options = write_options(&query)?;
    let seconds = query.number("seconds", PULL.0, PULL.1, PULL.2).map_err(Refusal::Wrong)?;
    // Each holds a connection for minutes.
    let Ok(_permit) = context.pulls.try_acquire() else {
        context.shared.refusals.count(Reason::Pulls);
        return Err(Refusal::Busy);
    };
    let began = Instant::now();
    let ending = || Refusal::NotNow("the daemon is ending".to_owned());
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
        () = context.shared.ended() => return Err(ending()),
    }
    let mut windows = context.shared.windows.subscribe();
    let patience = context.shared.settings().window * 2 + Duration::from_secs(5);
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let entries = context.shared.history().ended_after(began);
        if !entries.is_empty() {
            let work = move |context: &Work| rendered(&*of_entries(context, &entries)?, Format::Pprof, &options, false);
            return heavily(&context, work).await;
        }
        let changed = tokio::select! {
            changed = tokio::time::timeout_at(deadline, windows.changed()) => changed,
            () = context.shared.ended() => return Err(ending()),
        };
        if !matches!(changed, Ok(Ok(()))) {
            return Err(Refusal::NotNow("no window came to its end in time".to_owned()));
        }
    }
}

/// `/api/v1/status`
pub async fn status(State(context): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    arguments(&uri, &[])?;
    let shared = &context.shared;
    let settings = shared.settings();
    let collect = &settings.collect;
    let history = {
        let history = shared.history();
        let storage = shared.storage.as_ref().map(|storage| {
            let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            json!({
                "path": settings.history.path, "written": read(&storage.written), "failed": read(&storage.failed),
                "loaded": read(&storage.loaded), "corrupt": read(&storage.corrupt),
                "last_error": storage.last_error(),
            })
        });
        json!({
            "from": history.entries().next().map(|entry| rfc3339(entry.window.start_unix_ns)),
            "to": history.newest().map(|entry| rfc3339(entry.end_unix_ns())),
            "windows": history.entries().len(), "bytes": history.bytes(), "max_bytes": settings.history.max_bytes,
            "retention_s": settings.history.retention.as_secs_f64(),
            "full_resolution_s": history.full_resolution().as_secs_f64(),
            "coarsened": history.coarsened, "dropped": history.dropped, "storage": storage,
        })
    };
    let metrics = {
        let metrics = shared.metrics();
        let series = &metrics.series;
        json!({ "series": series.count(), "max_series": series.most(), "dropped": series.dropped() })
    };
    let reloads = shared.reloads();
    let node =
        settings.node.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"), "node": node, "now": rfc3339(unix_ns()),
        "started": rfc3339(shared.started_unix_ns), "window_s": settings.window.as_secs_f64(),
        "ready": shared.unreadiness().is_none(), "unready": shared.unreadiness(),
        "settings": {
            "cpu": collect.cpu, "offcpu": collect.offcpu, "syscalls": collect.syscalls,
            "frequency_hz": collect.frequency_hz, "offcpu_threshold_s": collect.offcpu_threshold.as_secs_f64(),
            "container": collect.patterns[0], "pod": collect.patterns[1], "namespace": collect.patterns[2],
        },
        "history": history, "metrics": metrics,
        "push": shared.pushes.iter().map(|queue| {
            let figures = queue.figures();
            json!({
                "destination": figures.destination, "sent": figures.sent, "failures": figures.failures,
                "rejected": figures.rejected, "waiting": figures.waiting.0, "waiting_bytes": figures.waiting.1,
                "dropped": figures.dropped.iter().map(|(reason, n)| (*reason, *n)).collect::<BTreeMap<_, _>>(),
                "last_error": figures.last_error,
            })
        }).collect::<Vec<_>>(),
        "config": {
            "file": settings.file, "reloads": reloads.taken, "refused": reloads.refused,
            "last_error": reloads.last_error, "web_refused": context.gate.refused(),
        },
        "windows_lost": shared.windows_lost.load(Ordering::Relaxed),
    });
    answer(&body, takes_gzip(&headers))
}

/// `/healthz`
pub async fn health(State(context): Shared) -> Result<&'static str, Refusal> {
    context.shared.illness().map_or(Ok("ok\n"), |illness| Err(Refusal::NotNow(illness)))
}

/// `/readyz`
pub async fn readiness(State(context): Shared) -> Result<&'static str, Refusal> {
    context.shared.unreadiness().map_or(Ok("ready\n"), |reason| Err(Refusal::NotNow(reason)))
}

/// `POST /-/reload`
pub async fn reload(State(context): Shared) -> Result<&'static str, Refusal> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let gone = || Refusal::NotNow("ending".to_owned());
    context.reload.send(reply).await.map_err(|_| gone())?;
    match answer.await {
        Ok(Ok(())) => Ok("reloaded\n"),
        Ok(Err(error)) => Err(Refusal::Wrong(error)),
        Err(_) => Err(gone()),
    }
}
