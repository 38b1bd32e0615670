use super::check::Check;
use super::*;
use crate::profile::{Selection, testing};

fn side(profile: &Profile) -> Side<'_> {
    Side { profile, selected: Selection::default().resolve(profile).unwrap() }
}

fn slower(profile: &Profile, by: f64) -> Profile {
    let mut slower = profile.clone();
    for container in &mut slower.containers {
        let ledger = &mut container.ledger;
        ledger.cpu_user_ns = (ledger.cpu_user_ns as f64 * by) as u64;
        ledger.cpu_kernel_ns = (ledger.cpu_kernel_ns as f64 * by) as u64;
    }
    for sample in &mut slower.on_cpu {
        sample.count = (sample.count as f64 * by) as u64;
    }
    slower
}

fn steady(mut profile: Profile) -> Profile {
    profile.on_cpu_by_second = vec![95, 97, 96, 95, 97, 96, 95, 97, 96, 96];
    profile
}

#[test]
fn a_recording_against_itself_has_not_changed() {
    let profile = steady(testing::profile());
    let comparison = Comparison::of(&side(&profile), &side(&profile), &Done::default());
    assert_eq!(comparison.verdict, Verdict::NoChange);
    assert_eq!(comparison.functions, []);
}

#[test]
fn a_tenth_more_is_worse_and_as_much_work_more_is_not() {
    let a = steady(testing::profile());
    let b = slower(&a, 1.1);
    assert_eq!(Comparison::of(&side(&a), &side(&b), &Done::default()).verdict, Verdict::Worse);
    assert_eq!(Comparison::of(&side(&b), &side(&a), &Done::default()).verdict, Verdict::Better);
    let work = |done| Some(Work { done, ..Work::default() });
    let done = Done { a: work(1000.0), b: work(1100.0), unit: "requests".to_owned() };
    let comparison = Comparison::of(&side(&a), &side(&b), &done);
    assert_eq!(comparison.verdict, Verdict::NoChange);
    assert_eq!(comparison.metrics[0].name, "cpu_per_request");
}

#[test]
fn noise_widens_with_the_spread_of_seconds() {
    let a = steady(testing::profile());
    let mut restless = slower(&a, 1.1);
    restless.on_cpu_by_second = vec![20, 170, 30, 160, 95, 10, 180, 60, 130, 105];
    assert_eq!(Comparison::of(&side(&a), &side(&restless), &Done::default()).verdict, Verdict::NoChange);
}

#[test]
fn seconds_without_load_widen_the_noise_only_where_nobody_counted_the_work() {
    let a = steady(testing::profile());
    let mut b = slower(&a, 1.1);
    b.on_cpu_by_second = vec![0, 1, 160, 161, 160, 159, 160, 161, 0, 0];
    let work = || Some(Work { done: 1000.0, ..Work::default() });
    let counted = Done { a: work(), b: work(), unit: "requests".to_owned() };
    assert_eq!(Comparison::of(&side(&a), &side(&b), &counted).verdict, Verdict::Worse);
    assert_eq!(Comparison::of(&side(&a), &side(&b), &Done::default()).verdict, Verdict::NoChange);
}

#[test]
fn exact_seconds_narrow_what_few_samples_leave_wide() {
    let a = steady(testing::profile());
    let mut b = slower(&a, 1.1);
    b.on_cpu_by_second = vec![70, 120, 60, 130, 95, 60, 130, 80, 110, 105];
    let verdict = |b: &Profile| Comparison::of(&side(&a), &side(b), &Done::default()).verdict;
    assert_eq!(verdict(&b), Verdict::NoChange);
    b.containers[0].cpu_ns_by_second = vec![1_000_000_000; 10];
    assert_eq!(verdict(&b), Verdict::Worse);
}

#[test]
fn a_function_that_is_new_has_moved() {
    let a = testing::profile();
    let mut b = a.clone();
    let (first, second) = (b.on_cpu[0].stack, b.on_cpu[2].stack);
    b.on_cpu.iter_mut().filter(|sample| sample.stack == first).for_each(|sample| sample.stack = second);
    let moved = Comparison::of(&side(&a), &side(&b), &Done::default()).functions;
    assert!(moved.iter().any(|moved| moved.function == "tcp_recvmsg" && moved.delta() > 0.0), "{moved:?}");
}

#[test]
fn checks_hold_only_beyond_the_noise_and_name_unknown_figures() {
    let a = steady(testing::profile());
    let b = slower(&a, 1.1);
    let work = |done, p95| Some(Work { done, failed: 0.0, percentiles_ms: vec![(95.0, p95)] });
    let done = Done { a: work(1000.0, 150.0), b: work(1000.0, 80.0), unit: "requests".to_owned() };
    let comparison = Comparison::of(&side(&a), &side(&b), &done);
    let holds = |text: &str| Check::parse(text).unwrap().holds(&comparison);
    assert_eq!(holds("cpu_per_request > +5%"), Ok(true));
    assert_eq!(holds("cpu_per_request > +20%"), Ok(false));
    assert_eq!(holds("p95 < 100ms"), Ok(true));
    assert!(holds("p42 < 1s").unwrap_err().contains("p95"));
}

#[test]
fn the_differential_picture_holds_what_either_recording_had() {
    let a = testing::profile();
    let options = crate::output::WriteOptions::default();
    let scope = |profile| crate::output::Scope { profile, selected: side(profile).selected, options: &options };
    let mut svg = Vec::new();
    picture::write(&scope(&a), &scope(&a), crate::output::Kind::Cpu, 1.0, &mut svg).unwrap();
    assert!(String::from_utf8(svg).unwrap().contains("ngx_http_gzip_body_filter"));
}
