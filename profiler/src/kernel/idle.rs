//! How long CPUs were idle, out of the clocks that the scheduler's programs keep.
//!
//! Some kernels do not deliver sampling events to a CPU that sleeps (seen on 6.18 with the haltpoll governor: the timer
//! fires, the program is not run). Samples that were due then are no loss: nothing ran.

use std::collections::BTreeSet;

use profiler_ebpf::{Account, CONTAINER_IDLE, CpuState};

use super::mapped::MappedArray;

/// The CPUs' idle time.
pub(super) struct IdleClock {
    cpus: MappedArray<CpuState>,
    accounts: MappedArray<Account>,
    containers: usize,
    /// Idle time of each CPU up to the window's start.
    so_far_ns: Vec<u64>,
    window_start_ns: u64,
}

impl IdleClock {
    /// Over the arrays of the CPUs' states and of the accounts, a row of `containers` a CPU.
    pub fn new(cpus: MappedArray<CpuState>, accounts: MappedArray<Account>, containers: usize) -> Self {
        let so_far_ns = vec![0; cpus.len()];
        Self { cpus, accounts, containers, so_far_ns, window_start_ns: 0 }
    }

    /// Idle time of all the CPUs that are online in the window that ends at `end_ns` (CLOCK_MONOTONIC), in nanoseconds.
    pub fn end_window(&mut self, end_ns: u64, online: &BTreeSet<u32>) -> u64 {
        let window_ns = end_ns.saturating_sub(self.window_start_ns);
        let mut sum_ns = 0;
        for cpu in 0..self.so_far_ns.len() {
            let total_ns = self.idle_ns(cpu, end_ns);
            let grown_ns = total_ns.saturating_sub(std::mem::replace(&mut self.so_far_ns[cpu], total_ns));
            if online.contains(&(cpu as u32)) {
                // It may have been offline for longer.
                sum_ns += grown_ns.min(window_ns);
            }
        }
        self.window_start_ns = end_ns;
        sum_ns
    }

    fn idle_ns(&self, cpu: usize, end_ns: u64) -> u64 {
        let account = self.accounts.at(cpu * self.containers + CONTAINER_IDLE as usize);
        // SAFETY: inside the mapping and aligned; any bits are a value.
        let ended_ns = account.map_or(0, |account| unsafe { (&raw const (*account).clock_ns).read_volatile() });
        let since_ns = match self.cpus.read(cpu) {
            // No thread has been seen on it since the programs were attached.
            Some(state) if state.running_since_ns == 0 => self.window_start_ns,
            Some(state) if state.running == CONTAINER_IDLE => state.running_since_ns,
            _ => return ended_ns,
        };
        ended_ns + end_ns.saturating_sub(since_ns)
    }
}
