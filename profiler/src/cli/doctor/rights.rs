//! What this process may do: its capabilities, and the kernel's switches that take some away.

use super::finding::Finding;

/// The capabilities that matter here, as the kernel numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Read any file, and write it.
    DacOverride = 1,
    /// Read any file.
    DacReadSearch = 2,
    /// Read any process's memory and mappings.
    SysPtrace = 19,
    /// Nearly everything; contains BPF and PERFMON.
    SysAdmin = 21,
    /// See kernel addresses.
    Syslog = 34,
    /// Attach to tracing hooks and sample all processes.
    Perfmon = 38,
    /// Create maps and load programs.
    Bpf = 39,
}

/// A set of capabilities, as the kernel prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The effective ones, from the text of `/proc/self/status`.
    pub fn effective(status: &str) -> Option<Self> {
        let text = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(text.trim(), 16).ok().map(Self)
    }

    /// Whether one of them is among them.
    pub fn has(self, any_of: &[Capability]) -> bool {
        any_of.iter().any(|capability| self.0 & (1 << (*capability as u8)) != 0)
    }
}

/// One need: its name, what satisfies it, whether nothing goes without it, and what it is for.
struct Need {
    name: &'static str,
    any_of: &'static [Capability],
    required: bool,
    purpose: &'static str,
}

const NEEDS: [Need; 5] = [
    Need {
        name: "CAP_BPF",
        any_of: &[Capability::Bpf, Capability::SysAdmin],
        required: true,
        purpose: "to create maps and load programs",
    },
    Need {
        name: "CAP_PERFMON",
        any_of: &[Capability::Perfmon, Capability::SysAdmin],
        required: true,
        purpose: "to attach to the scheduler and to sample every CPU",
    },
    Need {
        name: "CAP_SYS_PTRACE",
        any_of: &[Capability::SysPtrace],
        required: false,
        purpose: "to read other users' mappings, without which their functions have no names",
    },
    Need {
        name: "CAP_DAC_READ_SEARCH",
        any_of: &[Capability::DacReadSearch, Capability::DacOverride],
        required: false,
        purpose: "to read binaries and runtime state that belong to other users",
    },
    Need {
        name: "CAP_SYSLOG",
        any_of: &[Capability::Syslog],
        required: false,
        purpose: "to see kernel addresses, without which kernel functions have no names",
    },
];

/// The capabilities, given the text of `/proc/self/status` and whether this is the initial user namespace.
pub fn capabilities(status: &str, initial_user_namespace: bool) -> Finding {
    const CHECK: &str = "capabilities";
    let Some(effective) = Capabilities::effective(status) else {
        return Finding::warning(CHECK, "/proc/self/status does not tell", "mount /proc");
    };
    if !initial_user_namespace {
        return Finding::missing(
            CHECK,
            "this is a user namespace of its own, whose capabilities the kernel does not accept for tracing",
            "run outside of it: as real root, not in a rootless container",
        );
    }
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !effective.has(need.any_of)).collect();
    if missing.is_empty() {
        let held = if effective.has(&[Capability::SysAdmin]) { "all, CAP_SYS_ADMIN among them" } else { "all needed" };
        return Finding::ok(CHECK, held);
    }
    let list: Vec<String> = missing.iter().map(|need| format!("{} ({})", need.name, need.purpose)).collect();
    let found = format!("without {}", list.join(", "));
    let names: Vec<&str> = missing.iter().map(|need| need.name.trim_start_matches("CAP_")).collect();
    let remedy = format!(
        "run as root, or add the capabilities {} (docker run --cap-add, securityContext.capabilities.add)",
        names.join(", ")
    );
    if missing.iter().any(|need| need.required) {
        Finding::missing(CHECK, found, remedy)
    } else {
        Finding::warning(CHECK, found, remedy)
    }
}

/// Lockdown, given the text of `/sys/kernel/security/lockdown` where there is one.
pub fn lockdown(modes: Option<&str>) -> Finding {
    const CHECK: &str = "lockdown";
    let Some(modes) = modes else {
        return Finding::ok(CHECK, "not in this kernel, or securityfs is not mounted");
    };
    let mode = modes.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match mode {
        Some("confidentiality") => Finding::missing(
            CHECK,
            "confidentiality: kernel programs may not read the kernel's memory",
            "boot with lockdown=integrity or without lockdown",
        ),
        Some(mode) => Finding::ok(CHECK, mode),
        None => Finding::warning(CHECK, format!("unknown mode `{}`", modes.trim()), "look into the kernel's log"),
    }
}

/// `kernel.unprivileged_bpf_disabled`, which never stands in the way of a process with CAP_BPF.
pub fn unprivileged_bpf(value: Option<&str>) -> Finding {
    let meaning = match value.map(str::trim) {
        Some("0") => "0: every user may load simple programs",
        Some("1") => "1: only privileged processes load programs, until the next boot",
        Some("2") => "2: only privileged processes load programs",
        Some(other) => return Finding::ok("unprivileged BPF", other),
        None => "not told by this kernel",
    };
    Finding::ok("unprivileged BPF", meaning)
}

/// `kernel.perf_event_paranoid`, which matters to processes without CAP_PERFMON only.
pub fn perf_event_paranoid(value: Option<&str>, effective: Option<Capabilities>) -> Finding {
    const CHECK: &str = "perf_event_paranoid";
    let Some(level) = value.and_then(|text| text.trim().parse::<i32>().ok()) else {
        return Finding::missing(
            CHECK,
            "the kernel has no performance events",
            "use a kernel built with CONFIG_PERF_EVENTS=y",
        );
    };
    let privileged = effective.is_some_and(|held| held.has(&[Capability::Perfmon, Capability::SysAdmin]));
    if privileged {
        Finding::ok(CHECK, format!("{level}, which CAP_PERFMON overrides"))
    } else if level <= 0 {
        Finding::ok(CHECK, level.to_string())
    } else {
        Finding::warning(
            CHECK,
            format!("{level}: no sampling of whole CPUs without CAP_PERFMON"),
            "add CAP_PERFMON, or `sysctl kernel.perf_event_paranoid=0`",
        )
    }
}

/// `kernel.kptr_restrict`: whether `/proc/kallsyms` shows this process the kernel's addresses.
pub fn kptr_restrict(value: Option<&str>, paranoid: Option<&str>, effective: Option<Capabilities>) -> Finding {
    const CHECK: &str = "kernel symbols";
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<i32>().ok());
    let syslog = effective.is_some_and(|held| held.has(&[Capability::Syslog]));
    // As kallsyms_show_value() in kernel/ksyms_common.c decides.
    match number(value) {
        None => Finding::warning(
            CHECK,
            "kernel.kptr_restrict cannot be read",
            "mount /proc; if /proc/kallsyms shows only zeros, kernel functions have no names",
        ),
        Some(level @ 2..) => Finding::warning(
            CHECK,
            format!("kernel.kptr_restrict is {level}: kernel functions have no names"),
            "`sysctl kernel.kptr_restrict=1`",
        ),
        Some(level) if syslog => Finding::ok(CHECK, format!("kernel.kptr_restrict is {level}, addresses are shown")),
        Some(level @ ..=0) if number(paranoid).is_some_and(|paranoid| paranoid <= 1) => {
            Finding::ok(CHECK, format!("kernel.kptr_restrict is {level}, addresses are shown"))
        }
        Some(level) => Finding::warning(
            CHECK,
            format!("kernel.kptr_restrict is {level}, and without CAP_SYSLOG kernel functions have no names"),
            "add CAP_SYSLOG",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    /// `/proc/self/status` of a process that has these.
    fn status(held: &[Capability]) -> String {
        let bits = held.iter().fold(0_u64, |bits, capability| bits | 1 << (*capability as u8));
        format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{bits:016x}\nCapBnd:\t0000000000000000\n")
    }

    fn held(capabilities: &[Capability]) -> Option<Capabilities> {
        Capabilities::effective(&status(capabilities))
    }

    /// What is held, and then the verdict, the words that are said and those that are not.
    type Case = (&'static [Capability], Verdict, &'static [&'static str], &'static [&'static str]);

    #[test]
    fn capabilities_are_named_with_their_reason() {
        use Capability::{Bpf, DacOverride, DacReadSearch, Perfmon, SysAdmin, SysPtrace, Syslog};
        let table: [Case; 5] = [
            (&[Bpf, Perfmon, SysPtrace, DacReadSearch, Syslog], Verdict::Ok, &["all needed"], &[]),
            (&[SysAdmin, SysPtrace, DacOverride, Syslog], Verdict::Ok, &["CAP_SYS_ADMIN"], &[]),
            (
                &[Perfmon, SysPtrace, DacReadSearch, Syslog],
                Verdict::Missing,
                &["CAP_BPF", "load programs"],
                &["CAP_PERFMON"],
            ),
            (&[Bpf, Perfmon, DacReadSearch, Syslog], Verdict::Warning, &["CAP_SYS_PTRACE", "mappings"], &["CAP_BPF"]),
            (&[], Verdict::Missing, &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYSLOG"], &[]),
        ];
        for (have, verdict, mentions, silent) in table {
            let finding = capabilities(&status(have), true);
            assert_eq!(finding.verdict, verdict, "{have:?}: {finding:?}");
            assert!(mentions.iter().all(|word| finding.found.contains(word)), "{finding:?}");
            assert!(!silent.iter().any(|word| finding.found.contains(word)), "{finding:?}");
            assert_eq!(finding.remedy.is_none(), verdict == Verdict::Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_user_namespace_of_its_own_has_no_say() {
        let finding = capabilities(&status(&[Capability::SysAdmin]), false);
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.contains("user namespace"), "{finding:?}");
        assert_eq!(capabilities("no such line", true).verdict, Verdict::Warning);
        assert_eq!(Capabilities::effective("CapEff:\tzz\n"), None);
    }

    #[test]
    fn only_confidentiality_stands_in_the_way() {
        let table = [
            (None, Verdict::Ok, "not in this kernel"),
            (Some("[none] integrity confidentiality\n"), Verdict::Ok, "none"),
            (Some("none [integrity] confidentiality\n"), Verdict::Ok, "integrity"),
            (Some("none integrity [confidentiality]\n"), Verdict::Missing, "confidentiality"),
            (Some("none\n"), Verdict::Warning, "unknown"),
        ];
        for (text, verdict, word) in table {
            let finding = lockdown(text);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(word), "{finding:?}");
        }
    }

    #[test]
    fn paranoia_matters_without_the_capability_only() {
        let perfmon = held(&[Capability::Perfmon]);
        let table = [
            (Some("2\n"), perfmon, Verdict::Ok),
            (Some("4\n"), held(&[Capability::SysAdmin]), Verdict::Ok),
            (Some("2\n"), held(&[Capability::Bpf]), Verdict::Warning),
            (Some("-1\n"), held(&[]), Verdict::Ok),
            (Some("2\n"), None, Verdict::Warning),
            (None, perfmon, Verdict::Missing),
        ];
        for (value, effective, verdict) in table {
            assert_eq!(perf_event_paranoid(value, effective).verdict, verdict, "{value:?} {effective:?}");
        }
    }

    #[test]
    fn kernel_addresses_are_shown_as_the_kernel_decides() {
        let syslog = held(&[Capability::Syslog]);
        let table = [
            (Some("0"), Some("2"), syslog, Verdict::Ok),
            (Some("1"), Some("2"), syslog, Verdict::Ok),
            (Some("2"), Some("-1"), syslog, Verdict::Warning),
            (Some("0"), Some("1"), held(&[]), Verdict::Ok),
            (Some("0"), Some("2"), held(&[]), Verdict::Warning),
            (Some("1"), Some("0"), None, Verdict::Warning),
            (None, None, syslog, Verdict::Warning),
        ];
        for (value, paranoid, effective, verdict) in table {
            assert_eq!(kptr_restrict(value, paranoid, effective).verdict, verdict, "{value:?} {paranoid:?}");
        }
    }

    #[test]
    fn unprivileged_bpf_is_told_and_never_in_the_way() {
        for (value, word) in
            [(Some("0\n"), "every user"), (Some("2\n"), "privileged"), (None, "not told"), (Some("9"), "9")]
        {
            let finding = unprivileged_bpf(value);
            assert_eq!(finding.verdict, Verdict::Ok);
            assert!(finding.found.contains(word), "{finding:?}");
        }
    }
}
