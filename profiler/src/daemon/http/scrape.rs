//! `/metrics`. In: a scrape's `Accept`. Out: every figure of the daemon in the format it asked for.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::Response,
};

use super::{
    Context,
    answer::{Refusal, bytes, takes_gzip},
};
use crate::{
    daemon::metrics::{Exposition, Format, own::Now, protobuf::Protobuf, series::View, text::Text},
    memory::resident_bytes,
};

/// `/metrics`
pub async fn metrics(State(context): State<Arc<Context>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiate(&accept.collect::<Vec<_>>().join(","));
    let gzip = takes_gzip(&headers);
    // Never refused for want of a turn: a scrape is bounded, and the last before the end matters most. The turns are its own,
    // so that it waits for other scrapes alone.
    let turn = Arc::clone(&context.scrapes).acquire_owned().await;
    let turn = turn.map_err(|error| Refusal::Failed(error.to_string()))?;
    let in_thread = Arc::clone(&context);
    let scrape = tokio::task::spawn_blocking(move || {
        let answer = bytes(format.content_type(), body(&in_thread, format), gzip);
        drop(turn);
        answer
    });
    scrape.await.map_err(|error| Refusal::Failed(error.to_string()))
}

fn body(context: &Context, format: Format) -> Vec<u8> {
    match format {
        Format::Protobuf => {
            let mut protobuf = Protobuf::default();
            expose(context, View::Whole, &mut protobuf);
            protobuf.finish()
        }
        Format::OpenMetrics | Format::Text => {
            let mut text = Text::new(format);
            expose(context, View::Text, &mut text);
            text.finish().into_bytes()
        }
    }
}

fn expose(context: &Context, view: View, into: &mut dyn Exposition) {
    let shared = &context.shared;
    let (windows, history_bytes, dropped) = {
        let history = shared.history();
        (history.entries().len() as u64, history.bytes(), history.dropped)
    };
    let reloads = shared.reloads();
    let metrics = shared.metrics();
    let now = Now {
        agent_cpu_ns: crate::collect::own_cpu_ns(),
        resident_bytes: resident_bytes(),
        maps: metrics.maps.clone(),
        series_dropped: metrics.series.dropped(),
        history: (windows, history_bytes),
        history_dropped: dropped,
        storage_failures: shared.storage.as_ref().map(|storage| storage.failed.load(Ordering::Relaxed)),
        windows_lost: shared.windows_lost.load(Ordering::Relaxed),
        requests_refused: shared.refusals.figures(),
        config_good: reloads.last_error.is_none(),
        targets: metrics.targets.clone(),
        pushes: shared.pushes.iter().map(|queue| queue.figures()).collect(),
    };
    metrics.series.expose(view, into);
    metrics.own.expose(&now, into);
}
