//! A container without a runtime: a cgroup at a path like Docker's, on cgroup2 and, where the CPU controllers are in v1
//! hierarchies, there too. No runtime knows its id, so its name is the id's first twelve digits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

const PERIOD_US: u64 = 100_000;

/// A cgroup that looks like a container. Removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    id: String,
    directories: Vec<PathBuf>,
}

struct Hierarchies {
    unified: PathBuf,
    /// The v1 `cpu` and `cpuacct` hierarchies, if the controllers are there.
    v1: Vec<PathBuf>,
}

fn hierarchies() -> Result<Hierarchies> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mut unified = None;
    let mut v1 = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(path), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let has_cpu = options.split(',').any(|option| option == "cpu" || option == "cpuacct");
        match kind {
            "cgroup2" if unified.is_none() => unified = Some(PathBuf::from(path)),
            "cgroup" if has_cpu => v1.push(PathBuf::from(path)),
            _ => {}
        }
    }
    Ok(Hierarchies { unified: unified.context("no cgroup2 is mounted")?, v1 })
}

/// 64 hexadecimal digits that no other test of this host uses now.
fn unique_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    // An odd multiplier spreads the digits, so that the first twelve differ too.
    let spread = now.wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{spread:016x}{now:016x}{:032x}", std::process::id())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {text:?} to {}", file.display()))
}

impl Cgroup {
    /// A cgroup without a CPU limit.
    pub fn new() -> Result<Self> {
        let found = hierarchies()?;
        let id = unique_id();
        let mut cgroup = Self { id, directories: Vec::new() };
        for root in std::iter::once(&found.unified).chain(&found.v1) {
            let directory = root.join("docker").join(&cgroup.id);
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
            cgroup.directories.push(directory);
        }
        Ok(cgroup)
    }

    /// A cgroup limited to so many cores.
    pub fn with_quota(cores: f64) -> Result<Self> {
        let found = hierarchies()?;
        let cgroup = Self::new()?;
        let quota_us = (cores * PERIOD_US as f64) as u64;
        let mut limited = false;
        for directory in &cgroup.directories[1..] {
            if directory.join("cpu.cfs_quota_us").exists() {
                write(&directory.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&directory.join("cpu.cfs_quota_us"), &quota_us.to_string())?;
                limited = true;
            }
        }
        if !limited {
            write(&found.unified.join("cgroup.subtree_control"), "+cpu")?;
            write(&found.unified.join("docker/cgroup.subtree_control"), "+cpu")?;
            write(&cgroup.directories[0].join("cpu.max"), &format!("{quota_us} {PERIOD_US}"))?;
        }
        Ok(cgroup)
    }

    /// Sets its share of the CPU beside its siblings; 1024 is what everybody has.
    pub fn set_weight(&self, shares: u64) -> Result<()> {
        self.weigh(|directory| Some(directory), shares)
    }

    /// Sets the share of all containers together beside what else runs on this host.
    pub fn set_weight_of_all(&self, shares: u64) -> Result<()> {
        self.weigh(Path::parent, shares)
    }

    fn weigh(&self, of: impl Fn(&Path) -> Option<&Path>, shares: u64) -> Result<()> {
        for directory in self.directories.iter().filter_map(|directory| of(directory)) {
            if directory.join("cpu.shares").exists() {
                return write(&directory.join("cpu.shares"), &shares.to_string());
            }
            if directory.join("cpu.weight").exists() {
                return write(&directory.join("cpu.weight"), &(shares * 100 / 1024).clamp(1, 10_000).to_string());
            }
        }
        bail!("{}: no CPU controller has a weight here", self.name())
    }

    /// The name that the profiler shows for it.
    pub fn name(&self) -> &str {
        &self.id[..12]
    }

    /// Its directory on cgroup2.
    pub fn unified(&self) -> &Path {
        // The first directory is made there.
        self.directories.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A command that runs in this cgroup from its first instruction on.
    pub fn command(&self, program: &Path) -> Command {
        const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@""#;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ENTER, "enter"]);
        command.args(self.directories.iter().map(|directory| directory.join("cgroup.procs")));
        command.arg("--").arg(program);
        command
    }

    /// CPU time of the whole cgroup by the kernel's own accounting, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        for directory in &self.directories {
            if let Ok(usage) = fs::read_to_string(directory.join("cpuacct.usage")) {
                return usage.trim().parse().with_context(|| format!("cpuacct.usage is {usage:?}"));
            }
        }
        let stat = fs::read_to_string(self.directories[0].join("cpu.stat")).context("cannot read cpu.stat")?;
        match stat.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
            Some(usage_us) => Ok(usage_us.parse::<u64>().context("usage_usec is no number")? * 1000),
            None => bail!("cpu.stat has no usage_usec"),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        for directory in &self.directories {
            // A process that was just reaped may still be leaving.
            while fs::remove_dir(directory).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
