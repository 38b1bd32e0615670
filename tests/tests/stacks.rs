//! Stacks of real software under load: whole, and the same that another unwinder finds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::figures::measured;
use tests::requirement::{kernel, missing};
use tests::software::{SOFTWARE, Software};
use tests::stacks::measure;

/// Fails unless 99 % of its stacks are whole, and as many of those that framehop walks too are alike.
fn is_trustworthy(name: &str) -> Result<()> {
    let software: &Software = SOFTWARE.iter().find(|one| one.name == name).context("no such software")?;
    measured(|| {
        let Some(_kernel) = kernel()? else { return Ok(()) };
        if let Some(program) = software.missing() {
            missing::<()>(&format!("needs {program}"))?;
            return Ok(());
        }
        let figures = measure(software, Duration::from_secs(4))?;
        println!("{figures:?}");
        ensure!(figures.samples >= 100, "{name}: {} samples are too few", figures.samples);
        ensure!(figures.complete >= 0.99, "{name}: {:.4} whole: {}", figures.complete, figures.incomplete);
        ensure!(figures.alike.is_none_or(|alike| alike >= 0.99), "{name}: {:?}", figures.comparison);
        ensure!(software.is_described == figures.alike.is_some(), "{name}: nothing was compared");
        Ok(())
    })
}

#[test]
fn stacks_of_a_database_under_load_are_whole_and_right() -> Result<()> {
    is_trustworthy("redis-server")
}

#[test]
fn stacks_of_an_interpreter_at_work_are_whole_and_right() -> Result<()> {
    is_trustworthy("python3")
}

#[test]
fn stacks_of_a_program_with_exceptions_and_threads_are_whole_and_right() -> Result<()> {
    is_trustworthy("C++")
}

#[test]
fn stacks_of_a_static_program_without_any_information_are_whole() -> Result<()> {
    is_trustworthy("static musl")
}
