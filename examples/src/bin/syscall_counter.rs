//! Plants: an exactly known number of calls, failures and bytes, forks among them.
//!
//! The profiler must say: for each entry of `syscalls` exactly that `count`, these `errors` and these `bytes`, 0 lost. A
//! forked child returns from a fork that it never entered: that is no call. With `--trace` each call is timed, and the
//! report's percentiles must be within 10 % of `p50_ns` and `p99_ns`.
//!
//! Every call is made by the bare `syscall` function, and between the begin and the end of the work the process makes no
//! others of these names: the handshake uses `readv` and `writev`. Timing a call goes through the vDSO.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use examples::crew::Crew;
use examples::run::{RunOptions, goes_on};
use examples::truth::{monotonic_ns, quantile};
use libc::{c_long, syscall};
use serde::Serialize;

/// Exactly so many calls of chosen kinds.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// Number of calls, all kinds and threads together
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Kinds of call, made in turn
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    kinds: Vec<Kind>,
    /// Bytes of each read or write
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    bytes: u32,
    /// Number of threads that share the calls
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Forks, spread over the calls; each child makes calls of its own
    #[arg(long, default_value_t = 0)]
    forks: u64,
    /// getpgid calls of each child
    #[arg(long, default_value_t = 10)]
    child_calls: u64,
    /// Time each call
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// read from /dev/zero
    ReadZero,
    /// write to /dev/null
    WriteNull,
    /// write to a pipe and read it back (two calls of the count's one)
    Pipe,
    /// openat of a path that does not exist
    OpenatEnoent,
    /// read from an empty nonblocking pipe
    ReadEagain,
    /// getppid
    Getppid,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::ReadZero, Self::WriteNull, Self::Pipe, Self::OpenatEnoent, Self::ReadEagain, Self::Getppid];
}

#[derive(Default, Serialize)]
struct Calls {
    count: u64,
    errors: BTreeMap<&'static str, u64>,
    bytes: u64,
    /// Median latency by the clock, with `--trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ns: Option<u64>,
    /// 99th percentile of the latency by the clock, with `--trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ns: Option<u64>,
    #[serde(skip)]
    latencies_ns: Vec<u64>,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
        for (errno, count) in other.errors {
            *self.errors.entry(errno).or_default() += count;
        }
        self.latencies_ns.extend(other.latencies_ns);
    }

    fn finish(&mut self) {
        if !self.latencies_ns.is_empty() {
            self.latencies_ns.sort_unstable();
            self.p50_ns = Some(quantile(&self.latencies_ns, 0.5));
            self.p99_ns = Some(quantile(&self.latencies_ns, 0.99));
        }
    }
}

#[derive(Default, Serialize)]
struct Counted {
    /// Calls that returned, by name, those of the children included.
    syscalls: BTreeMap<&'static str, Calls>,
    /// Children forked.
    forks: u64,
}

/// What the calls are made on. Opened before the work begins.
struct Ground {
    zero: File,
    null: File,
    pipe: (PipeReader, PipeWriter),
    empty: (PipeReader, PipeWriter),
    buffer: Vec<u8>,
}

impl Ground {
    fn new(bytes: u32) -> Result<Self> {
        let empty = pipe()?;
        // SAFETY: the descriptor is open, and O_NONBLOCK is a flag that a pipe knows.
        if unsafe { libc::fcntl(empty.0.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            bail!("cannot make a pipe nonblocking: {}", std::io::Error::last_os_error());
        }
        Ok(Self {
            zero: File::open("/dev/zero").context("cannot open /dev/zero")?,
            null: OpenOptions::new().write(true).open("/dev/null").context("cannot open /dev/null")?,
            pipe: pipe()?,
            empty,
            buffer: vec![0; bytes as usize],
        })
    }

    fn read(&mut self, fd: RawFd) -> c_long {
        // SAFETY: the buffer is writable for its whole length.
        unsafe { syscall(libc::SYS_read, fd, self.buffer.as_mut_ptr(), self.buffer.len()) }
    }

    fn write(&self, fd: RawFd) -> c_long {
        // SAFETY: the buffer is readable for its whole length.
        unsafe { syscall(libc::SYS_write, fd, self.buffer.as_ptr(), self.buffer.len()) }
    }
}

struct Counter {
    calls: BTreeMap<&'static str, Calls>,
    trace: bool,
}

impl Counter {
    /// Makes one call and notes what came of it.
    fn make(&mut self, name: &'static str, moves_bytes: bool, call: impl FnOnce() -> c_long) -> c_long {
        let calls = self.calls.entry(name).or_default();
        let begin_ns = if self.trace { monotonic_ns() } else { 0 };
        let result = call();
        if self.trace {
            calls.latencies_ns.push(monotonic_ns() - begin_ns);
        }
        calls.count += 1;
        if result < 0 {
            *calls.errors.entry(errno_name()).or_default() += 1;
        } else if moves_bytes {
            calls.bytes += result as u64;
        }
        result
    }

    fn one(&mut self, kind: Kind, ground: &mut Ground) {
        match kind {
            Kind::ReadZero => {
                let fd = ground.zero.as_raw_fd();
                self.make("read", true, || ground.read(fd));
            }
            Kind::WriteNull => {
                let fd = ground.null.as_raw_fd();
                self.make("write", true, || ground.write(fd));
            }
            Kind::Pipe => {
                let (reader, writer) = (ground.pipe.0.as_raw_fd(), ground.pipe.1.as_raw_fd());
                if self.make("write", true, || ground.write(writer)) > 0 {
                    self.make("read", true, || ground.read(reader));
                }
            }
            Kind::ReadEagain => {
                let fd = ground.empty.0.as_raw_fd();
                self.make("read", true, || ground.read(fd));
            }
            Kind::OpenatEnoent => {
                let path = c"/nonexistent/syscall_counter";
                // SAFETY: the path is a C string that outlives the call.
                let open = || unsafe { syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY, 0) };
                self.make("openat", false, open);
            }
            Kind::Getppid => {
                // SAFETY: getppid takes nothing and cannot fail.
                self.make("getppid", false, || unsafe { syscall(libc::SYS_getppid) });
            }
        }
    }

    /// Forks a child that makes `child_calls` calls and ends; waits for it.
    fn fork(&mut self, child_calls: u64) {
        // SAFETY: the child only makes bare syscalls on its own copy of the stack and ends without returning.
        let child = self.make("fork", false, || unsafe { syscall(libc::SYS_fork) });
        if child == 0 {
            for _ in 0..child_calls {
                // SAFETY: getpgid of the caller takes no pointers.
                unsafe { syscall(libc::SYS_getpgid, 0) };
            }
            // SAFETY: ends the child at once; nothing of it is used afterwards.
            unsafe { syscall(libc::SYS_exit_group, 0) };
        }
        if child > 0 {
            let nowhere = std::ptr::null_mut::<libc::c_int>();
            // SAFETY: null pointers ask for neither status nor usage.
            self.make("wait4", false, || unsafe { syscall(libc::SYS_wait4, child, nowhere, 0, nowhere) });
            self.calls.entry("getpgid").or_default().count += child_calls;
        }
    }
}

fn errno_name() -> &'static str {
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::EAGAIN) => "EAGAIN",
        Some(libc::ENOTDIR) => "ENOTDIR",
        Some(libc::EINTR) => "EINTR",
        Some(libc::ECHILD) => "ECHILD",
        _ => "unexpected",
    }
}

fn count(options: &Options, share: u64, forks: u64, ground: &mut Ground) -> (BTreeMap<&'static str, Calls>, u64) {
    let mut counter = Counter { calls: BTreeMap::new(), trace: options.trace };
    let fork_every = share.checked_div(forks).map_or(u64::MAX, |every| every.max(1));
    let mut forked = 0;
    let mut kinds = options.kinds.iter().cycle();
    let mut made = 0;
    while made < share && goes_on() {
        let Some(kind) = kinds.next() else { break };
        counter.one(*kind, ground);
        made += 1;
        if made % fork_every == 0 && forked < forks {
            counter.fork(options.child_calls);
            forked += 1;
        }
    }
    (counter.calls, forked)
}

fn main() -> Result<()> {
    let options: &'static Options = Box::leak(Box::new(Options::parse()));
    let mut crew = Crew::new(&options.run)?;
    let threads = u64::from(options.threads);
    let part = |total: u64, index: u64| total / threads + u64::from(index < total % threads);
    for index in 0..threads {
        let mut ground = Ground::new(options.bytes)?;
        let (share, forks) = (part(options.count, index), part(options.forks, index));
        crew.worker(&format!("count-{index}"), move || count(options, share, forks, &mut ground))?;
    }
    crew.measure("syscall_counter", None, |threads| {
        let mut counted = Counted::default();
        for (calls, forks) in threads {
            counted.forks += forks;
            for (name, calls) in calls {
                counted.syscalls.entry(name).or_default().add(calls);
            }
        }
        for calls in counted.syscalls.values_mut() {
            calls.finish();
        }
        counted
    })
}
