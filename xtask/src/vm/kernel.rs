//! Debian's kernels: fetched as packages and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::setup;
use crate::step::Step;
use crate::workspace;

/// The kernel image of `version`, from `target/vm` or from the archive.
pub fn fetch(version: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("vm").join(format!("kernel-{version}"));
    if let Some(image) = image_in(&folder) {
        return Ok(image);
    }
    let meta = match version {
        "6.1" => "linux-image-cloud-amd64".to_owned(),
        newer => format!("linux-image-{newer}-cloud-amd64"),
    };
    // Older lists name packages that the archive no longer has.
    if !setup::has_candidate(&meta) || fetch_package(&meta, version, &folder).is_err() {
        setup::update()?;
        fetch_package(&meta, version, &folder)?;
    }
    image_in(&folder).with_context(|| format!("{meta} holds no /boot/vmlinuz"))
}

fn fetch_package(meta: &str, version: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let depends = Step::new("ask apt", "apt-cache").args(["depends", "--important", meta]).env("LC_ALL", "C").read()?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).with_context(|| {
        format!("{meta} depends on no kernel; is Debian 12 (with its security archive) among the sources?")
    })?;
    Step::new(format!("fetch {package} (Linux {version})"), "apt-get")
        // The download sandbox is a user who may not write here.
        .args(["-o", "APT::Sandbox::User=root", "-qq", "download", package])
        .directory(folder)
        .run()?;
    unpack_all(folder)?;
    // Modules are not used: everything the smoke needs is built in.
    let modules = folder.join("lib");
    if modules.is_dir() {
        fs::remove_dir_all(&modules).with_context(|| format!("cannot remove {}", modules.display()))?;
    }
    Ok(())
}

/// Unpacks the packages in `folder` there, and removes them.
pub(super) fn unpack_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            Step::new(format!("unpack {}", archive.display()), "dpkg").arg("-x").arg(&archive).arg(folder).run()?;
            fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        }
    }
    Ok(())
}

/// The kernel image among a package's files, old and new: `boot/vmlinuz-VERSION`, `usr/lib/modules/VERSION/vmlinuz`.
pub(super) fn image_in(folder: &Path) -> Option<PathBuf> {
    let entries =
        |path: &str| fs::read_dir(folder.join(path)).into_iter().flatten().flatten().map(|entry| entry.path());
    let in_boot = entries("boot")
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")));
    in_boot.or_else(|| entries("usr/lib/modules").map(|modules| modules.join("vmlinuz")).find(|path| path.is_file()))
}
