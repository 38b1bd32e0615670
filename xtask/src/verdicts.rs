//! `cargo xtask verdicts`: how often `profiler diff` is right. Records a program that prices orders at a fixed rate, again and
//! again, as it is and with a planted regression, compares the recordings pair by pair, and prints how many verdicts were
//! right of those that the same program and the regression should get. Beside each difference stands that of the CPU time which
//! the kernel's own accounting gives the program: what a shared machine made dearer is so there as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::examples::language::{Builder, Runnable};
use crate::examples::report::{self, Recording};
use crate::examples::stage::{Actor, Limits, Precedence};
use crate::setup;
use crate::step::say;
use crate::workspace;

/// Orders a second, as in the program.
const RATE: f64 = 400.0;

/// Recordings of which one must succeed.
const ATTEMPTS: u32 = 3;

/// What must be right: of pairs of the same, and of pairs with a regression.
const WANTED: (f64, f64) = (0.95, 0.9);

/// Measures how often the verdict of `profiler diff` is right.
#[derive(Args)]
pub struct Verdicts {
    /// Pairs of recordings of the same program.
    #[arg(long, default_value_t = 20)]
    same: u32,
    /// Pairs of which the second has the regression.
    #[arg(long, default_value_t = 10)]
    regressions: u32,
    /// How much dearer an order is with the regression, in per cent.
    #[arg(long, default_value_t = 10)]
    extra: u32,
    /// How long each recording is, in seconds: `profiler record` takes 10 if not told.
    #[arg(long, short, default_value_t = 10.0)]
    duration: f64,
    /// Compare cores instead of CPU time an order: as if nobody had counted the orders.
    #[arg(long)]
    uncounted: bool,
    /// The profiler to score [default: target/release/profiler]
    #[arg(long, env = "PROFILER_BIN")]
    profiler: Option<PathBuf>,
}

/// A recording, and what an order cost meanwhile by the kernel's own accounting.
struct Taken {
    file: PathBuf,
    cpu_per_order_s: f64,
}

#[derive(Deserialize)]
struct Comparison {
    verdict: String,
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
struct Metric {
    a: f64,
    b: f64,
    noise: f64,
}

impl Verdicts {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        if !setup::is_root()? {
            bail!("the programs run in cgroups of their own, and kernel programs are loaded: run this as root");
        }
        let profiler = self.profiler.clone().unwrap_or_else(|| workspace::release_binary("profiler"));
        ensure!(profiler.is_file(), "{} is missing: run `cargo xtask build`", profiler.display());
        let source = workspace::root().join("examples/regression/main.c");
        let program = Builder::new(false)?.build("regression", &source)?;
        let folder = workspace::target().join("verdicts");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let _precedence = Precedence::take()?;
        let record =
            |name: String, extra: u32| self.record(&profiler, &program, extra, folder.join(format!("{name}.profile")));
        let mut wrong = (0, 0);
        let mut before = record("same-0".into(), 0)?;
        for at in 0..self.same {
            let after = record(format!("same-{}", at + 1), 0)?;
            wrong.0 += u32::from(self.compare(&profiler, &before, &after)? != "no_change");
            // Regressions are among the others, so that all see the same machine.
            if at < self.regressions {
                let dearer = record(format!("dearer-{at}"), self.extra)?;
                wrong.1 += u32::from(self.compare(&profiler, &after, &dearer)? != "worse");
            }
            before = after;
        }
        let regressions = self.regressions.min(self.same);
        let right = (self.same - wrong.0, regressions - wrong.1);
        println!("no change of the same program: {} of {}", right.0, self.same);
        println!("{} % more found: {} of {regressions}", self.extra, right.1);
        let share = |right: u32, all: u32| f64::from(right) / f64::from(all.max(1));
        let met = share(right.0, self.same) >= WANTED.0 && share(right.1, regressions) >= WANTED.1;
        ensure!(met, "too many verdicts are wrong: wanted are {:.0} % and {:.0} %", WANTED.0 * 100.0, WANTED.1 * 100.0);
        Ok(())
    }

    /// Records it; again where a busy machine let the profiler begin when the program had ended.
    fn record(&self, profiler: &Path, program: &Runnable, extra: u32, file: PathBuf) -> Result<Taken> {
        for _ in 0..ATTEMPTS {
            if let Some(cpu_per_order_s) = self.attempt(profiler, program, extra, &file)? {
                return Ok(Taken { file, cpu_per_order_s });
            }
        }
        bail!("{} holds nothing of the program after {ATTEMPTS} attempts: the machine is too busy", file.display())
    }

    /// CPU seconds an order while it was recorded; nothing if not all of the recording is of the program.
    fn attempt(&self, profiler: &Path, program: &Runnable, extra: u32, file: &Path) -> Result<Option<f64>> {
        let seconds = self.duration + 4.0;
        let arguments = ["--seconds", &seconds.to_string(), "--extra", &extra.to_string()].map(str::to_owned);
        let actor = Actor::start("regression", program, &arguments, None, Limits::default())?;
        thread::sleep(Duration::from_millis(300));
        let duration = format!("{}ms", (self.duration * 1000.0).round());
        let (since, spent_s) = (Instant::now(), actor.cpu_s()?);
        Recording::start(profiler, &[actor.container()], &duration, file)?.finish()?;
        let cpu_per_order_s = (actor.cpu_s()? - spent_s) / (since.elapsed().as_secs_f64() * RATE);
        let recorded = report::read(profiler, file)?.containers.iter().any(|entry| entry.name == actor.container());
        Ok((recorded && actor.runs()?).then_some(cpu_per_order_s))
    }

    fn compare(&self, profiler: &Path, before: &Taken, after: &Taken) -> Result<String> {
        let (a, b) = (&before.file, &after.file);
        let out = a.with_extension("json");
        let mut command = Command::new(profiler);
        command.arg("diff").args([a, b]).arg("-o").arg(&out);
        if !self.uncounted {
            let orders = |file: &Path| anyhow::Ok((report::read(profiler, file)?.window.duration_s * RATE).to_string());
            command.args(["--work-a", &orders(a)?, "--work-b", &orders(b)?, "--unit", "orders"]);
        }
        let output = command.output()?;
        if !output.status.success() {
            bail!("diff ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        }
        let text = fs::read(&out).with_context(|| format!("cannot read {}", out.display()))?;
        let compared: Comparison =
            serde_json::from_slice(&text).context("the comparison is not the JSON it should be")?;
        let first = compared.metrics.first().context("a comparison without figures")?;
        say(format!(
            "{}: {:+.1} % ({:+.1} % by the kernel's accounting), noise {:.1} %: {}",
            b.file_stem().unwrap_or_default().to_string_lossy(),
            100.0 * (first.b / first.a - 1.0),
            100.0 * (after.cpu_per_order_s / before.cpu_per_order_s - 1.0),
            100.0 * first.noise,
            compared.verdict
        ));
        Ok(compared.verdict)
    }
}
