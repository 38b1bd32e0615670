//! Where profiles are sent, as the operator writes it. In: a URL and credentials. Out: a destination, or what is wrong with it.

use std::{collections::BTreeMap, path::PathBuf};

use http::{HeaderName, HeaderValue, Uri};

use crate::daemon::yaml_error::shown_key;

/// What the other side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `push.v1.PusherService`, by the Connect protocol.
    Pyroscope,
    /// OTLP profiles in protobuf over HTTP.
    Otlp,
}

impl Protocol {
    /// As in settings and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pyroscope => "pyroscope",
            Self::Otlp => "otlp",
        }
    }

    /// Where below the server's address its requests go.
    fn path(self) -> &'static str {
        match self {
            Self::Pyroscope => "/push.v1.PusherService/Push",
            Self::Otlp => "/v1development/profiles",
        }
    }
}

/// A place to send profiles to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where requests go, path and all.
    pub url: Uri,
    /// Headers of each request: a tenant, for example.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Who we are.
    pub credentials: Credentials,
    /// Authorities that may have signed the server's certificate, instead of the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Labels, or attributes, of each profile.
    pub labels: BTreeMap<String, String>,
}

/// Who we are. Files are read for each request, so that what is renewed is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody asks.
    #[default]
    None,
    /// A token in a file.
    Bearer(PathBuf),
    /// A user and a password in a file.
    Basic(String, PathBuf),
}

/// The address of requests: the server's, with the protocol's path below it unless it ends in that already.
pub fn url(protocol: Protocol, text: &str) -> Result<Uri, String> {
    // Tokens may be in any part of it, so nothing of it is shown.
    let wrong = |reason: &str| format!("url {reason}; write http://HOST:PORT or https://HOST");
    let base: Uri = text.parse().map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if !matches!(base.scheme_str(), Some("http" | "https")) {
        return Err(wrong("is not of http or https"));
    }
    let Some(authority) = base.authority() else { return Err(wrong("has no host")) };
    if authority.host().is_empty() {
        return Err(wrong("has no host"));
    }
    if authority.as_str().contains('@') {
        return Err(wrong("holds credentials, which belong in a file"));
    }
    if base.query().is_some() {
        return Err(wrong("has a query"));
    }
    let path = base.path().trim_end_matches('/');
    let path = if path.ends_with(protocol.path()) { path.to_owned() } else { format!("{path}{}", protocol.path()) };
    let mut parts = base.into_parts();
    parts.path_and_query = Some(path.parse().map_err(|error| wrong(&format!("has a wrong path ({error})")))?);
    Uri::from_parts(parts).map_err(|error| wrong(&format!("is no URL ({error})")))
}

/// Scheme, host and port of a URL: what may be shown of it.
pub fn shown(url: &Uri) -> String {
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}", url.scheme_str().unwrap_or_default())
}

/// Headers as written.
pub fn headers(written: &BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let ours = ["authorization", "content-type", "content-encoding", "content-length", "host", "connection"];
    written
        .iter()
        .map(|(name, value)| {
            let wrong = || format!("`{}` cannot be a header", shown_key(name));
            let known = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
            if ours.contains(&known.as_str()) || known.as_str() == "transfer-encoding" {
                return Err(format!("{}; credentials have settings of their own", wrong()));
            }
            let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| wrong())?;
            // It may be a secret.
            value.set_sensitive(true);
            Ok((known, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gets_the_protocols_path_once() {
        for (text, whole) in [
            ("http://pyroscope:4040", "http://pyroscope:4040/push.v1.PusherService/Push"),
            ("https://host/tenant/", "https://host/tenant/push.v1.PusherService/Push"),
            ("http://h/push.v1.PusherService/Push", "http://h/push.v1.PusherService/Push"),
        ] {
            assert_eq!(url(Protocol::Pyroscope, text).map(|url| url.to_string()), Ok(whole.to_owned()));
        }
        let otlp = url(Protocol::Otlp, "http://[::1]:4318").map(|url| url.to_string());
        assert_eq!(otlp, Ok("http://[::1]:4318/v1development/profiles".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("pyroscope:4040", "http"),
            ("", "URL"),
            ("ftp://x", "http"),
            ("http://user:secret@host", "file"),
            ("user:secret@host", "http"),
            ("http://user:secret@ho st", "URL"),
            ("http://host?x=secret", "query"),
            ("ftp://host/secret", "http"),
            ("http://", "URL"),
        ] {
            let error = url(Protocol::Otlp, text).err().unwrap_or_default();
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
        let shown: Vec<String> = ["http://host:1/secret", "https://me:secret@host/x?y"]
            .into_iter()
            .filter_map(|text| Some(shown(&text.parse().ok()?)))
            .collect();
        assert_eq!(shown, ["http://host:1", "https://host"]);
        assert!(headers(&[("X-Scope-OrgID".to_owned(), "a".to_owned())].into()).is_ok());
        for name in ["Authorization", "a b", "Content-Length"] {
            assert!(headers(&[(name.to_owned(), "a".to_owned())].into()).is_err(), "{name}");
        }
    }
}
