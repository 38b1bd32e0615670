//! Who may ask. In: a request and the web configuration, read again when it changes. Out: the request let through, or refused.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Context,
    answer::Refusal,
    host::{Misdirected, is_cross_site},
    passwords::{Attempt, Passwords, TooMany},
    refusals::Reason,
    seats::{Kind, Seat},
    web_config::{WebConfig, WebConfigError},
};
use crate::daemon::repeated::Repeated;

/// How often files are looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The web configuration in force.
pub struct Gate {
    path: Option<PathBuf>,
    config: RwLock<Arc<WebConfig>>,
    looked: Mutex<Instant>,
    /// Times that a changed file was refused, and what was said of it.
    refused: AtomicU64,
    trouble: Repeated,
    passwords: Arc<Passwords>,
}

impl Gate {
    /// Reads the configuration, if there is one.
    pub fn new(path: Option<PathBuf>) -> Result<Self, WebConfigError> {
        let config = path.as_deref().map(WebConfig::read).transpose()?.unwrap_or_default();
        Ok(Self {
            path,
            config: RwLock::new(Arc::new(config)),
            looked: Mutex::new(Instant::now()),
            refused: AtomicU64::new(0),
            trouble: Repeated::default(),
            passwords: Arc::new(Passwords::new()),
        })
    }

    /// The configuration, read again if it has changed; one that is wrong is refused and the old one stays.
    pub fn config(&self) -> Arc<WebConfig> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let Some(path) = &self.path else { return config };
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK_EVERY {
                return config;
            }
            *looked = Instant::now();
        }
        if !config.has_changed() {
            return config;
        }
        match WebConfig::read(path) {
            Ok(new) => {
                self.trouble.is_over();
                tracing::info!("the web configuration was read again");
                let new = Arc::new(new);
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
                new
            }
            Err(error) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let error = error.to_string();
                if self.trouble.is_new(&error) {
                    tracing::error!("{error}; the old one stays");
                }
                config
            }
        }
    }

    /// How often the file was found changed and wrong.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the credentials are right. Only those that nobody has shown before wait for their turn.
    async fn lets_in(
        &self,
        config: &WebConfig,
        headers: &HeaderMap,
        seat: Option<&Arc<Seat>>,
    ) -> Result<bool, TooMany> {
        if config.users.is_empty() {
            return Ok(true);
        }
        let Some((user, password)) = credentials(headers) else { return Ok(false) };
        let hash = config.users.get(&user).cloned();
        let attempt = Attempt::new(user, password, hash, config.most_cost);
        if let Some(known) = self.passwords.remembered(&attempt) {
            return Ok(known);
        }
        let _unverified = seat.map(Seat::unverified);
        let peer = seat.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |seat| seat.peer);
        self.passwords.verify(peer, attempt).await
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// What the kubelet asks without a password.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Lets a request through or not.
pub async fn check(State(context): State<Arc<Context>>, request: Request, next: Next) -> Response {
    let config = context.gate.config();
    let (parts, body) = request.into_parts();
    let seat = parts.extensions.get::<Arc<Seat>>().cloned();
    let reserved = seat.as_ref().is_some_and(|seat| seat.kind == Kind::Reserved);
    let mut response = match refused(&context, &config, &parts, seat.as_ref()).await {
        Some(response) => response,
        None => next.run(Request::from_parts(parts, body)).await,
    };
    if reserved {
        // The next probe needs the seat.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for (name, value) in &config.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

async fn refused(context: &Context, config: &WebConfig, request: &Parts, seat: Option<&Arc<Seat>>) -> Option<Response> {
    let path = request.uri.path();
    let probe = PROBES.contains(&path);
    let count = |reason| context.shared.refusals.count(reason);
    if let Err(misdirected) = context.hosts.judge(request.version, &request.uri, &request.headers) {
        count(Reason::Host);
        let status = match misdirected {
            Misdirected::Malformed => StatusCode::BAD_REQUEST,
            Misdirected::Foreign => StatusCode::FORBIDDEN,
        };
        return Some((status, format!("{misdirected}\n")).into_response());
    }
    if !probe && is_cross_site(&request.method, &request.headers) {
        count(Reason::Origin);
        return Some((StatusCode::FORBIDDEN, "not from another site's page\n").into_response());
    }
    if !probe && path != "/metrics" && seat.is_some_and(|seat| seat.kind == Kind::Reserved) {
        count(Reason::Connections);
        return Some(Refusal::Busy.into_response());
    }
    if probe {
        return None;
    }
    match context.gate.lets_in(config, &request.headers, seat).await {
        Ok(true) => None,
        Ok(false) => {
            let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"profiler\""))];
            Some((StatusCode::UNAUTHORIZED, challenge, "who are you?\n").into_response())
        }
        Err(TooMany) => {
            count(Reason::Passwords);
            Some(Refusal::Busy.into_response())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(user: &str, password: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        headers.insert(header::AUTHORIZATION, HeaderValue::try_from(value).unwrap_or_else(|error| panic!("{error}")));
        headers
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_opens() {
        let gate = Gate::new(None).unwrap_or_else(|error| panic!("{error}"));
        let mut config = WebConfig::default();
        config.most_cost = 4;
        let no_one = HeaderMap::new();
        assert_eq!(gate.lets_in(&config, &no_one, None).await, Ok(true), "nobody is named, so everybody may");
        let hash = bcrypt::hash("secret", 4).unwrap_or_else(|error| panic!("{error}"));
        config.users.insert("alice".to_owned(), hash);
        for _ in 0..2 {
            assert_eq!(gate.lets_in(&config, &headers("alice", "secret"), None).await, Ok(true));
            assert_eq!(gate.lets_in(&config, &headers("alice", "Secret"), None).await, Ok(false));
            assert_eq!(gate.lets_in(&config, &headers("bob", "secret"), None).await, Ok(false));
        }
        assert_eq!(gate.lets_in(&config, &no_one, None).await, Ok(false));
        for wrong in ["Basic", "Basic !", "Bearer x", "Basic YQ=="] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(wrong));
            assert_eq!(gate.lets_in(&config, &headers, None).await, Ok(false), "{wrong}");
        }
    }
}
