//! Names of what ran: of processes that are gone, of libraries and programs that came late, of code made at run time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use tempfile::tempdir;
use tests::daemon::Daemon;
use tests::figures::measured;
use tests::pprof::{Pprof, Sample};
use tests::program;
use tests::requirement::{kernel, missing};
use tests::workload;

/// Records a command on the CPU to its end.
fn record(directory: &Path, command: &[&str]) -> Result<Pprof> {
    let output = directory.join("stacks.pb.gz");
    let mut record = program::command(["record", "--cpu", "--frequency", "999", "--output"])?;
    let finished = program::finish(record.arg(&output).arg("--").args(command))?.expect_code(0)?;
    Pprof::read(&output).with_context(|| finished.stderr)
}

/// The share of the samples `of` some kind that are `as_wanted`, and how many there are.
fn share(profile: &Pprof, of: impl Fn(&Sample) -> bool, as_wanted: impl Fn(&Sample) -> bool) -> Result<(f64, f64)> {
    let all = profile.sum("samples/count", &of)?;
    let wanted = profile.sum("samples/count", |sample| of(sample) && as_wanted(sample))?;
    Ok((wanted / all.max(1.0), all))
}

fn at_least(what: &str, (share, samples): (f64, f64), least: f64) -> Result<()> {
    ensure!(samples > 100.0, "{what}: only {samples} samples");
    ensure!(share >= least, "{what}: {share:.4} of {samples} samples, not {least}");
    Ok(())
}

fn compile(directory: &Path, name: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    let (from, to) = (directory.join(format!("{name}.c")), directory.join(name));
    fs::write(&from, source)?;
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-fno-omit-frame-pointer"]).arg(&from).arg("-o").arg(&to).args(flags);
    ensure!(cc.status().context("cannot run cc")?.success(), "{name} does not compile");
    Ok(to)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn is_unnamed(frame: &str) -> bool {
    frame.starts_with('[')
}

/// Records a storm of processes that live five milliseconds each, and looks at what they did.
fn storm_is_named() -> Result<()> {
    let (directory, storm) = (tempdir()?, workload::path("process_storm")?);
    let profile = record(directory.path(), &[text(&storm)?, "--count", "400", "--life", "5"])?;
    let leaf = |sample: &Sample| sample.frames.last().cloned().unwrap_or_default();
    // Distributions strip their libraries; on a virtual machine the loader's questions about the CPU take a while.
    let stripped = |frame: &str| ["[ld-", "[libgcc", "[libc."].iter().any(|library| frame.starts_with(library));
    let of_storm = |sample: &Sample| sample.is("process", "process_storm") && !stripped(&leaf(sample));
    at_least("named", share(&profile, of_storm, |sample| !is_unnamed(&leaf(sample)))?, 0.95)?;
    // How much of their short lives the kernel takes to start and end them is the machine's affair: what they do themselves is to spin.
    let own = |sample: &Sample| of_storm(sample) && (sample.module.is_empty() || sample.module == "process_storm");
    let spins = |sample: &Sample| sample.frames.iter().any(|frame| frame.contains("spinner_burn"));
    at_least("spinning", share(&profile, own, spins)?, 0.9)
}

#[test]
fn samples_of_processes_that_live_five_milliseconds_are_named() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    storm_is_named()
}

#[test]
fn they_are_named_on_a_host_whose_every_cpu_is_busy_too() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let goes_on = AtomicBool::new(true);
        let cpus = std::thread::available_parallelism()?.get();
        std::thread::scope(|scope| {
            for _ in 0..cpus {
                scope.spawn(|| {
                    while goes_on.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let named = storm_is_named();
            goes_on.store(false, Ordering::Relaxed);
            named
        })
    })
}

/// A program that copies of are made, run for some milliseconds, and removed.
const BRIEF: &str = r"
#include <time.h>
volatile long sink;
__attribute__((noinline)) void brief_work(void) { for (long i = 0; i < 4000000; i++) sink += i; }
int main(void) { brief_work(); return 0; }";

#[test]
fn samples_of_binaries_that_are_removed_at_once_are_named() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let brief = compile(directory.path(), "brief", BRIEF, &["-static"])?;
    let script = format!("for i in $(seq 200); do cp {0} {0}-$i; {0}-$i; rm {0}-$i; done", text(&brief)?);
    let profile = record(directory.path(), &["sh", "-c", &script])?;
    let of_brief = |sample: &Sample| sample.labels.get("process").is_some_and(|name| name.starts_with("brief-"));
    let at_work = |sample: &Sample| sample.frames.iter().any(|frame| frame == "brief_work");
    let outside = |sample: &Sample| sample.frames.iter().any(|frame| is_unnamed(frame));
    at_least("at work", share(&profile, of_brief, at_work)?, 0.75)?;
    at_least("named", share(&profile, of_brief, |sample| at_work(sample) || !outside(sample))?, 0.95)
}

/// Processes that work, then become another program and work on, all the time: some do while the daemon's window ends.
#[test]
fn what_a_process_became_at_the_end_of_a_window_is_named() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let brief = compile(directory.path(), "brief", BRIEF, &["-static"])?;
    let daemon = Daemon::start(["--frequency", "999"])?;
    daemon.ready()?;
    let count = "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done";
    let script = format!("for n in $(seq 200); do ({count}; exec {}); done", text(&brief)?);
    ensure!(Command::new("sh").args(["-c", &script]).status()?.success(), "the script failed");
    daemon
        .until("/api/v1/profile?format=folded&container=host&from=-2m", |answer| {
            let (folded, mut named, mut others) = (answer.text(), 0_u64, 0_u64);
            for line in folded.lines().filter(|line| line.contains(";brief_work")) {
                let samples = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
                *(if line.starts_with("host;brief;") { &mut named } else { &mut others }) += samples;
            }
            (named > 200).then_some((named, others))
        })
        .and_then(|(named, others)| {
            ensure!(others == 0, "{others} samples of {} at work bear another program's name", named + others);
            Ok(())
        })
}

/// Sleeps, opens a library, works in it.
const OPENER: &str = r#"
#include <dlfcn.h>
#include <unistd.h>
int main(int count, char **arguments) {
    sleep(5);
    void *library = dlopen(arguments[1], RTLD_NOW);
    void (*work)(void) = library ? dlsym(library, "late_work") : 0;
    if (!work) return 1;
    work();
    return 0;
}"#;

const LATE: &str = r"
#include <time.h>
volatile long sink;
void NAME(void) { time_t end = time(0) + 2; while (time(0) < end) for (long i = 0; i < 20000000; i++) sink += i; }
";

#[test]
fn a_library_opened_after_five_seconds_and_an_exec_from_a_shell_are_named() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let path = directory.path();
    let opener = compile(path, "opener", OPENER, &["-ldl"])?;
    let library = compile(path, "liblate.so", &LATE.replace("NAME", "late_work"), &["-shared", "-fPIC"])?;
    let after = LATE.replace("NAME", "work_after_exec") + "int main(void) { work_after_exec(); return 0; }";
    let after = compile(path, "after", &after, &[])?;
    let script = format!("{} {} & sh -c 'sleep 5; exec {}'; wait", text(&opener)?, text(&library)?, text(&after)?);
    let profile = record(path, &["sh", "-c", &script])?;
    for (process, function) in [("opener", "late_work"), ("after", "work_after_exec")] {
        let of_process = |sample: &Sample| sample.is("process", process);
        // What starts a process is not the point here: it lasts a millisecond.
        let working = |sample: &Sample| sample.frames.iter().any(|frame| frame == function);
        let named = |sample: &Sample| working(sample) || !sample.frames.iter().any(|frame| is_unnamed(frame));
        at_least(process, share(&profile, of_process, working)?, 0.95)?;
        at_least(process, share(&profile, of_process, named)?, 0.99)?;
    }
    Ok(())
}

const NODE: &str = "\
function fibonacciHot(n) { return n < 2 ? n : fibonacciHot(n - 1) + fibonacciHot(n - 2); }
const end = Date.now() + 4000;
while (Date.now() < end) fibonacciHot(22);
";

#[test]
fn functions_of_node_are_named_by_its_perf_map() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    if Command::new("node").arg("--version").output().is_err() {
        missing::<()>("needs node")?;
        return Ok(());
    }
    let directory = tempdir()?;
    let script = directory.path().join("work.js");
    fs::write(&script, NODE)?;
    let profile = record(directory.path(), &["node", "--perf-basic-prof", text(&script)?])?;
    let of_node = |sample: &Sample| sample.is("process", "node");
    let hot = |sample: &Sample| sample.frames.iter().any(|frame| frame.contains("fibonacciHot"));
    at_least("fibonacciHot", share(&profile, of_node, hot)?, 0.6)?;
    let unknown = |sample: &Sample| sample.frames.iter().any(|frame| frame.starts_with("[jit+"));
    at_least("no code without a name", share(&profile, of_node, |sample| !unknown(sample))?, 0.99)
}

const JAVA: &str = "\
public class Work {
    static long fibonacciHot(int n) { return n < 2 ? n : fibonacciHot(n - 1) + fibonacciHot(n - 2); }
    public static void main(String[] arguments) {
        long end = System.currentTimeMillis() + 6000;
        while (System.currentTimeMillis() < end) fibonacciHot(25);
    }
}
";

#[test]
fn methods_of_a_jvm_are_named_by_a_perf_map_that_is_asked_for_late() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    for tool in ["java", "javac", "jcmd"] {
        if Command::new("sh").args(["-c", "command -v \"$0\" > /dev/null", tool]).status()?.code() != Some(0) {
            missing::<()>("needs a JDK of 17 or newer")?;
            return Ok(());
        }
    }
    let directory = tempdir()?;
    fs::write(directory.path().join("Work.java"), JAVA)?;
    let compiled = Command::new("javac").arg("Work.java").current_dir(directory.path()).status()?;
    ensure!(compiled.success(), "javac failed");
    let script = format!(
        "java -XX:+PreserveFramePointer -cp {} Work & sleep 4; jcmd $! Compiler.perfmap; wait; rm -f /tmp/perf-$!.map",
        text(directory.path())?
    );
    let profile = record(directory.path(), &["sh", "-c", &script])?;
    let of_java = |sample: &Sample| sample.is("process", "java");
    let made = |sample: &Sample| {
        of_java(sample) && sample.frames.iter().any(|frame| frame.starts_with("[jit+") || frame.contains("Work."))
    };
    let hot = |sample: &Sample| sample.frames.iter().any(|frame| frame.contains("Work.fibonacciHot"));
    at_least("fibonacciHot", share(&profile, made, hot)?, 0.9)?;
    let unknown = |sample: &Sample| sample.frames.iter().any(|frame| frame.starts_with("[jit+"));
    at_least("methods named", share(&profile, made, |sample| !unknown(sample))?, 0.95)
}
