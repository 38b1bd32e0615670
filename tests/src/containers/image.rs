//! The image that every runtime loads: static busybox, in the archive format that all of them read.
//!
//! Its default command does nothing for long, since it serves as the image of pod sandboxes too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use serde_json::json;

use super::requirement::program;
use super::{IMAGE, run};

/// Writes the image's archive below `directory` and returns its path.
pub fn build(directory: &Path) -> anyhow::Result<PathBuf> {
    let root = directory.join("rootfs");
    let bin = root.join("bin");
    for name in ["bin", "proc", "sys", "dev", "etc", "tmp", "opt"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = program("busybox").ok_or_else(|| anyhow!("busybox is not installed"))?;
    fs::copy(&busybox, bin.join("busybox")).context("cannot copy busybox")?;
    for applet in run(Command::new(&busybox).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", bin.join(applet))?;
    }
    let archive = directory.join("archive");
    fs::create_dir_all(&archive)?;
    tar(&root, &archive.join("layer.tar"))?;
    let digest = run(Command::new("sha256sum").arg(archive.join("layer.tar")))?;
    let digest = digest.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(archive.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(archive.join("manifest.json"), manifest.to_string())?;
    let file = directory.join("image.tar");
    tar(&archive, &file)?;
    Ok(file)
}

fn tar(directory: &Path, file: &Path) -> anyhow::Result<()> {
    let names =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()?;
    run(Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(file).args(names)).map(drop)
}
