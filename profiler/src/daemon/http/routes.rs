//! What is where, and what holds for every request.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{Context, access, api, page, scrape};

/// Longest a request may take: a pull of five minutes and some more.
const LONGEST: Duration = Duration::from_secs(330);

/// Bodies are not read at all.
const LARGEST_BODY: usize = 1024;

/// All routes.
pub fn routes(context: Arc<Context>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/metrics", get(scrape::metrics))
        .route("/healthz", get(api::health))
        .route("/readyz", get(api::readiness))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/containers", get(api::containers))
        .route("/api/v1/timeline", get(api::timeline))
        .route("/api/v1/report", get(api::report))
        .route("/api/v1/targets", get(api::targets))
        .route("/api/v1/syscalls", get(api::syscalls))
        .route("/api/v1/coverage", get(api::coverage))
        .route("/api/v1/overhead", get(api::overhead))
        .route("/api/v1/flame", get(api::flame_tree))
        .route("/api/v1/profile", get(api::profile))
        .route("/flamegraph.svg", get(api::flamegraph))
        .route("/debug/pprof/profile", get(api::pull))
        .route("/-/reload", post(api::reload))
        .fallback(nowhere)
        .layer(from_fn_with_state(Arc::clone(&context), access::check))
        .layer(from_fn(in_time))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(context)
}

async fn nowhere() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here; docs/http-api.md says what is where\n").into_response()
}

async fn in_time(request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the answer took too long\n").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
