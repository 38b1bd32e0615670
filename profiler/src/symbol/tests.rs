//! Real processes, real binaries: from an address to a name.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::process::testing::{LANDMARK, Probe, TestResult, compile, run, skip};
use crate::process::{
    ForeignFiles, FramePointers, Leaf, Pid, ProcessTable, Registers, Tracker, TrackerOptions, kernel_locations,
    walk_thread,
};

fn name_of(symbolizer: &Symbolizer, location: Location) -> Result<ResolvedFrame, SymbolError> {
    symbolizer.resolve(vec![location]).map(|frames| frames[0][0].clone())
}

fn name_at(table: &mut ProcessTable, pid: Pid, address: u64) -> Result<ResolvedFrame, SymbolError> {
    let symbolizer = Symbolizer::spawn(Options::default())?;
    name_of(&symbolizer, table.normalize(pid, address, None))
}

#[inline(never)]
fn a_function_of_this_test() -> u64 {
    std::hint::black_box(a_function_of_this_test as fn() -> u64 as usize as u64)
}

#[test]
fn own_functions_are_named_and_demangled() -> TestResult {
    let mut table = ProcessTable::new(100);
    let frame = name_at(&mut table, Pid(std::process::id()), a_function_of_this_test())?;
    assert_eq!(&*frame.function, "profiler::symbol::tests::a_function_of_this_test");
    assert_eq!(frame.kind, FrameKind::User);
    Ok(())
}

#[test]
fn a_c_program_is_named_and_a_stripped_one_shows_offsets() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
    let mut table = ProcessTable::new(100);
    let mut probe = Probe::spawn(&mut Command::new(&path))?;
    let address = probe.address()?;
    let frame = name_at(&mut table, probe.pid(), address)?;
    assert_eq!((&*frame.function, &*frame.module), ("known_function", "landmark"));
    assert_eq!(table.command(probe.pid(), None).as_deref(), Some("landmark"));

    run(Command::new("strip").arg(&path).arg("-o").arg(directory.path().join("stripped")))?;
    let mut probe = Probe::spawn(&mut Command::new(directory.path().join("stripped")))?;
    let address = probe.address()?;
    let location = table.normalize(probe.pid(), address, None);
    let Location::Module { offset, .. } = &location else { panic!("{location:?}") };
    let expected = format!("[stripped+{:#x}]", offset.0);
    let symbolizer = Symbolizer::spawn(Options::default())?;
    let frame = name_of(&symbolizer, location)?;
    assert_eq!((&*frame.function, frame.kind), (&*expected, FrameKind::Unresolved));
    assert_eq!(symbolizer.counters()?.unresolved, [("stripped", 1)].into());
    Ok(())
}

#[test]
fn a_binary_deleted_or_replaced_while_it_runs_keeps_its_own_names() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
    let other = LANDMARK.replace("known_function", "other_function_");
    let other = compile(directory.path(), "other", &other, &[])?;
    let mut probe = Probe::spawn(&mut Command::new(&path))?;
    let address = probe.address()?;
    fs::rename(&other, &path)?;
    let mut table = ProcessTable::new(100);
    assert_eq!(&*name_at(&mut table, probe.pid(), address)?.function, "known_function");
    let mut second = Probe::spawn(&mut Command::new(&path))?;
    let second_address = second.address()?;
    assert_eq!(&*name_at(&mut table, second.pid(), second_address)?.function, "other_function_");
    fs::remove_file(&path)?;
    let mut afresh = ProcessTable::new(100);
    assert_eq!(&*name_at(&mut afresh, second.pid(), second_address)?.function, "other_function_");
    // And after they are gone.
    probe.finish()?;
    second.finish()?;
    assert_eq!(&*name_at(&mut table, probe.pid(), address)?.function, "known_function");
    assert_eq!(&*name_at(&mut table, second.pid(), second_address)?.function, "other_function_");
    Ok(())
}

#[test]
fn a_library_opened_later_is_named() -> TestResult {
    const OPENER: &str = r#"
        #include <dlfcn.h>
        #include <stdio.h>
        int main(int argc, char **argv) {
            printf("0\n"); fflush(stdout);
            getchar();
            void *library = dlopen(argv[1], RTLD_NOW);
            printf("%p\n", library ? dlsym(library, "late_function") : 0); fflush(stdout);
            getchar();
            return 0;
        }"#;
    let directory = tempfile::tempdir()?;
    let library =
        compile(directory.path(), "liblate.so", "int late_function(int x) { return x * 3; }", &["-shared", "-fPIC"])?;
    let opener = compile(directory.path(), "opener", OPENER, &["-ldl"])?;
    let mut probe = Probe::spawn(Command::new(&opener).arg(&library))?;
    probe.address()?;
    let mut table = ProcessTable::new(100);
    table.observe(probe.pid());
    probe.say("")?;
    let address = probe.address()?;
    std::thread::sleep(Duration::from_millis(110));
    let frame = name_at(&mut table, probe.pid(), address + 1)?;
    assert_eq!((&*frame.function, &*frame.module), ("late_function", "liblate.so"));
    Ok(())
}

#[test]
fn a_process_that_runs_another_program_in_place_is_named_by_it() -> TestResult {
    let tracker = Tracker::spawn(TrackerOptions::default())?;
    if let Some(reason) = tracker.degraded() {
        return skip(&reason.to_string());
    }
    let directory = tempfile::tempdir()?;
    let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
    let mut shell = Command::new("/bin/sh");
    let mut probe = Probe::spawn(shell.args(["-c", "echo 0; read line; exec \"$0\""]).arg(&path))?;
    probe.address()?;
    let pid = probe.pid();
    assert_eq!(tracker.call(move |table| table.command(pid, None))?.as_deref(), Some("sh"));
    probe.say("")?;
    let address = probe.address()?;
    std::thread::sleep(Duration::from_millis(20));
    let location = tracker.call(move |table| table.normalize(pid, address, None))?;
    let symbolizer = Symbolizer::spawn(Options::default())?;
    assert_eq!(&*name_of(&symbolizer, location)?.function, "known_function");
    assert_eq!(tracker.call(move |table| table.command(pid, None))?.as_deref(), Some("landmark"));
    Ok(())
}

#[test]
fn processes_of_a_few_milliseconds_have_names_when_they_and_their_file_are_gone() -> TestResult {
    let tracker = Tracker::spawn(TrackerOptions::default())?;
    if let Some(reason) = tracker.degraded() {
        return skip(&reason.to_string());
    }
    let directory = tempfile::tempdir()?;
    let source = LANDMARK.replace("syscall\" :", "nop\" :").replace("argc > 1", "usleep(5000) * 0 && argc > 1");
    let source = source.replace("#include <stdlib.h>", "#include <stdlib.h>\n#include <unistd.h>");
    let path = compile(directory.path(), "brief", &source, &[])?;
    let mut gone = Vec::new();
    for _ in 0..50 {
        let mut probe = Probe::spawn(&mut Command::new(&path))?;
        let address = probe.address()?;
        probe.finish()?;
        gone.push((probe.pid(), address));
    }
    fs::remove_file(&path)?;
    std::thread::sleep(Duration::from_millis(50));
    let locations = tracker.call(move |table| {
        gone.iter().map(|(pid, address)| table.normalize(*pid, *address, None)).collect::<Vec<_>>()
    })?;
    let symbolizer = Symbolizer::spawn(Options::default())?;
    let frames = symbolizer.resolve(locations)?;
    let named = frames.iter().filter(|frames| &*frames[0].function == "known_function").count();
    assert!(named >= 49, "{named} of 50: {:?}", symbolizer.counters()?);
    Ok(())
}

#[test]
fn a_blocked_chain_of_known_depth_is_walked_and_named() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
    let mut probe = Probe::spawn(Command::new(&path).arg("20"))?;
    let (_, bp) = (probe.address()?, probe.address()?);
    std::thread::sleep(Duration::from_millis(20));
    let Ok(line) = fs::read_to_string(format!("/proc/{}/syscall", probe.pid().0)) else {
        return skip("/proc/PID/syscall cannot be read");
    };
    let mut fields = line.split_whitespace().rev().map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16));
    let (ip, sp) = (fields.next().ok_or("no ip")??, fields.next().ok_or("no sp")??);
    let registers = Registers { ip, sp, bp, di: None };
    let stack = walk_thread(&ForeignFiles::default(), probe.pid(), registers, &mut FramePointers);
    let mut table = ProcessTable::new(100);
    let locations = table.normalize_stack(probe.pid(), &stack.addresses, Leaf::Instruction, None);
    let frames = Symbolizer::spawn(Options::default())?.resolve(locations)?;
    let names: Vec<&str> = frames.iter().map(|frames| &*frames[0].function).collect();
    assert!(names.len() >= 22, "{names:?} {:?}", stack.stop);
    assert!(names[..21].iter().all(|name| *name == "known_function"), "{names:?}");
    assert_eq!(names[21], "main");
    Ok(())
}

/// Makes code, leaves its name in a perf map, prints its address and that of `main`, and removes the map at its end.
const JIT: &str = r#"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    char path[64];
    void *code = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    fprintf(map, "%lx 10 LazyCompile:~work app.js:3\n", (unsigned long)code);
    fclose(map);
    printf("%p\n%p\n", code, (void *)main); fflush(stdout);
    getchar();
    unlink(path);
    return 0;
}"#;

#[test]
fn code_made_at_run_time_is_named_by_the_perf_map() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = compile(directory.path(), "jit", JIT, &[])?;
    let mut probe = Probe::spawn(&mut Command::new(&path))?;
    let address = probe.address()?;
    let mut table = ProcessTable::new(100);
    let inside = table.normalize(probe.pid(), address + 15, None);
    // The file is open by now: it may go.
    probe.finish()?;
    let beyond = table.normalize(probe.pid(), address + 16, None);
    let symbolizer = Symbolizer::spawn(Options::default())?;
    let frame = name_of(&symbolizer, inside)?;
    assert_eq!((&*frame.function, &*frame.module), ("LazyCompile:~work app.js:3", "[jit]"));
    let frame = name_of(&symbolizer, beyond)?;
    assert_eq!((&*frame.function, frame.is_named()), (&*format!("[jit+{:#x}]", address + 16), false));
    assert_eq!(symbolizer.counters()?.unresolved, [("not_in_perf_map", 1)].into());
    Ok(())
}

#[test]
fn a_perf_map_written_after_the_sample_names_it() -> TestResult {
    let directory = tempfile::tempdir()?;
    // The same program, but it waits for a line before it writes.
    let source = JIT
        .replace("snprintf(path", "printf(\"%p\\n\", code); fflush(stdout); getchar();\n    snprintf(path")
        .replace("printf(\"%p\\n%p\\n\", code, (void *)main)", "printf(\"0\\n\")");
    let path = compile(directory.path(), "late", &source, &[])?;
    let mut probe = Probe::spawn(&mut Command::new(&path))?;
    let address = probe.address()?;
    let mut table = ProcessTable::new(100);
    let location = table.normalize(probe.pid(), address, None);
    let symbolizer = Symbolizer::spawn(Options::default())?;
    assert!(!name_of(&symbolizer, location.clone())?.is_named());
    probe.say("")?;
    probe.address()?;
    table.look_for_perf_maps();
    assert_eq!(&*name_of(&symbolizer, location)?.function, "LazyCompile:~work app.js:3");
    assert_eq!(symbolizer.counters()?.unresolved, [("no_perf_map", 1)].into());
    probe.finish()?;
    Ok(())
}

#[test]
fn a_process_in_a_container_is_named_from_its_own_root_and_pid_namespace() -> TestResult {
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("tmp"))?;
    compile(root.path(), "contained", JIT, &["-static"])?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--mount", "--fork", "--kill-child", "chroot"]).arg(root.path()).arg("/contained");
    let mut probe = Probe::spawn(&mut unshare)?;
    let (Ok(code), Ok(main)) = (probe.address(), probe.address()) else {
        return skip("namespaces cannot be made");
    };
    let Pid(outer) = probe.pid();
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
    let pid = Pid(children.trim().parse()?);
    assert!(root.path().join("tmp/perf-1.map").exists(), "it is process 1 in there");
    let mut table = ProcessTable::new(100);
    let frame = name_at(&mut table, pid, code)?;
    assert_eq!((&*frame.function, &*frame.module), ("LazyCompile:~work app.js:3", "[jit]"));
    let frame = name_at(&mut table, pid, main)?;
    assert_eq!((&*frame.function, &*frame.module), ("main", "contained"));
    Ok(())
}

#[test]
fn a_perf_map_that_links_out_of_the_container_is_not_followed() -> TestResult {
    let (root, outside) = (tempfile::tempdir()?, tempfile::NamedTempFile::new()?);
    fs::create_dir(root.path().join("tmp"))?;
    let source = JIT.replace("fopen(path", "fopen(\"/ignored\"");
    compile(root.path(), "contained", &source, &["-static"])?;
    std::os::unix::fs::symlink(outside.path(), root.path().join("tmp/perf-1.map"))?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--mount", "--fork", "--kill-child", "chroot"]).arg(root.path()).arg("/contained");
    let mut probe = Probe::spawn(&mut unshare)?;
    let (Ok(code), Pid(outer)) = (probe.address(), probe.pid()) else { return skip("namespaces cannot be made") };
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
    fs::write(outside.path(), format!("{code:x} 10 secret\n"))?;
    let pid = Pid(children.trim().parse()?);
    let location = ProcessTable::new(100).normalize(pid, code, None);
    let Location::Anonymous { perf_maps, .. } = &location else { panic!("{location:?}") };
    assert!(perf_maps.files().is_empty(), "{location:?}");
    Ok(())
}

/// A mount that goes with the value.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[test]
fn a_binary_on_overlayfs_is_named_by_map_files_and_by_path() -> TestResult {
    let directory = tempfile::tempdir()?;
    let (lower, upper, merged) =
        (directory.path().join("lower"), directory.path().join("upper"), directory.path().join("merged"));
    for path in [&lower, &upper, &merged] {
        fs::create_dir(path)?;
    }
    compile(&lower, "landmark", LANDMARK, &[])?;
    if run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&upper)).is_err() {
        return skip("nothing can be mounted");
    }
    let _upper = Mounted(upper.clone());
    fs::create_dir(upper.join("data"))?;
    fs::create_dir(upper.join("work"))?;
    let options =
        format!("lowerdir={0}/lower,upperdir={0}/upper/data,workdir={0}/upper/work", directory.path().display());
    if run(Command::new("mount").args(["-t", "overlay", "none", "-o", &options]).arg(&merged)).is_err() {
        return skip("this kernel has no overlayfs");
    }
    let _merged = Mounted(merged.clone());
    let mut probe = Probe::spawn(&mut Command::new(merged.join("landmark")))?;
    let address = probe.address()?;
    let mut table = ProcessTable::new(100);
    assert_eq!(&*name_at(&mut table, probe.pid(), address)?.function, "known_function");
    // As for a process that is gone: no map_files, only the path in an ancestor's view.
    let maps = fs::read(format!("/proc/{}/maps", probe.pid().0))?;
    let line = maps.split(|b| *b == b'\n').filter_map(crate::process::parse_line).find(|line| line.executable);
    let line = line.ok_or("no code")?;
    let mut modules = crate::process::Modules::new(10);
    let module = modules.module(line.file, line.name, (0, 1), &[Pid(std::process::id())]);
    assert!(module.file().is_some(), "{:?}", modules.counters());
    Ok(())
}

#[test]
fn the_vdso_is_named() -> TestResult {
    use object::{Object, ObjectSymbol};
    let Some(image) = vdso::dump() else { return skip("this kernel has no vDSO") };
    let mut bytes = Vec::new();
    std::os::unix::fs::FileExt::read_at(&image, &mut [], 0)?;
    bytes.resize(image.metadata()?.len() as usize, 0);
    std::os::unix::fs::FileExt::read_exact_at(&image, &mut bytes, 0)?;
    let parsed = object::File::parse(&*bytes)?;
    let symbol = parsed.dynamic_symbols().find(|symbol| symbol.name() == Ok("__vdso_clock_gettime"));
    let offset = symbol.ok_or("no clock_gettime")?.address() + 1;
    let maps = fs::read("/proc/self/maps")?;
    let range = maps.split(|b| *b == b'\n').filter_map(crate::process::parse_line).find(|line| line.name == "[vdso]");
    let start = range.ok_or("no vdso")?.start;
    let frame = name_at(&mut ProcessTable::new(10), Pid(std::process::id()), start + offset)?;
    // Two names stand at one address.
    assert!(matches!(&*frame.function, "__vdso_clock_gettime" | "clock_gettime"), "{frame:?}");
    assert_eq!(&*frame.module, "[vdso]");
    Ok(())
}

#[test]
fn kernel_frames_are_named_or_say_that_they_are_not() -> TestResult {
    let list = fs::read_to_string("/proc/kallsyms")?;
    let Some(address) = list.lines().find_map(|line| line.strip_suffix(" T schedule")) else { return Ok(()) };
    let address = u64::from_str_radix(address, 16)?;
    let symbolizer = Symbolizer::spawn(Options::default())?;
    symbolizer.warm_up()?;
    let frames = symbolizer.resolve(kernel_locations(&[address + 4, address], Leaf::Instruction))?;
    if address == 0 {
        assert!(!symbolizer.counters()?.notes.is_empty());
        return skip("the kernel hides its addresses");
    }
    assert_eq!((&*frames[0][0].function, frames[0][0].kind), ("schedule", FrameKind::Kernel));
    assert_ne!(&*frames[1][0].function, "schedule", "a return address at the start of a function is of the one before");
    Ok(())
}

#[test]
fn a_handle_can_be_shared_between_threads() -> TestResult {
    let symbolizer = Arc::new(Symbolizer::spawn(Options::default())?);
    let other = symbolizer.clone();
    let thread = std::thread::spawn(move || other.resolve(vec![Location::Unknown { address: 1 }]).map(|f| f.len()));
    assert_eq!(thread.join().map_err(|_| "panicked")??, 1);
    assert_eq!(symbolizer.counters()?.unresolved, [("unmapped", 1)].into());
    Ok(())
}

/// Not a check: prints what these rooms cost. `cargo test --release -p profiler figures -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
#[expect(clippy::print_stderr, reason = "figures are for the reader")]
fn figures() -> TestResult {
    use std::time::Instant;
    let resident = || {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        status
            .lines()
            .filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let thread_cpu = |name: &str| {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let named = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|c| c.trim() == name);
        let time = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok();
        let ns = tasks.filter(named).find_map(time).and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
        ns.unwrap_or(0.0) / 1e6
    };
    eprintln!("start: {}", resident());
    let began = Instant::now();
    let tracker = Tracker::spawn(TrackerOptions::default())?;
    let (known, open) = tracker.call(|table| (table.len(), table.module_counters().opened))?;
    eprintln!("first look: {known} processes, {open} files, {:?}", began.elapsed());
    let before = thread_cpu("processes");
    let began = Instant::now();
    let mut pids = Vec::new();
    for _ in 0..1000 {
        let mut child = Command::new("/bin/true").spawn()?;
        pids.push(Pid(child.id()));
        child.wait()?;
    }
    let storm = began.elapsed();
    std::thread::sleep(Duration::from_millis(50));
    let named = tracker.call(move |table| {
        let name = |pid: &&Pid| table.command(**pid, None).as_deref() == Some("true");
        pids.iter().filter(name).count()
    })?;
    let counters = tracker.call(|table| table.counters())?;
    let spent = thread_cpu("processes") - before;
    eprintln!("1000 short processes in {storm:?}: {named} named, {spent:.1} ms of CPU, {counters:?}");
    eprintln!("tracking: {}", resident());

    let symbolizer = Symbolizer::spawn(Options::default())?;
    let began = Instant::now();
    symbolizer.resolve(kernel_locations(&[0xffff_ffff_8100_1000], Leaf::Instruction))?;
    eprintln!("kernel symbols: {:?}; {}", began.elapsed(), resident());
    let me = Pid(std::process::id());
    let maps = fs::read("/proc/self/maps")?;
    let code: Vec<(u64, u64)> = maps
        .split(|byte| *byte == b'\n')
        .filter_map(crate::process::parse_line)
        .filter(|line| line.executable && line.file.inode != 0)
        .map(|line| (line.start, line.end))
        .collect();
    let addresses: Vec<u64> = code.iter().flat_map(|(start, end)| (*start..*end).step_by(257)).take(50_000).collect();
    let count = addresses.len();
    let began = Instant::now();
    let locations = tracker.call(move |table| table.normalize_stack(me, &addresses, Leaf::Instruction, None))?;
    eprintln!("normalize: {count} addresses in {:?}", began.elapsed());
    for round in ["cold", "cached"] {
        let began = Instant::now();
        symbolizer.resolve(locations.clone())?;
        eprintln!("symbols {round}: {count} in {:?}; {}", began.elapsed(), resident());
    }
    eprintln!("{:?}", symbolizer.counters()?);
    Ok(())
}
