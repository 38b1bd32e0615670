//! Calls that are many, small or dear, and what tells them apart.

use super::{ENTRY, Planted};
use crate::target::Kind;

#[test]
fn a_call_that_works_hard_each_time_is_no_storm_however_often_it_is_made() {
    let draw = format!("main > draw > getrandom@libc.so.6 > {ENTRY} > __x64_sys_getrandom_[k]");
    let mut dear = Planted::new();
    dear.cpu(&draw, 300).calls("getrandom", 9_000, 0, &[]);
    dear.only(Kind::KernelOverhead, "draw");
    let mut cheap = Planted::new();
    cheap.cpu(&draw, 300).calls("getrandom", 3_000_000, 0, &[]);
    cheap.only(Kind::SyscallStorm, "draw");
}

#[test]
fn a_small_file_that_is_read_whole_each_time_is_opened_too_often() {
    let mut planted = Planted::new();
    planted
        .cpu(&format!("main > load > open@libc.so.6 > {ENTRY} > __x64_sys_openat_[k]"), 150)
        .cpu(&format!("main > load > read@libc.so.6 > {ENTRY} > ksys_read_[k] > ext4_file_read_iter_[k]"), 100)
        .cpu(&format!("main > load > close@libc.so.6 > {ENTRY} > __x64_sys_close_[k]"), 50)
        .calls("openat", 400_000, 0, &[])
        .calls("read", 800_000, 8_000_000, &[])
        .calls("close", 400_000, 0, &[]);
    let target = planted.only(Kind::SyscallStorm, "load");
    assert!((target.claims_s - 3.0).abs() < 1e-9, "the reads go with the opens: {target:?}");
}
