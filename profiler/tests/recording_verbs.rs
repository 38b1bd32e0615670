//! The verbs that need only a recording, run as users run them.

use std::error::Error;
use std::path::PathBuf;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn profiler(arguments: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("profiler");
    command.args(arguments);
    command
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn recording() -> String {
    data("v1.profile").display().to_string()
}

fn failure(mut command: Command, status: i32) -> Result<String> {
    let output = command.assert().failure().code(status).get_output().clone();
    assert!(output.stdout.is_empty(), "results only on success");
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn a_flamegraph_goes_to_standard_output_or_a_file() -> Result {
    let expected = std::fs::read(data("cpu.svg"))?;
    profiler(&["flamegraph", &recording()]).assert().success().stdout(expected.clone());
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("x.svg");
    let options = ["flamegraph", &recording(), "--kind", "wall", "--container", "db", "--icicle", "-o"];
    profiler(&options).arg(&path).assert().success().stdout("");
    assert_eq!(std::fs::read(path)?, std::fs::read(data("wall-icicle-db.svg"))?);
    let titled = profiler(&["flamegraph", &recording(), "--title", "Mine", "--threads", "--lines"]).output()?;
    assert!(String::from_utf8(titled.stdout)?.contains("Mine"));
    Ok(())
}

#[test]
fn a_recording_is_read_from_standard_input() -> Result {
    let bytes = std::fs::read(data("v1.profile"))?;
    profiler(&["report", "-"])
        .write_stdin(bytes)
        .assert()
        .success()
        .stdout(std::fs::read_to_string(data("report.txt"))?);
    Ok(())
}

#[test]
fn reports_come_in_three_formats() -> Result {
    let directory = tempfile::tempdir()?;
    for (format, golden) in [("text", "report.txt"), ("markdown", "report.md"), ("json", "report.json")] {
        let expected = std::fs::read_to_string(data(golden))?;
        profiler(&["report", &recording(), "--format", format]).assert().success().stdout(expected.clone());
        let path = directory.path().join(golden);
        profiler(&["report", &recording(), "-o"]).arg(&path).assert().success().stdout("");
        assert_eq!(std::fs::read_to_string(path)?, expected);
    }
    Ok(())
}

#[test]
fn exports_take_their_format_from_the_option_or_the_extension() -> Result {
    let goldens = [("folded", "cpu.folded"), ("speedscope", "all.speedscope.json"), ("json", "stacks.json")];
    for (format, golden) in goldens {
        let expected = std::fs::read_to_string(data(golden))?;
        profiler(&["export", &recording(), "--format", format]).assert().success().stdout(expected);
    }
    let directory = tempfile::tempdir()?;
    for (name, golden) in [("x.json", "stacks.json"), ("x.folded", "offcpu.folded")] {
        let path = directory.path().join(name);
        profiler(&["export", &recording(), "--kind", "offcpu", "-o"]).arg(&path).assert().success();
        assert_eq!(std::fs::read(path)?, std::fs::read(data(golden))?);
    }
    let path = directory.path().join("x.pb.gz");
    profiler(&["export", &recording(), "--format", "pprof", "-o"]).arg(&path).assert().success();
    assert!(std::fs::read(path)?.starts_with(&[0x1f, 0x8b]));
    Ok(())
}

#[test]
fn options_can_be_given_as_variables() -> Result {
    let mut command = profiler(&["export"]);
    command.env("PROFILER_RECORDING", recording()).env("PROFILER_FORMAT", "folded").env("PROFILER_KIND", "offcpu");
    command.assert().success().stdout(std::fs::read_to_string(data("offcpu.folded"))?);
    Ok(())
}

#[test]
fn wrong_usage_has_status_2_and_says_what_to_do() -> Result {
    let error = failure(profiler(&["export", &recording(), "-o", "x.png"]), 2)?;
    assert!(error.contains("cannot tell a format from the name x.png; end it in .profile"), "{error}");
    let error = failure(profiler(&["export", &recording()]), 2)?;
    assert!(error.contains("add --format pprof, folded, speedscope or json"), "{error}");
    let error = failure(profiler(&["report", &recording(), "-o", &recording()]), 2)?;
    assert!(error.contains("is the recording itself"), "{error}");
    let error = failure(profiler(&["record", "-o", "x.png", "--"]), 2)?;
    assert!(error.contains("no command after `--`"), "{error}");
    let error = failure(profiler(&["record", "-o", "x.profile", "--pid", "0"]), 2)?;
    assert!(error.contains("--pid"), "{error}");
    failure(profiler(&["flamegraph"]), 2)?;
    failure(profiler(&["flamegraph", &recording(), "--kind", "gpu"]), 2)?;
    failure(profiler(&["no-such-verb"]), 2)?;
    Ok(())
}

#[test]
fn failures_have_status_1_and_say_what_where_and_what_to_do() -> Result {
    let error = failure(profiler(&["report", "missing.profile"]), 1)?;
    assert_eq!(error, "error: cannot read missing.profile: No such file or directory (os error 2)\n");
    let error = failure(profiler(&["report", &data("report.md").display().to_string()]), 1)?;
    assert!(error.contains("not a recording") && error.contains("profiler record"), "{error}");
    let error = failure(profiler(&["report", &recording(), "--container", "cache"]), 1)?;
    assert!(error.contains("no container matches 'cache'; there are db,"), "{error}");
    let error = failure(profiler(&["report", &recording(), "-o", "missing/x.txt"]), 1)?;
    assert!(error.contains("cannot write missing/x.txt") && error.contains("make the directory missing"), "{error}");
    Ok(())
}

#[test]
fn a_reader_that_goes_away_is_no_failure() -> Result {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("profiler"))
        .args(["export", &recording(), "--format", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn help_version_completions_and_manual_pages_are_there() -> Result {
    let help = String::from_utf8(profiler(&["--help"]).assert().success().get_output().stdout.clone())?;
    for verb in ["flamegraph", "report", "export", "completions", "man"] {
        assert!(help.contains(verb), "{help}");
    }
    profiler(&["--version"]).assert().success().stdout(format!("profiler {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let script = profiler(&["completions", shell]).assert().success().get_output().stdout.clone();
        assert!(String::from_utf8(script)?.contains("flamegraph"));
    }
    let page = String::from_utf8(profiler(&["man"]).assert().success().get_output().stdout.clone())?;
    assert!(page.contains(".TH profiler 1"), "{page}");
    let directory = tempfile::tempdir()?;
    profiler(&["man", "--directory"]).arg(directory.path()).assert().success();
    assert!(directory.path().join("profiler-flamegraph.1").exists());
    let error = failure(profiler(&["man", "--directory", "/nonexistent"]), 1)?;
    assert!(error.contains("does the directory exist"), "{error}");
    Ok(())
}
