use std::time::Instant;
fn main() {
    let t = Instant::now(); let _k = profiler::kernel::btf::KernelTypes::of_running_kernel().unwrap(); println!("types {:?}", t.elapsed());
    let t = Instant::now(); let _b = aya::Btf::from_sys_fs().unwrap(); println!("aya {:?}", t.elapsed());
    let t = Instant::now(); let s = std::fs::read_to_string("/proc/kallsyms").unwrap(); println!("kallsyms {:?} {}", t.elapsed(), s.len());
    let t = Instant::now(); let r = profiler::container::ContainerResolver::start(Default::default()).unwrap(); println!("resolver {:?} {}", t.elapsed(), r.cgroups().len());
    let t = Instant::now(); let tr = profiler::process::Tracker::spawn(Default::default()).unwrap(); println!("tracker {:?}", t.elapsed()); drop(tr);
}
