//! Targets as the readable report shows them: one line each for the ranking, and a paragraph for the first few.

use rustc_hash::FxHashSet;

use super::Scope;
use super::report_tables::{Body, Section, Side, Table};
use crate::target::{self, Target};

/// Targets with a line of their own.
const LISTED: usize = 10;

/// Targets that are told in full: with the rest they fill a screen.
const TOLD: usize = 3;

/// Frames of a path that are shown, innermost last.
const LISTED_FRAMES: usize = 6;

/// The targets of the selected containers, with the rank they have on the node.
pub fn selected(scope: &Scope<'_>, targets: Vec<Target>) -> Vec<Target> {
    let containers: Vec<&str> =
        super::report_tables::selected(scope).map(|container| container.name.as_str()).collect();
    targets.into_iter().filter(|target| containers.contains(&target.container.as_str())).collect()
}

/// Functions that the selected containers' targets blame.
pub fn blamed(scope: &Scope<'_>) -> FxHashSet<String> {
    let targets = selected(scope, target::analyse(scope.profile).targets);
    targets.into_iter().map(|target| target.blame.function).filter(|function| !function.is_empty()).collect()
}

/// Why nothing can be said about the selected containers; `None` if anything of them was seen.
pub fn nothing_seen(scope: &Scope<'_>) -> Option<String> {
    scope.profile.nothing_seen().or_else(|| scope.profile.nothing_seen_of(super::report_tables::selected(scope)))
}

/// The report's first part.
pub fn sections(scope: &Scope<'_>) -> Vec<Section> {
    let analysis = target::analyse(scope.profile);
    let title = "What to change first".to_owned();
    if let Some(why) = nothing_seen(scope) {
        return vec![Section { title, body: Body::Lines(vec![("nothing", why)]) }];
    }
    if !analysis.withheld.is_empty() {
        let lines = analysis.withheld.into_iter().map(|why| ("withheld", why)).collect();
        return vec![Section { title, body: Body::Lines(lines) }];
    }
    let not_looked_for = analysis.not_looked_for;
    let targets = selected(scope, analysis.targets);
    if targets.is_empty() {
        let mut lines = vec![("nothing", "no waste worth a change was found in this window".to_owned())];
        lines.extend(not_looked_for.into_iter().map(|what| ("not seen", what)));
        return vec![Section { title, body: Body::Lines(lines) }];
    }
    let mut sections = vec![ranking(title, &targets, &not_looked_for)];
    sections.extend(targets.iter().take(TOLD).map(told));
    sections
}

fn ranking(title: String, targets: &[Target], not_looked_for: &[String]) -> Section {
    let columns = vec![
        ("#", Side::Right),
        ("container", Side::Left),
        ("kind", Side::Left),
        ("costs", Side::Right),
        ("gain at most", Side::Right),
        ("sure", Side::Left),
        ("where", Side::Left),
    ];
    let rows = targets
        .iter()
        .take(LISTED)
        .map(|target| {
            vec![
                target.rank.to_string(),
                super::report_tables::shortened(&target.container),
                target.kind.name().to_owned(),
                format!("{:.2}", target.cost.value),
                format!("{:.2} {}", target.gain_at_most.value, target.gain_at_most.unit.words()),
                target.confidence.name().to_owned(),
                super::report_tables::shortened(&target.blame.function),
            ]
        })
        .collect();
    let mut remarks = Vec::new();
    if targets.len() > LISTED {
        remarks.push(format!("{} more cost less", targets.len() - LISTED));
    }
    remarks.extend(not_looked_for.iter().map(|what| format!("not looked for: {what}")));
    let remark = (!remarks.is_empty()).then(|| remarks.join("; "));
    Section { title, body: Body::Table(Table { columns, rows }, remark) }
}

fn told(target: &Target) -> Section {
    let from = target.frames.len().saturating_sub(LISTED_FRAMES);
    let path = if from > 0 { "… > ".to_owned() } else { String::new() } + &target.frames[from..].join(" > ");
    let mut lines = vec![("what", target.title.clone())];
    if !target.frames.is_empty() {
        lines.push(("below", path));
    }
    for figure in &target.evidence {
        lines.push(("evidence", figure.clone()));
    }
    lines.push((
        "gain",
        format!(
            "at most {:.2} {}; this is {:.0} % of what the container does",
            target.gain_at_most.value,
            target.gain_at_most.unit.words(),
            100.0 * target.share
        ),
    ));
    lines.push(("try", target.remedy.clone()));
    lines.push(("recheck", target.recheck.clone()));
    let title = format!("{}. {} in {} [{}]", target.rank, target.kind.name(), target.container, target.id);
    Section { title, body: Body::Lines(lines) }
}
