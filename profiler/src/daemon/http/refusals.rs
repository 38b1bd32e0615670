//! Requests and connections that are refused, by reason. In: each refusal. Out: counters for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request is refused or a connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// All connections are taken, or all but those kept for probes and scrapes.
    Connections,
    /// The connection was idle, and another client needed it.
    Evicted,
    /// Too many answers that read windows are being made.
    Turns,
    /// Too many pulls wait for the end of their windows.
    Pulls,
    /// Too many passwords wait to be verified.
    Passwords,
    /// The host that was asked for is none of ours.
    Host,
    /// A page of another site asks.
    Origin,
}

const NAMES: [&str; 7] = ["connections", "evicted", "turns", "pulls", "passwords", "host", "origin"];

/// Counters by reason.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; NAMES.len()]);

impl Refusals {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every reason with its count.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        NAMES.into_iter().zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_name() {
        let refusals = Refusals::default();
        for (reason, times) in [(Reason::Connections, 1), (Reason::Passwords, 2), (Reason::Origin, 3)] {
            (0..times).for_each(|_| refusals.count(reason));
        }
        let counted: Vec<_> = refusals.figures().into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [("connections", 1), ("passwords", 2), ("origin", 3)]);
    }
}
