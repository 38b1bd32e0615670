//! What a test with containers needs of the machine. Where it is missing the test says so and passes, unless `PROFILER_REQUIRE_KERNEL=1`
//! asks for it to fail.

use std::path::PathBuf;

use anyhow::bail;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy)]
pub enum Requirement {
    /// Effective user id 0.
    Root,
    /// A program in the search path (or in the system's own directories).
    Program(&'static str),
}

impl Requirement {
    /// Why it is not met, if it is not.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Program(name) => program(name).is_none().then(|| format!("{name} is not installed")),
        }
    }
}

/// Where a program is.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Whether all of `needed` is there. Where something is missing: prints `skipped: reason`, or fails if the environment
/// asks for that.
pub fn check_requirements(needed: &[Requirement]) -> anyhow::Result<bool> {
    let missing: Vec<String> = needed.iter().filter_map(|one| one.missing()).collect();
    if missing.is_empty() {
        return Ok(true);
    }
    if std::env::var_os("PROFILER_REQUIRE_KERNEL").is_some_and(|value| value == "1") {
        bail!("PROFILER_REQUIRE_KERNEL=1, but: {}", missing.join(", "));
    }
    eprintln!("skipped: {}", missing.join(", "));
    Ok(false)
}

/// Leaves a test (that returns `anyhow::Result<()>`) where one of the requirements is not met.
#[macro_export]
macro_rules! require {
    ($($requirement:expr),+ $(,)?) => {
        if !$crate::containers::check_requirements(&[$($requirement),+])? {
            return Ok(());
        }
    };
}
