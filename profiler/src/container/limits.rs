//! What the kernel itself keeps about a container's cgroup: limit, pressure and accounting. Files in, figures out; used
//! for the report and as cross-checks of what the kernel programs counted.

use std::fs;
use std::io::Read;
use std::path::Path;

use rustc_hash::FxHashMap;

use super::cgroup::directory;
use super::hierarchy::{Hierarchy, Version};

/// Totals of `some` stalls since the cgroup began, in microseconds; `None` where pressure information is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PressureTotals {
    /// Waiting for a CPU.
    pub cpu_us: Option<u64>,
    /// Waiting for block I/O.
    pub io_us: Option<u64>,
    /// Waiting for memory.
    pub memory_us: Option<u64>,
}

/// The kernel's own accounting of a cgroup's CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuAccounting {
    /// CPU time in nanoseconds (v2: exact to a microsecond).
    pub usage_ns: Option<u64>,
    /// Periods in which the cgroup had something to run and a quota.
    pub periods: Option<u64>,
    /// Those of them in which it ran out of quota.
    pub throttled_periods: Option<u64>,
    /// Time during which it was out of quota: of the group per CPU, not thread-time.
    pub throttled_ns: Option<u64>,
}

/// CPU limits as they are now, each cgroup's read once: those of a node share most of the way up.
#[derive(Debug)]
pub struct CpuLimits<'a> {
    /// Where limits are kept; none where nobody keeps any.
    root: Option<&'a Path>,
    /// The limit of a directory there itself.
    read: fn(&Path) -> Option<f64>,
    known: FxHashMap<String, Option<f64>>,
}

impl<'a> CpuLimits<'a> {
    /// Nothing is read yet.
    pub fn new(hierarchy: &'a Hierarchy) -> Self {
        let v1 = hierarchy.v1_mount("cpu");
        let v2 = || (hierarchy.version == Version::V2).then_some(hierarchy.root.as_path());
        let read = if v1.is_some() { v1_limit } else { v2_limit };
        Self { root: v1.or_else(v2), read, known: FxHashMap::default() }
    }

    /// CPU limit in cores of the cgroup at `path`, the tightest of its own and those of the cgroups above.
    pub fn of(&mut self, path: &str) -> Option<f64> {
        let root = self.root?;
        let mut tightest = None;
        let mut unknown = Vec::new();
        for path in above(path) {
            if let Some(known) = self.known.get(path) {
                tightest = *known;
                break;
            }
            unknown.push(path);
        }
        for path in unknown.into_iter().rev() {
            let own = (self.read)(&directory(root, path));
            tightest = [tightest, own].into_iter().flatten().min_by(f64::total_cmp);
            self.known.insert(path.to_owned(), tightest);
        }
        tightest
    }
}

/// Totals of pressure stalls of the cgroup at `path`, where they are not known from `standing`. v1 has none.
pub fn pressure_totals(hierarchy: &Hierarchy, path: &str, standing: PressureTotals) -> PressureTotals {
    if hierarchy.version != Version::V2 {
        return PressureTotals::default();
    }
    let directory = directory(&hierarchy.root, path);
    PressureTotals {
        cpu_us: standing.cpu_us.or_else(|| read_total(&directory.join("cpu.pressure"))),
        io_us: standing.io_us.or_else(|| read_total(&directory.join("io.pressure"))),
        memory_us: standing.memory_us.or_else(|| read_total(&directory.join("memory.pressure"))),
    }
}

/// Totals of pressure stalls of the whole host. None of a cgroup's grows without the host's.
pub fn host_pressure_totals() -> PressureTotals {
    let total = |resource: &str| read_total(&Path::new("/proc/pressure").join(resource));
    PressureTotals { cpu_us: total("cpu"), io_us: total("io"), memory_us: total("memory") }
}

/// Asked of every container in every window: one read of what is wanted, which comes first.
fn read_total(file: &Path) -> Option<u64> {
    let mut start = [0; 128];
    let bytes = fs::File::open(file).and_then(|mut file| file.read(&mut start)).ok()?;
    some_total(std::str::from_utf8(&start[..bytes]).ok()?)
}

impl PressureTotals {
    /// Those of these totals that still hold: the host's have not grown between `before` and `now`.
    #[must_use]
    pub fn standing(self, before: Self, now: Self) -> Self {
        let held = |mine: Option<u64>, before: Option<u64>, now: Option<u64>| {
            mine.filter(|_| before.is_some() && before == now)
        };
        Self {
            cpu_us: held(self.cpu_us, before.cpu_us, now.cpu_us),
            io_us: held(self.io_us, before.io_us, now.io_us),
            memory_us: held(self.memory_us, before.memory_us, now.memory_us),
        }
    }
}

/// The kernel's accounting of the cgroup at `path`, from v2 or from the v1 controllers, whichever keeps it here.
pub fn cpu_accounting(hierarchy: &Hierarchy, path: &str) -> CpuAccounting {
    let read = |root: &Path, file: &str| fs::read_to_string(directory(root, path).join(file)).ok();
    let v2 = (hierarchy.version == Version::V2).then(|| read(&hierarchy.root, "cpu.stat")).flatten();
    let v1_usage = hierarchy.v1_mount("cpuacct").and_then(|root| read(root, "cpuacct.usage"));
    let v1_stat = hierarchy.v1_mount("cpu").and_then(|root| read(root, "cpu.stat"));
    accounting(v2.as_deref(), v1_usage.as_deref(), v1_stat.as_deref())
}

fn accounting(v2_stat: Option<&str>, v1_usage: Option<&str>, v1_stat: Option<&str>) -> CpuAccounting {
    let v2 = |key| v2_stat.and_then(|text| field(text, key));
    let v1 = |key| v1_stat.and_then(|text| field(text, key));
    let exact = v1_usage.and_then(|text| text.trim().parse().ok());
    CpuAccounting {
        usage_ns: exact.or_else(|| v2("usage_usec").map(|us| us * 1000)),
        periods: v1("nr_periods").or_else(|| v2("nr_periods")),
        throttled_periods: v1("nr_throttled").or_else(|| v2("nr_throttled")),
        throttled_ns: v1("throttled_time").or_else(|| v2("throttled_usec").map(|us| us * 1000)),
    }
}

/// `path` and every path above it.
fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        let cut = path.rfind('/')?;
        (path.len() > 1).then(|| if cut == 0 { "/" } else { &path[..cut] })
    })
}

fn v2_limit(directory: &Path) -> Option<f64> {
    parse_cpu_max(&fs::read_to_string(directory.join("cpu.max")).ok()?)
}

fn v1_limit(directory: &Path) -> Option<f64> {
    let quota = fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
    // No limit is -1.
    cores(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

/// `max 100000` or `30000 100000`.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cores(quota.parse().ok()?, period.parse().ok()?)
}

fn cores(quota_us: i64, period_us: i64) -> Option<f64> {
    (quota_us > 0 && period_us > 0).then(|| quota_us as f64 / period_us as f64)
}

/// The total of `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`.
fn some_total(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    #[test]
    fn cpu_max_is_read_in_cores() {
        assert_eq!(parse_cpu_max("30000 100000\n"), Some(0.3));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("30000 0\n"), None);
        assert_eq!(parse_cpu_max("nonsense"), None);
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("kubepods/pod");
        fs::create_dir_all(pod.join("container")).unwrap();
        fs::write(pod.join("cpu.max"), "50000 100000\n").unwrap();
        fs::write(pod.join("container/cpu.max"), "200000 100000\n").unwrap();
        fs::write(root.path().join("kubepods/cpu.max"), "max 100000\n").unwrap();
        let mounts = format!("31 23 0:38 / {} rw - cgroup2 cgroup2 rw\n", root.path().display());
        let hierarchy = Hierarchy::for_tests(&mounts);
        fs::create_dir_all(pod.join("tight")).unwrap();
        fs::write(pod.join("tight/cpu.max"), "20000 100000\n").unwrap();
        let mut limits = CpuLimits::new(&hierarchy);
        for _ in ["read", "known"] {
            assert_eq!(limits.of("/kubepods/pod/container"), Some(0.5));
            assert_eq!(limits.of("/kubepods/pod/tight"), Some(0.2));
            assert_eq!(limits.of("/kubepods"), None);
            assert_eq!(limits.of("/gone/away"), None);
        }
    }

    #[test]
    fn hybrid_hosts_keep_the_limit_in_the_v1_controller() {
        let root = tempfile::tempdir().unwrap();
        let cpu = root.path().join("cpu/docker/x");
        fs::create_dir_all(&cpu).unwrap();
        fs::create_dir_all(root.path().join("unified/docker/x")).unwrap();
        fs::write(cpu.join("cpu.cfs_quota_us"), "30000\n").unwrap();
        fs::write(cpu.join("cpu.cfs_period_us"), "100000\n").unwrap();
        fs::write(root.path().join("cpu/docker/cpu.cfs_quota_us"), "-1\n").unwrap();
        fs::write(root.path().join("cpu/docker/cpu.cfs_period_us"), "100000\n").unwrap();
        fs::write(cpu.join("cpu.stat"), "nr_periods 40\nnr_throttled 30\nthrottled_time 123456789\n").unwrap();
        fs::write(cpu.join("cpuacct.usage"), "987654321\n").unwrap();
        let unified = root.path().join("unified/docker/x");
        fs::write(unified.join("cpu.pressure"), "some avg10=0.00 avg60=0.00 avg300=0.00 total=42\nfull total=1\n")
            .unwrap();
        let base = root.path().display();
        let mounts = format!(
            "31 23 0:38 / {base}/unified rw - cgroup2 cgroup2 rw\n32 23 0:39 / {base}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        );
        let hierarchy = Hierarchy::for_tests(&mounts);
        assert_eq!(CpuLimits::new(&hierarchy).of("/docker/x"), Some(0.3));
        let accounting = cpu_accounting(&hierarchy, "/docker/x");
        assert_eq!(accounting.usage_ns, Some(987_654_321));
        assert_eq!(accounting.periods, Some(40));
        assert_eq!(accounting.throttled_periods, Some(30));
        assert_eq!(accounting.throttled_ns, Some(123_456_789));
        let pressure = pressure_totals(&hierarchy, "/docker/x", PressureTotals::default());
        assert_eq!(pressure, PressureTotals { cpu_us: Some(42), io_us: None, memory_us: None });
    }

    #[test]
    fn what_has_not_grown_for_the_whole_host_is_not_read_again() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("x")).unwrap();
        for (file, total) in [("cpu", 10), ("io", 20), ("memory", 30)] {
            let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\nfull total=1\n");
            fs::write(root.path().join(format!("x/{file}.pressure")), text).unwrap();
        }
        let hierarchy =
            Hierarchy::for_tests(&format!("31 23 0:38 / {} rw - cgroup2 cgroup2 rw\n", root.path().display()));
        let of = |cpu_us, io_us, memory_us| PressureTotals { cpu_us, io_us, memory_us };
        let mine = of(Some(1), Some(2), None);
        let standing = mine.standing(of(Some(100), Some(200), Some(300)), of(Some(101), Some(200), Some(300)));
        assert_eq!(standing, of(None, Some(2), None), "the CPU's has grown, and memory's was never read");
        assert_eq!(pressure_totals(&hierarchy, "/x", standing), of(Some(10), Some(2), Some(30)));
        let unknown = mine.standing(PressureTotals::default(), PressureTotals::default());
        assert_eq!(unknown, PressureTotals::default(), "the host tells nothing");
    }

    #[test]
    fn v2_accounting_is_turned_into_nanoseconds() {
        let stat = "usage_usec 1500\nuser_usec 1000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 9\n";
        let expected = CpuAccounting {
            usage_ns: Some(1_500_000),
            periods: Some(7),
            throttled_periods: Some(2),
            throttled_ns: Some(9_000),
        };
        assert_eq!(accounting(Some(stat), None, None), expected);
        assert_eq!(accounting(None, None, None), CpuAccounting::default());
    }

    #[test]
    fn paths_above_end_at_the_root() {
        assert_eq!(above("/a/b/c").collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(above("/").collect::<Vec<_>>(), ["/"]);
        assert_eq!(above("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn pressure_that_is_off_or_odd_is_none() {
        assert_eq!(some_total(""), None);
        assert_eq!(some_total("full avg10=0.00 total=3\n"), None);
        assert_eq!(some_total("some avg10=0.00 total=x\n"), None);
    }
}
