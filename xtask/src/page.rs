//! `cargo xtask page-test`: the daemon's page in a headless Chromium, against answers whose figures are known and against a daemon started
//! for it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup;
use crate::step::say;
use crate::validators;
use crate::workspace;

/// Tests the daemon's page in a browser.
#[derive(Args)]
pub struct PageTest {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Keep screenshots in this folder.
    #[arg(long)]
    screenshots: Option<String>,
    /// Leave out the tests against a real daemon.
    #[arg(long)]
    no_daemon: bool,
}

impl PageTest {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        validators::prepare()?;
        let mut variables = Vec::new();
        if let Some(folder) = &self.screenshots {
            variables.push(("PAGE_SCREENSHOTS", workspace::root().join(folder).display().to_string()));
        }
        let daemon = if self.no_daemon { None } else { daemon()? };
        if let Some(daemon) = &daemon {
            variables.push(("PROFILER_URL", daemon.address.clone()));
        }
        validators::run_tests("test the page", "tests/page", self.filter.as_deref(), &variables)
    }
}

/// All of it, as a step of `cargo xtask test`.
pub fn check() -> Result<()> {
    PageTest { filter: None, screenshots: None, no_daemon: false }.run()
}

/// A daemon where one can run; what is missing is said, or a failure where the kernel is required.
fn daemon() -> Result<Option<Daemon>> {
    let program = workspace::release_binary("profiler");
    let missing = if !program.is_file() {
        Some(format!("{} is not built", program.display()))
    } else if !setup::is_root()? {
        Some("this is not root".to_owned())
    } else {
        None
    };
    let Some(missing) = missing else {
        return Daemon::start(&program).map(Some);
    };
    if setup::kernel_is_required() {
        bail!("{missing}: the page cannot be tested against a daemon");
    }
    say(format!("{missing}; the tests of the page against a daemon are left out"));
    Ok(None)
}

/// A daemon of our own, ended when this goes.
struct Daemon {
    process: Child,
    address: String,
}

impl Daemon {
    fn start(program: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("no free port on loopback")?
            .port();
        let listen = format!("127.0.0.1:{port}");
        say(format!("start the daemon on {listen}"));
        let process = Command::new(program)
            .args(["daemon", "--window", "2s", "--web.listen-address", &listen])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { process, address: format!("http://{listen}") })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // By SIGTERM, so that it detaches what it attached; a daemon that does not listen to that is killed.
        let asked = Command::new("kill").arg(self.process.id().to_string()).status();
        let patience = Instant::now() + Duration::from_secs(15);
        while asked.is_ok() && Instant::now() < patience {
            match self.process.try_wait() {
                Ok(Some(_)) => return,
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(_) => break,
            }
        }
        say("the daemon did not end when asked to; killing it");
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
