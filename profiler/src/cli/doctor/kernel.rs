//! The kernel: its release, its types, and what it does when asked.

use std::io;

use profiler_ebpf::Offsets;

use super::finding::Finding;
use crate::kernel::KernelError;

/// The oldest kernel that has everything.
const OLDEST: (u32, u32) = (5, 15);

/// The kernel's release, as in `/proc/sys/kernel/osrelease`.
pub fn release(text: Option<&str>) -> Finding {
    const CHECK: &str = "kernel";
    let Some(text) = text.map(str::trim) else {
        return Finding::warning(CHECK, "/proc/sys/kernel/osrelease cannot be read", "mount /proc");
    };
    match version(text) {
        None => Finding::warning(CHECK, format!("`{text}` is no release that is understood"), "use 5.15 or newer"),
        Some(version) if version < OLDEST => Finding::missing(CHECK, text, "use kernel 5.15 or newer"),
        Some(_) => Finding::ok(CHECK, text),
    }
}

/// Major and minor of `6.1.0-37-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The kernel's types: whether every member that the programs load was found.
pub fn types(offsets: &Result<Offsets, KernelError>) -> Finding {
    const CHECK: &str = "BTF";
    match offsets {
        Ok(_) => Finding::ok(CHECK, "has every member that the programs load"),
        Err(KernelError::MissingMember { of, member }) => Finding::missing(
            CHECK,
            format!("the kernel has no {of}.{member}"),
            "use kernel 5.15 or newer; a newer one may have renamed it, which is worth a report",
        ),
        Err(KernelError::OddMember { of, member, found, expected }) => Finding::missing(
            CHECK,
            format!("the kernel's {of}.{member} is {found}, and not {expected}"),
            "use a newer version of profiler; if there is none, this is worth a report",
        ),
        Err(KernelError::MissingController { controller }) => Finding::missing(
            CHECK,
            format!("the kernel has no cgroup controller `{controller}`"),
            "mount cgroup2 (`mount -t cgroup2 none /sys/fs/cgroup/unified`)",
        ),
        Err(error) => Finding::missing(
            CHECK,
            without_referral(&error.to_string()),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and in a container have /sys mounted",
        ),
    }
}

/// The clock by which waits without quota are told from others.
pub fn throttle_clock(offsets: &Offsets) -> Finding {
    const CHECK: &str = "throttle clock";
    if offsets.cfs_rq_throttled_time.is_absent() || offsets.task_cfs_rq.is_absent() {
        return Finding::warning(
            CHECK,
            "none: time throttled by a quota, if there is any, counts as runnable_other",
            "use a kernel built with CONFIG_CFS_BANDWIDTH=y",
        );
    }
    // Clocks that are not the kernel's own for this purpose come with a count to go by.
    let which = if offsets.cfs_rq_throttle_count.is_absent() { "the kernel's own" } else { "the older one" };
    Finding::ok(CHECK, which)
}

/// Whether a map could be created.
pub fn bpf(probed: &io::Result<()>) -> Finding {
    const CHECK: &str = "bpf(2)";
    match probed {
        Ok(()) => Finding::ok(CHECK, "creates maps"),
        Err(error) => Finding::missing(
            CHECK,
            format!("cannot create a map: {error}"),
            refusal(error, "CAP_BPF", "use a kernel built with CONFIG_BPF_SYSCALL=y"),
        ),
    }
}

/// Whether a sampling event could be opened.
pub fn sampling(probed: &io::Result<()>) -> Finding {
    const CHECK: &str = "sampling";
    match probed {
        Ok(()) => Finding::ok(CHECK, "opens cpu-clock events"),
        Err(error) => Finding::missing(
            CHECK,
            format!("cannot open a cpu-clock event: {error}"),
            refusal(error, "CAP_PERFMON", "use a kernel built with CONFIG_PERF_EVENTS=y"),
        ),
    }
}

/// What to do about a system call that was refused.
fn refusal(error: &io::Error, capability: &str, absent: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!("run as root or add {capability}; if it is there, seccomp or a security module forbids the call")
        }
        Some(libc::ENOSYS) => format!("{absent}; in a container seccomp may hide the call"),
        Some(libc::ENOMEM | libc::E2BIG) => "give the container more memory: maps count against its limit".to_owned(),
        _ => "look into the kernel's log".to_owned(),
    }
}

/// Whether every program that a recording needs could be loaded and attached.
pub fn programs(probed: &Result<(), KernelError>) -> Finding {
    const CHECK: &str = "kernel programs";
    match probed {
        Ok(()) => Finding::ok(CHECK, "all load and attach"),
        Err(error @ KernelError::Program { verifier_log: Some(_), .. }) => Finding::missing(
            CHECK,
            without_referral(&error.to_string()),
            "use another kernel or a newer version of profiler; that it is refused is worth a report, with what \
             `profiler doctor --verifier-log` says",
        ),
        Err(error) => Finding::missing(
            CHECK,
            without_referral(&error.to_string()),
            "put right what is missing above; if nothing is, the kernel lacks CONFIG_BPF_EVENTS or refuses this program, \
             which is worth a report",
        ),
    }
}

/// Messages elsewhere refer to this verb.
fn without_referral(message: &str) -> String {
    let cut = message.find("; run `profiler doctor`").or_else(|| message.find(", and run `profiler doctor`"));
    message[..cut.unwrap_or(message.len())].to_owned()
}

/// Whether programs are compiled, given `net.core.bpf_jit_enable`, which only the initial network namespace shows.
pub fn jit(value: Option<&str>) -> Finding {
    const CHECK: &str = "JIT";
    match value.map(str::trim) {
        Some("0") => Finding::warning(
            CHECK,
            "off: the kernel interprets the programs, at many times their cost",
            "`sysctl net.core.bpf_jit_enable=1`",
        ),
        Some("1") => Finding::ok(CHECK, "on"),
        Some("2") => Finding::warning(
            CHECK,
            "on, and each program's code is written to the kernel's log",
            "`sysctl net.core.bpf_jit_enable=1`",
        ),
        Some(other) => Finding::ok(CHECK, other),
        None => Finding::ok(CHECK, "not told in this network namespace"),
    }
}

/// Whether the kernel tells what programs cost.
pub fn run_time_statistics(probed: &io::Result<()>) -> Finding {
    const CHECK: &str = "program statistics";
    match probed {
        Ok(()) => Finding::ok(CHECK, "the kernel counts the programs' run time"),
        Err(error) => Finding::warning(
            CHECK,
            format!(
                "the kernel does not count the programs' run time for us ({error}): reports do not tell their cost"
            ),
            "add CAP_SYS_ADMIN",
        ),
    }
}

/// How the end of a window waits for programs that still run.
pub fn grace_period(by_kernel: bool) -> Finding {
    const CHECK: &str = "grace period";
    if by_kernel {
        Finding::ok(CHECK, "membarrier waits for running programs")
    } else {
        Finding::warning(
            CHECK,
            "membarrier is refused (nohz_full, or seccomp): each window ends with a fixed wait of 50 ms instead",
            "none needed: it is long against any program",
        )
    }
}

/// CPUs: online and possible.
pub fn cpus(online: &io::Result<usize>, possible: &io::Result<u32>) -> Finding {
    const CHECK: &str = "CPUs";
    match (online, possible) {
        (Ok(online), Ok(possible)) => Finding::ok(CHECK, format!("{online} online of {possible} possible")),
        (Err(error), _) | (_, Err(error)) => Finding::missing(
            CHECK,
            format!("the list of CPUs cannot be read: {error}"),
            "mount sysfs at /sys (in a container: with the host's CPUs)",
        ),
    }
}

/// Whether there are hardware counters, given the names in `/sys/bus/event_source/devices`.
pub fn hardware_counters(sources: &[String]) -> Finding {
    let is_core = |name: &String| name == "cpu" || name == "cpu_core" || name.starts_with("armv8");
    let found = if sources.iter().any(is_core) {
        "present; cpu-clock is used, which needs none"
    } else {
        "none, as in most virtual machines; cpu-clock is used, which needs none"
    };
    Finding::ok("hardware counters", found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::kernel::btf::BtfError;

    #[test]
    fn releases_from_5_15_on_will_do() {
        let table = [
            (Some("6.18.44-x"), Verdict::Ok),
            (Some("5.15.0-91-generic\n"), Verdict::Ok),
            (Some("5.14.21"), Verdict::Missing),
            (Some("4.19"), Verdict::Missing),
            (Some("10.0"), Verdict::Ok),
            (Some("6"), Verdict::Warning),
            (Some(""), Verdict::Warning),
            (Some("99999999999.1"), Verdict::Warning),
            (None, Verdict::Warning),
        ];
        for (text, verdict) in table {
            assert_eq!(release(text).verdict, verdict, "{text:?}");
        }
    }

    #[test]
    fn what_the_types_lack_is_named() {
        let member = Err(KernelError::MissingMember { of: "task_struct", member: "__state" });
        assert!(types(&member).found.contains("task_struct.__state"));
        let odd = KernelError::OddMember {
            of: "task_struct",
            member: "pid",
            found: "a struct of 3 bytes".to_owned(),
            expected: "a number of 4 bytes".to_owned(),
        };
        assert!(types(&Err(odd)).found.contains("task_struct.pid is a struct of 3 bytes"));
        let controller = Err(KernelError::MissingController { controller: "pids".to_owned() });
        assert!(types(&controller).found.contains("pids"));
        let unreadable = Err(KernelError::Btf(BtfError::Malformed("no BTF header")));
        let finding = types(&unreadable);
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.contains("no BTF header") && !finding.found.contains("doctor"), "{finding:?}");
    }

    #[test]
    fn a_refused_call_is_told_apart_from_one_that_does_not_exist() {
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        let remedy = |finding: Finding| finding.remedy.unwrap_or_default();
        assert!(remedy(bpf(&error(libc::EPERM))).contains("CAP_BPF"));
        assert!(remedy(bpf(&error(libc::ENOSYS))).contains("CONFIG_BPF_SYSCALL"));
        assert!(remedy(bpf(&error(libc::ENOMEM))).contains("memory"));
        assert!(remedy(bpf(&error(libc::EINVAL))).contains("log"));
        assert!(remedy(sampling(&error(libc::EACCES))).contains("CAP_PERFMON"));
        assert_eq!(sampling(&Ok(())).verdict, Verdict::Ok);
        assert_eq!(bpf(&Ok(())).verdict, Verdict::Ok);
        assert_eq!(run_time_statistics(&error(libc::EPERM)).verdict, Verdict::Warning);
        assert_eq!(run_time_statistics(&Ok(())).verdict, Verdict::Ok);
    }

    #[test]
    fn a_refused_program_is_told_in_the_kernel_rooms_words() {
        let refused =
            Err(KernelError::NotPermitted { what: "load `sched_switch`".to_owned(), missing: "CAP_BPF".to_owned() });
        let finding = programs(&refused);
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.contains("sched_switch") && finding.found.contains("CAP_BPF"), "{finding:?}");
        assert!(!finding.found.contains("doctor"), "{finding:?}");
        assert_eq!(programs(&Ok(())).verdict, Verdict::Ok);
    }

    #[test]
    fn a_program_that_the_verifier_refuses_is_told_as_a_recording_tells_it() {
        let refused = KernelError::Program {
            step: "load",
            program: "iter_task",
            why: "the kernel's verifier refuses it: R9 !read_ok (Permission denied)".to_owned(),
            verifier_log: Some("0: (79) r0 = *(u64 *)(r9 +0)\nR9 !read_ok".to_owned()),
        };
        let told = refused.to_string();
        let finding = programs(&Err(refused));
        assert!(told.starts_with(&finding.found) && finding.found.ends_with("(Permission denied)"), "{finding:?}");
        assert!(finding.remedy.is_some_and(|remedy| remedy.contains("--verifier-log")));
    }

    #[test]
    fn programs_should_be_compiled() {
        let table = [
            (Some("0\n"), Verdict::Warning),
            (Some("1\n"), Verdict::Ok),
            (Some("2\n"), Verdict::Warning),
            (None, Verdict::Ok),
        ];
        for (value, verdict) in table {
            assert_eq!(jit(value).verdict, verdict, "{value:?}");
        }
    }

    #[test]
    fn the_machine_is_described() {
        let finding = cpus(&Ok(2), &Ok(4));
        assert_eq!((finding.verdict, finding.found.as_str()), (Verdict::Ok, "2 online of 4 possible"));
        assert_eq!(cpus(&Err(io::Error::from_raw_os_error(libc::ENOENT)), &Ok(1)).verdict, Verdict::Missing);
        assert!(hardware_counters(&["cpu".to_owned()]).found.starts_with("present"));
        assert!(hardware_counters(&["cpuidle".to_owned(), "software".to_owned()]).found.starts_with("none"));
        assert_eq!(grace_period(true).verdict, Verdict::Ok);
        assert_eq!(grace_period(false).verdict, Verdict::Warning);
    }
}
