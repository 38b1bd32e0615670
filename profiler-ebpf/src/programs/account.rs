//! What each container did on each CPU.

use profiler_ebpf::{Account, LedgerRow, Part, account::PARTS};

use crate::maps::{ACCOUNTS, setting};

/// The account of a container on a CPU.
#[inline(always)]
pub fn of(cpu: u32, container: u32) -> Option<&'static mut Account> {
    // SAFETY: the element lives while the program runs; it is written only on its own CPU with interrupts off, or by
    // the iterator in an account that no CPU has.
    ACCOUNTS.get_ptr_mut(cpu * setting!(containers) + container).map(|account| unsafe { &mut *account })
}

/// Its ledger in a generation.
#[inline(always)]
pub fn row(account: &mut Account, generation: u32) -> &mut LedgerRow {
    let place = (generation & 1) as usize;
    // SAFETY: the index is masked to the array's length.
    unsafe { &mut *(&raw mut account.ledger).cast::<LedgerRow>().add(place) }
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

/// Adds running time of which only `ran_ns` were run.
#[inline(always)]
pub fn add_ran(row: &mut LedgerRow, wall_ns: u64, ran_ns: u64) {
    add(row, Part::Cpu as u32, ran_ns);
    add(row, Part::Stolen as u32, wall_ns.wrapping_sub(ran_ns));
}
