//! Which hosts are ours. In: a request's target and headers. Out: the request is meant for this server and does not come
//! from another site's page, or it is refused.
//!
//! A page of any site may make a browser ask this server; where its name is made to resolve to this host's address, the browser
//! takes the answers for the page's own (DNS rebinding). The browser then still says the page's name in `Host`.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, Version, header, uri::Authority};

/// A name, or all names below one, that requests may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Every host.
    Any,
    /// This one.
    Name(String),
    /// All below this one: `*.NAME`.
    Below(String),
}

/// Which hosts requests may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHosts {
    /// None: every host.
    patterns: Option<Vec<Pattern>>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misdirected {
    /// The host cannot be read, or there are several.
    #[error("one Host header with a name or an address is needed")]
    Malformed,
    /// The host is none of ours.
    #[error(
        "requests may ask for localhost, an IP address, this host's name, or a name given by --web.allowed-host \
         (web.allowed_hosts in the configuration)"
    )]
    Foreign,
}

impl Pattern {
    /// `NAME`, `*.NAME` or `*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "a host is NAME, *.NAME for all below it, or * for every host, without a port".to_owned();
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let text = normal(text.trim());
        let (name, below) = text.strip_prefix("*.").map_or((text.as_str(), false), |name| (name, true));
        let is_name = name
            .split('.')
            .all(|label| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        match (is_name, below) {
            (true, true) => Ok(Self::Below(name.to_owned())),
            (true, false) => Ok(Self::Name(name.to_owned())),
            (false, _) => Err(wrong()),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => host == name,
            Self::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

/// In lower case, without the dot that ends a complete name.
fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

impl AllowedHosts {
    /// Hosts are checked where requests can only come from this host, on its loopback interface, and where hosts were
    /// configured. Elsewhere names are the network's business: a service's name cannot be known here.
    pub fn new(listening: IpAddr, configured: &[Pattern], own_names: &[&str]) -> Self {
        if configured.contains(&Pattern::Any) || (configured.is_empty() && !listening.to_canonical().is_loopback()) {
            return Self { patterns: None };
        }
        let fixed = [
            Pattern::Name("localhost".to_owned()),
            Pattern::Below("localhost".to_owned()),
            Pattern::Name("ip6-localhost".to_owned()),
        ];
        let own = own_names.iter().filter_map(|name| Pattern::parse(name).ok()).filter(|own| *own != Pattern::Any);
        Self { patterns: Some(fixed.into_iter().chain(own).chain(configured.iter().cloned()).collect()) }
    }

    /// Whether a request is meant for this server: the host in its target, if it has one, and that in its header.
    pub fn judge(&self, version: Version, target: &Uri, headers: &HeaderMap) -> Result<(), Misdirected> {
        let Some(patterns) = &self.patterns else { return Ok(()) };
        let mut named = headers.get_all(header::HOST).iter();
        let in_header = named.next();
        if named.next().is_some() {
            return Err(Misdirected::Malformed);
        }
        if let Some(host) = in_header {
            let host = host.to_str().map_err(|_| Misdirected::Malformed)?;
            judge_authority(patterns, host)?;
        } else if version >= Version::HTTP_11 {
            // Browsers always say it; of older programs, some do not.
            return Err(Misdirected::Malformed);
        }
        target.authority().map_or(Ok(()), |authority| judge_authority(patterns, authority.as_str()))
    }
}

fn judge_authority(patterns: &[Pattern], text: &str) -> Result<(), Misdirected> {
    let authority: Authority = text.parse().map_err(|_| Misdirected::Malformed)?;
    let host = authority.host();
    let port = text.strip_prefix(host).ok_or(Misdirected::Malformed)?;
    if host.is_empty() || !(port.is_empty() || port == ":" || authority.port_u16().is_some()) {
        return Err(Misdirected::Malformed);
    }
    let host = normal(host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    // A page's name is no address; whoever typed an address meant it.
    let is_ours = address.parse::<IpAddr>().is_ok() || patterns.iter().any(|pattern| pattern.matches(&host));
    if is_ours { Ok(()) } else { Err(Misdirected::Foreign) }
}

/// Whether a page of another site makes the browser ask. Opening an address, by hand or by a link, is no such thing.
pub fn is_cross_site(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let origin = text("origin");
    let elsewhere = match text("sec-fetch-site") {
        Some(site) => !matches!(site, "same-origin" | "none"),
        // Browsers without it: the host of the page is to be ours.
        None => origin.is_some_and(|origin| {
            let page = origin.split_once("://").map(|(_, authority)| authority);
            !page.zip(text("host")).is_some_and(|(page, host)| page.eq_ignore_ascii_case(host))
        }),
    };
    if reads {
        let opened = text("sec-fetch-mode") == Some("navigate") && text("sec-fetch-dest") == Some("document");
        elsewhere && !opened
    } else {
        // Our own page changes nothing.
        elsewhere || origin.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const EVERYWHERE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).unwrap_or_else(|error| panic!("{error}"));
            (HeaderName::from_static(name), value)
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    fn judged(hosts: &AllowedHosts, host: &str) -> Result<(), Misdirected> {
        hosts.judge(Version::HTTP_11, &Uri::from_static("/metrics"), &headers(&[("host", host)]))
    }

    #[test]
    fn on_loopback_only_this_hosts_names_and_addresses_are_served() {
        let hosts = AllowedHosts::new(LOOPBACK, &[], &["node-a.example.org"]);
        for ours in [
            "localhost",
            "localhost:9590",
            "LOCALHOST.",
            "localhost.:9590",
            "x.localhost",
            "127.0.0.1",
            "127.0.0.1:9590",
            "127.0.0.1.",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9590",
            "[2001:DB8::1]:1",
            "Node-A.example.org:9590",
        ] {
            assert_eq!(judged(&hosts, ours), Ok(()), "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:9590",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evillocalhost",
            "x",
            "0x7f000001",
            "127.1",
            "node-a",
            "a.node-a.example.org",
            "evil.example.",
            "EVIL.example",
        ] {
            assert_eq!(judged(&hosts, foreign), Err(Misdirected::Foreign), "{foreign}");
        }
        for malformed in
            ["", ":9590", "localhost:port", "localhost@evil.example", "[::1", "::1", "a b", "localhost:99999"]
        {
            assert!(judged(&hosts, malformed).is_err(), "{malformed}");
        }
    }

    #[test]
    fn several_hosts_or_none_are_refused_and_the_target_counts_too() {
        let hosts = AllowedHosts::new(LOOPBACK, &[], &[]);
        let path = Uri::from_static("/");
        let judge =
            |version, target: &Uri, names: &[(&'static str, &str)]| hosts.judge(version, target, &headers(names));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(judge(Version::HTTP_11, &path, &twice), Err(Misdirected::Malformed));
        assert_eq!(judge(Version::HTTP_11, &path, &[]), Err(Misdirected::Malformed));
        assert_eq!(judge(Version::HTTP_10, &path, &[]), Ok(()), "HTTP/1.0 has no such header");
        let absolute = Uri::from_static("http://evil.example/metrics");
        assert_eq!(judge(Version::HTTP_11, &absolute, &[("host", "localhost")]), Err(Misdirected::Foreign));
        assert_eq!(judge(Version::HTTP_10, &absolute, &[]), Err(Misdirected::Foreign));
        let absolute = Uri::from_static("http://localhost:9590/metrics");
        assert_eq!(judge(Version::HTTP_11, &absolute, &[("host", "evil.example")]), Err(Misdirected::Foreign));
        assert_eq!(judge(Version::HTTP_11, &absolute, &[("host", "localhost:9590")]), Ok(()));
    }

    #[test]
    fn elsewhere_hosts_are_checked_once_some_are_configured() {
        let pattern = |text: &str| Pattern::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(judged(&AllowedHosts::new(EVERYWHERE, &[], &[]), "evil.example"), Ok(()));
        let hosts = AllowedHosts::new(EVERYWHERE, &[pattern("*.svc.cluster.local"), pattern("Profiler.")], &[]);
        for ours in ["profiler", "a.b.svc.cluster.local:9590", "10.0.0.7", "localhost"] {
            assert_eq!(judged(&hosts, ours), Ok(()), "{ours}");
        }
        for foreign in ["svc.cluster.local", "xsvc.cluster.local", "profiler.evil.example"] {
            assert_eq!(judged(&hosts, foreign), Err(Misdirected::Foreign), "{foreign}");
        }
        assert_eq!(judged(&AllowedHosts::new(LOOPBACK, &[pattern("*")], &[]), "evil.example"), Ok(()));
        for wrong in ["", "a:1", "http://a", "*a", "a.*", "a..b", "*.", "a/b"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_sites_pages_can_link_here_and_nothing_else() {
        type Headers<'h> = &'h [(&'static str, &'h str)];

        let host = ("host", "localhost:9590");
        let cross = ("sec-fetch-site", "cross-site");
        let cases: [(Method, Headers<'_>, bool); 12] = [
            (Method::GET, &[host], false),
            (Method::POST, &[host], false),
            (Method::GET, &[host, ("sec-fetch-site", "same-origin")], false),
            (Method::GET, &[host, ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")], false),
            (Method::GET, &[host, cross], true),
            (Method::GET, &[host, ("sec-fetch-site", "same-site")], true),
            (Method::GET, &[host, cross, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], false),
            (Method::GET, &[host, cross, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], true),
            (Method::GET, &[host, ("origin", "https://evil.example")], true),
            (Method::GET, &[host, ("origin", "http://localhost:9590")], false),
            (Method::POST, &[host, ("origin", "http://localhost:9590")], true),
            (Method::POST, &[host, cross, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], true),
        ];
        for (method, pairs, expected) in cases {
            assert_eq!(is_cross_site(&method, &headers(pairs)), expected, "{method} {pairs:?}");
        }
    }
}
