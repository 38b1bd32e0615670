//! `profiler completions`: a shell's name in, its completion script out.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Status};
use crate::output::destination::{self, Access};

/// Arguments of `profiler completions`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(env = "PROFILER_SHELL")]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "profiler", &mut script);
    destination::write(Path::new("-"), Access::Usual, |writer| Ok(writer.write_all(&script)?))?;
    Ok(Status::Done)
}
