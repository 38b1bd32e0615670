//! How long CPUs were idle, out of the clocks that the scheduler's programs keep.
//!
//! Some kernels do not deliver sampling events to a CPU that sleeps (seen on 6.18 with the haltpoll governor: the timer
//! fires, the program is not run). Samples that were due then are no loss: nothing ran.

use std::collections::BTreeSet;

use profiler_ebpf::{CONTAINER_IDLE, CpuState};

/// The CPUs' idle time.
pub(super) struct IdleClock {
    /// Idle time of each CPU up to the window's start.
    so_far_ns: Vec<u64>,
    window_start_ns: u64,
}

impl IdleClock {
    /// Of so many CPUs.
    pub fn new(cpus: usize) -> Self {
        Self { so_far_ns: vec![0; cpus], window_start_ns: 0 }
    }

    /// Idle time of all the CPUs that are online in the window that ends at `end_ns` (CLOCK_MONOTONIC), in nanoseconds. Of each
    /// CPU: what it is doing, and how long it was idle before that.
    pub fn end_window(&mut self, end_ns: u64, online: &BTreeSet<u32>, cpus: &[(CpuState, u64)]) -> u64 {
        let window_ns = end_ns.saturating_sub(self.window_start_ns);
        let mut sum_ns = 0;
        for (cpu, ((state, ended_ns), so_far_ns)) in cpus.iter().zip(&mut self.so_far_ns).enumerate() {
            let since_ns = match state {
                // No thread has been seen on it since the programs were attached.
                state if state.running_since_ns == 0 => self.window_start_ns,
                state if state.running == CONTAINER_IDLE => state.running_since_ns,
                _ => end_ns,
            };
            let total_ns = ended_ns + end_ns.saturating_sub(since_ns);
            let grown_ns = total_ns.saturating_sub(std::mem::replace(so_far_ns, total_ns));
            if online.contains(&(cpu as u32)) {
                // It may have been offline for longer.
                sum_ns += grown_ns.min(window_ns);
            }
        }
        self.window_start_ns = end_ns;
        sum_ns
    }
}
