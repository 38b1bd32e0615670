//! Exporter-toolkit's web configuration. In: its YAML file and the certificates it names. Out: TLS, users and headers, or what is
//! wrong with them.
//!
//! Format: <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>. Every option does what it
//! says there, or is refused with a message: what would need another TLS library (cipher suites, curves, certificates asked
//! for but not verified, names in certificates), HTTP/2 and limits of rates. Messages name line and key and quote no value.

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

use super::passwords;
use crate::daemon::yaml_error::{self, YamlError};

/// Headers that the file may set, with the values that they may have; any if there are none.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// The most that a hash of a password may cost: it takes four seconds to verify.
const MAX_COST: u32 = 16;

/// Longest path that a message shows; what is longer is no path, but perhaps a key pasted in the wrong line.
const MAX_PATH_BYTES: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<Tls>,
    http_server_config: Http,
    rate_limit: Option<RateLimit>,
    basic_auth_users: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    http2: Option<bool>,
    headers: BTreeMap<String, String>,
}

/// Refused, so that only its being there matters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RateLimit {
    #[serde(rename = "interval")]
    _interval: Option<String>,
    #[serde(rename = "burst")]
    _burst: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: Option<String>,
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
    /// The highest cost among those hashes.
    pub most_cost: u32,
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
            let mut source = Source { text: &text, directory, files: &mut files };
            let tls = file.tls_server_config.map(|tls| tls.settle(&mut source)).transpose()?;
            let client_certificates = tls.as_ref().is_some_and(|(_, required)| *required);
            Ok(Self {
                tls: tls.map(|(config, _)| Arc::new(config)),
                most_cost: file.basic_auth_users.values().filter_map(|hash| passwords::cost(hash)).max().unwrap_or(0),
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
    let file: File = yaml_error::parse(text).map_err(|error| error.to_string())?;
    let wrong = |keys: &[&str], what: String| YamlError::at(text, keys, what).to_string();
    for (user, hash) in &file.basic_auth_users {
        check_hash(hash).map_err(|what| wrong(&["basic_auth_users", user], what))?;
    }
    if file.rate_limit.is_some() {
        return Err(wrong(&["rate_limit"], "is not supported; leave it out".to_owned()));
    }
    if file.http_server_config.http2 == Some(true) {
        let what = "only HTTP/1.1 is served; say false, or leave it out".to_owned();
        return Err(wrong(&["http_server_config", "http2"], what));
    }
    let mut headers = Vec::new();
    for (name, value) in &file.http_server_config.headers {
        let header = header(name, value).map_err(|what| wrong(&["http_server_config", "headers", name], what))?;
        headers.extend(header);
    }
    Ok((file, headers))
}

/// Whether the text makes sense by itself, without the files that it names.
pub fn check(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

fn check_hash(hash: &str) -> Result<(), String> {
    // The library's own errors quote the hash.
    let not_a_hash = || "not a bcrypt hash; make one with `htpasswd -nBC 10 USER`".to_owned();
    hash.parse::<bcrypt::HashParts>().map_err(|_| not_a_hash())?;
    // Verifying says whether salt and digest can be read; at the least cost, that takes a millisecond.
    let cost = passwords::cost(hash).ok_or_else(not_a_hash)?;
    if cost > MAX_COST {
        return Err(format!("a hash of cost {cost} takes too long to verify; {MAX_COST} is the most"));
    }
    let cheap = hash.replacen(&format!("${cost:02}$"), "$04$", 1);
    bcrypt::verify("", &cheap).map(drop).map_err(|_| not_a_hash())
}

/// A header, or none where the value is empty: that leaves the header out.
fn header(name: &str, value: &str) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let known = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let Some((known, values)) = known else {
        let names = HEADERS.map(|(name, _)| name).join(", ");
        return Err(format!("this header cannot be set; there are {names}"));
    };
    if value.is_empty() {
        return Ok(None);
    }
    if !values.is_empty() && !values.iter().any(|one| one.eq_ignore_ascii_case(value)) {
        return Err(format!("may be {}", values.join(" or ")));
    }
    let key = HeaderName::try_from(known.to_ascii_lowercase()).map_err(|error| error.to_string())?;
    let value = HeaderValue::try_from(value).map_err(|_| "holds what no header may hold".to_owned())?;
    Ok(Some((key, value)))
}

/// Where settings of TLS come from: the text, the directory that paths start at, and the files that were read.
struct Source<'a> {
    text: &'a str,
    directory: &'a Path,
    files: &'a mut Vec<PathBuf>,
}

impl Source<'_> {
    fn wrong(&self, key: &str, what: impl Into<String>) -> String {
        YamlError::at(self.text, &["tls_server_config", key], what).to_string()
    }

    /// PEM that is given by a file or as text.
    fn pem(&mut self, key: &str, text: Option<String>, file: Option<PathBuf>) -> Result<Option<Pem>, String> {
        let key_of_file = format!("{key}_file");
        match (text.filter(|text| !text.is_empty()), file.filter(|file| !file.as_os_str().is_empty())) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(self.wrong(key, format!("give {key} or {key_of_file}, not both"))),
            (Some(text), None) => Ok(Some(Pem { bytes: text.into_bytes(), key: key.to_owned(), path: None })),
            (None, Some(file)) => {
                let path = self.directory.join(file);
                self.files.push(path.clone());
                let bytes = std::fs::read(&path)
                    .map_err(|error| self.wrong(&key_of_file, format!("{}: {error}", shown_path(&path))))?;
                Ok(Some(Pem { bytes, key: key_of_file, path: Some(path) }))
            }
        }
    }

    fn certificates(&self, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.bytes).collect();
        // The library's own errors quote what they could not read.
        let read = read.map_err(|_| self.wrong(&pem.key, format!("{}no certificates in PEM", pem.place())))?;
        if read.is_empty() {
            return Err(self.wrong(&pem.key, format!("{}no certificate", pem.place())));
        }
        Ok(read)
    }
}

/// What a setting gives, and where it was found.
struct Pem {
    bytes: Vec<u8>,
    key: String,
    path: Option<PathBuf>,
}

impl Pem {
    /// The file's name, if it is one.
    fn place(&self) -> String {
        self.path.as_deref().map(|path| format!("{}: ", shown_path(path))).unwrap_or_default()
    }
}

fn shown_path(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown.len() > MAX_PATH_BYTES || shown.chars().any(char::is_control) {
        "(a path not shown)".to_owned()
    } else {
        shown
    }
}

/// How clients are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientAuth {
    No,
    IfGiven,
    Required,
}

impl ClientAuth {
    fn parse(text: Option<&str>) -> Result<Self, String> {
        let supported = "there are NoClientCert, VerifyClientCertIfGiven and RequireAndVerifyClientCert";
        match text {
            None | Some("" | "NoClientCert") => Ok(Self::No),
            Some("VerifyClientCertIfGiven") => Ok(Self::IfGiven),
            Some("RequireAndVerifyClientCert") => Ok(Self::Required),
            Some(known @ ("RequestClientCert" | "RequireClientCert" | "RequireAnyClientCert")) => {
                Err(format!("{known} is not supported, as it verifies no certificate; {supported}"))
            }
            Some(_) => Err(format!("no such type; {supported}")),
        }
    }
}

impl Tls {
    fn settle(self, source: &mut Source<'_>) -> Result<(ServerConfig, bool), String> {
        for (key, given) in [
            ("cipher_suites", &self.cipher_suites),
            ("curve_preferences", &self.curve_preferences),
            ("client_allowed_sans", &self.client_allowed_sans),
        ] {
            if given.as_ref().is_some_and(|list| !list.is_empty()) {
                return Err(source.wrong(key, "is not supported; leave it out"));
            }
        }
        let client_auth = ClientAuth::parse(self.client_auth_type.as_deref());
        let client_auth = client_auth.map_err(|what| source.wrong("client_auth_type", what))?;
        let versions = versions(self.min_version.as_deref(), self.max_version.as_deref());
        let versions = versions.map_err(|(key, what)| source.wrong(key, what))?;
        let missing = |source: &Source<'_>, key: &str| {
            YamlError::at(source.text, &["tls_server_config"], format!("{key} is missing")).to_string()
        };
        let has_key = self.key.as_ref().is_some_and(|text| !text.is_empty());
        if !has_key && self.key_file.as_ref().is_none_or(|file| file.as_os_str().is_empty()) {
            return Err(missing(source, "key_file"));
        }
        let cert = source.pem("cert", self.cert, self.cert_file)?.ok_or_else(|| missing(source, "cert_file"))?;
        let key = source.pem("key", self.key, self.key_file)?.ok_or_else(|| missing(source, "key_file"))?;
        let client_ca = source.pem("client_ca", self.client_ca, self.client_ca_file)?;
        let certificates = source.certificates(&cert)?;
        let private = PrivateKeyDer::from_pem_slice(&key.bytes)
            .map_err(|_| source.wrong(&key.key, format!("{}no private key in PEM", key.place())))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?;
        let builder = match (client_auth, client_ca) {
            (ClientAuth::No, None) => builder.with_no_client_auth(),
            (ClientAuth::No, Some(pem)) => {
                let what = "client certificates are not asked for without client_auth_type; give \
                            RequireAndVerifyClientCert or VerifyClientCertIfGiven";
                return Err(source.wrong(&pem.key, what));
            }
            (_, None) => return Err(missing(source, "client_ca_file")),
            (_, Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in source.certificates(&pem)? {
                    roots
                        .add(certificate)
                        .map_err(|error| source.wrong(&pem.key, format!("{}{error}", pem.place())))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                let verifier = match client_auth {
                    ClientAuth::IfGiven => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
            }
        };
        let config = builder.with_single_cert(certificates, private);
        let mut config = config.map_err(|error| source.wrong(&cert.key, format!("{}{error}", cert.place())))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ignore_client_order = self.prefer_server_cipher_suites.unwrap_or(true);
        Ok((config, client_auth == ClientAuth::Required))
    }
}

type Versions = Vec<&'static rustls::SupportedProtocolVersion>;

/// Versions from one to another, or the key that is wrong and why.
fn versions(least: Option<&str>, most: Option<&str>) -> Result<Versions, (&'static str, String)> {
    let number = |key, text: Option<&str>, default: u8| match text {
        None | Some("") => Ok(default),
        Some("TLS12") => Ok(2),
        Some("TLS13") => Ok(3),
        Some(known @ ("TLS10" | "TLS11")) => Err((key, format!("{known} is not supported; there are TLS12 and TLS13"))),
        Some(_) => Err((key, "no such version; there are TLS12 and TLS13".to_owned())),
    };
    let (least, most) = (number("min_version", least, 2)?, number("max_version", most, 3)?);
    let versions: Versions = [(2, &TLS12), (3, &TLS13)]
        .into_iter()
        .filter(|(number, _)| (least..=most).contains(number))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() { Err(("min_version", "is above max_version".to_owned())) } else { Ok(versions) }
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

    /// A certificate and its key, each in PEM.
    fn pair() -> [String; 2] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let made = made.unwrap_or_else(|error| panic!("{error}"));
        [made.cert.pem(), made.signing_key.serialize_pem()]
    }

    /// A directory with `c.pem`, `k.pem` and the file itself, read.
    fn read_with_pair(text: &str) -> Result<WebConfig, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let [certificate, key] = pair();
        for (name, text) in [("c.pem", certificate.as_str()), ("k.pem", &key), ("web.yml", text)] {
            std::fs::write(directory.path().join(name), text).map_err(|error| error.to_string())?;
        }
        WebConfig::read(&directory.path().join("web.yml")).map_err(|error| error.to_string())
    }

    /// What an option should come to.
    enum Then {
        Taken,
        /// With a message that says so.
        Refused(&'static str),
    }
    use Then::{Refused, Taken};

    #[test]
    fn every_option_of_tls_is_honoured_or_refused_with_a_message() {
        let required = "client_auth_type: RequireAndVerifyClientCert";
        let no_policy = "line 4: tls_server_config.client_ca_file: client certificates are not asked for";
        let cases: &[(&str, Then)] = &[
            ("", Taken),
            ("client_auth_type: NoClientCert", Taken),
            ("client_auth_type: ''", Taken),
            (
                "client_auth_type: RequestClientCert",
                Refused("line 4: tls_server_config.client_auth_type: RequestClient"),
            ),
            ("client_auth_type: RequireAnyClientCert", Refused("RequireAnyClientCert is not supported")),
            ("client_auth_type: RequireClientCert", Refused("RequireClientCert is not supported")),
            ("client_auth_type: Whatever", Refused("no such type")),
            ("client_auth_type: VerifyClientCertIfGiven", Refused("client_ca_file is missing")),
            (required, Refused("client_ca_file is missing")),
            ("client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: c.pem", Taken),
            ("client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: c.pem", Taken),
            ("client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: k.pem", Refused("no certificate")),
            ("client_ca_file: c.pem", Refused(no_policy)),
            ("client_ca_file: c.pem\n  client_auth_type: NoClientCert", Refused(no_policy)),
            ("client_ca_file: nowhere.pem", Refused("nowhere.pem: No such file")),
            ("client_allowed_sans: [a]", Refused("tls_server_config.client_allowed_sans: is not supported")),
            ("cipher_suites: [TLS_AES_128_GCM_SHA256]", Refused("tls_server_config.cipher_suites: is not supported")),
            ("cipher_suites: []", Taken),
            ("curve_preferences: [X25519]", Refused("tls_server_config.curve_preferences: is not supported")),
            ("prefer_server_cipher_suites: true", Taken),
            ("prefer_server_cipher_suites: false", Taken),
            ("min_version: TLS10", Refused("tls_server_config.min_version: TLS10 is not supported")),
            ("min_version: TLS12\n  max_version: TLS12", Taken),
            ("min_version: TLS13\n  max_version: TLS12", Refused("above max_version")),
            ("max_version: TLS11", Refused("tls_server_config.max_version: TLS11 is not supported")),
            ("max_version: SSL30", Refused("no such version")),
            ("cert: x", Refused("give cert or cert_file, not both")),
            ("key: x", Refused("give key or key_file, not both")),
            ("client_ca: x\n  client_ca_file: c.pem", Refused("give client_ca or client_ca_file, not both")),
            ("client_cas: c.pem", Refused("line 4: tls_server_config.client_cas: no such key")),
        ];
        for (option, then) in cases {
            let text = format!("tls_server_config:\n  cert_file: c.pem\n  key_file: k.pem\n  {option}\n");
            match (read_with_pair(&text), then) {
                (Ok(config), Taken) => {
                    assert!(config.tls.is_some());
                    assert_eq!(config.is_guarded(), option.starts_with(required), "{option}");
                }
                (Err(error), Refused(said)) => assert!(error.contains(said), "{option}: {error}"),
                (Ok(_), Refused(_)) => panic!("{option} is passed over"),
                (Err(error), Taken) => panic!("{option}: {error}"),
            }
        }
        let server_order = |option: &str| {
            let text = format!("tls_server_config: {{cert_file: c.pem, key_file: k.pem{option}}}\n");
            read_with_pair(&text).ok().and_then(|config| config.tls).map(|tls| tls.ignore_client_order)
        };
        assert_eq!(server_order(""), Some(true));
        assert_eq!(server_order(", prefer_server_cipher_suites: false"), Some(false));
    }

    #[test]
    fn certificates_may_stand_in_the_file_itself() {
        let [certificate, key] = pair();
        let indented = |pem: &str| pem.lines().flat_map(|line| ["    ", line, "\n"]).collect::<String>();
        let text = format!(
            "tls_server_config:\n  cert: |\n{}  key: |\n{}  client_ca: |\n{}  client_auth_type: {}\n",
            indented(&certificate),
            indented(&key),
            indented(&certificate),
            "RequireAndVerifyClientCert"
        );
        assert!(read(&text).is_ok_and(|config| config.tls.is_some() && config.is_guarded()));
        let error = read(&text.replace("client_auth_type", "client_auth_typ")).err().unwrap_or_default();
        assert!(error.contains("client_auth_typ: no such key"), "{error}");
        let secret = key.lines().nth(1).unwrap_or_default();
        assert!(!secret.is_empty() && !error.contains(secret), "{error}");
    }

    #[test]
    fn every_option_of_http_is_honoured_or_refused_with_a_message() {
        let cases: &[(&str, Then)] = &[
            ("http_server_config: {http2: false}", Taken),
            ("http_server_config: {http2: true}", Refused("line 1: http_server_config.http2: only HTTP/1.1")),
            ("http_server_config: {http3: true}", Refused("http_server_config.http3: no such key")),
            ("rate_limit: {interval: 1s, burst: 2}", Refused("line 1: rate_limit: is not supported")),
            ("http_server_config: {headers: {X-Frame-Options: deny}}", Taken),
            ("http_server_config: {headers: {X-Frame-Options: never}}", Refused("X-Frame-Options: may be deny or")),
            ("http_server_config: {headers: {X-Content-Type-Options: sniff}}", Refused("may be nosniff")),
            ("http_server_config: {headers: {Server: x}}", Refused("headers.Server: this header cannot be set")),
            ("http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}", Refused("X-XSS-Protection: holds")),
        ];
        for (text, then) in cases {
            match (read(text), then) {
                (Ok(_), Taken) => {}
                (Err(error), Refused(said)) => assert!(error.contains(said), "{text}: {error}"),
                (Ok(_), Refused(_)) => panic!("{text} is passed over"),
                (Err(error), Taken) => panic!("{text}: {error}"),
            }
        }
        let headers = "Strict-Transport-Security: a, X-Content-Type-Options: nosniff, X-XSS-Protection: '0', \
                       X-Frame-Options: '', Content-Security-Policy: b";
        let text = format!("http_server_config: {{headers: {{{headers}}}}}\n");
        let set = read(&text).map(|config| config.headers.len());
        assert_eq!(set, Ok(4), "an empty value leaves the header out");
    }

    #[test]
    fn no_message_shows_a_hash_or_a_key() {
        const HASH: &str = "$2y$10$abcdefghijklmnopqrstuuHUNTER2HUNTER2HUNTER2HUNTER2HUNT";
        for (text, line) in [
            (format!("basic_auth_users:\n  alice: {HASH}x\n"), "line 2: basic_auth_users.alice: "),
            (format!("basic_auth_users:\n  bob: {HASH}\n  alice: [{HASH}]\n"), "line 3: basic_auth_users.alice: "),
            (format!("basic_auth_users:\n  {HASH}: alice\n"), "line 2: basic_auth_users.(a key not shown): "),
            (format!("basic_auth_users:\n  bob: {HASH}\nhttp_server_confg: {{}}\n"), "line 3: http_server_confg: "),
            (format!("basic_auth_users: {HASH}\n"), "line 1: basic_auth_users: "),
            (format!("basic_auth_users:\n  bob:{HASH}\n"), "line "),
            (format!("basic_auth_users:\n  a: {}\n", HASH.replace("$10", "$31")), "line 2: basic_auth_users.a: "),
            (format!("tls_server_config:\n  cert: {HASH}\n  key: {HASH}\n"), "line 2: tls_server_config.cert: "),
            (format!("tls_server_config:\n  client_auth_type: {HASH}\n"), "line 2: tls_server_config.client_auth_type"),
            (format!("tls_server_config:\n  min_version: {HASH}\n"), "line 2: tls_server_config.min_version"),
        ] {
            let error = read(&text).err().unwrap_or_default();
            assert!(error.contains(line) && !error.contains("HUNTER2"), "{text}: {error}");
        }
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
