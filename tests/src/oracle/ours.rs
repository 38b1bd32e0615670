//! Our walk of a copied stack. In: a process's tables and a snapshot. Out: the frames and why there are no more.

use profiler_ebpf::unwind::walk::walk_all;
use profiler_ebpf::unwind::{Memory, Rule, Stop, Tables, USER_FRAMES, Walk};

use super::Snapshot;
use super::image::Image;

struct Copied<'s>(&'s Snapshot);

impl Memory for Copied<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.word(address)
    }
}

struct OfProcess<'i>(&'i Image);

impl Tables for OfProcess<'_> {
    fn rule(&mut self, address: u64) -> Result<Rule, Stop> {
        self.0.rule(address).ok_or(Stop::NoMapping)
    }
}

/// Walks to the end.
pub fn walk(image: &Image, snapshot: &Snapshot) -> (Vec<u64>, Stop) {
    let [pc, sp, bp] = snapshot.registers;
    let mut frames = vec![0; USER_FRAMES];
    let mut walk = Walk::from_registers(pc, sp, bp);
    let (count, stop) = walk_all(&mut walk, &mut Copied(snapshot), &mut OfProcess(image), &mut frames);
    frames.truncate(count);
    (frames, stop)
}
