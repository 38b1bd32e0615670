//! Plants: many small containers, by the look of their cgroups, each with one process that makes thirty different system calls again
//! and again; and, with `--churn`, others that come and go.
//!
//! The profiler must say: as many containers as there are, with thirty kinds of call each, and hold no more memory after an hour
//! of churn than after a few minutes. One line of `{"containers": N}` on standard output says that all run; they end with
//! standard input.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use libc::{c_long, pid_t, syscall};

/// Many small containers.
#[derive(Parser)]
struct Options {
    /// Where cgroup2 is mounted
    #[arg(long)]
    cgroup2: PathBuf,
    /// Containers that stay
    #[arg(long, default_value_t = 200)]
    count: u32,
    /// Milliseconds between two rounds of calls of each
    #[arg(long, default_value_t = 1000)]
    every_ms: u64,
    /// Containers that are started each minute besides, and end a few seconds later
    #[arg(long, default_value_t = 0)]
    churn: u32,
}

/// How long a container of the churn lives.
const LIFE: Duration = Duration::from_secs(5);

/// The calls of a round: each with arguments with which it does no harm, whether it fails or not.
const CALLS: [(c_long, [c_long; 3]); 30] = [
    (libc::SYS_getpid, [0; 3]),
    (libc::SYS_getppid, [0; 3]),
    (libc::SYS_gettid, [0; 3]),
    (libc::SYS_getuid, [0; 3]),
    (libc::SYS_geteuid, [0; 3]),
    (libc::SYS_getgid, [0; 3]),
    (libc::SYS_getegid, [0; 3]),
    (libc::SYS_getpgid, [0; 3]),
    (libc::SYS_getsid, [0; 3]),
    (libc::SYS_getpriority, [0; 3]),
    (libc::SYS_sched_getscheduler, [0; 3]),
    (libc::SYS_sched_get_priority_max, [0; 3]),
    (libc::SYS_umask, [0o22, 0, 0]),
    (libc::SYS_sched_yield, [0; 3]),
    (libc::SYS_close, [-1, 0, 0]),
    (libc::SYS_read, [-1, 0, 0]),
    (libc::SYS_write, [-1, 0, 0]),
    (libc::SYS_readv, [-1, 0, 0]),
    (libc::SYS_writev, [-1, 0, 0]),
    (libc::SYS_pread64, [-1, 0, 0]),
    (libc::SYS_lseek, [-1, 0, 0]),
    (libc::SYS_fstat, [-1, 0, 0]),
    (libc::SYS_fcntl, [-1, 0, 0]),
    (libc::SYS_ioctl, [-1, 0, 0]),
    (libc::SYS_dup, [-1, 0, 0]),
    (libc::SYS_fsync, [-1, 0, 0]),
    (libc::SYS_poll, [0, 0, 0]),
    (libc::SYS_openat, [-1, 0, 0]),
    (libc::SYS_getdents64, [-1, 0, 0]),
    (libc::SYS_shutdown, [-1, 0, 0]),
];

/// A container: its cgroup and its one process. Ended and removed when dropped.
struct Container {
    cgroup: PathBuf,
    pid: pid_t,
    since: Instant,
}

impl Container {
    fn start(root: &Path, number: u32, rounds: Rounds) -> Result<Self> {
        let cgroup = root.join(format!("{number:08x}{}", "c0".repeat(28)));
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        let members = cgroup.join("cgroup.procs");
        // SAFETY: this process has one thread, so the child may do what it likes.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => bail!("cannot fork: {}", std::io::Error::last_os_error()),
            0 => {
                // SAFETY: takes numbers only: the child ends with its parent.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if fs::write(&members, "0").is_err() {
                    std::process::exit(1);
                }
                live(rounds)
            }
            pid => Ok(Self { cgroup, pid, since: Instant::now() }),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody has waited for yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
        if let Err(error) = fs::remove_dir(&self.cgroup) {
            eprintln!("cannot remove {}: {error}", self.cgroup.display());
        }
    }
}

/// When a container makes its calls.
#[derive(Clone, Copy)]
struct Rounds {
    /// The first.
    first: Instant,
    /// Between two.
    every: Duration,
}

/// The life of a container's process. Its rounds come at moments of its own, however long they take: were each to follow the one before,
/// containers that got into each other's way once would soon all run at once.
fn live(Rounds { first, every }: Rounds) -> ! {
    let mut next = first;
    loop {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += every;
        for (number, [first, second, third]) in CALLS {
            // SAFETY: none of them is given memory: pointers are null and descriptors are -1.
            unsafe { syscall(number, first, second, third) };
        }
    }
}

/// Whether standard input has ended; waits for `patience` at most.
fn has_ended(patience: Duration) -> bool {
    let mut input = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as said.
    let ready = unsafe { libc::poll(&raw mut input, 1, patience.as_millis() as i32) };
    ready > 0 && !matches!(std::io::stdin().read(&mut [0]), Ok(1))
}

fn main() -> Result<()> {
    let options = Options::parse();
    let root = options.cgroup2.join("docker");
    let every = Duration::from_millis(options.every_ms.max(1));
    let began = Instant::now();
    // Spread evenly, as those of a node are that have nothing to do with one another.
    let rounds = |number: u32| Rounds { first: began + every * number / options.count.max(1), every };
    let crowd =
        (0..options.count).map(|number| Container::start(&root, number, rounds(number))).collect::<Result<Vec<_>>>()?;
    println!("{{\"containers\": {}}}", crowd.len());
    let pause = match options.churn {
        0 => Duration::from_secs(1),
        churn => Duration::from_mins(1) / churn,
    };
    let (mut guests, mut number) = (VecDeque::new(), options.count);
    while !has_ended(pause) {
        if options.churn > 0 {
            guests.push_back(Container::start(&root, number, Rounds { first: Instant::now(), every })?);
            number += 1;
        }
        while guests.front().is_some_and(|guest: &Container| guest.since.elapsed() > LIFE) {
            guests.pop_front();
        }
    }
    Ok(())
}
