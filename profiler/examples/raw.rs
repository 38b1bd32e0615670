//! One raw window of the whole host, as the kernel room hands it out: `cargo run --example raw -- SECONDS`.

use std::{
    collections::BTreeMap,
    error::Error,
    thread,
    time::{Duration, Instant},
};

use profiler::kernel::{HierarchyKind, Kernel, KernelOptions, RawWindow, syscalls};

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let began = Instant::now();
    let mut kernel = Kernel::start(KernelOptions {
        frequency_hz: Some(99),
        off_cpu: true,
        syscalls: true,
        offcpu_threshold: Duration::from_millis(1),
        hierarchy: HierarchyKind::V2,
        cgroups: 30,
        filter_containers: false,
        processes: Vec::new(),
        kernel_log: false,
        tiny_maps: false,
    })?;
    println!("started in {:?}, maps {} KiB", began.elapsed(), kernel.map_bytes(0) / 1024);
    let mut records: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..seconds * 20 {
        thread::sleep(Duration::from_millis(50));
        kernel.drain_records(|record| *records.entry(record.header.kind).or_default() += 1);
        kernel.drain_events(drop);
    }
    kernel.stop_sampling();
    kernel.drain_records(|record| *records.entry(record.header.kind).or_default() += 1);
    let began = Instant::now();
    let window = kernel.end_window()?;
    println!("window ended in {:?}, by a grace period: {}", began.elapsed(), window.grace_by_kernel);
    println!("records by kind {records:?}, open gaps {}", window.open_gaps.len());
    print(&kernel, &window);
    Ok(())
}

fn print(kernel: &Kernel, window: &RawWindow) {
    println!("{} ms, {} samples due", (window.end_ns - window.start_ns) / 1_000_000, window.samples_expected);
    println!("{:?}", window.counters);
    for (container, ledger) in &window.ledgers {
        println!(
            "container {container} cgroup {:?}: parts {:?} µs, ticks {}/{} µs, switches {}/{}, run queue {} longest {} ns",
            kernel.cgroup_of(*container),
            ledger.parts_ns.map(|ns| ns / 1000),
            ledger.user_ticks_ns / 1000,
            ledger.kernel_ticks_ns / 1000,
            ledger.voluntary,
            ledger.involuntary,
            ledger.run_queue.iter().sum::<u64>(),
            ledger.run_queue_max_ns
        );
    }
    println!("waited behind {:?}", window.waited_behind);
    let mut calls: Vec<_> = window.syscalls.iter().map(|call| (call.latency.iter().sum::<u64>(), call)).collect();
    calls.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    println!("{} rows of syscalls, the most frequent:", calls.len());
    for (count, call) in calls.iter().take(8) {
        println!(
            "  container {} {}: {count} calls, {} µs, longest {} µs, {} bytes, errors {:?}",
            call.container,
            syscalls::name(call.number),
            call.total_ns / 1000,
            call.max_ns / 1000,
            call.bytes,
            call.errors
        );
    }
    println!("{:?}", window.costs);
}
