//! `profiler man`: manual pages out.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, Status};
use crate::output::destination::{self, Access};

/// Arguments of `profiler man`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Write a page for the program and one for each verb into this directory, instead of printing the program's
    #[arg(long, value_name = "DIRECTORY", env = "PROFILER_MAN_DIRECTORY")]
    directory: Option<PathBuf>,
}

/// Prints the page, or writes all of them.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    if let Some(directory) = &args.directory {
        clap_mangen::generate_to(Cli::command(), directory).with_context(|| {
            format!("cannot write manual pages into {}; does the directory exist?", directory.display())
        })?;
    } else {
        let page = clap_mangen::Man::new(Cli::command());
        destination::write(Path::new("-"), Access::Usual, |writer| {
            let mut text = Vec::new();
            page.render(&mut text)?;
            Ok(writer.write_all(&text)?)
        })?;
    }
    Ok(Status::Done)
}
