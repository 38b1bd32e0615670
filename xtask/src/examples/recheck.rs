//! Runs the command that a target gives to look again. In: the target, while its program still runs. Out: whether the
//! report that the command leaves shows the same target.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::report::{Target, before_others};
use crate::step::say;

/// Runs it as it stands, in a shell that finds the profiler by its name.
pub fn shows_it_again(profiler: &Path, folder: &Path, target: &Target) -> Result<bool> {
    let place = folder.join("recheck");
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let link = place.join("profiler");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("cannot remove a link");
        }
        _ => {}
    }
    let profiler = fs::canonicalize(profiler).with_context(|| format!("{} is missing", profiler.display()))?;
    std::os::unix::fs::symlink(profiler, &link).with_context(|| format!("cannot make {}", link.display()))?;
    let path = format!("{}:{}", place.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = before_others();
    command.args(["sh", "-c", &target.recheck]).env("PATH", path).current_dir(&place);
    let output = command.output().context("cannot run a shell")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}: {}", target.recheck, output.status, said.trim_end());
    }
    let text = fs::read_to_string(place.join("recheck.txt")).context("the command left no recheck.txt")?;
    let shown = text.contains(&target.id);
    if !shown {
        let first = text.lines().find(|line| line.starts_with("1. ")).unwrap_or("no target").trim();
        say(format!("`{}` does not show {} again, but: {first}", target.recheck, target.id));
    }
    Ok(shown)
}
