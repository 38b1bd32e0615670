use std::collections::BTreeMap;

use super::*;
use crate::{
    daemon::metrics::{Labels, Value},
    profile::{Histogram, SyscallStats, testing},
};

/// Remembers every sample by name and labels.
#[derive(Default)]
struct Remembered {
    family: &'static str,
    samples: BTreeMap<String, f64>,
}

impl Exposition for Remembered {
    fn family(&mut self, family: Family) {
        self.family = family.name;
    }

    fn sample(&mut self, labels: Labels<'_>, value: Value<'_>) {
        let labels: Vec<String> = labels
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let value = match value {
            Value::Number(number) => number,
            Value::Histogram(histogram, _) => histogram.count() as f64,
        };
        let known = self.samples.insert(format!("{} {}", self.family, labels.join(",")), value);
        assert!(known.is_none(), "no series is told twice: {} {}", self.family, labels.join(","));
    }
}

fn told(series: &AllSeries, view: View) -> BTreeMap<String, f64> {
    let mut remembered = Remembered::default();
    series.expose(view, &mut remembered);
    remembered.samples
}

fn sum_of(samples: &BTreeMap<String, f64>, family: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.starts_with(&format!("{family} "))).map(|(_, value)| value).sum()
}

const LINGER: Duration = Duration::from_mins(1);

#[test]
fn windows_add_up_exactly() {
    let mut series = AllSeries::new(20_000, LINGER);
    let now = Instant::now();
    let profile = testing::profile();
    for _ in 0..3 {
        series.add(&profile, now);
    }
    let samples = told(&series, View::Whole);
    let web = "namespace=shop,pod=web-7d4b9,container=nginx,image=nginx:1.29";
    let at = |name: &str| samples.get(name).copied().unwrap_or(f64::NAN);
    assert!((at(&format!("profiler_cpu_seconds_total {web},mode=user")) - 12.6).abs() < 1e-9);
    assert!((at(&format!("profiler_syscall_duration_seconds {web},syscall=recvfrom")) - 180_000.0).abs() < 1e-9);
    assert!(
        (at(&format!("profiler_syscall_errors_total {web},syscall=recvfrom,errno=EAGAIN")) - 63_000.0).abs() < 1e-9
    );
    assert!((at(&format!("profiler_pressure_ratio {web},resource=cpu")) - 0.21).abs() < 1e-9);
    assert!(!samples.contains_key(&format!("profiler_pressure_ratio {web},resource=memory")));
    let states: f64 = samples
        .iter()
        .filter(|(name, _)| name.starts_with(&format!("profiler_thread_seconds_total {web}")))
        .map(|(_, value)| value)
        .sum();
    assert!((states - 60.0).abs() < 1e-6, "the states add up to the lifetime: {states}");
}

#[test]
fn a_container_that_is_restarted_under_the_same_labels_goes_on_counting() {
    let mut series = AllSeries::new(20_000, LINGER);
    let now = Instant::now();
    let mut profile = testing::profile();
    series.add(&profile, now);
    let before = told(&series, View::Whole);
    profile.containers[0].id = "another".to_owned();
    profile.containers[0].ledger = Ledger { thread_ns: 1, cpu_user_ns: 1, ..Ledger::default() };
    series.add(&profile, now + Duration::from_secs(30));
    let after = told(&series, View::Whole);
    for (name, value) in before.iter().filter(|(name, _)| !name.starts_with("profiler_pressure")) {
        assert!(after.get(name).is_some_and(|now| now >= value), "{name}");
    }
}

#[test]
fn a_dead_containers_series_stay_for_a_while_then_leave_and_begin_anew() {
    let mut series = AllSeries::new(20_000, LINGER);
    let now = Instant::now();
    series.add(&testing::profile(), now);
    let exposed = series.count();
    series.add(&Profile::default(), now + Duration::from_secs(59));
    assert_eq!(series.count(), exposed);
    assert!(sum_of(&told(&series, View::Whole), "profiler_cpu_seconds_total") > 9.0);
    series.add(&Profile::default(), now + Duration::from_secs(61));
    assert_eq!(series.count(), 0);
    assert!(told(&series, View::Whole).is_empty());
}

#[test]
fn a_living_containers_series_stay_however_short_the_dead_ones_linger() {
    let mut series = AllSeries::new(20_000, Duration::from_secs(3));
    let began = Instant::now();
    let after = |seconds| began + Duration::from_secs(seconds);
    series.add(&testing::profile(), after(0));
    let exposed = series.count();
    // Looked through between windows of a minute.
    for seconds in [5, 25, 59] {
        series.forget(after(seconds));
        assert_eq!(series.count(), exposed, "after {seconds} s");
    }
    series.add(&testing::profile(), after(60));
    let before = sum_of(&told(&series, View::Whole), "profiler_cpu_seconds_total");
    series.forget(after(100));
    assert!((sum_of(&told(&series, View::Whole), "profiler_cpu_seconds_total") - before).abs() < 1e-9);
    // Dead since the end of the window before.
    series.add(&Profile::default(), after(62));
    assert_eq!(series.count(), exposed);
    series.forget(after(64));
    assert_eq!(series.count(), 0);
}

#[test]
fn series_leave_at_last_where_the_collection_has_stopped() {
    let mut series = AllSeries::new(20_000, Duration::from_secs(3));
    let now = Instant::now();
    series.add(&testing::profile(), now);
    series.forget(now + STALLED + Duration::from_secs(1));
    assert_eq!(series.count(), 0);
}

/// Containers with thirty syscalls each.
fn crowd(containers: usize) -> Profile {
    let mut profile = Profile::default();
    for number in 0..containers {
        let mut container = Container {
            name: format!("c{number}"),
            ledger: Ledger { thread_ns: 1_000_000_000, cpu_user_ns: 1_000_000_000, ..Ledger::default() },
            ..Container::default()
        };
        for call in 0..30 {
            let mut latency = Histogram::default();
            latency.record(1_000 * (call + 1));
            container.syscalls.push(SyscallStats {
                name: format!("call{call}"),
                count: 1,
                errors: BTreeMap::from([(Errno(2), 1)]),
                latency,
                ..SyscallStats::default()
            });
        }
        profile.containers.push(container);
    }
    profile
}

#[test]
fn what_does_not_get_in_is_counted_and_added_up_under_other() {
    let mut series = AllSeries::new(1_000, LINGER);
    let now = Instant::now();
    let mut last = BTreeMap::new();
    for window in 0..4 {
        // Some come and go, so that there is room again for others.
        let profile = crowd(if window == 2 { 5 } else { 60 });
        series.add(&profile, now + LINGER * window);
        assert!(series.count() <= 1_000);
        for view in [View::Whole, View::Text] {
            let samples = told(&series, view);
            let other = |samples: &BTreeMap<String, f64>| {
                samples.get("profiler_cpu_seconds_total container=other,mode=user").copied().unwrap_or(0.0)
            };
            assert!(other(&samples) >= last.get(&(view == View::Text)).copied().unwrap_or(0.0), "other only grows");
            last.insert(view == View::Text, other(&samples));
        }
    }
    assert!(series.dropped() > 0);
    let mut once = AllSeries::new(1_000, LINGER);
    once.add(&crowd(60), now);
    for view in [View::Whole, View::Text] {
        let samples = told(&once, view);
        assert!((sum_of(&samples, "profiler_cpu_seconds_total") - 60.0).abs() < 1e-9, "nothing is missing");
        assert!((sum_of(&samples, "profiler_syscall_duration_seconds") - 1800.0).abs() < 1e-9);
        assert!((sum_of(&samples, "profiler_syscall_errors_total") - 1800.0).abs() < 1e-9);
    }
}

#[test]
fn text_stays_within_its_lines() {
    let mut series = AllSeries::new(2_000, LINGER);
    series.add(&crowd(100), Instant::now());
    let mut text = crate::daemon::metrics::text::Text::new(crate::daemon::metrics::Format::Text);
    series.expose(View::Text, &mut text);
    let lines = text.finish().lines().count();
    let other = 30 * (HISTOGRAM_LINES + 1) + BASIC_LINES;
    assert!(lines <= 2_000 + other + 30, "{lines}");
}
