//! Clocks: what time it is for the scheduler, and how long each container ran on each CPU, so that a waiting thread learns
//! in constant time how much of its wait was behind its own container.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_ebpf::{CpuState, clock};

use crate::{account, maps::CPUS};

/// How long a CPU goes by its run queue's clock before that is compared again, in nanoseconds.
const COMPARED_EVERY_NS: u64 = 1_000_000;

/// This CPU's or another's state.
#[inline(always)]
pub fn cpu_state(cpu: u32) -> Option<&'static mut CpuState> {
    // SAFETY: the element lives while the program runs. It is written under the lock of the CPU's run queue (switches and
    // wake-ups); migrations may read it without: an estimate.
    CPUS.get_ptr_mut(cpu).map(|state| unsafe { &mut *state })
}

/// The moment of an event for which the scheduler has just set the clock of a CPU's run queue, as CLOCK_MONOTONIC would have
/// it (ns). Reading that queue's clock is a load, while the helper is the dearest part of a program.
///
/// The two are compared now and then: see docs/decisions/0010.
#[inline(always)]
pub fn now(state: &mut CpuState, queue_ns: Option<u64>) -> u64 {
    match queue_ns {
        Some(queue_ns) => {
            if queue_ns.wrapping_sub(state.compared_ns) >= COMPARED_EVERY_NS {
                compare(state, queue_ns);
            }
            queue_ns.wrapping_add(state.ahead_ns)
        }
        // SAFETY: the helper has no preconditions.
        None => unsafe { bpf_ktime_get_ns() },
    }
}

#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn compare(state: &mut CpuState, queue_ns: u64) {
    // SAFETY: the helper has no preconditions.
    let ahead_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(queue_ns);
    let elapsed_ns = queue_ns.wrapping_sub(state.compared_ns);
    let known = state.compared_ns != 0;
    state.ahead_ns = if known { clock::ahead(state.ahead_ns, ahead_ns, elapsed_ns) } else { ahead_ns };
    state.compared_ns = queue_ns;
}

/// A container's clock on a CPU at `now_ns`, the slice under way included.
#[inline(always)]
pub fn read(state: &CpuState, cpu: u32, container: u32, now_ns: u64) -> u64 {
    // SAFETY: an aligned word, read whole.
    let settled_ns = account::of(cpu, container)
        .map_or(0, |account| unsafe { core::ptr::read_volatile(&raw const account.clock_ns) });
    if state.running == container { settled_ns + now_ns.saturating_sub(state.running_since_ns) } else { settled_ns }
}

/// This CPU's next random number (xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled", 2014).
#[inline(always)]
pub fn random(state: &mut CpuState) -> u32 {
    let mut x = state.random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    state.random = x;
    (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
}
