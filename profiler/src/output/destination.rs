//! Where output goes: a file that is replaced whole or not at all, a device or pipe, or standard output.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::OutputError;

/// Mode of a file that its owner alone may read.
const PRIVATE: u32 = 0o600;

/// Sticky directories that anybody may write to, such as /tmp.
const SHARED: u32 = 0o1002;

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Its owner, whatever the umask and the file that it replaces: it says what a whole host runs.
    Private,
    /// Whoever the umask, or the file that it replaces, lets.
    #[default]
    Usual,
}

/// Runs `render` on a writer to `path`; `-` is standard output.
///
/// A regular file is written beside its final place and renamed, so that nobody sees half of it and a failure leaves
/// what was there. A reader that goes away (`| head`) is no error.
///
/// In a directory that anybody may write to, nothing is written through a link or into a device that somebody else put there.
pub fn write(
    path: &Path,
    access: Access,
    render: impl FnOnce(&mut dyn Write) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    if path == Path::new("-") {
        return ignore_broken_pipe(through(io::stdout().lock(), render));
    }
    let in_place = |error| match error {
        OutputError::Io(error) => unwritable(path, error),
        other => other,
    };
    refuse_planted(path).map_err(|error| unwritable(path, error))?;
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let device = OpenOptions::new().write(true).open(path).map_err(|error| unwritable(path, error))?;
        return ignore_broken_pipe(through(device, render)).map_err(in_place);
    }
    let draft = Draft::create(path, access).map_err(|error| unwritable(path, error))?;
    through(&draft.file, render).map_err(in_place)?;
    draft.publish(path).map_err(|error| unwritable(path, error))
}

/// Whether `path` can be written, found out by trying: for callers that work long before they have something to write.
pub fn check(path: &Path) -> Result<(), OutputError> {
    if path == Path::new("-") {
        return Ok(());
    }
    refuse_planted(path).map_err(|error| unwritable(path, error))?;
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return Ok(());
    }
    Draft::create(path, Access::Private).map(drop).map_err(|error| unwritable(path, error))
}

/// Whether `path` is standard output and that is a terminal.
pub fn is_terminal(path: &Path) -> bool {
    path == Path::new("-") && io::stdout().is_terminal()
}

fn through(
    sink: impl Write,
    render: impl FnOnce(&mut dyn Write) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let mut writer = BufWriter::with_capacity(1 << 16, sink);
    render(&mut writer)?;
    writer.flush()?;
    Ok(())
}

fn ignore_broken_pipe(result: Result<(), OutputError>) -> Result<(), OutputError> {
    match result {
        Err(OutputError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A file in the making; removed unless it is published.
struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    fn create(target: &Path, access: Access) -> io::Result<Self> {
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut draft_name = OsString::from(".");
        draft_name.push(name);
        draft_name.push(format!(".{}.partial", std::process::id()));
        let path = directory_of(target).join(draft_name);
        // Never through a link that somebody else left there; what an earlier run of this process id left is in the way.
        let mode = if access == Access::Private { PRIVATE } else { 0o666 };
        let create = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                create()?
            }
            other => other?,
        };
        let draft = Self { file, path };
        let own = draft.file.metadata()?.uid();
        let there = fs::metadata(target).ok().filter(|there| there.uid() == own);
        match (access, there) {
            (Access::Private, _) => draft.file.set_permissions(fs::Permissions::from_mode(PRIVATE))?,
            (Access::Usual, Some(there)) => {
                draft.file.set_permissions(fs::Permissions::from_mode(there.mode() & 0o777))?;
            }
            (Access::Usual, None) => {}
        }
        Ok(draft)
    }

    fn publish(self, target: &Path) -> io::Result<()> {
        // A file that is a link is replaced where it points to, as writing in place would do.
        let place = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        match fs::rename(&self.path, &place) {
            // A link may lead to another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::copy(&self.path, &place).map(drop),
            other => other,
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already when published; otherwise nothing more can be done about it here.
        drop(fs::remove_file(&self.path));
    }
}

/// An error if `path` is a link, a device or a pipe that somebody else may have put there for others to write to: it is in a
/// shared directory and belongs neither to this user nor to the directory's owner. The kernel refuses the same where
/// `fs.protected_symlinks` and its like are on.
fn refuse_planted(path: &Path) -> io::Result<()> {
    let (Ok(there), Ok(directory)) = (fs::symlink_metadata(path), fs::metadata(directory_of(path))) else {
        return Ok(());
    };
    let kind = there.file_type();
    let harmless = kind.is_file() || kind.is_dir();
    let shared = directory.mode() & SHARED == SHARED;
    let trusted = [rustix::process::geteuid().as_raw(), directory.uid()].contains(&there.uid());
    if harmless || !shared || trusted {
        return Ok(());
    }
    let what = if kind.is_symlink() { "a link" } else { "no file" };
    let text = format!("it is {what} that user {} put into a directory for everybody", there.uid());
    Err(io::Error::other(text))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn unwritable(path: &Path, error: io::Error) -> OutputError {
    let directory = directory_of(path);
    let remedy = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!("make the directory {} first, or name another output with -o", directory.display())
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{} is not writable for you; name another output with -o", directory.display())
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename => "name a file in it with -o".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some space, or name another output with -o".to_owned()
        }
        _ => "name another output with -o".to_owned(),
    };
    OutputError::Unwritable { path: path.to_owned(), remedy, error }
}
