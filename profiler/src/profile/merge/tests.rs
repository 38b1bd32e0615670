//! Merging keeps every sum, whatever is merged in which order.

use proptest::prelude::*;

use crate::profile::testing::profile;
use crate::profile::{
    Container, ContainerIndex, Frame, FrameKind, Histogram, OffCpuReason, OffCpuSample, OnCpuSample, Process,
    ProcessIndex, Profile, Window,
};

#[test]
fn a_profile_merged_with_itself_has_twice_the_sums_and_the_same_tables() {
    let mut merged = profile();
    merged.merge(profile());
    let once = profile();
    assert_eq!(merged.stacks, once.stacks);
    assert_eq!(merged.processes, once.processes);
    assert_eq!(merged.on_cpu.len(), once.on_cpu.len());
    assert_eq!(merged.off_cpu.len(), once.off_cpu.len());
    assert!(merged.on_cpu.iter().zip(&once.on_cpu).all(|(twice, once)| twice.count == 2 * once.count));
    for (twice, once) in merged.containers.iter().zip(&once.containers) {
        assert_eq!(twice.name, once.name);
        assert_eq!(twice.ledger.thread_ns, 2 * once.ledger.thread_ns);
        assert_eq!(twice.ledger.off_cpu_ns(), 2 * once.ledger.off_cpu_ns());
        assert_eq!(twice.run_queue.latency.count(), 2 * once.run_queue.latency.count());
        assert_eq!(twice.run_queue.max_ns, once.run_queue.max_ns);
        assert_eq!(twice.waits.len(), once.waits.len());
        assert_eq!(twice.pressure, once.pressure);
        for (twice, once) in twice.syscalls.iter().zip(&once.syscalls) {
            assert_eq!((&twice.name, twice.count, twice.bytes), (&once.name, 2 * once.count, 2 * once.bytes));
            assert_eq!(twice.max_ns, once.max_ns);
        }
    }
    assert_eq!(merged.coverage.cpu_samples.expected, 2 * once.coverage.cpu_samples.expected);
    assert_eq!(merged.coverage.cpu_samples.lost["map_busy"], 40);
    assert_eq!(merged.overhead.agent_cpu_ns, 2 * once.overhead.agent_cpu_ns);
    assert_eq!(merged.overhead.bpf_cpu_ns, once.overhead.bpf_cpu_ns.map(|ns| 2 * ns));
    assert_eq!(merged.overhead.agent_rss_bytes, once.overhead.agent_rss_bytes);
    assert_eq!(merged.window, once.window);
    assert_eq!(merged.settings, once.settings);
}

#[test]
fn merging_into_nothing_gives_what_was_merged() {
    let mut merged = Profile::default();
    merged.merge(profile());
    assert_eq!(merged.on_cpu, profile().on_cpu);
    assert_eq!(merged.containers, profile().containers);
    assert_eq!((merged.window, merged.host), (profile().window, profile().host));
    let mut unchanged = profile();
    unchanged.merge(Profile::default());
    assert_eq!(unchanged, profile());
}

#[test]
fn seconds_of_one_number_are_the_same_for_all_containers() {
    let with = |name: &str, seconds: &[u64]| Container {
        name: name.to_owned(),
        runtime: "docker".to_owned(),
        id: name.repeat(8),
        cpu_ns_by_second: seconds.to_vec(),
        ..Container::default()
    };
    let of = |containers: &[Container]| Profile { containers: containers.to_vec(), ..Profile::default() };
    let mut merged = of(&[with("stays", &[1, 2]), with("goes", &[3, 4]), with("idles", &[])]);
    merged.merge(of(&[with("comes", &[5, 6]), with("stays", &[7, 8])]));
    merged.merge(of(&[with("goes", &[9]), with("comes", &[10])]));
    let series: Vec<(&str, &[u64])> =
        merged.containers.iter().map(|one| (one.name.as_str(), one.cpu_ns_by_second.as_slice())).collect();
    let expected: [(&str, &[u64]); 4] =
        [("stays", &[1, 2, 7, 8]), ("goes", &[3, 4, 0, 0, 9]), ("idles", &[]), ("comes", &[0, 0, 5, 6, 10])];
    assert_eq!(series, expected);
}

#[test]
fn the_window_holds_both_and_pressure_is_weighted_by_their_lengths() {
    let mut first = profile();
    let mut second = profile();
    second.window = Window { start_unix_ns: first.window.start_unix_ns + 10_000_000_000, duration_ns: 30_000_000_000 };
    second.containers[0].pressure.cpu = Some(0.41);
    second.containers[0].pressure.memory = Some(0.5);
    let mut newcomer = Container { id: "feed".to_owned(), name: "new".to_owned(), ..Container::default() };
    newcomer.pressure.io = Some(0.4);
    second.containers.push(newcomer);
    second.settings.filters.push("--container web".to_owned());
    let start = first.window.start_unix_ns;
    first.merge(second);
    assert_eq!(first.window, Window { start_unix_ns: start, duration_ns: 40_000_000_000 });
    let close = |share: Option<f64>, expected: f64| share.is_some_and(|share| (share - expected).abs() < 1e-9);
    assert!(close(first.containers[0].pressure.cpu, 0.36));
    assert!(close(first.containers[0].pressure.memory, 0.5), "an unknown share has no say");
    assert!(close(first.containers[4].pressure.io, 0.3), "a newcomer was not stalled before it came");
    assert_eq!(first.settings.filters, ["--container web"]);
}

#[test]
fn a_container_that_took_over_a_name_is_told_apart_in_every_later_window() {
    let with_id = |id: &str| {
        let mut window = profile();
        window.containers[1].id = id.to_owned();
        window
    };
    let mut merged = profile();
    merged.merge(with_id("cafe00112233445566"));
    merged.merge(with_id("cafe00112233445566"));
    let names: Vec<&str> = merged.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["shop/web-7d4b9/nginx", "db", "docker.service", "host", "db@cafe00112233"]);
    let behind: Vec<_> =
        merged.containers[0].waited_behind.iter().map(|behind| (behind.container.as_str(), behind.ns)).collect();
    assert_eq!(behind, [("db@cafe00112233", 1_400_000_000), ("db", 700_000_000), ("idle", 600_000_000)]);
    assert_eq!(merged.containers[4].ledger.thread_ns, 60_000_000_000);
}

#[test]
fn units_of_one_name_in_different_cgroups_stay_apart() {
    let mut second = profile();
    second.containers[2].cgroup = "/user.slice/docker.service".to_owned();
    let mut merged = profile();
    merged.merge(second.clone());
    merged.merge(second);
    assert_eq!(merged.containers.len(), 5);
    assert_eq!(merged.containers[4].name, "docker.service@/user.slice/docker.service");
    assert_eq!(merged.containers[4].ledger.thread_ns, 20_000_000_000);
}

#[test]
fn what_bears_a_containers_id_in_another_cgroup_stays_apart_from_it() {
    let window = |cgroup: &str| {
        let container = Container {
            id: "feed".to_owned(),
            name: "db".to_owned(),
            runtime: "docker".to_owned(),
            cgroup: cgroup.to_owned(),
            ..Container::default()
        };
        Profile { containers: vec![container], ..Profile::default() }
    };
    let mut merged = window("/docker/feed");
    merged.merge(window("/docker/feed"));
    assert_eq!(merged.containers.len(), 1);
    merged.merge(window("/user.slice/user@1000.service/docker-feed.scope"));
    assert_eq!(merged.containers.len(), 2);
    assert_ne!(merged.containers[0].name, merged.containers[1].name);
}

#[test]
fn a_container_known_by_its_id_takes_the_name_that_a_later_window_learned() {
    let mut merged = profile();
    merged.containers[1].name = "b71e0aa4c9d8".to_owned();
    merged.containers[0].waited_behind[0].container = "b71e0aa4c9d8".to_owned();
    merged.merge(profile());
    assert_eq!(merged.containers.len(), 4);
    assert_eq!(merged.containers[1].name, "db");
    assert_eq!(merged.containers[0].waited_behind[0].container, "db");
    assert_eq!(merged.containers[0].waited_behind[0].ns, 1_400_000_000);

    // The other way round the name stays, and is used for what the second window says of it.
    let mut second = profile();
    second.containers[1].name = "b71e0aa4c9d8".to_owned();
    second.containers[0].waited_behind[0].container = "b71e0aa4c9d8".to_owned();
    let mut merged = profile();
    merged.merge(second);
    assert_eq!(merged.containers[1].name, "db");
    assert_eq!(merged.containers[0].waited_behind.len(), 2);
}

#[derive(Debug, Clone)]
struct Sample {
    container: u32,
    process: u32,
    frames: Vec<u8>,
    count: u64,
}

fn sample() -> impl Strategy<Value = Sample> {
    (0..4_u32, 0..3_u32, prop::collection::vec(0..6_u8, 0..5), 1..1000_u64)
        .prop_map(|(container, process, frames, count)| Sample { container, process, frames, count })
}

/// A profile with these samples; its tables are filled in the samples' order, so that they differ between profiles.
fn profile_of(samples: &[Sample]) -> Profile {
    let mut profile = Profile { window: Window { start_unix_ns: 5, duration_ns: 10 }, ..Profile::default() };
    for sample in samples {
        let name = format!("c{}", sample.container);
        let position = profile.containers.iter().position(|container| container.name == name);
        let container = position.unwrap_or_else(|| {
            profile.containers.push(Container { id: name.clone(), name, ..Container::default() });
            profile.containers.len() - 1
        });
        let ledger = &mut profile.containers[container].ledger;
        ledger.thread_ns += sample.count;
        ledger.cpu_user_ns += sample.count;
        profile.containers[container].run_queue.latency.merge(&Histogram::from_counts([sample.count; 3]));
        let command = profile.stacks.text(&format!("p{}", sample.process));
        let process = Process { pid: sample.process, command };
        let position = profile.processes.iter().position(|known| *known == process);
        let process = position.unwrap_or_else(|| {
            profile.processes.push(process);
            profile.processes.len() - 1
        });
        let frames: Vec<_> = sample
            .frames
            .iter()
            .map(|function| {
                let function = profile.stacks.text(&format!("f{function}"));
                let module = profile.stacks.text("m");
                profile.stacks.frame(Frame { kind: FrameKind::User, function, module, file: module, line: 0 })
            })
            .collect();
        let stack = profile.stacks.stack(&frames);
        let thread = profile.stacks.text("t");
        let (container, process) = (ContainerIndex(container as u32), ProcessIndex(process as u32));
        profile.on_cpu.push(OnCpuSample { container, process, thread, stack, count: sample.count });
        let (reason, weight_ns) = (OffCpuReason::Lock, sample.count as f64);
        profile.off_cpu.push(OffCpuSample {
            container,
            process,
            thread,
            stack,
            reason,
            weight_ns,
            count: 1.0,
            peer: None,
        });
    }
    let mut aggregated = Profile::default();
    aggregated.merge(profile);
    aggregated
}

/// Everything a sample says, by name, in an order that does not depend on the tables.
fn told(profile: &Profile) -> Vec<(String, String, Vec<String>, u64, u64)> {
    let mut told: Vec<_> = profile
        .on_cpu
        .iter()
        .zip(&profile.off_cpu)
        .map(|(on, off)| {
            let frames = profile.stacks.frames_of(on.stack);
            (
                profile.containers[on.container.0 as usize].name.clone(),
                profile.stacks.text_of(profile.processes[on.process.0 as usize].command).to_owned(),
                frames.map(|frame| profile.stacks.text_of(frame.function).to_owned()).collect(),
                on.count,
                off.weight_ns as u64,
            )
        })
        .collect();
    told.sort();
    told
}

proptest! {
    #[test]
    fn merging_parts_tells_the_same_as_the_whole(
        samples in prop::collection::vec(sample(), 0..40),
        cut in 0.0..1.0_f64,
    ) {
        let whole = profile_of(&samples);
        let (first, second) = samples.split_at((samples.len() as f64 * cut) as usize);
        let mut merged = profile_of(first);
        merged.merge(profile_of(second));
        prop_assert_eq!(told(&merged), told(&whole));
        prop_assert!(merged.check().is_ok());
        let mut other_way = profile_of(second);
        other_way.merge(profile_of(first));
        prop_assert_eq!(told(&other_way), told(&whole));
        let sums = |profile: &Profile| -> (u64, u64, u64) {
            profile.containers.iter().fold((0, 0, 0), |(threads, cpu, waits), container| {
                let ledger = &container.ledger;
                (threads + ledger.thread_ns, cpu + ledger.cpu_ns(), waits + container.run_queue.latency.count())
            })
        };
        prop_assert_eq!(sums(&merged), sums(&whole));
    }
}
