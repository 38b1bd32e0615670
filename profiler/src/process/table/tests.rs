//! The table fed with events of processes that never were: their pids lie beyond what the kernel gives out.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::process::testing::TestResult;

const CHILD: Pid = Pid(5_000_000);

fn event(at_ns: u64, pid: Pid, what: What) -> Event {
    Event { at_ns, pid, tid: Tid(pid.0), what }
}

fn exec(command: &str) -> What {
    What::Exec { command: command.into() }
}

fn mapping(start: u64, path: &Path) -> What {
    let inode = std::fs::metadata(path).map_or(0, |status| status.ino());
    let device = std::fs::metadata(path).map_or(0, |status| status.dev());
    let file = FileIdentity { major: rustix::fs::major(device), minor: rustix::fs::minor(device), inode };
    What::Mmap { start, length: 0x1000, offset: 0x2000, file, path: path.into() }
}

fn module_at(table: &mut ProcessTable, pid: Pid, address: u64, at_ns: u64) -> Option<(String, u64)> {
    match table.normalize(pid, address, Some(at_ns)) {
        Location::Module { module, offset } => Some((module.name().into(), offset.0)),
        _ => None,
    }
}

#[test]
fn own_code_and_own_name_are_known() {
    let mut table = ProcessTable::new(100);
    let me = Pid(std::process::id());
    let address = own_code_and_own_name_are_known as fn() as usize as u64;
    let Location::Module { module, .. } = table.normalize(me, address, None) else { panic!("own code is unmapped") };
    assert!(module.name().starts_with("profiler-"), "{}", module.name());
    assert!(module.file().is_some());
    assert!(table.command(me, None).is_some_and(|command| command.starts_with("profiler-")));
    assert!(matches!(table.normalize(me, 8, None), Location::Unknown { address: 8 }));
    assert_eq!(table.counters().uncovered, 1);
}

#[test]
fn a_process_is_what_it_was_at_the_time() -> TestResult {
    let (first, second) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let name = |file: &tempfile::NamedTempFile| base(file.path());
    let me = Pid(std::process::id());
    let now = monotonic_ns();
    let mut table = ProcessTable::new(100);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now + 10, CHILD, exec("first")));
    table.apply(&event(now + 11, CHILD, mapping(0x10_0000, first.path())));
    table.apply(&event(now + 20, CHILD, exec("second")));
    table.apply(&event(now + 21, CHILD, mapping(0x10_0000, second.path())));
    table.apply(&event(now + 30, CHILD, What::Exit));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0004, now + 15), Some((name(&first), 0x2004)));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0004, now + 25), Some((name(&second), 0x2004)));
    assert_eq!(table.command(CHILD, Some(now + 15)).as_deref(), Some("first"));
    assert_eq!(table.command(CHILD, None).as_deref(), Some("second"));
    table.apply(&Event { tid: Tid(9), ..event(now + 31, CHILD, What::Comm { command: "worker".into() }) });
    assert_eq!(table.command(CHILD, None).as_deref(), Some("second"), "only the main thread names the process");
    Ok(())
}

#[test]
fn a_forked_child_has_its_parents_mappings_until_exec() {
    let mut table = ProcessTable::new(100);
    let me = Pid(std::process::id());
    let (now, here) = (monotonic_ns(), own_code_and_own_name_are_known as fn() as usize as u64);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    assert!(module_at(&mut table, CHILD, here, now + 1).is_some());
    table.apply(&event(now + 10, CHILD, exec("other")));
    assert!(module_at(&mut table, CHILD, here, now + 5).is_some(), "before exec");
    assert_eq!(table.command(CHILD, Some(now + 10)).as_deref(), Some("other"));
}

#[test]
fn a_pid_given_again_is_another_process() -> TestResult {
    let (first, second) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let me = Pid(std::process::id());
    let now = monotonic_ns();
    let later = now + 1_000_000_000;
    let mut table = ProcessTable::new(100);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now, CHILD, exec("first")));
    table.apply(&event(now, CHILD, mapping(0x10_0000, first.path())));
    // The exit was lost; the new birth tells.
    table.apply(&event(later, CHILD, What::Fork { parent: me }));
    table.apply(&event(later, CHILD, exec("second")));
    table.apply(&event(later, CHILD, mapping(0x10_0000, second.path())));
    assert_eq!(table.counters().pids_reused, 1);
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, now + 1), Some((base(first.path()), 0x2000)));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, later + 1), Some((base(second.path()), 0x2000)));
    assert_eq!(table.command(CHILD, Some(now + 1)).as_deref(), Some("first"));
    Ok(())
}

#[test]
fn a_pid_given_again_whose_birth_went_unheard_is_another_process() -> TestResult {
    let (first, second) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let me = Pid(std::process::id());
    let now = monotonic_ns();
    let later = now + 1_000_000_000;
    let mut table = ProcessTable::new(100);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now, CHILD, exec("first")));
    table.apply(&event(now, CHILD, mapping(0x10_0000, first.path())));
    table.apply(&event(now + 5, CHILD, What::Exit));
    table.apply(&event(later, CHILD, exec("second")));
    table.apply(&event(later, CHILD, mapping(0x10_0000, second.path())));
    table.apply(&event(later + 5, CHILD, What::Exit));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, now + 1), Some((base(first.path()), 0x2000)));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, later + 1), Some((base(second.path()), 0x2000)));
    assert_eq!(table.command(CHILD, Some(now + 1)).as_deref(), Some("first"));
    assert_eq!(table.command(CHILD, Some(later + 1)).as_deref(), Some("second"));
    Ok(())
}

#[test]
fn what_other_threads_map_after_the_main_thread_ended_is_known() -> TestResult {
    let (file, me, now) = (tempfile::NamedTempFile::new()?, Pid(std::process::id()), monotonic_ns());
    let mut table = ProcessTable::new(100);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now + 1, CHILD, exec("threads")));
    table.apply(&event(now + 2, CHILD, What::Exit));
    table.apply(&Event { tid: Tid(9), ..event(now + 3, CHILD, mapping(0x10_0000, file.path())) });
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, now + 4), Some((base(file.path()), 0x2000)));
    Ok(())
}

#[test]
fn a_library_in_the_place_of_another_is_told_apart_by_time() -> TestResult {
    let (first, second) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let (me, now) = (Pid(std::process::id()), monotonic_ns());
    let mut table = ProcessTable::new(100);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now + 1, CHILD, exec("swaps")));
    assert!(table.take_remapped().is_empty());
    for turn in 0..6 {
        let file = if turn % 2 == 0 { &first } else { &second };
        table.apply(&event(now + 10 * (turn + 1), CHILD, mapping(0x10_0000, file.path())));
    }
    let changes: Vec<_> = (2..=6).map(|turn| (CHILD, now + 10 * turn)).collect();
    assert_eq!((table.take_remapped(), table.take_remapped()), (changes, Vec::new()));
    for turn in 0..6 {
        let file = if turn % 2 == 0 { &first } else { &second };
        let found = module_at(&mut table, CHILD, 0x10_0004, now + 10 * (turn + 1) + 5);
        assert_eq!(found, Some((base(file.path()), 0x2004)), "turn {turn}");
    }
    assert_eq!(module_at(&mut table, CHILD, 0x10_0004, now + 5), None, "nothing was there yet");
    assert_eq!(table.counters().uncovered, 1);
    Ok(())
}

#[test]
fn a_grandchild_has_what_its_parent_had_when_it_was_forked() -> TestResult {
    let (before, after) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let (me, now) = (Pid(std::process::id()), monotonic_ns());
    let (grandchild, latecomer) = (Pid(CHILD.0 + 1), Pid(CHILD.0 + 2));
    let mut table = ProcessTable::new(100);
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now + 1, CHILD, exec("family")));
    table.apply(&event(now + 2, CHILD, mapping(0x10_0000, before.path())));
    table.apply(&event(now + 3, grandchild, What::Fork { parent: CHILD }));
    table.apply(&event(now + 4, CHILD, mapping(0x10_0000, after.path())));
    table.apply(&event(now + 5, CHILD, What::Exit));
    table.apply(&event(now + 6, latecomer, What::Fork { parent: grandchild }));
    for pid in [grandchild, latecomer] {
        table.apply(&event(now + 9, pid, What::Exit));
        assert_eq!(module_at(&mut table, pid, 0x10_0000, now + 8), Some((base(before.path()), 0x2000)));
        assert_eq!(table.command(pid, Some(now + 8)).as_deref(), Some("family"));
    }
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, now + 4), Some((base(after.path()), 0x2000)));
    Ok(())
}

#[test]
fn a_child_that_has_ended_and_is_not_waited_for_keeps_what_it_inherited() -> TestResult {
    let me = Pid(std::process::id());
    let mut child = std::process::Command::new("true").spawn()?;
    let pid = Pid(child.id());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while read_stat(pid).is_some_and(|stat| !stat.is_over) {
        assert!(std::time::Instant::now() < until, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (now, here) = (monotonic_ns(), own_code_and_own_name_are_known as fn() as usize as u64);
    for seen_first in [false, true] {
        let mut table = ProcessTable::new(100);
        table.follow();
        table.observe(me);
        if seen_first {
            table.observe(pid);
        }
        let began = read_stat(pid).map_or(now, |stat| start_ns(stat.start_ticks)) + 1_000_000;
        table.apply(&event(began, pid, What::Fork { parent: me }));
        table.apply(&event(now, pid, What::Exit));
        assert!(module_at(&mut table, pid, here, now - 1).is_some(), "seen first: {seen_first}");
        assert_eq!(table.lives.get(&pid).map(Vec::len), Some(1), "one process");
    }
    child.wait()?;
    Ok(())
}

#[test]
fn a_program_begun_by_another_thread_than_the_main_one_is_the_same_process() -> TestResult {
    let (first, second) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let (me, now) = (Pid(std::process::id()), monotonic_ns());
    let mut table = ProcessTable::new(100);
    table.follow();
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now + 1, CHILD, exec("first")));
    table.apply(&event(now + 2, CHILD, mapping(0x10_0000, first.path())));
    table.apply(&event(now + 10, CHILD, What::Exit));
    table.apply(&event(now + 11, CHILD, exec("second")));
    table.apply(&event(now + 12, CHILD, mapping(0x10_0000, second.path())));
    assert_eq!(table.lives.get(&CHILD).map(Vec::len), Some(1));
    assert_eq!(table.living(CHILD).map(|life| life.start_ns), Some(now));
    assert_eq!(table.command(CHILD, Some(now + 5)).as_deref(), Some("first"));
    assert_eq!(table.command(CHILD, Some(now + 11)).as_deref(), Some("second"));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, now + 5), Some((base(first.path()), 0x2000)));
    assert_eq!(module_at(&mut table, CHILD, 0x10_0000, now + 13), Some((base(second.path()), 0x2000)));
    Ok(())
}

#[test]
fn another_start_time_in_proc_is_another_process() {
    let mut table = ProcessTable::new(100);
    let me = Pid(std::process::id());
    table.observe(me);
    if let Some(life) = table.living(me) {
        life.start_ticks = Some(1);
        life.checked_ns = 0;
    }
    table.observe(me);
    assert_eq!((table.counters().pids_reused, table.len()), (1, 2));
}

#[test]
fn the_dead_are_remembered_until_they_are_forgotten() {
    let mut table = ProcessTable::new(100);
    let (me, now) = (Pid(std::process::id()), monotonic_ns());
    table.apply(&event(now, CHILD, What::Fork { parent: me }));
    table.apply(&event(now + 10, CHILD, What::Exit));
    table.forget_dead(now + 10);
    assert_eq!(table.len(), 2);
    table.forget_dead(now + 11);
    assert_eq!(table.len(), 1, "only the living one is left");
}

#[test]
fn after_lost_events_mappings_are_read_again() {
    let mut table = ProcessTable::new(100);
    let me = Pid(std::process::id());
    table.observe(me);
    let before = table.counters().maps_read;
    table.apply(&event(monotonic_ns(), me, What::Lost { count: 3 }));
    let here = own_code_and_own_name_are_known as fn() as usize as u64;
    assert!(matches!(table.normalize(me, here, None), Location::Module { .. }));
    assert_eq!((table.counters().maps_read, table.counters().events_lost), (before + 1, 3));
}

#[test]
fn a_command_with_parentheses_is_read() {
    let stat = b"42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
    let stat = parse_stat(stat);
    assert!(
        stat.is_some_and(|stat| &*stat.command == "a) b (c" && stat.parent == Pid(7) && stat.start_ticks == 987_654)
    );
    assert!(parse_stat(b"42 (a").is_none());
}

fn base(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
