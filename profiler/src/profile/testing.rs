//! A small, realistic profile for tests: a web server, its database, a systemd unit and the rest of the host.

use std::collections::BTreeMap;

use super::{
    Container, ContainerIndex, Coverage, CpuSampleCoverage, Errno, Frame, FrameId, FrameKind, Histogram, Host, Ledger,
    OffCpuCoverage, OffCpuReason, OffCpuSample, OnCpuSample, Overhead, Pressure, Process, ProcessIndex, Profile,
    RunQueue, Settings, StackCoverage, StackId, SymbolCoverage, SyscallCoverage, SyscallStats, TimeCoverage, Wait,
    WaitedBehind, Window,
};

const SECOND: u64 = 1_000_000_000;

/// Interns frames written as `kind function module`, with `k`, `u`, `i`, `?` or `!` for the kind.
fn stack(profile: &mut Profile, frames: &[(char, &str, &str, &str, u32)]) -> StackId {
    let ids: Vec<FrameId> = frames
        .iter()
        .map(|(kind, function, module, file, line)| {
            let kind = match kind {
                'k' => FrameKind::Kernel,
                'i' => FrameKind::UserInlined,
                '?' => FrameKind::Unresolved,
                '!' => FrameKind::Note,
                _ => FrameKind::User,
            };
            let table = &mut profile.stacks;
            let frame = Frame {
                kind,
                function: table.text(function),
                module: table.text(module),
                file: table.text(file),
                line: *line,
            };
            table.frame(frame)
        })
        .collect();
    profile.stacks.stack(&ids)
}

fn latency(durations: &[(u64, u64)]) -> Histogram {
    let mut histogram = Histogram::default();
    for (ns, times) in durations {
        for _ in 0..*times {
            histogram.record(*ns);
        }
    }
    histogram
}

/// The profile.
pub fn profile() -> Profile {
    let mut profile = Profile {
        window: Window { start_unix_ns: 1_767_323_045_000_000_000, duration_ns: 10 * SECOND },
        host: Host {
            node: "node-1".to_owned(),
            kernel: "6.18.5".to_owned(),
            architecture: "x86_64".to_owned(),
            cpus: 2,
            steal_ns: 120_000_000,
        },
        settings: Settings {
            on_cpu: true,
            off_cpu: true,
            syscalls: true,
            frequency_hz: 99,
            offcpu_threshold_ns: 1_000_000,
            threads: true,
            lines: true,
            filters: Vec::new(),
        },
        coverage: coverage(),
        overhead: Overhead {
            bpf_cpu_ns: Some(41_000_000),
            agent_cpu_ns: 230_000_000,
            agent_rss_bytes: 47_185_920,
            agent_pid: 0,
            map_bytes: 12_582_912,
            programs: BTreeMap::from([("sched_switch".to_owned(), 30_000_000), ("sys_enter".to_owned(), 11_000_000)]),
        },
        containers: vec![web(), database(), unit(), host()],
        ..Profile::default()
    };
    for (pid, command) in [(4101, "nginx"), (4102, "nginx"), (5200, "postgres"), (731, "dockerd"), (1, "systemd")] {
        let command = profile.stacks.text(command);
        profile.processes.push(Process { pid, command });
    }
    add_on_cpu(&mut profile);
    add_off_cpu(&mut profile);
    profile
}

fn coverage() -> Coverage {
    Coverage {
        cpu_samples: CpuSampleCoverage {
            expected: 1980,
            kept: 960,
            idle: 1000,
            filtered: 0,
            lost: BTreeMap::from([("map_busy".to_owned(), 20)]),
        },
        stacks: StackCoverage {
            complete: 930,
            incomplete: BTreeMap::from([("no_frame_pointer".to_owned(), 25), ("too_deep".to_owned(), 5)]),
        },
        frames_resolved: 9_400,
        frames_total: 9_600,
        frames_unresolved: BTreeMap::from([("stripped".to_owned(), 150), ("no_perf_map".to_owned(), 50)]),
        time: TimeCoverage::default(),
        off_cpu: OffCpuCoverage { time_ns: 48 * SECOND, with_stack_ns: 47 * SECOND, lost: 3 },
        syscalls: SyscallCoverage { counted: 61_203, lost: 2 },
        other_losses: BTreeMap::from([("task_without_slot".to_owned(), 4)]),
    }
}

fn web() -> Container {
    Container {
        id: "3fa9c1b2d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcde".to_owned(),
        name: "shop/web-7d4b9/nginx".to_owned(),
        image: Some("nginx:1.29".to_owned()),
        runtime: "containerd".to_owned(),
        pod: Some("web-7d4b9".to_owned()),
        namespace: Some("shop".to_owned()),
        container: Some("nginx".to_owned()),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        cgroup: "/kubepods/pod1/3fa9c1b2d4e5".to_owned(),
        cpu_limit_cores: Some(0.5),
        pressure: Pressure { cpu: Some(0.21), io: Some(0.0), memory: None },
        ledger: Ledger {
            stolen_ns: 0,
            thread_ns: 20 * SECOND,
            cpu_user_ns: 4_200_000_000,
            cpu_kernel_ns: 1_300_000_000,
            runnable_self_ns: 400_000_000,
            runnable_other_ns: 900_000_000,
            throttled_ns: 2_100_000_000,
            blocked_lock_ns: 600_000_000,
            blocked_disk_ns: 0,
            blocked_network_ns: 10_000_000_000,
            blocked_sleep_ns: 500_000_000,
            blocked_other_ns: 0,
            voluntary_switches: 8_100,
            involuntary_switches: 640,
        },
        cpu_ns_by_second: Vec::new(),
        run_queue: RunQueue { latency: latency(&[(4_000, 700), (90_000, 250), (40_000_000, 50)]), max_ns: 61_000_000 },
        waited_behind: vec![
            WaitedBehind { container: "db".to_owned(), ns: 700_000_000 },
            WaitedBehind { container: "idle".to_owned(), ns: 200_000_000 },
        ],
        waits: vec![
            Wait {
                reason: OffCpuReason::Network,
                peer: Some("10.0.0.7:5432".to_owned()),
                ns: 9_000_000_000,
                count: 900,
            },
            Wait { reason: OffCpuReason::Lock, peer: None, ns: 600_000_000, count: 60 },
        ],
        syscalls: vec![
            SyscallStats {
                name: "epoll_wait".to_owned(),
                count: 1_000,
                errors: BTreeMap::new(),
                bytes: 0,
                total_ns: 9_400_000_000,
                max_ns: 412_000_000,
                latency: latency(&[(8_000_000, 900), (300_000_000, 100)]),
            },
            SyscallStats {
                name: "recvfrom".to_owned(),
                count: 60_000,
                errors: BTreeMap::from([(Errno(11), 21_000), (Errno(104), 3)]),
                bytes: 31_000_000,
                total_ns: 180_000_000,
                max_ns: 2_000_000,
                latency: latency(&[(1_800, 59_000), (150_000, 1_000)]),
            },
        ],
        cpu_samples: CpuSampleCoverage { kept: 545, ..CpuSampleCoverage::default() },
        symbols: SymbolCoverage {
            resolved: 9_000,
            unresolved: BTreeMap::from([("stripped".to_owned(), 150), ("no_perf_map".to_owned(), 50)]),
        },
        stacks: StackCoverage { complete: 540, incomplete: BTreeMap::from([("too_deep".to_owned(), 5)]) },
        time: TimeCoverage::default(),
    }
}

fn database() -> Container {
    Container {
        id: "b71e0aa4c9d85527334c0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e".to_owned(),
        name: "db".to_owned(),
        image: Some("postgres:18".to_owned()),
        runtime: "docker".to_owned(),
        container: Some("db".to_owned()),
        cgroup: "/system.slice/docker-b71e0aa4c9d8.scope".to_owned(),
        ledger: Ledger {
            stolen_ns: 0,
            thread_ns: 30 * SECOND,
            cpu_user_ns: 2_900_000_000,
            cpu_kernel_ns: 1_200_000_000,
            runnable_self_ns: 100_000_000,
            runnable_other_ns: 300_000_000,
            blocked_disk_ns: 5_500_000_000,
            blocked_network_ns: 20_000_000_000,
            ..Ledger::default()
        },
        run_queue: RunQueue { latency: latency(&[(3_000, 500), (70_000, 20)]), max_ns: 900_000 },
        waited_behind: vec![WaitedBehind { container: "shop/web-7d4b9/nginx".to_owned(), ns: 300_000_000 }],
        syscalls: vec![SyscallStats {
            name: "fsync".to_owned(),
            count: 200,
            errors: BTreeMap::from([(Errno(5), 1)]),
            bytes: 0,
            total_ns: 5_400_000_000,
            max_ns: 120_000_000,
            latency: latency(&[(25_000_000, 190), (110_000_000, 10)]),
        }],
        cpu_samples: CpuSampleCoverage { kept: 405, ..CpuSampleCoverage::default() },
        stacks: StackCoverage { complete: 380, incomplete: BTreeMap::from([("no_frame_pointer".to_owned(), 25)]) },
        ..Container::default()
    }
}

fn unit() -> Container {
    Container {
        name: "docker.service".to_owned(),
        runtime: "host".to_owned(),
        cgroup: "/system.slice/docker.service".to_owned(),
        ledger: Ledger {
            stolen_ns: 0,
            thread_ns: 10 * SECOND,
            cpu_user_ns: 60_000_000,
            cpu_kernel_ns: 40_000_000,
            blocked_lock_ns: 9_900_000_000,
            ..Ledger::default()
        },
        ..Container::default()
    }
}

fn host() -> Container {
    Container {
        name: "host".to_owned(),
        runtime: "host".to_owned(),
        cgroup: "/".to_owned(),
        ledger: Ledger { stolen_ns: 0, thread_ns: 10 * SECOND, blocked_other_ns: 10 * SECOND, ..Ledger::default() },
        ..Container::default()
    }
}

fn add_on_cpu(profile: &mut Profile) {
    let main = ('u', "main", "nginx", "src/core/nginx.c", 386);
    let serve = ('u', "ngx_process_events_and_timers", "nginx", "src/event/ngx_event.c", 248);
    let entry = ('k', "entry_SYSCALL_64_after_hwframe", "[kernel]", "", 0);
    let syscall = ('k', "do_syscall_64", "[kernel]", "", 0);
    let stacks = [
        stack(
            profile,
            &[
                main,
                serve,
                ('u', "ngx_http_gzip_body_filter", "nginx", "src/http/gzip.c", 310),
                ('u', "deflate", "libz.so.1", "deflate.c", 1004),
                ('i', "longest_match", "libz.so.1", "deflate.c", 1275),
                ('i', "compare258", "libz.so.1", "match.h", 41),
            ],
        ),
        stack(
            profile,
            &[main, serve, ('u', "recv", "libc.so.6", "", 0), entry, syscall, ('k', "tcp_recvmsg", "[kernel]", "", 0)],
        ),
        stack(profile, &[main, serve, ('?', "[libcrypto.so.3+0x1b2c40]", "libcrypto.so.3", "", 0)]),
        stack(
            profile,
            &[
                ('u', "PostgresMain", "postgres", "", 0),
                ('u', "ExecScan(std::vector<int; 4>, 7)", "postgres", "", 0),
                ('u', "heap_getnext 42", "postgres", "", 0),
            ],
        ),
        stack(profile, &[('!', "[user stack: no frame pointer]", "", "", 0), ('u', "hash_search", "postgres", "", 0)]),
        stack(profile, &[main, ('u', "ngx_worker", "nginx", "", 0), main]),
    ];
    let rows = [
        (0, 0, "nginx", 0, 300),
        (0, 1, "nginx", 0, 40),
        (0, 0, "nginx", 1, 120),
        (0, 1, "aio 3", 2, 80),
        (0, 0, "nginx", 5, 5),
        (1, 2, "postgres", 3, 380),
        (1, 2, "postgres", 4, 25),
        (2, 3, "dockerd", 4, 10),
    ];
    for (container, process, thread, stack, count) in rows {
        let thread = profile.stacks.text(thread);
        profile.on_cpu.push(OnCpuSample {
            container: ContainerIndex(container),
            process: ProcessIndex(process),
            thread,
            stack: stacks[stack],
            count,
        });
    }
}

fn add_off_cpu(profile: &mut Profile) {
    let main = ('u', "main", "nginx", "src/core/nginx.c", 386);
    let entry = ('k', "entry_SYSCALL_64_after_hwframe", "[kernel]", "", 0);
    let syscall = ('k', "do_syscall_64", "[kernel]", "", 0);
    let schedule = ('k', "schedule", "[kernel]", "", 0);
    let stacks = [
        stack(
            profile,
            &[
                main,
                ('u', "ngx_epoll_process_events", "nginx", "src/event/epoll.c", 800),
                entry,
                syscall,
                ('k', "__x64_sys_epoll_wait", "[kernel]", "", 0),
                schedule,
            ],
        ),
        stack(
            profile,
            &[
                ('u', "XLogFlush", "postgres", "", 0),
                entry,
                syscall,
                ('k', "__x64_sys_fsync", "[kernel]", "", 0),
                schedule,
            ],
        ),
        stack(profile, &[('k', "kthread", "[kernel]", "", 0), ('k', "worker_thread", "[kernel]", "", 0), schedule]),
        stack(profile, &[]),
    ];
    let rows = [
        (0, 0, "nginx", 0, OffCpuReason::Network, 9_400_000_000.4, 940.0),
        (0, 1, "nginx", 0, OffCpuReason::Network, 600_000_000.3, 60.4),
        (0, 0, "nginx", 3, OffCpuReason::Throttled, 2_100_000_000.0, 31.0),
        (1, 2, "postgres", 1, OffCpuReason::Disk, 5_500_000_000.7, 200.3),
        (3, 4, "kworker/0:1", 2, OffCpuReason::Other, 10_000_000_000.0, 1.0),
        (3, 4, "kworker/0:2", 2, OffCpuReason::Other, 400.0, 0.4),
    ];
    for (container, process, thread, stack, reason, weight_ns, count) in rows {
        let thread = profile.stacks.text(thread);
        profile.off_cpu.push(OffCpuSample {
            container: ContainerIndex(container),
            process: ProcessIndex(process),
            thread,
            stack: stacks[stack],
            reason,
            weight_ns,
            count,
            peer: None,
        });
    }
}
