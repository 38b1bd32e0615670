//! Boots one guest and waits for what it sends.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Emulation is ten times slower than the machine; a boot with a recording takes about a minute, several at once on a machine
/// that is busy with other things as many times longer.
const PATIENCE: Duration = Duration::from_mins(10);

/// What the guest sent, a section a file.
pub struct Results(String);

impl Results {
    /// The file called `name`.
    pub fn section(&self, name: &str) -> Result<&str> {
        let begin = format!("== begin {name} ==\n");
        let end = format!("== end {name} ==");
        let missing = || format!("the guest did not send {name}; see target/vm/*.console.log");
        let from = self.0.find(&begin).with_context(missing)? + begin.len();
        let length = self.0[from..].find(&end).with_context(missing)?;
        Ok(self.0[from..from + length].trim_end())
    }
}

impl From<String> for Results {
    fn from(text: String) -> Self {
        Self(text.replace('\r', ""))
    }
}

/// Boots `image` with `initramfs`; the guest turns itself off.
pub fn run(image: &Path, initramfs: &Path) -> Result<Results> {
    let console = initramfs.with_extension("console.log");
    let answers = initramfs.with_extension("results.txt");
    for file in [&console, &answers] {
        File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    }
    let child = Command::new("qemu-system-x86_64")
        .args(["-cpu", "max", "-m", "1024", "-smp", "2", "-no-reboot", "-display", "none", "-monitor", "none"])
        .args(["-nic", "none", "-accel", "tcg,thread=single"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        // The kernel's check that the timer ticks counts the host's time, and panics where the host is busy with other things.
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", answers.display()))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start qemu-system-x86_64: run `cargo xtask setup --vm`")?;
    wait(child).with_context(|| format!("the guest's console said:\n{}", tail(&console)))?;
    let bytes = fs::read(&answers).with_context(|| format!("cannot read {}", answers.display()))?;
    let results = String::from_utf8_lossy(&bytes).into_owned();
    if !results.contains("== end of smoke ==") {
        bail!("the guest ended before its smoke did; its console said:\n{}", tail(&console));
    }
    Ok(results.into())
}

fn wait(mut child: Child) -> Result<()> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the emulator")? {
            if status.success() {
                return Ok(());
            }
            bail!("the emulator ended with {status}");
        }
        if started.elapsed() > PATIENCE {
            child.kill().context("cannot end the emulator")?;
            child.wait().context("cannot wait for the emulator")?;
            bail!("the guest did not end within {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The last lines of the console.
fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_what_lies_between_its_markers() {
        let results = Results::from("== begin a ==\r\none\r\ntwo\r\n\r\n== end a ==\r\n== begin b ==\r\n".to_owned());
        assert_eq!(results.section("a").ok(), Some("one\ntwo"));
        assert!(results.section("b").is_err());
        assert!(results.section("c").is_err());
    }
}
