//! An interactive flamegraph as SVG, drawn by inferno. Colours tell containers, user, inlined and kernel code apart,
//! and what has no symbol; the subtitle carries the coverage.

use std::io::Write;

use inferno::flamegraph::color::{Color, PaletteMap};
use inferno::flamegraph::{self, Direction, Options};

use super::coverage;
use super::rows::{Label, Part, Row, Rows};
use super::{Growth, Kind, OutputError, Scope};
use crate::profile::FrameKind;
use crate::target;

/// The characters of a subtitle that fit the picture's 1,200 pixels.
const WIDEST_SUBTITLE: usize = 160;

/// Writes the flamegraph.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    let kind = Kind::choose(scope.options.kind, scope.profile)?;
    let rows = Rows::collect(scope, kind)?;
    let title = scope.options.title.clone().unwrap_or_else(|| title(scope, kind));
    let subtitle = coverage::summary_within(scope, kind, WIDEST_SUBTITLE);
    let svg = if rows.rows.is_empty() { empty(&title, &subtitle) } else { draw(scope, kind, &rows, title, subtitle)? };
    writer.write_all(svg.as_bytes())?;
    Ok(())
}

fn title(scope: &Scope<'_>, kind: Kind) -> String {
    let profile = scope.profile;
    let whom = if scope.options.selection.is_everything() {
        profile.host.node.clone()
    } else {
        let names: Vec<&str> = super::report_tables::selected(scope).map(|container| container.name.as_str()).collect();
        match names.as_slice() {
            [first, second, third, _, ..] => format!("{first}, {second}, {third} and {} more", names.len() - 3),
            few => few.join(", "),
        }
    };
    let seconds = coverage::seconds(profile.window.duration_ns as f64);
    let heading = match kind {
        Kind::Cpu => "On-CPU",
        Kind::OffCpu => "Off-CPU",
        Kind::Wall => "Wall-clock",
    };
    if whom.is_empty() { format!("{heading}, {seconds}") } else { format!("{heading}: {whom}, {seconds}") }
}

fn draw(scope: &Scope<'_>, kind: Kind, rows: &Rows, title: String, subtitle: String) -> Result<String, OutputError> {
    let mut palette = PaletteMap::default();
    let blamed = super::targets::blamed(scope);
    for label in &rows.labels {
        let marked = matches!(label.part, Part::Frame(FrameKind::User | FrameKind::UserInlined))
            && blamed.contains(target::plain_name(label.text.trim_end_matches("_[i]")));
        palette.insert(svg_name(label), if marked { TARGET } else { color(label) });
    }
    palette.insert("", ALL);
    let mut options = Options::default();
    options.notes = coverage::summary(scope, kind);
    options.title = title;
    options.subtitle = Some(subtitle);
    kind.unit().clone_into(&mut options.count_name);
    options.palette_map = Some(&mut palette);
    options.direction = match scope.options.growth {
        Growth::Flame => Direction::Straight,
        Growth::Icicle => Direction::Inverted,
    };
    // Sorting whole lines tears apart frames whose names hold characters below `;`; the rows are sorted by frame. Only
    // the order of a chart, last line first, makes inferno take them as they come.
    options.flame_chart = true;
    let lines: Vec<String> = rows.rows.iter().rev().map(|row| line(rows, row)).collect();
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    let svg = String::from_utf8_lossy(&svg);
    let end = svg.rfind("</svg>").unwrap_or(svg.len());
    Ok(format!("{}{}{}\n", &svg[..end], legend(), &svg[end..]))
}

fn line(rows: &Rows, row: &Row) -> String {
    let names: Vec<String> = rows.labels_of(row).map(svg_name).collect();
    format!("{} {}", names.join(";"), row.value)
}

/// Inferno colours by name and strips these endings before it shows one, so they keep apart a container, a process and
/// a function of the same name.
fn svg_name(label: &Label) -> String {
    match label.part {
        Part::Container => format!("{}_[w]", label.text),
        Part::Process => format!("{}_[j]", label.text),
        Part::Thread | Part::Frame(_) => label.text.clone(),
    }
}

const ALL: Color = Color { r: 216, g: 216, b: 208 };
const CONTAINER: Color = Color { r: 104, g: 190, b: 140 };
const PROCESS: Color = Color { r: 160, g: 214, b: 176 };
const THREAD: Color = Color { r: 200, g: 228, b: 205 };
const USER: Color = Color { r: 238, g: 150, b: 80 };
const INLINED: Color = Color { r: 240, g: 208, b: 90 };
const KERNEL: Color = Color { r: 130, g: 165, b: 226 };
const UNRESOLVED: Color = Color { r: 186, g: 186, b: 186 };
const TARGET: Color = Color { r: 226, g: 62, b: 128 };
const NOTE: Color = Color { r: 214, g: 184, b: 190 };

/// The colour of its part, a little lighter or darker by name so that neighbours can be told apart.
fn color(label: &Label) -> Color {
    let base = match label.part {
        Part::Container => CONTAINER,
        Part::Process => PROCESS,
        Part::Thread => THREAD,
        Part::Frame(FrameKind::User) => USER,
        Part::Frame(FrameKind::UserInlined) => INLINED,
        Part::Frame(FrameKind::Kernel) => KERNEL,
        Part::Frame(FrameKind::Unresolved) => UNRESOLVED,
        Part::Frame(FrameKind::Note) => NOTE,
    };
    // FNV-1a: the same name has the same colour in every flamegraph.
    let hash = label
        .text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let shift = ((hash >> 32) % 37) as i16 - 18;
    let green = ((hash >> 48) % 17) as i16 - 8;
    let moved = |channel: u8, by: i16| (i16::from(channel) + by).clamp(0, 255) as u8;
    Color { r: moved(base.r, shift), g: moved(base.g, shift + green), b: moved(base.b, shift) }
}

fn legend() -> String {
    let entries = [
        ("container", CONTAINER),
        ("user", USER),
        ("inlined", INLINED),
        ("kernel", KERNEL),
        ("no symbol", UNRESOLVED),
        ("to change first", TARGET),
    ];
    let spans: Vec<String> = entries
        .iter()
        .map(|(name, Color { r, g, b })| format!("<tspan style=\"fill:rgb({r},{g},{b})\">■</tspan> {name}"))
        .collect();
    format!("<text id=\"legend\" x=\"10\" y=\"12\" style=\"font-size:10px\">{}</text>", spans.join("  "))
}

/// A picture that says that there is nothing to see, and why that may be.
fn empty(title: &str, subtitle: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"110\" viewBox=\"0 0 1200 110\" \
         xmlns=\"http://www.w3.org/2000/svg\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f4f4f4\"/>\n\
         <g font-family=\"monospace\" text-anchor=\"middle\">\n\
         <text x=\"600\" y=\"28\" font-size=\"17\">{}</text>\n\
         <text x=\"600\" y=\"52\" font-size=\"12\">{}</text>\n\
         <text x=\"600\" y=\"86\" font-size=\"14\">No stacks were found: nothing ran or waited in the window.</text>\n\
         </g>\n</svg>\n",
        escape(title),
        escape(subtitle)
    )
}
