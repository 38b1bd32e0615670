//! The image: its last stage, as the Dockerfile has it, around the static program. It runs as a container and profiles its host from
//! inside.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::cgroup::Cgroup;
use tests::containers::{DOCKER, Docker, RunOptions};
use tests::daemon::{Answer, PATIENCE, ask_at, sample};
use tests::require;
use tests::requirement::kernel;
use tests::workload::Workload;

const IMAGE: &str = "profiler-test/profiler:1";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The program, linked statically as the Dockerfile links it: where `PROFILER_STATIC` says, or where `cargo xtask build --static`
/// leaves it.
fn static_program() -> Result<PathBuf> {
    let path = std::env::var_os("PROFILER_STATIC").map_or_else(|| root().join("target/static/profiler"), PathBuf::from);
    ensure!(path.is_file(), "{} is missing: run `cargo xtask build --static`", path.display());
    Ok(path)
}

/// What the Dockerfile does after the build, with the program beside it.
fn last_stage() -> Result<String> {
    let file = root().join("deploy/Dockerfile");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (_, last) = text.split_once("FROM scratch").context("the Dockerfile's last stage is not from scratch")?;
    let copied = last.replace("COPY --from=build /out/profiler /profiler", "COPY profiler /profiler");
    ensure!(copied != last, "the last stage does not copy the program:\n{last}");
    Ok(format!("FROM scratch{copied}"))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What makes a container privileged. The engine cannot give away what it does not have itself, and then a privileged container
/// does not start: where a capability is missing on this machine, the container has all others.
fn privileges() -> Result<Vec<String>> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let bounding =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd in /proc/self/status")?;
    let bounding = u64::from_str_radix(bounding.trim(), 16).context("CapBnd is no number")?;
    let missing: Vec<String> = caps::all()
        .into_iter()
        .filter(|capability| bounding & capability.bitmask() == 0)
        .map(|capability| format!("--cap-drop={capability}"))
        .collect();
    if missing.is_empty() {
        return Ok(vec!["--privileged".to_owned()]);
    }
    let unconfined = ["--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"];
    Ok(unconfined.into_iter().map(str::to_owned).chain(missing).collect())
}

/// Removes a container in the end.
struct Removed<'d>(&'d Docker, String);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        drop(self.0.command().args(["rm", "--force", &self.1]).stdout(Stdio::null()).status());
    }
}

#[test]
fn the_image_profiles_its_host_from_inside() -> Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let docker = Docker::shared()?;
    let context = tempfile::tempdir()?;
    fs::copy(static_program()?, context.path().join("profiler"))?;
    fs::write(context.path().join("Dockerfile"), last_stage()?)?;
    run(docker.command().args(["build", "--quiet", "--tag", IMAGE]).arg(context.path()))?;

    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let socket = docker.socket();
    let runtime = socket.parent().context("a socket without a directory")?;
    let id = run(docker
        .command()
        .args(["run", "--detach", "--pid=host", "--network=host", "--read-only"])
        .args(privileges()?)
        .args(["--volume", "/sys/fs/cgroup:/host/cgroup:ro", "--volume"])
        .arg(format!("{}:/host/run:ro", runtime.display()))
        .arg(IMAGE)
        .args(["daemon", "--window", "1s", "--cgroup-root", "/host/cgroup", "--node", "inside"])
        .args(["--web.listen-address", &address.to_string(), "--runtime-socket", "unix:///host/run/docker.sock"]))?;
    let container = Removed(&docker, id);
    let until = |path: &str, what: &str, enough: &dyn Fn(&Answer) -> bool| -> Result<Answer> {
        let began = Instant::now();
        loop {
            if let Ok(answer) = ask_at(address, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
                && enough(&answer)
            {
                return Ok(answer);
            }
            if began.elapsed() > PATIENCE {
                let log = docker.command().args(["logs", &container.1]).output()?;
                bail!("never: {what}\n{}", String::from_utf8_lossy(&log.stderr));
            }
            thread::sleep(Duration::from_millis(300));
        }
    };
    until("/readyz", "it is ready", &|answer| answer.status == 200)?;

    // What runs on the host beside it: a container of the same runtime by its name, and a cgroup of nobody's by its id.
    let neighbour = docker.run(&RunOptions::new("neighbour", ["sh", "-c", "while :; do :; done"]))?;
    let cgroup = Cgroup::new()?;
    let arguments = ["--count", "50000", "--kinds", "getppid"];
    let mut counter = Workload::start_in(&cgroup, "syscall_counter", &arguments)?;
    counter.begin()?;
    let counted = |answer: &Answer| {
        let labels = [("container", cgroup.name()), ("syscall", "getppid")];
        sample(&answer.text(), "profiler_syscall_duration_seconds_count", &labels) == Some(50_000.0)
    };
    until("/metrics", "all calls of the host's process are counted", &counted)?;
    let named = |answer: &Answer| {
        answer.json().is_ok_and(|json| {
            let all = json["containers"].as_array().cloned().unwrap_or_default();
            all.iter().any(|one| one["name"] == "neighbour" && one["ledger"]["cpu_user_s"].as_f64() > Some(0.5))
        })
    };
    until("/api/v1/containers?from=-30s", "the neighbour has its name and its CPU time", &named)?;
    // Names of functions come from the binary inside the neighbour's own root.
    let path = "/api/v1/profile?format=folded&container=neighbour&from=-30s";
    let at_work =
        |answer: &Answer| answer.status == 200 && answer.text().lines().any(|line| line.starts_with("neighbour;sh;"));
    until(path, "there are stacks of the neighbour at work", &at_work)?;
    drop(neighbour);

    run(docker.command().args(["stop", "--time", "60", &container.1]))?;
    let status = run(docker.command().args(["inspect", "--format", "{{.State.ExitCode}}", &container.1]))?;
    ensure!(status == "0", "told to end it exits with {status}");
    Ok(())
}
