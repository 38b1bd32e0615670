//! Who looks at the loads: `profiler`, empty programs on its hooks, and the tools it is held against.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kernel_figures::{self, Held, Program, Statistics};
use super::load::{Loads, Walls};
use crate::step::{Step, say};
use crate::workspace;

/// The contender that the others are compared with.
pub const ALL: &str = "profiler record";

/// Longer than anybody takes to load programs; bpftrace is the slowest.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tool and how it is started.
pub struct Contender {
    /// Its name in the tables.
    pub name: &'static str,
    command: Vec<String>,
    /// Whether it works by kernel programs; perf does not.
    programs: bool,
    /// How many times shorter the loads must be to end in time.
    divisor: u64,
}

/// What one contender costs.
pub struct Cost {
    /// The contender's name.
    pub name: &'static str,
    /// Wall time under it, without statistics.
    pub walls: Walls,
    /// Its programs under switches.
    pub pipe: Figures,
    /// Its programs under calls.
    pub calls: Figures,
    /// Its user side.
    pub agent: Agent,
    /// Memory of its maps.
    pub map_bytes: u64,
}

/// A contender's programs under one load.
pub struct Figures {
    /// Each of them.
    pub programs: Vec<Program>,
    /// Nanoseconds in all of them, an event of the load.
    pub ns_per_event: f64,
}

/// A contender's user side.
pub struct Agent {
    /// CPU time it took, start included.
    pub cpu_s: f64,
    /// The most memory it had resident.
    pub peak_rss_bytes: u64,
}

/// `profiler` in its variants, and empty programs on the same hooks.
pub fn ours() -> Vec<Contender> {
    vec![
        own("empty programs", &["bench-empty"]),
        own("  with a clock", &["bench-empty", "--clock"]),
        own(ALL, &RECORD),
        own("  --cpu", &[&RECORD[..], &["--cpu"]].concat()),
        own("  --offcpu", &[&RECORD[..], &["--offcpu"]].concat()),
        own("  --syscalls", &[&RECORD[..], &["--syscalls"]].concat()),
    ]
}

/// A recording that lasts until it is interrupted.
const RECORD: [&str; 3] = ["record", "--duration", "1h"];

/// `profiler` with these arguments; a recording goes to a file that nobody reads.
pub fn own(name: &'static str, arguments: &[&str]) -> Contender {
    let mut command = vec![workspace::release_binary("profiler").to_string_lossy().into_owned()];
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    if arguments.first() == Some(&"record") {
        command.extend(["--output".to_owned(), output().to_string_lossy().into_owned()]);
    }
    Contender { name, command, programs: true, divisor: 1 }
}

/// `profiler record` with these options, to a file of the caller's.
pub fn recording_to(path: &Path, options: &[&str]) -> Contender {
    let path = path.to_string_lossy();
    let program = workspace::release_binary("profiler");
    let output = ["--output", &*path];
    let words = RECORD.iter().chain(options).chain(&output);
    let command = std::iter::once(program.to_string_lossy().into_owned()).chain(words.map(|&word| word.to_owned()));
    Contender { name: ALL, command: command.collect(), programs: true, divisor: 1 }
}

/// A program of bpftrace.
pub fn bpftrace(name: &'static str, program: &str) -> Contender {
    let command = ["bpftrace", "-e", program].map(str::to_owned).to_vec();
    Contender { name, command, programs: true, divisor: 1 }
}

/// `profiler record` of everything, with more options.
pub fn recording(options: &[&str]) -> Contender {
    own(ALL, &[&RECORD[..], options].concat())
}

/// Where recordings of the bench go.
pub fn output() -> PathBuf {
    workspace::target().join("bench.json")
}

/// Tools that people use today.
pub fn theirs() -> Vec<Contender> {
    let tool = |name, programs, words: &[&str]| Contender {
        name,
        command: words.iter().map(|&word| word.to_owned()).collect(),
        programs,
        divisor: 1,
    };
    let perf_trace = tool("perf trace -s", false, &["perf", "trace", "-a", "-s", "-o", "/dev/null"]);
    let histogram = "tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; } \
                     tracepoint:raw_syscalls:sys_exit /@start[tid]/ { \
                     @ns[cgroup, args->id] = hist(nsecs - @start[tid]); delete(@start[tid]); }";
    vec![
        tool("offcputime", true, &["/usr/sbin/offcputime"]),
        tool("runqlat", true, &["/usr/sbin/runqlat"]),
        tool("syscount -L", true, &["/usr/sbin/syscount", "-L"]),
        bpftrace("bpftrace histogram", histogram),
        tool(
            "perf record -g",
            false,
            &["perf", "record", "-a", "-g", "-F", "99", "-e", "cpu-clock", "-o", "/dev/null"],
        ),
        Contender { divisor: 100, ..perf_trace },
    ]
}

impl Contender {
    /// Starts it, has `body` look at it, stops it.
    pub fn watch<T>(&self, body: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
        let running = Running::start(self)?;
        let seen = body(&running)?;
        running.stop()?;
        Ok(seen)
    }

    /// Starts it, runs the loads under it, stops it.
    pub fn measure(&self, loads: &Loads) -> Result<Cost> {
        say(format!("loads under {}", self.name.trim()));
        let loads = &Loads { divisor: self.divisor, ..*loads };
        let running = Running::start(self)?;
        let walls = loads.run()?;

        let statistics = Statistics::on()?;
        let pipe = running.figures(|| {
            let before = kernel_figures::context_switches()?;
            for _ in 0..loads.rounds {
                loads.pipe()?;
            }
            Ok(kernel_figures::context_switches()? - before)
        })?;
        let calls = running.figures(|| {
            for _ in 0..loads.rounds {
                loads.calls()?;
            }
            Ok(loads.calls_a_round() * u64::from(loads.rounds))
        })?;
        drop(statistics);

        let map_bytes = running.map_bytes()?;
        let agent = running.agent()?;
        running.stop()?;
        Ok(Cost { name: self.name, walls, pipe, calls, agent, map_bytes })
    }
}

/// A contender that runs.
pub struct Running {
    name: &'static str,
    child: Option<Child>,
}

impl Running {
    fn start(contender: &Contender) -> Result<Self> {
        let (program, arguments) = contender.command.split_first().context("a contender has a command")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let mut running = Self { name: contender.name, child: Some(child) };
        running.wait_until_attached(contender.programs)?;
        Ok(running)
    }

    /// Programs are there, and no more have come for a while.
    fn wait_until_attached(&mut self, programs: bool) -> Result<()> {
        let started = Instant::now();
        let mut last = 0;
        loop {
            thread::sleep(Duration::from_secs(1));
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.child = None;
                bail!("{} ended with {status} before it was measured", self.name.trim());
            }
            let now = self.programs()?.len();
            if !programs || (now > 0 && now == last) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!("{} loaded no kernel program within {} s", self.name.trim(), PATIENCE.as_secs());
            }
            last = now;
        }
    }

    fn programs(&self) -> Result<BTreeMap<u64, Program>> {
        let held = Held::by(self.id()?)?;
        let mut all = kernel_figures::programs()?;
        all.retain(|id, _| held.programs.contains(id));
        Ok(all)
    }

    /// What its programs did during `body`, which returns how many events it made.
    pub fn figures(&self, body: impl FnOnce() -> Result<u64>) -> Result<Figures> {
        let before = self.programs()?;
        let events = body()?;
        let programs = kernel_figures::growth(&before, &self.programs()?);
        let total: u64 = programs.iter().map(|program| program.time_ns).sum();
        Ok(Figures { programs, ns_per_event: total as f64 / events.max(1) as f64 })
    }

    fn id(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).context("the contender has ended")
    }

    /// Memory of its maps.
    pub fn map_bytes(&self) -> Result<u64> {
        Ok(Held::by(self.id()?)?.maps.values().sum())
    }

    /// Its user side so far.
    pub fn agent(&self) -> Result<Agent> {
        let id = self.id()?;
        let read = |file: &str| {
            let path = format!("/proc/{id}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        Ok(Agent {
            cpu_s: cpu_ticks(&stat).context("/proc/PID/stat has no times")? as f64 / 100.0,
            peak_rss_bytes: 1024 * peak_kilobytes(&status).context("/proc/PID/status has no VmHWM")?,
        })
    }

    /// Interrupts it, as a person would, and waits until it has gone.
    fn stop(mut self) -> Result<()> {
        let id = self.id()?.to_string();
        Step::new("interrupt it", "sh").args(["-c", "kill -INT \"$0\"", &id]).read()?;
        let started = Instant::now();
        while let Some(child) = &mut self.child {
            if child.try_wait().context("cannot wait for it")?.is_some() {
                self.child = None;
            } else if started.elapsed() > PATIENCE {
                bail!("{} did not end within {} s of being interrupted", self.name.trim(), PATIENCE.as_secs());
            } else {
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.kill().and_then(|()| child.wait().map(drop))
        {
            say(format!("cannot end {}: {error}", self.name.trim()));
        }
    }
}

/// utime + stime of /proc/PID/stat, whose second field may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn peak_kilobytes(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 1000 10";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[test]
    fn the_peak_is_read_from_status() {
        assert_eq!(peak_kilobytes("Name:\tx\nVmHWM:\t   1234 kB\n"), Some(1234));
    }
}
