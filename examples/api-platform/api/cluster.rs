//! A client of a Redis Cluster: takes keys, gives their values, over one connection a master. Redirections are followed
//! by learning the slot's new owner.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const SLOTS: u16 = 16_384;
const PATIENCE: Duration = Duration::from_secs(5);

struct Connection {
    out: TcpStream,
    answers: BufReader<TcpStream>,
}

enum Answer {
    Value(Option<Vec<u8>>),
    Moved { slot: u16, address: String },
}

impl Connection {
    fn open(address: &str) -> Result<Self> {
        let out = TcpStream::connect(address).with_context(|| format!("cannot reach the cache at {address}"))?;
        out.set_nodelay(true)?;
        out.set_read_timeout(Some(PATIENCE))?;
        let answers = BufReader::new(out.try_clone()?);
        Ok(Self { out, answers })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn answer(&mut self) -> Result<Answer> {
        let line = self.line()?;
        if let Some(length) = line.strip_prefix('$') {
            let Ok(length) = length.parse::<usize>() else { return Ok(Answer::Value(None)) };
            let mut value = vec![0; length + 2];
            self.answers.read_exact(&mut value)?;
            value.truncate(length);
            return Ok(Answer::Value(Some(value)));
        }
        if let Some(moved) = line.strip_prefix("-MOVED ") {
            let (slot, address) = moved.split_once(' ').context("a redirection without an address")?;
            return Ok(Answer::Moved { slot: slot.parse()?, address: address.to_owned() });
        }
        if line.starts_with('+') {
            return Ok(Answer::Value(Some(line.into_bytes())));
        }
        bail!("the cache said {line:?}")
    }
}

/// Connections to the masters.
pub struct Cluster {
    seed: String,
    owners: HashMap<u16, String>,
    connections: HashMap<String, Connection>,
}

impl Cluster {
    /// A client that learns the cluster from one of its nodes.
    pub fn new(seed: &str) -> Self {
        Self { seed: seed.to_owned(), owners: HashMap::new(), connections: HashMap::new() }
    }

    fn owner(&self, key: &str) -> String {
        self.owners.get(&slot(key)).unwrap_or(&self.seed).clone()
    }

    fn connection(&mut self, address: &str) -> Result<&mut Connection> {
        if !self.connections.contains_key(address) {
            self.connections.insert(address.to_owned(), Connection::open(address)?);
        }
        self.connections.get_mut(address).context("the connection just made")
    }

    /// One command about one key: a question, an answer.
    #[inline(never)]
    pub fn ask(&mut self, verb: &str, key: &str, value: Option<&str>) -> Result<Option<Vec<u8>>> {
        loop {
            let address = self.owner(key);
            let connection = self.connection(&address)?;
            connection.out.write_all(command(verb, key, value).as_bytes())?;
            match connection.answer()? {
                Answer::Value(value) => return Ok(value),
                Answer::Moved { slot, address } => drop(self.owners.insert(slot, address)),
            }
        }
    }

    /// Many keys: all questions of one master are sent before its first answer is read.
    #[inline(never)]
    pub fn get_all(&mut self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut by_owner: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, key) in keys.iter().enumerate() {
            by_owner.entry(self.owner(key)).or_default().push(at);
        }
        for (address, places) in &by_owner {
            let questions: String = places.iter().map(|at| command("GET", &keys[*at], None)).collect();
            self.connection(address)?.out.write_all(questions.as_bytes())?;
        }
        let mut values = vec![None; keys.len()];
        let mut again = Vec::new();
        for (address, places) in by_owner {
            for at in places {
                match self.connection(&address)?.answer()? {
                    Answer::Value(value) => values[at] = value,
                    Answer::Moved { slot, address } => {
                        self.owners.insert(slot, address);
                        again.push(at);
                    }
                }
            }
        }
        for at in again {
            values[at] = self.ask("GET", &keys[at], None)?;
        }
        Ok(values)
    }
}

fn command(verb: &str, key: &str, value: Option<&str>) -> String {
    let head =
        format!("*{}\r\n${}\r\n{verb}\r\n${}\r\n{key}\r\n", 2 + usize::from(value.is_some()), verb.len(), key.len());
    value.map_or(head.clone(), |value| format!("{head}${}\r\n{value}\r\n", value.len()))
}

/// The slot of a key: CRC16 (XMODEM) modulo the number of slots, as the cluster's specification has it.
fn slot(key: &str) -> u16 {
    let crc = key.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn the_specifications_own_example_has_its_slot() {
        assert_eq!(slot("123456789"), 0x31c3);
    }
}
