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

#[test]
fn a_connection_for_each_request_is_a_storm_with_all_that_its_handshake_costs() {
    let mut planted = Planted::new();
    planted
        .cpu(&format!("main > fetch > socket@libc.so.6 > {ENTRY} > __sys_socket_[k]"), 50)
        .cpu(&format!("main > fetch > connect@libc.so.6 > {ENTRY} > __sys_connect_[k] > tcp_v4_connect_[k]"), 300)
        .cpu(&format!("main > fetch > close@libc.so.6 > {ENTRY} > __x64_sys_close_[k] > tcp_close_[k]"), 150)
        .calls("socket", 20_000, 0, &[])
        .calls("connect", 20_000, 0, &[])
        .calls("close", 20_000, 0, &[]);
    let target = planted.only(Kind::SyscallStorm, "fetch");
    assert!((target.claims_s - 5.0).abs() < 1e-9, "connect goes with the rest: {target:?}");
    assert!(target.title.contains("opens 2000 connections a second"), "{}", target.title);
    assert!(target.remedy.contains("keep-alive"), "{}", target.remedy);
}

#[test]
fn a_connection_now_and_then_is_no_storm() {
    let mut planted = Planted::new();
    planted
        .cpu(&format!("main > fetch > connect@libc.so.6 > {ENTRY} > __sys_connect_[k] > tcp_v4_connect_[k]"), 300)
        .calls("socket", 1000, 0, &[])
        .calls("connect", 1000, 0, &[])
        .calls("close", 1000, 0, &[]);
    let found = planted.found();
    assert!(found.iter().all(|(kind, _)| *kind != Kind::SyscallStorm), "{found:?}");
}

#[test]
fn programs_started_for_each_piece_of_work_are_blamed_on_who_starts_them() {
    let target = starting("convert", 1).only(Kind::KernelOverhead, "stamp");
    assert!(target.title.contains("50 programs a second") && target.title.contains("convert"), "{}", target.title);
    assert!((target.claims_s - 1.4).abs() < 1e-9, "the children, the forks, and as much around them: {target:?}");
}

#[test]
fn of_two_who_start_programs_each_has_the_part_of_its_forks() {
    let fork = |of: &str| format!("main > {of} > vfork@libc.so.6 > {ENTRY} > __do_sys_vfork_[k]");
    let mut planted = starting("convert", 1);
    // With the twenty that are there: four sevenths and three.
    planted.cpu(&fork("stamp"), 60).cpu(&fork("sign"), 60);
    let targets = planted.analysis().targets;
    let claims: Vec<_> = targets.iter().map(|target| (target.blame.function.as_str(), target.claims_s)).collect();
    let (stamp, sign) = (0.8 + 0.3 + 4.0 / 7.0, 0.6 + 3.0 / 7.0);
    assert!(
        matches!(claims[..], [("stamp", a), ("sign", b)] if (a - stamp).abs() < 1e-9 && (b - sign).abs() < 1e-9),
        "{claims:?}"
    );
}

#[test]
fn programs_that_work_are_not_started_for_nothing() {
    let found = starting("convert", 3).found();
    assert!(found.iter().all(|(_, blamed)| blamed != "stamp"), "{found:?}");
}

/// A program that starts others, of which a hundred were seen on a CPU, each this often.
fn starting(name: &str, samples: u64) -> Planted {
    let fork = format!("main > stamp > vfork@libc.so.6 > {ENTRY} > __do_sys_vfork_[k]");
    let start = format!("_start@ld-linux-x86-64.so.2 > {ENTRY} > __x64_sys_openat_[k]");
    let mut planted = Planted::new();
    planted.cpu(&fork, 20).cpu("main > stamp > argv@libc.so.6", 30).cpu("main > page", 10);
    let command = planted.profile.stacks.text(name);
    for pid in 100..200 {
        planted.cpu(&start, samples);
        let process = planted.process(pid, command);
        if let Some(sample) = planted.profile.on_cpu.last_mut() {
            sample.process = process;
        }
    }
    planted.calls("execve", if samples == 1 { 500 } else { 120 }, 0, &[]).calls("openat", 50_000, 0, &[]);
    planted
}
