//! `cargo xtask stacks`: how whole, how named and how right the stacks of real software are. In: software of the distribution,
//! under load. Out: a table, on the terminal and, if asked, in docs/stacks.md.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::build;
use crate::setup;
use crate::step::{Step, say};
use crate::workspace;

/// The page, and the lines that the table stands between.
const PAGE: &str = "docs/stacks.md";
const BEGIN: &str = "<!-- begin: cargo xtask stacks --write -->";
const END: &str = "<!-- end -->";

/// Measures the stacks of real software under load, beside an unwinder that is not ours.
#[derive(Args)]
pub struct Stacks {
    /// Only software whose name contains one of these.
    filters: Vec<String>,
    /// How long each is recorded, in seconds; the comparison takes half as long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Put the table into docs/stacks.md.
    #[arg(long)]
    write: bool,
    /// Use the programs in target/release as they are.
    #[arg(long)]
    no_build: bool,
    /// Fail unless this share of the stacks is whole, and of those compared alike.
    #[arg(long, default_value_t = 0.99)]
    least: f64,
}

impl Stacks {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        if !setup::is_root()? {
            bail!("loading kernel programs needs root: run this as root");
        }
        ensure!(!self.write || self.filters.is_empty(), "--write wants the whole table: leave out the filters");
        setup::install(&setup::STACKS)?;
        if !self.no_build {
            build::programs(true)?;
            Step::cargo("build the comparison").args(["build", "--release", "-p", "tests", "--bin", "stacks"]).run()?;
        }
        say("software under load, one after the other");
        let lines = Step::new("measure stacks", workspace::release_binary("stacks"))
            .args(&self.filters)
            .args(["--seconds", &self.seconds.to_string()])
            .env("PROFILER_BIN", workspace::release_binary("profiler"))
            .read()?;
        let figures: Vec<Value> =
            lines.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("the figures are not JSON")?;
        let table = table(&figures);
        println!("{table}");
        if self.write {
            write(&table)?;
        }
        let unmet: Vec<String> = figures.iter().flat_map(|one| self.unmet(one)).collect();
        ensure!(unmet.is_empty(), "{}", unmet.join("; "));
        Ok(())
    }

    fn unmet(&self, figures: &Value) -> Vec<String> {
        let name = figures["name"].as_str().unwrap_or("?");
        [("complete", "whole"), ("alike", "alike")]
            .into_iter()
            .filter_map(|(field, word)| Some((figures[field].as_f64()?, word)))
            .filter(|(share, _)| *share < self.least)
            .map(|(share, word)| format!("{name}: {} of the stacks are {word}", percent(Some(share))))
            .collect()
    }
}

fn table(figures: &[Value]) -> String {
    let mut lines = vec![
        "| Software | Samples | Whole | Why not | Frames named | Compared | Alike |".to_owned(),
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |".to_owned(),
    ];
    for one in figures {
        let reasons: Vec<String> = one["incomplete"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(reason, samples)| format!("{} {samples}", reason.replace('_', " ")))
            .collect();
        let compared = one["comparison"]["samples"].as_u64().map_or_else(|| "–".to_owned(), |n| n.to_string());
        lines.push(format!(
            "| {} | {} | {} | {} | {} | {compared} | {} |",
            one["name"].as_str().unwrap_or("?"),
            one["samples"],
            percent(one["complete"].as_f64()),
            reasons.join(", "),
            percent(one["resolved"].as_f64()),
            percent(one["alike"].as_f64()),
        ));
    }
    lines.join("\n")
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn write(table: &str) -> Result<()> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line {END}"))?;
    fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{after}"))
        .with_context(|| format!("cannot write {PAGE}"))?;
    say(format!("{PAGE} has the new table"));
    Ok(())
}
