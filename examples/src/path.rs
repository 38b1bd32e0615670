//! The named call paths, written in C (`c/paths.c`) because Rust's own library keeps no frame pointers: every function
//! named there is in a stack walked by frame pointers, down to the one that makes the syscall.

use std::sync::atomic::AtomicU32;

unsafe extern "C" {
    /// Burns user CPU until `until_ns` of `CLOCK_MONOTONIC`, below `depth` + 1 frames of `spinner_descend`.
    pub safe fn spinner_enter(depth: u32, until_ns: u64) -> u64;
    /// Burns kernel CPU until `until_ns` by reading from `/dev/zero`.
    pub safe fn spinner_kernel_enter(zero_fd: i32, until_ns: u64) -> u64;
    /// Burns user CPU until `until_ns`.
    pub safe fn throttled_enter(until_ns: u64) -> u64;
    /// Reads one byte: the path that waits briefly.
    pub safe fn brief_wait_root(fd: i32) -> i64;
    /// Sleeps: the path that waits long.
    pub safe fn slow_wait_root(ns: u64) -> i64;
    /// Burns about `ns` of user CPU.
    pub safe fn work_between_waits(ns: u64) -> u64;
    /// Reads one byte that comes late.
    pub safe fn hang_handle_request(fd: i32) -> i64;
    /// Reads one byte that never comes.
    pub safe fn never_answered_root(fd: i32) -> i64;
    /// Waits on a futex that nobody wakes, while it holds 0.
    pub safe fn never_woken_root(word: &AtomicU32) -> i64;
    /// Takes the lock; returns the nanoseconds waited in the kernel and adds to `waits`.
    pub safe fn lock_fight_acquire(word: &AtomicU32, waits: &mut u64) -> u64;
    /// Gives the lock back.
    pub safe fn lock_fight_release(word: &AtomicU32);
    /// Burns about `ns` of user CPU, under its own name.
    pub safe fn lock_fight_hold_spinning(ns: u64) -> u64;
    /// Prices this many orders: the shop's hot code.
    pub safe fn shop_serve_orders(orders: u64) -> u64;
    /// Reads this many entries of eight bytes; returns the bytes read.
    pub safe fn shop_load_cart(fd: i32, entries: u32) -> i64;
    /// Looks this many times for a file that does not exist; returns how often it did not.
    pub safe fn shop_render_page(lookups: u32) -> i64;
    /// Works under the shop's lock; returns the nanoseconds waited for it and adds to `waits`.
    pub safe fn shop_update_stock(lock_word: &AtomicU32, hold_ns: u64, waits: &mut u64) -> u64;
    /// Sleeps.
    pub safe fn shop_wait_for_next_tick(ns: u64) -> i64;
}
