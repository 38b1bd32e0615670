//! From a source file to a command that runs it: builds what must be built, into `target/planted`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::truth::{Program, source};
use crate::setup::{self, EXAMPLES};
use crate::step::Step;
use crate::workspace;

/// Python of the distribution: what a container's image would have.
const PYTHON: &str = "/usr/bin/python3.11";

/// Program and leading arguments.
#[derive(Debug, Clone)]
pub struct Runnable {
    /// The executable.
    pub program: PathBuf,
    /// What comes before the arguments of the example.
    pub arguments: Vec<String>,
}

/// Builds programs into one folder.
pub struct Builder {
    out: PathBuf,
}

impl Builder {
    /// Installs what is missing and compiles all Rust programs at once, with frame pointers.
    pub fn new(rust: bool) -> Result<Self> {
        setup::install(&EXAMPLES)?;
        let out = workspace::target().join("planted");
        fs::create_dir_all(out.join("bin")).with_context(|| format!("cannot create {}", out.display()))?;
        if rust {
            Step::cargo("build the examples in Rust")
                .args(["build", "--release", "--package", "examples", "--bins", "--target-dir"])
                .arg(&out)
                .env("RUSTFLAGS", "-Cforce-frame-pointers=yes")
                .run()?;
        }
        Ok(Self { out })
    }

    /// Builds a program of the suite.
    pub fn program(&self, program: &Program) -> Result<Runnable> {
        self.build(&program.name, &source(&program.folder)?)
    }

    /// Builds one source file under a name.
    pub fn build(&self, name: &str, source: &Path) -> Result<Runnable> {
        let extension = source.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let binary = self.out.join("bin").join(name);
        match extension {
            "c" => compile_c(source, &binary),
            "go" => compile_go(source, &binary),
            "java" => self.compile_java(name, source),
            "rs" => Ok(self.out.join("release").join(name).into()),
            "py" => Ok(interpreted(PYTHON, &[], source)),
            "sh" => Ok(interpreted("/bin/sh", &[], source)),
            "js" => {
                // What V8 inlines has no frame of its own, as with the compilers above.
                let options = ["--perf-basic-prof", "--interpreted-frames-native-stack", "--no-turbo-inlining"];
                let node = workspace::find_program("node").context("there is no node on the PATH")?;
                Ok(interpreted(node, &options, source))
            }
            other => bail!("{}: nothing here builds `.{other}`", source.display()),
        }
    }

    fn compile_java(&self, name: &str, source: &Path) -> Result<Runnable> {
        let classes = self.out.join("java").join(name);
        Step::new(format!("build {name}"), "javac")
            .arg("-d")
            .arg(&classes)
            .arg(workspace::root().join("examples/planted/support/Meter.java"))
            .arg(source)
            .read()?;
        let java = workspace::find_program("java").context("there is no java on the PATH")?;
        let options = ["-XX:+PreserveFramePointer", "-XX:+UseSerialGC", "-cp"].map(str::to_owned);
        let arguments = options.into_iter().chain([classes.display().to_string(), "Main".to_owned()]).collect();
        Ok(Runnable { program: java, arguments })
    }
}

fn compile_c(source: &Path, binary: &Path) -> Result<Runnable> {
    let support = workspace::root().join("examples/planted/support");
    Step::new(format!("build {}", binary.display()), "gcc")
        .args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fno-inline"])
        .args(["-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-I"])
        .arg(support)
        .arg(source)
        .arg("-o")
        .arg(binary)
        .args(["-lpthread", "-lm"])
        .read()?;
    Ok(binary.to_path_buf().into())
}

fn compile_go(source: &Path, binary: &Path) -> Result<Runnable> {
    let folder = source.parent().context("a source in no folder")?;
    Step::new(format!("build {}", binary.display()), "go")
        // Inlined functions have no frame of their own, which would make the blamed one a matter of luck.
        .args(["build", "-gcflags=-l", "-o"])
        .arg(binary)
        .arg(folder)
        .directory(&workspace::root().join("examples"))
        .env("GOFLAGS", "-buildvcs=false")
        .read()?;
    Ok(binary.to_path_buf().into())
}

fn interpreted(program: impl Into<PathBuf>, options: &[&str], source: &Path) -> Runnable {
    let source = source.display().to_string();
    Runnable { program: program.into(), arguments: options.iter().map(ToString::to_string).chain([source]).collect() }
}

impl From<PathBuf> for Runnable {
    fn from(program: PathBuf) -> Self {
        Self { program, arguments: Vec::new() }
    }
}
