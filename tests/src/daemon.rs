//! `profiler daemon` on a port of its own, asked over plain sockets.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program;

/// How long anything may take: naming a busy host's first window takes seconds.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A running daemon. Killed when dropped.
pub struct Daemon {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }
}

impl Daemon {
    /// Starts one with windows of a second and waits until it serves.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Self> {
        let mut command = program::command(["daemon", "--web.listen-address", "127.0.0.1:0", "--window", "1s"])?;
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the daemon")?;
        let stderr = child.stderr.take().context("a daemon without standard error")?;
        let log = Arc::new(Mutex::new(String::new()));
        let serving = follow(stderr, Arc::clone(&log));
        if let Ok(address) = serving.recv_timeout(PATIENCE) {
            Ok(Self { child, address, log })
        } else {
            drop(child.kill());
            drop(child.wait());
            bail!("the daemon does not serve:\n{}", log.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has logged this: a line that it wrote before it answered may be read after the answer.
    pub fn says(&self, text: &str) -> Result<()> {
        let began = Instant::now();
        while !self.log().contains(text) {
            if began.elapsed() > Duration::from_secs(5) {
                bail!("nobody is told \"{text}\": {}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Asks for a path.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// Sends these bytes and reads until the end.
    pub fn ask(&self, request: &str) -> Result<Answer> {
        ask_at(self.address, request)
    }

    /// Asks again and again until `enough` has something to say.
    pub fn until<T>(&self, path: &str, enough: impl Fn(&Answer) -> Option<T>) -> Result<T> {
        let began = Instant::now();
        loop {
            let answer = self.get(path)?;
            if let Some(found) = enough(&answer) {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                bail!("{path} never said what was waited for; the last answer is {}: {}", answer.status, answer.text());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for its first window.
    pub fn ready(&self) -> Result<()> {
        self.until("/readyz", |answer| (answer.status == 200).then_some(()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid() as i32).context("a process without an id")?;
        kill_process(pid, signal).context("cannot signal the daemon")
    }

    /// Ends it as a service manager does.
    pub fn end(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > PATIENCE {
                bail!("the daemon does not end:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends these bytes to whoever listens there and reads until the end.
pub fn ask_at(address: SocketAddr, request: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.context("an answer without a status")?, head, body: bytes.split_off(end + 4) })
}

/// Collects the log and tells the address once it is said.
fn follow(stderr: impl Read + Send + 'static, log: Arc<Mutex<String>>) -> Receiver<SocketAddr> {
    let (told, serving) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let address = line.split_once("serving http://").and_then(|(_, address)| address.trim().parse().ok());
            if let Some(address) = address {
                // Nobody may be waiting any more.
                told.send(address).ok();
            }
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    });
    serving
}

/// The value of a sample in the text format: the line that begins with `name` and has all of `labels`.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .find(|line| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\""))))
        .and_then(|line| line.rsplit_once(' '))
        .and_then(|(_, value)| value.parse().ok())
}
