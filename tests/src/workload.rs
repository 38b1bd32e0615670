//! A program of `examples`, with its handshake: it says `ready`, works when told to, says `ended`, and tells its truth.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::figures::seconds;
use crate::program::target_directory;

/// A workload whose threads are parked, at work, or parked again. Killed when dropped, unless a container holds it.
pub struct Workload {
    name: String,
    process: Process,
    input: Option<Box<dyn Write + Send>>,
    output: BufReader<Box<dyn Read + Send>>,
}

/// Who looks after the workload's process.
#[derive(Debug)]
enum Process {
    /// This test.
    Child(Child),
    /// A container runtime; the id is the host's.
    Contained(u32),
}

/// Finds the program of a workload: in the directory that `PROFILER_EXAMPLES` names, or where cargo builds, in release
/// form if there is one.
pub fn path(name: &str) -> Result<PathBuf> {
    let directories = match std::env::var_os("PROFILER_EXAMPLES") {
        Some(directory) => vec![PathBuf::from(directory)],
        None => ["release", "debug"]
            .map(|profile| Ok(target_directory()?.join(profile)))
            .into_iter()
            .collect::<Result<_>>()?,
    };
    directories
        .iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("workload {name} is not in {directories:?}: run `cargo build --release -p examples`"))
}

/// Puts a workload and the shared libraries it needs into `root`, as the file system of a container: the program is
/// then at `/NAME`.
pub fn install(name: &str, root: &Path) -> Result<()> {
    let program = path(name)?;
    let listed = Command::new("ldd").arg(&program).output().context("cannot run ldd")?;
    ensure!(listed.status.success(), "ldd cannot read {}", program.display());
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    // Lines are `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
    let libraries = listed.lines().flat_map(str::split_whitespace).filter(|word| word.starts_with('/'));
    for library in libraries {
        let place = root.join(library.trim_start_matches('/'));
        if let Some(directory) = place.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(library, &place).with_context(|| format!("cannot copy {library} into {}", root.display()))?;
    }
    fs::copy(&program, root.join(name)).with_context(|| format!("cannot copy {name} into {}", root.display()))?;
    Ok(())
}

/// Compiles `examples/c/chain.c` into `directory`: the workload whose whole stack has frame pointers.
pub fn compile_chain(directory: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/c/chain.c");
    let program = directory.join("chain");
    let status = Command::new("cc")
        .args([
            "-O1",
            "-g",
            "-fno-omit-frame-pointer",
            "-mno-omit-leaf-frame-pointer",
            "-fno-shrink-wrap",
            "-fno-optimize-sibling-calls",
        ])
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()
        .context("cannot run cc")?;
    ensure!(status.success(), "cc cannot compile {}", source.display());
    Ok(program)
}

/// Compiles `examples/c/deep.c` into `directory`: a workload without frame pointers. With `library`, as a library that has the
/// function `deep_main`.
pub fn compile_deep(directory: &Path, library: bool) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/c/deep.c");
    let program = directory.join(if library { "libdeep.so" } else { "deep" });
    let kind: &[&str] = if library { &["-shared", "-fPIC", "-Dmain=deep_main"] } else { &[] };
    let status = Command::new("cc")
        .args(["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"])
        .args(kind)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()
        .context("cannot run cc")?;
    ensure!(status.success(), "cc cannot compile {}", source.display());
    Ok(program)
}

impl Workload {
    /// Starts a workload of `examples` on the host itself and waits until it is ready.
    pub fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        Self::spawn(name, Command::new(path(name)?).arg("--handshake").args(arguments))
    }

    /// Starts it in a cgroup.
    pub fn start_in(cgroup: &Cgroup, name: &str, arguments: &[&str]) -> Result<Self> {
        Self::spawn(name, cgroup.command(&path(name)?).arg("--handshake").args(arguments))
    }

    /// Starts any command that speaks the handshake (a workload inside a container, say) and waits until it is ready.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start workload {name}"))?;
        let input = child.stdin.take().context("a workload without standard input")?;
        let output = child.stdout.take().context("a workload without standard output")?;
        Self::attach(name, Process::Child(child), Box::new(input), Box::new(output))
    }

    fn attach(
        name: &str,
        process: Process,
        input: Box<dyn Write + Send>,
        output: Box<dyn Read + Send>,
    ) -> Result<Self> {
        let output = BufReader::new(output);
        let mut workload = Self { name: name.to_owned(), process, input: Some(input), output };
        workload.expect_line("ready")?;
        Ok(workload)
    }

    /// Its process id on the host.
    pub fn pid(&self) -> u32 {
        match &self.process {
            Process::Child(child) => child.id(),
            Process::Contained(pid) => *pid,
        }
    }

    /// Lets the work begin.
    pub fn begin(&mut self) -> Result<()> {
        let input = self.input.as_mut().context("the workload has begun to end")?;
        input.write_all(b"b").with_context(|| format!("workload {} does not begin", self.name))?;
        input.flush().with_context(|| format!("workload {} does not begin", self.name))
    }

    /// Waits for the end of the work.
    pub fn wait_ended(&mut self) -> Result<()> {
        self.expect_line("ended")
    }

    /// Lets it go, and reads its truth.
    pub fn truth(mut self) -> Result<Truth> {
        self.input = None;
        let line = self.line()?;
        if let Process::Child(child) = &mut self.process {
            let status = child.wait().with_context(|| format!("cannot wait for workload {}", self.name))?;
            ensure!(status.success(), "workload {} ended with {status}", self.name);
        }
        Ok(Truth(serde_json::from_str(&line).with_context(|| format!("workload {} said {line:?}", self.name))?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).with_context(|| format!("cannot read from workload {}", self.name))?;
        Ok(line.trim_end().to_owned())
    }

    fn expect_line(&mut self, word: &str) -> Result<()> {
        match self.line()? {
            line if line == word => Ok(()),
            line => bail!("workload {} said {line:?} where {word:?} was due", self.name),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Process::Child(child) = &mut self.process {
            // Already gone and reaped in the good case; then both are refused, and that is fine.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A workload packed for a container that has a shell: its files, and two FIFOs for the handshake (which can be written
/// to even where they are mounted read-only).
#[derive(Debug)]
pub struct Packed {
    name: String,
    root: TempDir,
}

impl Packed {
    /// Packs a workload of `examples`.
    pub fn new(name: &str) -> Result<Self> {
        let root = TempDir::new()?;
        install(name, root.path())?;
        for fifo in ["in", "out"] {
            rustix::fs::mkfifoat(rustix::fs::CWD, root.path().join(fifo), rustix::fs::Mode::RWXU)
                .with_context(|| format!("cannot make the FIFO {fifo}"))?;
        }
        Ok(Self { name: name.to_owned(), root })
    }

    /// What to mount, and where: the workload itself, and its libraries where its loader looks for them.
    pub fn mounts(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut mounts = vec![(self.root.path().to_owned(), "/workload".to_owned())];
        for entry in fs::read_dir(self.root.path())? {
            let path = entry?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_dir()) {
                mounts.push((path.clone(), format!("/{name}")));
            }
        }
        Ok(mounts)
    }

    /// The container's command.
    pub fn command(&self, arguments: &[&str]) -> Vec<String> {
        let program = format!("exec /workload/{} --handshake \"$@\" < /workload/in > /workload/out", self.name);
        ["/bin/sh", "-c", &program, "workload"].iter().chain(arguments).map(|word| (*word).to_owned()).collect()
    }

    /// Waits until the workload in the started container is ready. `pid` is the host's id of its first process.
    pub fn connect(&self, pid: u32) -> Result<Workload> {
        let path = self.root.path();
        // Opened both ways, so that it does not wait for the other side.
        let input = File::options().read(true).write(true).open(path.join("in")).context("cannot open the FIFO in")?;
        let output = File::open(path.join("out")).context("cannot open the FIFO out")?;
        Workload::attach(&self.name, Process::Contained(pid), Box::new(input), Box::new(output))
    }
}

/// What a workload says it did.
#[derive(Debug, Clone)]
pub struct Truth(pub Value);

impl Truth {
    /// A figure by JSON pointer (`/brief/waited_ns`).
    pub fn number(&self, pointer: &str) -> Result<u64> {
        self.0.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no figure {pointer} in {}", self.0))
    }

    /// A figure in nanoseconds as seconds.
    pub fn seconds(&self, pointer: &str) -> Result<f64> {
        Ok(seconds(self.number(pointer)?))
    }

    /// Number of threads that were there before and after the work.
    pub fn threads(&self) -> Result<f64> {
        Ok(self.0["threads"].as_array().context("no threads in the truth")?.len() as f64)
    }

    /// Length of the work in seconds.
    pub fn work_s(&self) -> Result<f64> {
        Ok(self.seconds("/end/monotonic_ns")? - self.seconds("/begin/monotonic_ns")?)
    }
}
