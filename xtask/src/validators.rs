//! The Python environment of the validators and of the browser tests: a list of packages in, a private environment below the target folder out.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::step::{Step, say};
use crate::workspace;

/// The interpreter of the environment.
pub fn python() -> PathBuf {
    workspace::target().join("validators/bin/python")
}

/// Installs what is missing; does nothing while the list of packages stays the same.
pub fn prepare() -> Result<()> {
    install_programs()?;
    let list = workspace::root().join("deploy/check/requirements.txt");
    let wanted = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let environment = workspace::target().join("validators");
    let stamp = environment.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        say("validators: already there");
        return Ok(());
    }
    Step::new("validators: make a Python environment", "python3").args(["-m", "venv"]).arg(&environment).run()?;
    Step::new("validators: install them", python())
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(&list)
        .run()?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// By what they are called, since a machine may have them from elsewhere than from Debian.
fn install_programs() -> Result<()> {
    let programs = ["python3", "promtool", "chromium", "chromedriver"];
    if programs.iter().all(|program| workspace::find_program(program).is_some())
        && Step::new("ask for venv", "python3").args(["-c", "import ensurepip, venv"]).succeeds()
    {
        return Ok(());
    }
    setup::install(&setup::VALIDATORS)
}

/// Runs the Python tests of a folder; those whose name contains `filter` where there is one.
pub fn run_tests(title: &str, folder: &str, filter: Option<&str>, variables: &[(&str, String)]) -> Result<()> {
    let directory = workspace::root().join(folder);
    if !directory.is_dir() {
        bail!("{} is missing", directory.display());
    }
    let mut step = Step::new(title, python()).directory(&directory).args([
        "-W",
        "ignore::ResourceWarning",
        "-B",
        "-m",
        "unittest",
        "-v",
    ]);
    if let Some(filter) = filter {
        step = step.args(["-k", filter]);
    }
    for (name, value) in variables {
        step = step.env(name, value);
    }
    step.run()
}
