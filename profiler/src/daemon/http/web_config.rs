//! Exporter-toolkit's web configuration. In: its YAML file and the certificates it names. Out: TLS, users and headers, or what is
//! wrong with them.
//!
//! Format: <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>. What would need another
//! TLS library (cipher suites, curves, certificates asked for but not verified) is refused rather than passed over.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use axum::http::{HeaderName, HeaderValue};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use serde::Deserialize;

/// Gives the path of a file that a setting (by name) points to, or says that it is missing.
type Finder<'a> = dyn FnMut(&str, Option<PathBuf>) -> Result<PathBuf, String> + 'a;

/// Headers that the file may set.
const HEADERS: [&str; 5] = [
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
    "x-xss-protection",
    "content-security-policy",
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<Tls>,
    http_server_config: Http,
    basic_auth_users: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    /// Part of the format; only HTTP/1.1 is served, which every client takes.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_auth_type: Option<String>,
    client_ca_file: Option<PathBuf>,
    min_version: Option<String>,
    max_version: Option<String>,
    prefer_server_cipher_suites: Option<bool>,
    cipher_suites: Option<Vec<String>>,
    curve_preferences: Option<Vec<String>>,
    client_allowed_sans: Option<Vec<String>>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("wrong web configuration {}: {reason}", path.display())]
pub struct WebConfigError {
    path: PathBuf,
    reason: String,
}

/// What the file says.
#[derive(Clone, Default)]
pub struct WebConfig {
    /// TLS, if it is wanted.
    pub tls: Option<Arc<ServerConfig>>,
    /// bcrypt hashes by user; nobody has to name themselves if there are none.
    pub users: BTreeMap<String, String>,
    /// Headers of every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether clients must show a certificate.
    pub client_certificates: bool,
    /// The files it was read from, with what tells whether they have changed.
    stamps: Vec<(PathBuf, Option<Stamp>)>,
}

/// Inode, length and time of the last change.
type Stamp = (u64, u64, Option<SystemTime>);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((std::os::unix::fs::MetadataExt::ino(&metadata), metadata.len(), metadata.modified().ok()))
}

impl WebConfig {
    /// Reads the file and everything that it names.
    pub fn read(path: &Path) -> Result<Self, WebConfigError> {
        let mut files = vec![path.to_owned()];
        let mut read = || -> Result<Self, String> {
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
            let (file, headers) = parse(&text)?;
            let directory = path.parent().unwrap_or(Path::new("."));
            let tls = file.tls_server_config.map(|tls| tls.settle(directory, &mut files)).transpose()?;
            let client_certificates = tls.as_ref().is_some_and(|(_, required)| *required);
            Ok(Self {
                tls: tls.map(|(config, _)| Arc::new(config)),
                users: file.basic_auth_users,
                headers,
                client_certificates,
                stamps: Vec::new(),
            })
        };
        let mut config = read().map_err(|reason| WebConfigError { path: path.to_owned(), reason })?;
        config.stamps = files.into_iter().map(|file| (file.clone(), stamp(&file))).collect();
        Ok(config)
    }

    /// Whether a file that it was read from is another by now.
    pub fn has_changed(&self) -> bool {
        self.stamps.iter().any(|(path, known)| stamp(path) != *known)
    }

    /// Whether whoever asks has to show who they are.
    pub fn is_guarded(&self) -> bool {
        self.client_certificates || !self.users.is_empty()
    }
}

/// What the file says by itself, without the files that it names.
fn parse(text: &str) -> Result<(File, Vec<(HeaderName, HeaderValue)>), String> {
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let file: File =
        if blank { File::default() } else { serde_saphyr::from_str(text).map_err(|error| error.to_string())? };
    for (user, hash) in &file.basic_auth_users {
        check_hash(hash).map_err(|reason| format!("basic_auth_users: {user}: {reason}"))?;
    }
    let headers = file.http_server_config.headers.iter().map(|(name, value)| header(name, value));
    let headers = headers.collect::<Result<_, _>>()?;
    Ok((file, headers))
}

/// Whether the text makes sense by itself, without the files that it names.
pub fn check(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

fn check_hash(hash: &str) -> Result<(), String> {
    // Verifying says whether the hash can be read; which password it is of does not matter.
    let parts = hash.parse::<bcrypt::HashParts>();
    parts.map(drop).map_err(|error| format!("not a bcrypt hash ({error}); make one with `htpasswd -nBC 10 USER`"))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let lower = name.to_ascii_lowercase();
    if !HEADERS.contains(&lower.as_str()) {
        return Err(format!("http_server_config: header {name} cannot be set; there are {}", HEADERS.join(", ")));
    }
    let wrong = |error: &dyn std::fmt::Display| format!("http_server_config: header {name}: {error}");
    let key = HeaderName::try_from(lower).map_err(|error| wrong(&error))?;
    Ok((key, HeaderValue::try_from(value).map_err(|error| wrong(&error))?))
}

impl Tls {
    fn settle(self, directory: &Path, files: &mut Vec<PathBuf>) -> Result<(ServerConfig, bool), String> {
        for (name, given) in [
            ("cipher_suites", self.cipher_suites.is_some_and(|list| !list.is_empty())),
            ("curve_preferences", self.curve_preferences.is_some_and(|list| !list.is_empty())),
            ("client_allowed_sans", self.client_allowed_sans.is_some_and(|list| !list.is_empty())),
            ("prefer_server_cipher_suites: false", self.prefer_server_cipher_suites == Some(false)),
        ] {
            if given {
                return Err(format!("tls_server_config: {name} is not supported; leave it out"));
            }
        }
        let mut file = |name: &str, path: Option<PathBuf>| {
            let path = path.ok_or_else(|| format!("tls_server_config: {name} is missing"))?;
            let path = directory.join(path);
            files.push(path.clone());
            Ok::<_, String>(path)
        };
        let (cert_file, key_file) = (file("cert_file", self.cert_file)?, file("key_file", self.key_file)?);
        let read = |path: &Path| {
            let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            certificates.map_err(|error| format!("{}: {error}", path.display()))
        };
        let certificates = read(&cert_file)?;
        let key =
            PrivateKeyDer::from_pem_file(&key_file).map_err(|error| format!("{}: {error}", key_file.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = versions(self.min_version.as_deref(), self.max_version.as_deref())?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?;
        let verifier = |path: Option<PathBuf>, file: &mut Finder<'_>| {
            let path = file("client_ca_file", path)?;
            let mut roots = RootCertStore::empty();
            for certificate in read(&path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Ok::<_, String>(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)))
        };
        let (builder, required) = match self.client_auth_type.as_deref() {
            None | Some("" | "NoClientCert") => (builder.with_no_client_auth(), false),
            Some("VerifyClientCertIfGiven") => {
                let verifier = verifier(self.client_ca_file, &mut file)?.allow_unauthenticated().build();
                (builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?), false)
            }
            Some("RequireAndVerifyClientCert") => {
                let verifier = verifier(self.client_ca_file, &mut file)?.build();
                (builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?), true)
            }
            Some(other) => {
                return Err(format!(
                    "tls_server_config: client_auth_type {other} is not supported; there are NoClientCert, \
                     VerifyClientCertIfGiven and RequireAndVerifyClientCert"
                ));
            }
        };
        let config = builder.with_single_cert(certificates, key);
        let mut config =
            config.map_err(|error| format!("{} with {}: {error}", cert_file.display(), key_file.display()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((config, required))
    }
}

fn versions(least: Option<&str>, most: Option<&str>) -> Result<Vec<&'static rustls::SupportedProtocolVersion>, String> {
    let number = |text: Option<&str>, default: u8| match text {
        None | Some("") => Ok(default),
        Some("TLS12") => Ok(2),
        Some("TLS13") => Ok(3),
        Some(other) => Err(format!("tls_server_config: version {other} is not supported; there are TLS12 and TLS13")),
    };
    let (least, most) = (number(least, 2)?, number(most, 3)?);
    let versions: Vec<_> = [(2, &TLS12), (3, &TLS13)]
        .into_iter()
        .filter(|(number, _)| (least..=most).contains(number))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        Err("tls_server_config: min_version is above max_version".to_owned())
    } else {
        Ok(versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<WebConfig, String> {
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        std::fs::write(file.path(), text).map_err(|error| error.to_string())?;
        WebConfig::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn users_need_hashes_that_can_be_verified() {
        let hash = bcrypt::hash("secret", 4).unwrap_or_else(|error| panic!("{error}"));
        let config = read(&format!("basic_auth_users:\n  alice: {hash}\n")).unwrap_or_else(|error| panic!("{error}"));
        assert!(config.is_guarded() && config.tls.is_none());
        assert!(read("basic_auth_users:\n  alice: secret\n").is_err_and(|error| error.contains("alice")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("tls_server_config:\n  cert_file: a.pem\n", "key_file"),
            ("tls_server_config:\n  cert_file: /nowhere/a.pem\n  key_file: /nowhere/a.key\n", "/nowhere/a.pem"),
            ("tls_server_config:\n  cipher_suites: [X]\n", "cipher_suites"),
            ("basic_auth_user: {}\n", "basic_auth_user"),
            ("http_server_config:\n  headers:\n    Server: x\n", "Server"),
        ] {
            let error = read(text).err().unwrap_or_default();
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(WebConfig::read(Path::new("/nowhere.yml")).is_err());
        assert!(read("# nothing\n").is_ok_and(|config| !config.is_guarded()));
    }

    #[test]
    fn a_file_that_is_written_again_has_changed() {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(file.path(), "{}").unwrap_or_else(|error| panic!("{error}"));
        let config = WebConfig::read(file.path()).unwrap_or_else(|error| panic!("{error}"));
        assert!(!config.has_changed());
        std::fs::write(file.path(), "basic_auth_users: {}\n").unwrap_or_else(|error| panic!("{error}"));
        assert!(config.has_changed());
    }
}
