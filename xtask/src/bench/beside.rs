//! Programs that run beside what is measured.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::step::say;

/// A program that is ended when this is dropped: by the end of its input where it has any, else by force.
pub struct Beside(Child);

impl Beside {
    /// Starts a program that says nothing.
    pub fn silent(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}", command.get_program().display()))?))
    }

    /// Starts a program and waits for the line by which it says that all of it runs; it ends with its input.
    pub fn ready(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().context("a program without output")?;
        let this = Self(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            bail!("{name} ended before it was ready");
        }
        Ok(this)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let ended = match self.0.stdin.take() {
            Some(input) => {
                drop(input);
                self.0.wait()
            }
            None => self.0.kill().and_then(|()| self.0.wait()),
        };
        if let Err(error) = ended {
            say(format!("process {} did not end: {error}", self.0.id()));
        }
    }
}
