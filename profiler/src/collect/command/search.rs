//! Which file a command's name means. In: the name, and PATH. Out: the file, found before anything is measured.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What is searched where PATH is not set, as the C library does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The file that execvp(3) would run: a name with a slash is a path; any other is looked for in PATH.
pub(super) fn find(name: &OsStr, path: Option<&OsStr>) -> io::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let not_found = || io::Error::from_raw_os_error(libc::ENOENT);
    if name.is_empty() {
        return Err(not_found());
    }
    let mut refused = None;
    for directory in path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|byte| *byte == b':') {
        // An empty element is the current directory.
        let directory = if directory.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(directory)) };
        let file = directory.join(name);
        if !file.is_file() {
            continue;
        }
        match rustix::fs::accessat(rustix::fs::CWD, &file, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS) {
            Ok(()) => return Ok(file),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.map_or_else(not_found, Into::into))
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_first_executable_file_of_that_name_is_it() -> Result<(), Box<dyn Error>> {
        let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let path = format!("/nonexistent:{}:{}", first.path().display(), second.path().display());
        let found = |name: &str| find(OsStr::new(name), Some(OsStr::new(&path)));
        let kind = |name: &str| found(name).map_err(|error| error.kind());
        assert_eq!(kind("tool"), Err(io::ErrorKind::NotFound));
        assert_eq!(kind(""), Err(io::ErrorKind::NotFound));
        fs::create_dir(first.path().join("tool"))?;
        fs::write(first.path().join("plain"), "")?;
        fs::set_permissions(first.path().join("plain"), fs::Permissions::from_mode(0o644))?;
        assert_eq!(kind("plain"), Err(io::ErrorKind::PermissionDenied));
        for name in ["tool", "plain"] {
            fs::write(second.path().join(name), "")?;
            fs::set_permissions(second.path().join(name), fs::Permissions::from_mode(0o755))?;
            assert_eq!(found(name)?, second.path().join(name), "neither a directory nor what cannot be run");
        }
        assert_eq!(found("./anything/at all")?, Path::new("./anything/at all"));
        assert!(find(OsStr::new("sh"), None)?.is_file());
        Ok(())
    }
}
