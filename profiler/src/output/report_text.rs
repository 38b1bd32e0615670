//! The report for a terminal.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table as Drawn, presets};

use super::report_tables::{Body, Side, Table, sections};
use super::{OutputError, Scope, Style};
use crate::terminal::printable;

/// Writes the report; headings are bold where the style allows it.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    let (bold, plain) = match scope.options.style {
        Style::Plain => ("", ""),
        Style::Terminal => ("\x1b[1m", "\x1b[0m"),
    };
    for (index, section) in sections(scope).iter().enumerate() {
        if index > 0 {
            writeln!(writer)?;
        }
        writeln!(writer, "{bold}{}{plain}", printable(&section.title))?;
        match &section.body {
            Body::Lines(lines) => {
                for (label, text) in lines {
                    writeln!(writer, "  {label:<9} {}", printable(text))?;
                }
            }
            Body::Table(table, remark) => {
                for line in drawn(table).to_string().lines() {
                    writeln!(writer, "  {}", line.trim())?;
                }
                if let Some(remark) = remark {
                    writeln!(writer, "  ({})", printable(remark))?;
                }
            }
        }
    }
    Ok(())
}

fn drawn(table: &Table) -> Drawn {
    let mut drawn = Drawn::new();
    drawn.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    drawn.set_header(table.columns.iter().map(|(heading, _)| *heading));
    for row in &table.rows {
        drawn.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (column, (_, side)) in drawn.column_iter_mut().zip(&table.columns) {
        if *side == Side::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    drawn
}
