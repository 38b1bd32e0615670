//! Who may ask. In: a request and the web configuration, read again when it changes. Out: the request let through, or 401.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{
    Context,
    web_config::{WebConfig, WebConfigError},
};
use crate::daemon::repeated::Repeated;

/// How often files are looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Credentials remembered as good: verifying costs a tenth of a second of CPU on purpose.
const MOST_REMEMBERED: usize = 100;

/// A hash of nobody's password, for users that do not exist, so that they take as long as others.
const NOBODY: &str = "$2b$10$C6UzMDM.H6dfI/f/IKcEeO7ZDpP9bFwJDGmOe1hVnqNlEHfJqKXSW";

/// The web configuration in force.
pub struct Gate {
    path: Option<PathBuf>,
    config: RwLock<Arc<WebConfig>>,
    looked: Mutex<Instant>,
    good: Mutex<HashSet<[u8; 32]>>,
    /// Times that a changed file was refused, and what was said of it.
    refused: AtomicU64,
    trouble: Repeated,
    /// Passwords are verified one at a time: whoever guesses cannot take every CPU.
    verifying: Semaphore,
}

impl Gate {
    /// Reads the configuration, if there is one.
    pub fn new(path: Option<PathBuf>) -> Result<Self, WebConfigError> {
        let config = path.as_deref().map(WebConfig::read).transpose()?.unwrap_or_default();
        Ok(Self {
            path,
            config: RwLock::new(Arc::new(config)),
            looked: Mutex::new(Instant::now()),
            good: Mutex::default(),
            refused: AtomicU64::new(0),
            trouble: Repeated::default(),
            verifying: Semaphore::new(1),
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
                self.good.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    async fn lets_in(&self, config: &WebConfig, headers: &HeaderMap) -> bool {
        if config.users.is_empty() {
            return true;
        }
        let Some((user, password)) = credentials(headers) else { return false };
        let known = config.users.get(&user);
        let hash = known.map_or(NOBODY, String::as_str).to_owned();
        let key: [u8; 32] = Sha256::new()
            .chain_update(hash.as_bytes())
            .chain_update([0])
            .chain_update(user.as_bytes())
            .chain_update([0])
            .chain_update(password.as_bytes())
            .finalize()
            .into();
        if self.good.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return true;
        }
        let Ok(_turn) = self.verifying.acquire().await else { return false };
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        let good = known.is_some() && verified.unwrap_or(false);
        if good {
            let mut remembered = self.good.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.len() >= MOST_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(key);
        }
        good
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

/// Lets a request through or not; probes of the node's kubelet need no password.
pub async fn check(State(context): State<Arc<Context>>, request: Request, next: Next) -> Response {
    let config = context.gate.config();
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    // A page elsewhere may make a browser post to us, but cannot hide where it comes from.
    let foreign = request.method() == axum::http::Method::POST && request.headers().contains_key(header::ORIGIN);
    let mut response = if foreign {
        (StatusCode::FORBIDDEN, "not from another page\n").into_response()
    } else if open || context.gate.lets_in(&config, request.headers()).await {
        next.run(request).await
    } else {
        let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"profiler\""))];
        (StatusCode::UNAUTHORIZED, challenge, "who are you?\n").into_response()
    };
    for (name, value) in &config.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
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
        assert!(gate.lets_in(&config, &HeaderMap::new()).await, "nobody is named, so everybody may");
        let hash = bcrypt::hash("secret", 4).unwrap_or_else(|error| panic!("{error}"));
        config.users.insert("alice".to_owned(), hash);
        for _ in 0..2 {
            assert!(gate.lets_in(&config, &headers("alice", "secret")).await);
            assert!(!gate.lets_in(&config, &headers("alice", "Secret")).await);
            assert!(!gate.lets_in(&config, &headers("bob", "secret")).await);
        }
        assert!(!gate.lets_in(&config, &HeaderMap::new()).await);
        for wrong in ["Basic", "Basic !", "Bearer x", "Basic YQ=="] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(wrong));
            assert!(!gate.lets_in(&config, &headers).await, "{wrong}");
        }
    }

    #[test]
    fn the_hash_of_nobody_can_be_verified() {
        assert!(bcrypt::verify("anything", NOBODY).is_ok_and(|good| !good));
    }
}
