//! Whose cgroup is it: cgroup id in, container, pod and unit out.
//!
//! [`hierarchy`] finds the cgroup hierarchy that tells containers apart, [`cgroup`] walks it, [`identity`] reads an id
//! out of a path, [`ownership`] tells how much of the path can be believed, [`runtime`] asks the container runtimes for names and labels on a thread of its own, and
//! [`ContainerResolver`] joins them for a collection. [`limits`] reads what the kernel itself keeps about a cgroup.
//!
//! A container never waits for its name: until a runtime has told, it goes by the first twelve digits of its id.

use std::io;
use std::path::PathBuf;

pub mod cgroup;
mod delegated;
pub mod hierarchy;
pub mod identity;
pub mod limits;
mod naming;
pub mod ownership;
mod pattern;
mod resolver;
pub mod runtime;

pub use cgroup::{Cgroup, CgroupId};
pub use hierarchy::{Hierarchy, Version};
pub use identity::Runtime;
pub use naming::Description;
pub use pattern::{ContainerPattern, Selection};
pub use resolver::{ContainerKey, ContainerResolver, ResolverLosses, ResolverOptions};

/// Why containers cannot be told apart here.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither cgroup2 nor a usable v1 controller is mounted.
    #[error(
        "no cgroup hierarchy is mounted that tells containers apart (looked in /proc/self/mountinfo); mount cgroup2 \
         (`mount -t cgroup2 none /sys/fs/cgroup`), or in a container mount the host's with a hostPath volume and name \
         its mount point with --cgroup-root"
    )]
    NoHierarchy,
    /// The user named a root that holds no cgroups.
    #[error(
        "{} is not a cgroup hierarchy: nothing of type cgroup2 or cgroup is mounted there; name the mount point of \
         cgroup2 as `mount -t cgroup2` prints it",
        path.display()
    )]
    NotACgroupRoot {
        /// What was named.
        path: PathBuf,
    },
    /// A file of /proc could not be read.
    #[error("cannot read {}: {source}; /proc must be mounted and readable", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that asks the runtimes could not be started.
    #[error("cannot start the thread that asks container runtimes for names: {0}")]
    Thread(io::Error),
    /// A pattern that cannot be read.
    #[error(
        "`{pattern}` is not a pattern for {what}: {reason}; use a name, an id (4 digits or more) or a glob such as `web*`"
    )]
    BadPattern {
        /// `containers`, `pods` or `namespaces`.
        what: &'static str,
        /// What was given.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// A pattern that nothing matches.
    #[error("no {what} matches `{pattern}`; there {existing}")]
    NoMatch {
        /// `container`, `pod` or `namespace`.
        what: &'static str,
        /// What was given.
        pattern: String,
        /// What exists, as a clause.
        existing: String,
    },
    /// A runtime socket that is not given as a Unix socket.
    #[error("`{0}` is not a runtime socket; give its path, as in unix:///run/docker.sock")]
    BadSocket(String),
}
