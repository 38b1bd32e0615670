//! Software as distributions ship it, under load: what stacks are judged by. In: a name. Out: its processes in a cgroup of their
//! own, at work until dropped.
//!
//! Everything lives in a temporary directory, listens on loopback or a socket there, and is killed with its process group.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::cgroup::Cgroup;

/// A program and its load.
#[derive(Debug, Clone, Copy)]
pub struct Software {
    /// What the table calls it.
    pub name: &'static str,
    /// Programs that must be there.
    pub needs: &'static [&'static str],
    /// Whether its sections say how to unwind it, so that framehop can be asked.
    pub is_described: bool,
    start: fn(&mut Stage) -> Result<()>,
}

/// All of it.
pub const SOFTWARE: [Software; 10] = [
    Software { name: "redis-server", needs: &["redis-server", "redis-benchmark"], is_described: true, start: redis },
    Software { name: "nginx", needs: &["nginx", "wrk"], is_described: true, start: nginx },
    Software { name: "postgres", needs: &["pgbench", "setpriv"], is_described: true, start: postgres },
    Software { name: "node", needs: &["node"], is_described: true, start: node },
    Software { name: "python3", needs: &[PYTHON], is_described: true, start: python },
    Software { name: "Go server", needs: &["go", "wrk"], is_described: true, start: go },
    Software { name: "C++", needs: &["g++"], is_described: true, start: cpp },
    Software { name: "Rust", needs: &["rustc"], is_described: true, start: rust },
    Software { name: "static musl", needs: &["musl-gcc"], is_described: false, start: musl },
    Software { name: "busybox-static", needs: &["/bin/busybox"], is_described: false, start: busybox },
];

/// Debian's own, whatever else is on the path.
const PYTHON: &str = "/usr/bin/python3";

/// Where Debian keeps the servers that are not on everybody's path.
const POSTGRES: &str = "/usr/lib/postgresql";

impl Software {
    /// What of [`Self::needs`] is not there.
    pub fn missing(&self) -> Option<&'static str> {
        self.needs.iter().copied().find(|program| find(program).is_none())
    }

    /// Starts it and its load.
    pub fn start(&self) -> Result<Stage> {
        let mut stage = Stage { children: Vec::new(), cgroup: Cgroup::new()?, directory: tempfile::tempdir()? };
        (self.start)(&mut stage).with_context(|| format!("cannot start {}", self.name))?;
        Ok(stage)
    }
}

/// Software at work. Ended when dropped: its processes first, then its cgroup and directory.
#[derive(Debug)]
pub struct Stage {
    children: Vec<Child>,
    cgroup: Cgroup,
    directory: TempDir,
}

impl Stage {
    /// Name of its container.
    pub fn container(&self) -> &str {
        self.cgroup.name()
    }

    /// Whether a process is of this software.
    pub fn holds(&self, pid: u32) -> bool {
        let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        of.contains(self.cgroup.id())
    }

    /// Fails if something of it has ended.
    pub fn check(&mut self) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("process {} ended with {status}", child.id());
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Starts a program that is to be looked at.
    fn inside(&mut self, program: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = self.cgroup.command(program);
        self.spawn(command.args(arguments))
    }

    /// Starts a program that puts load on the others.
    fn outside(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let program = find(program).with_context(|| format!("{program} is missing"))?;
        self.spawn(Command::new(program).args(arguments))
    }

    fn spawn(&mut self, command: &mut Command) -> Result<()> {
        let log = fs::File::create(self.path(&format!("log{}", self.children.len())))?;
        command.current_dir(self.directory.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.children.push(command.spawn().with_context(|| format!("cannot run {command:?}"))?);
        Ok(())
    }

    /// Compiles a source to `program`.
    fn compile(&self, compiler: &str, arguments: &[&str], source: &str, text: &str) -> Result<PathBuf> {
        let (source, program) = (self.file(source, text)?, self.path("program"));
        let compiler = find(compiler).with_context(|| format!("{compiler} is missing"))?;
        let mut command = Command::new(compiler);
        command.current_dir(self.directory.path()).args(arguments).arg("-o").arg(&program).arg(source);
        // Nothing of Go's goes to the home of whoever tests.
        command.env("GOCACHE", self.path("cache")).env("GO111MODULE", "off");
        let output = command.output().context("cannot run the compiler")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(program)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // The group holds whatever it started; who is gone already is no harm.
            if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
            }
            drop(child.wait());
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn required(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is missing"))
}

/// A port of loopback that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn until(what: &str, mut is_there: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_there() {
        ensure!(Instant::now() < deadline, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn listens(port: u16) -> impl FnMut() -> bool {
    move || TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn redis(stage: &mut Stage) -> Result<()> {
    let port = free_port()?;
    let text = port.to_string();
    stage.inside(
        &required("redis-server")?,
        &["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
    )?;
    until("redis-server", listens(port))?;
    let kinds = "set,get,incr,lpush,rpop,sadd,hset,spop,zadd,lrange_100,mset";
    stage.outside("redis-benchmark", &["-p", &text, "-l", "-q", "-c", "20", "-d", "200", "-r", "10000", "-t", kinds])
}

fn nginx(stage: &mut Stage) -> Result<()> {
    let port = free_port()?;
    fs::write(stage.path("page.html"), "<p>nothing to see</p>".repeat(400))?;
    let directory = stage.directory.path().display().to_string();
    let configuration = format!(
        "worker_processes 1; daemon off; pid {directory}/pid; error_log {directory}/error.log; user root;
events {{ worker_connections 256; }}
http {{
  access_log {directory}/access.log; types {{ text/html html; }} default_type text/html; gzip on; gzip_min_length 1;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
  uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  server {{ listen 127.0.0.1:{port}; root {directory}; location /back {{ return 200 'back'; }}
    location /front {{ proxy_pass http://127.0.0.1:{port}/back; }} }}
}}"
    );
    let configuration = stage.file("nginx.conf", &configuration)?.display().to_string();
    stage.inside(&required("nginx")?, &["-c", &configuration])?;
    until("nginx", listens(port))?;
    let script = "local n = 0
request = function() n = n + 1; return wrk.format('GET', n % 3 == 0 and '/front' or '/page.html',
  { ['Accept-Encoding'] = 'gzip' }) end";
    let script = stage.file("mix.lua", script)?.display().to_string();
    let address = format!("http://127.0.0.1:{port}/");
    stage.outside("wrk", &["-t", "1", "-c", "8", "-d", "600", "-s", &script, &address])
}

fn postgres(stage: &mut Stage) -> Result<()> {
    let mut versions: Vec<PathBuf> = fs::read_dir(POSTGRES)
        .context("postgres is missing")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    versions.sort();
    let binaries = versions.pop().context("postgres is missing")?;
    let port = free_port()?.to_string();
    let (data, directory) = (stage.path("data").display().to_string(), stage.directory.path().display().to_string());
    // It refuses to run as root.
    let owner = fs::metadata("/var/lib/postgresql").context("postgres has no home")?;
    std::os::unix::fs::chown(stage.directory.path(), Some(owner.uid()), Some(owner.gid()))?;
    let (user, group) = (owner.uid().to_string(), owner.gid().to_string());
    let as_owner = ["--reuid", &user, "--regid", &group, "--clear-groups", "--"];
    let init = binaries.join("initdb").display().to_string();
    let made = Command::new(required("setpriv")?)
        .args(as_owner)
        .args([&init, "-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"])
        .current_dir(stage.directory.path())
        .output()?;
    ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let server = binaries.join("postgres").display().to_string();
    let mut arguments = as_owner.to_vec();
    let listen = ["-h", "127.0.0.1", "-p", &port, "-k", &directory, "-c", "fsync=off"];
    arguments.extend([&server as &str, "-D", &data]);
    arguments.extend(listen);
    stage.inside(&required("setpriv")?, &arguments)?;
    let bench = required("pgbench")?;
    let target = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    until("postgres", || {
        Command::new(&bench)
            .args(target)
            .args(["-i", "-q", "-s", "2", "postgres"])
            .output()
            .is_ok_and(|made| made.status.success())
    })?;
    let mut arguments = target.to_vec();
    arguments.extend(["-c", "4", "-T", "600", "postgres"]);
    stage.outside("pgbench", &arguments)
}

fn node(stage: &mut Stage) -> Result<()> {
    let script = stage.file("work.js", include_str!("software/work.js"))?.display().to_string();
    stage.inside(&required("node")?, &[&script])
}

fn python(stage: &mut Stage) -> Result<()> {
    let script = stage.file("work.py", include_str!("software/work.py"))?.display().to_string();
    stage.inside(&required(PYTHON)?, &[&script])
}

fn go(stage: &mut Stage) -> Result<()> {
    let program = stage.compile("go", &["build", "-ldflags", "-s -w"], "server.go", include_str!("software/server.go"));
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    stage.inside(&program?, &[&address])?;
    until("the Go server", listens(port))?;
    stage.outside("wrk", &["-t", "1", "-c", "8", "-d", "600", &format!("http://{address}/")])
}

fn cpp(stage: &mut Stage) -> Result<()> {
    let program = stage.compile("g++", &["-O2", "-std=c++17"], "work.cpp", include_str!("software/work.cpp"))?;
    stage.inside(&program, &[])
}

fn rust(stage: &mut Stage) -> Result<()> {
    let arguments = ["-O", "--edition", "2021", "-C", "strip=symbols"];
    let program = stage.compile("rustc", &arguments, "work.rs", include_str!("software/work.rs.txt"))?;
    stage.inside(&program, &[])
}

fn musl(stage: &mut Stage) -> Result<()> {
    let arguments = ["-O2", "-static", "-s", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables"];
    let program = stage.compile("musl-gcc", &arguments, "work.c", include_str!("software/work.c"))?;
    stage.inside(&program, &[])
}

fn busybox(stage: &mut Stage) -> Result<()> {
    let lines: Vec<String> =
        (0..400_000_u64).map(|line| format!("{} {:x} word", line * 7919 % 400_009, line * line)).collect();
    stage.file("text", &lines.join("\n"))?;
    let script = stage.file("work.sh", include_str!("software/work.sh"))?.display().to_string();
    stage.inside(Path::new("/bin/busybox"), &["sh", &script])
}
