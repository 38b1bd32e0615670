//! `profiler doctor` as a person runs it: with and without rights it tells, and its exit status agrees with what it says.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

/// Checks that the exit status says what the diagnosis says, and returns the checks.
fn checks(output: &Output) -> Result<Vec<Value>, Box<dyn Error>> {
    let diagnosis: Value = serde_json::from_slice(&output.stdout)?;
    let can_run = diagnosis["can_run"].as_bool().ok_or("can_run is no truth value")?;
    assert_eq!(output.status.code(), Some(if can_run { 0 } else { 3 }), "{diagnosis:#}");
    Ok(diagnosis["checks"].as_array().ok_or("checks is no array")?.clone())
}

#[test]
fn the_exit_status_agrees_with_the_diagnosis() -> TestResult {
    let output = Command::new(cargo_bin!("profiler")).args(["doctor", "--format", "json"]).output()?;
    let checks = checks(&output)?;
    assert!(checks.len() > 15, "{checks:#?}");
    assert!(checks.iter().all(|check| check["verdict"] == "ok" || check["remedy"].is_string()), "{checks:#?}");
    Ok(())
}

#[test]
fn without_rights_it_names_what_is_missing() -> TestResult {
    // Nobody may not read the build directory, perhaps: a copy where everybody may.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let copy = directory.path().join("profiler");
    fs::copy(cargo_bin!("profiler"), &copy)?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    let Ok(output) = nobody.arg(&copy).args(["doctor", "--format", "json"]).output() else {
        // No setpriv here.
        return Ok(());
    };
    if output.stdout.is_empty() && !is_root() {
        // Only root can become nobody.
        return Ok(());
    }
    let checks = checks(&output)?;
    let capabilities = checks.iter().find(|check| check["check"] == "capabilities").ok_or("no such check")?;
    assert_eq!(capabilities["verdict"], "missing");
    let found = capabilities["found"].as_str().unwrap_or_default();
    assert!(found.contains("CAP_BPF") && found.contains("CAP_PERFMON"), "{found}");
    assert_eq!(output.status.code(), Some(3));
    Ok(())
}

/// Whether this process is root's.
fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nUid:\t0\t0\t"))
}

#[test]
fn text_is_one_line_a_check_and_a_verdict() -> TestResult {
    let output = Command::new(cargo_bin!("profiler")).arg("doctor").output()?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let (verdict, checks) = lines.split_last().ok_or("nothing was printed")?;
    assert!(verdict.starts_with("profiler can"), "{text}");
    for line in checks {
        assert!(["ok ", "warning ", "missing "].iter().any(|word| line.starts_with(word)), "{line}");
    }
    Ok(())
}
