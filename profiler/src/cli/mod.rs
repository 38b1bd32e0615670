//! The command line: one file a verb.

pub mod containers;

use std::process::ExitCode;

/// Runs the program with the process's arguments; the exit status is the one that `INTERFACE` promises.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
