//! The differential flamegraph: width is what B costs, red has grown, blue has shrunk. A is scaled to B's work, so that
//! more load alone colours nothing.

use std::collections::BTreeMap;
use std::io::Write;

use inferno::flamegraph::{self, Options};

use crate::output::rows::Rows;
use crate::output::{Kind, OutputError, Scope};

/// Draws B against A times `scale`.
pub fn write(a: &Scope<'_>, b: &Scope<'_>, kind: Kind, scale: f64, writer: &mut dyn Write) -> Result<(), OutputError> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (scope, is_b) in [(a, false), (b, true)] {
        let rows = Rows::collect(scope, kind)?;
        for row in &rows.rows {
            let names: Vec<&str> = rows.labels_of(row).map(|label| label.text.as_str()).collect();
            let sum = sums.entry(names.join(";")).or_default();
            if is_b {
                sum.1 += row.value as f64;
            } else {
                sum.0 += row.value as f64 * scale;
            }
        }
    }
    let mut options = Options::default();
    options.title = format!("{} B against A: red costs more, blue less", kind.title());
    kind.unit().clone_into(&mut options.count_name);
    let lines: Vec<String> =
        sums.into_iter().map(|(stack, (a, b))| format!("{stack} {:.0} {:.0}", a.max(0.0), b.max(0.0))).collect();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), writer)?;
    Ok(())
}
