//! Plants: threads that wait for known times, each for a reason of its own.
//!
//! The profiler must say: for each reason of `by_reason` that much `blocked_*_s` (within 5 %; the clock also counts the time
//! that a woken thread waited for a CPU). Parked threads add to `blocked_other` outside of the work. The threads that
//! never wake are in the off-CPU profile for as long as the window lasts.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use examples::crew::Crew;
use examples::path::{never_answered_root, never_woken_root};
use examples::run::{RunOptions, goes_on, parse_seconds};
use examples::truth::monotonic_ns;
use serde::Serialize;

/// Threads that wait for known times.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// How long to work
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    seconds: f64,
    /// How to wait: one thread each (and a peer that answers, where one is needed)
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Nanosleep])]
    kinds: Vec<Kind>,
    /// Length of each wait in milliseconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    wait: u32,
    /// Further threads that block before the work begins and never wake
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1024))]
    never: u32,
    /// Each wait once, instead of until the time is up
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Nanosleep,
    ClockNanosleep,
    /// poll without descriptors
    Poll,
    /// select without descriptors
    Select,
    /// read of a timerfd
    Timerfd,
    /// epoll_wait on a silent socket
    Epoll,
    /// read of a pipe that a peer writes to
    Pipe,
    /// wait4 for a child that sleeps
    Wait4,
    /// read of a UNIX socket whose peer answers late
    Unix,
    /// read of a TCP socket on loopback whose peer answers late
    Tcp,
    /// FUTEX_WAIT with a timeout
    Futex,
}

/// A part of the ledger's blocked time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Reason {
    Lock,
    Network,
    Sleep,
    Other,
}

#[derive(Clone, Copy, Serialize)]
struct Waiter {
    kind: &'static str,
    reason: Reason,
    waits: u64,
    waited_ns: u64,
}

#[derive(Serialize)]
struct Slept {
    /// Time waited by the clock for each reason, peers and children included.
    by_reason: BTreeMap<Reason, u64>,
    /// The same by thread.
    waiters: Vec<Waiter>,
    /// Threads that never wake.
    never_waking: u32,
}

/// Waiter until the work is over, and adds it up by the clock.
fn keep_waiting(kind: &'static str, reason: Reason, once: bool, mut wait: impl FnMut() -> bool) -> Waiter {
    let mut waits = Waiter { kind, reason, waits: 0, waited_ns: 0 };
    while goes_on() {
        let begin_ns = monotonic_ns();
        let more = wait();
        waits.waited_ns += monotonic_ns() - begin_ns;
        waits.waits += 1;
        if once || !more {
            break;
        }
    }
    waits
}

fn nanosleep(duration: Duration) {
    let duration = timespec(duration);
    // SAFETY: the request outlives the call; no remainder is asked for.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const duration, null_mut::<libc::timespec>()) };
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// A thread that sleeps and then sends one byte, again and again, to whoever waits for it.
fn answer_late(mut to: impl Write, wait: Duration, once: bool) -> Waiter {
    keep_waiting("peer", Reason::Sleep, once, || {
        nanosleep(wait);
        // Whoever waited has gone when the work is over: a broken pipe is the end.
        to.write_all(b"!").is_ok()
    })
}

fn read_answer(from: &mut impl Read) -> bool {
    match from.read(&mut [0]) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::Interrupted,
    }
}

fn timerfd(wait: Duration) -> Result<RawFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    let spec = libc::itimerspec { it_interval: timespec(wait), it_value: timespec(wait) };
    // SAFETY: the specification outlives the call; the old one is not asked for.
    if fd < 0 || unsafe { libc::timerfd_settime(fd, 0, &raw const spec, null_mut()) } < 0 {
        bail!("cannot set a timer: {}", std::io::Error::last_os_error());
    }
    Ok(fd)
}

fn silent_epoll() -> Result<(RawFd, (UnixStream, UnixStream))> {
    let sockets = UnixStream::pair()?;
    // SAFETY: takes no pointers.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: both descriptors are open and the event outlives the call.
    if epoll < 0 || unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, sockets.0.as_raw_fd(), &raw mut event) } < 0 {
        bail!("cannot watch a socket: {}", std::io::Error::last_os_error());
    }
    Ok((epoll, sockets))
}

fn wait_for_child(wait: Duration) -> bool {
    // SAFETY: the child makes bare syscalls only and ends without returning.
    unsafe {
        let child = libc::syscall(libc::SYS_fork);
        if child == 0 {
            nanosleep(wait);
            libc::syscall(libc::SYS_exit_group, 0);
        }
        child > 0 && libc::syscall(libc::SYS_wait4, child, null_mut::<i32>(), 0, null_mut::<libc::rusage>()) > 0
    }
}

fn tcp_pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let client = TcpStream::connect(listener.local_addr()?).context("cannot connect over loopback")?;
    let (server, _) = listener.accept().context("cannot accept over loopback")?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

fn add_waiter(crew: &mut Crew<Waiter>, kind: Kind, wait: Duration, once: bool) -> Result<()> {
    static NEVER_CHANGES: AtomicU32 = AtomicU32::new(0);
    let timeout = wait.as_millis() as i32;
    let request = timespec(wait);
    match kind {
        Kind::Nanosleep => crew.worker("nanosleep", move || {
            keep_waiting("nanosleep", Reason::Sleep, once, || {
                nanosleep(wait);
                true
            })
        }),
        Kind::ClockNanosleep => crew.worker("clock_nanosleep", move || {
            keep_waiting("clock_nanosleep", Reason::Sleep, once, || {
                thread::sleep(wait);
                true
            })
        }),
        Kind::Poll => crew.worker("poll", move || {
            // SAFETY: no descriptors are passed.
            keep_waiting("poll", Reason::Sleep, once, || unsafe { libc::poll(null_mut(), 0, timeout) } == 0)
        }),
        Kind::Select => crew.worker("select", move || {
            keep_waiting("select", Reason::Sleep, once, || {
                // SAFETY: no descriptors are passed; the timeout outlives the call.
                unsafe { libc::pselect(0, null_mut(), null_mut(), null_mut(), &raw const request, null_mut()) == 0 }
            })
        }),
        Kind::Timerfd => {
            let fd = timerfd(wait)?;
            crew.worker("timerfd", move || {
                keep_waiting("timerfd", Reason::Sleep, once, || {
                    let mut expirations = [0; 8];
                    // SAFETY: the buffer is as long as a timerfd needs it.
                    unsafe { libc::read(fd, expirations.as_mut_ptr().cast(), expirations.len()) == 8 }
                })
            })
        }
        Kind::Epoll => {
            let (epoll, sockets) = silent_epoll()?;
            crew.worker("epoll", move || {
                let _open = &sockets;
                keep_waiting("epoll", Reason::Network, once, || {
                    let mut event = libc::epoll_event { events: 0, u64: 0 };
                    // SAFETY: there is room for the one event asked for.
                    unsafe { libc::epoll_wait(epoll, &raw mut event, 1, timeout) == 0 }
                })
            })
        }
        Kind::Pipe => {
            let (mut reader, writer) = pipe()?;
            crew.worker("pipe-peer", move || answer_late(writer, wait, once))?;
            crew.worker("pipe", move || keep_waiting("pipe", Reason::Other, once, || read_answer(&mut reader)))
        }
        Kind::Wait4 => {
            crew.worker("wait4", move || keep_waiting("wait4", Reason::Other, once, || wait_for_child(wait)))
        }
        Kind::Unix => {
            let (mut reader, writer) = UnixStream::pair()?;
            crew.worker("unix-peer", move || answer_late(writer, wait, once))?;
            crew.worker("unix", move || keep_waiting("unix", Reason::Network, once, || read_answer(&mut reader)))
        }
        Kind::Tcp => {
            let (mut reader, writer) = tcp_pair()?;
            crew.worker("tcp-peer", move || answer_late(writer, wait, once))?;
            crew.worker("tcp", move || keep_waiting("tcp", Reason::Network, once, || read_answer(&mut reader)))
        }
        Kind::Futex => crew.worker("futex", move || {
            keep_waiting("futex", Reason::Lock, once, || {
                // SAFETY: the word is static and the timeout outlives the call.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        NEVER_CHANGES.as_ptr(),
                        libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                        0,
                        &raw const request,
                    );
                }
                true
            })
        }),
    }
}

fn main() -> Result<()> {
    static NEVER_WOKEN: AtomicU32 = AtomicU32::new(0);
    let options = Options::parse();
    let wait = Duration::from_millis(u64::from(options.wait));
    let mut crew = Crew::new(&options.run)?;
    let (silent, _never_written) = pipe()?;
    for index in 0..options.never {
        let silent = silent.try_clone()?;
        crew.bystander(&format!("never-{index}"), move || {
            if index % 2 == 0 {
                while never_answered_root(silent.as_raw_fd()) < 0 {}
            } else {
                loop {
                    never_woken_root(&NEVER_WOKEN);
                }
            }
        })?;
    }
    for kind in &options.kinds {
        add_waiter(&mut crew, *kind, wait, options.once)?;
    }
    crew.measure("sleeper", Some(options.seconds), |waiters| {
        let mut by_reason = BTreeMap::new();
        for waits in &waiters {
            *by_reason.entry(waits.reason).or_default() += waits.waited_ns;
            if waits.kind == "wait4" {
                *by_reason.entry(Reason::Sleep).or_default() += waits.waits * wait.as_nanos() as u64;
            }
        }
        Slept { by_reason, waiters, never_waking: options.never }
    })
}
