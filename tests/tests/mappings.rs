//! Names while what a process has mapped changes: libraries that take each other's place, children that never exec, a program
//! begun by a thread, debug files that only a mount namespace shows, and the caller of `vfork`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::tempdir;
use tests::figures::measured;
use tests::pprof::{Pprof, Sample};
use tests::program;
use tests::requirement::{kernel, missing};

const BURN: &str = r"
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static volatile long sink;
static double used(void) { struct timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
#define APART __attribute__((noinline, noclone))
#define BURN(seconds) do { double end = used() + (seconds); while (used() < end) for (int i = 0; i < 20000; i++) sink += i; } while (0)
";

fn compile(directory: &Path, name: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    let (from, to) = (directory.join(format!("{name}.c")), directory.join(name));
    fs::write(&from, format!("{BURN}{source}"))?;
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-fno-optimize-sibling-calls"]).arg(&from).arg("-o").arg(&to).args(flags);
    ensure!(cc.status().context("cannot run cc")?.success(), "{name} does not compile");
    Ok(to)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn record(directory: &Path, kind: &str, command: &[&str]) -> Result<Pprof> {
    let output = directory.join("stacks.pb.gz");
    let mut record = program::command(["record", kind, "--frequency", "499", "--output"])?;
    let finished = program::finish(record.arg(&output).arg("--").args(command))?.expect_code(0)?;
    Pprof::read(&output).with_context(|| finished.stderr)
}

fn has(sample: &Sample, function: &str) -> bool {
    sample.frames.iter().any(|frame| frame == function)
}

/// Fails unless so much of what a process did on the CPU was under a function.
fn share_is(profile: &Pprof, process: &str, function: &str, expected: f64) -> Result<()> {
    let all = profile.sum("samples/count", |sample| sample.is("process", process))?;
    let under = profile.sum("samples/count", |sample| sample.is("process", process) && has(sample, function))?;
    let share = under / all.max(1.0);
    ensure!(all > 100.0, "{process}: only {all} samples");
    ensure!((share - expected).abs() < 0.06, "{function}: {share:.3} of {all} samples of {process}, not {expected}");
    Ok(())
}

const SWAPPER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **arguments) {
    void *before = 0;
    int same = 0, turns = 240;
    for (int turn = 0; turn < turns; turn++) {
        void *library = dlopen(arguments[1 + turn % (count - 1)], RTLD_NOW);
        void (*work)(double) = library ? (void (*)(double))dlsym(library, "work") : 0;
        if (!work) return 1;
        same += before == (void *)work;
        before = (void *)work;
        work(0.0125);
        dlclose(library);
    }
    return same > turns / 2 ? 0 : 2;
}"#;

#[test]
fn libraries_that_take_each_others_place_a_hundred_times_keep_their_own_names() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempdir()?;
        let path = directory.path();
        let swapper = compile(path, "swapper", SWAPPER, &["-ldl"])?;
        let mut libraries = Vec::new();
        for name in ["one", "two", "three"] {
            let source = format!(
                "static APART void only_in_{name}(double s) {{ BURN(s); sink++; }}\n\
                 void work(double s) {{ only_in_{name}(s); sink += 2; }}\n"
            );
            libraries.push(compile(path, &format!("lib{name}.so"), &source, &["-shared", "-fPIC"])?);
        }
        let mut command = vec![text(&swapper)?];
        for library in &libraries {
            command.push(text(library)?);
        }
        let profile = record(path, "--cpu", &command)?;
        for name in ["one", "two", "three"] {
            share_is(&profile, "swapper", &format!("only_in_{name}"), 1.0 / 3.0)?;
        }
        share_is(&profile, "swapper", "main", 1.0)
    })
}

/// Each child forks a grandchild, and both wait; nobody execs, and nobody is waited for before the end.
const FAMILY: &str = r"
#include <sys/wait.h>
static APART void grandchild_waits(void) { usleep(120000); sink++; }
static APART void child_waits(void) { usleep(60000); sink++; }
int main(void) {
    for (int n = 0; n < 12; n++) {
        if (fork() == 0) {
            if (fork() == 0) { grandchild_waits(); _exit(0); }
            child_waits();
            _exit(0);
        }
        usleep(20000);
    }
    usleep(700000);
    while (wait(0) > 0) {}
    return 0;
}";

#[test]
fn waits_of_children_and_grandchildren_that_never_exec_are_named_though_they_are_gone() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempdir()?;
        let family = compile(directory.path(), "family", FAMILY, &[])?;
        let profile = record(directory.path(), "--offcpu", &[text(&family)?])?;
        let waited = |wanted: &dyn Fn(&Sample) -> bool| {
            profile.sum("off_cpu/nanoseconds", |sample| sample.is("process", "family") && wanted(sample))
        };
        for (function, expected_s) in [("grandchild_waits", 12.0 * 0.12), ("child_waits", 12.0 * 0.06)] {
            let found_s = waited(&|sample| has(sample, function) && has(sample, "main"))? / 1e9;
            ensure!((found_s / expected_s - 1.0).abs() < 0.1, "{function}: {found_s:.3} s, not {expected_s:.3}");
        }
        let nameless = |sample: &Sample| sample.frames.iter().any(|frame| frame.starts_with("[unknown+"));
        let nameless_s = waited(&nameless)? / 1e9;
        ensure!(nameless_s < 0.05, "{nameless_s:.3} s under frames without a name");
        Ok(())
    })
}

/// The main thread ends at once; another works, then becomes the second program.
const SUCCESSOR: &str = r#"
#include <pthread.h>
static char **given;
static APART void before_exec(void) { BURN(0.8); sink++; }
static void *go_on(void *nothing) {
    before_exec();
    char *next[] = {given[1], "again", 0};
    execv(given[1], next);
    return nothing;
}
static APART void after_exec(void) { BURN(0.8); sink++; }
int main(int count, char **arguments) {
    given = arguments;
    pthread_t thread;
    if (count > 1 && arguments[1][0] != '/') { after_exec(); return 0; }
    if (pthread_create(&thread, 0, go_on, 0)) return 1;
    ENDING;
}"#;

#[test]
fn work_done_before_a_thread_began_another_program_keeps_its_name() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        // The main thread waits and is ended by the other's exec, or has ended long before.
        for (number, ending) in ["pause(); return 0", "pthread_exit(0); return 0"].into_iter().enumerate() {
            let directory = tempdir()?;
            let path = directory.path();
            let source = SUCCESSOR.replace("ENDING", ending);
            let first = compile(path, &format!("first{number}"), &source, &["-lpthread"])?;
            let second = compile(path, &format!("second{number}"), &source, &["-lpthread"])?;
            let profile = record(path, "--cpu", &[text(&first)?, text(&second)?])?;
            let of = |process: &str, function: &str| {
                profile.sum("samples/count", |sample| sample.is("process", process) && has(sample, function))
            };
            let (before, after) =
                (of(&format!("first{number}"), "before_exec")?, of(&format!("second{number}"), "after_exec")?);
            let all = profile.sum("samples/count", |sample| has(sample, "before_exec") || has(sample, "after_exec"))?;
            ensure!(all > 300.0, "{ending}: only {all} samples");
            ensure!(before / all > 0.45 && after / all > 0.45, "{ending}: {before} before and {after} after, of {all}");
        }
        Ok(())
    })
}

const VERSION: &str =
    "APART void work_of_VERSION(void) { BURN(0.8); sink++; } int main(void) { work_of_VERSION(); return 0; }";

#[test]
fn a_program_that_was_upgraded_under_its_path_lends_nothing_to_the_one_before() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        // Another file under the same name, and the same file with other content.
        for (upgrade, share_named) in [("mv", 1.0), ("cp", 0.0)] {
            let directory = tempdir()?;
            let path = directory.path();
            let service = compile(path, "service", &VERSION.replace("VERSION", "old"), &[])?;
            // As many bytes before its code, but not the same function.
            let next = compile(path, "next", &VERSION.replace("VERSION", "new"), &[])?;
            let script = format!("{0}; {upgrade} {1} {0}; {0}", text(&service)?, text(&next)?);
            let profile = record(path, "--cpu", &["sh", "-c", &script])?;
            let samples = |function: &str| {
                profile.sum("samples/count", |sample| sample.is("process", "service") && has(sample, function))
            };
            let all = profile.sum("samples/count", |sample| sample.is("process", "service"))?;
            let (old, new) = (samples("work_of_old")? / all, samples("work_of_new")? / all);
            ensure!(all > 300.0, "{upgrade}: only {all} samples");
            ensure!((new - 0.5).abs() < 0.06, "{upgrade}: {new:.3} of {all} samples are of the new program");
            ensure!((old - 0.5 * share_named).abs() < 0.06, "{upgrade}: {old:.3} of {all} samples are of the old one");
        }
        Ok(())
    })
}

/// Ends a child when the test does.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        ensure!(began.elapsed() < Duration::from_secs(10), "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

const HIDDEN: &str =
    "APART void only_in_namespace(void) { BURN(20); sink++; } int main(void) { only_in_namespace(); return 0; }";

#[test]
fn debug_files_are_looked_for_in_the_mount_namespace_of_the_process() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let namespaces = Command::new("unshare").args(["--mount", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        missing::<()>("needs unshare")?;
        return Ok(());
    }
    let directory = tempdir()?;
    let path = directory.path();
    let hidden = compile(path, "hidden", HIDDEN, &["-Wl,--build-id=none"])?;
    // The binary is the same file inside and outside; only inside another directory lies over that of the debug files.
    let (outside, inside) = (path.join(".debug"), path.join("inside"));
    fs::create_dir(&outside)?;
    fs::create_dir(&inside)?;
    let run = |command: &mut Command| -> Result<()> {
        ensure!(command.status()?.success(), "{command:?} failed");
        Ok(())
    };
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&hidden).arg(inside.join("hidden.debug")))?;
    let link = format!("--add-gnu-debuglink={}", text(&inside.join("hidden.debug"))?);
    run(Command::new("objcopy").args(["--strip-all", &link]).arg(&hidden))?;
    // Outside, what has its name belongs to another program.
    compile(&outside, "hidden.debug", &HIDDEN.replace("only_in_namespace", "only_in_decoy"), &[])?;
    let script = format!("mount --bind {} {} && exec {}", text(&inside)?, text(&outside)?, text(&hidden)?);
    let child = Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]).spawn()?;
    let child = Ended(child);
    let pid = child.0.id();
    until("the program", || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "hidden"))?;
    let output = path.join("stacks.pb.gz");
    let mut record = program::command(["record", "--cpu", "--duration", "1500ms", "--frequency", "199", "--pid"])?;
    program::finish(record.arg(pid.to_string()).arg("--output").arg(&output))?.expect_code(0)?;
    let profile = Pprof::read(&output)?;
    share_is(&profile, "hidden", "only_in_namespace", 1.0)?;
    share_is(&profile, "hidden", "only_in_decoy", 0.0)
}

const WAITER: &str = r"
#include <sys/wait.h>
static APART void waits_for_child(void) {
    if (vfork() == 0) { usleep(200000); _exit(0); }
    sink++;
}
int main(void) {
    for (int n = 0; n < 5; n++) waits_for_child();
    while (wait(0) > 0) {}
    return 0;
}";

#[test]
fn who_waits_in_vfork_has_a_caller() -> Result<()> {
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        let directory = tempdir()?;
        let waiter = compile(directory.path(), "waiter", WAITER, &["-fomit-frame-pointer"])?;
        let profile = record(directory.path(), "--offcpu", &[text(&waiter)?])?;
        let in_vfork = |sample: &Sample| has(sample, "vfork") || has(sample, "__vfork");
        let under = |path: &[&str]| {
            profile.sum("off_cpu/nanoseconds", |sample| in_vfork(sample) && path.iter().all(|name| has(sample, name)))
        };
        let (all_s, called_s) = (under(&[])? / 1e9, under(&["main", "waits_for_child"])? / 1e9);
        ensure!(all_s > 0.9, "only {all_s:.3} s in vfork");
        ensure!(called_s > 0.98 * all_s, "{called_s:.3} s of {all_s:.3} have a caller");
        Ok(())
    })
}
