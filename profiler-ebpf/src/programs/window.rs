//! Accounting a stretch of time to the window, or the two windows, that it falls into.

use profiler_ebpf::{Control, LedgerRow, Part, account::PARTS};

use crate::{
    atomic,
    maps::{self, LEDGER, setting},
    task::TaskSlot,
};

/// The window in force: read once an event.
#[derive(Clone, Copy)]
pub struct Window {
    /// Its generation.
    pub generation: u32,
    /// When it began (CLOCK_MONOTONIC, ns).
    pub start_ns: u64,
}

/// The window in force.
#[inline(always)]
pub fn current() -> Window {
    let (generation, start_ns) = Control::split(maps::window());
    Window { generation, start_ns }
}

/// A stretch of time, split at the start of the current window.
#[derive(Clone, Copy)]
pub struct Stretch {
    /// Generation of the current window.
    pub generation: u32,
    /// Nanoseconds in the current window.
    pub current_ns: u64,
    /// Nanoseconds in the window before.
    pub previous_ns: u64,
}

/// Ends the slot's current state at `now_ns`: what of it is not yet accounted, and in which windows.
///
/// A state that began before the window is shared with the iterator, which settles it for threads that do not switch:
/// whoever moves `since_ns` to the window's start accounts the part before.
#[inline(always)]
pub fn end_state(slot: &mut TaskSlot, window: Window, now_ns: u64) -> Stretch {
    let Window { generation, start_ns } = window;
    let since_ns = slot.since_ns;
    if since_ns >= start_ns {
        Stretch { generation, current_ns: now_ns.saturating_sub(since_ns), previous_ns: 0 }
    } else if now_ns <= start_ns {
        Stretch { generation, current_ns: 0, previous_ns: now_ns.saturating_sub(since_ns) }
    } else if claim(slot, since_ns, start_ns) {
        Stretch { generation, current_ns: now_ns - start_ns, previous_ns: start_ns - since_ns }
    } else {
        Stretch { generation, current_ns: now_ns - start_ns, previous_ns: 0 }
    }
}

/// Takes the part before `start_ns` for the caller to account; false if somebody else did.
#[inline(always)]
pub fn claim(slot: &mut TaskSlot, since_ns: u64, start_ns: u64) -> bool {
    // SAFETY: `since_ns` lives in the slot, which lives while the program runs, and is eight-byte aligned.
    unsafe { atomic::replace(&raw mut slot.since_ns, since_ns, start_ns) }
}

/// The ledger row of a container on a CPU in a generation.
#[inline(always)]
pub fn row(generation: u32, cpu: u32, container: u32) -> Option<&'static mut LedgerRow> {
    let rows = setting!(cpus) + 1;
    let index = ((generation & 1) * rows + cpu) * setting!(containers) + container;
    // SAFETY: the element lives while the program runs; it is written only on its own CPU with interrupts off, or by
    // the iterator in the row that no CPU has.
    LEDGER.get_ptr_mut(index).map(|row| unsafe { &mut *row })
}

/// Adds to a part of a row.
#[inline(always)]
pub fn add(row: &mut LedgerRow, part: u32, ns: u64) {
    let place = (part as usize) & (PARTS - 1);
    // SAFETY: the index is masked to the array's length.
    unsafe {
        let part = (&raw mut row.parts_ns).cast::<u64>().add(place);
        *part = (*part).wrapping_add(ns);
    }
}

/// Accounts a stretch to one part.
#[inline(always)]
pub fn account(stretch: Stretch, cpu: u32, container: u32, part: u32) {
    if let Some(row) = row(stretch.generation, cpu, container) {
        add(row, part, stretch.current_ns);
    }
    if stretch.previous_ns != 0
        && let Some(row) = row(stretch.generation ^ 1, cpu, container)
    {
        add(row, part, stretch.previous_ns);
    }
}

/// Accounts a running stretch, of which the scheduler says that `ran_ns` were run; the rest was stolen. Returns the row of
/// the current window.
#[inline(always)]
pub fn account_ran(stretch: Stretch, cpu: u32, container: u32, ran_ns: u64) -> Option<&'static mut LedgerRow> {
    let mut current_ran_ns = ran_ns;
    if stretch.previous_ns != 0 {
        let previous_ran_ns = share(ran_ns, stretch.previous_ns, stretch.previous_ns + stretch.current_ns);
        current_ran_ns -= previous_ran_ns;
        if let Some(row) = row(stretch.generation ^ 1, cpu, container) {
            add_ran(row, stretch.previous_ns, previous_ran_ns);
        }
    }
    let row = row(stretch.generation, cpu, container)?;
    add_ran(row, stretch.current_ns, current_ran_ns);
    Some(row)
}

/// Adds running time of which only `ran_ns` were run.
#[inline(always)]
pub fn add_ran(row: &mut LedgerRow, wall_ns: u64, ran_ns: u64) {
    add(row, Part::Cpu as u32, ran_ns);
    add(row, Part::Stolen as u32, wall_ns.wrapping_sub(ran_ns));
}

/// A runnable wait, by whom it was behind.
#[derive(Clone, Copy)]
pub struct Waited {
    /// The same container.
    pub own_ns: u64,
    /// Anybody else, or an idle CPU.
    pub other_ns: u64,
    /// Nobody: out of quota.
    pub throttled_ns: u64,
}

/// Accounts a runnable stretch; one that spans two windows is shared out in proportion. Returns the row of the current
/// window.
#[inline(always)]
pub fn account_waited(stretch: Stretch, cpu: u32, container: u32, waited: Waited) -> Option<&'static mut LedgerRow> {
    let mut current = waited;
    if stretch.previous_ns != 0 {
        let total_ns = stretch.previous_ns + stretch.current_ns;
        let previous = Waited {
            own_ns: share(waited.own_ns, stretch.previous_ns, total_ns),
            other_ns: share(waited.other_ns, stretch.previous_ns, total_ns),
            throttled_ns: share(waited.throttled_ns, stretch.previous_ns, total_ns),
        };
        if let Some(row) = row(stretch.generation ^ 1, cpu, container) {
            add_waited(row, previous);
        }
        current.own_ns -= previous.own_ns;
        current.other_ns -= previous.other_ns;
        current.throttled_ns -= previous.throttled_ns;
    }
    let row = row(stretch.generation, cpu, container)?;
    add_waited(row, current);
    Some(row)
}

#[inline(always)]
fn add_waited(row: &mut LedgerRow, waited: Waited) {
    add(row, Part::RunnableSelf as u32, waited.own_ns);
    add(row, Part::RunnableOther as u32, waited.other_ns);
    add(row, Part::Throttled as u32, waited.throttled_ns);
}

/// `value` times `part` / `whole`, at most `value`; eight bits are given up so that an hour times an hour fits.
#[inline(always)]
pub fn share(value: u64, part: u64, whole: u64) -> u64 {
    let whole = whole >> 8;
    if whole == 0 {
        return 0;
    }
    let shared = ((value >> 8) * (part >> 8) / whole) << 8;
    if shared > value { value } else { shared }
}
