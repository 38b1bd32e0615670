//! The readable report as headings, lines and tables; text and Markdown only differ in how they draw these.

use rustc_hash::{FxHashMap, FxHashSet};

use super::coverage::{self, percent, seconds};
use super::{Kind, Scope, report_json};
use crate::profile::{
    Container, ContainerIndex, Errno, Frame, FrameKind, Histogram, OffCpuReason, ProcessIndex, StackId, SyscallStats,
    TextId, errno,
};
use crate::terminal::printable;

/// The containers of the ledger that are listed.
const LISTED_CONTAINERS: usize = 20;
/// The containers whose functions are listed, and how many functions each.
const LISTED_HOT: (usize, usize) = (5, 5);
/// The off-CPU waits that are listed.
const LISTED_WAITS: usize = 12;
/// The syscalls that are listed for their time, and as many for their number.
const LISTED_SYSCALLS: usize = 8;

/// One part of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// What it says.
    pub body: Body,
}

/// Content of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Lines of a label and a text.
    Lines(Vec<(&'static str, String)>),
    /// A table and a remark below it.
    Table(Table, Option<String>),
}

/// A table; the number of cells in each row is that of the columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Headings, and which side their column is aligned to.
    pub columns: Vec<(&'static str, Side)>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// A side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// The selected containers, most CPU time first.
pub fn selected<'p>(scope: &Scope<'p>) -> impl Iterator<Item = &'p Container> + use<'p> {
    let mut containers: Vec<&Container> = scope
        .profile
        .containers
        .iter()
        .enumerate()
        .filter(|(index, _)| scope.selected.contains(ContainerIndex(*index as u32)))
        .map(|(_, container)| container)
        .collect();
    containers.sort_by(|a, b| b.ledger.cpu_ns().cmp(&a.ledger.cpu_ns()).then_with(|| a.name.cmp(&b.name)));
    containers.into_iter()
}

/// All sections that have something to say.
pub fn sections(scope: &Scope<'_>) -> Vec<Section> {
    let mut sections = vec![header(scope)];
    sections.extend(super::targets::sections(scope));
    sections.extend(ledger(scope));
    sections.extend(waited_behind(scope));
    sections.extend(functions(scope));
    sections.extend(waits(scope));
    sections.extend(syscalls(scope));
    sections.extend(trust(scope));
    sections
}

fn header(scope: &Scope<'_>) -> Section {
    let profile = scope.profile;
    let settings = &profile.settings;
    let coverage = &profile.coverage;
    let host = &profile.host;
    let mut lines = vec![
        ("window", format!("{} from {}", seconds(profile.window.duration_ns as f64), report_json::start(profile))),
        ("host", format!("{}, Linux {} {}, {} CPUs", host.node, host.kernel, host.architecture, host.cpus)),
    ];
    if host.steal_ns > 0 {
        lines.push(("steal", format!("{} of CPU time went to other machines", seconds(host.steal_ns as f64))));
    }
    if !settings.filters.is_empty() {
        lines.push(("filters", settings.filters.join(" ")));
    }
    if Kind::Cpu.is_recorded(profile) {
        let samples = coverage::samples(&coverage.cpu_samples);
        lines.push(("on-CPU", format!("{samples}, at {} Hz", settings.frequency_hz)));
    }
    if Kind::OffCpu.is_recorded(profile) {
        lines.push(("off-CPU", coverage::off_cpu(scope)));
    }
    if settings.syscalls {
        let text = format!("{} counted, {} lost", coverage.syscalls.counted, coverage.syscalls.lost);
        lines.push(("syscalls", text));
    }
    let named = coverage::named_frames(coverage);
    let incomplete = coverage::incomplete_stacks(coverage).unwrap_or_else(|| "all stacks complete".to_owned());
    lines.push(("stacks", incomplete));
    lines.push(("names", named));
    let losses: Vec<String> = coverage
        .other_losses
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !losses.is_empty() {
        lines.push(("lost", losses.join(", ")));
    }
    lines.push(("cost", cost(scope)));
    Section { title: "Profile".to_owned(), body: Body::Lines(lines) }
}

/// How whole and how named each container's stacks are; nothing where all of them are.
fn trust(scope: &Scope<'_>) -> Option<Section> {
    let lacking = |one: &&Container| one.stacks.incomplete_total() > 0 || !one.symbols.unresolved.is_empty();
    let rows: Vec<Vec<String>> = selected(scope)
        .filter(lacking)
        .take(LISTED_CONTAINERS)
        .map(|one| {
            let why = |counts| coverage::reasons(counts).trim_matches([' ', '(', ')']).to_owned();
            vec![
                one.name.clone(),
                percent(one.stacks_complete()),
                why(&one.stacks.incomplete),
                percent(one.symbols_resolved()),
                why(&one.symbols.unresolved),
            ]
        })
        .collect();
    let columns = vec![
        ("container", Side::Left),
        ("stacks complete", Side::Right),
        ("incomplete", Side::Left),
        ("frames named", Side::Right),
        ("unnamed", Side::Left),
    ];
    let remark = "`profiler doctor PID` says what would make it better".to_owned();
    (!rows.is_empty()).then(|| Section {
        title: "How far stacks can be trusted".to_owned(),
        body: Body::Table(Table { columns, rows }, Some(remark)),
    })
}

fn cost(scope: &Scope<'_>) -> String {
    let overhead = &scope.profile.overhead;
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let kernel = match overhead.bpf_cpu_ns {
        Some(ns) => format!("{} in kernel programs", seconds(ns as f64)),
        None => "kernel programs not timed".to_owned(),
    };
    format!(
        "{kernel}, {} CPU and {} of the profiler itself, {} of maps",
        seconds(overhead.agent_cpu_ns as f64),
        mebibytes(overhead.agent_rss_bytes),
        mebibytes(overhead.map_bytes)
    )
}

/// A column of the ledger: heading, and its text for a container; nothing where there is nothing to say.
type Column<'c> = (&'static str, Box<dyn Fn(&Container) -> Option<String> + 'c>);

fn ledger(scope: &Scope<'_>) -> Option<Section> {
    let window_ns = scope.profile.window.duration_ns.max(1) as f64;
    let cores = move |ns: u64| (ns > 0).then(|| decimals(ns as f64 / window_ns));
    let time = |ns: u64| (ns > 0).then(|| seconds(ns as f64));
    let mut columns: Vec<Column<'_>> = vec![
        ("limit", Box::new(|c| c.cpu_limit_cores.map(|limit| format!("{limit:.2}")))),
        ("cores", Box::new(move |c| cores(c.ledger.cpu_ns()).or(Some("0".to_owned())))),
        ("user", Box::new(move |c| cores(c.ledger.cpu_user_ns))),
        ("kernel", Box::new(move |c| cores(c.ledger.cpu_kernel_ns))),
    ];
    let headings = [
        (OffCpuReason::RunnableSelf, "run self"),
        (OffCpuReason::RunnableOther, "run other"),
        (OffCpuReason::Throttled, "throttled"),
        (OffCpuReason::Lock, "lock"),
        (OffCpuReason::Disk, "disk"),
        (OffCpuReason::Network, "network"),
        (OffCpuReason::Sleep, "sleep"),
        (OffCpuReason::Other, "other"),
    ];
    for (reason, heading) in headings {
        columns.push((heading, Box::new(move |c| time(c.ledger.reason_ns(reason)))));
    }
    columns.push(("queue p99", Box::new(|c| c.run_queue.latency.quantile_ns(0.99).map(seconds))));
    columns.push(("CPU stall", Box::new(|c| c.pressure.cpu.filter(|share| *share >= 0.001).map(percent))));

    let all: Vec<&Container> = selected(scope).collect();
    let listed = &all[..all.len().min(LISTED_CONTAINERS)];
    columns.retain(|(_, text)| listed.iter().any(|container| text(container).is_some()));
    let mut table = Table { columns: vec![("container", Side::Left)], rows: Vec::new() };
    table.columns.extend(columns.iter().map(|(heading, _)| (*heading, Side::Right)));
    for container in listed {
        let cells = columns.iter().map(|(_, text)| text(container).unwrap_or_else(|| "-".to_owned()));
        table.rows.push(std::iter::once(shortened(&container.name)).chain(cells).collect());
    }
    let mut remark = "cores: CPU time over the window, the split into user and kernel is estimated; the rest is \
                      thread-seconds waiting for a CPU (run, throttled) or blocked"
        .to_owned();
    if all.len() > listed.len() {
        let more = all.len() - listed.len();
        remark = format!("{remark}; {more} more containers used less CPU");
    }
    section("Where the time went", table, Some(remark))
}

fn waited_behind(scope: &Scope<'_>) -> Option<Section> {
    let mut all: Vec<(u64, &Container, &str)> = selected(scope)
        .flat_map(|container| {
            container.waited_behind.iter().map(move |behind| (behind.ns, container, behind.container.as_str()))
        })
        .filter(|(ns, ..)| *ns > 0)
        .collect();
    all.sort_by_key(|(ns, container, behind)| (std::cmp::Reverse(*ns), container.name.as_str(), *behind));
    let rows = all.into_iter().take(LISTED_SYSCALLS).map(|(ns, container, behind)| {
        let share = share(ns as f64, container.ledger.runnable_other_ns as f64);
        vec![shortened(&container.name), shortened(behind), seconds(ns as f64), share]
    });
    let columns = vec![
        ("container", Side::Left),
        ("waited behind", Side::Left),
        ("time", Side::Right),
        ("of run other", Side::Right),
    ];
    section("Waiting for a CPU behind others", Table { columns, rows: rows.collect() }, None)
}

#[derive(Default)]
struct Hot<'p> {
    samples: u64,
    own: FxHashMap<(&'p str, FrameKind), u64>,
    total: FxHashMap<(&'p str, FrameKind), u64>,
}

fn functions(scope: &Scope<'_>) -> Option<Section> {
    let stacks = &scope.profile.stacks;
    let mut hot: FxHashMap<u32, Hot<'_>> = FxHashMap::default();
    for sample in scope.profile.on_cpu.iter().filter(|sample| scope.selected.contains(sample.container)) {
        let hot = hot.entry(sample.container.0).or_default();
        hot.samples = hot.samples.saturating_add(sample.count);
        let name = |frame: &Frame| (stacks.text_of(frame.function), frame.kind);
        if let Some(leaf) = stacks.frames_of(sample.stack).next_back() {
            let own = hot.own.entry(name(leaf)).or_default();
            *own = own.saturating_add(sample.count);
        }
        // A function that calls itself counts once.
        let distinct: FxHashSet<_> = stacks.frames_of(sample.stack).map(name).collect();
        for function in distinct {
            let total = hot.total.entry(function).or_default();
            *total = total.saturating_add(sample.count);
        }
    }
    let mut hot: Vec<_> = hot.into_iter().collect();
    hot.sort_by_key(|(index, hot)| (std::cmp::Reverse(hot.samples), *index));
    let mut table = Table {
        columns: vec![
            ("container", Side::Left),
            ("self", Side::Right),
            ("total", Side::Right),
            ("samples", Side::Right),
            ("function", Side::Left),
        ],
        rows: Vec::new(),
    };
    for (index, hot) in hot.into_iter().take(LISTED_HOT.0) {
        let container = scope.profile.containers.get(index as usize).map_or("", |container| &container.name);
        let samples = hot.samples as f64;
        let mut own: Vec<_> = hot.own.iter().collect();
        own.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        for (function, count) in own.into_iter().take(LISTED_HOT.1) {
            let total = hot.total.get(function).copied().unwrap_or(*count);
            table.rows.push(vec![
                shortened(container),
                share(*count as f64, samples),
                share(total as f64, samples),
                count.to_string(),
                shortened(&shown(function.0, function.1)),
            ]);
        }
    }
    section("On the CPU: functions by their own samples", table, None)
}

fn waits(scope: &Scope<'_>) -> Option<Section> {
    let profile = scope.profile;
    let mut sums: FxHashMap<(ContainerIndex, TextId, OffCpuReason, String), (f64, f64)> = FxHashMap::default();
    for sample in profile.off_cpu.iter().filter(|sample| scope.selected.contains(sample.container)) {
        let command = command(scope, sample.process);
        let key = (sample.container, command, sample.reason, place(scope, sample.stack));
        let sum = sums.entry(key).or_default();
        sum.0 += sample.weight_ns;
        sum.1 += sample.count;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.0.total_cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
    let more = sums.len().saturating_sub(LISTED_WAITS);
    let rows = sums.into_iter().take(LISTED_WAITS).map(|((container, command, reason, place), (ns, count))| {
        let container = profile.containers.get(container.0 as usize).map_or("", |container| &container.name);
        let average = if count > 0.0 { seconds(ns / count) } else { "-".to_owned() };
        vec![
            shortened(container),
            shortened(profile.stacks.text_of(command)),
            reason.name().to_owned(),
            seconds(ns),
            average,
            place,
        ]
    });
    let columns = vec![
        ("container", Side::Left),
        ("process", Side::Left),
        ("reason", Side::Left),
        ("time", Side::Right),
        ("each", Side::Right),
        ("where", Side::Left),
    ];
    let remark = (more > 0).then(|| format!("{more} shorter ones are in the flamegraph (--kind offcpu)"));
    section("Off the CPU: longest waits", Table { columns, rows: rows.collect() }, remark)
}

fn command(scope: &Scope<'_>, process: ProcessIndex) -> TextId {
    scope.profile.processes.get(process.0 as usize).map(|process| process.command).unwrap_or_default()
}

/// Where a wait happened: the innermost user function that has a name, and the kernel function it entered by.
fn place(scope: &Scope<'_>, stack: StackId) -> String {
    let stacks = &scope.profile.stacks;
    let name = |frame: &Frame| shown(stacks.text_of(frame.function), frame.kind);
    let is_user = |frame: &&Frame| matches!(frame.kind, FrameKind::User | FrameKind::UserInlined);
    let user = stacks.frames_of(stack).rev().find(is_user);
    // The frames closest to the root tell the call, those closest to the leaf are the scheduler's.
    let entry = |frame: &&Frame| frame.kind == FrameKind::Kernel && !is_plumbing(stacks.text_of(frame.function));
    let kernel = stacks.frames_of(stack).find(entry);
    match (user, kernel) {
        (Some(user), Some(kernel)) => shortened(&format!("{} > {}", name(user), name(kernel))),
        (Some(frame), None) | (None, Some(frame)) => shortened(&name(frame)),
        (None, None) => stacks.frames_of(stack).next_back().map_or("-".to_owned(), |frame| shortened(&name(frame))),
    }
}

/// Kernel functions that every system call passes before the one that tells which it is.
fn is_plumbing(function: &str) -> bool {
    ["entry_SYSCALL", "do_syscall", "x64_sys_call", "el0", "el0t", "invoke_syscall", "ret_from_fork", "kthread"]
        .iter()
        .any(|prefix| function.starts_with(prefix))
}

fn syscalls(scope: &Scope<'_>) -> Option<Section> {
    let all: Vec<(&Container, &SyscallStats)> =
        selected(scope).flat_map(|container| container.syscalls.iter().map(move |call| (container, call))).collect();
    let order = |key: fn(&SyscallStats) -> u64| {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|index| (std::cmp::Reverse(key(all[*index].1)), *index));
        order.truncate(LISTED_SYSCALLS);
        order
    };
    let mut listed = order(|call| call.total_ns);
    listed.extend(order(|call| call.count));
    let mut seen = FxHashSet::default();
    listed.retain(|index| seen.insert(*index));
    let rows = listed.into_iter().map(|index| {
        let (container, call) = all[index];
        vec![
            shortened(&container.name),
            call.name.clone(),
            call.count.to_string(),
            errors(call),
            quantile(&call.latency, 0.5),
            quantile(&call.latency, 0.99),
            seconds(call.max_ns as f64),
            seconds(call.total_ns as f64),
        ]
    });
    let columns = vec![
        ("container", Side::Left),
        ("syscall", Side::Left),
        ("calls", Side::Right),
        ("errors", Side::Left),
        ("p50", Side::Right),
        ("p99", Side::Right),
        ("max", Side::Right),
        ("total", Side::Right),
    ];
    section("System calls: most time, and most calls", Table { columns, rows: rows.collect() }, None)
}

/// Number of failed calls and the errno most of them had.
fn errors(call: &SyscallStats) -> String {
    let total: u64 = call.errors.values().fold(0, |sum, count| sum.saturating_add(*count));
    let most: Option<(&Errno, &u64)> =
        call.errors.iter().max_by_key(|(errno, count)| (**count, std::cmp::Reverse(**errno)));
    match most {
        Some((errno, _)) if total > 0 => {
            let more = if call.errors.len() > 1 { ", …" } else { "" };
            format!("{total} ({}{more})", errno::name(*errno))
        }
        _ => "-".to_owned(),
    }
}

fn quantile(histogram: &Histogram, q: f64) -> String {
    histogram.quantile_ns(q).map_or("-".to_owned(), seconds)
}

fn section(title: &str, table: Table, remark: Option<String>) -> Option<Section> {
    (!table.rows.is_empty()).then(|| Section { title: title.to_owned(), body: Body::Table(table, remark) })
}

fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 { percent(part / whole) } else { "-".to_owned() }
}

fn decimals(value: f64) -> String {
    if value >= 0.005 { format!("{value:.2}") } else { "<0.01".to_owned() }
}

fn shown(function: &str, kind: FrameKind) -> String {
    match kind {
        FrameKind::Kernel => format!("{function}_[k]"),
        FrameKind::UserInlined => format!("{function}_[i]"),
        FrameKind::User | FrameKind::Unresolved | FrameKind::Note => function.to_owned(),
    }
}

/// The longest text in a cell, in characters.
const WIDEST: usize = 64;

/// As much of a text as fits a cell.
pub(super) fn shortened(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= WIDEST {
        text.into_owned()
    } else {
        text.chars().take(WIDEST - 1).chain(['…']).collect()
    }
}
