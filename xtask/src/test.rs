//! `cargo xtask test`: everything that must hold before a change is taken, in the order in which it fails fastest.
//!
//! All compilation uses the release profile and the whole workspace: clippy, documentation, unit tests, integration tests
//! and the program that is tested then share their dependencies' artefacts, which halves the time on a fresh clone.

use std::io::{BufRead, BufReader, Write as _};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use crate::deploy;
use crate::object;
use crate::page;
use crate::setup;
use crate::step::{self, Step, say};
use crate::validators;
use crate::vm;
use crate::workspace;

/// Checks, builds and tests everything.
#[derive(Args)]
pub struct Test {
    /// Only tests whose name contains this; checks and other kernels are left out.
    filter: Option<String>,
}

impl Test {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let mut course = Course::default();
        if self.filter.is_none() {
            course.step("set-up", prepare);
            // Much of it waits for packages to arrive: it runs beside what compiles.
            let deployment = std::thread::spawn(|| unless_missing(deploy::check));
            course.step("format", || Step::cargo("check the format").args(["fmt", "--all", "--check"]).run());
            course.step("kernel object", object::check);
            course.step("lints", lint);
            course.step("documentation", document);
            course.step("deployment", || deployment.join().unwrap_or_else(|_| bail!("the check panicked")));
        }
        course.step("build", build_everything);
        if course.failed() {
            // Tests of a program that was not built would only fail once more.
            return course.finish();
        }
        let filter = self.filter.as_deref();
        course.tests("unit tests", &["--lib", "--bins"], filter, &[]);
        course.tests("examples in docs", &["--doc"], filter, &[]);
        course.tests("integration tests", &["--test", "*"], filter, &["--test-threads=1"]);
        if self.filter.is_none() {
            course.step("page", || unless_missing(page::check));
            course.step("other kernels", || vm::run_all(&vm::KERNELS));
        }
        course.finish()
    }
}

/// Builds what is tested and what tests it, as one: a smaller selection may have other features of shared
/// dependencies, and they would be compiled twice.
fn build_everything() -> Result<()> {
    // The image's test needs it. It lies where the dynamic program comes to lie, so it is the first.
    build::statically_linked()?;
    Step::cargo("build").args(["build", "--release", "--workspace", "--all-targets"]).run()
}

/// Installs what the tests need. Where it cannot be installed, tests that need it are left out and say so, unless the
/// kernel is required.
fn prepare() -> Result<()> {
    setup::for_building()?;
    setup::install_rust_components()?;
    let groups = [setup::CONTAINERS, setup::VM, setup::DAEMON, setup::STACKS, setup::EXAMPLES, setup::TESTS];
    let mut outcomes: Vec<Result<()>> = groups.iter().map(setup::install).collect();
    if setup::kernel_is_required() {
        outcomes.push(setup::install_ebpf());
    }
    for outcome in outcomes {
        if let Err(error) = outcome {
            if setup::kernel_is_required() {
                return Err(error);
            }
            say(format!("{error:#}; tests that need it are left out"));
        }
    }
    Ok(())
}

/// Runs a step that needs the validators; where they cannot be installed it is left out and says so, unless the kernel is required.
fn unless_missing(body: impl FnOnce() -> Result<()>) -> Result<()> {
    match validators::prepare() {
        Ok(()) => body(),
        Err(error) if setup::kernel_is_required() => Err(error),
        Err(error) => {
            say(format!("{error:#}; what needs it is left out"));
            Ok(())
        }
    }
}

fn lint() -> Result<()> {
    Step::cargo("lint")
        .args(["clippy", "--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
        .run()
}

fn document() -> Result<()> {
    Step::cargo("build the documentation")
        .args(["doc", "--release", "--workspace", "--no-deps", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()
}

/// The steps so far and how they ended.
#[derive(Default)]
struct Course {
    steps: Vec<(String, Option<String>, f64)>,
    tests: Tally,
}

impl Course {
    fn step(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        say(format!("── {name}"));
        let started = Instant::now();
        let error = body().err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            say(format!("{name} failed: {error}"));
        }
        self.steps.push((name.to_owned(), error, started.elapsed().as_secs_f64()));
    }

    fn tests(&mut self, name: &str, selection: &[&str], filter: Option<&str>, harness: &[&str]) {
        let mut tally = Tally::default();
        self.step(name, || cargo_test(selection, filter, harness, &mut tally));
        self.tests.add(&tally);
    }

    fn failed(&self) -> bool {
        self.steps.iter().any(|(_, error, _)| error.is_some())
    }

    fn finish(self) -> Result<()> {
        for (name, error, seconds) in &self.steps {
            let outcome = if error.is_some() { "FAILED" } else { "ok" };
            say(format!("{name:<20} {outcome:<6} {seconds:>7.1} s"));
        }
        let total: f64 = self.steps.iter().map(|step| step.2).sum();
        let Tally { passed, failed, ignored } = self.tests;
        println!("{passed} passed, {failed} failed, {ignored} ignored in {total:.0} s");
        let bad: Vec<&str> = self.steps.iter().filter(|step| step.1.is_some()).map(|step| step.0.as_str()).collect();
        if bad.is_empty() { Ok(()) } else { bail!("{}", bad.join(", ")) }
    }
}

/// How many tests ended how.
#[derive(Default, Debug, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Takes in a line of a test program, such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1].trim_end_matches(';') {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Runs `cargo test`, shows what it prints, and counts.
fn cargo_test(selection: &[&str], filter: Option<&str>, harness: &[&str], tally: &mut Tally) -> Result<()> {
    let mut child = step::cargo()
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(selection)
        .args(filter)
        .arg("--")
        .args(harness)
        .env("PROFILER_BIN", workspace::release_binary("profiler"))
        .env("PROFILER_STATIC", workspace::target().join("static/profiler"))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has a stdout")?;
    let mut terminal = std::io::stdout();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what cargo test prints")?;
        tally.read(&line);
        writeln!(terminal, "{line}").context("cannot write to stdout")?;
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() {
        bail!("{} failed", if tally.failed > 0 { format!("{} tests", tally.failed) } else { "cargo test".to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_programs_add_up() {
        let mut tally = Tally::default();
        tally.read("running 3 tests");
        tally.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.read("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!(tally, Tally { passed: 5, failed: 4, ignored: 1 });
    }
}
