//! Whom threads wait for on sockets. In: the kernel's addresses. Out: their texts, each kept once and not too many.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use profiler_ebpf::record::Peer;
use rustc_hash::FxHashMap;

/// Peers told apart in one recording: a server's clients, each with a port of its own, are without number.
const MOST: usize = 512;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The peers seen so far.
#[derive(Debug, Default)]
pub struct Peers {
    known: FxHashMap<Peer, Option<Arc<str>>>,
}

impl Peers {
    /// `ip:port` or a UNIX socket's path; `None` where there is no peer, or one too many.
    pub fn text(&mut self, peer: &Peer) -> Option<Arc<str>> {
        if peer.family == 0 || peer.length == 0 {
            return None;
        }
        let mut key = *peer;
        // What lies behind the address is left over from other records.
        let length = (key.length as usize).min(key.address.len());
        key.address[length..].fill(0);
        if let Some(text) = self.known.get(&key) {
            return text.clone();
        }
        if self.known.len() >= MOST {
            return None;
        }
        let text: Option<Arc<str>> = text_of(&key).map(Arc::from);
        self.known.insert(key, text.clone());
        text
    }
}

fn text_of(peer: &Peer) -> Option<String> {
    let port = u16::from_be(peer.port);
    match peer.family {
        AF_INET | AF_INET6 if port == 0 => None,
        AF_INET => {
            let address: [u8; 4] = peer.address[..4].try_into().ok()?;
            Some(SocketAddr::from((Ipv4Addr::from(address), port)).to_string())
        }
        AF_INET6 => {
            let address: [u8; 16] = peer.address[..16].try_into().ok()?;
            Some(SocketAddr::from((Ipv6Addr::from(address).to_canonical(), port)).to_string())
        }
        AF_UNIX => unix_path(peer),
        _ => None,
    }
}

/// A path ends at its zero byte; a name without a file begins with one and is written with `@` in its place.
fn unix_path(peer: &Peer) -> Option<String> {
    let length = peer.length as usize;
    let bytes = peer.address.get(..length.min(peer.address.len()))?;
    let (mark, name) = match bytes.split_first()? {
        (0, rest) => ("@", rest),
        _ => ("", bytes.split(|byte| *byte == 0).next()?),
    };
    let cut = if length > bytes.len() && name.len() + mark.len() == bytes.len() { "…" } else { "" };
    (!name.is_empty()).then(|| format!("{mark}{}{cut}", String::from_utf8_lossy(name)))
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::record::ADDRESS_BYTES;

    use super::*;

    fn peer(family: u16, port: u16, length: usize, bytes: &[u8]) -> Peer {
        let mut address = [0xee; ADDRESS_BYTES];
        let here = bytes.len().min(ADDRESS_BYTES);
        address[..here].copy_from_slice(&bytes[..here]);
        Peer { family, port: port.to_be(), length: length as u32, address }
    }

    fn text(peer: &Peer) -> Option<String> {
        Peers::default().text(peer).map(|text| text.to_string())
    }

    #[test]
    fn addresses_are_written_as_users_write_them() {
        assert_eq!(text(&peer(AF_INET, 6379, 4, &[10, 0, 0, 7])).as_deref(), Some("10.0.0.7:6379"));
        let mut loopback = [0; 16];
        loopback[15] = 1;
        assert_eq!(text(&peer(AF_INET6, 80, 16, &loopback)).as_deref(), Some("[::1]:80"));
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        assert_eq!(text(&peer(AF_INET6, 80, 16, &mapped)).as_deref(), Some("127.0.0.1:80"));
    }

    #[test]
    fn a_socket_that_listens_has_no_peer() {
        assert_eq!(text(&peer(AF_INET, 0, 4, &[0; 4])), None);
        assert_eq!(text(&peer(0, 80, 4, &[1; 4])), None);
    }

    #[test]
    fn unix_sockets_have_paths_names_or_nothing() {
        assert_eq!(text(&peer(AF_UNIX, 0, 12, b"/run/a.sock\0")).as_deref(), Some("/run/a.sock"));
        assert_eq!(text(&peer(AF_UNIX, 0, 5, b"\0name")).as_deref(), Some("@name"));
        assert_eq!(text(&peer(AF_UNIX, 0, 0, b"")), None);
        let long = [b'a'; 100];
        let cut = text(&peer(AF_UNIX, 0, 100, &long)).unwrap_or_default();
        assert!(cut.ends_with("a…") && cut.chars().count() == ADDRESS_BYTES + 1, "{cut}");
    }

    #[test]
    fn a_servers_clients_do_not_fill_memory() {
        let mut peers = Peers::default();
        let named = (1..=2000).filter(|port| peers.text(&peer(AF_INET, *port, 4, &[10, 0, 0, 7])).is_some()).count();
        assert_eq!(named, MOST);
        assert!(peers.text(&peer(AF_INET, 1, 4, &[10, 0, 0, 7])).is_some(), "known ones stay known");
    }
}
