//! Accounting a stretch of time to the window, or the two windows, that it falls into.

use profiler_ebpf::{Account, Control, CpuState, LedgerRow, Part};

use crate::{
    account::{self, add, add_ran, row},
    atomic, maps,
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

impl Window {
    #[inline(always)]
    fn from_word(word: u64) -> Self {
        let (generation, start_ns) = Control::split(word);
        Self { generation, start_ns }
    }
}

/// The window in force.
#[inline(always)]
pub fn current() -> Window {
    Window::from_word(maps::window())
}

/// The window in force, where a CPU's state is at hand.
#[inline(always)]
pub fn of(state: &CpuState) -> Window {
    // SAFETY: an aligned word, which userspace stores whole.
    Window::from_word(unsafe { core::ptr::read_volatile(&raw const state.window) })
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

impl Stretch {
    /// Nanoseconds in both.
    #[inline(always)]
    pub fn total_ns(self) -> u64 {
        self.current_ns + self.previous_ns
    }
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
        return Stretch { generation, current_ns: now_ns.saturating_sub(since_ns), previous_ns: 0 };
    }
    let previous_ns = previous_part(slot, since_ns, start_ns, now_ns);
    Stretch { generation, current_ns: now_ns.saturating_sub(start_ns), previous_ns }
}

/// What of a state that began before the window lies before it and is for the caller to account: rare.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn previous_part(slot: &mut TaskSlot, since_ns: u64, start_ns: u64, now_ns: u64) -> u64 {
    if now_ns <= start_ns {
        now_ns.saturating_sub(since_ns)
    } else if claim(slot, since_ns, start_ns) {
        start_ns - since_ns
    } else {
        0
    }
}

/// Takes the part before `start_ns` for the caller to account; false if somebody else did.
#[inline(always)]
pub fn claim(slot: &mut TaskSlot, since_ns: u64, start_ns: u64) -> bool {
    // SAFETY: `since_ns` lives in the slot, which lives while the program runs, and is eight-byte aligned.
    unsafe { atomic::replace(&raw mut slot.since_ns, since_ns, start_ns) }
}

/// Accounts a stretch to one part.
#[inline(always)]
pub fn account(stretch: Stretch, cpu: u32, container: u32, part: u32) {
    let Some(account) = account::of(cpu, container) else { return };
    add(row(account, stretch.generation), part, stretch.current_ns);
    if stretch.previous_ns != 0 {
        add(row(account, stretch.generation ^ 1), part, stretch.previous_ns);
    }
}

/// Accounts a running stretch, of which the scheduler says that `ran_ns` were run; the rest was stolen. Returns the row of
/// the current window.
#[inline(always)]
pub fn account_ran(account: &mut Account, stretch: Stretch, ran_ns: u64) -> &mut LedgerRow {
    let mut current_ran_ns = ran_ns;
    if stretch.previous_ns != 0 {
        let Stretch { generation, current_ns, previous_ns } = stretch;
        current_ran_ns -= account_previous_ran(account, generation ^ 1, previous_ns, current_ns + previous_ns, ran_ns);
    }
    let row = row(account, stretch.generation);
    add_ran(row, stretch.current_ns, current_ran_ns);
    row
}

/// Accounts the part of a running stretch of `total_ns` before the window: rare. Returns what was run of it.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".text")]
fn account_previous_ran(account: &mut Account, generation: u32, previous_ns: u64, total_ns: u64, ran_ns: u64) -> u64 {
    let previous_ran_ns = share(ran_ns, previous_ns, total_ns);
    add_ran(row(account, generation), previous_ns, previous_ran_ns);
    previous_ran_ns
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

impl Waited {
    /// Nanoseconds in all.
    #[inline(always)]
    pub fn total_ns(self) -> u64 {
        self.own_ns + self.other_ns + self.throttled_ns
    }
}

/// Accounts a runnable stretch; one that spans two windows is shared out in proportion. Returns the row of the current
/// window.
#[inline(always)]
pub fn account_waited(account: &mut Account, stretch: Stretch, waited: Waited) -> &mut LedgerRow {
    let mut current = waited;
    if stretch.previous_ns != 0 {
        let total_ns = stretch.total_ns();
        let previous = Waited {
            own_ns: share(waited.own_ns, stretch.previous_ns, total_ns),
            other_ns: share(waited.other_ns, stretch.previous_ns, total_ns),
            throttled_ns: share(waited.throttled_ns, stretch.previous_ns, total_ns),
        };
        add_waited(row(account, stretch.generation ^ 1), previous);
        current.own_ns -= previous.own_ns;
        current.other_ns -= previous.other_ns;
        current.throttled_ns -= previous.throttled_ns;
    }
    let row = row(account, stretch.generation);
    add_waited(row, current);
    row
}

/// Adds a wait to a row.
#[inline(always)]
pub fn add_waited(row: &mut LedgerRow, waited: Waited) {
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
