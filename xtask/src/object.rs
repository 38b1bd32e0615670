//! The kernel programs as one object file: compiled from `profiler-ebpf`, kept in the tree as
//! `profiler-ebpf/prebuilt/profiler.bpf.o` so that nobody who only builds `profiler` needs a compiler for it.
//!
//! Beside it lies `SOURCES.sha256`: what the object was made from and with. It is a list that `sha256sum -c` reads too,
//! and whose comment lines hold the toolchain, the flags and the locked crates. The object is stale when any of the
//! sources, flags or crates differ; that needs no compiler to find out. With the same toolchain at hand it is built
//! again and must come out the same, byte for byte.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::step::{Step, say};
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace;

const CRATE: &str = "profiler-ebpf";
const OBJECT: &str = "profiler-ebpf/prebuilt/profiler.bpf.o";
const SOURCES: &str = "profiler-ebpf/prebuilt/SOURCES.sha256";

/// Flags that change the code. debuginfo=2 with --btf makes maps, globals and bpf_loop callbacks known to the kernel;
/// v3 has atomic exchange, in every kernel from 5.12 on.
const FLAGS: [&str; 7] = [
    "-Clinker=bpf-linker",
    "-Clink-arg=--btf",
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
];

/// How the object in the tree stands to the sources.
pub enum State {
    /// Made from these very sources.
    Fresh,
    /// Not there, or made from others; why.
    Stale(String),
}

/// Compares the object in the tree with the sources by their digests.
pub fn state() -> Result<State> {
    let root = workspace::root();
    if !root.join(OBJECT).is_file() {
        return Ok(State::Stale(format!("{OBJECT} is missing")));
    }
    let Ok(recorded) = fs::read_to_string(root.join(SOURCES)) else {
        return Ok(State::Stale(format!("{SOURCES} is missing")));
    };
    let current = inventory()?;
    let recorded: Vec<&str> = recorded.lines().filter(|line| !line.starts_with("# toolchain: ")).collect();
    let changed: Vec<String> = current
        .lines()
        .filter(|line| !recorded.contains(line))
        .chain(recorded.iter().copied().filter(|line| !current.lines().any(|other| other == *line)))
        .map(subject)
        .collect();
    if changed.is_empty() {
        return Ok(State::Fresh);
    }
    let mut names = changed;
    names.sort();
    names.dedup();
    Ok(State::Stale(format!("changed since it was built: {}", names.join(", "))))
}

/// Builds the object and puts it into the tree.
pub fn rebuild() -> Result<()> {
    let toolchain = Toolchain::detect()?;
    let version = toolchain.version()?;
    say(format!("kernel programs: {version}"));
    let built = compile(&toolchain)?;
    let root = workspace::root();
    let destination = root.join(OBJECT);
    let folder = destination.parent().context("the object has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // An unchanged file keeps its time, so that cargo does not build `profiler` again.
    if fs::read(&destination).ok().as_ref() != Some(&bytes) {
        fs::write(&destination, &bytes).with_context(|| format!("cannot write {}", destination.display()))?;
    }
    let listing = format!("# toolchain: {version}\n{}", inventory()?);
    fs::write(root.join(SOURCES), listing).with_context(|| format!("cannot write {SOURCES}"))?;
    say(format!("{OBJECT}: {} bytes", bytes.len()));
    Ok(())
}

/// Rebuilds the object if it is stale.
pub fn refresh() -> Result<()> {
    match state()? {
        State::Fresh => {
            say("kernel programs: the object in the tree is made from these sources");
            Ok(())
        }
        State::Stale(why) => {
            say(format!("kernel programs: building ({why})"));
            rebuild().with_context(|| format!("{OBJECT} is stale ({why}) and must be built"))
        }
    }
}

/// Fails unless the object in the tree is the one these sources give.
pub fn check() -> Result<()> {
    if let State::Stale(why) = state()? {
        bail!("{OBJECT} is stale: {why}; run `cargo xtask build --object-only` and commit profiler-ebpf/prebuilt/");
    }
    let Ok(toolchain) = Toolchain::detect() else {
        say("kernel programs: digests agree; not built again, for there is no eBPF compiler here");
        return Ok(());
    };
    let version = toolchain.version()?;
    let root = workspace::root();
    let recorded = fs::read_to_string(root.join(SOURCES)).with_context(|| format!("cannot read {SOURCES}"))?;
    let original = recorded.lines().find_map(|line| line.strip_prefix("# toolchain: ")).unwrap_or("unknown");
    let built = compile(&toolchain)?;
    if original != version {
        say(format!(
            "kernel programs: digests agree and they compile; built by {original}, here is {version}, so bytes \
             were not compared"
        ));
        return Ok(());
    }
    let fresh = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let kept = fs::read(root.join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    if fresh != kept {
        bail!(
            "{OBJECT} is not what these sources give ({} bytes there, {} built here, in {}); run `cargo xtask build \
             --object-only` and commit profiler-ebpf/prebuilt/",
            kept.len(),
            fresh.len(),
            built.display()
        );
    }
    say(format!("kernel programs: built again, the same {} bytes", kept.len()));
    Ok(())
}

/// Compiles and strips; returns where the result lies.
fn compile(toolchain: &Toolchain) -> Result<PathBuf> {
    let output = workspace::target().join("bpf");
    // The crates' folder must be known before the first compilation, or their paths would end up in the object.
    toolchain.fetch().run()?;
    let mut path = vec![workspace::cargo_home()?.join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    toolchain
        .build("compile the kernel programs")
        .args(["--locked", "--release", "--package", CRATE, "--bin", "programs", "--features", "programs"])
        // Whatever other programs are compiled with.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .args(["--target", TARGET, "--target-dir"])
        .arg(&output)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags()?)
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("PATH", std::env::join_paths(path).context("a folder of PATH holds a colon")?)
        .run()?;
    let compiled = output.join(TARGET).join("release/programs");
    let stripped = output.join("profiler.bpf.o");
    strip(&compiled, &stripped)?;
    Ok(stripped)
}

/// The flags, and the maps that keep this machine's folders out of the object.
fn rustflags() -> Result<OsString> {
    let mut folders = vec![(workspace::root(), ".")];
    let registries = workspace::cargo_home()?.join("registry/src");
    for registry in fs::read_dir(&registries).into_iter().flatten().flatten() {
        folders.push((registry.path(), "registry"));
    }
    let mut flags = OsString::from(FLAGS.join("\x1f"));
    for (folder, name) in folders {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(folder);
        flags.push(format!("={name}"));
    }
    Ok(flags)
}

/// Leaves out DWARF; `.BTF` and `.BTF.ext` stay.
fn strip(compiled: &Path, stripped: &Path) -> Result<()> {
    let candidates = ["/usr/lib/llvm-22/bin/llvm-objcopy", "llvm-objcopy-22", "llvm-objcopy", "rust-objcopy"];
    let tool = candidates
        .iter()
        .find_map(|name| workspace::find_program(name))
        .context("no llvm-objcopy: install llvm-22 (Debian), or `cargo install cargo-binutils` (rust-objcopy)")?;
    Step::new("strip the kernel programs", tool).arg("--strip-debug").arg(compiled).arg(stripped).read()?;
    Ok(())
}

/// What the object is made from, and its own digest: the list in `SOURCES.sha256` but for the toolchain.
fn inventory() -> Result<String> {
    let root = workspace::root();
    let mut text = format!("# flags: {}\n", FLAGS.join(" "));
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    for line in locked_crates(&lock) {
        writeln!(text, "# crate: {line}")?;
    }
    let mut files = vec![format!("{CRATE}/Cargo.toml")];
    collect_sources(&root, Path::new(CRATE).join("src").as_path(), &mut files)?;
    files.sort();
    if root.join(OBJECT).is_file() {
        files.push(OBJECT.to_owned());
    }
    text.push_str(&Step::new("digest the sources", "sha256sum").arg("--").args(&files).read()?);
    Ok(text)
}

fn collect_sources(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect_sources(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// The crates of the lock file that are compiled into the object, as `name version checksum`.
fn locked_crates(lock: &str) -> Vec<String> {
    lock.split("[[package]]")
        .filter_map(|block| {
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
            };
            let name = field("name")?;
            let in_object = ["aya-ebpf", "aya-log-ebpf", "aya-log-common", "aya-log-parser"];
            in_object
                .iter()
                .any(|prefix| name.starts_with(prefix))
                .then(|| format!("{name} {} {}", field("version").unwrap_or("?"), field("checksum").unwrap_or("-")))
        })
        .collect()
}

/// What a line of the list is about.
fn subject(line: &str) -> String {
    match line.strip_prefix("# ") {
        Some(comment) if comment.starts_with("flags:") => "the compiler's flags".to_owned(),
        Some(comment) => comment.split(' ').take(3).collect::<Vec<_>>().join(" "),
        None => line.split("  ").nth(1).unwrap_or(line).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crates_of_the_object_are_taken_from_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\nchecksum = \"ab\"\n\n\
                    [[package]]\nname = \"aya\"\nversion = \"0.14.0\"\nchecksum = \"cd\"\n";
        assert_eq!(locked_crates(lock), ["aya-ebpf 0.2.1 ab"]);
    }

    #[test]
    fn a_line_of_the_list_is_named_by_its_subject() {
        assert_eq!(subject("# flags: -Ca -Cb"), "the compiler's flags");
        assert_eq!(subject("# crate: aya-ebpf 0.2.1 ab"), "crate: aya-ebpf 0.2.1");
        assert_eq!(subject("00ff  profiler-ebpf/src/lib.rs"), "profiler-ebpf/src/lib.rs");
    }
}
