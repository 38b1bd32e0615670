//! The page: files built into the program, so that it works offline.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// Files of the page: name, content type, content. `index.html` is `/`, the others lie below `/assets/`.
const FILES: [(&str, &str, &[u8]); 3] = [
    ("index.html", "text/html; charset=utf-8", include_bytes!("../page/index.html")),
    ("app.css", "text/css; charset=utf-8", include_bytes!("../page/app.css")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("../page/app.js")),
];

/// Nothing but the page's own files may run or be loaded.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'";

/// `/`
pub async fn index() -> Response {
    file("index.html")
}

/// `/assets/NAME`
pub async fn asset(Path(name): Path<String>) -> Response {
    file(&name)
}

fn file(name: &str) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == name) {
        Some((_, content_type, content)) => {
            let headers = [
                (header::CONTENT_TYPE, *content_type),
                (header::CACHE_CONTROL, "no-cache"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
            ];
            (headers, *content).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    }
}
