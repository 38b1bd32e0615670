//! Profiles with one planted problem each, and what must be said of them.

mod blame;
mod calls;
mod locks;

use std::collections::BTreeMap;

use super::*;
use crate::profile::{
    Container, ContainerIndex, Errno, Frame, FrameKind, Ledger, OffCpuCoverage, OffCpuReason, OffCpuSample,
    OnCpuSample, Process, ProcessIndex, StackId, SyscallStats, TextId, WaitedBehind,
};

const SECOND: u64 = 1_000_000_000;

/// A profile of ten seconds on two CPUs with one container, to which tests add what they plant.
struct Planted {
    profile: Profile,
}

impl Planted {
    fn new() -> Self {
        let mut profile = Profile::default();
        profile.window.duration_ns = 10 * SECOND;
        profile.host.cpus = 2;
        profile.settings.on_cpu = true;
        profile.settings.off_cpu = true;
        profile.settings.syscalls = true;
        profile.settings.frequency_hz = 100;
        profile.coverage.frames_resolved = 100;
        profile.coverage.frames_total = 100;
        let command = profile.stacks.text("shop");
        profile.processes.push(Process { pid: 7, command });
        let mut planted = Self { profile };
        planted.container("shop");
        planted
    }

    fn container(&mut self, name: &str) -> usize {
        self.profile.containers.push(Container {
            id: format!("{name}0123456789"),
            name: name.to_owned(),
            runtime: "docker".to_owned(),
            ..Container::default()
        });
        self.profile.containers.len() - 1
    }

    fn process(&mut self, pid: u32, command: TextId) -> ProcessIndex {
        self.profile.processes.push(Process { pid, command });
        ProcessIndex(self.profile.processes.len() as u32 - 1)
    }

    /// Frames as `function@module`, kernel frames as `function_[k]`, root first.
    fn stack(&mut self, frames: &str) -> StackId {
        let ids: Vec<_> = frames
            .split(" > ")
            .map(|frame| {
                let (function, kind, module) = if let Some(function) = frame.strip_suffix("_[k]") {
                    (function, FrameKind::Kernel, "[kernel]")
                } else {
                    let (function, module) = frame.split_once('@').unwrap_or((frame, "shop"));
                    (function, FrameKind::User, module)
                };
                let table = &mut self.profile.stacks;
                let (function, module, file) = (table.text(function), table.text(module), table.text(""));
                table.frame(Frame { kind, function, module, file, line: 0 })
            })
            .collect();
        self.profile.stacks.stack(&ids)
    }

    fn cpu_of(&mut self, container: usize, frames: &str, count: u64) -> &mut Self {
        let stack = self.stack(frames);
        let thread = self.profile.stacks.text("shop");
        let container_index = ContainerIndex(container as u32);
        let sample = OnCpuSample { container: container_index, process: ProcessIndex(0), thread, stack, count };
        self.profile.on_cpu.push(sample);
        let ns = count * 10_000_000;
        let ledger: &mut Ledger = &mut self.profile.containers[container].ledger;
        if frames.ends_with("[k]") {
            ledger.cpu_kernel_ns += ns;
        } else {
            ledger.cpu_user_ns += ns;
        }
        ledger.thread_ns += ns;
        self.profile.coverage.cpu_samples.kept += count;
        self.profile.coverage.cpu_samples.expected += count;
        self
    }

    fn cpu(&mut self, frames: &str, count: u64) -> &mut Self {
        self.cpu_of(0, frames, count)
    }

    fn wait(&mut self, reason: OffCpuReason, frames: &str, seconds: f64, count: f64) -> &mut Self {
        let stack = self.stack(frames);
        let thread = self.profile.stacks.text("shop");
        let weight_ns = seconds * 1e9;
        let ns = weight_ns as u64;
        let sample = OffCpuSample {
            container: ContainerIndex(0),
            process: ProcessIndex(0),
            thread,
            stack,
            reason,
            weight_ns,
            count,
            peer: None,
        };
        self.profile.off_cpu.push(sample);
        let ledger = &mut self.profile.containers[0].ledger;
        match reason {
            OffCpuReason::Lock => ledger.blocked_lock_ns += ns,
            OffCpuReason::Disk => ledger.blocked_disk_ns += ns,
            OffCpuReason::Network => ledger.blocked_network_ns += ns,
            OffCpuReason::Sleep => ledger.blocked_sleep_ns += ns,
            OffCpuReason::Other => ledger.blocked_other_ns += ns,
            OffCpuReason::RunnableSelf => ledger.runnable_self_ns += ns,
            OffCpuReason::RunnableOther => ledger.runnable_other_ns += ns,
            OffCpuReason::Throttled => ledger.throttled_ns += ns,
        }
        ledger.thread_ns += ns;
        self.profile.coverage.off_cpu.time_ns += ns;
        self.profile.coverage.off_cpu.with_stack_ns += ns;
        self
    }

    fn calls(&mut self, name: &str, count: u64, bytes: u64, errors: &[(u16, u64)]) -> &mut Self {
        let mut stats = SyscallStats {
            name: name.to_owned(),
            count,
            bytes,
            errors: errors.iter().map(|(errno, n)| (Errno(*errno), *n)).collect::<BTreeMap<_, _>>(),
            total_ns: count * 1000,
            ..SyscallStats::default()
        };
        stats.latency.record(1000);
        self.profile.containers[0].syscalls.push(stats);
        self
    }

    fn analysis(&self) -> Analysis {
        self.profile.check().unwrap();
        analyse(&self.profile)
    }

    /// Kinds and blamed functions, by rank.
    fn found(&self) -> Vec<(Kind, String)> {
        self.analysis().targets.into_iter().map(|target| (target.kind, target.blame.function)).collect()
    }

    fn only(&self, kind: Kind, function: &str) -> Target {
        let analysis = self.analysis();
        let found: Vec<_> =
            analysis.targets.iter().map(|target| (target.kind, target.blame.function.clone())).collect();
        assert_eq!(found, [(kind, function.to_owned())]);
        analysis.targets.into_iter().next().unwrap()
    }
}

const ENTRY: &str = "entry_SYSCALL_64_after_hwframe_[k] > do_syscall_64_[k]";
const FUTEX: &str = "entry_SYSCALL_64_after_hwframe_[k] > do_syscall_64_[k] > __x64_sys_futex_[k] > futex_wait_[k]";
const RECV: &str = "entry_SYSCALL_64_after_hwframe_[k] > do_syscall_64_[k] > __x64_sys_recvfrom_[k] > tcp_recvmsg_[k]";

#[test]
fn calls_that_fail_by_mistake_are_found_below_their_caller() {
    let mut planted = Planted::new();
    planted
        .cpu(&format!("main > open_template > open64@libc.so.6 > {ENTRY} > do_sys_openat2_[k]"), 60)
        .cpu("main > open_template > snprintf@libc.so.6", 20)
        .cpu("main > render", 20)
        .calls("openat", 100_000, 0, &[(2, 91_000)]);
    let target = planted.only(Kind::SyscallErrors, "open_template");
    assert!(target.title.contains("ENOENT"), "{}", target.title);
    assert!((target.gain_at_most.value - 0.08).abs() < 1e-9, "the code around the calls goes with them");
    assert_eq!(target.frames, ["main", "open_template"]);
}

#[test]
fn would_block_is_no_mistake() {
    let mut planted = Planted::new();
    planted.cpu(&format!("main > serve > recv@libc.so.6 > {RECV}"), 60).calls(
        "recvfrom",
        100_000,
        900_000_000,
        &[(11, 60_000)],
    );
    assert_eq!(planted.found(), []);
}

#[test]
fn writing_digit_by_digit_is_small_io_and_a_fix_leaves_a_call_a_page() {
    let mut planted = Planted::new();
    planted
        .cpu(
            &format!("main > print_label > write@libc.so.6 > {ENTRY} > ksys_write_[k] > ext4_file_write_iter_[k]"),
            100,
        )
        .calls("write", 1_000_000, 8_000_000, &[]);
    let target = planted.only(Kind::SmallIo, "print_label");
    assert!(target.gain_at_most.value < target.cost.value && target.gain_at_most.value > 0.9 * target.cost.value);
}

#[test]
fn question_and_answer_in_small_messages_is_no_small_io() {
    let mut planted = Planted::new();
    let send = format!("main > serve > send@libc.so.6 > {ENTRY} > __x64_sys_sendto_[k] > tcp_sendmsg_[k]");
    planted
        .cpu(&format!("main > serve > recv@libc.so.6 > {RECV}"), 100)
        .cpu(&send, 100)
        .calls("recvfrom", 500_000, 20_000_000, &[])
        .calls("sendto", 500_000, 2_500_000, &[]);
    assert_eq!(planted.found(), []);
}

#[test]
fn asking_in_a_loop_is_busy_poll_with_all_of_the_loop() {
    let mut planted = Planted::new();
    planted.cpu(&format!("main > next_quote > recv@libc.so.6 > {RECV}"), 100).cpu("main > next_quote", 300).calls(
        "recvfrom",
        2_000_000,
        10_000,
        &[(11, 1_990_000)],
    );
    let target = planted.only(Kind::BusyPoll, "next_quote");
    assert!((target.gain_at_most.value - 0.4).abs() < 1e-9);
}

#[test]
fn a_busy_event_loop_is_no_busy_poll() {
    let mut planted = Planted::new();
    let wait = format!("main > loop > epoll_wait@libc.so.6 > {ENTRY} > __x64_sys_epoll_wait_[k] > ep_poll_[k]");
    planted.cpu(&wait, 60).calls("epoll_wait", 100_000, 0, &[]).calls("recvfrom", 100_000, 90_000_000, &[]).calls(
        "sendto",
        100_000,
        90_000_000,
        &[],
    );
    assert_eq!(planted.found(), []);
}

#[test]
fn looking_at_a_file_at_every_turn_is_a_storm() {
    let mut planted = Planted::new();
    planted
        .cpu(&format!("main > stamp > stat@libc.so.6 > {ENTRY} > __x64_sys_newfstatat_[k]"), 80)
        .cpu(&format!("main > stamp > stat@libc.so.6 > {ENTRY} > syscall_exit_work_[k] > bpf_trace_run2_[k]"), 80)
        .cpu("main > write_page", 30)
        .calls("newfstatat", 1_000_000, 0, &[]);
    let target = planted.only(Kind::SyscallStorm, "stamp");
    assert!((target.cost.value - 0.16).abs() < 1e-9);
    assert!((target.gain_at_most.value - 0.16).abs() < 1e-9);
    assert!(target.evidence.iter().any(|figure| figure.contains("0.080 cores of that")), "{:?}", target.evidence);
    planted.cpu(
        &format!("main > stamp > stat@libc.so.6 > {ENTRY} > syscall_exit_work_[k] > __traceiter_sys_exit_[k]"),
        160,
    );
    let target = planted.only(Kind::SyscallStorm, "stamp");
    assert!((target.gain_at_most.value - 0.16).abs() < 1e-9, "twice what is not this profiler's own: {target:?}");
}

#[test]
fn new_memory_for_every_image_is_memory_faults() {
    let mut planted = Planted::new();
    planted
        .cpu("main > resize > asm_exc_page_fault_[k] > do_user_addr_fault_[k] > clear_page_[k]", 60)
        .cpu("main > resize", 40)
        .calls("mmap", 5_000, 0, &[]);
    assert!((planted.only(Kind::MemoryFaults, "resize").gain_at_most.value - 0.06).abs() < 1e-9);
}

#[test]
fn memory_that_another_function_returns_is_the_problem_of_the_one_that_faults() {
    let unmap = format!("free@libc.so.6 > __munmap@libc.so.6 > {ENTRY} > __x64_sys_munmap_[k]");
    let fault = "asm_exc_page_fault_[k] > do_user_addr_fault_[k]";
    let mut planted = Planted::new();
    planted
        .cpu(&format!("main > serve > resize > decode > {fault}"), 60)
        .cpu(&format!("main > serve > resize > drop_canvas > {unmap}"), 90)
        .cpu(&format!("main > load > parse > {fault}"), 70)
        .calls("munmap", 5_000, 0, &[]);
    let targets = planted.analysis().targets;
    let claims: Vec<_> = targets.iter().map(|target| (target.blame.function.as_str(), target.claims_s)).collect();
    assert!(
        matches!(claims[..], [("decode", a), ("parse", b)] if (a - 1.5).abs() < 1e-9 && (b - 0.7).abs() < 1e-9),
        "{claims:?}"
    );
}

#[test]
fn kernel_time_that_nothing_else_explains_is_overhead_but_serving_sockets_is_not() {
    let mut planted = Planted::new();
    planted.cpu(&format!("main > load > read@libc.so.6 > {ENTRY} > ksys_read_[k] > filemap_read_[k]"), 200).calls(
        "read",
        2_000,
        8_000_000_000,
        &[],
    );
    planted.only(Kind::KernelOverhead, "load");
    let mut serving = Planted::new();
    serving
        .cpu(&format!("main > respond > send@libc.so.6 > {ENTRY} > __x64_sys_sendto_[k] > tcp_sendmsg_[k]"), 200)
        .calls("sendto", 100_000, 4_000_000_000, &[]);
    assert_eq!(serving.found(), []);
}

#[test]
fn a_hot_function_is_blamed_with_what_its_libraries_do_for_it() {
    let mut planted = Planted::new();
    planted
        .cpu(
            "runtime.goexit > net/http.(*conn).serve > main.handleOrder > encoding/json.Marshal > runtime.mallocgc",
            300,
        )
        .cpu("runtime.goexit > net/http.(*conn).serve > main.handleOrder", 30)
        .cpu("runtime.goexit > net/http.(*conn).serve > main.other", 60);
    let target = planted.only(Kind::CpuHotspot, "main.handleOrder");
    assert!(target.title.contains("85 %") && target.title.contains("serialization"), "{}", target.title);
    assert_eq!(target.confidence, Confidence::High);
}

#[test]
fn time_spread_over_many_functions_has_no_hot_one() {
    let mut planted = Planted::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        planted.cpu(&format!("main > handle > {name}"), 50);
    }
    assert_eq!(planted.found(), []);
}

#[test]
fn throttling_is_the_quotas_and_not_the_neighbours_doing() {
    let mut planted = Planted::new();
    planted.cpu("main > a", 20).wait(OffCpuReason::Throttled, "main > a", 8.0, 80.0);
    planted.container("batch");
    planted.profile.containers[0].cpu_limit_cores = Some(0.02);
    let target = planted.only(Kind::CpuThrottled, "a");
    assert_eq!(target.cost.unit, Unit::SecondsPerSecond);
    assert!(!target.title.contains("batch"));
}

#[test]
fn contention_names_the_neighbour() {
    let mut planted = Planted::new();
    planted.cpu("main > a", 9).wait(OffCpuReason::RunnableOther, "main > a", 4.0, 400.0);
    planted.container("batch");
    planted.profile.containers[0].waited_behind = vec![
        WaitedBehind { container: "batch".to_owned(), ns: 3_500_000_000 },
        WaitedBehind { container: "idle".to_owned(), ns: 500_000_000 },
    ];
    let target = planted.only(Kind::CpuContention, "a");
    assert!(target.title.contains("batch"), "{}", target.title);
    assert!((target.cost.value - 0.35).abs() < 1e-9);
}

#[test]
fn too_many_threads_are_oversubscribed_unless_one_function_is_to_blame() {
    let mut planted = Planted::new();
    for name in ["a", "b", "c", "d", "e"] {
        planted.cpu(&format!("start_thread@libc.so.6 > work > {name}"), 200);
    }
    planted.wait(OffCpuReason::RunnableSelf, "start_thread@libc.so.6 > work > a", 90.0, 9_000.0);
    planted.only(Kind::CpuOversubscribed, "a");
    let mut hot = Planted::new();
    hot.cpu("main > hash", 1000).wait(OffCpuReason::RunnableSelf, "main > hash", 90.0, 9_000.0);
    hot.only(Kind::CpuHotspot, "hash");
}

#[test]
fn a_contended_lock_is_found_and_a_pool_at_rest_is_not() {
    let mut planted = Planted::new();
    planted
        .wait(
            OffCpuReason::Lock,
            &format!("main > reserve > pthread_mutex_lock@libc.so.6 > __lll_lock_wait@libc.so.6 > {FUTEX}"),
            60.0,
            30_000.0,
        )
        .wait(
            OffCpuReason::Lock,
            &format!("main > take_job > pthread_cond_wait@@GLIBC_2.3.2@libc.so.6 > {FUTEX}"),
            160.0,
            40.0,
        );
    let target = planted.only(Kind::LockContention, "reserve");
    assert!((target.share - 1.0).abs() < 1e-9, "idle waiting is not in what the container does");
}

#[test]
fn what_a_lock_can_win_is_bounded_by_the_cpus_there_are() {
    let mut planted = Planted::new();
    let stack = format!("main > sell > pthread_mutex_lock@libc.so.6 > {FUTEX}");
    planted.cpu("main > sell", 1000).wait(OffCpuReason::Lock, &stack, 70.0, 30_000.0);
    let found = planted.analysis();
    let lock = found.targets.iter().find(|target| target.kind == Kind::LockContention).unwrap();
    assert!((lock.gain_at_most.value - 4.0).abs() < 1e-6, "8 threads on 2 CPUs: {}", lock.gain_at_most.value);
}

#[test]
fn syncs_are_told_from_reads() {
    let mut planted = Planted::new();
    planted
        .wait(
            OffCpuReason::Disk,
            &format!(
                "main > make_durable > fsync@libc.so.6 > {ENTRY} > __x64_sys_fsync_[k] > jbd2_log_wait_commit_[k]"
            ),
            5.0,
            900.0,
        )
        .wait(
            OffCpuReason::Disk,
            &format!("main > read_page > pread64@libc.so.6 > {ENTRY} > __x64_sys_pread64_[k] > io_schedule_[k]"),
            3.0,
            900.0,
        );
    assert_eq!(
        planted.found(),
        [(Kind::SyncWrite, "make_durable".to_owned()), (Kind::DiskWait, "read_page".to_owned())]
    );
}

#[test]
fn a_client_waits_for_answers_and_its_peer_is_named() {
    let mut planted = Planted::new();
    planted
        .wait(OffCpuReason::Network, &format!("main > ask_store > recv@libc.so.6 > {RECV}"), 8.0, 5_000.0)
        .calls("recvfrom", 5_000, 500_000, &[])
        .calls("sendto", 5_000, 500_000, &[]);
    let store = planted.profile.stacks.text("10.0.0.7:6379");
    planted.profile.off_cpu[0].peer = Some(store);
    let target = planted.only(Kind::NetworkWait, "ask_store");
    assert!(target.title.contains("10.0.0.7:6379"), "{}", target.title);
}

#[test]
fn who_opens_a_connection_for_each_question_is_told_to_keep_it() {
    for (connects, kept) in [(20_000, false), (50, true)] {
        let mut planted = Planted::new();
        planted
            .wait(OffCpuReason::Network, &format!("main > ask_store > recv@libc.so.6 > {RECV}"), 8.0, 20_000.0)
            .calls("recvfrom", 20_000, 500_000, &[])
            .calls("sendto", 20_000, 500_000, &[])
            .calls("connect", connects, 0, &[]);
        let target = planted.only(Kind::NetworkWait, "ask_store");
        assert_eq!(target.remedy.contains("keep-alive"), !kept, "{}", target.remedy);
        assert_eq!(
            target.evidence.iter().any(|line| line.contains("connections a second")),
            !kept,
            "{:?}",
            target.evidence
        );
    }
}

#[test]
fn a_server_waits_for_requests_idly_but_not_for_its_own_questions() {
    let mut planted = Planted::new();
    planted
        .wait(OffCpuReason::Network, &format!("main > serve > recv@libc.so.6 > {RECV}"), 50.0, 5_000.0)
        .wait(
            OffCpuReason::Network,
            &format!("main > serve > handle > ask_cache > recv@libc.so.6 > {RECV}"),
            8.0,
            5_000.0,
        )
        .calls("recvfrom", 10_000, 900_000, &[])
        .calls("sendto", 10_000, 900_000, &[])
        .calls("accept4", 40, 0, &[]);
    planted.only(Kind::NetworkWait, "ask_cache");
}

#[test]
fn whatever_waits_idly_is_nothing_to_say() {
    let mut planted = Planted::new();
    let sleep = format!("main > watch > clock_nanosleep@libc.so.6 > {ENTRY} > __x64_sys_clock_nanosleep_[k]");
    planted
        .wait(OffCpuReason::Sleep, &sleep, 10.0, 100.0)
        .wait(OffCpuReason::Network, &format!("main > epoll_wait@libc.so.6 > {ENTRY} > ep_poll_[k]"), 10.0, 10.0)
        .wait(
            OffCpuReason::Network,
            &format!("main > accept@libc.so.6 > {ENTRY} > __sys_accept4_[k] > inet_csk_accept_[k]"),
            10.0,
            10.0,
        )
        .wait(
            OffCpuReason::Lock,
            &format!("runtime.goexit > runtime.findRunnable > runtime.stopm > {FUTEX}"),
            40.0,
            90.0,
        )
        .wait(OffCpuReason::Lock, &format!("std::thread::park > syscall@libc.so.6 > {FUTEX}"), 40.0, 90.0)
        .cpu("main > tick", 4);
    let analysis = planted.analysis();
    assert_eq!(analysis.targets, []);
    assert_eq!(analysis.withheld, [] as [String; 0]);
    assert!((analysis.idle_s - 110.0).abs() < 1e-6);
}

#[test]
fn below_the_floor_of_coverage_the_ranking_is_withheld_and_says_why() {
    let mut planted = Planted::new();
    planted.cpu("main > hash", 1000);
    planted.profile.coverage.cpu_samples.lost.insert("ring_full".to_owned(), 3000);
    let analysis = planted.analysis();
    assert_eq!(analysis.targets, []);
    assert!(analysis.withheld[0].contains("75 %"), "{:?}", analysis.withheld);
}

#[test]
fn waits_too_short_to_hide_a_target_withhold_nothing_and_longer_ones_do() {
    let mut planted = Planted::new();
    planted.cpu("main > hash", 1000);
    let window_ns = planted.profile.window.duration_ns;
    planted.profile.coverage.off_cpu = OffCpuCoverage { time_ns: window_ns / 25, ..OffCpuCoverage::default() };
    assert_eq!(planted.analysis().withheld, [] as [String; 0]);
    assert_eq!(planted.analysis().targets.len(), 1);
    planted.profile.coverage.off_cpu.time_ns = window_ns / 15;
    assert!(planted.analysis().withheld[0].contains("100 % of the off-CPU time"), "{:?}", planted.analysis().withheld);
}

#[test]
fn confidence_falls_with_coverage() {
    let mut planted = Planted::new();
    planted.cpu("main > hash", 1000);
    assert_eq!(planted.analysis().targets[0].confidence, Confidence::High);
    planted.profile.containers[0].stacks.complete = 60;
    planted.profile.containers[0].stacks.incomplete.insert("no_root".to_owned(), 40);
    assert_eq!(planted.analysis().targets[0].confidence, Confidence::Low);
}

#[test]
fn a_target_of_cpu_time_is_as_certain_as_the_stacks_of_cpu_time_are_whole() {
    let mut planted = Planted::new();
    planted.cpu("main > hash", 1000);
    let time = &mut planted.profile.containers[0].time;
    time.on_cpu.stacks.add(None, 10_000);
    time.off_cpu.stacks.add(Some("no_root"), 1_000_000);
    assert_eq!(planted.analysis().targets[0].confidence, Confidence::High, "its waits say nothing of it");
    planted.profile.containers[0].time.on_cpu.stacks.add(Some("no_root"), 10_000);
    assert_eq!(planted.analysis().targets[0].confidence, Confidence::Low);
}

#[test]
fn the_same_problem_has_the_same_id_in_another_window() {
    let (mut first, mut second) = (Planted::new(), Planted::new());
    first.cpu("main > hash", 1000);
    second.cpu("main > other", 300).cpu("_start > main > hash", 700);
    second.profile.containers[0].id = "another start".to_owned();
    let id = |planted: &Planted| planted.analysis().targets[0].id.clone();
    assert_eq!(id(&first), id(&second));
}

#[test]
fn what_concerns_a_container_has_the_same_id_whichever_function_waits_most() {
    let id = |waits: &str| {
        let mut planted = Planted::new();
        planted.cpu("main > a", 10).cpu("main > b", 10).wait(OffCpuReason::Throttled, waits, 8.0, 80.0);
        planted.profile.containers[0].cpu_limit_cores = Some(0.02);
        let target = planted.analysis().targets[0].clone();
        assert_eq!(target.kind, Kind::CpuThrottled);
        (target.id, target.blame.function)
    };
    let (first, second) = (id("main > a"), id("main > b"));
    assert_ne!(first.1, second.1);
    assert_eq!(first.0, second.0);
}

#[test]
fn no_thread_second_is_claimed_twice_and_the_order_is_the_same_each_time() {
    let profile = crate::profile::testing::profile();
    let once = analyse(&profile);
    assert_eq!(once, analyse(&profile));
    for container in &profile.containers {
        let claimed: f64 =
            once.targets.iter().filter(|target| target.container == container.name).map(|target| target.claims_s).sum();
        assert!(claimed * 1e9 <= container.ledger.thread_ns as f64 * 1.000_001, "{}: {claimed}", container.name);
    }
    for target in &once.targets {
        assert!(target.gain_at_most.value <= target.cost.value && (0.0..=1.0).contains(&target.share));
    }
}

#[test]
fn the_profilers_own_time_is_no_target() {
    let mut planted = Planted::new();
    planted.cpu("main > symbolize", 1000);
    planted.profile.overhead.agent_pid = 7;
    assert_eq!(planted.found(), []);
}

#[test]
fn a_monitor_is_told_from_parking_by_who_calls_the_virtual_machine() {
    let inside = format!("[libjvm.so+0x9]@libjvm.so > pthread_cond_wait@libc.so.6 > {FUTEX}");
    let mut planted = Planted::new();
    let sell = "void com.acme.Shop.sell(int)@[jit]";
    planted.wait(OffCpuReason::Lock, &format!("{sell} > {inside}"), 9.0, 900.0).wait(
        OffCpuReason::Lock,
        &format!("{sell} > void java.util.concurrent.locks.LockSupport.park()@[jit] > {inside}"),
        90.0,
        9.0,
    );
    let target = planted.only(Kind::LockContention, sell.split('@').next().unwrap());
    assert!((target.claims_s - 9.0).abs() < 1e-9);
}
