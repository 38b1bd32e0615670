//! The guest's root: busybox, `profiler`, a workload, their shared libraries, and two scripts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::step::Step;
use crate::workspace;

const INIT: &str = include_str!("init.sh");
const SMOKE: &str = include_str!("smoke.sh");
/// The example that spins in the guest; it is built with frame pointers and symbols.
const SPINNER: &str = "spinner";

/// Builds the archive for a guest and returns where it lies.
pub fn build(version: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("vm");
    let root = folder.join(format!("root-{version}"));
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    let profiler = workspace::release_binary("profiler");
    if !profiler.is_file() {
        bail!("{} is missing: run `cargo xtask build` first", profiler.display());
    }
    let busybox = workspace::find_program("busybox").context("busybox is missing: run `cargo xtask setup --vm`")?;
    install(&busybox, &root, Path::new("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh")).context("cannot link /bin/sh")?;
    let mut libraries = BTreeSet::new();
    for (program, path) in [(profiler, "bin/profiler"), (workspace::release_binary(SPINNER), "bin/spinner")] {
        if program.is_file() {
            libraries.extend(shared_libraries(&program)?);
            install(&program, &root, Path::new(path))?;
        }
    }
    for library in libraries {
        let path = library.strip_prefix("/").unwrap_or(&library).to_path_buf();
        install(&library, &root, &path)?;
    }
    for (name, text) in [("init", INIT), ("smoke", SMOKE)] {
        let path = root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", path.display()))?;
    }
    let archive = folder.join(format!("initramfs-{version}.cpio"));
    Step::new("pack the initramfs", &busybox)
        .args(["sh", "-c", "busybox find . | busybox cpio -o -H newc > \"$1\"", "sh"])
        .arg(&archive)
        .directory(&root)
        .read()?;
    Ok(archive)
}

fn install(file: &Path, root: &Path, path: &Path) -> Result<()> {
    let destination = root.join(path);
    if let Some(folder) = destination.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::copy(file, &destination)
        .with_context(|| format!("cannot copy {} to {}", file.display(), destination.display()))?;
    Ok(())
}

/// The libraries a program is started with, the dynamic loader among them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    match Step::new("ask for shared libraries", "ldd").arg(program).env("LC_ALL", "C").read() {
        Ok(listing) => Ok(library_paths(&listing)),
        Err(error) if error.to_string().contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads ldd's lines: `libm.so.6 => /lib/libm.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, `linux-vdso.so.1 (0x…)`.
fn library_paths(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read_from_ldd() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(library_paths(listing), expected);
    }
}
