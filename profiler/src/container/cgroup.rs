//! The tree of cgroups: directories in, their ids and paths out.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A cgroup's id within one hierarchy: the inode number of its directory, and what `bpf_get_current_cgroup_id` says on
/// cgroup v2. Never used twice while the machine is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId(pub u64);

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cgroup {
    /// Its id.
    pub id: CgroupId,
    /// Its path below the hierarchy's root, starting with `/`.
    pub path: String,
}

/// What a walk over the tree found, and what it could not see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// The cgroups, each after its parent.
    pub cgroups: Vec<Cgroup>,
    /// Directories that could not be read (permissions); those that vanished in the meantime are not counted.
    pub unreadable: u64,
}

/// Walks all cgroups below (and including) `root`. Directories that vanish meanwhile are left out: they are cgroups
/// that ended.
pub fn walk(root: &Path) -> Walk {
    let mut found = Walk::default();
    let mut pending: Vec<(PathBuf, String)> = vec![(root.to_owned(), "/".to_owned())];
    while let Some((directory, path)) = pending.pop() {
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {
                found.cgroups.push(Cgroup { id: CgroupId(metadata.ino()), path: path.clone() });
            }
            Ok(_) => continue,
            Err(error) => {
                count_unreadable(&mut found, &error);
                continue;
            }
        }
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                count_unreadable(&mut found, &error);
                continue;
            }
        };
        for entry in entries {
            // An error in the middle of a listing is the directory going away under it.
            let Ok(entry) = entry else { break };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let below = if path == "/" { format!("/{name}") } else { format!("{path}/{name}") };
                pending.push((entry.path(), below));
            }
        }
    }
    found
}

/// The id of the cgroup at `path` below `root`, if it is there.
pub fn id_of(root: &Path, path: &str) -> Option<CgroupId> {
    let metadata = fs::metadata(directory(root, path)).ok()?;
    metadata.is_dir().then(|| CgroupId(metadata.ino()))
}

/// The directory of the cgroup at `path` (starting with `/`) below `root`.
pub fn directory(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn count_unreadable(found: &mut Walk, error: &io::Error) {
    // ENODEV is what reading a cgroup that is being removed says.
    let gone = error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV);
    if !gone {
        found.unreadable += 1;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_every_directory_with_its_inode_and_parents_come_first() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("docker/abc/nested")).unwrap();
        fs::create_dir_all(root.path().join("system.slice")).unwrap();
        fs::write(root.path().join("docker/cgroup.procs"), "1\n").unwrap();
        let found = walk(root.path());
        let mut paths: Vec<&str> = found.cgroups.iter().map(|cgroup| cgroup.path.as_str()).collect();
        let position = |path: &str| found.cgroups.iter().position(|cgroup| cgroup.path == path);
        assert!(position("/docker") < position("/docker/abc"));
        assert!(position("/docker/abc") < position("/docker/abc/nested"));
        paths.sort_unstable();
        assert_eq!(paths, ["/", "/docker", "/docker/abc", "/docker/abc/nested", "/system.slice"]);
        let nested = fs::metadata(root.path().join("docker/abc/nested")).unwrap().ino();
        assert_eq!(id_of(root.path(), "/docker/abc/nested"), Some(CgroupId(nested)));
        assert!(found.cgroups.contains(&Cgroup { id: CgroupId(nested), path: "/docker/abc/nested".to_owned() }));
        assert_eq!(found.unreadable, 0);
        assert_eq!(CgroupId(7).to_string(), "7");
    }

    #[test]
    fn a_root_that_is_gone_is_an_empty_tree_and_no_failure() {
        let root = tempfile::tempdir().unwrap();
        let gone = root.path().join("gone");
        assert_eq!(walk(&gone), Walk::default());
        assert_eq!(id_of(&gone, "/x"), None);
        fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(walk(&root.path().join("file")), Walk::default());
        assert_eq!(id_of(root.path(), "/file"), None);
    }

    #[test]
    fn a_directory_that_cannot_be_entered_is_counted() {
        // A name that is too long for the file system fails for root, too.
        let root = tempfile::tempdir().unwrap();
        let found = walk(&root.path().join("x".repeat(300)));
        assert_eq!(found, Walk { cgroups: Vec::new(), unreadable: 1 });
    }

    #[test]
    fn a_tree_that_changes_during_the_walk_does_no_harm() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().to_owned();
        let churn = std::thread::spawn(move || {
            for round in 0..400 {
                let directory = base.join(format!("c{}", round % 7));
                fs::create_dir_all(directory.join("below/deeper")).unwrap();
                fs::remove_dir_all(&directory).unwrap();
            }
        });
        while !churn.is_finished() {
            let found = walk(root.path());
            assert_eq!(found.unreadable, 0);
            assert_eq!(found.cgroups[0].path, "/");
        }
        churn.join().unwrap();
    }
}
