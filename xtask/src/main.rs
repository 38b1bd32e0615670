//! Everything a developer types: one file a command.

mod bench;
mod build;
mod coverage;
mod demo;
mod deploy;
mod examples;
mod object;
mod page;
mod setup;
mod stacks;
mod step;
mod test;
mod toolchain;
mod validators;
mod verdicts;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Everything a developer types.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 120)]
enum Xtask {
    Demo(demo::Demo),
    Build(build::Build),
    Test(test::Test),
    Setup(setup::Setup),
    Vm(vm::Vm),
    Coverage(coverage::Coverage),
    Bench(bench::Bench),
    BenchDaemon(bench::BenchDaemon),
    Stacks(stacks::Stacks),
    DeployCheck(deploy::DeployCheck),
    PageTest(page::PageTest),
    Examples(examples::Examples),
    Verdicts(verdicts::Verdicts),
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse() {
        Xtask::Demo(command) => command.run(),
        Xtask::Build(command) => command.run(),
        Xtask::Test(command) => command.run(),
        Xtask::Setup(command) => command.run(),
        Xtask::Vm(command) => command.run(),
        Xtask::Coverage(command) => command.run(),
        Xtask::Bench(command) => command.run(),
        Xtask::BenchDaemon(command) => command.run(),
        Xtask::Stacks(command) => command.run(),
        Xtask::DeployCheck(command) => command.run(),
        Xtask::PageTest(command) => command.run(),
        Xtask::Examples(command) => command.run(),
        Xtask::Verdicts(command) => command.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[xtask] failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
