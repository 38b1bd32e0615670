//! The sprint's platform, shortened: real containers of a real Redis Cluster, nginx, the API and JMeter.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::program::{self, finish};
use tests::requirement::{kernel, missing};

fn platform() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests lie in the checkout")?;
    Ok(root.join("examples/api-platform"))
}

fn missing_program() -> Option<&'static str> {
    let wanted = [
        "/usr/sbin/dockerd",
        "/usr/bin/redis-server",
        "/usr/sbin/nginx",
        "/usr/bin/java",
        "/usr/bin/python3.11",
        "/usr/lib/python3/dist-packages/yaml/__init__.py",
    ];
    wanted.into_iter().find(|file| !Path::new(file).exists())
}

#[test]
fn the_fixed_platform_answers_more_than_95_percent_of_jmeters_requests() -> Result<()> {
    let Some(_turn) = kernel()? else { return Ok(()) };
    if let Some(file) = missing_program() {
        missing::<()>(&format!("needs {file}: `cargo xtask setup --examples`"))?;
        return Ok(());
    }
    let service = program::target_directory()?.join("release/api-service");
    ensure!(service.is_file(), "{} is missing: run `cargo xtask build`", service.display());
    let mut command = Command::new("/usr/bin/python3.11");
    command.arg(platform()?.join("sprint.py")).args(["integration", "--quick"]);
    command.env("PROFILER_BIN", program::path()?).env("CARGO_TARGET_DIR", program::target_directory()?);
    let finished = finish(&mut command)?.expect_code(0)?;
    ensure!(finished.stdout.contains("success rate"), "no success rate is printed:\n{}", finished.stdout);
    Ok(())
}
