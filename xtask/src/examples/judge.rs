//! Holds a report against a truth: first kind, blamed frame, false alarms, and the predicted bound against what the fix
//! brought. Pure.

use super::report::{Report, Target};
use super::stage::Figures;
use super::truth::{Gain, Truth};

/// The least share of the window that a container's threads wait behind others for a report of it to be a fact and no
/// alarm: the suite runs on machines that do other things too.
const REAL_CONTENTION: f64 = 0.03;

/// What came of one run of one program.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The first-ranked kind, those set aside left out.
    pub first: Option<String>,
    /// Whether that is right.
    pub kind_is_right: bool,
    /// The function that is blamed.
    pub blamed: Option<String>,
    /// Whether that is right; none where the truth names nothing.
    pub blame_is_right: Option<bool>,
    /// The bound that the first target gives, if it is of the right kind.
    pub predicted: Option<f64>,
    /// The first target, set-aside ones left out.
    pub target: Option<Target>,
    /// Whether its recheck command showed it again, if it was run.
    pub recheck_shows_it: Option<bool>,
    /// What the fix brought, in cores or thread-seconds a second, found or not.
    pub realised: Option<f64>,
}

/// Judges the targets of one container.
pub fn judge(truth: &Truth, container: &str, neighbour: Option<&str>, report: &Report) -> Verdict {
    let mut targets: Vec<&Target> = report.targets.iter().filter(|target| target.container == container).collect();
    targets.sort_by_key(|target| target.rank);
    if truth.kind.as_deref() != Some("cpu_contention") && waited_behind_others(report, container) {
        targets.retain(|target| target.kind != "cpu_contention");
    }
    let first = targets.first();
    let kind = first.map(|target| target.kind.clone());
    let kind_is_right = kind == truth.kind;
    let blamed = first.and_then(|target| target.blame.as_ref()?.function.clone());
    let blame_is_right = first.filter(|_| kind_is_right).map_or_else(
        || truth.kind.as_ref().filter(|_| names_something(truth, neighbour)).map(|_| false),
        |target| blame(truth, neighbour, target),
    );
    let predicted = first.filter(|_| kind_is_right).map(|target| target.gain_at_most.value);
    let target = first.map(|target| (*target).clone());
    Verdict {
        first: kind,
        kind_is_right,
        blamed,
        blame_is_right,
        predicted,
        target,
        recheck_shows_it: None,
        realised: None,
    }
}

/// Whether the container really had to wait for a CPU that others used.
fn waited_behind_others(report: &Report, container: &str) -> bool {
    let others: f64 = report
        .containers
        .iter()
        .filter(|entry| entry.name == container)
        .flat_map(|entry| &entry.waited_behind)
        .filter(|behind| behind.container != "idle")
        .map(|behind| behind.s)
        .sum();
    others > REAL_CONTENTION * report.window.duration_s
}

fn names_something(truth: &Truth, neighbour: Option<&str>) -> bool {
    !truth.blame.is_empty() || address(truth).is_some() || (truth.neighbour.is_some() && neighbour.is_some())
}

fn address(truth: &Truth) -> Option<&str> {
    truth.peer.as_ref().and_then(|peer| peer.address.as_deref())
}

fn blame(truth: &Truth, neighbour: Option<&str>, target: &Target) -> Option<bool> {
    if !names_something(truth, neighbour) {
        return None;
    }
    let function = target.blame.as_ref().and_then(|blame| blame.function.as_deref());
    let function_is_right = truth.blame.is_empty()
        || function.is_some_and(|function| truth.blame.iter().any(|wanted| same_function(wanted, function)));
    let peer_is_named = address(truth).is_none_or(|address| target.names(address));
    let neighbour_is_named = neighbour.filter(|_| truth.neighbour.is_some()).is_none_or(|name| target.names(name));
    Some(function_is_right && peer_is_named && neighbour_is_named)
}

/// Names of the same function: without what marks kernel and inlined frames, a compiler's suffix or a JIT's decoration.
fn same_function(wanted: &str, found: &str) -> bool {
    let found = found.trim_end_matches("_[i]").trim_end_matches("_[k]");
    // V8 writes `JS:*name file:line:column`, V8's interpreter `JS:~name`.
    let found = found.strip_prefix("JS:").map_or(found, |name| name.trim_start_matches(['*', '~', '^', '+', '\'']));
    let found = found.split([' ', '.']).next().filter(|_| !wanted.contains('.')).unwrap_or(found);
    // A compiler's hash behind a Rust name, `::h` and sixteen digits.
    let found = found.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(found, |(name, _)| name);
    // A method of a trait or type prints as `<Type>::method`.
    found.replace(['<', '>'], "") == wanted.replace(['<', '>'], "")
}

/// What the fix brought at the rate of the run with the problem.
pub fn realised(gain: Gain, with_problem: Figures, fixed: Figures) -> Option<f64> {
    let spent = |figures: Figures| match gain {
        Gain::Cpu => figures.cpu_s,
        Gain::Time => figures.busy_s,
    };
    let per_work = |figures: Figures| (figures.work > 0.0).then(|| spent(figures) / figures.work);
    Some((per_work(with_problem)? - per_work(fixed)?) * with_problem.work / with_problem.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn truth(text: &str) -> Truth {
        toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn report(targets: &serde_json::Value, behind_s: f64) -> Report {
        serde_json::from_value(json!({
            "window": { "duration_s": 10.0 },
            "containers": [{ "name": "c", "waited_behind": [{ "container": "host", "s": behind_s }] }],
            "targets": targets,
        }))
        .unwrap_or_else(|error| panic!("{error}"))
    }

    fn target(rank: u64, kind: &str, function: &str) -> serde_json::Value {
        json!({ "rank": rank, "container": "c", "kind": kind, "title": "t", "blame": { "function": function },
                "gain_at_most": { "value": 0.5, "unit": "cores" }, "evidence": [] })
    }

    const SMALL_IO: &str = "title = \"x\"\nkind = \"small_io\"\nblame = [\"put_field\"]\ngain = \"cpu\"";

    #[test]
    fn the_first_target_of_the_container_counts_and_no_other() {
        let report = report(&json!([target(2, "cpu_hotspot", "main"), target(1, "small_io", "put_field")]), 0.0);
        let verdict = judge(&truth(SMALL_IO), "c", None, &report);
        assert!(verdict.kind_is_right && verdict.blame_is_right == Some(true) && verdict.predicted == Some(0.5));
        let verdict = judge(&truth(SMALL_IO), "another", None, &report);
        assert!(!verdict.kind_is_right && verdict.blame_is_right == Some(false));
    }

    #[test]
    fn contention_is_set_aside_only_where_the_ledger_shows_it() {
        let targets = json!([target(1, "cpu_contention", ""), target(2, "small_io", "put_field")]);
        assert!(judge(&truth(SMALL_IO), "c", None, &report(&targets, 4.0)).kind_is_right);
        assert!(!judge(&truth(SMALL_IO), "c", None, &report(&targets, 0.1)).kind_is_right);
    }

    #[test]
    fn a_healthy_program_with_a_target_is_a_false_alarm() {
        let healthy = truth("title = \"x\"");
        assert!(judge(&healthy, "c", None, &report(&json!([]), 0.0)).kind_is_right);
        assert!(
            !judge(&healthy, "c", None, &report(&json!([target(1, "lock_contention", "wait")]), 0.0)).kind_is_right
        );
    }

    #[test]
    fn decorated_names_are_the_same_function() {
        assert!(same_function("readAsset", "JS:*readAsset /srv/main.js:17:19"));
        assert!(same_function("app::Queue::take", "app::Queue::take::h0123456789abcdef"));
        assert!(same_function("main.(*flags).refresh", "main.(*flags).refresh"));
        assert!(same_function("put_field", "put_field.constprop.0"));
        assert!(!same_function("put_field", "put_fields"));
    }

    #[test]
    fn a_fix_that_halves_the_cost_of_work_wins_half_of_what_was_spent() {
        let before = Figures { work: 1000.0, seconds: 10.0, busy_s: 40.0, cpu_s: 8.0 };
        let after = Figures { work: 3000.0, seconds: 10.0, busy_s: 40.0, cpu_s: 12.0 };
        assert_eq!(realised(Gain::Cpu, before, after), Some(0.4));
        let nothing = Figures { work: 0.0, ..after };
        assert_eq!(realised(Gain::Time, before, nothing), None);
    }
}
