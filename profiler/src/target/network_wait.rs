//! `network_wait`: blocked on an answer from a peer that this code has asked, not on new requests. The peer is named
//! where the recording knows it.
//!
//! **Rule.** Waits that [`waiting`](super::waiting) knows to be for an answer, below one function, are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second.
//!
//! **Which peer.** Peers are known by container, not by function. Those that ask this container are there as well: they
//! have ports that the kernel chose, from [`FIRST_CHOSEN_PORT`] on, and services have others. So services go first, then
//! those that were waited for longest.
//!
//! **What a fix leaves.** Questions asked together take as long as the slowest of them; a cached answer takes no time.

use std::cmp::Reverse;

use super::disk_wait::blocked;
use super::finding::Finding;
use super::kind::Kind;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};
use crate::profile::{Container, OffCpuReason};

/// Where Linux begins to choose ports for those who ask (`net.ipv4.ip_local_port_range`).
const FIRST_CHOSEN_PORT: u16 = 32_768;

/// Peers that are shown.
const SHOWN: usize = 3;

/// Finds them.
pub fn find(scene: &Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let peers = peers(scene.places[place].container);
    let peer = peers.first().map(|(peer, _)| *peer);
    let mut findings = blocked(scene, place, waits, Kind::NetworkWait, WaitFor::Answer, |function, each, rate| {
        let whom = peer.unwrap_or("a peer");
        format!("{function} waits for {whom} to answer, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    });
    for finding in &mut findings {
        for (peer, ns) in peers.iter().take(SHOWN) {
            let seconds = *ns as f64 / scene.window_ns;
            finding
                .evidence
                .push(format!("peer {peer}: waited for {seconds:.2} thread-seconds a second (connections)"));
        }
        if peers.is_empty() {
            finding.evidence.push("the peer's address was not recorded".to_owned());
        }
        finding.about = peer.map(str::to_owned);
    }
    findings
}

/// Peers that a container waited for, the likeliest to have been asked first.
fn peers(container: &Container) -> Vec<(&str, u64)> {
    let waits = container.waits.iter().filter(|wait| wait.reason == OffCpuReason::Network);
    let mut peers: Vec<(&str, u64)> = waits.filter_map(|wait| Some((wait.peer.as_deref()?, wait.ns))).collect();
    peers.sort_by_key(|(peer, ns)| (asks(peer), Reverse(*ns), *peer));
    peers
}

/// Whether the peer's port is one that the kernel gives to those who ask.
fn asks(peer: &str) -> bool {
    peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).is_some_and(|port: u16| port >= FIRST_CHOSEN_PORT)
}
