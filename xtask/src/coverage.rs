//! `cargo xtask coverage`: lines of userspace that the tests run, a room at a time. The program that the integration
//! tests start is instrumented too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::setup;
use crate::step::{Step, say};
use crate::workspace;

/// Prints how many lines of each room the tests run.
#[derive(Args)]
pub struct Coverage {
    /// Unit tests only.
    #[arg(long)]
    unit: bool,
    /// Lists the lines of this file or folder that no test ran.
    #[arg(long, value_name = "PATH")]
    missing: Option<String>,
}

impl Coverage {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let tools = Tools::find()?;
        let folder = workspace::target().join("coverage");
        let raw = folder.join("raw");
        if raw.exists() {
            fs::remove_dir_all(&raw).with_context(|| format!("cannot remove {}", raw.display()))?;
        }
        fs::create_dir_all(&raw).with_context(|| format!("cannot create {}", raw.display()))?;

        // Only the workspace's own crates get counters: dependencies would take most of the time and are not counted.
        let wrapper = folder.join("rustc");
        fs::write(&wrapper, "#!/bin/sh\nexec \"$@\" -Cinstrument-coverage\n")
            .and_then(|()| fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", wrapper.display()))?;

        let cargo = |title: &str| {
            Step::cargo(title)
                .env("CARGO_TARGET_DIR", &folder)
                .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
                .env("LLVM_PROFILE_FILE", raw.join("%p-%m.profraw"))
                .env("PROFILER_BIN", folder.join("debug/profiler"))
                .env("PROFILER_EXAMPLES", folder.join("debug"))
        };
        let mut selection = vec!["--package", "profiler", "--package", "profiler-ebpf"];
        cargo("build the program with counters")
            .args(["build", "--package", "profiler", "--package", "examples"])
            .run()?;
        if !self.unit {
            selection.extend(["--package", "tests"]);
        }
        let messages = cargo("build the tests with counters")
            .args(["test", "--no-run", "--message-format", "json", "--quiet"])
            .args(&selection)
            .read()?;
        let mut programs = test_programs(&messages);
        programs.push(folder.join("debug/profiler"));
        let tests = cargo("run the tests")
            .arg("test")
            .args(["--no-fail-fast"])
            .args(&selection)
            .args(["--", "--test-threads=1"]);
        let failed = tests.run().err();

        let merged = folder.join("merged.profdata");
        Step::new("merge the counters", &tools.profdata)
            .args(["merge", "--sparse", "--failure-mode=all", "-o"])
            .arg(&merged)
            .arg(&raw)
            .read()?;
        if let Some(path) = &self.missing {
            print!("{}", tools.lines_not_run(&merged, &programs, path)?);
        }
        println!("{}", tools.table(&merged, &programs)?);
        match failed {
            None => Ok(()),
            Some(error) => Err(error.context("the figures are of a run in which tests failed")),
        }
    }
}

/// LLVM's programs that read the counters; of the same major version as rustc's LLVM.
struct Tools {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Tools {
    fn find() -> Result<Self> {
        let verbose = Step::new("ask rustc's version", "rustc").arg("-vV").read()?;
        let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("22");
        let major = version.split('.').next().unwrap_or("22");
        if major == "22" {
            setup::install(&setup::COVERAGE)?;
        }
        let folder = PathBuf::from(format!("/usr/lib/llvm-{major}/bin"));
        let tools = Self { profdata: folder.join("llvm-profdata"), cov: folder.join("llvm-cov") };
        if !(tools.profdata.is_file() && tools.cov.is_file()) {
            bail!(
                "rustc is built on LLVM {version}; install the package llvm-{major} for its llvm-profdata and llvm-cov"
            );
        }
        Ok(tools)
    }

    fn cov(&self, verb: &str, merged: &Path, programs: &[PathBuf]) -> Step {
        let step = Step::new("read the counters", &self.cov).arg(verb).arg("--instr-profile").arg(merged);
        programs.iter().fold(step, |step, program| step.arg("--object").arg(program))
    }

    fn table(&self, merged: &Path, programs: &[PathBuf]) -> Result<String> {
        let export = self.cov("export", merged, programs).arg("--summary-only").read()?;
        let export: Value = serde_json::from_str(&export).context("llvm-cov's export is not JSON")?;
        let files = export["data"][0]["files"].as_array().context("llvm-cov's export names no files")?;
        let root = workspace::root();
        let mut rooms: BTreeMap<String, Lines> = BTreeMap::new();
        for file in files {
            let Some(path) = file["filename"].as_str() else { continue };
            let Ok(path) = Path::new(path).strip_prefix(&root) else { continue };
            let Some(room) = room(path) else { continue };
            let count = |name: &str| file["summary"]["lines"][name].as_u64().unwrap_or(0);
            rooms.entry(room).or_default().add(count("count"), count("covered"));
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["room", "lines", "run", "share"]);
        let mut total = Lines::default();
        for (room, lines) in &rooms {
            table.add_row(lines.row(room));
            total.add(lines.all, lines.run);
        }
        table.add_row(total.row("total"));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        say(format!("{} files", files.len()));
        Ok(table.to_string())
    }

    /// `path:line: text` of each line that no test ran.
    fn lines_not_run(&self, merged: &Path, programs: &[PathBuf], below: &str) -> Result<String> {
        let tracefile = self.cov("export", merged, programs).args(["--format", "lcov"]).read()?;
        let root = workspace::root();
        let mut seen = BTreeSet::new();
        let mut file = None;
        for record in tracefile.lines() {
            if let Some(path) = record.strip_prefix("SF:") {
                let inside = Path::new(path).strip_prefix(&root).ok().filter(|path| path.starts_with(below));
                file = inside.map(Path::to_path_buf);
            } else if let (Some(file), Some((line, "0"))) =
                (&file, record.strip_prefix("DA:").and_then(|da| da.split_once(',')))
                && let Ok(line) = line.parse::<usize>()
            {
                seen.insert((file.clone(), line));
            }
        }
        let mut text = String::new();
        for (file, line) in seen {
            let source = fs::read_to_string(root.join(&file)).unwrap_or_default();
            let code = source.lines().nth(line - 1).unwrap_or("");
            writeln!(text, "{}:{line}: {}", file.display(), code.trim_end())?;
        }
        Ok(text)
    }
}

/// Lines that could run, and those that did.
#[derive(Default)]
struct Lines {
    all: u64,
    run: u64,
}

impl Lines {
    fn add(&mut self, all: u64, run: u64) {
        self.all += all;
        self.run += run;
    }

    fn row(&self, name: &str) -> [String; 4] {
        let share = if self.all == 0 { 100.0 } else { self.run as f64 * 100.0 / self.all as f64 };
        [name.to_owned(), self.all.to_string(), self.run.to_string(), format!("{share:.1} %")]
    }
}

/// The room that a source file belongs to: the crate, and in `profiler` the module.
fn room(path: &Path) -> Option<String> {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    match (parts.next()?.as_ref(), parts.next()?.as_ref(), parts.next()?) {
        ("profiler", "src", module) => Some(format!("profiler {}", module.trim_end_matches(".rs"))),
        ("profiler-ebpf", "src", _) => Some("profiler-ebpf".to_owned()),
        _ => None,
    }
}

/// The test programs that cargo's JSON messages name.
fn test_programs(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_room_it_lies_in() {
        assert_eq!(room(Path::new("profiler/src/output/pprof.rs")).as_deref(), Some("profiler output"));
        assert_eq!(room(Path::new("profiler/src/lib.rs")).as_deref(), Some("profiler lib"));
        assert_eq!(room(Path::new("profiler-ebpf/src/histogram.rs")).as_deref(), Some("profiler-ebpf"));
        assert_eq!(room(Path::new("xtask/src/main.rs")), None);
    }

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let messages = "{\"profile\":{\"test\":true},\"executable\":\"/t/a\"}\n\
                        {\"profile\":{\"test\":false},\"executable\":\"/t/b\"}\nnot json\n\
                        {\"profile\":{\"test\":true},\"executable\":null}\n";
        assert_eq!(test_programs(messages), [PathBuf::from("/t/a")]);
    }
}
