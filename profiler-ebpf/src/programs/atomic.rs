//! Atomic operations: the BPF target of the compiler declares none, though every kernel from 5.12 on has them.
//!
//! Instruction set: <https://www.kernel.org/doc/html/latest/bpf/standardization/instruction-set.html#atomic-operations>.
//! Those that return the old value are full barriers.

use core::arch::asm;

/// Adds to a word.
///
/// # Safety
///
/// `place` must be valid and aligned, and every other concurrent writer atomic.
#[inline(always)]
pub unsafe fn add(place: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({place} + 0) += {value}", place = in(reg) place, value = in(reg) value) }
}

/// Adds to a half word.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn add_u32(place: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u32 *)({place} + 0) += {value}", place = in(reg) place, value = in(wreg) value) }
}

/// Stores a word and returns what was there.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn swap(place: *mut u64, value: u64) -> u64 {
    let mut result = value;
    // SAFETY: the caller's promise.
    unsafe { asm!("{value} = xchg_64({place} + 0, {value})", place = in(reg) place, value = inout(reg) result) }
    result
}

/// Stores a word if `expected` is there; whether it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn replace(place: *mut u64, expected: u64, value: u64) -> bool {
    let found: u64;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("r0 = cmpxchg_64({place} + 0, r0, {value})",
            place = in(reg) place, value = in(reg) value, inlateout("r0") expected => found);
    }
    found == expected
}

/// Stores a half word if `expected` is there; whether it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn replace_u32(place: *mut u32, expected: u32, value: u32) -> bool {
    let found: u32;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("w0 = cmpxchg32_32({place} + 0, w0, {value})",
            place = in(reg) place, value = in(wreg) value, inlateout("w0") expected => found);
    }
    found == expected
}
