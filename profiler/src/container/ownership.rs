//! Who may have made the directories of a cgroup's path. In: the hierarchy's root and a path. Out: how much of the path can
//! be believed.
//!
//! Whoever may write to a directory of the hierarchy can create cgroups in it under any name. Parts of the hierarchy are
//! delegated to users (`user@1000.service`, rootless Podman), so a name there proves nothing. A name is believed if every
//! directory above it belongs to the owner of the hierarchy, root, and nobody else may write there. The directory that bears
//! the name may belong to anybody: runtimes give a container with a user namespace its own cgroup.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const GROUP_MAY_WRITE: u32 = 0o020;
const ANYBODY_MAY_WRITE: u32 = 0o002;

/// Who owns a directory, and who else may write to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Rights {
    fn of(directory: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(directory)?;
        Ok(Self { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() })
    }

    /// Whether only those can write here who can write to a directory with the rights `root`.
    fn are_no_wider_than(self, root: Self) -> bool {
        let group = self.mode & GROUP_MAY_WRITE == 0 || self.gid == root.gid;
        self.uid == root.uid && group && self.mode & ANYBODY_MAY_WRITE == 0
    }
}

/// The owner of the hierarchy at `root`: 0 on a host.
pub fn owner(root: &Path) -> u32 {
    Rights::of(root).map_or(0, |rights| rights.uid)
}

/// The owner of the cgroup at `path`; `None` if it is gone.
pub fn owner_of(root: &Path, path: &str) -> Option<u32> {
    Rights::of(&super::cgroup::directory(root, path)).ok().map(|rights| rights.uid)
}

/// How many components of `path`, from its beginning, are directories in which nobody but the hierarchy's owner can have
/// made anything. The component behind them is the last whose name is believed.
///
/// A directory that is gone is taken for root's, as nearly all are that hold containers, unless it is called like a user's
/// manager: containers that live for a moment would lose their names otherwise.
pub fn believed(root: &Path, path: &str) -> usize {
    let Ok(of_root) = Rights::of(root) else { return usize::MAX };
    let mut directory = root.to_owned();
    let mut gone = false;
    for (depth, component) in path.split('/').filter(|component| !component.is_empty()).enumerate() {
        directory.push(component);
        // `..` leads out of what is mounted here.
        gone = gone || component == "..";
        let rights = if gone { None } else { Rights::of(&directory).ok() };
        gone = rights.is_none();
        let ours = rights.map_or_else(|| !component.starts_with("user@"), |rights| rights.are_no_wider_than(of_root));
        if !ours {
            return depth;
        }
    }
    usize::MAX
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_path_is_believed_up_to_the_first_directory_that_others_may_write_to() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        assert_eq!(believed(root.path(), "/a/b/c"), usize::MAX);
        fs::set_permissions(root.path().join("a/b"), fs::Permissions::from_mode(0o757)).unwrap();
        assert_eq!(believed(root.path(), "/a/b/c"), 1);
        assert_eq!(believed(root.path(), "/a"), usize::MAX);
        assert_eq!(owner_of(root.path(), "/a/b"), Some(owner(root.path())));
        assert_eq!(owner_of(root.path(), "/a/gone"), None);
    }

    #[test]
    fn what_is_gone_is_roots_unless_it_was_a_users_manager() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(believed(root.path(), "/docker/abc"), usize::MAX);
        assert_eq!(believed(root.path(), "/user.slice/user-1.slice/user@1.service/x.scope"), 2);
        assert_eq!(believed(root.path(), "/../user@1.service/x.scope"), 1);
        assert_eq!(believed(&root.path().join("gone"), "/a"), usize::MAX);
    }

    #[test]
    fn rights_of_a_group_or_of_another_user_are_wider_than_roots() {
        let root = Rights { uid: 0, gid: 0, mode: 0o40755 };
        assert!(root.are_no_wider_than(root));
        assert!(Rights { mode: 0o40775, ..root }.are_no_wider_than(root));
        assert!(!Rights { mode: 0o40775, gid: 5, ..root }.are_no_wider_than(root));
        assert!(Rights { gid: 5, ..root }.are_no_wider_than(root));
        assert!(!Rights { uid: 1000, ..root }.are_no_wider_than(root));
        assert!(!Rights { mode: 0o40757, ..root }.are_no_wider_than(root));
    }
}
