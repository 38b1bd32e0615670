//! `profiler top`: where each container's time goes, live in the terminal.

use std::{
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use anyhow::Context;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row, Table},
};

use super::{Status, WrongUsage, containers::ContainerSources};
use crate::{
    collect::{CollectOptions, Collection},
    container::Selection,
    profile::{Container, Profile},
    quantity::parse_duration,
};

/// Time between two looks at the keyboard and the kernel's events.
const POLL: Duration = Duration::from_millis(50);

/// `profiler top`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Time between two pictures
    #[arg(short, long, env = "PROFILER_INTERVAL", default_value = "2s", value_parser = parse_duration)]
    interval: Duration,
    /// Order of the containers; the keys c, w, b and s change it
    #[arg(long, env = "PROFILER_SORT", value_enum, default_value_t)]
    sort: Sort,
    /// Only containers with this name, id prefix or glob; may be repeated
    #[arg(long, env = "PROFILER_CONTAINER", value_name = "PATTERN", value_delimiter = ',')]
    container: Vec<String>,
    /// Only containers of pods with this name or glob; may be repeated
    #[arg(long, env = "PROFILER_POD", value_name = "PATTERN", value_delimiter = ',')]
    pod: Vec<String>,
    /// Only containers of this Kubernetes namespace or glob; may be repeated
    #[arg(long, env = "PROFILER_NAMESPACE", value_name = "PATTERN", value_delimiter = ',')]
    namespace: Vec<String>,
    #[command(flatten)]
    sources: ContainerSources,
}

/// What the containers are ordered by, most first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// Time on a CPU.
    #[default]
    Cpu,
    /// Time spent waiting for a CPU.
    Wait,
    /// Time blocked on locks and disks.
    Blocked,
    /// System calls.
    Syscalls,
}

/// Shows pictures until `q` is pressed.
pub fn run(args: &Args) -> anyhow::Result<Status> {
    if !stdout().is_terminal() {
        return Err(WrongUsage(
            "top draws on a terminal, and standard output is none; `profiler record` and `profiler report` write what can be kept".to_owned(),
        )
        .into());
    }
    let mut collection = Collection::start(options(args)?)?;
    let mut terminal = ratatui::init();
    let result = show(args, &mut collection, &mut terminal);
    ratatui::restore();
    for warning in collection.take_warnings() {
        super::print_warning(&warning);
    }
    result.map(|()| Status::Done)
}

fn options(args: &Args) -> anyhow::Result<CollectOptions> {
    Ok(CollectOptions {
        // Stacks are not shown, so they are not taken.
        on_cpu: false,
        off_cpu: false,
        syscalls: true,
        frequency_hz: 99,
        offcpu_threshold: Duration::from_millis(1),
        lines: false,
        threads: false,
        selection: Selection::parse(&args.container, &args.pod, &args.namespace)?,
        filters: Vec::new(),
        processes: Vec::new(),
        containers: args.sources.options()?,
        node: None,
        least_containers: 0,
        kernel_log: false,
        tiny_maps: false,
    })
}

fn show(args: &Args, collection: &mut Collection, terminal: &mut ratatui::DefaultTerminal) -> anyhow::Result<()> {
    let mut sort = args.sort;
    let mut profile = Profile::default();
    let mut due = Instant::now() + args.interval;
    loop {
        collection.poll()?;
        let mut stale = false;
        if Instant::now() >= due {
            profile = collection.rotate()?;
            due = Instant::now() + args.interval;
            stale = true;
        }
        if event::poll(POLL).context("cannot read the keyboard")? {
            match event::read().context("cannot read the keyboard")? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        _ if interrupted => return Ok(()),
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') => sort = Sort::Cpu,
                        KeyCode::Char('w') => sort = Sort::Wait,
                        KeyCode::Char('b') => sort = Sort::Blocked,
                        KeyCode::Char('s') => sort = Sort::Syscalls,
                        _ => {}
                    }
                    stale = true;
                }
                _ => stale = true,
            }
        }
        if stale {
            terminal.draw(|frame| draw(frame, &profile, sort)).context("cannot draw on the terminal")?;
        }
    }
}

const COLUMNS: [&str; 11] =
    ["container", "user", "kernel", "self", "other", "throttled", "lock", "disk", "network", "calls/s", "run p99"];

fn draw(frame: &mut Frame<'_>, profile: &Profile, sort: Sort) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let lost = profile.coverage.syscalls.lost + profile.coverage.other_losses.values().sum::<u64>();
    let overhead = &profile.overhead;
    let seconds = (profile.window.duration_ns as f64 / 1e9).max(1e-9);
    let heading = format!(
        "{}: {} CPUs, {} containers, {seconds:.1} s; lost {lost}; own cost {:.2} % of a CPU",
        profile.host.node,
        profile.host.cpus,
        profile.containers.len(),
        (overhead.agent_cpu_ns + overhead.bpf_cpu_ns.unwrap_or(0)) as f64 / 1e7 / seconds,
    );
    frame.render_widget(Line::styled(heading, Style::new().add_modifier(Modifier::BOLD)), head);
    let mut containers: Vec<&Container> = profile.containers.iter().collect();
    containers.sort_by_key(|container| std::cmp::Reverse(measure(container, sort)));
    let rows = containers.iter().take(usize::from(body.height)).map(|container| Row::new(cells(container, seconds)));
    let widths = [Constraint::Min(16)].into_iter().chain([Constraint::Length(9); 10]);
    let table = Table::new(rows, widths).header(Row::new(COLUMNS).style(Style::new().add_modifier(Modifier::REVERSED)));
    frame.render_widget(table, body);
    let keys = "thread-seconds a second; order: c CPU, w waiting for CPU, b blocked, s system calls; q ends";
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn measure(container: &Container, sort: Sort) -> u64 {
    let ledger = &container.ledger;
    match sort {
        Sort::Cpu => ledger.cpu_ns(),
        Sort::Wait => ledger.runnable_ns(),
        Sort::Blocked => ledger.blocked_lock_ns.saturating_add(ledger.blocked_disk_ns),
        Sort::Syscalls => calls(container),
    }
}

fn calls(container: &Container) -> u64 {
    container.syscalls.iter().fold(0, |sum, syscall| sum.saturating_add(syscall.count))
}

/// The cells of a container's row: thread-seconds a second, calls a second, and a latency.
fn cells(container: &Container, seconds: f64) -> [String; 11] {
    let ledger = &container.ledger;
    let share = |ns: u64| if ns == 0 { "·".to_owned() } else { format!("{:.3}", ns as f64 / 1e9 / seconds) };
    let latency = container.run_queue.latency.quantile_ns(0.99);
    [
        super::super::output::rows::printable(&container.name),
        share(ledger.cpu_user_ns),
        share(ledger.cpu_kernel_ns),
        share(ledger.runnable_self_ns),
        share(ledger.runnable_other_ns),
        share(ledger.throttled_ns),
        share(ledger.blocked_lock_ns),
        share(ledger.blocked_disk_ns),
        share(ledger.blocked_network_ns),
        format!("{:.0}", calls(container) as f64 / seconds),
        latency.map_or_else(|| "·".to_owned(), |ns| format!("{:.1} µs", ns / 1e3)),
    ]
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::profile::testing;

    #[test]
    fn the_picture_shows_every_container_in_the_order_asked_for() -> Result<(), Box<dyn std::error::Error>> {
        let mut terminal = Terminal::new(TestBackend::new(130, 12))?;
        let profile = testing::profile();
        for (sort, first) in [(Sort::Cpu, "shop/web"), (Sort::Blocked, "docker.service"), (Sort::Syscalls, "shop/web")]
        {
            let drawn = terminal.draw(|frame| draw(frame, &profile, sort))?;
            let line = |y: u16| -> String { (0..130).map(|x| drawn.buffer[(x, y)].symbol()).collect() };
            assert!(line(0).contains("node-1") && line(1).contains("throttled"), "{}{}", line(0), line(1));
            assert!(line(2).starts_with(first), "{sort:?}: {}", line(2));
        }
        Ok(())
    }
}
