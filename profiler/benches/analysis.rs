//! How long the analysis takes: 200 containers, 100,000 distinct stacks of 30 frames, a wait and a sample on each.
//!
//!     cargo bench -p profiler --bench analysis

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use profiler::profile::{
    Container, ContainerIndex, Frame, FrameId, FrameKind, OffCpuReason, OffCpuSample, OnCpuSample, Process,
    ProcessIndex, Profile, SyscallStats,
};
use profiler::target::analyse;

const CONTAINERS: usize = 200;
const STACKS: usize = 100_000;
const FRAMES: usize = 30;
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let profile = profile();
    if let Err(error) = profile.check() {
        eprintln!("the profile is not sound: {error}");
        return ExitCode::FAILURE;
    }
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let analysis = analyse(&profile);
        let seconds = begun.elapsed().as_secs_f64();
        let kinds: BTreeSet<&str> = analysis.targets.iter().map(|target| target.kind.name()).collect();
        println!("{seconds:.3} s, {} targets of {kinds:?}", analysis.targets.len());
        best = best.min(seconds);
    }
    println!("best of {ROUNDS}: {best:.3} s for {CONTAINERS} containers and {STACKS} stacks");
    ExitCode::SUCCESS
}

/// The next of a series without a pattern.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// The next of a series below `count` in which few are common and most are rare, as functions are in real profiles: a tenth
/// of all are the first ten-thousandth.
fn common(state: &mut u64, count: usize) -> usize {
    let share = next(state) as f64 / (1_u64 << 31) as f64;
    ((share.powi(4) * count as f64) as usize).min(count - 1)
}

fn profile() -> Profile {
    let mut profile = Profile::default();
    profile.window.duration_ns = 10_000_000_000;
    profile.host.cpus = 64;
    (profile.settings.on_cpu, profile.settings.off_cpu, profile.settings.syscalls) = (true, true, true);
    profile.settings.frequency_hz = 99;
    let command = profile.stacks.text("service");
    for at in 0..CONTAINERS {
        profile.processes.push(Process { pid: at as u32 + 1, command });
        profile.containers.push(Container {
            id: format!("{at:064x}"),
            name: format!("service-{at}"),
            runtime: "docker".to_owned(),
            syscalls: calls(),
            ..Container::default()
        });
    }
    let frames = frames(&mut profile);
    let mut state = 1;
    for at in 0..STACKS {
        let reason = if (at / CONTAINERS).is_multiple_of(2) { OffCpuReason::Lock } else { OffCpuReason::Disk };
        let leaves = if reason == OffCpuReason::Lock { &frames.locking } else { &frames.reading };
        let callers = FRAMES - leaves.len();
        let mut ids: Vec<FrameId> = (0..callers).map(|_| frames.any[common(&mut state, frames.any.len())]).collect();
        ids.extend(leaves);
        add(&mut profile, &ids, at, reason);
    }
    profile
}

fn add(profile: &mut Profile, frames: &[FrameId], at: usize, reason: OffCpuReason) {
    let stack = profile.stacks.stack(frames);
    let place = at % CONTAINERS;
    let (container, process) = (ContainerIndex(place as u32), ProcessIndex(place as u32));
    let thread = profile.stacks.text("service");
    profile.on_cpu.push(OnCpuSample { container, process, thread, stack, count: 3 });
    let weight_ns = 1e7;
    profile.off_cpu.push(OffCpuSample { container, process, thread, stack, reason, weight_ns, count: 1.0, peer: None });
    let ledger = &mut profile.containers[place].ledger;
    ledger.cpu_user_ns += 30_000_000;
    if reason == OffCpuReason::Lock {
        ledger.blocked_lock_ns += 10_000_000;
    } else {
        ledger.blocked_disk_ns += 10_000_000;
    }
    ledger.thread_ns += 40_000_000;
    profile.coverage.cpu_samples.kept += 3;
}

fn calls() -> Vec<SyscallStats> {
    let call = |name: &str| {
        let mut stats =
            SyscallStats { name: name.to_owned(), count: 200_000, bytes: 2_000_000, ..SyscallStats::default() };
        stats.latency.record(1_000);
        stats
    };
    ["read", "write", "futex", "openat", "close", "epoll_wait", "recvfrom", "sendto"].map(call).into()
}

/// Functions of the application and of libraries, and what a wait ends in.
struct Frames {
    any: Vec<FrameId>,
    locking: Vec<FrameId>,
    reading: Vec<FrameId>,
}

fn frames(profile: &mut Profile) -> Frames {
    let table = &mut profile.stacks;
    let file = table.text("");
    let mut frame = |kind, function: &str, module: &str| {
        let (function, module) = (table.text(function), table.text(module));
        table.frame(Frame { kind, function, module, file, line: 0 })
    };
    let mut any = Vec::new();
    for at in 0..5_000 {
        any.push(frame(FrameKind::User, &format!("service::module_{}::function_{at}", at % 50), "service"));
        any.push(frame(FrameKind::User, &format!("library_function_{at}"), "libthing.so.1"));
    }
    let mut waiting = |library: &str, kernel: &[&str]| {
        let mut frames = vec![frame(FrameKind::User, library, "libc.so.6")];
        for name in ["entry_SYSCALL_64_after_hwframe", "do_syscall_64"].iter().chain(kernel) {
            frames.push(frame(FrameKind::Kernel, name, "[kernel]"));
        }
        frames
    };
    let locking = waiting("pthread_mutex_lock", &["__x64_sys_futex", "futex_wait"]);
    let reading = waiting("read", &["ksys_read", "vfs_read", "filemap_read", "io_schedule"]);
    Frames { any, locking, reading }
}
