//! `network_wait`: blocked on an answer from a peer that this code has asked, not on new requests. The peer is named
//! where the recording knows it.
//!
//! **Rule.** Waits that [`waiting`](super::waiting) knows to be for an answer, below one function, are at least
//! [`LEAST_WAITING`](super::finding::LEAST_WAITING) thread-seconds a second.
//!
//! **Which peer.** The one that most of these waits were for; the others are in the evidence.
//!
//! **Connections.** Where the container opens at least half as many as it waits for answers, most questions make their own, and
//! the peer has to take it in and set itself up before it can answer: this is said, and what to do about it first.
//!
//! **What a fix leaves.** Questions asked together take as long as the slowest of them; a cached answer takes no time.

use rustc_hash::FxHashMap;

use super::blocked::{Family, blocked};
use super::calls::{Calls, KEEP_CONNECTIONS};
use super::finding::Finding;
use super::kind::Kind;
use super::mark::Marks;
use super::scene::{FunctionId, Scene};
use super::waiting::{WaitFor, Waits};
use crate::profile::TextId;

/// Peers that are shown.
const SHOWN: usize = 3;

/// Finds them.
pub fn find(scene: &mut Scene<'_>, place: usize, waits: &Waits, calls: &Calls<'_>) -> Vec<Finding> {
    let family = Family { kind: Kind::NetworkWait, wait: WaitFor::Answer, on_cpu: Marks::default() };
    let mut findings = blocked(scene, place, waits, &family, |function, each, rate| {
        format!("{function} waits for a peer to answer, {:.2} ms each, {rate:.0} times a second", each / 1e6)
    });
    // Counters do not know the caller, so this is said of the container and beside the usual remedy.
    let waits_here = scene.places[place].waits.iter().zip(&waits[place]);
    let answers: f64 = waits_here.filter(|(_, class)| **class == WaitFor::Answer).map(|(row, _)| row.count).sum();
    let reconnects = calls.reconnects() && calls.count(&["connect"]) * 2.0 >= answers;
    for finding in &mut findings {
        if reconnects {
            let rate = calls.rate("connect");
            let answers = answers / calls.window_s;
            finding.evidence.push(format!(
                "the container opens {rate:.0} connections a second for {answers:.0} answers that it waits for (syscall counters)"
            ));
            finding.remedy = Some(format!("{KEEP_CONNECTIONS}; then {}", Kind::NetworkWait.remedy()));
        }
        let peers = finding.blame.map(|function| peers(scene, place, waits, function)).unwrap_or_default();
        let Some((first, _)) = peers.first() else {
            finding.evidence.push("the peer's address was not recorded".to_owned());
            continue;
        };
        finding.title = finding.title.replacen("a peer", first, 1);
        finding.about = Some((*first).to_owned());
        for (peer, ns) in peers.iter().take(SHOWN) {
            let seconds = ns / scene.window_ns;
            finding.evidence.push(format!("peer {peer}: {seconds:.2} thread-seconds a second (off-CPU stacks)"));
        }
        if let Some(more) = peers.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            finding.evidence.push(format!("and {more} more peers"));
        }
    }
    findings
}

/// The peers that a function waited for, the longest first.
fn peers<'p>(scene: &Scene<'p>, place: usize, waits: &Waits, function: FunctionId) -> Vec<(&'p str, f64)> {
    let mut sums: FxHashMap<TextId, f64> = FxHashMap::default();
    for (row, class) in scene.places[place].waits.iter().zip(&waits[place]) {
        if *class == WaitFor::Answer
            && let Some(peer) = row.peer
            && scene.blame(row.process, row.stack) == Some(function)
        {
            *sums.entry(peer).or_default() += row.ns;
        }
    }
    let mut peers: Vec<_> = sums.into_iter().map(|(peer, ns)| (scene.profile.stacks.text_of(peer), ns)).collect();
    peers.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    peers
}
