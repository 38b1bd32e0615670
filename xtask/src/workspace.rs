//! Where things lie: the checkout this program was built from, and the folders below it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the checkout.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Everything that is built, cargo's own output and ours. `CARGO_TARGET_DIR` is honoured, as cargo does.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => root().join(directory),
        _ => root().join("target"),
    }
}

/// A program that `cargo xtask build` leaves behind.
pub fn release_binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// Cargo's home, where `cargo install` puts programs and the registry's sources lie.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return Ok(PathBuf::from(home));
    }
    let home =
        env::var_os("HOME").context("neither CARGO_HOME nor HOME is set: cannot tell where cargo keeps crates")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// The first file called `name` on the `PATH` or among cargo's installed programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = cargo_home().map(|home| home.join("bin")).ok();
    env::split_paths(&path)
        .chain(installed)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
