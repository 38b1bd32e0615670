//! `stacks`: how whole, how named and how right the stacks of real software are. One line of JSON a program, on standard output.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::software::{SOFTWARE, Software};
use tests::stacks::{Figures, measure};

fn main() -> Result<()> {
    let mut filters: Vec<String> = std::env::args().skip(1).collect();
    let seconds = match filters.iter().position(|word| word == "--seconds") {
        Some(at) => filters.drain(at..).nth(1).context("--seconds needs a number")?.parse().context("--seconds")?,
        None => 5,
    };
    let wanted =
        |software: &&Software| filters.is_empty() || filters.iter().any(|filter| software.name.contains(filter));
    for software in SOFTWARE.iter().filter(wanted) {
        if let Some(program) = software.missing() {
            bail!("{} needs {program}: run `cargo xtask setup --stacks`", software.name);
        }
        let figures: Figures = measure(software, Duration::from_secs(seconds))?;
        if std::env::var_os("STACKS_UNLIKE").is_some() {
            for unlike in figures.comparison.iter().flat_map(|comparison| &comparison.unlike) {
                eprintln!("{unlike:x?}");
            }
        }
        println!("{}", serde_json::to_string(&figures)?);
    }
    Ok(())
}
