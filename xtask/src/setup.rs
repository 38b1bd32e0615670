//! `cargo xtask setup`: installs what is missing. Hardly anything is needed to build and use `profiler`; the kernel programs'
//! compiler, the container runtimes, the emulator and the tools of the benchmark are for those who work on it.

use std::env;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::step::{Step, say};
use crate::validators;
use crate::workspace;

/// A group of things that are installed together, and what for.
pub struct Group {
    name: &'static str,
    packages: &'static [&'static str],
}

/// What libraries written in C are built with, besides the compiler that Rust links with.
pub const BUILD: Group = Group { name: "build", packages: &["make"] };
/// Compiler and linker for the kernel programs.
pub const EBPF: Group = Group {
    name: "eBPF compiler",
    packages: &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "llvm-22"],
};
/// The runtimes whose containers the tests profile.
pub const CONTAINERS: Group =
    Group { name: "container runtimes", packages: &["docker.io", "containerd", "runc", "podman", "busybox-static"] };
/// What boots other kernels.
pub const VM: Group = Group { name: "emulator", packages: &["qemu-system-x86", "busybox-static"] };
/// What the benchmark compares with.
pub const BENCH: Group =
    Group { name: "benchmark", packages: &["bpftool", "libbpf-tools", "bpftrace", "linux-perf", "busybox-static"] };
/// What scrapes the daemon in the tests.
pub const DAEMON: Group = Group { name: "scraper", packages: &["prometheus"] };
/// What builds and runs the planted suite and the platform of examples/.
pub const EXAMPLES: Group = Group {
    name: "examples",
    packages: &[
        "gcc",
        "golang-go",
        "openjdk-17-jdk-headless",
        "nodejs",
        "python3.11",
        "python3.11-venv",
        "python3-yaml",
        "redis-server",
        "nginx-light",
    ],
};
/// Whose stacks `cargo xtask stacks` looks at, and what puts load on them.
pub const STACKS: Group = Group {
    name: "software whose stacks are measured",
    packages: &[
        "redis-server",
        "redis-tools",
        "nginx-light",
        "wrk",
        "postgresql-15",
        "postgresql-client-common",
        "nodejs",
        "python3",
        "golang-go",
        "g++",
        "musl-tools",
        "busybox-static",
    ],
};
/// What single tests look at the profiler, or at what it reads, with.
pub const TESTS: Group = Group { name: "tests", packages: &["bpftool", "strace", "xz-utils", "binutils"] };
/// What reads coverage counters.
pub const COVERAGE: Group = Group { name: "coverage", packages: &["llvm-22"] };
/// What the validators are not themselves: the interpreter, promtool, and the browser with its driver.
pub const VALIDATORS: Group =
    Group { name: "validators", packages: &["python3-venv", "prometheus", "chromium", "chromium-driver"] };

const BPF_LINKER: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Installs what is missing on this machine; does nothing when nothing is.
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[derive(Args)]
pub struct Setup {
    /// The compiler for the kernel programs (only those who change profiler-ebpf/ need it).
    #[arg(long)]
    ebpf: bool,
    /// Docker, containerd, Podman: for the tests.
    #[arg(long)]
    containers: bool,
    /// The emulator for `cargo xtask vm`.
    #[arg(long)]
    vm: bool,
    /// Prometheus and promtool: for the tests of the daemon.
    #[arg(long)]
    daemon: bool,
    /// The tools that `cargo xtask bench` compares with.
    #[arg(long)]
    bench: bool,
    /// The software that `cargo xtask stacks` measures.
    #[arg(long)]
    stacks: bool,
    /// What checks deploy/ and drives the browser.
    #[arg(long)]
    validators: bool,
    /// The languages and servers of examples/.
    #[arg(long)]
    examples: bool,
    /// All of them (the default when none is named).
    #[arg(long)]
    all: bool,
}

impl Setup {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let all = self.all
            || !(self.ebpf
                || self.containers
                || self.vm
                || self.daemon
                || self.bench
                || self.examples
                || self.stacks
                || self.validators);
        let wanted = [
            (self.containers, CONTAINERS),
            (self.vm, VM),
            (self.daemon, DAEMON),
            (self.bench, BENCH),
            (self.examples, EXAMPLES),
            (self.stacks, STACKS),
        ];
        for_building()?;
        for (asked, group) in wanted {
            if all || asked {
                install(&group)?;
            }
        }
        if all || self.daemon {
            stop_service("prometheus");
        }
        if all || self.ebpf {
            install_ebpf()?;
        }
        if all || self.validators {
            validators::prepare()?;
        }
        install_rust_components()
    }
}

/// Debian starts what it installs. The tests start their own; where there is no service manager, nothing was started.
fn stop_service(name: &str) {
    if !Step::new("stop the packaged service", "systemctl").args(["disable", "--now", name]).succeeds() {
        say(format!("{name}: no service manager to ask; nothing was started"));
    }
}

/// Installs what building needs, if it is not there from wherever.
pub fn for_building() -> Result<()> {
    if workspace::find_program("make").is_some() { Ok(()) } else { install(&BUILD) }
}

/// Installs the compiler for the kernel programs.
pub fn install_ebpf() -> Result<()> {
    install(&EBPF)?;
    if workspace::find_program("bpf-linker").is_some() {
        say("bpf-linker: already there");
        return Ok(());
    }
    Step::cargo(format!("install bpf-linker {BPF_LINKER} (compiles for a minute or two)"))
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--no-default-features", "--features", "llvm-22"])
        // Without it the build looks for libLLVM among the linker's own folders and fails.
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .run()
}

/// Installs rustfmt and clippy where rustup has left them out.
pub fn install_rust_components() -> Result<()> {
    let missing: Vec<&str> = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(cargo_command, _)| {
            let verb = cargo_command.trim_start_matches("cargo-");
            !Step::cargo("ask for a component").args([verb, "--version"]).succeeds()
        })
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Step::new(format!("install {}", missing.join(" and ")), "rustup").args(["component", "add"]).args(missing).run()
}

/// Installs the packages of a group that are missing.
pub fn install(group: &Group) -> Result<()> {
    let missing: Vec<&str> = group.packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        say(format!("{}: already there", group.name));
        return Ok(());
    }
    let list = missing.join(" ");
    if workspace::find_program("apt-get").is_none() {
        bail!("{}: this machine has no apt-get; install what Debian calls {list} by hand", group.name);
    }
    if !is_root()? {
        bail!(
            "{}: {list} must be installed by root: `sudo apt-get install --no-install-recommends {list}`",
            group.name
        );
    }
    if !missing.iter().all(|package| has_candidate(package)) {
        update()?;
    }
    if let Err(first) = apt_install(group.name, &missing) {
        // Lists that are older than the archive name files that are gone; anything else fails again.
        say(format!("{first:#}; trying again with fresh package lists"));
        update()?;
        apt_install(group.name, &missing)?;
    }
    Ok(())
}

fn apt_install(name: &str, packages: &[&str]) -> Result<()> {
    Step::new(format!("{name}: install {}", packages.join(" ")), "apt-get")
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", "-qq", "-y", "--no-install-recommends"])
        .arg("install")
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()
}

/// Fetches the archive's package lists.
pub fn update() -> Result<()> {
    Step::new("fetch the package lists", "apt-get").args(["-o", "DPkg::Lock::Timeout=300", "-qq", "update"]).run()
}

fn is_installed(package: &str) -> bool {
    Step::new("ask dpkg", "dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status}", package])
        .read()
        .is_ok_and(|status| status == "installed")
}

/// Whether apt knows a version of it.
pub fn has_candidate(package: &str) -> bool {
    Step::new("ask apt", "apt-cache")
        .args(["policy", package])
        .env("LC_ALL", "C")
        .read()
        .is_ok_and(|policy| policy.contains("Candidate: ") && !policy.contains("Candidate: (none)"))
}

/// Whether this runs as root.
pub fn is_root() -> Result<bool> {
    let id = Step::new("ask who runs this", "id").arg("-u").read()?;
    Ok(id.trim().parse::<u32>().context("`id -u` prints a number")? == 0)
}

/// Whether tests that need the kernel must run rather than be left out (`PROFILER_REQUIRE_KERNEL=1`).
pub fn kernel_is_required() -> bool {
    env::var_os("PROFILER_REQUIRE_KERNEL").is_some_and(|value| !value.is_empty() && value != "0")
}
