//! `profiler doctor PID`: how a process will be unwound and named. In: a pid. Out: a line for each of its modules, and
//! what would make it better. It looks with the same code as a recording, so that what it says holds there.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustc_hash::FxHashSet;
use serde::Serialize;

use super::finding::Verdict;
use super::runtime::Runtime;
use crate::process::{Mapping, MappingKind, Module, Modules, PerfMapRefusal, Pid, ProcessTable, perf_map_path};
use crate::symbol::{Examined, Origin, examine as examine_module, names_in};

/// A process.
#[derive(Debug, Serialize)]
pub struct ExaminedProcess {
    /// Its id, in the host's namespace.
    pid: u32,
    /// Its command name.
    command: String,
    /// The runtime that it was recognised to run, if it makes code at run time.
    runtime: Option<&'static str>,
    /// What it has mapped for execution.
    modules: Vec<Part>,
}

/// Code of a process that is treated alike.
#[derive(Debug, Serialize)]
struct Part {
    /// Base name of the file, `[vdso]`, or `[jit]` for code made at run time.
    module: String,
    /// Its path as the process sees it; for `[jit]` that of its perf map.
    path: String,
    /// Bytes mapped for execution.
    bytes: u64,
    /// How stacks are followed through it.
    unwinding: &'static str,
    /// Where its names come from.
    symbols: String,
    /// Functions that have a name.
    functions: u64,
    /// Whether `--lines` will show lines.
    lines: bool,
    /// How serious what is missing is.
    verdict: Verdict,
    /// What would make it better.
    remedy: Option<String>,
}

/// Looks at a process.
pub fn examine(pid: u32) -> anyhow::Result<ExaminedProcess> {
    let mut table = ProcessTable::new(Modules::default_limit());
    let id = Pid(pid);
    let Some(command) = table.command(id, None) else {
        bail!("there is no process {pid}; `ps` shows which there are");
    };
    let mappings = table.mappings(id).with_context(|| {
        format!("process {pid} cannot be looked at: it has ended, or /proc/{pid}/maps may not be read; run as root")
    })?;
    if mappings.is_empty() {
        bail!("process {pid} ({command}) has no code of its own: a kernel thread, or it has ended");
    }
    let arguments: Vec<String> = table
        .foreign()
        .read_proc(id, "cmdline")
        .map(|line| line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
        .unwrap_or_default();
    let names = mappings.iter().filter_map(|mapping| match &mapping.kind {
        MappingKind::Module(module) => Some(module.name()),
        MappingKind::Vdso | MappingKind::Anonymous => None,
    });
    let names: Vec<&str> = names.collect();
    let runtime = Runtime::of(&names);
    let mut seen = FxHashSet::default();
    let mut modules: Vec<Part> = mappings
        .iter()
        .filter_map(|mapping| match &mapping.kind {
            MappingKind::Module(module) if seen.insert(module.id()) => {
                let same = |other: &&Mapping| matches!(&other.kind, MappingKind::Module(m) if m.id() == module.id());
                Some(of_module(module, mappings.iter().filter(same).map(|other| other.end - other.start).sum()))
            }
            _ => None,
        })
        .collect();
    let made: u64 = mappings
        .iter()
        .filter(|mapping| matches!(mapping.kind, MappingKind::Anonymous))
        .map(|mapping| mapping.end - mapping.start)
        .sum();
    if made > 0 || runtime.is_some() {
        modules.extend(of_made_code(&mut table, id, made, runtime, &arguments));
    }
    let command = command.to_string();
    Ok(ExaminedProcess { pid, command, runtime: runtime.map(|runtime| runtime.name), modules })
}

fn of_module(module: &Arc<Module>, bytes: u64) -> Part {
    let path = module.path().display().to_string();
    let part = |unwinding, symbols, functions, lines, remedy: Option<String>| Part {
        module: module.name().to_owned(),
        path: path.clone(),
        bytes,
        unwinding,
        symbols,
        functions,
        lines,
        verdict: if remedy.is_some() { Verdict::Warning } else { Verdict::Ok },
        remedy,
    };
    match examine_module(module) {
        Ok(found) => part(unwinding(&found), symbols(&found), found.functions, found.lines, remedy(&found)),
        Err(reason) => {
            let remedy = "nothing of it can be named: give the process a readable ELF file".to_owned();
            part("frame pointers", format!("none: {reason}"), 0, false, Some(remedy))
        }
    }
}

fn unwinding(found: &Examined) -> &'static str {
    match (found.unwind_table, found.go) {
        (_, true) => "frame pointers (Go keeps them)",
        (true, false) => ".eh_frame; frame pointers where it has no entry",
        (false, false) => "frame pointers (no .eh_frame)",
    }
}

fn symbols(found: &Examined) -> String {
    let from = match found.origin {
        Origin::OwnTable => "its own symbol table",
        Origin::SeparateFile => "a separate debug file",
        Origin::Packed => "symbols packed into it (.gnu_debugdata)",
        Origin::GoTable => "the table of Go's runtime",
        Origin::ExportedOnly => "exported functions only (stripped)",
        Origin::Nowhere => return "none (stripped)".to_owned(),
    };
    format!("{} from {from}", found.functions)
}

fn remedy(found: &Examined) -> Option<String> {
    if !matches!(found.origin, Origin::ExportedOnly | Origin::Nowhere) {
        return None;
    }
    let symbols = "do not strip it (a symbol table costs no memory at run time)";
    if found.build_id.is_empty() {
        return Some(symbols.to_owned());
    }
    let (first, rest) = found.build_id.split_at(2.min(found.build_id.len()));
    Some(format!(
        "{symbols}, or install its debug symbols: the package that has /usr/lib/debug/.build-id/{first}/{rest}.debug, \
         in the container or on the host"
    ))
}

fn of_made_code(
    table: &mut ProcessTable,
    pid: Pid,
    bytes: u64,
    runtime: Option<&'static Runtime>,
    arguments: &[String],
) -> Option<Part> {
    let found = table.perf_map(pid);
    let python = runtime.is_some_and(|runtime| runtime.name == "CPython");
    // Without a perf map Python runs no code of its own making: nothing is missing but names of its functions.
    let (symbols, functions, remedy) = match &found {
        Ok(file) => (format!("{} from its perf map", names_in(file)), names_in(file) as u64, None),
        Err(refusal) => {
            let advice = match runtime {
                Some(runtime) if *refusal == PerfMapRefusal::Missing && runtime.is_asked(arguments) => {
                    "it was asked to write one: see whether /tmp can be written where it runs".to_owned()
                }
                Some(runtime) => runtime.remedy(pid.0, arguments),
                None => "have what makes the code write a perf map (START SIZE NAME, in hexadecimal)".to_owned(),
            };
            (format!("no perf map: {refusal}"), 0, Some(advice))
        }
    };
    let remedy = remedy.or_else(|| {
        let flag = runtime?.frame_pointers?;
        let missing = !arguments.iter().any(|argument| argument == flag);
        missing.then(|| format!("start it with {flag}, else stacks end in compiled code"))
    });
    if bytes == 0 && python && found.is_ok() {
        return None;
    }
    Some(Part {
        module: "[jit]".to_owned(),
        path: perf_map_path(pid).unwrap_or_default(),
        bytes,
        unwinding: "frame pointers",
        symbols,
        functions,
        lines: false,
        verdict: if remedy.is_some() { Verdict::Warning } else { Verdict::Ok },
        remedy,
    })
}

impl ExaminedProcess {
    /// One line for each module, and its remedy below it.
    pub fn text(&self) -> String {
        let runtime = self.runtime.map(|runtime| format!(", {runtime}")).unwrap_or_default();
        let mut text = format!("process {} ({}{runtime})\n\n", self.pid, self.command);
        let width = self.modules.iter().map(|part| part.module.chars().count()).max().unwrap_or(0);
        for part in &self.modules {
            let lines = if part.lines { ", with lines" } else { "" };
            let Part { module, symbols, unwinding, .. } = part;
            // Writing into a text does not fail.
            writeln!(text, "{:<7}  {module:<width$}  {symbols}{lines}; unwound by {unwinding}", part.verdict.name())
                .ok();
            if let Some(remedy) = &part.remedy {
                writeln!(text, "         {:width$}  remedy: {remedy}", "").ok();
            }
        }
        let lacking = self.modules.iter().filter(|part| part.verdict != Verdict::Ok).count();
        let summary = match lacking {
            0 => "everything that it runs has names.".to_owned(),
            1 => "one part of what it runs will have names missing.".to_owned(),
            _ => format!("{lacking} parts of what it runs will have names missing."),
        };
        text.push('\n');
        text.push_str(&summary);
        text.push('\n');
        text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_named_by_its_own_table() {
        let examined = examine(std::process::id()).unwrap();
        let own = &examined.modules[0];
        assert!(own.functions > 1000 && own.symbols.contains("own symbol table") && own.lines, "{own:?}");
        assert!(own.unwinding.starts_with(".eh_frame"), "{own:?}");
        assert!(examined.modules.iter().any(|part| part.module.starts_with("libc.so")), "{examined:?}");
        let text = examined.text();
        assert!(text.starts_with(&format!("process {} (", std::process::id())), "{text}");
        let json = serde_json::to_value(&examined).unwrap();
        assert_eq!(json["modules"][0]["verdict"], "ok");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error_that_says_so() {
        let error = examine(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("no process 4294967295"), "{error}");
        // Kernel threads have no code of their own.
        let error = examine(2).map(|examined| examined.text());
        assert!(error.is_err(), "{error:?}");
    }

    #[test]
    fn what_is_stripped_says_where_its_symbols_would_be_looked_for() {
        let stripped = Examined {
            origin: Origin::ExportedOnly,
            functions: 12,
            lines: false,
            unwind_table: true,
            go: false,
            build_id: "0102ff".into(),
        };
        let advice = remedy(&stripped).unwrap();
        assert!(advice.contains("/usr/lib/debug/.build-id/01/02ff.debug"), "{advice}");
        assert_eq!(symbols(&stripped), "12 from exported functions only (stripped)");
    }
}
