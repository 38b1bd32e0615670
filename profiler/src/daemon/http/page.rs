//! The page: everything in `page/`, built into the program, so that it works offline.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use include_dir::{Dir, include_dir};

/// `index.html` is `/`, the others lie below `/assets/`.
static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/daemon/page");

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
    let Some(found) = FILES.get_file(name) else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, content_type(name)),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, found.contents()).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_built_in_and_nothing_else_can_be_had() {
        assert_eq!(file("index.html").status(), StatusCode::OK);
        assert_eq!(file("app.js").headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        for name in ["", "/etc/passwd", "../mod.rs", "..", "./index.html/.."] {
            assert_eq!(file(name).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }
}
