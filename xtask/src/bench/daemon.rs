//! `cargo xtask bench-daemon`: what `profiler daemon` costs at its default settings on a node of many containers, how long a scrape
//! takes and how large it is, and whether it grows while containers come and go.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::Table;

use super::beside::Beside;
use super::kernel_figures::{self, Held, Program, Statistics};
use super::{cold_memory, figures, growth, megabytes};
use crate::setup;
use crate::step::{Step, say};
use crate::workspace;

/// How long the daemon may take to answer for the first time.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is left out of the growth of a soak: caches fill.
const SETTLING: Duration = Duration::from_mins(5);

/// Between two looks at memory.
const LOOK: Duration = Duration::from_secs(15);

/// Scrapes of each format.
const SCRAPES: usize = 21;

/// What a look is taken with: memory goes up and down by some megabytes with each window.
const AROUND: Duration = Duration::from_mins(1);

/// What a Prometheus with native histograms asks for.
const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

/// Measures the daemon on a node of many containers.
#[derive(Args)]
pub struct BenchDaemon {
    /// Containers, each with thirty kinds of system call.
    #[arg(long, default_value_t = 200)]
    containers: u32,
    /// Seconds over which its cost is measured.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Minutes of churn, in which its memory is watched; 0 for none.
    #[arg(long, default_value_t = 0)]
    soak: u64,
    /// Containers that come and go each minute of the soak.
    #[arg(long, default_value_t = 200)]
    churn: u32,
    /// Use the programs in this folder as they are, instead of building them.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Further arguments for the daemon.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl BenchDaemon {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        if !setup::is_root()? {
            bail!("loading kernel programs needs root: run this as root");
        }
        let folder = if let Some(folder) = &self.programs {
            folder.clone()
        } else {
            Step::cargo("build the programs")
                .args(["build", "--release", "-p", "profiler", "-p", "examples", "--bin", "profiler", "--bin", "crowd"])
                .run()?;
            workspace::target().join("release")
        };
        let statistics = Statistics::on()?;
        let containers = crowd(&folder, self.containers, 0)?;
        let daemon = Daemon::start(&folder, &self.arguments)?;
        println!("\nA scrape\n{}", daemon.scrapes()?);
        println!("\nCost over {} s\n{}", self.seconds, daemon.cost(Duration::from_secs(self.seconds))?);
        drop(statistics);
        drop(containers);
        if self.soak > 0 {
            let _containers = crowd(&folder, self.containers, self.churn)?;
            println!(
                "\nMemory over {} min, {} containers a minute coming and going\n{}",
                self.soak,
                self.churn,
                daemon.soak(Duration::from_mins(self.soak))?
            );
        }
        Ok(())
    }
}

/// The median resident and history bytes of the looks in the minute before a moment of the soak.
fn usual(looks: &[(Duration, u64, u64)], at: Duration) -> (u64, u64) {
    let median = |of: fn(&(Duration, u64, u64)) -> u64| {
        let around = looks.iter().filter(|(when, ..)| *when <= at && *when + AROUND > at);
        let mut figures: Vec<u64> = around.map(of).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    (median(|look| look.1), median(|look| look.2))
}

/// Starts the containers; they are gone when the result is dropped.
fn crowd(folder: &Path, count: u32, churn: u32) -> Result<Beside> {
    let mut command = Command::new(folder.join("crowd"));
    command.arg("--cgroup2").arg(growth::cgroup2()?);
    Beside::ready(command.args(["--count", &count.to_string(), "--churn", &churn.to_string()]))
}

/// The daemon; ended when dropped.
struct Daemon {
    process: Child,
    address: SocketAddr,
    _log: BufReader<ChildStderr>,
}

/// What the operating system says of a process.
struct Usage {
    cpu_s: f64,
    programs: BTreeMap<u64, Program>,
}

impl Daemon {
    fn start(folder: &Path, arguments: &[String]) -> Result<Self> {
        let mut process = Command::new(folder.join("profiler"))
            .args(["daemon", "--web.listen-address", "127.0.0.1:0", "--log.level", "error"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start profiler in {}", folder.display()))?;
        let mut log = BufReader::new(process.stderr.take().context("a daemon without log")?);
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            if log.read_line(&mut line)? == 0 {
                bail!("the daemon ended at once: {said}");
            }
            if let Some((_, address)) = line.split_once("serving http://") {
                break address.trim().parse().context("the daemon tells no address")?;
            }
            said += &line;
        };
        let this = Self { process, address, _log: log };
        let began = Instant::now();
        while this.get("/readyz", "*/*")?.0 != 200 {
            if began.elapsed() > PATIENCE {
                bail!("the daemon never becomes ready");
            }
            sleep(Duration::from_millis(500));
        }
        Ok(this)
    }

    /// Status and body, which is compressed.
    fn get(&self, path: &str, accept: &str) -> Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.address)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("an answer without a status")?, bytes.split_off(end + 4)))
    }

    fn scrapes(&self) -> Result<Table> {
        // Two whole windows with every container in them.
        sleep(Duration::from_secs(25));
        let mut table = figures(["format", "median ms", "slowest ms", "gzipped KiB"]);
        for (name, accept) in [("protobuf", PROTOBUF), ("text", "text/plain")] {
            let mut times = Vec::new();
            let mut bytes = 0;
            for _ in 0..SCRAPES {
                let began = Instant::now();
                let (status, body) = self.get("/metrics", accept)?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
                bytes = body.len();
                if status != 200 {
                    bail!("a scrape is answered by {status}");
                }
                sleep(Duration::from_millis(200));
            }
            times.sort_by(f64::total_cmp);
            let slowest = times.last().copied().unwrap_or_default();
            table.add_row([
                name.to_owned(),
                format!("{:.1}", times[times.len() / 2]),
                format!("{slowest:.1}"),
                format!("{:.0}", bytes as f64 / 1024.0),
            ]);
        }
        Ok(table)
    }

    fn usage(&self) -> Result<Usage> {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let held = Held::by(self.process.id())?;
        let mut programs = kernel_figures::programs()?;
        programs.retain(|id, _| held.programs.contains(id));
        // A tick is 10 ms wherever /proc is read.
        Ok(Usage { cpu_s: (ticks(11) + ticks(12)) as f64 / 100.0, programs })
    }

    /// Memory in bytes: `VmRSS` now, `VmHWM` at most.
    fn memory(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path} has no {field}"))? * 1024)
    }

    fn cost(&self, length: Duration) -> Result<Table> {
        let before = self.usage()?;
        let began = Instant::now();
        sleep(length);
        let after = self.usage()?;
        let seconds = began.elapsed().as_secs_f64();
        let mut bpf = BTreeMap::new();
        for program in kernel_figures::growth(&before.programs, &after.programs) {
            let of = if program.name.starts_with("sys_") { "syscalls probe" } else { "all other probes" };
            *bpf.entry(of).or_insert(0.0) += program.time_ns as f64 / 1e9;
        }
        let maps: u64 = Held::by(self.process.id())?.maps.values().sum();
        let mut table = figures(["what", "figure", "unit"]);
        let share = |seconds_used: f64| format!("{:.2}", 100.0 * seconds_used / seconds);
        table.add_row(["daemon", &share(after.cpu_s - before.cpu_s), "% of a core"]);
        for (of, seconds_used) in &bpf {
            table.add_row([*of, &share(*seconds_used), "% of a core"]);
        }
        table.add_row(["resident now", &megabytes(self.memory("VmRSS")?), "MB"]);
        table.add_row(["resident at most", &megabytes(self.memory("VmHWM")?), "MB"]);
        table.add_row(["kernel maps", &megabytes(maps), "MB"]);
        table.add_row(["a line of cold memory", &format!("{:.0}", cold_memory::ns_a_line()), "ns"]);
        Ok(table)
    }

    fn soak(&self, length: Duration) -> Result<Table> {
        let mut table = figures([
            "minute",
            "resident MB",
            "history MB",
            "containers",
            "syscall rows",
            "waited-behind pairs",
            "descriptors",
        ]);
        let began = Instant::now();
        let (mut looks, mut minute) = (Vec::new(), 0);
        while began.elapsed() < length {
            sleep(LOOK);
            let text = String::from_utf8_lossy(&self.plain_metrics()?).into_owned();
            let figure =
                |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("?");
            // It fills by what happens, up to its own bound.
            let history = figure("profiler_history_bytes").parse::<u64>().context("the daemon tells no history")?;
            looks.push((began.elapsed(), self.memory("VmRSS")?, history));
            if began.elapsed().as_secs() / 60 >= minute {
                let entries = |map: &str| figure(&format!("profiler_map_entries{{map=\"{map}\"}}")).to_owned();
                let descriptors = fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count);
                let (resident, history) = usual(&looks, began.elapsed());
                let row = [
                    minute.to_string(),
                    megabytes(resident),
                    megabytes(history),
                    entries("CONTAINERS"),
                    entries("SYSCALLS"),
                    entries("WAITED_BEHIND"),
                    descriptors.to_string(),
                ];
                say(row.join("  "));
                table.add_row(row);
                minute += 1;
            }
        }
        if length > SETTLING {
            let (before, after) = (usual(&looks, SETTLING), usual(&looks, length));
            let grown = |before: u64, after: u64| format!("{:+.1}", (after as f64 - before as f64) / 1e6);
            table.add_row(["growth".to_owned(), grown(before.0, after.0), grown(before.1, after.1)]);
        }
        Ok(table)
    }

    fn plain_metrics(&self) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = Command::new("kill").arg(self.process.id().to_string()).status().and_then(|_| self.process.wait());
        if let Err(error) = ended {
            say(format!("the daemon did not end: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_looks_are_one_figure() {
        let look = |second, resident| (Duration::from_secs(second), resident, resident / 10);
        let looks = [look(15, 900), look(30, 10), look(45, 30), look(60, 20), look(75, 50)];
        assert_eq!(usual(&looks, Duration::from_secs(75)), (30, 3), "of 30, 45, 60 and 75");
        assert_eq!(usual(&looks, Duration::from_secs(20)), (900, 90));
        assert_eq!(usual(&[], Duration::from_secs(20)), (0, 0));
    }
}
