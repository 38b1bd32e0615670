//! What tests of these rooms share: programs compiled on the spot, and processes that tell where they stand.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Pid;

pub type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Says why a test that needs the kernel is left out; fails instead where the environment promises that it can run.
#[expect(clippy::print_stderr, reason = "a test speaks to whoever runs it")]
pub fn skip(reason: &str) -> TestResult {
    if std::env::var("PROFILER_REQUIRE_KERNEL").as_deref() == Ok("1") {
        return Err(format!("cannot run, but must: {reason}").into());
    }
    eprintln!("skipped: {reason}");
    Ok(())
}

/// Prints the address of `known_function` and blocks there until stdin ends, `depth` calls deep.
pub const LANDMARK: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static __attribute__((noinline)) long known_function(long depth) {
    char byte;
    long length = 0;
    if (depth > 0)
        return known_function(depth - 1) + 1;
    printf("%p\n%p\n", (void *)known_function, __builtin_frame_address(0));
    fflush(stdout);
    __asm__ volatile("syscall" : "=a"(length) : "a"(0), "D"(0), "S"(&byte), "d"(1) : "rcx", "r11", "memory");
    return length;
}
int main(int argc, char **argv) {
    long depth = argc > 1 ? atol(argv[1]) : 0;
    return known_function(depth) == depth ? 0 : 1;
}
"#;

/// Compiles C; the program is called `name`.
pub fn compile(directory: &Path, name: &str, source: &str, arguments: &[&str]) -> std::io::Result<PathBuf> {
    let path = directory.join(name);
    let input = directory.join(format!("{name}.c"));
    std::fs::write(&input, source)?;
    run(Command::new("gcc")
        .arg("-O1")
        .arg("-fno-optimize-sibling-calls")
        .arg("-fno-omit-frame-pointer")
        .args(["-o"])
        .arg(&path)
        .arg(&input)
        .args(arguments))?;
    Ok(path)
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> std::io::Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("{command:?}: {status}"))) }
}

/// A child that answers on stdout and ends when its stdin does.
pub struct Probe {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Probe {
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no stdout"))?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// The next line, an address.
    pub fn address(&mut self) -> Result<u64, Box<dyn std::error::Error>> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(u64::from_str_radix(line.trim().trim_start_matches("0x"), 16)?)
    }

    pub fn say(&mut self, line: &str) -> std::io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Ok(()),
        }
    }

    /// Lets it end, and waits.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.stdin = None;
        self.child.wait().map(drop)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
