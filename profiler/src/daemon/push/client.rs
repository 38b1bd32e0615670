//! HTTP to one destination. In: a body. Out: whether it was taken, and if not whether it may be later.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::destination::{self, Credentials, Destination, Protocol};

/// Largest answer that is read, and what is shown of one.
const LARGEST_ANSWER: usize = 64 << 10;
const SHOWN: usize = 200;

/// Largest file with a password or token.
const LARGEST_SECRET: u64 = 64 << 10;

/// Idle connections are closed before a server would close them under a request.
const IDLE: Duration = Duration::from_secs(20);

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Taken; the body of the answer.
    Taken(Bytes),
    /// Not now: why, and how long the server wants to be left alone.
    Later(String, Option<Duration>),
    /// Never.
    Refused(String),
}

/// Why there cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("push.{destination}: {reason}")]
pub struct ClientError {
    destination: &'static str,
    reason: String,
}

/// Sends to one destination.
pub struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    /// What is said of it.
    shown: String,
    headers: HeaderMap,
    credentials: Credentials,
    timeout: Duration,
}

impl Client {
    /// Reads what can be read beforehand, so that what is wrong is said at the start. To be used within one runtime.
    pub fn new(destination: &Destination, timeout: Duration) -> Result<Self, ClientError> {
        let wrong = |reason| ClientError { destination: destination.protocol.name(), reason };
        let config = tls(destination.ca_file.as_deref()).map_err(wrong)?;
        // Said at once where it is wrong now; read again for each request.
        authorization(&destination.credentials).map_err(wrong)?;
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let mut headers = HeaderMap::new();
        headers.extend(destination.headers.iter().cloned());
        let agent = concat!("profiler/", env!("CARGO_PKG_VERSION"));
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(agent));
        match destination.protocol {
            Protocol::Pyroscope => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/proto"));
                let version = HeaderName::from_static("connect-protocol-version");
                headers.insert(version, HeaderValue::from_static("1"));
            }
            Protocol::Otlp => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        let credentials = destination.credentials.clone();
        let (url, shown) = (destination.url.clone(), destination::shown(&destination.url));
        Ok(Self { http, url, shown, headers, credentials, timeout })
    }

    /// Sends a body and reads the answer, all within the timeout.
    pub async fn send(&self, body: Bytes) -> Answer {
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.exchange(body)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Later(format!("{} does not answer within {timeout:?}", self.shown), None),
        }
    }

    async fn exchange(&self, body: Bytes) -> Answer {
        let mut request = Request::post(self.url.clone());
        let mut secrets: Vec<HeaderValue> =
            self.headers.values().filter(|value| value.is_sensitive()).cloned().collect();
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
            match authorization(&self.credentials) {
                Ok(Some(value)) => {
                    secrets.push(value.clone());
                    headers.insert(header::AUTHORIZATION, value);
                }
                Ok(None) => {}
                // Being renewed, perhaps.
                Err(error) => return Answer::Later(error, None),
            }
        }
        let request = match request.body(Full::new(body)) {
            Ok(request) => request,
            Err(error) => return Answer::Refused(format!("no request can be made: {error}")),
        };
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(error) => return Answer::Later(format!("cannot reach {}: {}", self.shown, causes(&error)), None),
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map(http_body_util::Collected::to_bytes);
        if head.status.is_success() {
            // A server that took it and then fails to say so in full took it all the same.
            return Answer::Taken(body.unwrap_or_default());
        }
        let said = body.map(|body| shown(&body, &secrets)).unwrap_or_default();
        judged(head.status, &head.headers, &format!("{} answers {}{said}", self.shown, head.status))
    }
}

/// What an answer other than success means, as the OTLP specification has it.
fn judged(status: StatusCode, headers: &HeaderMap, said: &str) -> Answer {
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    if !later.contains(&status) {
        return Answer::Refused(said.to_owned());
    }
    // Dates are left to the back-off: two clocks need not agree.
    let asked_for = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Answer::Later(said.to_owned(), asked_for.map(Duration::from_secs))
}

/// An error with what it came of, which says more.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

/// What is said of a body: its beginning, on one line, without what was sent in secret. Servers repeat what they refuse.
fn shown(body: &[u8], secrets: &[HeaderValue]) -> String {
    let mut text = String::from_utf8_lossy(body).into_owned();
    for secret in secrets.iter().filter_map(|value| value.to_str().ok()) {
        // The token may be repeated without its scheme.
        let parts = std::iter::once(secret).chain(secret.split_once(' ').map(|(_, token)| token));
        for part in parts.filter(|part| !part.trim().is_empty()) {
            text = text.replace(part, "…");
        }
    }
    let text: String = text
        .chars()
        .take(SHOWN)
        .map(|c| if c.is_control() || c == char::REPLACEMENT_CHARACTER { ' ' } else { c })
        .collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("ca_file {}: {error}", path.display());
            let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"there is no certificate in it"));
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, String> {
    let text = match credentials {
        Credentials::None => return Ok(None),
        Credentials::Bearer(path) => format!("Bearer {}", secret(path)?),
        Credentials::Basic(user, path) => {
            format!("Basic {}", STANDARD.encode(format!("{user}:{}", secret(path)?)))
        }
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| "the credentials cannot be a header".to_owned())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn secret(path: &Path) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if length > LARGEST_SECRET {
        return Err(wrong(&format!("it has {length} bytes, which is no password")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_before_the_server_wants() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("17"));
        for status in [429, 502, 503, 504, 408] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            let answer = judged(status, &headers, "x");
            assert_eq!(answer, Answer::Later("x".to_owned(), Some(Duration::from_secs(17))));
        }
        for status in [301, 400, 401, 404, 413, 415, 500, 501] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            assert_eq!(judged(status, &headers, "x"), Answer::Refused("x".to_owned()));
        }
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(judged(StatusCode::BAD_GATEWAY, &headers, "x"), Answer::Later("x".to_owned(), None));
    }

    #[test]
    fn secrets_come_from_files_without_the_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(file.path(), "secret\n").unwrap_or_else(|error| panic!("{error}"));
        let header = |credentials| authorization(&credentials).ok().flatten();
        let bearer = header(Credentials::Bearer(file.path().to_owned()));
        assert!(bearer.is_some_and(|value| value == "Bearer secret" && value.is_sensitive()));
        let basic = header(Credentials::Basic("alice".to_owned(), file.path().to_owned()));
        assert!(basic.is_some_and(|value| value == "Basic YWxpY2U6c2VjcmV0"));
        std::fs::write(file.path(), "a\nb").unwrap_or_else(|error| panic!("{error}"));
        assert!(authorization(&Credentials::Bearer(file.path().to_owned())).is_err());
        assert!(authorization(&Credentials::Bearer("/nowhere".into())).is_err_and(|error| error.contains("/nowhere")));
    }

    #[test]
    fn what_servers_say_is_shown_on_one_short_line() {
        assert_eq!(shown(b"  no\nsuch \x1b[31mtenant ", &[]), ": no such  [31mtenant");
        assert_eq!(shown(&[b'x'; 5000], &[]).len(), SHOWN + 2);
        assert_eq!(shown(b"\n", &[]), "");
    }

    #[test]
    fn a_server_that_repeats_what_was_sent_in_secret_does_not_bring_it_into_the_log() {
        let secrets = ["Bearer hunter2", "key-4711"].map(HeaderValue::from_static);
        let said = shown(b"no such token: hunter2, nor key key-4711 (Bearer hunter2)", &secrets);
        assert_eq!(said, ": no such token: …, nor key … (…)");
    }
}
