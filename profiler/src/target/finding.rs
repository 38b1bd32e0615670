//! What a kind hands in: a claim with its reasons, not yet ranked.

use super::kind::Kind;
use super::scene::FunctionId;
use crate::profile::StackId;

/// CPU time below this is no target: 0.05 cores. It is 1/20 of what one CPU gives, about 50 samples in ten seconds at the
/// default frequency (so known to 15 %), and less than what an hour of an engineer's work is worth.
pub const LEAST_CORES: f64 = 0.05;

/// Waiting below this is no target: 0.05 thread-seconds a second, one thread in twenty or a twentieth of one.
pub const LEAST_WAITING: f64 = 0.05;

/// Less than a tenth of what a container does is not what to change first there.
pub const LEAST_SHARE: f64 = 0.1;

/// Calls a second from which the kernel's fixed cost of a call can matter: a call costs 0.1 to 1 µs to make, so that
/// a thousand a second are at most a thousandth of a core, and only what they do can cost more. Fewer are never a storm.
pub const LEAST_CALLS: f64 = 500.0;

/// What a finding's figures were taken from; coverage of that decides how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// On-CPU samples.
    CpuSamples(u64),
    /// Off-CPU stacks.
    OffCpuStacks(u64),
    /// The ledger, which is exact.
    Ledger,
}

/// A claim.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Position of the container.
    pub place: usize,
    /// What kind.
    pub kind: Kind,
    /// Whom to blame.
    pub blame: Option<FunctionId>,
    /// What else tells it from others: a neighbour, a peer.
    pub about: Option<String>,
    /// The stack that most of it is below.
    pub stack: Option<StackId>,
    /// Thread-nanoseconds claimed.
    pub claims_ns: f64,
    /// Thread-nanoseconds that a perfect change would win.
    pub gain_ns: f64,
    /// One sentence, without the container.
    pub title: String,
    /// Figures with their source.
    pub evidence: Vec<String>,
    /// What to try, where the kind alone does not say it best.
    pub remedy: Option<String>,
    /// Where the figures are from.
    pub basis: Basis,
}
