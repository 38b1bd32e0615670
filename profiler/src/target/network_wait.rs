//! `network_wait`: blocked on an answer from a peer that this code has asked, not on new requests. The peer is named
//! where the recording knows it.
//!
//! **Rule.** Waits that [`waiting`](super::waiting) knows to be for an answer, below one function, are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second.
//!
//! **What a fix leaves.** Questions asked together take as long as the slowest of them; a cached answer takes no time.

use super::disk_wait::blocked;
use super::finding::Finding;
use super::kind::Kind;
use super::scene::Scene;
use super::waiting::{WaitFor, Waits};
use crate::profile::OffCpuReason;

/// Finds them.
pub fn find(scene: &Scene<'_>, place: usize, waits: &Waits) -> Vec<Finding> {
    let container = scene.places[place].container;
    let peer =
        container.waits.iter().filter(|wait| wait.reason == OffCpuReason::Network).find_map(|wait| wait.peer.clone());
    let mut findings = blocked(scene, place, waits, Kind::NetworkWait, WaitFor::Answer, |function, each, rate| {
        let whom = peer.as_deref().unwrap_or("a peer");
        format!("{function} waits for {whom} to answer, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    });
    for finding in &mut findings {
        match &peer {
            Some(peer) => finding.evidence.push(format!("peer {peer} (connections)")),
            None => finding.evidence.push("the peer's address was not recorded".to_owned()),
        }
        finding.about.clone_from(&peer);
    }
    findings
}
