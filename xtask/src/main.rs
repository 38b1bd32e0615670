//! Everything a developer types: one file a command.

mod build;
mod object;
mod step;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Everything a developer types.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 120)]
enum Xtask {
    Build(build::Build),
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse() {
        Xtask::Build(command) => command.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[xtask] failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
