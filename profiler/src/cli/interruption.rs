//! Signals that ask a recording to end. In: SIGINT, SIGTERM, SIGQUIT and SIGHUP. Out: one request after the other.

use std::{io, time::Duration};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};

use crate::inherited;

/// Signals this close together are one request: `timeout` signals its child and then the group, systemd sends SIGHUP after
/// SIGTERM.
pub const ONE_REQUEST: Duration = Duration::from_millis(100);

/// Requests to end.
#[derive(Debug)]
pub struct Interruptions(Signals);

impl Interruptions {
    /// From now on these signals do not end the process. A SIGHUP that was ignored (`nohup`) stays so.
    pub fn listen() -> io::Result<Self> {
        let mut signals = vec![SIGINT, SIGTERM, SIGQUIT];
        if !inherited::is_ignored(SIGHUP) {
            signals.push(SIGHUP);
        }
        Ok(Self(Signals::new(signals)?))
    }

    /// A signal that has come since the last call, if one has.
    pub fn take(&mut self) -> Option<i32> {
        self.0.pending().next()
    }

    /// Forgets what came with the request that was taken last.
    pub fn forget(&mut self) {
        self.0.pending().for_each(drop);
    }
}
