//! The options every workload shares, and the agreement with whoever measures it on when the work begins and ends.
//!
//! With `--handshake` the workload says `ready` on standard output once all its threads are parked, begins when it reads
//! a byte, says `ended` when the work is done and nothing but parked threads is left, and prints its truth after it read
//! a second byte or the end of input. A recording that starts after `ready` and stops after `ended` therefore holds
//! the whole work and, besides, only parked threads. Inside, the workload speaks with `readv` and `writev` only, so
//! that `read` and `write` belong to the work alone.
//!
//! Without it the work begins at once and the truth is printed at its end, or on SIGTERM or SIGINT.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::truth::{Truth, monotonic_ns};

/// Options of every workload.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunOptions {
    /// Wait for a byte on standard input before the work begins and after it has ended
    #[arg(long)]
    pub handshake: bool,
    /// Write the truth to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// CPUs to pin the threads to, in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub cpu: Vec<usize>,
}

static STOP: AtomicBool = AtomicBool::new(false);
static DEADLINE_NS: AtomicU64 = AtomicU64::new(u64::MAX);

extern "C" fn note_signal(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Makes SIGTERM and SIGINT end the work early instead of the process.
pub fn end_on_signal() -> Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let handler = note_signal as extern "C" fn(libc::c_int);
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        let previous = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        if previous == libc::SIG_ERR {
            bail!("cannot handle signal {signal}: {}", io::Error::last_os_error());
        }
    }
    Ok(())
}

/// When the work has to end, by `CLOCK_MONOTONIC`.
pub fn deadline_ns() -> u64 {
    DEADLINE_NS.load(Ordering::Relaxed)
}

/// Whether the work goes on: no signal came and the deadline has not passed.
pub fn goes_on() -> bool {
    !STOP.load(Ordering::Relaxed) && monotonic_ns() < deadline_ns()
}

/// Sets when the work has to end.
pub(crate) fn set_deadline(seconds: Option<f64>) {
    if let Some(seconds) = seconds {
        DEADLINE_NS.store(monotonic_ns() + (seconds * 1e9) as u64, Ordering::Relaxed);
    }
}

/// Parses a number of seconds that makes sense for a workload.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("needs a number of seconds above 0 and up to 86400".to_owned()),
    }
}

/// Reads one byte by `readv`; `None` at the end. A signal does not end the wait.
pub(crate) fn read_byte(reader: &mut impl Read) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match reader.read_vectored(&mut [IoSliceMut::new(&mut byte)]) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes all of `bytes` by `writev`.
pub(crate) fn write_bytes(writer: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match writer.write_vectored(&[IoSlice::new(bytes)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The other side of the handshake, or nobody.
pub(crate) struct Observer {
    streams: Option<(File, File)>,
}

impl Observer {
    pub(crate) fn new(options: &RunOptions) -> Result<Self> {
        let streams = if options.handshake {
            let input = io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
            let output = io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?;
            Some((File::from(input), File::from(output)))
        } else {
            None
        };
        Ok(Self { streams })
    }

    /// Says `word` and waits for the answer, a byte or the end of input.
    pub(crate) fn say(&mut self, word: &str) -> Result<()> {
        if let Some((input, output)) = &mut self.streams {
            write_bytes(output, format!("{word}\n").as_bytes()).with_context(|| format!("cannot say {word}"))?;
            read_byte(input).with_context(|| format!("no answer to {word}"))?;
        }
        Ok(())
    }
}

/// Writes the truth to where the options say.
pub fn publish<D: Serialize>(options: &RunOptions, truth: &Truth<D>) -> Result<()> {
    let line = serde_json::to_string(truth).context("cannot write the truth as JSON")? + "\n";
    match &options.truth {
        None => io::stdout().write_all(line.as_bytes()).context("cannot print the truth"),
        Some(path) => {
            // Whoever waits for the file must not find half of it.
            let unfinished = path.with_extension("unfinished");
            fs::write(&unfinished, line)
                .and_then(|()| fs::rename(&unfinished, path))
                .with_context(|| format!("cannot write the truth to {}", path.display()))
        }
    }
}
