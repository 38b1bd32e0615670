//! Where output goes: a file that is replaced whole or not at all, a device or pipe, or standard output.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::OutputError;

/// Runs `render` on a writer to `path`; `-` is standard output.
///
/// A regular file is written beside its final place and renamed, so that nobody sees half of it and a failure leaves
/// what was there. A reader that goes away (`| head`) is no error.
pub fn write(path: &Path, render: impl FnOnce(&mut dyn Write) -> Result<(), OutputError>) -> Result<(), OutputError> {
    if path == Path::new("-") {
        return ignore_broken_pipe(through(io::stdout().lock(), render));
    }
    let in_place = |error| match error {
        OutputError::Io(error) => unwritable(path, error),
        other => other,
    };
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let device = OpenOptions::new().write(true).open(path).map_err(|error| unwritable(path, error))?;
        return ignore_broken_pipe(through(device, render)).map_err(in_place);
    }
    let draft = Draft::create(path).map_err(|error| unwritable(path, error))?;
    through(&draft.file, render).map_err(in_place)?;
    draft.publish(path).map_err(|error| unwritable(path, error))
}

/// Whether `path` can be written, found out by trying: for callers that work long before they have something to write.
pub fn check(path: &Path) -> Result<(), OutputError> {
    if path == Path::new("-") || fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return Ok(());
    }
    Draft::create(path).map(drop).map_err(|error| unwritable(path, error))
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
    fn create(target: &Path) -> io::Result<Self> {
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut draft_name = OsString::from(".");
        draft_name.push(name);
        draft_name.push(format!(".{}.partial", std::process::id()));
        let path = directory_of(target).join(draft_name);
        // Never through a link that somebody else left there; what an earlier run of this process id left is in the way.
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                create()?
            }
            other => other?,
        };
        let draft = Self { file, path };
        if let Ok(there) = fs::metadata(target) {
            draft.file.set_permissions(there.permissions())?;
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
