//! Speedscope's own format: one profile a kind, over one table of frames.
//!
//! Schema: <https://www.speedscope.app/file-format-schema.json>

use std::io::Write;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::rows::{Label, Rows};
use super::{Kind, OutputError, Scope, coverage};

#[derive(Serialize)]
struct File {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: String,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: u32,
    shared: Shared,
    profiles: Vec<Sampled>,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    file: String,
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
}

#[derive(Serialize)]
struct Sampled {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'static str,
    unit: &'static str,
    #[serde(rename = "startValue")]
    start_value: u64,
    #[serde(rename = "endValue")]
    end_value: u64,
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(line: &u32) -> bool {
    *line == 0
}

/// Writes one profile for each kind that was recorded, or for the one asked for.
pub fn write(scope: &Scope<'_>, writer: &mut dyn Write) -> Result<(), OutputError> {
    let kinds = match scope.options.kind {
        Some(kind) => vec![Kind::choose(Some(kind), scope.profile)?],
        None => Kind::ALL.into_iter().filter(|kind| kind.is_recorded(scope.profile)).collect(),
    };
    let mut frames = Vec::new();
    let mut positions = FxHashMap::default();
    let mut profiles = Vec::new();
    for kind in kinds {
        profiles.push(sampled(Rows::collect(scope, kind)?, kind, &mut frames, &mut positions));
    }
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("profiler ", env!("CARGO_PKG_VERSION")),
        name: title(scope),
        active_profile_index: 0,
        shared: Shared { frames },
        profiles,
    };
    serde_json::to_writer(&mut *writer, &file).map_err(std::io::Error::from)?;
    writeln!(writer)?;
    Ok(())
}

/// The node, and how far what is shown can be trusted.
fn title(scope: &Scope<'_>) -> String {
    let both = Kind::Cpu.is_recorded(scope.profile) && Kind::OffCpu.is_recorded(scope.profile);
    let kind = match scope.options.kind {
        Some(kind) => kind,
        None if both => Kind::Wall,
        None if Kind::Cpu.is_recorded(scope.profile) => Kind::Cpu,
        None => Kind::OffCpu,
    };
    format!("{} · {}", scope.profile.host.node, coverage::summary(scope, kind))
}

fn sampled(rows: Rows, kind: Kind, frames: &mut Vec<Frame>, positions: &mut FxHashMap<Label, usize>) -> Sampled {
    let end_value = rows.total();
    let shared: Vec<usize> = rows
        .labels
        .into_iter()
        .map(|label| {
            *positions.entry(label).or_insert_with_key(|label| {
                frames.push(Frame { name: label.text.clone(), file: label.file.clone(), line: label.line });
                frames.len() - 1
            })
        })
        .collect();
    let mut samples = Vec::with_capacity(rows.rows.len());
    let mut weights = Vec::with_capacity(rows.rows.len());
    for row in rows.rows {
        samples.push(row.labels.iter().filter_map(|label| shared.get(*label).copied()).collect());
        weights.push(row.value);
    }
    Sampled {
        kind: "sampled",
        name: kind.title(),
        unit: if kind == Kind::Cpu { "none" } else { "microseconds" },
        start_value: 0,
        end_value,
        samples,
        weights,
    }
}
