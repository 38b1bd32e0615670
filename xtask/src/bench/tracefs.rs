//! libbpf-tools, bpftrace and perf look for tracefs; `profiler` does not need it.

use std::path::Path;

use anyhow::Result;

use crate::step::{Step, say};

const FOLDER: &str = "/sys/kernel/tracing";

/// tracefs, mounted at least as long as this lives.
pub struct Mounted {
    by_us: bool,
}

impl Mounted {
    /// Mounts it unless somebody has.
    pub fn ensure() -> Result<Self> {
        if Path::new(FOLDER).join("events").is_dir() {
            return Ok(Self { by_us: false });
        }
        Step::new("mount tracefs for the other tools", "mount").args(["-t", "tracefs", "none", FOLDER]).run()?;
        Ok(Self { by_us: true })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.by_us
            && let Err(error) = Step::new("unmount tracefs", "umount").arg(FOLDER).read()
        {
            say(format!("{error:#}"));
        }
    }
}
