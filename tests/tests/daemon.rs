//! The daemon: what it serves is what happened, and whatever is done to it, it goes on or says why not.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::cgroup::Cgroup;
use tests::daemon::{Answer, Daemon, PATIENCE, sample};
use tests::figures::between;
use tests::program;
use tests::requirement::{kernel, missing};
use tests::workload::Workload;

const CALLS: f64 = 50_000.0;

fn count_of(text: &str, container: &str, syscall: &str) -> Option<f64> {
    sample(text, "profiler_syscall_duration_seconds_count", &[("container", container), ("syscall", syscall)])
}

#[test]
fn counts_are_exact_and_the_dead_containers_last_values_are_scraped_until_they_leave() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let cgroup = Cgroup::new()?;
    let name = cgroup.name().to_owned();
    let daemon = Daemon::start(["--metrics.linger", "15s"])?;
    daemon.ready()?;
    let mut counter = Workload::start_in(&cgroup, "syscall_counter", &["--count", "50000", "--kinds", "getppid"])?;
    counter.begin()?;
    let whole = |answer: &Answer| count_of(&answer.text(), &name, "getppid").filter(|count| *count >= CALLS);
    let counted = daemon.until("/metrics", whole)?;
    ensure!((counted - CALLS).abs() < 0.5, "{counted} calls counted, {CALLS} made");
    drop(counter);
    let last = daemon.get("/metrics")?;
    ensure!(whole(&last).is_some(), "the dead container's figures left at once");
    let other = daemon.get("/api/v1/syscalls?from=-2m&container=".to_owned().as_str())?;
    ensure!(other.status == 200, "{}", other.text());
    let path = format!("/api/v1/syscalls?from=-5m&container={name}");
    let json = daemon.get(&path)?.json()?;
    let calls = json["syscalls"].as_array().context("no syscalls")?;
    let getppid = calls.iter().find(|call| call["name"] == "getppid").context("no getppid")?;
    ensure!(getppid["count"].as_f64() == Some(CALLS), "the API counts {}", getppid["count"]);
    daemon.until("/metrics", |answer| count_of(&answer.text(), &name, "getppid").is_none().then_some(()))?;
    Ok(())
}

/// A Prometheus that scrapes the daemon every second. Killed when dropped.
struct Prometheus {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    fn start(daemon: &Daemon) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: profiler\n  \
             static_configs: [{{targets: ['{}']}}]\n",
            daemon.address()
        );
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=native-histograms")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run prometheus")?;
        Ok(Self { child, address, _directory: directory })
    }

    /// The value of an expression that gives one.
    fn value(&self, expression: &str) -> Result<Option<f64>> {
        let encoded: Vec<String> = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let encoded = encoded.concat();
        let Ok(mut stream) = TcpStream::connect(&self.address) else { return Ok(None) };
        let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let Ok(json) = serde_json::from_str::<Value>(body) else { return Ok(None) };
        let value = json["data"]["result"][0]["value"][1].as_str();
        Ok(value.and_then(|value| value.parse().ok()).filter(|value: &f64| value.is_finite()))
    }

    fn until(&self, expression: &str, enough: impl Fn(f64) -> bool) -> Result<f64> {
        let began = Instant::now();
        let mut last = None;
        while began.elapsed() < PATIENCE {
            last = self.value(expression)?;
            if let Some(value) = last.filter(|value| enough(*value)) {
                return Ok(value);
            }
            thread::sleep(Duration::from_millis(500));
        }
        bail!("{expression} never was what was waited for, but {last:?}")
    }
}

#[test]
fn a_real_prometheus_takes_native_histograms_and_their_quantile_is_the_planted_latency() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    if Command::new("prometheus").arg("--version").output().is_err() {
        return missing::<()>("needs prometheus (`cargo xtask setup --daemon`)").map(drop);
    }
    let cgroup = Cgroup::new()?;
    let daemon = Daemon::start(["--no-offcpu"])?;
    daemon.ready()?;
    let prometheus = Prometheus::start(&daemon)?;
    let arguments = ["--kinds", "clock-nanosleep", "--wait", "20", "--seconds", "20"];
    let mut sleeper = Workload::start_in(&cgroup, "sleeper", &arguments)?;
    sleeper.begin()?;
    let calls =
        format!("profiler_syscall_duration_seconds{{container=\"{}\",syscall=\"clock_nanosleep\"}}", cgroup.name());
    prometheus.until(&format!("histogram_count({calls})"), |count| count > 400.0)?;
    let text = daemon.get("/metrics")?.text();
    let labels = [("container", cgroup.name()), ("syscall", "clock_nanosleep")];
    let mean_s = sample(&text, "profiler_syscall_duration_seconds_sum", &labels).context("no sum")?
        / sample(&text, "profiler_syscall_duration_seconds_count", &labels).context("no count")?;
    ensure!(mean_s >= 0.020, "sleeps of 20 ms take {mean_s} s");
    let median_s = prometheus.until(&format!("histogram_quantile(0.5, {calls})"), |_| true)?;
    // One bucket is 19 %; sleeps end a little late, the later the busier the machine.
    between("the median of sleeps of 20 ms", median_s / 0.020, 1.0 / 1.19, 1.19 * 1.1)?;
    prometheus.until("up{job=\"profiler\"}", |up| up > 0.5)?;
    Ok(())
}

#[test]
fn promtool_finds_nothing_to_complain_about() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    if Command::new("promtool").arg("--version").output().is_err() {
        return missing::<()>("needs promtool (`cargo xtask setup --daemon`)").map(drop);
    }
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    let metrics = daemon.get("/metrics")?;
    ensure!(metrics.head.contains("text/plain; version=0.0.4"), "{}", metrics.head);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().context("no standard input")?.write_all(&metrics.body)?;
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool says: {said}");
    Ok(())
}

#[test]
fn every_route_answers_and_nonsense_is_refused_with_the_reason() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    for route in [
        "/",
        "/assets/app.js",
        "/metrics",
        "/healthz",
        "/api/v1/status",
        "/api/v1/containers",
        "/api/v1/timeline",
        "/api/v1/report",
        "/api/v1/targets",
        "/api/v1/syscalls",
        "/api/v1/coverage",
        "/api/v1/overhead",
        "/api/v1/flame?kind=wall",
        "/api/v1/flame?from=-1m&base_from=-2m",
        "/api/v1/profile",
        "/api/v1/profile?format=folded&kind=offcpu",
        "/api/v1/profile?format=speedscope",
        "/api/v1/profile?format=json",
        "/api/v1/profile?format=recording",
        "/flamegraph.svg?icicle=true",
        "/debug/pprof/profile?seconds=1",
    ] {
        let answer = daemon.get(route)?;
        ensure!(answer.status == 200 && !answer.body.is_empty(), "{route}: {} {}", answer.status, answer.text());
    }
    for (path, status, reason) in [
        ("/api/v1/report?from=yesterday", 400, "yesterday"),
        ("/api/v1/report?form=-5m", 400, "form"),
        ("/api/v1/report?from=-1m&to=-2m", 400, "before"),
        ("/flamegraph.svg?kind=gpu", 400, "gpu"),
        ("/api/v1/profile?format=doc", 400, "format"),
        ("/debug/pprof/profile?seconds=9999", 400, "seconds"),
        ("/api/v1/report?container=%5B", 400, "pattern"),
        ("/api/v1/report?container=no-such-container", 404, "no-such-container"),
        ("/api/v1/report?from=2001-01-01T00:00:00Z&to=2001-01-02T00:00:00Z", 404, "window"),
        ("/etc/passwd", 404, ""),
        ("/assets/..%2f..%2fetc%2fpasswd", 404, ""),
    ] {
        let answer = daemon.get(path)?;
        ensure!(
            answer.status == status && answer.text().contains(reason),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    ensure!(daemon.ask(&large).map_or(true, |answer| answer.status == 431), "a head of 100 kB is taken");
    ensure!(daemon.get("/healthz")?.status == 200, "it is ill after that");
    Ok(())
}

#[test]
fn connections_that_say_nothing_keep_nobody_else_out() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(daemon.address())?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHo")?;
        slow.push(stream);
    }
    ensure!(daemon.get("/healthz")?.status == 200, "slow connections keep others out");
    // They are all closed in the end, and those beyond the limit at once.
    for stream in &mut slow {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    }
    Ok(())
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_attached() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    program::run(["daemon", "--web.listen-address", &address])?.expect_code(1)?.expect_message(&[&address])?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("web.yml");
    fs::write(&file, "basic_auth_users:\n  alice: not a hash\n")?;
    let path = file.display().to_string();
    program::run(["daemon", "--web.config.file", &path])?.expect_code(1)?.expect_message(&["alice"])?;
    fs::write(&file, "window: 10s\nmetrics:\n  max_serie: 7\n")?;
    program::run(["daemon", "--config.file", &path])?.expect_code(2)?.expect_message(&["line 3"])?;
    program::run(["daemon", "--window", "1ms"])?.expect_code(2)?.expect_message(&["window"])
}

#[test]
fn a_wrong_configuration_is_refused_while_running_and_the_old_one_stays() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("profiler.yml");
    fs::write(&file, "metrics: {max_series: 777}\n")?;
    let daemon = Daemon::start(["--config.file".as_ref(), file.as_os_str()])?;
    let series = |answer: &Answer| answer.json().ok().and_then(|json| json["metrics"]["max_series"].as_u64());
    ensure!(series(&daemon.get("/api/v1/status")?) == Some(777), "the file is not read");
    fs::write(&file, "metrics: {max_series: 778}\ncollect: {frequency: 49}\n")?;
    daemon.signal(Signal::HUP)?;
    daemon.until("/api/v1/status", |answer| (series(answer) == Some(778)).then_some(()))?;
    fs::write(&file, "metrics: {max_series: 779}\ncollect:\n  frequency: often\n")?;
    let refused = daemon.ask("POST /-/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    ensure!(refused.status == 400 && refused.text().contains('3'), "{} {}", refused.status, refused.text());
    ensure!(series(&daemon.get("/api/v1/status")?) == Some(778), "the wrong file was taken");
    let text = daemon.get("/metrics")?.text();
    ensure!(sample(&text, "profiler_config_last_reload_successful", &[]) == Some(0.0), "nobody is told");
    daemon.ready()
}

#[test]
fn no_secret_of_a_wrong_configuration_leaves_it() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("profiler.yml");
    let good = "push:\n  interval: 1m\n  otlp:\n    url: http://127.0.0.1:9/s3cr3t-path\n    headers:\n      X-Token: s3cr3t\n";
    fs::write(&file, good)?;
    let daemon = Daemon::start(["--config.file".as_ref(), file.as_os_str()])?;
    for (slip, said) in [
        ("    label: {a: b}\n", "line 7: push.otlp.label: "),
        ("    basic_auth: s3cr3t\n", "line 7: push.otlp.basic_auth: "),
        ("history:\n  max_bytes: s3cr3t\n", "line 8: history.max_bytes: "),
        ("containers: {runtime_sockets: ['tcp://me:s3cr3t@host']}\n", "containers.runtime_sockets"),
    ] {
        fs::write(&file, format!("{good}{slip}"))?;
        let refused = daemon.ask("POST /-/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        ensure!(refused.status == 400 && refused.text().contains(said), "{slip}: {}", refused.text());
        let status = daemon.get("/api/v1/status")?.json()?;
        ensure!(status["config"]["last_error"].as_str().is_some_and(|error| error.contains(said)), "{slip}: {status}");
        daemon.says(said)?;
        for (place, text) in [("answer", refused.text()), ("status", status.to_string()), ("log", daemon.log())] {
            ensure!(!text.contains("s3cr3t"), "{slip}: in the {place}: {text}");
        }
    }
    Ok(())
}

#[test]
fn history_survives_a_restart_and_corrupt_files_do_no_harm() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let start = || Daemon::start(["--storage.path".as_ref(), directory.path().as_os_str()]);
    let daemon = start()?;
    daemon.until("/api/v1/status", |answer| {
        let written = answer.json().ok()?["history"]["storage"]["written"].as_u64()?;
        (written >= 3).then_some(())
    })?;
    // Asked while it ends: answered or refused, never stuck.
    let address = daemon.address();
    let asking = thread::spawn(move || {
        for _ in 0..200 {
            let Ok(mut stream) = TcpStream::connect(address) else { return };
            drop(stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n"));
            drop(stream.read_to_end(&mut Vec::new()));
        }
    });
    ensure!(daemon.end()?.success(), "SIGTERM is no failure");
    ensure!(asking.join().is_ok(), "asking at the end failed");
    fs::write(directory.path().join("window-1-1.profile"), "nonsense")?;
    let daemon = start()?;
    let storage = daemon.get("/api/v1/status")?.json()?["history"]["storage"].clone();
    ensure!(storage["loaded"].as_u64() >= Some(3) && storage["corrupt"].as_u64() == Some(1), "{storage}");
    ensure!(daemon.get("/api/v1/report?from=-10m")?.status == 200, "the old windows cannot be asked for");
    for entry in fs::read_dir(directory.path())?.flatten() {
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        let foreign = entry.path().extension().is_some_and(|kind| kind == "corrupt");
        ensure!(foreign || mode == 0o600, "{} has mode {mode:o}", entry.path().display());
    }
    Ok(())
}

#[test]
fn threads_that_answer_requests_have_no_rights_left() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    let mut seen = 0;
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let path = task?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if !["http", "archive", "storage"].contains(&name.trim()) {
            continue;
        }
        seen += 1;
        let status = fs::read_to_string(path.join("status"))?;
        let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).context("no CapPrm")?;
        ensure!(u64::from_str_radix(held.trim(), 16) == Ok(0), "a thread that answers requests holds {held}");
    }
    ensure!(seen > 0, "there is no such thread");
    Ok(())
}
