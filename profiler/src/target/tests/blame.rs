//! Whom to blame where the application's own frames are missing, nameless or hidden in a library's.

use super::{ENTRY, FUTEX, Planted};
use crate::profile::{FrameKind, OffCpuReason};
use crate::target::{Confidence, Kind};

#[test]
fn a_frame_of_the_c_library_is_never_blamed() {
    let stat = format!("stat@libc.so.6 > {ENTRY} > __x64_sys_newfstatat_[k]");
    let mut planted = Planted::new();
    planted.cpu(&format!("start_thread@libc.so.6 > stamp > {stat}"), 200).calls("newfstatat", 1_000_000, 0, &[]);
    planted.only(Kind::SyscallStorm, "stamp");
    let mut without = Planted::new();
    without.cpu(&format!("start_thread@libc.so.6 > {stat}"), 200).calls("newfstatat", 1_000_000, 0, &[]);
    assert_eq!(without.only(Kind::SyscallStorm, "[shop]").confidence, Confidence::Medium);
}

#[test]
fn a_thread_whose_closure_was_inlined_is_blamed_on_what_runs_it() {
    let lock = format!("<std::sys::sync::mutex::futex::Mutex>::lock_contended > syscall@libc.so.6 > {FUTEX}");
    let mut planted = Planted::new();
    planted.wait(
        OffCpuReason::Lock,
        &format!("start_thread@libc.so.6 > std::sys::backtrace::__rust_begin_short_backtrace > {lock}"),
        60.0,
        30_000.0,
    );
    planted.only(Kind::LockContention, "std::sys::backtrace::__rust_begin_short_backtrace");
}

#[test]
fn a_jump_without_a_name_is_blamed_on_the_function_that_makes_it() {
    let mut planted = Planted::new();
    planted.cpu("main > render > [shop+0x1030]", 400);
    unnamed(&mut planted, "[shop+0x1030]");
    planted.only(Kind::CpuHotspot, "render");
}

#[test]
fn a_stripped_program_is_blamed_by_the_place_in_it() {
    let mut planted = Planted::new();
    planted.cpu("[shop+0x1030] > [shop+0x2050]", 400);
    unnamed(&mut planted, "[shop+0x1030]");
    unnamed(&mut planted, "[shop+0x2050]");
    planted.only(Kind::CpuHotspot, "[shop+0x2050]");
}

/// Makes the frame one that no symbol is known for.
fn unnamed(planted: &mut Planted, function: &str) {
    let old = std::mem::take(&mut planted.profile.stacks);
    for stack in old.stacks() {
        let frames: Vec<_> = stack
            .iter()
            .filter_map(|id| old.frame_of(*id))
            .map(|frame| {
                let mut moved = *frame;
                let table = &mut planted.profile.stacks;
                moved.function = table.text(old.text_of(frame.function));
                moved.module = table.text(old.text_of(frame.module));
                moved.file = table.text(old.text_of(frame.file));
                if old.text_of(frame.function) == function {
                    moved.kind = FrameKind::Unresolved;
                }
                table.frame(moved)
            })
            .collect();
        planted.profile.stacks.stack(&frames);
    }
}
