//! `profiler doctor`: can it run here, and if not, what is missing and what to do about it.
//!
//! What the kernel and the host say is read and tried here; [`rights`], [`kernel`] and [`host`] judge it and touch nothing.

mod finding;
mod host;
mod kernel;
mod process;
mod rights;
mod runtime;

use std::fs;
use std::io;
use std::path::Path;

use profiler_ebpf::Offsets;
use serde::Serialize;

use self::finding::{Finding, Verdict};
use self::host::Extent;
use super::Status;
use super::containers::{ContainerSources, ListFormat};
use crate::container::cgroup;
use crate::container::hierarchy::{Hierarchy, Version};
use crate::container::runtime as container_runtime;
use crate::container::{ContainerError, ResolverOptions};
use crate::kernel::btf::KernelTypes;
use crate::kernel::{HierarchyKind, KernelError, cpus, offsets, probe};
use crate::output::destination::{self, Access};
use crate::process::Namespace;
use crate::terminal::{printable, printable_json};

/// Arguments of `profiler doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Look at this process instead: how it will be unwound and named, and what would make that better
    #[arg(value_name = "PID")]
    pid: Option<u32>,

    /// Output format
    #[arg(long, value_enum, default_value_t, env = "PROFILER_FORMAT")]
    format: ListFormat,

    /// Show all that the kernel's verifier says of a program that it refuses
    #[arg(long, env = "PROFILER_VERIFIER_LOG", value_parser = clap::builder::FalseyValueParser::new())]
    verifier_log: bool,

    #[command(flatten)]
    sources: ContainerSources,
}

/// Everything that was found, as `--format json` prints it.
#[derive(Debug, Serialize)]
struct Diagnosis {
    /// Whether nothing that is needed is missing.
    can_run: bool,
    /// The checks, in the order in which to put things right.
    checks: Vec<Finding>,
    /// What the kernel's verifier says of the program that it refuses, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    verifier_log: Option<String>,
}

impl Diagnosis {
    fn of(checks: Vec<Finding>) -> Self {
        let can_run = checks.iter().all(|finding| finding.verdict < Verdict::Missing);
        Self { can_run, checks, verifier_log: None }
    }

    fn status(&self) -> Status {
        if self.can_run { Status::Done } else { Status::VerdictFailed }
    }

    /// One line a check, and one that sums up.
    fn text(&self) -> String {
        let width = self.checks.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        let line = |Finding { check, verdict, found, remedy }: &Finding| {
            let remedy = remedy.as_ref().map(|remedy| format!("; remedy: {remedy}")).unwrap_or_default();
            let told = format!("{found}{remedy}");
            format!("{:<7}  {check:<width$}  {}\n", verdict.name(), printable(&told))
        };
        let lines: String = self.checks.iter().map(line).collect();
        let count = |verdict| self.checks.iter().filter(|finding| finding.verdict == verdict).count();
        let summary = match (count(Verdict::Missing), count(Verdict::Warning)) {
            (0, 0) => "profiler can run here.".to_owned(),
            (0, 1) => "profiler can run here; the warning says what it will not show.".to_owned(),
            (0, _) => "profiler can run here; the warnings say what it will not show.".to_owned(),
            (1, _) => "profiler cannot run here: one thing is missing.".to_owned(),
            (missing, _) => format!("profiler cannot run here: {missing} things are missing."),
        };
        let log = self.verifier_log.as_ref();
        let log = log.map(|log| format!("\nThe kernel's verifier says:\n{}\n", log.trim_end())).unwrap_or_default();
        format!("{lines}\n{summary}\n{log}")
    }
}

/// Looks at everything and prints it; fails if something needed is missing.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    if let Some(pid) = args.pid {
        let examined = process::examine(pid)?;
        let text = match args.format {
            ListFormat::Text => examined.text().lines().flat_map(|line| [printable(line), "\n".into()]).collect(),
            ListFormat::Json => printable_json(&serde_json::to_string_pretty(&examined)?).into_owned() + "\n",
        };
        destination::write(Path::new("-"), Access::Usual, |writer| Ok(writer.write_all(text.as_bytes())?))?;
        return Ok(Status::Done);
    }
    let (findings, verifier_log) = look(&args.sources.options()?);
    let diagnosis = Diagnosis { verifier_log: verifier_log.filter(|_| args.verifier_log), ..Diagnosis::of(findings) };
    let text = match args.format {
        ListFormat::Text => diagnosis.text(),
        ListFormat::Json => printable_json(&serde_json::to_string_pretty(&diagnosis)?).into_owned() + "\n",
    };
    destination::write(Path::new("-"), Access::Usual, |writer| Ok(writer.write_all(text.as_bytes())?))?;
    Ok(diagnosis.status())
}

/// All checks: rights first, since most else follows from them. And what the verifier said of a program that it refuses.
fn look(options: &ResolverOptions) -> (Vec<Finding>, Option<String>) {
    let hierarchy = Hierarchy::detect(options.cgroup_root.as_deref());
    let kind = kind(hierarchy.as_ref().ok().map(|(hierarchy, _)| hierarchy));
    let offsets = resolve_offsets(&kind);
    let programs = probe::programs(kind);
    let mut findings = vec![kernel::release(read("/proc/sys/kernel/osrelease").as_deref()), kernel::types(&offsets)];
    findings.extend(look_at_rights());
    findings.extend([
        kernel::bpf(&probe::bpf_map()),
        kernel::sampling(&probe::sampling_event()),
        kernel::programs(&programs),
        kernel::jit(read("/proc/sys/net/core/bpf_jit_enable").as_deref()),
        kernel::run_time_statistics(&probe::run_time_statistics()),
        kernel::grace_period(probe::grace_period()),
    ]);
    findings.extend(offsets.as_ref().ok().map(kernel::throttle_clock));
    findings.extend([
        kernel::cpus(&cpus::online().map(|cpus| cpus.len()), &cpus::possible()),
        kernel::hardware_counters(&names_in(Path::new("/sys/bus/event_source/devices"))),
    ]);
    findings.extend(look_at_host(options, &hierarchy));
    let verifier_log = match programs {
        Err(KernelError::Program { verifier_log, .. }) => verifier_log,
        _ => None,
    };
    (findings, verifier_log)
}

fn look_at_rights() -> [Finding; 5] {
    let status = read("/proc/self/status").unwrap_or_default();
    let effective = rights::Capabilities::effective(&status);
    // A kernel without user namespaces has no such link, and all of its processes are in the one there is.
    let user_namespace = link(Namespace::User.link());
    let initial = user_namespace.is_none_or(|link| Namespace::User.is_initial(&link));
    let paranoid = read("/proc/sys/kernel/perf_event_paranoid");
    [
        rights::capabilities(&status, initial),
        rights::lockdown(read("/sys/kernel/security/lockdown").as_deref()),
        rights::unprivileged_bpf(read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()),
        rights::perf_event_paranoid(paranoid.as_deref(), effective),
        rights::kptr_restrict(read("/proc/sys/kernel/kptr_restrict").as_deref(), paranoid.as_deref(), effective),
    ]
}

fn look_at_host(
    options: &ResolverOptions,
    hierarchy: &Result<(Hierarchy, Vec<String>), ContainerError>,
) -> [Finding; 4] {
    let found = hierarchy.as_ref().ok().map(|(hierarchy, _)| hierarchy);
    let extent = found.map_or(Extent::Whole, extent);
    let cgroups = found.map(|hierarchy| cgroup::walk(&hierarchy.root).cgroups).unwrap_or_default();
    let containers = host::containers(cgroups.iter().map(|cgroup| cgroup.path.as_str()));
    let answers = container_runtime::probe(container_runtime::sockets(&options.sockets, options.well_known_sockets));
    [
        host::pid_namespace(link(Namespace::Pid.link()).as_deref()),
        host::cgroups(hierarchy, extent),
        host::runtimes(&answers, containers),
        host::pressure(read("/proc/pressure/cpu").as_deref()),
    ]
}

/// How much of a hierarchy its root shows: some files are in every cgroup but the host's root, or only there.
fn extent(hierarchy: &Hierarchy) -> Extent {
    let is_hosts_root = match hierarchy.version {
        Version::V2 => !hierarchy.root.join("cgroup.events").exists(),
        Version::V1 { .. } => hierarchy.root.join("release_agent").exists(),
    };
    if is_hosts_root { Extent::Whole } else { Extent::Part }
}

/// Where cgroup ids come from; without a hierarchy, what the programs are tried with.
fn kind(hierarchy: Option<&Hierarchy>) -> HierarchyKind {
    match hierarchy.map(|hierarchy| &hierarchy.version) {
        Some(Version::V1 { controller, number }) => {
            HierarchyKind::V1 { controller: controller.clone(), number: *number }
        }
        Some(Version::V2) | None => HierarchyKind::V2,
    }
}

/// The members that the programs load.
fn resolve_offsets(kind: &HierarchyKind) -> Result<Offsets, KernelError> {
    offsets::resolve(&KernelTypes::of_running_kernel()?, kind)
}

/// A file of /proc or /sys, where it can be read.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn link(path: &str) -> Option<String> {
    Some(fs::read_link(path).ok()?.to_string_lossy().into_owned())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(io::Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_makes_it_fail() {
        let fine = Diagnosis::of(vec![Finding::ok("a", "x")]);
        assert_eq!(fine.status(), Status::Done);
        let less = Diagnosis::of(vec![Finding::ok("a", "x"), Finding::warning("b", "y", "do z")]);
        assert_eq!(less.status(), Status::Done);
        let cannot = Diagnosis::of(vec![Finding::warning("b", "y", "do z"), Finding::missing("c", "no", "do w")]);
        assert_eq!(cannot.status(), Status::VerdictFailed);
    }

    #[test]
    fn each_check_is_one_line_with_its_remedy() {
        let text = Diagnosis::of(vec![
            Finding::ok("kernel", "6.1"),
            Finding::warning("pressure", "off", "boot with psi=1"),
            Finding::missing("BTF", "none", "use another kernel"),
        ])
        .text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok       kernel    6.1");
        assert_eq!(lines[1], "warning  pressure  off; remedy: boot with psi=1");
        assert_eq!(lines[2], "missing  BTF       none; remedy: use another kernel");
        assert_eq!(lines.last(), Some(&"profiler cannot run here: one thing is missing."));
    }

    #[test]
    fn json_tells_the_same() {
        let checks = vec![Finding::ok("kernel", "6.1"), Finding::missing("BTF", "none", "use another kernel")];
        let json = serde_json::to_value(Diagnosis::of(checks)).unwrap();
        assert_eq!(json["can_run"], false);
        assert_eq!(json["checks"][0]["verdict"], "ok");
        assert_eq!(json["checks"][0]["remedy"], serde_json::Value::Null);
        assert_eq!(json["checks"][1]["remedy"], "use another kernel");
    }

    #[test]
    fn this_machine_is_looked_at_whatever_it_allows() {
        let options = ResolverOptions { well_known_sockets: false, ..ResolverOptions::default() };
        let (findings, _) = look(&options);
        for finding in &findings {
            assert_eq!(finding.remedy.is_none(), finding.verdict == Verdict::Ok, "{finding:?}");
            assert!(!finding.found.contains('\n'), "{finding:?}");
        }
        let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
        for check in ["kernel", "BTF", "capabilities", "lockdown", "bpf(2)", "pid namespace", "cgroups", "CPUs"] {
            assert!(checks.contains(&check), "{check} is not in {checks:?}");
        }
    }
}
