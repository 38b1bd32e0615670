//! Adds verdicts up and holds the sums against the thresholds; prints the tables. Pure but for the printing.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use super::judge::Verdict;

/// Share of runs in which the planted kind must be ranked first.
const KIND: f64 = 0.95;
/// Share of runs in which the right frame must be blamed, of those whose truth names one.
const BLAME: f64 = 0.90;
/// Share of the rechecks that must show their target again.
const RECHECK: f64 = 0.95;
/// Share of the bound that a fix must bring, kind by kind.
const LEAST_GAIN: f64 = 0.5;
/// How much more than the bound a fix may bring before the bound was wrong: runs differ by that much, and by so many
/// cores or thread-seconds a second.
const NOISE: (f64, f64) = (0.15, 0.05);

/// One run of one program.
pub struct Run {
    /// The program.
    pub name: String,
    /// Its kind; none for a healthy one.
    pub kind: Option<String>,
    /// What else ran.
    pub scene: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// The score of all runs.
pub struct Score {
    runs: Vec<Run>,
}

/// A criterion: what was wanted, what was measured.
#[derive(Debug, PartialEq)]
pub struct Criterion {
    name: String,
    wanted: String,
    measured: String,
    met: bool,
}

impl Score {
    /// Over these runs.
    pub fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    /// Every criterion that there were runs for.
    pub fn criteria(&self) -> Vec<Criterion> {
        let planted: Vec<&Run> = self.runs.iter().filter(|run| run.kind.is_some()).collect();
        let mut criteria = Vec::new();
        let kinds = planted.iter().map(|run| run.verdict.kind_is_right);
        criteria.extend(share("planted kind ranked first", KIND, kinds));
        let blames = planted.iter().filter_map(|run| run.verdict.blame_is_right);
        criteria.extend(share("right frame, peer or neighbour blamed", BLAME, blames));
        let healthy: Vec<&Run> = self.runs.iter().filter(|run| run.kind.is_none()).collect();
        if !healthy.is_empty() {
            let alarms = healthy.iter().filter(|run| !run.verdict.kind_is_right).count();
            criteria.push(Criterion {
                name: "false alarms on healthy programs".into(),
                wanted: "0".into(),
                measured: format!("{alarms} in {} runs", healthy.len()),
                met: alarms == 0,
            });
        }
        let rechecks = self.runs.iter().filter_map(|run| run.verdict.recheck_shows_it);
        criteria.extend(share("recheck shows the target again", RECHECK, rechecks));
        criteria.extend(self.gains());
        criteria
    }

    /// For each kind, what its fixes brought beside what was predicted: the median over its runs.
    fn gains(&self) -> Vec<Criterion> {
        let mut by_kind: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for run in &self.runs {
            if let (Some(kind), Some(predicted), Some(realised)) =
                (&run.kind, run.verdict.predicted, run.verdict.realised)
            {
                by_kind.entry(kind).or_default().push((predicted, realised));
            }
        }
        let criteria = by_kind.into_iter().map(|(kind, pairs)| {
            let fitting = pairs.iter().filter(|(predicted, realised)| fits(*predicted, *realised)).count();
            let mut ratios: Vec<f64> = pairs.iter().map(|(predicted, realised)| realised / predicted).collect();
            ratios.sort_by(f64::total_cmp);
            Criterion {
                name: format!("{kind}: gain of the fix within the bound"),
                wanted: format!("{:.0} % of the bound or more, and not above it", LEAST_GAIN * 100.0),
                measured: format!(
                    "median {:.0} %, {fitting} of {} runs",
                    ratios[ratios.len() / 2] * 100.0,
                    pairs.len()
                ),
                met: fitting * 2 > pairs.len(),
            }
        });
        criteria.collect()
    }

    /// Prints both tables.
    pub fn print(&self) {
        println!("{}", self.table());
        let mut table = table(&["criterion", "wanted", "measured", ""]);
        for criterion in self.criteria() {
            let met = if criterion.met { "met" } else { "NOT MET" };
            table.add_row([&criterion.name, &criterion.wanted, &criterion.measured, met]);
        }
        println!("{table}");
    }

    /// The criteria that are not met.
    pub fn unmet(&self) -> Vec<String> {
        self.criteria().into_iter().filter(|criterion| !criterion.met).map(|criterion| criterion.name).collect()
    }

    fn table(&self) -> Table {
        let mut table =
            table(&["program", "beside", "wanted", "ranked first", "blamed", "kind", "blame", "gain at most", "gain"]);
        for column in [7, 8] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for Run { name, kind, scene, verdict } in &self.runs {
            let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            table.add_row([
                name.clone(),
                (*scene).to_owned(),
                kind.clone().unwrap_or_else(|| "nothing".into()),
                verdict.first.clone().unwrap_or_else(|| "nothing".into()),
                verdict.blamed.clone().unwrap_or_else(|| "-".into()),
                tick(Some(verdict.kind_is_right)).into(),
                tick(verdict.blame_is_right).into(),
                figure(verdict.predicted),
                figure(verdict.realised),
            ]);
        }
        table
    }
}

/// Whether a gain lies between half of the bound and the bound, noise allowed.
fn fits(predicted: f64, realised: f64) -> bool {
    realised <= predicted * (1.0 + NOISE.0) + NOISE.1 && realised >= predicted * LEAST_GAIN - NOISE.1
}

fn share(name: &str, wanted: f64, outcomes: impl Iterator<Item = bool>) -> Option<Criterion> {
    let (mut right, mut all) = (0_u32, 0_u32);
    for outcome in outcomes {
        right += u32::from(outcome);
        all += 1;
    }
    let share = f64::from(right) / f64::from(all);
    (all > 0).then(|| Criterion {
        name: name.into(),
        wanted: format!("{:.0} % or more", wanted * 100.0),
        measured: format!("{:.0} %: {right} of {all} runs", share * 100.0),
        met: share >= wanted,
    })
}

fn tick(right: Option<bool>) -> &'static str {
    match right {
        Some(true) => "right",
        Some(false) => "WRONG",
        None => "-",
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().copied());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: Option<&str>, right: bool, gains: Option<(f64, f64)>) -> Run {
        let verdict = Verdict {
            first: None,
            kind_is_right: right,
            blamed: None,
            blame_is_right: kind.map(|_| right),
            predicted: gains.map(|(predicted, _)| predicted),
            target: None,
            recheck_shows_it: None,
            realised: gains.map(|(_, realised)| realised),
        };
        Run { name: "x".into(), kind: kind.map(str::to_owned), scene: "nobody", verdict }
    }

    #[test]
    fn one_wrong_kind_in_twenty_is_enough_and_two_are_not() {
        let runs = |wrong: usize| (0..20).map(|at| run(Some("small_io"), at >= wrong, None)).collect();
        assert!(Score::new(runs(1)).unmet().is_empty());
        assert_eq!(Score::new(runs(2)).unmet(), ["planted kind ranked first"]);
    }

    #[test]
    fn a_single_false_alarm_is_one_too_many() {
        let score = Score::new(vec![run(None, true, None), run(None, false, None)]);
        assert_eq!(score.unmet(), ["false alarms on healthy programs"]);
    }

    #[test]
    fn a_bound_of_everything_is_no_bound_and_a_bound_too_low_is_wrong() {
        assert!(fits(1.0, 0.8) && fits(1.0, 1.1));
        assert!(!fits(4.0, 1.0) && !fits(0.5, 1.0));
        let score = Score::new(vec![run(Some("small_io"), true, Some((4.0, 1.0)))]);
        assert_eq!(score.unmet(), ["small_io: gain of the fix within the bound"]);
    }
}
