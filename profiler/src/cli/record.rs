//! `profiler record`: measures this host, some containers, some processes, or one command.

use std::{
    ffi::OsString,
    io::{IsTerminal, stderr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Status, WrongUsage,
    containers::ContainerSources,
    interruption::{Interruptions, ONE_REQUEST},
};
use crate::{
    collect::{CollectOptions, Collection, CommandError, Haste, HeldCommand, Outcome, displayed},
    container,
    output::{
        self, Format, Kind, Lines, Threads, WriteOptions,
        destination::{self, Access},
    },
    profile::Profile,
    quantity::parse_duration,
};

/// Time between two looks into the rings.
const POLL: Duration = Duration::from_millis(50);

/// Time between two looks at a command that is to end.
const WAIT: Duration = Duration::from_millis(10);

/// How long a command is waited for that was sent a signal: one that heeds none must not hold up whoever asked for the end.
const COMMAND_GRACE: Duration = Duration::from_secs(8);

/// Highest sampling frequency: beyond it the samples themselves are most of what is measured.
const MOST_HZ: u32 = 10_000;

/// Exit statuses that `env` and `nohup` use as well.
const RECORDING_FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// `profiler record`
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// How long to record: 300ms, 10s, 5m, 1h; a command that runs longer goes on [default: 10s, or as long as the command runs]
    #[arg(short, long, env = "PROFILER_DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// On-CPU samples a second on each CPU
    #[arg(short = 'F', long, env = "PROFILER_FREQUENCY", default_value_t = 99,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_HZ)))]
    frequency: u32,
    /// Where to write; the extension picks the format: .profile, .svg, .folded, .pb.gz, .json, .speedscope.json, .txt, .md
    #[arg(short, long, env = "PROFILER_OUTPUT", default_value = "recording.profile")]
    output: PathBuf,
    /// Sample on-CPU stacks
    #[arg(long, env = "PROFILER_CPU")]
    cpu: bool,
    /// Sample off-CPU stacks
    #[arg(long, env = "PROFILER_OFFCPU")]
    offcpu: bool,
    /// Count syscalls: latency, errors, bytes
    #[arg(long, env = "PROFILER_SYSCALLS")]
    syscalls: bool,
    /// Only containers with this name, id prefix or glob; may be repeated
    #[arg(long, env = "PROFILER_CONTAINER", value_name = "PATTERN", value_delimiter = ',')]
    container: Vec<String>,
    /// Only containers of pods with this name or glob; may be repeated
    #[arg(long, env = "PROFILER_POD", value_name = "PATTERN", value_delimiter = ',')]
    pod: Vec<String>,
    /// Only containers of this Kubernetes namespace or glob; may be repeated
    #[arg(long, env = "PROFILER_NAMESPACE", value_name = "PATTERN", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Only this process, or (Linux 6.9 and newer) thread, and the children it will have; may be repeated
    #[arg(short, long, env = "PROFILER_PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    /// Which stacks .svg and .folded hold [default: on-CPU where recorded, else off-CPU]
    #[arg(long, env = "PROFILER_KIND")]
    kind: Option<Kind>,
    /// Show threads' names below their process
    #[arg(long, env = "PROFILER_THREADS")]
    threads: bool,
    /// Look up file, line and inlined functions (takes more memory)
    #[arg(long, env = "PROFILER_LINES")]
    lines: bool,
    /// Off-CPU gaps shorter than this are sampled in proportion to their length; longer ones are all kept
    #[arg(long, env = "PROFILER_OFFCPU_THRESHOLD", default_value = "1ms", value_parser = parse_threshold)]
    offcpu_threshold: Duration,
    /// Name of this node in the output [default: the host's name]
    #[arg(long, env = "PROFILER_NODE")]
    node: Option<String>,
    /// Log what the kernel programs do (debugging)
    #[arg(long, env = "PROFILER_KERNEL_LOG")]
    kernel_log: bool,
    /// Make kernel maps so small that losses occur (testing)
    #[arg(long, env = "PROFILER_TINY_MAPS", hide = true, value_parser = clap::builder::FalseyValueParser::new(),
          num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    tiny_maps: bool,
    #[command(flatten)]
    sources: ContainerSources,
    /// Profile this command and its children until it ends
    ///
    /// The exit status is the command's. A first signal (Ctrl-C, SIGTERM, SIGHUP, SIGQUIT) ends the recording and reaches the
    /// command as well; what was captured is written, and the command is waited for eight seconds, with a SIGTERM after four. A
    /// second kills it and what descends from it.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Args {
    /// Whether a command is to be recorded.
    pub(super) fn has_command(&self) -> bool {
        !self.command.is_empty()
    }
}

/// Records and writes.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    // Everything that can be refused is refused before anything is measured, and before there is a second thread.
    let format = Format::from_path(&args.output).map_err(|error| WrongUsage(error.to_string()))?;
    let of_command = !args.command.is_empty();
    match destination::check(&args.output).map_err(Into::into).and_then(|()| record(args, format)) {
        Err(error) if of_command => match error.downcast_ref::<CommandError>() {
            Some(CommandError::NotFound { .. }) => Ok(failed_with(&error, NOT_FOUND)),
            Some(CommandError::NotExecutable { .. }) => Ok(failed_with(&error, NOT_EXECUTABLE)),
            _ => Ok(failed_with(&error, RECORDING_FAILED)),
        },
        result => result,
    }
}

fn failed_with(error: &anyhow::Error, status: u8) -> Status {
    super::print_error(error);
    Status::Command(status)
}

/// How a recording ended.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its time was up.
    TimeUp,
    /// This signal.
    Interrupted(i32),
    /// The command ended.
    Command(Outcome),
}

fn record(args: &Args, format: Format) -> anyhow::Result<Status> {
    let mut command = if args.command.is_empty() { None } else { Some(HeldCommand::hold(&args.command)?) };
    let mut signals = Interruptions::listen().context("cannot handle signals")?;
    let postponed = signals.postpone();
    let mut collection = Collection::start(options(args, command.as_ref())?)?;
    drop(postponed);
    if let Some(command) = &mut command {
        if signals.take().is_some() {
            super::print_note("interrupted before the command was started: the recording is empty");
            write(args, format, &collection.finish()?)?;
            return Ok(Status::Interrupted);
        }
        collection.begin_process_anew(command.pid())?;
        command.release()?;
    }
    let mut end = watch(&mut collection, command.as_mut(), duration(args), &mut signals)?;
    if let (End::Interrupted(signal), Some(command)) = (end, &mut command) {
        end = pass_on(command, signal, &mut signals)?;
    }
    let profile = collection.finish()?;
    write(args, format, &profile)?;
    let status = match (end, &mut command) {
        (End::Command(outcome), _) => Status::Command(outcome.status()),
        (End::Interrupted(_), Some(command)) => wait_for(command, &mut signals)?,
        (End::Interrupted(_), None) => Status::Interrupted,
        (End::TimeUp, Some(command)) => {
            super::print_note(&format!("the time was up; the command goes on, as process {}", command.pid()));
            Status::Done
        }
        (End::TimeUp, None) => Status::Done,
    };
    match (profile.nothing_seen(), end) {
        (None, _) => Ok(status),
        // It may have been too early to see anything: what ended it is the status to report.
        (Some(why), End::Interrupted(_)) => {
            super::print_warning(&why);
            Ok(status)
        }
        (Some(why), _) => Err(anyhow!(why)),
    }
}

fn write(args: &Args, format: Format, profile: &Profile) -> anyhow::Result<()> {
    let options = WriteOptions {
        kind: args.kind,
        threads: if args.threads { Threads::Named } else { Threads::Together },
        lines: if args.lines { Lines::Shown } else { Lines::Hidden },
        access: Access::Private,
        ..WriteOptions::default()
    };
    output::write_as(profile, format, &args.output, &options)
        .with_context(|| format!("recorded, but not written to {}", args.output.display()))?;
    tracing::info!("wrote {}", args.output.display());
    Ok(())
}

/// Lets the command have the signal that ended the recording, unless its whole process group was sent it.
fn pass_on(command: &mut HeldCommand, signal: i32, signals: &mut Interruptions) -> anyhow::Result<End> {
    let until = Instant::now() + ONE_REQUEST;
    loop {
        if let Some(outcome) = command.poll().context("cannot wait for the command")? {
            return Ok(End::Command(outcome));
        }
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(WAIT);
    }
    signals.forget();
    if !command.has_got(signal) {
        command.signal(signal).context("cannot pass the signal on to the command")?;
    }
    Ok(End::Interrupted(signal))
}

/// Waits until the command ends, or kills it where one more signal asks for it. One that does not heed the first signal (a
/// shell script may ignore Ctrl-C) is asked once more, by SIGTERM, and then left to itself.
fn wait_for(command: &mut HeldCommand, signals: &mut Interruptions) -> anyhow::Result<Status> {
    let mut told = false;
    let mut until = Instant::now() + COMMAND_GRACE;
    let mut asked = false;
    loop {
        if let Some(outcome) = command.poll().context("cannot wait for the command")? {
            return Ok(Status::Command(outcome.status()));
        }
        if Instant::now() >= until {
            let pid = command.pid();
            super::print_note(&format!("the command does not heed the signal; it goes on, as process {pid}"));
            return Ok(Status::Interrupted);
        }
        if !asked && Instant::now() + COMMAND_GRACE / 2 >= until {
            asked = true;
            command.signal(libc::SIGTERM).context("cannot ask the command to end")?;
        }
        if signals.take().is_some() {
            command.kill().context("cannot kill the command")?;
            until = Instant::now() + COMMAND_GRACE;
        } else if !told {
            told = true;
            let pid = command.pid();
            super::print_note(&format!(
                "the recording is written; waiting for the command to end (process {pid}), one more signal kills it"
            ));
        }
        std::thread::sleep(WAIT);
    }
}

fn options(args: &Args, command: Option<&HeldCommand>) -> anyhow::Result<CollectOptions> {
    let all = !(args.cpu || args.offcpu || args.syscalls);
    let flags = [("--container", &args.container), ("--pod", &args.pod), ("--namespace", &args.namespace)];
    let mut filters: Vec<String> = flags
        .into_iter()
        .flat_map(|(flag, patterns)| patterns.iter().map(move |pattern| format!("{flag} {pattern}")))
        .chain(args.pid.iter().map(|pid| format!("--pid {pid}")))
        .collect();
    let mut processes = args.pid.clone();
    if let Some(command) = command {
        processes.push(command.pid());
        filters.push(format!("-- {}", displayed(&args.command)));
    }
    Ok(CollectOptions {
        on_cpu: all || args.cpu,
        off_cpu: all || args.offcpu,
        syscalls: all || args.syscalls,
        frequency_hz: args.frequency,
        offcpu_threshold: args.offcpu_threshold,
        lines: args.lines,
        threads: args.threads,
        selection: container::Selection::parse(&args.container, &args.pod, &args.namespace)?,
        filters,
        processes,
        containers: args.sources.options()?,
        node: args.node.clone(),
        least_containers: 0,
        kernel_log: args.kernel_log,
        tiny_maps: args.tiny_maps,
        haste: Haste::default(),
    })
}

/// How long to record; `None` for as long as the command runs.
fn duration(args: &Args) -> Option<Duration> {
    args.duration.or_else(|| args.command.is_empty().then_some(Duration::from_secs(10)))
}

/// Polls until the time is up, the command has ended or a signal says stop.
fn watch(
    collection: &mut Collection,
    mut command: Option<&mut HeldCommand>,
    duration: Option<Duration>,
    signals: &mut Interruptions,
) -> anyhow::Result<End> {
    let began = Instant::now();
    let progress = Progress::start(duration);
    loop {
        let elapsed = began.elapsed();
        collection.poll()?;
        progress.show(elapsed, collection);
        if let Some(command) = command.as_deref_mut()
            && let Some(outcome) = command.poll().context("cannot wait for the command")?
        {
            return Ok(End::Command(outcome));
        }
        if let Some(signal) = signals.take() {
            return Ok(End::Interrupted(signal));
        }
        let left = duration.map_or(POLL, |duration| duration.saturating_sub(began.elapsed()));
        if left.is_zero() {
            return Ok(End::TimeUp);
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// The progress line, where somebody watches.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn start(duration: Option<Duration>) -> Self {
        if !stderr().is_terminal() {
            // One line for scripts and logs: from here on everything is measured.
            let how_long = duration.map_or_else(String::new, |duration| format!(" for {duration:?}"));
            super::print_note(&format!("recording{how_long}"));
            return Self(None);
        }
        let bar = duration.map_or_else(ProgressBar::new_spinner, |duration| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {elapsed} of {prefix}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(duration.as_millis() as u64).with_style(style).with_prefix(format!("{duration:?}"))
        });
        Self(Some(bar))
    }

    fn show(&self, elapsed: Duration, collection: &mut Collection) {
        let warnings = collection.take_warnings();
        let Some(bar) = &self.0 else {
            for warning in warnings {
                super::print_warning(&warning);
            }
            return;
        };
        for warning in warnings {
            bar.suspend(|| super::print_warning(&warning));
        }
        bar.set_position(elapsed.as_millis() as u64);
        bar.set_message(format!("recording, {} samples", collection.samples()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// T: at most 4 s, so that the kernel programs can multiply with it.
pub(super) fn parse_threshold(text: &str) -> Result<Duration, String> {
    let threshold = parse_duration(text)?;
    if threshold > Duration::from_secs(4) { Err("at most 4s".to_owned()) } else { Ok(threshold) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_four_seconds_at_most() {
        assert!(parse_threshold("5s").is_err());
    }
}
