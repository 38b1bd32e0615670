//! What can go wrong between the kernel and us, in words that say what to do.

use std::io;

use thiserror::Error;

use super::btf::BtfError;

/// Why the kernel programs cannot run or be read.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No BTF, or none that can be read.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel is too old, or unlike any known.
    #[error(
        "cannot attach the scheduler programs: BTF of the running kernel has no {of}.{member} (kernel 5.15 or newer \
         needed); run `profiler doctor`"
    )]
    MissingMember {
        /// The struct.
        of: &'static str,
        /// Its member.
        member: &'static str,
    },
    /// A member is of a kind or a size that the programs cannot load.
    #[error(
        "cannot load the kernel programs: {of}.{member} of the running kernel is {found}, and not {expected}; a newer version \
         of profiler may know this kernel; run `profiler doctor`"
    )]
    OddMember {
        /// The struct.
        of: &'static str,
        /// Its member.
        member: &'static str,
        /// What it is.
        found: String,
        /// What the programs can load.
        expected: String,
    },
    /// The cgroup v1 controller is not known to the kernel.
    #[error(
        "cannot tell containers apart: the running kernel has no cgroup controller `{controller}`; mount cgroup2 \
         (`mount -t cgroup2 none /sys/fs/cgroup/unified`) and try again"
    )]
    MissingController {
        /// The controller.
        controller: String,
    },
    /// Missing privileges.
    #[error(
        "not allowed to {what}: {missing} needed; run as root (or in a privileged container with hostPID), and run \
         `profiler doctor` to see what is missing"
    )]
    NotPermitted {
        /// What was tried.
        what: String,
        /// Which capabilities are missing.
        missing: String,
    },
    /// The kernel refuses probe reads.
    #[error(
        "the kernel is locked down ({mode}): it refuses to let programs read its memory; boot with lockdown=integrity or \
         none (see /sys/kernel/security/lockdown)"
    )]
    Lockdown {
        /// `confidentiality`
        mode: String,
    },
    /// The object does not load.
    #[error("cannot load the kernel programs: {0}; run `profiler doctor`")]
    Load(#[source] Box<aya::EbpfError>),
    /// One program does not load or attach.
    #[error(
        "cannot {step} kernel program `{program}`: {why}; run `profiler doctor`{}",
        .verifier_log.as_ref().map_or("", |_| " (with --verifier-log for all that the verifier says)")
    )]
    Program {
        /// `load` or `attach`.
        step: &'static str,
        /// Which program.
        program: &'static str,
        /// Why, in one line.
        why: String,
        /// All that the verifier said, if it said something.
        verifier_log: Option<String>,
    },
    /// A map is missing or cannot be reached.
    #[error("cannot reach the kernel programs' map {map}: {source}")]
    Map {
        /// Which map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Sampling does not start.
    #[error(
        "cannot sample {}: {source}; kernel.perf_event_paranoid, seccomp or a missing CAP_PERFMON may forbid it; run \
         `profiler doctor`",
        .cpu.map_or_else(|| "CPUs".to_owned(), |cpu| format!("CPU {cpu}"))
    )]
    Sampling {
        /// Which CPU, if it was one.
        cpu: Option<u32>,
        /// Why.
        source: io::Error,
    },
    /// The iterator over threads fails.
    #[error("cannot walk over all threads: {0}")]
    Threads(#[source] io::Error),
    /// Something about the machine could not be read.
    #[error("cannot read {what}: {source}")]
    Machine {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}
