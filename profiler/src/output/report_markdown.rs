//! The report as Markdown, for tickets and merge requests.

use std::io::Write;

use super::report_tables::{Body, Side, sections};
use super::{OutputError, Scope};
use crate::terminal::printable;

/// Writes the report.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    for (index, section) in sections(scope).iter().enumerate() {
        if index > 0 {
            writeln!(writer)?;
        }
        let level = if index == 0 { "#" } else { "##" };
        writeln!(writer, "{level} {}\n", printable(&section.title))?;
        match &section.body {
            Body::Lines(lines) => {
                for (label, text) in lines {
                    writeln!(writer, "- **{label}**: {}", escaped(text))?;
                }
            }
            Body::Table(table, remark) => {
                let headings: Vec<&str> = table.columns.iter().map(|(heading, _)| *heading).collect();
                writeln!(writer, "| {} |", headings.join(" | "))?;
                let rules: Vec<&str> =
                    table.columns.iter().map(|(_, side)| if *side == Side::Right { "---:" } else { "---" }).collect();
                writeln!(writer, "| {} |", rules.join(" | "))?;
                for row in &table.rows {
                    let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
                    writeln!(writer, "| {} |", cells.join(" | "))?;
                }
                if let Some(remark) = remark {
                    writeln!(writer, "\n{}", escaped(remark))?;
                }
            }
        }
    }
    Ok(())
}

/// Text that Markdown shows as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '~' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
