//! The analysis: a profile in; ranked optimization targets out.
//!
//! Pure functions, one file a kind. `scene` works out what all kinds look at; each kind claims time in the order of
//! [`Kind::ALL`], so that no thread-second is claimed twice and the most specific kind has it; `finish` turns claims
//! into targets, ranks them and withholds them where too little was seen. `docs/targets.md` gives the rules in words.

mod blocked;
mod busy_poll;
mod calls;
mod capacity;
mod cpu_contention;
mod cpu_hotspot;
mod cpu_oversubscribed;
mod cpu_throttled;
mod disk_wait;
mod finding;
mod finish;
mod group;
mod kernel_overhead;
mod kind;
mod lock_contention;
mod mark;
mod memory_faults;
mod network_wait;
mod recheck;
mod role;
mod scene;
mod small_io;
mod starting;
mod sync_write;
mod syscall_errors;
mod syscall_storm;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;
mod waiting;
mod work;

use serde::Serialize;

pub use kind::{Kind, Unit};
pub use role::plain_name;

use crate::profile::Profile;
use scene::Scene;

/// What the analysis says.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Analysis {
    /// Targets, what could be won most first.
    pub targets: Vec<Target>,
    /// Why there is no ranking; empty where there is one.
    pub withheld: Vec<String>,
    /// What was not looked for, and why.
    pub not_looked_for: Vec<String>,
    /// Thread-seconds that were idle waiting: claimed by nobody.
    pub idle_s: f64,
}

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// The same problem has the same id in every window.
    pub id: String,
    /// 1 is the first thing to change.
    pub rank: u32,
    /// Display name of the container.
    pub container: String,
    /// What kind of waste.
    pub kind: Kind,
    /// One sentence.
    pub title: String,
    /// The function that the owner can change.
    pub blame: Blame,
    /// Functions from the root to the blamed one.
    pub frames: Vec<String>,
    /// Thread-seconds of the window that this is about.
    pub claims_s: f64,
    /// `claims_s` over the container's thread-seconds less its idle waits.
    pub share: f64,
    /// What it costs.
    pub cost: Amount,
    /// What a perfect change would win.
    pub gain_at_most: Amount,
    /// Figures, each with its source.
    pub evidence: Vec<String>,
    /// What to try.
    pub remedy: String,
    /// How sure.
    pub confidence: Confidence,
    /// The command that shows whether it is still there.
    pub recheck: String,
}

/// A function to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blame {
    /// Name; `[command]` where no function of the program has a name.
    pub function: String,
    /// File name of the binary or library.
    pub module: String,
    /// Source line, where lines were recorded.
    pub line: Option<u32>,
}

/// A cost or gain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Amount {
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
}

/// How sure a target is: it falls with what was not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A hint.
    Low,
    /// Likely.
    Medium,
    /// As good as certain.
    High,
}

impl Confidence {
    /// As outputs say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Analyses a profile.
pub fn analyse(profile: &Profile) -> Analysis {
    let mut scene = Scene::of(profile);
    let mut findings = Vec::new();
    let waits = waiting::classify(&scene);
    for place in 0..scene.places.len() {
        let calls = calls::Calls::of(&scene, place);
        let before = findings.len();
        findings.extend(starting::find(&mut scene, place, &calls));
        findings.extend(syscall_errors::find(&mut scene, place, &calls));
        findings.extend(small_io::find(&mut scene, place, &calls));
        findings.extend(busy_poll::find(&mut scene, place, &calls));
        findings.extend(syscall_storm::find(&mut scene, place, &calls));
        findings.extend(memory_faults::find(&mut scene, place));
        findings.extend(kernel_overhead::find(&mut scene, place));
        findings.extend(cpu_hotspot::find(&mut scene, place));
        let of_cpu = findings[before..].to_vec();
        findings.extend(cpu_throttled::find(&scene, place));
        findings.extend(cpu_contention::find(&scene, place));
        findings.extend(cpu_oversubscribed::find(&scene, place, &of_cpu));
        findings.extend(lock_contention::find(&mut scene, place, &waits));
        findings.extend(sync_write::find(&mut scene, place, &waits));
        findings.extend(disk_wait::find(&mut scene, place, &waits));
        findings.extend(network_wait::find(&mut scene, place, &waits, &calls));
    }
    finish::finish(&scene, findings, &waits)
}
