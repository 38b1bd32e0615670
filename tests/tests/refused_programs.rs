//! A kernel that refuses one of the programs: `doctor` and `record` tell it alike, in one line, and fail.

use anyhow::{Context, Result, ensure};
use tempfile::tempdir;
use tests::program::{self, Finished, run};
use tests::requirement::kernel;

/// One of each type: tracepoints, the iterator, the sampler.
const PROGRAMS: [&str; 5] = ["sched_switch", "sys_exit", "cgroup_mkdir", "iter_task", "cpu_clock"];

/// Runs it where the real verifier is given a program that it refuses.
fn with_refused(program: &str, arguments: &[&str]) -> Result<Finished> {
    program::finish(program::command(arguments)?.env("PROFILER_TEST_FAIL_PROGRAM", program))
}

/// What is said of the refused program, up to the error's number.
fn told<'a>(text: &'a str, program: &str) -> Result<&'a str> {
    let beginning = format!("cannot load kernel program `{program}`: ");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(&beginning)).collect();
    ensure!(lines.len() == 1, "{} lines tell of it:\n{text}", lines.len());
    let from = lines[0].find(&beginning).context("it was found a moment ago")?;
    let length = lines[0][from..].find("(os error 13)").with_context(|| format!("no reason in {}", lines[0]))?;
    Ok(&lines[0][from..from + length])
}

#[test]
fn doctor_and_record_tell_a_refused_program_in_the_same_line_and_fail() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempdir()?;
    let output = directory.path().join("x.profile").display().to_string();
    for program in PROGRAMS {
        let doctor = with_refused(program, &["doctor"])?;
        let record = with_refused(program, &["record", "--duration", "300ms", "--output", &output])?;
        ensure!(doctor.code() != 0 && doctor.stdout.contains("profiler cannot run here"), "{}", doctor.stdout);
        ensure!(record.code() != 0, "it records: {}", record.stderr);
        ensure!(record.stderr.lines().count() <= 3, "more than a line: {}", record.stderr);
        let (of_doctor, of_record) = (told(&doctor.stdout, program)?, told(&record.stderr, program)?);
        ensure!(of_doctor == of_record, "doctor: {of_doctor}\nrecord: {of_record}");
        // The verifier's own reason: a register that nothing was written to.
        ensure!(of_doctor.contains("R9 !read_ok"), "{of_doctor}");
    }
    Ok(())
}

#[test]
fn the_verifiers_text_is_shown_when_it_is_asked_for() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let text = with_refused("iter_task", &["doctor", "--verifier-log"])?;
    ensure!(text.code() != 0 && text.stdout.contains("\nThe kernel's verifier says:\n"), "{}", text.stdout);
    ensure!(text.stdout.contains("(79) r0 = *(u64 *)(r9 +0)"), "{}", text.stdout);
    let json = with_refused("iter_task", &["doctor", "--verifier-log", "--format", "json"])?;
    let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
    ensure!(json["verifier_log"].as_str().is_some_and(|log| log.contains("R9 !read_ok")), "{json}");
    // Only then, and there is nothing to show where all programs load.
    let without = with_refused("iter_task", &["doctor"])?;
    ensure!(!without.stdout.contains("(79)"), "{}", without.stdout);
    let fine = run(["doctor", "--verifier-log"])?.expect_code(0)?;
    ensure!(fine.stdout.contains("all load and attach") && !fine.stdout.contains("verifier says"), "{}", fine.stdout);
    Ok(())
}
