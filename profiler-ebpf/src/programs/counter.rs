//! Named counters: nothing is dropped without one.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use profiler_ebpf::{Counter, settings::COUNTERS};

use crate::{atomic, maps::COUNTERS_BY_CPU};

/// Adds one to this CPU's counter. Atomic, since some callers can be preempted or interrupted.
#[inline(always)]
pub fn count(counter: Counter) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(counters) = COUNTERS_BY_CPU.get_ptr_mut(cpu) {
        let place = (counter as usize) & (COUNTERS - 1);
        // SAFETY: the index is masked to the array's length and the element lives while the program runs; every
        // writer on any CPU uses the same atomic addition.
        unsafe { atomic::add(counters.cast::<u64>().add(place), 1) };
    }
}
