//! An HTTP server that takes what the daemon pushes, and does to it what it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;

use crate::daemon::PATIENCE;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// Where to.
    pub path: String,
    /// Header values by name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, decompressed if it was compressed.
    pub body: Vec<u8>,
}

/// What the server does to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Takes them.
    Accept,
    /// Answers with this status.
    Refuse(u16),
    /// Reads them and says nothing.
    Hang,
}

struct State {
    behaviour: Behaviour,
    requests: Vec<Received>,
}

/// The server. Its threads end with the test program.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// Starts one.
    pub fn start(behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { behaviour, requests: Vec::new() }));
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&of_thread);
                // A client that leaves in the middle is none of our business.
                thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        Ok(Self { address, state })
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something else from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// Everything that came so far, accepted or not.
    pub fn requests(&self) -> Vec<Received> {
        self.state().requests.clone()
    }

    /// Waits until `enough` has something to say of what came.
    pub fn until<T>(&self, what: &str, enough: impl Fn(&[Received]) -> Result<Option<T>>) -> Result<T> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(found) = enough(&self.requests())? {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(200));
        }
        bail!("never: {what}; {} requests came", self.requests().len())
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split_ascii_whitespace().nth(1).context("no request line")?.to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length: usize = headers.get("content-length").context("a body of unknown length")?.parse()?;
        let mut raw = vec![0; length];
        reader.read_exact(&mut raw)?;
        let mut body = Vec::new();
        if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            GzDecoder::new(&*raw).read_to_end(&mut body)?;
        } else {
            body = raw;
        }
        let behaviour = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(Received { path, headers, body });
            state.behaviour
        };
        let mut writer = stream;
        match behaviour {
            Behaviour::Accept => writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?,
            Behaviour::Refuse(status) => {
                writer.write_all(format!("HTTP/1.1 {status} No\r\nContent-Length: 7\r\n\r\nnot now").as_bytes())?;
            }
            Behaviour::Hang => {
                thread::sleep(PATIENCE);
                return Ok(());
            }
        }
    }
}
