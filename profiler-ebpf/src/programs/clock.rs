//! Per-CPU clocks: how long each container ran on each CPU, so that a waiting thread learns in constant time how much of
//! its wait was behind its own container.

use profiler_ebpf::CpuState;

use crate::maps::{CLOCKS, CPUS, setting};

/// This CPU's or another's state.
#[inline(always)]
pub fn cpu_state(cpu: u32) -> Option<&'static mut CpuState> {
    // SAFETY: the element lives while the program runs. It is written on its own CPU with interrupts off, under the
    // run-queue lock that readers on other CPUs hold too (wake-ups) or else need not (migrations: an estimate).
    CPUS.get_ptr_mut(cpu).map(|state| unsafe { &mut *state })
}

#[inline(always)]
fn clock(cpu: u32, container: u32) -> Option<*mut u64> {
    CLOCKS.get_ptr_mut(cpu * setting!(containers) + container)
}

/// Adds to a container's clock on this CPU.
#[inline(always)]
pub fn advance(cpu: u32, container: u32, ns: u64) {
    if let Some(clock) = clock(cpu, container) {
        // SAFETY: written only on its own CPU with interrupts off.
        unsafe { *clock += ns };
    }
}

/// A container's clock on a CPU, up to the end of the last slice.
#[inline(always)]
pub fn settled(cpu: u32, container: u32) -> u64 {
    // SAFETY: an aligned word, read whole.
    clock(cpu, container).map_or(0, |clock| unsafe { core::ptr::read_volatile(clock) })
}

/// A container's clock on a CPU at `now_ns`, the slice under way included.
#[inline(always)]
pub fn read(cpu: u32, container: u32, now_ns: u64) -> u64 {
    let settled = settled(cpu, container);
    match cpu_state(cpu) {
        Some(state) if state.running == container => settled + now_ns.saturating_sub(state.running_since_ns),
        _ => settled,
    }
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
