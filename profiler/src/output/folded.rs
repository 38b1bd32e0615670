//! Folded stacks: `container;process;frame;…;frame count`, root first, one line a stack.

use std::io::Write;

use super::rows::Rows;
use super::{Kind, OutputError, Scope};

/// Writes one line a stack.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    let kind = Kind::choose(scope.options.kind, scope.profile)?;
    let rows = Rows::collect(scope, kind)?;
    let mut line = String::new();
    for row in &rows.rows {
        line.clear();
        for label in rows.labels_of(row) {
            if !line.is_empty() {
                line.push(';');
            }
            line.push_str(&label.text);
        }
        writeln!(writer, "{line} {}", row.value)?;
    }
    Ok(())
}
