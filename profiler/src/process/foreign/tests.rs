use std::sync::mpsc::channel;

use super::*;

fn subject(on: &str, owner: &str) -> Subject {
    Subject { on: Dependency::Root(on.into()), owner: Some(owner.into()), process: Some(Pid(7)) }
}

/// Has something asked that answers only when the sender is dropped, and waits until it is given up.
fn hang(files: &ForeignFiles, subject: &Subject, patience: Patience) -> std::sync::mpsc::Sender<()> {
    let (release, held) = channel::<()>();
    let asked = files.ask(subject, patience, Urgency::Ordinary, move || held.recv().is_ok());
    assert_eq!(asked, Err(Unanswered::Late));
    release
}

fn ask(files: &ForeignFiles, subject: &Subject) -> Result<u8, Unanswered> {
    files.ask(subject, Patience::Work, Urgency::Ordinary, || 7)
}

/// Waits until so many requests that were given up have returned.
fn until_returned(files: &ForeignFiles, count: u64) {
    let began = Instant::now();
    while files.returned() < count {
        assert!(began.elapsed() < Duration::from_secs(20), "{} of {count} have returned", files.returned());
        std::thread::yield_now();
    }
}

#[test]
fn what_does_not_answer_is_asked_once_and_again_when_it_has_returned() {
    let files = ForeignFiles::default();
    let (hung, sound) = (subject("a", "one"), subject("b", "two"));
    let release = hang(&files, &hung, Patience::Moment);
    assert_eq!(ask(&files, &hung), Err(Unanswered::Stuck));
    assert!(!files.may_ask(&hung));
    assert_eq!(ask(&files, &sound), Ok(7), "others are served");
    assert_eq!(files.take_unheard(), Unheard { requests: 1, processes: 1 });
    assert_eq!(files.take_unheard(), Unheard::default());
    drop(release);
    until_returned(&files, 1);
    assert_eq!(ask(&files, &hung), Ok(7));
}

#[test]
fn a_container_has_a_bounded_number_of_stuck_threads_and_others_have_theirs() {
    let files = ForeignFiles::default();
    let names: Vec<String> = (0..STUCK_PER_OWNER).map(|number| number.to_string()).collect();
    let held: Vec<_> = names.iter().map(|name| hang(&files, &subject(name, "one"), Patience::Moment)).collect();
    assert_eq!(ask(&files, &subject("sound", "one")), Err(Unanswered::Stuck));
    assert_eq!(ask(&files, &subject("sound", "two")), Ok(7));
    drop(held);
    until_returned(&files, STUCK_PER_OWNER as u64);
    assert_eq!(ask(&files, &subject("sound", "one")), Ok(7));
}

#[test]
fn threads_are_bounded_and_the_more_hang_the_shorter_each_is_waited_for() {
    let files = ForeignFiles::default();
    let began = Instant::now();
    let names: Vec<String> = (0..WORKERS_MAX).map(|number| number.to_string()).collect();
    let held: Vec<_> = names.iter().map(|name| hang(&files, &subject(name, name), Patience::Moment)).collect();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(ask(&files, &subject("one more", "one more")), Err(Unanswered::Full));
    drop(held);
    until_returned(&files, WORKERS_MAX as u64);
    assert_eq!(ask(&files, &subject("one more", "one more")), Ok(7));
}

#[test]
fn work_that_goes_on_is_waited_for_and_work_that_stands_still_is_not() {
    let files = ForeignFiles::default();
    let busy = || {
        let (began, mut rounds) = (Instant::now(), 0_u64);
        while began.elapsed() < STANDSTILL * 2 {
            rounds = std::hint::black_box(rounds + 1);
        }
        rounds > 0
    };
    assert_eq!(files.ask(&subject("a", "one"), Patience::Work, Urgency::Ordinary, busy), Ok(true));
    drop(hang(&files, &subject("b", "one"), Patience::Work));
}

#[test]
fn work_that_panics_costs_its_own_result_only() {
    let files = ForeignFiles::default();
    let panics = || -> u8 { panic!("a file that nobody thought of") };
    assert_eq!(files.ask(&subject("a", "one"), Patience::Work, Urgency::Ordinary, panics), Err(Unanswered::Failed));
    assert_eq!(ask(&files, &subject("a", "one")), Ok(7));
}

#[test]
fn a_fifo_that_nobody_opens_for_writing_holds_one_thread() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU)?;
    let (files, hung, reading) = (ForeignFiles::default(), subject("fifo", "one"), path.clone());
    let read = move || std::fs::read(reading).unwrap_or_default();
    let asked = files.ask(&hung, Patience::Work, Urgency::Ordinary, read);
    assert_eq!(asked, Err(Unanswered::Late));
    for _ in 0..100 {
        assert_eq!(ask(&files, &hung), Err(Unanswered::Stuck));
    }
    assert_eq!(files.state().workers, 1);
    std::fs::write(&path, "late")?;
    until_returned(&files, 1);
    assert_eq!(ask(&files, &hung), Ok(7));
    Ok(())
}

#[test]
fn the_innermost_container_of_a_cgroup_is_the_owner() {
    let (outer, inner) = ("ab".repeat(32), "cd".repeat(32));
    let memberships = format!("4:cpu:/docker/{outer}\n0::/docker/{outer}/docker-{inner}.scope\n");
    assert_eq!(container_id(&memberships), Some(inner.as_str()));
    assert_eq!(container_id("0::/system.slice/a.service\n"), None);
}

#[test]
fn processes_of_one_root_share_what_they_depend_on() {
    let (files, me) = (ForeignFiles::default(), Pid(std::process::id()));
    let parent = Pid(std::os::unix::process::parent_id());
    assert_eq!(files.root_of(me).on, files.root_of(parent).on);
    assert_ne!(files.memory_of(me).on, files.memory_of(parent).on);
    assert!(files.read_proc(me, "maps").is_some_and(|maps| !maps.is_empty()));
}
