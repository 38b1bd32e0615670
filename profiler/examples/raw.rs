use profiler::kernel::*;
fn main() {
    tracing_subscriber::fmt().init();
    let o = KernelOptions { frequency_hz: Some(99), off_cpu: true, syscalls: true, offcpu_threshold: std::time::Duration::from_millis(1), hierarchy: HierarchyKind::V2, cgroups: 30, filter_containers:false, processes: vec![], kernel_log: false, tiny_maps: false };
    let t = std::time::Instant::now();
    let mut k = match Kernel::start(o) { Ok(k)=>k, Err(e)=>{ println!("{e}"); let mut s: Option<&dyn std::error::Error> = Some(&e); while let Some(x)=s { println!("- {x}"); s=x.source(); } return; } };
    println!("started in {:?}, maps {} KiB", t.elapsed(), k.map_bytes(0)/1024);
    let secs: u64 = std::env::args().nth(1).map_or(3, |s| s.parse().unwrap());
    let mut n = std::collections::BTreeMap::new();
    for _ in 0..secs*20 { std::thread::sleep(std::time::Duration::from_millis(50)); k.drain_records(|r| { *n.entry(r.header.kind).or_insert(0)+=1; }); k.drain_events(|_|{}); }
    k.stop_sampling();
    k.drain_records(|r| { *n.entry(r.header.kind).or_insert(0)+=1; });
    let t = std::time::Instant::now();
    let w = k.end_window().unwrap();
    println!("end_window {:?} grace {}", t.elapsed(), w.grace_by_kernel);
    println!("{n:?} open {} expected {} window {} ms", w.open_gaps.len(), w.samples_expected, (w.end_ns-w.start_ns)/1000000);
    println!("{:?}", w.counters);
    for (c,l) in &w.ledgers { println!("{c} cg {:?} parts {:?} ticks {}/{} sw {}/{} rq {} max {}", k.cgroup_of(*c), l.parts_ns.map(|x| x/1000), l.user_ticks_ns/1000, l.kernel_ticks_ns/1000, l.voluntary, l.involuntary, l.run_queue.iter().sum::<u64>(), l.run_queue_max_ns); }
    println!("{} syscalls rows; waited {:?}", w.syscalls.len(), w.waited_behind);
    let mut s = w.syscalls.clone(); s.sort_by_key(|s| std::cmp::Reverse(s.latency.iter().sum::<u64>()));
    for s in s.iter().take(8) { println!("  {} {} n={} total {}us max {}us bytes {} errs {:?}", s.container, syscalls::name(s.number), s.latency.iter().sum::<u64>(), s.total_ns/1000, s.max_ns/1000, s.bytes, s.errors); }
    println!("{:?}", w.costs);
}
