//! May this test run here: kernel programs need root. Where it may not, the test says so and passes, unless
//! `PROFILER_REQUIRE_KERNEL=1` asks for the opposite.

use std::fs::File;

use anyhow::{Context, Result, bail};

/// The kernel for one test alone: measurements of several tests at once would be each other's noise.
#[derive(Debug)]
pub struct Kernel {
    _lock: File,
}

/// Waits for its turn at the kernel; `None` (and a word about why) where kernel programs cannot be loaded.
pub fn kernel() -> Result<Option<Kernel>> {
    if !rustix::process::geteuid().is_root() {
        return missing("needs root");
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return missing("needs a kernel with BTF (/sys/kernel/btf/vmlinux)");
    }
    let path = std::env::temp_dir().join("profiler-tests.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(Some(Kernel { _lock: lock }))
}

/// A requirement is not met: an error with `PROFILER_REQUIRE_KERNEL=1`, else a reason to skip.
pub fn missing<T>(reason: &str) -> Result<Option<T>> {
    if std::env::var_os("PROFILER_REQUIRE_KERNEL").is_some_and(|value| value == "1") {
        bail!("{reason}, and PROFILER_REQUIRE_KERNEL=1 forbids skipping");
    }
    println!("skipped: {reason}");
    Ok(None)
}
