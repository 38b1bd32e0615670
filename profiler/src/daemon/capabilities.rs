//! Rights given up. In: the rights the process was started with. Out: those that each thread needs.
//!
//! Capabilities belong to threads and are inherited by the threads they start. So the thread that
//! collects keeps what loading, attaching and collecting need, and starts its helpers with that; the threads that keep
//! windows, write them and serve requests have nothing.

use caps::{CapSet, Capability, CapsHashSet};

/// What collecting needs as long as it goes on: maps, iterators and programs; perf events of CPUs that come online; other
/// processes' memory, mappings and files; the kernel's addresses; a thread that empties the rings in time; and (the only
/// use of CAP_SYS_ADMIN, for which the kernel has no smaller right) counting the programs' own run time.
const COLLECTING: [Capability; 8] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_SYSLOG,
    Capability::CAP_CHECKPOINT_RESTORE,
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_ADMIN,
];

/// Gives up, for this thread and those it starts from now on, what collecting does not need.
pub fn keep_for_collecting() {
    keep(&COLLECTING.into_iter().collect());
}

/// Gives up everything, for this thread and those it starts from now on.
pub fn keep_nothing() {
    keep(&CapsHashSet::new());
}

fn keep(wanted: &CapsHashSet) {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    // What an executed program could regain; dropping from it is itself a right, so it goes first.
    if held.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(wanted) {
            say(caps::drop(None, CapSet::Bounding, *capability));
        }
    }
    let kept: CapsHashSet = held.intersection(wanted).copied().collect();
    say(caps::clear(None, CapSet::Ambient));
    say(caps::clear(None, CapSet::Inheritable));
    say(caps::set(None, CapSet::Effective, &kept));
    say(caps::set(None, CapSet::Permitted, &kept));
}

/// Rights that cannot be given up do no harm to what the daemon does.
fn say(result: Result<(), caps::errors::CapsError>) {
    if let Err(error) = result {
        tracing::debug!("a right cannot be given up: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gave_up_everything_has_nothing_and_leaves_others_alone() {
        let before = caps::read(None, CapSet::Permitted).unwrap_or_default();
        let after = std::thread::spawn(|| {
            keep_nothing();
            let children = std::thread::spawn(|| caps::read(None, CapSet::Permitted).unwrap_or_default());
            children.join().unwrap_or_default()
        });
        assert!(after.join().is_ok_and(|held| held.is_empty()));
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap_or_default(), before);
    }
}
