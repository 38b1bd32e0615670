//! `profiler top`: where each container's time goes, live in the terminal.

use std::{
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use anyhow::Context;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::{Status, WrongUsage, containers::ContainerSources};
use crate::{
    collect::{CollectOptions, Collection, Haste},
    container::Selection,
    profile::{Container, Profile},
    quantity::parse_duration,
    terminal::printable,
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
        haste: Haste::default(),
    })
}

/// What the keys have made of the picture.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    sort: Sort,
    /// Containers above the first that is shown.
    scrolled: usize,
}

impl View {
    /// After a key; `None` where the key ends it all.
    fn after(self, key: KeyEvent, page: usize) -> Option<Self> {
        let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let sorted = |sort| Self { sort, scrolled: 0 };
        let scrolled = |scrolled| Self { scrolled, ..self };
        Some(match key.code {
            _ if interrupted => return None,
            KeyCode::Char('q') | KeyCode::Esc => return None,
            KeyCode::Char('c') => sorted(Sort::Cpu),
            KeyCode::Char('w') => sorted(Sort::Wait),
            KeyCode::Char('b') => sorted(Sort::Blocked),
            KeyCode::Char('s') => sorted(Sort::Syscalls),
            KeyCode::Down => scrolled(self.scrolled.saturating_add(1)),
            KeyCode::Up => scrolled(self.scrolled.saturating_sub(1)),
            KeyCode::PageDown => scrolled(self.scrolled.saturating_add(page)),
            KeyCode::PageUp => scrolled(self.scrolled.saturating_sub(page)),
            KeyCode::Home => scrolled(0),
            KeyCode::End => scrolled(usize::MAX),
            _ => self,
        })
    }
}

fn show(args: &Args, collection: &mut Collection, terminal: &mut ratatui::DefaultTerminal) -> anyhow::Result<()> {
    let mut view = View { sort: args.sort, scrolled: 0 };
    let mut profile = None;
    let mut due = Instant::now() + args.interval;
    let mut stale = true;
    loop {
        collection.poll()?;
        if Instant::now() >= due {
            profile = Some(collection.rotate()?);
            due = Instant::now() + args.interval;
            stale = true;
        }
        if event::poll(POLL).context("cannot read the keyboard")? {
            if let Event::Key(key) = event::read().context("cannot read the keyboard")?
                && key.kind == KeyEventKind::Press
            {
                let page = terminal.size().map_or(10, |size| usize::from(size.height.saturating_sub(LINES_AROUND)));
                let Some(after) = view.after(key, page) else { return Ok(()) };
                view = after;
            }
            stale = true;
        }
        if std::mem::take(&mut stale) {
            let draw = |frame: &mut Frame<'_>| view.scrolled = draw(frame, profile.as_ref(), view);
            terminal.draw(draw).context("cannot draw on the terminal")?;
        }
    }
}

/// Lines that are not containers: the heading, the head of the table, the keys.
const LINES_AROUND: u16 = 3;

/// A column of figures.
struct Column {
    head: &'static str,
    width: u16,
    /// Columns leave a narrow terminal in this order, the largest first.
    leaves: u8,
}

const fn column(head: &'static str, width: u16, leaves: u8) -> Column {
    Column { head, width, leaves }
}

const COLUMNS: [Column; 10] = [
    column("user", 6, 0),
    column("kernel", 6, 1),
    column("self", 6, 2),
    column("other", 6, 3),
    column("throttled", 9, 4),
    column("lock", 6, 7),
    column("disk", 6, 8),
    column("network", 7, 9),
    column("calls/s", 8, 6),
    column("run p99", 8, 5),
];

/// Least room for names, and for the bar that shows a container's time as one.
const NAME: u16 = 20;
const BAR: u16 = 20;

/// The states that the bar shows, with the letter and the colour of each: those in which a thread uses a CPU, waits for one or
/// waits for something that others may have to do with. Sleep and the like would drown them.
const BARS: [(char, Color); 8] = [
    ('u', Color::LightRed),
    ('k', Color::Red),
    ('s', Color::Yellow),
    ('o', Color::Magenta),
    ('t', Color::LightMagenta),
    ('l', Color::Blue),
    ('d', Color::Cyan),
    ('n', Color::LightBlue),
];

/// Draws a picture and returns by how many containers it is scrolled, which is as far as there are any.
fn draw(frame: &mut Frame<'_>, profile: Option<&Profile>, view: View) -> usize {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let Some(profile) = profile else {
        frame.render_widget(Line::raw("measuring; the first picture comes at the end of the first interval"), head);
        return 0;
    };
    let seconds = (profile.window.duration_ns as f64 / 1e9).max(1e-9);
    let mut containers: Vec<&Container> = profile.containers.iter().collect();
    containers.sort_by_key(|container| std::cmp::Reverse(measure(container, view.sort)));
    let room = usize::from(body.height.saturating_sub(1));
    let scrolled = view.scrolled.min(containers.len().saturating_sub(room));
    let heading = heading(profile, seconds, (scrolled, room));
    frame.render_widget(Line::styled(heading, Style::new().add_modifier(Modifier::BOLD)), head);

    let (columns, bar) = fitting(body.width);
    let right = |text: String| Cell::new(Line::raw(text).right_aligned());
    let mut heads = vec![Cell::new("container")];
    heads.extend(columns.iter().map(|at| right(COLUMNS[*at].head.to_owned())));
    heads.extend((bar > 0).then(|| Cell::new("busy and waiting")));
    let rows = containers.iter().skip(scrolled).take(room).map(|container| {
        let mut figures = figures(container, seconds).map(Some);
        let mut cells = vec![Cell::new(printable(&container.name).into_owned())];
        cells.extend(columns.iter().filter_map(|at| figures[*at].take()).map(right));
        cells.extend((bar > 0).then(|| Cell::new(bar_of(container, bar))));
        Row::new(cells)
    });
    let widths = [Constraint::Min(NAME)]
        .into_iter()
        .chain(columns.iter().map(|at| Constraint::Length(COLUMNS[*at].width)))
        .chain((bar > 0).then_some(Constraint::Length(bar)));
    let table = Table::new(rows, widths).header(Row::new(heads).style(Style::new().add_modifier(Modifier::REVERSED)));
    frame.render_widget(table, body);
    let keys =
        "thread-seconds a second; order: c CPU, w waiting for CPU, b blocked, s system calls; arrows scroll, q ends";
    let short = "order: c CPU, w wait, b blocked, s calls; arrows scroll, q ends";
    let keys = if keys.len() <= usize::from(foot.width) { keys } else { short };
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
    scrolled
}

fn heading(profile: &Profile, seconds: f64, (scrolled, room): (usize, usize)) -> String {
    let lost = [("system calls", profile.coverage.syscalls.lost)]
        .into_iter()
        .chain(profile.coverage.other_losses.iter().map(|(reason, n)| (reason.as_str(), *n)))
        .filter(|(_, n)| *n > 0)
        .map(|(reason, n)| format!("{n} {}", reason.replace('_', " ")))
        .collect::<Vec<_>>();
    let lost = if lost.is_empty() { "nothing lost".to_owned() } else { format!("lost {}", lost.join(", ")) };
    let overhead = &profile.overhead;
    let count = profile.containers.len();
    let shown = if count > room {
        format!("containers {} to {} of {count}", scrolled + 1, (scrolled + room).min(count))
    } else {
        format!("{count} containers")
    };
    format!(
        "{}: {} CPUs, {shown}, {seconds:.1} s; own cost {:.2} % of a CPU; {lost}",
        printable(&profile.host.node),
        profile.host.cpus,
        (overhead.agent_cpu_ns + overhead.bpf_cpu_ns.unwrap_or(0)) as f64 / 1e7 / seconds,
    )
}

/// The columns that there is room for, and the width of the bar; 0 for none.
fn fitting(width: u16) -> (Vec<usize>, u16) {
    let taken = |columns: &[usize]| -> u16 { NAME + columns.iter().map(|at| COLUMNS[*at].width + 1).sum::<u16>() };
    let mut columns: Vec<usize> = (0..COLUMNS.len()).collect();
    while taken(&columns) > width
        && let Some(leaving) = columns.iter().copied().max_by_key(|at| COLUMNS[*at].leaves)
    {
        columns.retain(|at| *at != leaving);
    }
    let left = width.saturating_sub(taken(&columns) + 1);
    // Long names get what the bar does not need.
    let bar = if left >= BAR { BAR + (left - BAR) / 2 } else { 0 };
    (columns, bar)
}

/// A container's busy and waiting time as one line: a letter of its state for each share of the width.
fn bar_of(container: &Container, width: u16) -> Line<'static> {
    let ledger = &container.ledger;
    let parts = [
        ledger.cpu_user_ns,
        ledger.cpu_kernel_ns,
        ledger.runnable_self_ns,
        ledger.runnable_other_ns,
        ledger.throttled_ns,
        ledger.blocked_lock_ns,
        ledger.blocked_disk_ns,
        ledger.blocked_network_ns,
    ];
    let total: u64 = parts.iter().sum();
    let mut spans = Vec::new();
    let (mut sum, mut drawn) = (0_u64, 0_usize);
    for (ns, (letter, colour)) in parts.into_iter().zip(BARS) {
        sum += ns;
        // Where the part ends, so that rounding never adds up.
        let end = if total == 0 { 0 } else { (sum as f64 / total as f64 * f64::from(width)).round() as usize };
        if end > drawn {
            let text: String = std::iter::repeat_n(letter, end - drawn).collect();
            spans.push(Span::styled(text, Style::new().fg(Color::Black).bg(colour)));
            drawn = end;
        }
    }
    Line::from(spans)
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

/// The figures of a container's row, in the order of the columns: thread-seconds a second, calls a second, and a latency.
fn figures(container: &Container, seconds: f64) -> [String; COLUMNS.len()] {
    let ledger = &container.ledger;
    let share = |ns: u64| {
        let threads = ns as f64 / 1e9 / seconds;
        match ns {
            0 => "·".to_owned(),
            _ if threads < 9.9995 => format!("{threads:.3}"),
            _ => format!("{threads:.1}"),
        }
    };
    [
        share(ledger.cpu_user_ns),
        share(ledger.cpu_kernel_ns),
        share(ledger.runnable_self_ns),
        share(ledger.runnable_other_ns),
        share(ledger.throttled_ns),
        share(ledger.blocked_lock_ns),
        share(ledger.blocked_disk_ns),
        share(ledger.blocked_network_ns),
        format!("{:.0}", calls(container) as f64 / seconds),
        container.run_queue.latency.quantile_ns(0.99).map_or_else(|| "·".to_owned(), latency),
    ]
}

/// Nanoseconds with three digits and the unit that they need.
fn latency(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999.5e3 => (ns / 1e3, "µs"),
        ns if ns < 999.5e6 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::profile::testing;

    /// The lines of a picture.
    fn drawn(width: u16, profile: Option<&Profile>, view: View) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let mut terminal = Terminal::new(TestBackend::new(width, 12))?;
        let picture = terminal.draw(|frame| {
            draw(frame, profile, view);
        })?;
        let line = |y: u16| (0..width).map(|x| picture.buffer[(x, y)].symbol()).collect();
        Ok((0..12).map(line).collect())
    }

    #[test]
    fn the_picture_shows_every_container_in_the_order_asked_for() -> Result<(), Box<dyn std::error::Error>> {
        let profile = testing::profile();
        for (sort, first) in [(Sort::Cpu, "shop/web"), (Sort::Blocked, "docker.service"), (Sort::Syscalls, "shop/web")]
        {
            let lines = drawn(140, Some(&profile), View { sort, scrolled: 0 })?;
            assert!(lines[0].contains("node-1") && lines[1].contains("throttled"), "{lines:?}");
            assert!(lines[2].starts_with(first), "{sort:?}: {}", lines[2]);
            assert!(lines[2].contains("uu") || sort == Sort::Blocked, "the bar: {}", lines[2]);
        }
        assert!(drawn(80, None, View::default())?[0].contains("measuring"));
        Ok(())
    }

    #[test]
    fn a_narrow_terminal_loses_columns_and_no_head_or_figure_is_cut() -> Result<(), Box<dyn std::error::Error>> {
        let profile = testing::profile();
        for width in 30..200 {
            let (columns, bar) = fitting(width);
            let heads: Vec<&str> = columns.iter().map(|at| COLUMNS[*at].head).collect();
            let lines = drawn(width, Some(&profile), View::default())?;
            assert!(heads.iter().all(|head| lines[1].contains(head)), "{width}: {}", lines[1]);
            assert!(heads.contains(&"user"), "{width}");
            assert!(bar == 0 || columns.len() == COLUMNS.len(), "the bar takes only what is left");
        }
        assert_eq!(fitting(80).0.len(), 7);
        Ok(())
    }

    #[test]
    fn scrolling_ends_where_the_containers_do() -> Result<(), Box<dyn std::error::Error>> {
        let mut profile = testing::profile();
        let one = profile.containers[0].clone();
        profile.containers = (0..40).map(|n| Container { name: format!("c{n:02}"), ..one.clone() }).collect();
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let view = View::default().after(key(KeyCode::End), 9).ok_or("it ended")?;
        let lines = drawn(100, Some(&profile), view)?;
        assert!(lines[0].contains("32 to 40 of 40") && lines[10].starts_with("c39"), "{lines:?}");
        let view = View { scrolled: 31, ..view }.after(key(KeyCode::PageUp), 9).ok_or("it ended")?;
        assert!(drawn(100, Some(&profile), view)?[2].starts_with("c22"));
        assert!(view.after(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), 9).is_none());
        assert!(view.after(key(KeyCode::Char('c')), 9).is_some_and(|view| view.scrolled == 0));
        Ok(())
    }

    #[test]
    fn latencies_have_three_digits_and_their_unit() {
        for (ns, text) in
            [(0.4, "0.40 ns"), (999.0, "999 ns"), (1266.4, "1.27 µs"), (96_388_200.0, "96.4 ms"), (2.5e9, "2.50 s")]
        {
            assert_eq!(latency(ns), text);
        }
    }
}
