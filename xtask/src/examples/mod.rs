//! `cargo xtask examples`: runs the planted suite and prints the score. Each program runs in a container of its own while
//! the profiler records it, then twice without the profiler, as it is and with its problem fixed; the report is held against
//! the truth beside the program.

#[path = "../../../tests/src/cgroup.rs"]
#[expect(dead_code, reason = "the tests of the whole program use the rest")]
mod cgroup;
mod judge;
pub mod language;
mod recheck;
pub mod report;
mod score;
pub mod stage;
mod truth;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::setup;
use crate::step::say;
use crate::workspace;
use judge::Verdict;
use language::{Builder, Runnable};
use report::Recording;
use score::{Run, Score};
use stage::{Actor, Figures, Limits, Precedence};
use truth::{Companion, Gain, Program};

/// Seconds that a program works longer than it is recorded: the profiler takes a while to attach.
const MARGIN: f64 = 5.0;

/// Recordings of which one must succeed.
const ATTEMPTS: u32 = 3;

/// What else runs while a program is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// Nothing.
    Alone,
    /// Another program of the suite, recorded and judged as well.
    Pairs,
    /// A batch job that uses one CPU.
    Noisy,
}

/// Runs the planted suite: does the profiler find what was planted, and nothing else?
#[derive(Args)]
pub struct Examples {
    /// Only programs whose name contains this, or whose kind is this (`healthy` for those without a problem).
    filters: Vec<String>,
    /// How often each program runs.
    #[arg(long, short, default_value_t = 1)]
    repetitions: u32,
    /// How long each recording is, in seconds.
    #[arg(long, short, default_value_t = 8.0)]
    duration: f64,
    /// What else runs meanwhile; may be repeated.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["alone"])]
    scenes: Vec<Scene>,
    /// Leave out the runs with the problem fixed.
    #[arg(long)]
    no_fix: bool,
    /// Run the recheck command of each first target while the program still runs: it must show the target again.
    #[arg(long)]
    recheck: bool,
    /// The profiler to score [default: target/release/profiler]
    #[arg(long, env = "PROFILER_BIN")]
    profiler: Option<PathBuf>,
    /// Print the programs and what the profiler must say, run nothing.
    #[arg(long)]
    list: bool,
}

impl Examples {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let programs = truth::programs(&self.filters)?;
        if self.list {
            for Program { name, truth, .. } in &programs {
                println!("{:<20} {:<18} {}", name, truth.kind.as_deref().unwrap_or("nothing"), truth.title);
            }
            return Ok(());
        }
        if !setup::is_root()? {
            bail!("the suite makes cgroups and loads kernel programs: run this as root");
        }
        let profiler = self.profiler.clone().unwrap_or_else(|| workspace::release_binary("profiler"));
        ensure!(profiler.is_file(), "{} is missing: run `cargo xtask build`", profiler.display());
        ensure!(self.duration >= 1.0, "a recording shorter than a second says little: give --duration 1 or more");
        let suite = Suite::build(self, &programs, profiler)?;
        let _precedence = Precedence::take()?;
        let mut runs = Vec::new();
        for _ in 0..self.repetitions {
            for scene in &self.scenes {
                runs.extend(suite.perform(*scene)?);
            }
        }
        let score = Score::new(runs);
        score.print();
        let unmet = score.unmet();
        ensure!(unmet.is_empty(), "{} criteria are not met: {}", unmet.len(), unmet.join("; "));
        Ok(())
    }
}

/// A program that is built.
struct Built<'a> {
    program: &'a Program,
    runnable: Runnable,
    neighbour: Option<Runnable>,
    peer: Option<Runnable>,
}

struct Suite<'a> {
    built: Vec<Built<'a>>,
    noise: Runnable,
    profiler: PathBuf,
    recordings: PathBuf,
    duration: f64,
    with_fix: bool,
    with_recheck: bool,
}

impl<'a> Suite<'a> {
    fn build(options: &Examples, programs: &'a [Program], profiler: PathBuf) -> Result<Self> {
        let rust = programs.iter().any(|program| program.folder.join("main.rs").is_file());
        let builder = Builder::new(rust)?;
        let built = programs.iter().map(|program| {
            let companion = |companion: Option<&Companion>| {
                companion
                    .map(|companion| builder.build(&name(companion), &program.folder.join(&companion.source)))
                    .transpose()
            };
            Ok(Built {
                program,
                runnable: builder.program(program)?,
                neighbour: companion(program.truth.neighbour.as_ref())?,
                peer: companion(program.truth.peer.as_ref())?,
            })
        });
        let built = built.collect::<Result<Vec<_>>>()?;
        let noise = workspace::root().join("examples/planted/support/transcoder/main.c");
        let noise = builder.build("transcoder", &noise)?;
        let recordings = workspace::target().join("planted/recordings");
        fs::create_dir_all(&recordings).with_context(|| format!("cannot create {}", recordings.display()))?;
        Ok(Self {
            built,
            noise,
            profiler,
            recordings,
            duration: options.duration,
            with_fix: !options.no_fix,
            with_recheck: options.recheck,
        })
    }

    /// Runs every program once in a scene.
    fn perform(&self, scene: Scene) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        match scene {
            Scene::Alone => {
                for built in &self.built {
                    runs.extend(self.together(&[built], "nobody")?);
                }
            }
            Scene::Pairs => {
                // Far apart in the list, so that kinds differ.
                let half = self.built.len().div_ceil(2);
                for (left, right) in self.built.iter().zip(self.built.iter().skip(half)) {
                    runs.extend(self.together(&[left, right], "another")?);
                }
            }
            Scene::Noisy => {
                let seconds = (self.duration + MARGIN) * 2.0;
                for built in &self.built {
                    let arguments = arguments(seconds, &["--threads".into(), "1".into()]);
                    let noise = Actor::start("transcoder", &self.noise, &arguments, None, Limits::default())?;
                    runs.extend(self.together(&[built], "batch job")?);
                    drop(noise);
                }
            }
        }
        Ok(runs)
    }

    /// Runs programs at once, records and judges them, then runs each with its problem fixed.
    fn together(&self, cast: &[&Built<'_>], beside: &'static str) -> Result<Vec<Run>> {
        let names: Vec<&str> = cast.iter().map(|built| built.program.name.as_str()).collect();
        say(format!("{} beside {beside}", names.join(" and ")));
        for _ in 0..ATTEMPTS {
            if let Some(runs) = self.attempt(cast, &names, beside)? {
                return Ok(runs);
            }
            say("the profiler attached too late on a busy machine: once more");
        }
        bail!("{} is not in its recording after {ATTEMPTS} attempts: the machine is too busy", names.join(" or "))
    }

    /// None where the profiler attached when a program had ended.
    fn attempt(&self, cast: &[&Built<'_>], names: &[&str], beside: &'static str) -> Result<Option<Vec<Run>>> {
        let rechecks = if self.with_recheck { cast.len() as f64 } else { 0.0 };
        let seconds = (self.duration + MARGIN) * (1.0 + rechecks);
        let acts = cast.iter().map(|built| Act::start(built, seconds, Version::Planted));
        let acts = acts.collect::<Result<Vec<_>>>()?;
        thread::sleep(Duration::from_millis(500));
        let file = self.recordings.join(format!("{}.profile", names.join("+")));
        let containers: Vec<&str> = acts.iter().map(|act| act.actor.container()).collect();
        let duration = format!("{}ms", (self.duration * 1000.0).round());
        Recording::start(&self.profiler, &containers, &duration, &file)?.finish()?;
        let report = report::read(&self.profiler, &file)?;
        let mut verdicts = Vec::new();
        for (built, act) in cast.iter().zip(&acts) {
            let truth = &built.program.truth;
            let neighbour = act.neighbour.as_ref().map(Actor::container);
            if !report.containers.iter().any(|entry| entry.name == act.actor.container()) {
                return Ok(None);
            }
            let mut verdict = judge::judge(truth, act.actor.container(), neighbour, &report);
            if let Some(target) = verdict.target.as_ref().filter(|_| self.with_recheck) {
                verdict.recheck_shows_it = Some(recheck::shows_it_again(&self.profiler, &self.recordings, target)?);
            }
            verdicts.push(verdict);
        }
        let mut runs = Vec::new();
        for ((built, act), mut verdict) in cast.iter().zip(acts).zip(verdicts) {
            let truth = &built.program.truth;
            act.finish(&built.program.name)?;
            if let Some(gain) = truth.gain.filter(|_| self.with_fix) {
                verdict.realised = self.gain_of_fix(built, gain)?;
            }
            tell(&built.program.name, &verdict);
            runs.push(Run { name: built.program.name.clone(), kind: truth.kind.clone(), scene: beside, verdict });
        }
        Ok(Some(runs))
    }

    /// Both versions without a profiler beside them, whose own cost a fix would seem to save.
    fn gain_of_fix(&self, built: &Built<'_>, gain: Gain) -> Result<Option<f64>> {
        let measure = |version| {
            let act = Act::start(built, (self.duration / 2.0).max(3.0), version)?;
            act.finish(&built.program.name)
        };
        Ok(judge::realised(gain, measure(Version::Planted)?, measure(Version::Fixed)?))
    }
}

fn tell(name: &str, verdict: &Verdict) {
    let first = verdict.first.as_deref().unwrap_or("nothing");
    let blamed = verdict.blamed.as_deref().unwrap_or("nobody");
    let right = if verdict.kind_is_right { "right" } else { "WRONG" };
    say(format!("{name}: {first} (blames {blamed}): {right}"));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Planted,
    Fixed,
}

/// A program and its companions, running.
struct Act {
    actor: Actor,
    neighbour: Option<Actor>,
    // Ends after the program that asks it.
    _peer: Option<Actor>,
}

impl Act {
    fn start(built: &Built<'_>, seconds: f64, version: Version) -> Result<Self> {
        let Program { name, truth, .. } = built.program;
        let is_fixed = version == Version::Fixed;
        let peer = built.peer.as_ref().zip(truth.peer.as_ref());
        let peer = peer.map(|(runnable, peer)| companion(runnable, peer, None, seconds)).transpose()?;
        let lighter = truth.fix.neighbour.filter(|_| is_fixed).map(|weight| weight.weight);
        let neighbour = built.neighbour.as_ref().zip(truth.neighbour.as_ref());
        let neighbour = neighbour.map(|(runnable, other)| companion(runnable, other, lighter, seconds)).transpose()?;
        let mut arguments = arguments(seconds, &truth.arguments);
        if is_fixed {
            arguments.push("--fixed".into());
        }
        let cpus = truth.fix.cpus.filter(|_| is_fixed).or(truth.cpus);
        let limits = Limits { cpus, weight: None };
        let actor = Actor::start(name, &built.runnable, &arguments, truth.cpu_list.as_deref(), limits)?;
        Ok(Self { actor, neighbour, _peer: peer })
    }

    fn finish(self, name: &str) -> Result<Figures> {
        self.actor.finish(name)
    }
}

fn companion(runnable: &Runnable, companion: &Companion, weight: Option<u64>, seconds: f64) -> Result<Actor> {
    let limits = Limits { cpus: None, weight: weight.or(companion.weight) };
    // It is ended with the act; until then it must not run out of time.
    Actor::start(&name(companion), runnable, &arguments(seconds * 2.0 + 30.0, &companion.arguments), None, limits)
}

fn arguments(seconds: f64, others: &[String]) -> Vec<String> {
    ["--seconds".to_owned(), seconds.to_string()].into_iter().chain(others.iter().cloned()).collect()
}

/// The folder of a companion's source.
fn name(companion: &Companion) -> String {
    let folder = companion.source.parent().and_then(Path::file_name);
    folder.map_or_else(|| "companion".into(), |name| name.to_string_lossy().into_owned())
}
