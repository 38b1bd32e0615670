//! The newest kernel of Debian: its unstable archive has the next one before anybody runs it. It is read by an apt of its own,
//! beside the machine's, and nothing is installed.
//!
//! The archive moves, so what a run finds may never have been tried. [`RECORDED`] is the newest kernel that the programs are
//! known to run on: failing there is an error, failing on a newer one is news.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::kernel::{image_in, unpack_all};
use crate::step::{Step, say};
use crate::workspace;

/// The newest version that was tried and passed.
pub const RECORDED: &str = "7.2.13+deb14";

/// The package that depends on the newest kernel's base package, whose name holds the version.
const META: &str = "linux-base-cloud-amd64";
const SOURCE: &str =
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n";
/// How long the archive's lists are taken to be fresh.
const FRESH: Duration = Duration::from_hours(12);

/// Version and image of the newest kernel; where the archive cannot be reached, of the one that was fetched last. None, and it
/// says so, if there is none.
pub fn fetch() -> Option<(String, PathBuf)> {
    let folder = workspace::target().join("vm/sid");
    let error = match fetch_into(&folder) {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    let Some(found) = fetched_last(&folder) else {
        say(format!("WARNING: the newest kernel is NOT TRIED, it cannot be fetched from Debian's archive: {error:#}"));
        return None;
    };
    say(format!("WARNING: Debian's archive does not give its newest kernel: {error:#}; {} is tried again", found.0));
    Some(found)
}

/// Whether a version is later than the one that is recorded.
pub fn is_news(version: &str) -> bool {
    numbers(version) > numbers(RECORDED)
}

/// `7.2.13+deb14` as numbers.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn fetch_into(folder: &Path) -> Result<(String, PathBuf)> {
    let apt = Apt::in_folder(&folder.join("apt"))?;
    apt.update()?;
    let depends = apt.step("ask apt", "apt-cache").args(["depends", "--important", META]).env("LC_ALL", "C").read()?;
    let version = version_in(&depends)
        .with_context(|| format!("{META} depends on no package linux-base-VERSION-cloud-amd64:\n{depends}"))?;
    let of_version = folder.join(version);
    if let Some(image) = image_in(&of_version) {
        return Ok((version.to_owned(), image));
    }
    let package = format!("linux-binary-{version}-cloud-amd64");
    fs::create_dir_all(&of_version).with_context(|| format!("cannot create {}", of_version.display()))?;
    apt.step(format!("fetch {package} (the newest kernel)"), "apt-get")
        .args(["-qq", "download", &package])
        .directory(&of_version)
        .run()?;
    unpack_all(&of_version)?;
    let image = image_in(&of_version).with_context(|| format!("{package} holds no usr/lib/modules/*/vmlinuz"))?;
    fs::write(folder.join("last"), version).context("cannot note which kernel was fetched")?;
    Ok((version.to_owned(), image))
}

fn fetched_last(folder: &Path) -> Option<(String, PathBuf)> {
    let version = fs::read_to_string(folder.join("last")).ok()?.trim().to_owned();
    let image = image_in(&folder.join(&version))?;
    Some((version, image))
}

/// Reads the version out of `Depends: linux-base-7.2.13+deb14-cloud-amd64`.
fn version_in(depends: &str) -> Option<&str> {
    depends.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends: ")?;
        package.strip_prefix("linux-base-")?.strip_suffix("-cloud-amd64")
    })
}

/// An apt that knows the unstable archive alone, and keeps what it knows to itself.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn in_folder(folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        let list = folder.join("sources.list");
        fs::write(&list, SOURCE).with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// A command of apt's with the archive and directories of this one.
    fn step(&self, title: impl Into<String>, program: &str) -> Step {
        let own = |option: &str, path: &str| format!("{option}={}", self.folder.join(path).display());
        let options = [
            own("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            own("Dir::State::Lists", "lists"),
            own("Dir::Cache", "cache"),
            // The download sandbox is a user who may not write here.
            "APT::Sandbox::User=root".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=1".to_owned(),
            "Acquire::http::Timeout=20".to_owned(),
        ];
        options.iter().fold(Step::new(title, program), |step, option| step.args(["-o", option]))
    }

    /// Reads the archive's lists, unless they are fresh.
    fn update(&self) -> Result<()> {
        let stamp = self.folder.join("updated");
        let age = fs::metadata(&stamp).and_then(|data| data.modified()).ok();
        let age = age.and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        self.step("read the lists of Debian's unstable archive", "apt-get").args(["-qq", "update"]).run()?;
        fs::write(&stamp, "").with_context(|| format!("cannot write {}", stamp.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_name_of_what_the_package_depends_on() {
        let listing = "linux-base-cloud-amd64\n  Depends: linux-base-7.2.13+deb14-cloud-amd64\n";
        assert_eq!(version_in(listing), Some("7.2.13+deb14"));
        assert_eq!(version_in("linux-base-cloud-amd64\n  Depends: linux-base\n"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn only_a_later_version_is_news() {
        let later = ["7.2.14+deb14", "7.10.1+deb14", "8.0.1+deb15", "7.2.13+deb15"];
        assert!(later.iter().all(|version| is_news(version)));
        let known = [RECORDED, "7.2.9+deb14", "6.19.2+deb14", "7.1"];
        assert!(known.iter().all(|version| !is_news(version)));
    }
}
