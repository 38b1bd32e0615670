//! A dense index for each cgroup: given when it is first seen, cached in each thread's slot.

use profiler_ebpf::{CONTAINER_FIRST, CONTAINER_KERNEL, CONTAINER_OVERFLOW, Counter, settings::filter};

use crate::{
    counter::count,
    kernel::Task,
    maps::{CONTAINER_CGROUPS, CONTAINER_FILTER, CONTAINER_FREE, CONTAINERS, setting},
    task::TaskSlot,
};

/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

/// Makes sure that the slot knows its thread's container: runtimes move processes after they were forked.
///
/// A thread that is moved gets another `css_set`, so its address tells whether anything is to be looked up. That a freed
/// one's address came back to the same thread while it was off the CPU takes two moves in one gap; [`verify`] would
/// find it.
#[inline(always)]
pub fn refresh(slot: &mut TaskSlot, task: Task) {
    let css_set = task.css_set();
    if css_set != slot.css_set && slot.container != CONTAINER_KERNEL {
        slot.css_set = css_set;
        slot.container = index_of(task.cgroup_id());
    }
}

/// Has the container looked up anew, if its cgroup is not the thread's.
#[inline(always)]
pub fn verify(slot: &mut TaskSlot, task: Task) {
    if slot.container < CONTAINER_FIRST {
        return;
    }
    let known = CONTAINER_CGROUPS.get(slot.container);
    if known.is_some_and(|known| *known != task.cgroup_id()) {
        slot.css_set = 0;
    }
}

/// Index of a cgroup, given now if it has none. A global function: verified once for all callers.
#[unsafe(no_mangle)]
pub extern "C" fn index_of(cgroup: u64) -> u32 {
    // SAFETY: the value is read at once; elements of this map are never deleted while programs run on it.
    if let Some(index) = unsafe { CONTAINERS.get(cgroup) } {
        return *index;
    }
    let Ok(Some(index)) = CONTAINER_FREE.pop() else {
        count(Counter::ContainersExhausted);
        return CONTAINER_OVERFLOW;
    };
    if let Some(place) = CONTAINER_CGROUPS.get_ptr_mut(index) {
        // SAFETY: the index was just taken from the free ones, so no other CPU writes its element.
        unsafe { *place = cgroup };
    }
    if CONTAINERS.insert(cgroup, index, NO_EXIST).is_ok() {
        return index;
    }
    // Another CPU was first, or the map is full: the index goes back.
    if CONTAINER_FREE.push(index, 0).is_err() {
        count(Counter::ContainersExhausted);
    }
    // SAFETY: as above.
    match unsafe { CONTAINERS.get(cgroup) } {
        Some(index) => *index,
        None => {
            count(Counter::ContainersExhausted);
            CONTAINER_OVERFLOW
        }
    }
}

/// Whether the thread is to be measured.
#[inline(always)]
pub fn is_wanted(slot: &TaskSlot) -> bool {
    if setting!(filter_processes) != 0 && slot.selected == 0 {
        return false;
    }
    if setting!(filter_containers) != 0
        && let Some(verdict) = CONTAINER_FILTER.get(slot.container)
    {
        return *verdict != filter::DROP;
    }
    true
}
