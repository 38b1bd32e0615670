//! What building unwind tables costs: the CPU time a binary, the bytes a row, and the rows that cannot be followed.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde_json::Value;

use super::{figures, megabytes};
use crate::step::Step;
use crate::workspace;

/// Binaries of real software; those that are not on this machine are left out.
const BINARIES: [&str; 13] = [
    "/usr/bin/node",
    "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so",
    "/usr/lib/postgresql/15/bin/postgres",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/bin/redis-server",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/sbin/nginx",
    "/usr/bin/python3.11",
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/bin/busybox",
    "/usr/bin/prometheus",
    "/usr/lib/go-1.19/bin/go",
];

/// One line a binary.
pub fn table() -> Result<Table> {
    let program = workspace::release_binary("profiler");
    let output = Step::new("build unwind tables", program)
        .arg("bench-unwind-tables")
        .args(BINARIES.iter().filter(|binary| Path::new(binary).exists()))
        .read()?;
    let mut table = figures([
        "binary",
        "MB",
        "build CPU ms",
        "functions",
        "rows",
        "rules",
        "table MB",
        "bytes a row",
        "code described",
        "rows not followed",
    ]);
    for line in output.lines() {
        let value: Value = serde_json::from_str(line).context("the figures are not JSON")?;
        table.add_row(row(&value));
    }
    Ok(table)
}

fn row(value: &Value) -> Vec<String> {
    let number = |name: &str| value[name].as_f64().unwrap_or(0.0);
    let whole = |name: &str| value[name].as_u64().unwrap_or(0);
    let file = value["file"].as_str().unwrap_or("?").to_owned();
    if let Some(reason) = value["refused"].as_str() {
        return vec![file, megabytes(whole("bytes")), format!("refused: {reason}")];
    }
    let unsupported: u64 =
        value["unsupported"].as_object().into_iter().flatten().filter_map(|(_, rows)| rows.as_u64()).sum();
    vec![
        file,
        megabytes(whole("bytes")),
        format!("{:.1}", number("build_cpu_s") * 1e3),
        whole("functions").to_string(),
        whole("rows").to_string(),
        whole("rules").to_string(),
        format!("{:.2}", number("table_bytes") / 1e6),
        format!("{:.2}", number("table_bytes") / number("rows").max(1.0)),
        format!("{:.1} %", number("described") * 100.0),
        format!("{:.2} %", unsupported as f64 * 100.0 / number("rows_described").max(1.0)),
    ]
}
