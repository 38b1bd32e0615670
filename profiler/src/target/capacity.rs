//! How much waiting can go away when there is only so much CPU. In: waiting, the CPU time of the same container. Out: a
//! bound.
//!
//! Threads that no longer wait want to run. If they used `c` cores while waiting and may have at most `m`, work can be done
//! `m / c` times as fast, no faster: of each piece of work's thread-seconds at least the part `c / m` stays.

use super::scene::Scene;

/// At most so much of `waiting_ns` goes away.
pub fn capped(scene: &Scene<'_>, place: usize, waiting_ns: f64, most_cores: f64) -> f64 {
    let ledger = &scene.places[place].container.ledger;
    let cpu = ledger.cpu_ns() as f64;
    let busy = waiting_ns + cpu + ledger.runnable_ns() as f64;
    let stays = (cpu / scene.window_ns / most_cores.max(0.01)).min(1.0);
    waiting_ns.min(busy * (1.0 - stays)).max(0.0)
}
