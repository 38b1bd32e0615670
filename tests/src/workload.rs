//! A program of `examples`, with its handshake: it says `ready`, works when told to, says `ended`, and tells its truth.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::figures::seconds;
use crate::program::target_directory;

/// A workload whose threads are parked, at work, or parked again. Killed when dropped.
#[derive(Debug)]
pub struct Workload {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
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
        .args(["-O1", "-g", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer", "-fno-optimize-sibling-calls"])
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
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a workload without standard output")?);
        let mut workload = Self { name: name.to_owned(), child, input, output };
        workload.expect_line("ready")?;
        Ok(workload)
    }

    /// Its process id, on the host, unless a runtime's client stands in between.
    pub fn pid(&self) -> u32 {
        self.child.id()
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
        let status = self.child.wait().with_context(|| format!("cannot wait for workload {}", self.name))?;
        ensure!(status.success(), "workload {} ended with {status}", self.name);
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
        // Already gone and reaped in the good case; then both are refused, and that is fine.
        drop(self.child.kill());
        drop(self.child.wait());
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
