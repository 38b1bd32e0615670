//! Is what the guest recorded true? Checked against what the smoke script did: one container span, one made system calls,
//! for five seconds on two CPUs.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::boot::Results;

/// The smoke script's containers, as the first 12 digits of their ids.
const SPINNER: &str = "cafecafecafe";
const CALLER: &str = "beefbeefbeef";

/// Parts of the ledger; they sum to `thread_s`.
const PARTS: [&str; 10] = [
    "cpu_user_s",
    "cpu_kernel_s",
    "runnable_self_s",
    "runnable_other_s",
    "throttled_s",
    "blocked_lock_s",
    "blocked_disk_s",
    "blocked_network_s",
    "blocked_sleep_s",
    "blocked_other_s",
];

/// Checks everything and says in a line what was seen.
pub fn check(results: &Results, version: &str) -> Result<String> {
    let kernel = results.section("kernel")?;
    ensure!(
        kernel.strip_prefix(version).is_some_and(|rest| rest.starts_with(['.', '-'])),
        "the guest runs {kernel}, not {version}"
    );
    for log in ["record.log", "report.log", "folded.log"] {
        let text = results.section(log)?;
        ensure!(
            text.ends_with("exit status 0"),
            "recording in the guest failed:\n{text}\n{}",
            results.section("doctor")?
        );
    }
    let doctor = results.section("doctor")?;
    ensure!(
        doctor.contains("\nprofiler can run here") && doctor.ends_with("exit status 0"),
        "profiler records in the guest, where doctor says that it cannot:\n{doctor}"
    );
    let report: Value = serde_json::from_str(results.section("report.json")?).context("the report is not JSON")?;
    let samples = coverage(&report)?;
    let spinner = container(&report, SPINNER)?;
    let caller = container(&report, CALLER)?;
    let window_s = number(&report["window"], "duration_s")?;
    for entry in [spinner, caller] {
        ledger(entry, window_s)?;
    }
    let calls = calls(caller)?;
    let stacks = stacks(results.section("stacks.folded")?)?;
    Ok(format!("{samples} samples kept, {calls} calls counted, {stacks} stacks"))
}

/// expected = kept + idle + filtered + lost, and about what two CPUs give in the window.
fn coverage(report: &Value) -> Result<u64> {
    let samples = &report["coverage"]["cpu_samples"];
    let field =
        |name: &str| samples[name].as_u64().with_context(|| format!("coverage.cpu_samples.{name} is no number"));
    let lost: u64 = match &samples["lost"] {
        Value::Object(reasons) => reasons.values().filter_map(Value::as_u64).sum(),
        _ => bail!("coverage.cpu_samples.lost is no object"),
    };
    let (expected, kept) = (field("expected")?, field("kept")?);
    let parts = kept + field("idle")? + field("filtered")? + lost;
    ensure!(expected == parts, "samples do not add up: {expected} expected, {parts} accounted for: {samples}");
    let (cpus, duration) = (number(&report["host"], "cpus")?, number(&report["window"], "duration_s")?);
    let nominal = cpus * duration * 99.0;
    ensure!(
        (expected as f64) > 0.5 * nominal && (expected as f64) < 1.5 * nominal,
        "{expected} samples expected where {cpus} CPUs for {duration} s at 99 Hz give {nominal:.0}"
    );
    ensure!(kept > 0, "no sample was kept: {samples}");
    Ok(kept)
}

fn container<'report>(report: &'report Value, id: &str) -> Result<&'report Value> {
    let all = report["containers"].as_array().context("containers is no array")?;
    all.iter().find(|entry| entry["id"].as_str().is_some_and(|text| text.starts_with(id))).with_context(|| {
        let names: Vec<&str> = all.iter().filter_map(|entry| entry["name"].as_str()).collect();
        format!("container {id} is not in the report; it has {}", names.join(", "))
    })
}

/// One thread never sleeps: it is on a CPU or waits for one all the time, however slow the emulation is; and the parts sum up.
fn ledger(entry: &Value, window_s: f64) -> Result<()> {
    let ledger = &entry["ledger"];
    let total = number(ledger, "thread_s")?;
    let mut sum = 0.0;
    for part in PARTS {
        sum += number(ledger, part)?;
    }
    ensure!(
        total > 0.0 && (sum - total).abs() <= 0.01 * total,
        "the parts sum to {sum}, thread_s is {total}: {ledger}"
    );
    let cpu = number(ledger, "cpu_user_s")? + number(ledger, "cpu_kernel_s")?;
    let waited = number(ledger, "runnable_self_s")? + number(ledger, "runnable_other_s")?;
    ensure!(
        cpu > 0.0 && cpu + waited > 0.95 * window_s,
        "a thread that never sleeps was on a CPU for {cpu} and waited for one for {waited} of {window_s} s: {ledger}"
    );
    Ok(())
}

/// dd reads and writes one byte at a time, equally often but for the edges of the window.
fn calls(entry: &Value) -> Result<u64> {
    let calls = entry["syscalls"].as_array().context("syscalls is no array")?;
    let count = |name: &str| {
        calls.iter().find(|call| call["name"] == name).and_then(|call| call["count"].as_u64()).unwrap_or(0)
    };
    let (reads, writes) = (count("read"), count("write"));
    ensure!(
        reads > 1000 && reads.abs_diff(writes) <= 2,
        "dd made {reads} reads and {writes} writes: {}",
        entry["syscalls"]
    );
    Ok(reads + writes)
}

/// Stacks of both containers are there, and the kernel's frames have names.
fn stacks(folded: &str) -> Result<usize> {
    let has = |id: &str, wanted: &dyn Fn(&str) -> bool| {
        folded.lines().any(|line| line.starts_with(id) && line.split(';').skip(2).any(wanted))
    };
    ensure!(has(SPINNER, &|_| true), "no stack of {SPINNER}:\n{folded}");
    let kernel =
        |frame: &str| frame.split(' ').next().is_some_and(|name| name.ends_with("_[k]") && !name.starts_with('['));
    ensure!(has(CALLER, &kernel), "no kernel stack with names of {CALLER}:\n{folded}");
    Ok(folded.lines().count())
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("{name} is no number in {value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(id: &str, cpu_user_s: f64) -> Value {
        let mut ledger = json!({ "thread_s": 5.0 });
        for part in PARTS {
            ledger[part] = json!(0.0);
        }
        ledger["cpu_user_s"] = json!(cpu_user_s);
        ledger["runnable_other_s"] = json!(0.5);
        let calls = json!([{ "name": "read", "count": 2000 }, { "name": "write", "count": 2000 }]);
        json!({ "id": id, "name": id, "ledger": ledger, "syscalls": calls })
    }

    fn results(lost: u64, cpu_user_s: f64) -> Results {
        results_with(lost, cpu_user_s, "ok  kernel  6.1\n\nprofiler can run here.\nexit status 0")
    }

    fn results_with(lost: u64, cpu_user_s: f64, doctor: &str) -> Results {
        let report = json!({
            "window": { "duration_s": 5.0 },
            "host": { "cpus": 2 },
            "coverage": { "cpu_samples":
                { "expected": 990, "kept": 900, "idle": 60, "filtered": 0, "lost": { "recursion": lost } } },
            "containers": [entry(&"cafe".repeat(16), cpu_user_s), entry(&"beef".repeat(16), 4.5)],
        });
        let folded = "cafecafecafe;spinner;main;spin 400\nbeefbeefbeef;dd;[busybox+0x10];vfs_read_[k] 300\n";
        let section = |name: &str, text: &str| format!("== begin {name} ==\n{text}\n== end {name} ==\n");
        let text = section("kernel", "6.1.0-56-cloud-amd64")
            + &section("record.log", "exit status 0")
            + &section("report.log", "exit status 0")
            + &section("folded.log", "exit status 0")
            + &section("doctor", doctor)
            + &section("report.json", &report.to_string())
            + &section("stacks.folded", folded);
        text.into()
    }

    #[test]
    fn a_true_recording_passes() {
        let summary = check(&results(30, 4.5), "6.1");
        assert_eq!(summary.ok().as_deref(), Some("900 samples kept, 4000 calls counted, 2 stacks"));
    }

    #[test]
    fn another_kernel_than_asked_for_is_noticed() {
        assert!(check(&results(30, 4.5), "6.12").is_err());
        assert!(check(&results(30, 4.5), "6.1.0-56").is_ok());
    }

    #[test]
    fn a_doctor_that_disagrees_with_the_recording_is_noticed() {
        let doctor = "missing  kernel programs  no\n\nprofiler cannot run here: one thing is missing.\nexit status 1";
        let message = check(&results_with(30, 4.5, doctor), "6.1").map_err(|error| error.to_string());
        assert!(message.is_err_and(|text| text.contains("doctor says")));
    }

    #[test]
    fn samples_that_do_not_add_up_are_noticed() {
        let message = check(&results(29, 4.5), "6.1").map_err(|error| error.to_string());
        assert!(message.is_err_and(|text| text.contains("do not add up")));
    }

    #[test]
    fn a_ledger_that_does_not_sum_is_noticed() {
        let message = check(&results(30, 3.0), "6.1").map_err(|error| error.to_string());
        assert!(message.is_err_and(|text| text.contains("the parts sum to")));
    }
}
