//! The comparison in words and tables, for a terminal and for tickets.

use std::io::{self, Write};

use super::{Comparison, Metric};
use crate::terminal::printable;

/// Functions that are listed.
const LISTED: usize = 15;

/// Writes it for a terminal.
pub fn write_text(comparison: &Comparison, writer: &mut dyn Write) -> io::Result<()> {
    writeln!(writer, "{}", verdict(comparison))?;
    writeln!(writer)?;
    writeln!(writer, "  {:<26} {:>14} {:>14} {:>9} {:>9}", "figure", "A", "B", "change", "noise")?;
    for metric in &comparison.metrics {
        let (a, b) = (value(metric, metric.a), value(metric, metric.b));
        writeln!(writer, "  {:<26} {a:>14} {b:>14} {:>9} {:>9}", metric.name, change(metric), noise(metric))?;
    }
    writeln!(writer)?;
    if comparison.functions.is_empty() {
        return writeln!(writer, "No function moved beyond the noise.");
    }
    writeln!(writer, "Functions that moved, own time in {}", comparison.unit)?;
    writeln!(writer, "  {:>12} {:>12} {:>12} {:>12}  function", "A", "B", "moved", "noise")?;
    for moved in comparison.functions.iter().take(LISTED) {
        let signed = if moved.delta() > 0.0 { format!("+{}", short(moved.delta())) } else { short(moved.delta()) };
        writeln!(
            writer,
            "  {:>12} {:>12} {signed:>12} {:>12}  {}",
            short(moved.a),
            short(moved.b),
            short(moved.noise),
            printable(&moved.function)
        )?;
    }
    Ok(())
}

/// Writes it for a ticket.
pub fn write_markdown(comparison: &Comparison, writer: &mut dyn Write) -> io::Result<()> {
    writeln!(writer, "# {}\n", verdict(comparison))?;
    writeln!(writer, "| figure | A | B | change | noise |\n| --- | ---: | ---: | ---: | ---: |")?;
    for metric in &comparison.metrics {
        let (a, b) = (value(metric, metric.a), value(metric, metric.b));
        writeln!(
            writer,
            "| {} | {a} | {b} | {} | {} |",
            metric.name.replace('_', "\\_"),
            change(metric),
            noise(metric)
        )?;
    }
    if comparison.functions.is_empty() {
        return writeln!(writer, "\nNo function moved beyond the noise.");
    }
    writeln!(writer, "\nFunctions that moved, own time in {}:\n", comparison.unit)?;
    writeln!(writer, "| function | A | B | noise |\n| --- | ---: | ---: | ---: |")?;
    for moved in comparison.functions.iter().take(LISTED) {
        let name = printable(&moved.function).replace('`', "'").replace('|', "\\|");
        writeln!(writer, "| `{name}` | {} | {} | {} |", short(moved.a), short(moved.b), short(moved.noise))?;
    }
    Ok(())
}

fn verdict(comparison: &Comparison) -> String {
    let Some(metric) = comparison.metrics.first() else { return "Nothing to compare".to_owned() };
    format!(
        "Verdict: {}. {} went from {} to {} ({}; up to {} is noise)",
        comparison.verdict.words(),
        metric.name,
        value(metric, metric.a),
        value(metric, metric.b),
        change(metric),
        noise(metric)
    )
}

fn change(metric: &Metric) -> String {
    let change = metric.change();
    if change.is_finite() { format!("{:+.1} %", 100.0 * change) } else { "new".to_owned() }
}

fn noise(metric: &Metric) -> String {
    format!("±{:.1} %", 100.0 * metric.noise)
}

fn value(metric: &Metric, value: f64) -> String {
    match metric.unit {
        "s" if value < 1e-3 => format!("{:.2} µs", value * 1e6),
        "s" if value < 1.0 => format!("{:.2} ms", value * 1e3),
        "" => format!("{:.2} %", 100.0 * value),
        unit => format!("{value:.3} {unit}"),
    }
}

fn short(value: f64) -> String {
    if value == 0.0 || value.abs() >= 0.001 { format!("{value:.4}") } else { format!("{value:.2e}") }
}
