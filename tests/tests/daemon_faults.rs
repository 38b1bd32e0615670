//! What may befall a daemon that runs for months: each fault is survived, and counted or said.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tests::cgroup::Cgroup;
use tests::containers::{DOCKER, Docker, IMAGE, check_requirements};
use tests::daemon::{Answer, Daemon, PATIENCE, sample};
use tests::requirement::{kernel, missing};
use tests::workload::Workload;

fn windows(answer: &Answer) -> Option<f64> {
    sample(&answer.text(), "profiler_windows_total", &[])
}

/// Waits until so many more windows were collected.
fn goes_on(daemon: &Daemon) -> Result<()> {
    let before = windows(&daemon.get("/metrics")?).context("no windows")?;
    daemon.until("/metrics", |answer| windows(answer).filter(|now| *now >= before + 3.0))?;
    ensure!(daemon.get("/healthz")?.status == 200, "it calls itself ill");
    Ok(())
}

// ---- certificates ----

/// Writes a certificate that is valid between two years, and its key.
fn certificate(directory: &Path, (from, to): (i32, i32)) -> Result<CertificateDer<'static>> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()])?;
    parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = parameters.self_signed(&key)?;
    // The key first: who reads in between finds a pair that does not match, and keeps the old one.
    fs::write(directory.join("key.pem"), key.serialize_pem())?;
    fs::write(directory.join("cert.pem"), certificate.pem())?;
    Ok(certificate.der().clone())
}

/// Asks by TLS, trusting this certificate alone.
fn ask_by_tls(daemon: &Daemon, trusted: &CertificateDer<'static>) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let stream = TcpStream::connect(daemon.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn an_expired_certificate_is_refused_by_clients_and_its_successor_is_taken_without_a_restart() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("web.yml");
    fs::write(&config, "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n")?;
    let expired = certificate(directory.path(), (2001, 2002))?;
    let daemon = Daemon::start(["--web.config.file".as_ref(), config.as_os_str()])?;
    let error = ask_by_tls(&daemon, &expired).err().context("an expired certificate was trusted")?;
    ensure!(format!("{error:#}").to_lowercase().contains("expired"), "{error:#}");
    // Plain HTTP where TLS is spoken is no way around it.
    let plain = daemon.ask("GET /metrics HTTP/1.0\r\n\r\n");
    ensure!(plain.is_err() || plain.is_ok_and(|answer| answer.status != 200), "it answers without TLS");

    let valid = certificate(directory.path(), (2001, 2090))?;
    let until_taken = |trusted: &CertificateDer<'static>| -> Result<()> {
        let began = Instant::now();
        loop {
            match ask_by_tls(&daemon, trusted) {
                Ok(text) if text.starts_with("HTTP/1.0 200") => return Ok(()),
                other if began.elapsed() > PATIENCE => bail!("the new certificate is never taken: {other:?}"),
                _ => thread::sleep(Duration::from_millis(300)),
            }
        }
    };
    until_taken(&valid)?;
    // Half a file, as a careless renewal leaves it: the old one stays.
    fs::write(directory.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\nMIIB")?;
    thread::sleep(Duration::from_millis(1500));
    until_taken(&valid)?;
    daemon.says("the old one stays")?;
    let next = certificate(directory.path(), (2002, 2091))?;
    until_taken(&next)
}

// ---- disks ----

/// A small file system of our own, unmounted in the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Result<Option<Self>> {
        let directory = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(directory.path());
        if !mount.status().is_ok_and(|status| status.success()) {
            return missing("needs the right to mount a tmpfs");
        }
        Ok(Some(Self(directory)))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

#[test]
fn a_full_disk_costs_windows_on_disk_and_nothing_else() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let Some(disk) = SmallDisk::mount("64k")? else { return Ok(()) };
    let filler = disk.0.path().join("filler");
    // As full as it gets.
    drop(fs::write(&filler, vec![1; 1 << 20]));
    let daemon = Daemon::start(["--storage.path".as_ref(), disk.0.path().as_os_str()])?;
    let failures = |answer: &Answer| sample(&answer.text(), "profiler_storage_failures_total", &[]);
    daemon.until("/metrics", |answer| failures(answer).filter(|failed| *failed >= 2.0))?;
    let status = daemon.get("/api/v1/status")?.json()?["history"]["storage"].clone();
    ensure!(status["last_error"].as_str().is_some_and(|error| error.contains("space")), "the status says {status}");
    goes_on(&daemon)?;
    ensure!(daemon.get("/api/v1/report?from=-1m")?.status == 200, "the history in memory is gone");
    let left: Vec<PathBuf> = fs::read_dir(disk.0.path())?.flatten().map(|entry| entry.path()).collect();
    ensure!(left == [filler.clone()], "half a window is left: {left:?}");
    let said = |daemon: &Daemon| daemon.log().lines().filter(|line| line.contains("history on disk: cannot")).count();
    ensure!(said(&daemon) == 1, "a disk that stays full is said again and again: {}", daemon.log());
    // Room again: from now on windows are written.
    fs::remove_file(&filler)?;
    Command::new("mount").args(["-o", "remount,size=64m"]).arg(disk.0.path()).status()?;
    let written = |answer: &Answer| answer.json().ok()?["history"]["storage"]["written"].as_u64();
    daemon.until("/api/v1/status", |answer| written(answer).filter(|written| *written >= 2))?;
    daemon.says("windows are written again")?;
    ensure!(daemon.end()?.success(), "it does not end well");
    Ok(())
}

// ---- runtimes ----

#[test]
fn a_runtime_that_hangs_or_talks_nonsense_delays_no_window() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let hanging = UnixListener::bind(path("hanging.sock"))?;
    thread::spawn(move || {
        let held: Vec<_> = hanging.incoming().flatten().collect();
        drop(held);
    });
    let babbling = UnixListener::bind(path("babbling.sock"))?;
    thread::spawn(move || {
        for mut stream in babbling.incoming().flatten() {
            drop(stream.write_all(&vec![0x5a; 100_000]));
        }
    });
    drop(UnixListener::bind(path("refusing.sock"))?);
    let mut arguments = Vec::new();
    for name in ["hanging", "babbling", "refusing", "missing"] {
        arguments.push("--runtime-socket".to_owned());
        arguments.push(format!("unix://{}", path(&format!("{name}.sock")).display()));
    }
    let daemon = Daemon::start(arguments)?;
    daemon.ready()?;
    let cgroup = Cgroup::new()?;
    let mut counter = Workload::start_in(&cgroup, "syscall_counter", &["--count", "5000", "--kinds", "getppid"])?;
    counter.begin()?;
    // Under the digits of its id, since nobody tells its name.
    let labels = [("container", cgroup.name()), ("syscall", "getppid")];
    let count = |answer: &Answer| sample(&answer.text(), "profiler_syscall_duration_seconds_count", &labels);
    daemon.until("/metrics", |answer| count(answer).filter(|count| (*count - 5000.0).abs() < 0.5))?;
    goes_on(&daemon)?;
    daemon.says("refusing.sock")?;
    daemon.says("missing.sock")?;
    Ok(())
}

// ---- many ----

#[test]
fn ten_thousand_short_lived_cgroups_leave_nothing_behind() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    let first = Cgroup::new()?;
    let parent = first.unified();
    let entries = |answer: &Answer, map: &str| sample(&answer.text(), "profiler_map_entries", &[("map", map)]);
    let before = entries(&daemon.get("/metrics")?, "CONTAINERS").context("no containers")?;
    for number in 0..10_000 {
        let directory = parent.with_file_name(format!("{number:08x}{}", "ee".repeat(28)));
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        fs::remove_dir(&directory)?;
    }
    // One that lives is still found among them.
    let mut counter = Workload::start_in(&first, "syscall_counter", &["--count", "5000", "--kinds", "getppid"])?;
    counter.begin()?;
    let labels = [("container", first.name()), ("syscall", "getppid")];
    let count = |answer: &Answer| sample(&answer.text(), "profiler_syscall_duration_seconds_count", &labels);
    daemon.until("/metrics", |answer| count(answer).filter(|count| (*count - 5000.0).abs() < 0.5))?;
    goes_on(&daemon)?;
    let names = daemon.get("/api/v1/containers?from=-10m")?.text();
    ensure!(!names.contains("eeeeeeee"), "a cgroup without a process is a container");
    let few = |answer: &Answer| entries(answer, "CONTAINERS").filter(|now| *now <= before + 20.0);
    daemon.until("/metrics", few)?;
    Ok(())
}

#[test]
fn rows_of_containers_that_are_gone_are_used_again() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    let rows = |answer: &Answer| sample(&answer.text(), "profiler_map_entries", &[("map", "SYSCALLS")]);
    let mut most = 0.0_f64;
    let mut lost = 0.0;
    for round in 0..12 {
        let cgroups = (0..10).map(|_| Cgroup::new()).collect::<Result<Vec<_>>>()?;
        for cgroup in &cgroups {
            Workload::start_in(cgroup, "syscall_counter", &["--count", "60"])?.begin()?;
        }
        thread::sleep(Duration::from_millis(1500));
        drop(cgroups);
        let answer = daemon.get("/metrics")?;
        let now = rows(&answer).context("no rows")?;
        if round < 6 {
            most = most.max(now);
        }
        lost = sample(&answer.text(), "profiler_losses_total", &[("reason", "syscalls")]).unwrap_or(0.0);
    }
    // Sixty more containers than half-way: without taking rows back there would be some 25 rows for each of them.
    let few = |answer: &Answer| rows(answer).filter(|now| *now < most + 600.0);
    daemon.until("/metrics", few)?;
    ensure!(lost < 100.0, "{lost} calls found no row");
    Ok(())
}

/// Containers that come and go.
const VISITORS: usize = 200;

/// How many of them at a time.
const AT_A_TIME: usize = 4;

#[test]
fn two_hundred_containers_that_come_and_go_keep_their_names_and_leave_nothing() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    if !check_requirements(&DOCKER)? {
        return Ok(());
    }
    let docker = Docker::shared()?;
    let daemon = Daemon::start(["--runtime-socket".to_owned(), format!("unix://{}", docker.socket().display())])?;
    daemon.ready()?;
    let entries = |answer: &Answer, map: &str| sample(&answer.text(), "profiler_map_entries", &[("map", map)]);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map(Iterator::count);
    let first = daemon.get("/metrics")?;
    let before = entries(&first, "CONTAINERS").context("no containers")?;
    let open = descriptors()?;

    let began = Instant::now();
    let runners: Vec<_> = (0..AT_A_TIME).map(|runner| thread::spawn(move || visit(runner))).collect();
    for runner in runners {
        runner.join().map_err(|_| anyhow!("a runner panicked"))??;
    }
    println!("{VISITORS} containers in {:.0} s", began.elapsed().as_secs_f64());
    goes_on(&daemon)?;

    let answer = daemon.get("/api/v1/containers?from=-30m")?.json()?;
    let all = answer["containers"].as_array().into_iter().flatten();
    let found: BTreeSet<String> =
        all.filter(|one| one["runtime"] == "docker").filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect();
    let expected: BTreeSet<String> = (0..VISITORS).map(visitor).collect();
    let lost: Vec<_> = expected.difference(&found).collect();
    let nameless: Vec<_> = found.difference(&expected).collect();
    ensure!(lost.is_empty() && nameless.is_empty(), "lost: {lost:?}; without their names: {nameless:?}");
    daemon.until("/metrics", |answer| entries(answer, "CONTAINERS").filter(|now| *now <= before + 20.0))?;
    // Each container's busybox is a file of its own, held while anything may be asked of it.
    let began = Instant::now();
    while descriptors()? > open + 20 {
        ensure!(began.elapsed() < PATIENCE, "{} descriptors, {open} before", descriptors()?);
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn visitor(number: usize) -> String {
    format!("visitor-{number}")
}

/// Runs every so-manieth container and waits for its end.
fn visit(runner: usize) -> Result<()> {
    let docker = Docker::shared()?;
    for number in (runner..VISITORS).step_by(AT_A_TIME) {
        let mut command = docker.command();
        command.args(["run", "--rm", "--network=none", "--name", &visitor(number), IMAGE, "sleep", "0.2"]);
        let output = command.output().context("cannot run docker")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

// ---- CPUs ----

/// Puts a CPU back online whatever happens, and into the CPU sets that it was in: those of cgroup v1 lose a CPU that goes
/// for good, and whatever runs in them, Docker's containers for example, would never use it again.
struct Offline {
    switch: PathBuf,
    /// Files and what was in them, those of parents first.
    sets: Vec<(PathBuf, String)>,
}

impl Offline {
    fn take(cpu: u32) -> Result<Option<Self>> {
        let switch = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
        let sets = cpu_sets()?;
        if fs::write(&switch, "0").is_err() {
            return missing("needs a CPU that can be taken offline");
        }
        Ok(Some(Self { switch, sets }))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let sets = self.sets.iter().filter(|(file, _)| file.exists()).map(|(file, cpus)| (file, cpus.as_str()));
        for (file, text) in std::iter::once((&self.switch, "1")).chain(sets) {
            if let Err(error) = fs::write(file, text) {
                eprintln!("cannot put {} back: {error}", file.display());
            }
        }
    }
}

/// The CPU sets of cgroup v1 but for the root's, which follows by itself.
fn cpu_sets() -> Result<Vec<(PathBuf, String)>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let roots = fields.filter_map(|fields| match fields[..] {
        [_, path, "cgroup", options, ..] if options.split(',').any(|one| one == "cpuset") => Some(PathBuf::from(path)),
        _ => None,
    });
    let mut sets = Vec::new();
    let mut directories: Vec<PathBuf> = roots.collect();
    while let Some(directory) = directories.pop() {
        for child in fs::read_dir(directory)?.flatten().filter(|child| child.path().is_dir()) {
            let file = child.path().join("cpuset.cpus");
            // Groups come and go.
            let Ok(cpus) = fs::read_to_string(&file) else { continue };
            if !cpus.trim().is_empty() {
                sets.push((file, cpus));
            }
            directories.push(child.path());
        }
    }
    Ok(sets)
}

#[test]
fn a_cpu_that_goes_and_comes_back_is_sampled_again() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start(["--no-syscalls"])?;
    daemon.ready()?;
    let sets = cpu_sets()?;
    let Some(offline) = Offline::take(1)? else { return Ok(()) };
    goes_on(&daemon)?;
    drop(offline);
    for (file, cpus) in sets.iter().filter(|(file, _)| file.exists()) {
        ensure!(fs::read_to_string(file)? == *cpus, "{} has lost a CPU", file.display());
    }
    // Two windows in which it is noticed.
    goes_on(&daemon)?;
    let cgroup = Cgroup::new()?;
    let mut spinner = Workload::start_in(&cgroup, "spinner", &["--threads", "1", "--duty", "100", "--seconds", "6"])?;
    let pinned = Command::new("taskset").args(["--all-tasks", "--pid", "2"]).arg(spinner.pid().to_string()).output()?;
    ensure!(pinned.status.success(), "the spinner cannot be pinned to CPU 1");
    spinner.begin()?;
    // Six seconds at 99 samples a second, less what the machine's other work takes.
    let path = format!("/api/v1/profile?format=folded&kind=cpu&from=-30s&container={}", cgroup.name());
    let samples = |answer: &Answer| {
        let counts = answer.text();
        let sum: u64 = counts.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
        (answer.status == 200 && sum > 150).then_some(sum)
    };
    daemon.until(&path, samples).context("nothing is sampled on the CPU that came back")?;
    Ok(())
}

// ---- requests ----

#[test]
fn a_body_without_end_is_not_read_and_a_pull_under_way_does_not_hold_up_the_end() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    let mut stream = TcpStream::connect(daemon.address())?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"POST /api/v1/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")?;
    let chunk = vec![b'x'; 1 << 20];
    let taken = (0..512).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    ensure!(taken < 512, "half a gibibyte of a body that nobody wants is read");
    ensure!(daemon.get("/healthz")?.status == 200, "it is ill after that");

    let address = daemon.address();
    let pulling = thread::spawn(move || -> Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /debug/pprof/profile?seconds=300 HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    thread::sleep(Duration::from_millis(500));
    // Far less than the five minutes that the pull would take.
    ensure!(daemon.end()?.success(), "SIGTERM is no failure");
    let answer = pulling.join().map_err(|_| anyhow::anyhow!("the pull panicked"))??;
    ensure!(answer.starts_with("HTTP/1.0 503") && answer.contains("ending"), "the pull is answered by {answer}");
    Ok(())
}
