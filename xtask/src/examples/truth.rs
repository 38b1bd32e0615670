//! What the suite knows of its programs: reads `truth.toml` beside each, gives the list of them, sorted by name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::workspace;

/// What a program's fix saves, by which its gain is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gain {
    /// CPU time for each piece of work.
    Cpu,
    /// Time that threads spend on each piece of work, waits included.
    Time,
}

/// Another program that runs in a container of its own beside the planted one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// Its source, relative to the program's folder.
    pub source: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Its share of the CPU beside its siblings; 1024 is what everybody has.
    pub weight: Option<u64>,
    /// The address it answers at, as the profiler is to name it.
    pub address: Option<String>,
}

/// What changes around the program when its problem is fixed, besides `--fixed`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fix {
    /// Its CPU limit, in cores.
    pub cpus: Option<f64>,
    /// The neighbour's weight.
    pub neighbour: Option<Weight>,
}

/// A share of the CPU.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// Beside siblings; 1024 is what everybody has.
    pub weight: u64,
}

/// The file's contents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// One line on what is wrong with it, or what it is.
    pub title: String,
    /// The kind that must be ranked first; none for a healthy program.
    pub kind: Option<String>,
    /// Functions of which one must be blamed; empty where the function that matters is interpreted code, which has no
    /// symbols, or where the remedy is not in the code.
    #[serde(default)]
    pub blame: Vec<String>,
    /// How the gain of the fix is measured.
    pub gain: Option<Gain>,
    /// Arguments of the program.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Its CPU limit, in cores.
    pub cpus: Option<f64>,
    /// The CPUs it may use, as `taskset -c` takes them.
    pub cpu_list: Option<String>,
    /// A container that competes for the CPU.
    pub neighbour: Option<Companion>,
    /// A container that it asks questions.
    pub peer: Option<Companion>,
    /// What the fix changes around it.
    #[serde(default)]
    pub fix: Fix,
}

/// A program of the suite.
#[derive(Debug, Clone)]
pub struct Program {
    /// The folder's name.
    pub name: String,
    /// Where its source and truth lie.
    pub folder: PathBuf,
    /// What is known of it.
    pub truth: Truth,
}

impl Program {
    fn read(folder: PathBuf) -> Result<Self> {
        let file = folder.join("truth.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let truth = parse(&text).with_context(|| format!("{} is no truth", file.display()))?;
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Self { name: name.context("a folder without a name")?, folder, truth })
    }
}

fn parse(text: &str) -> Result<Truth> {
    let truth: Truth = toml::from_str(text)?;
    if let Some(kind) = &truth.kind {
        ensure!(KINDS.contains(&kind.as_str()), "`{kind}` is no kind; there are {}", KINDS.join(", "));
        ensure!(truth.gain.is_some(), "a planted problem needs `gain = \"cpu\"` or `gain = \"time\"`");
    }
    Ok(truth)
}

/// The kinds of targets there are.
pub const KINDS: [&str; 14] = [
    "syscall_errors",
    "small_io",
    "busy_poll",
    "syscall_storm",
    "memory_faults",
    "kernel_overhead",
    "cpu_hotspot",
    "cpu_throttled",
    "cpu_contention",
    "cpu_oversubscribed",
    "lock_contention",
    "sync_write",
    "disk_wait",
    "network_wait",
];

/// All programs whose name or kind contains one of `filters`; all without any.
pub fn programs(filters: &[String]) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for group in ["planted", "healthy"] {
        let directory = workspace::root().join("examples").join(group);
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let folder = entry?.path();
            if folder.join("truth.toml").is_file() {
                programs.push(Program::read(folder)?);
            }
        }
    }
    programs.retain(|program| {
        let kind = program.truth.kind.as_deref().unwrap_or("healthy");
        filters.is_empty() || filters.iter().any(|filter| program.name.contains(filter) || kind == filter)
    });
    programs.sort_by(|left, right| (rank(left), &left.name).cmp(&(rank(right), &right.name)));
    if programs.is_empty() {
        bail!(
            "no program's name or kind contains {}; `ls examples/planted examples/healthy` names them",
            filters.join(", ")
        );
    }
    Ok(programs)
}

/// Programs in the order of their kinds, healthy ones last.
fn rank(program: &Program) -> usize {
    let kind = program.truth.kind.as_deref();
    KINDS.iter().position(|known| Some(*known) == kind).unwrap_or(KINDS.len())
}

/// The source of a program, or of a companion named relative to `folder`.
pub fn source(folder: &Path) -> Result<PathBuf> {
    ["main.c", "main.rs", "main.go", "main.py", "main.js", "main.sh", "Main.java"]
        .iter()
        .map(|name| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{} has no main.* in a language that the suite can build", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_planted_at_least_three_times_and_six_programs_are_healthy() {
        let all = programs(&[]).unwrap_or_else(|error| panic!("{error:#}"));
        for kind in KINDS {
            let count = all.iter().filter(|program| program.truth.kind.as_deref() == Some(kind)).count();
            assert!(count >= 3, "{kind} is planted {count} times");
        }
        assert!(all.iter().filter(|program| program.truth.kind.is_none()).count() >= 6);
    }

    #[test]
    fn every_program_has_a_source_that_can_be_built() {
        for program in programs(&[]).unwrap_or_else(|error| panic!("{error:#}")) {
            assert!(source(&program.folder).is_ok(), "{}", program.name);
        }
    }

    #[test]
    fn a_truth_with_an_unknown_kind_or_no_gain_is_refused() {
        assert!(parse("title = \"x\"\nkind = \"slow\"\ngain = \"cpu\"").is_err());
        assert!(parse("title = \"x\"\nkind = \"small_io\"").is_err());
        assert!(parse("title = \"x\"").is_ok());
    }
}
