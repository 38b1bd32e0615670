//! Which compiler there is for the kernel programs: Debian's rustc with its prebuilt `core`, or rustup's nightly.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::step::Step;
use crate::workspace;

/// What the kernel programs are compiled for.
pub const TARGET: &str = "bpfel-unknown-none";

/// What to do when there is no compiler.
const REMEDY: &str = "no compiler for the kernel programs (bpfel-unknown-none) was found. Either\n  \
    - Debian: `cargo xtask setup --ebpf`, which installs rustc-web, cargo-web, libstd-rust-web-dev-bpf, llvm-22-dev \
    and bpf-linker; or\n  \
    - rustup: `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`.\n\
    Only a change of profiler-ebpf/ needs one: the object in profiler-ebpf/prebuilt/ serves everybody else.";

/// A compiler that can build the kernel programs.
pub enum Toolchain {
    /// Debian's packages: `/usr/bin/rustc` and a prebuilt `core`.
    Debian,
    /// rustup's nightly with rust-src: `core` is built along.
    Nightly,
}

impl Toolchain {
    /// The toolchain of this machine, or what to install.
    pub fn detect() -> Result<Self> {
        if workspace::find_program("bpf-linker").is_none() {
            bail!("bpf-linker is missing; {REMEDY}");
        }
        if debian_core().is_some() && Path::new("/usr/bin/cargo").is_file() {
            return Ok(Self::Debian);
        }
        if nightly_has_sources() {
            return Ok(Self::Nightly);
        }
        bail!(REMEDY)
    }

    /// What the object depends on besides the sources: versions of the compiler and the linker.
    pub fn version(&self) -> Result<String> {
        let rustc = match self {
            Self::Debian => Step::new("ask rustc's version", "/usr/bin/rustc"),
            Self::Nightly => Step::new("ask rustc's version", "rustup").args(["run", "nightly", "rustc"]),
        };
        let verbose = rustc.without_cargo_environment().arg("-vV").read()?;
        let field =
            |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
        let linker = workspace::find_program("bpf-linker").unwrap_or_else(|| "bpf-linker".into());
        let linker =
            Step::new("ask bpf-linker's version", linker).without_cargo_environment().arg("--version").read()?;
        let kind = match self {
            Self::Debian => "prebuilt core",
            Self::Nightly => "build-std",
        };
        Ok(format!("rustc {}, LLVM {}, {}, {kind}", field("release:"), field("LLVM version:"), linker.trim()))
    }

    /// A cargo step that compiles with this toolchain.
    pub fn build(&self, title: &str) -> Step {
        let step = self.cargo(title).arg("build");
        match self {
            Self::Debian => step,
            Self::Nightly => step.args(["-Z", "build-std=core"]),
        }
    }

    /// A cargo step that brings the sources of all crates to this machine.
    pub fn fetch(&self) -> Step {
        self.cargo("fetch the crates").args(["fetch", "--locked", "--quiet"])
    }

    fn cargo(&self, title: &str) -> Step {
        match self {
            Self::Debian => Step::new(title, "/usr/bin/cargo")
                .without_cargo_environment()
                .env("RUSTC", "/usr/bin/rustc")
                // aya-ebpf uses features that are not stable yet.
                .env("RUSTC_BOOTSTRAP", "1"),
            Self::Nightly => Step::new(title, "rustup").without_cargo_environment().args(["run", "nightly", "cargo"]),
        }
    }
}

/// The folder with Debian's prebuilt `core` for the target.
fn debian_core() -> Option<PathBuf> {
    let sysroot = Step::new("ask rustc's sysroot", "/usr/bin/rustc")
        .without_cargo_environment()
        .args(["--print", "sysroot"])
        .read()
        .ok()?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    folder.is_dir().then_some(folder)
}

fn nightly_has_sources() -> bool {
    Step::new("ask nightly's sysroot", "rustup")
        .without_cargo_environment()
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .read()
        .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file())
}
