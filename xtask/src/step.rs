//! One step of a command: an external program with a line that says what it is for, what it took and how it ended.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Says on stderr what is going on.
pub fn say(message: impl AsRef<str>) {
    eprintln!("[xtask] {}", message.as_ref());
}

/// The cargo this program was started by, in the root of the checkout.
///
/// It does not see what `cargo run` says of this package: build scripts that read it would run again whenever cargo is started in
/// another way, and all that depends on them would be compiled again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
    for (name, _) in std::env::vars_os() {
        if of_this_package.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(&name);
        }
    }
    command
}

/// An external program about to be run.
pub struct Step {
    title: String,
    command: Command,
}

impl Step {
    /// A step called `title` that runs `program` in the root of the checkout.
    pub fn new(title: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(workspace::root());
        Self { title: title.into(), command }
    }

    /// A step that runs the cargo this program was started by.
    pub fn cargo(title: impl Into<String>) -> Self {
        Self { title: title.into(), command: cargo() }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it somewhere else than in the root of the checkout.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Forgets what `cargo run` and rustup put into the environment, so that another toolchain finds its own files.
    pub fn without_cargo_environment(mut self) -> Self {
        for (name, _) in std::env::vars_os() {
            let Some(text) = name.to_str() else { continue };
            let foreign = ["CARGO_PKG_", "CARGO_BIN_", "CARGO_PROFILE_", "RUSTUP_TOOLCHAIN"];
            let exact = [
                "CARGO",
                "CARGO_MANIFEST_DIR",
                "CARGO_MANIFEST_PATH",
                "CARGO_TARGET_DIR",
                "CARGO_BUILD_TARGET",
                "CARGO_ENCODED_RUSTFLAGS",
                "RUSTFLAGS",
                "RUSTC",
                "RUSTC_WRAPPER",
                "RUSTC_WORKSPACE_WRAPPER",
                "LD_LIBRARY_PATH",
                "CARGO_INCREMENTAL",
            ];
            if exact.contains(&text) || foreign.iter().any(|prefix| text.starts_with(prefix)) {
                self.command.env_remove(&name);
            }
        }
        self
    }

    /// Runs it, output to the terminal; anything but success is an error.
    pub fn run(mut self) -> Result<()> {
        say(&self.title);
        let started = Instant::now();
        let status =
            self.command.status().with_context(|| format!("cannot start {}", self.command.get_program().display()))?;
        if !status.success() {
            bail!("{}: `{}` ended with {status}", self.title, self.line());
        }
        let seconds = started.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            say(format!("{}: done in {seconds:.1} s", self.title));
        }
        Ok(())
    }

    /// Runs it silently and returns what it printed on stdout; anything but success is an error that holds stderr.
    pub fn read(mut self) -> Result<String> {
        let output = self.output()?;
        if !output.status.success() {
            bail!(
                "{}: `{}` ended with {}\n{}",
                self.title,
                self.line(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it silently; true if it succeeded.
    pub fn succeeds(mut self) -> bool {
        self.output().is_ok_and(|output| output.status.success())
    }

    fn output(&mut self) -> Result<Output> {
        self.command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.command.get_program().display()))
    }

    fn line(&self) -> String {
        std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
