//! Cgroups that bear a container's id without being that container for sure. In: the claim and what runtimes say. Out: whether
//! the runtime's word is about this cgroup.
//!
//! Rootless Podman's containers are among them, and so is whatever a user makes up. Each is an entry of its own, by its
//! path: nobody can make another's path.

use std::time::Instant;

use super::identity::ContainerIdentity;
use super::runtime::Metadata;

/// Who can have made the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Root, but another cgroup that root made bears the same id.
    Root,
    /// The user with this number, or somebody they let.
    User(u32),
}

/// What is known of such a cgroup.
#[derive(Debug)]
pub struct Delegated {
    /// What its path says.
    pub identity: ContainerIdentity,
    /// Who can have made it.
    pub holder: Holder,
    /// Whether the process that the runtime calls the container's first is in it.
    pub confirmed: bool,
    /// When it was removed.
    pub removed: Option<Instant>,
}

impl Delegated {
    /// A claim that nobody has confirmed.
    pub fn new(identity: ContainerIdentity, holder: Holder) -> Self {
        Self { identity, holder, confirmed: false, removed: None }
    }

    /// Whether `metadata`, which is about the id that it bears, may be about this cgroup: if no cgroup of root's bears it.
    pub fn may_be(&self, metadata: &Metadata) -> bool {
        let by_its_user = matches!(self.holder, Holder::User(user) if metadata.teller == Some(user));
        self.confirmed || by_its_user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::identity::Runtime;

    #[test]
    fn a_claim_is_believed_of_its_users_runtime_or_if_the_runtimes_process_is_there() {
        let identity =
            ContainerIdentity { id: "x".to_owned(), runtime: Runtime::Podman, pod_uid: None, cgroup: "/x".to_owned() };
        let told_by = |teller| Metadata { teller, ..Metadata::default() };
        let mut claim = Delegated::new(identity, Holder::User(1000));
        assert!(claim.may_be(&told_by(Some(1000))));
        assert!(!claim.may_be(&told_by(Some(1001))));
        assert!(!claim.may_be(&told_by(Some(0))), "root's runtime may mean a container that has ended");
        assert!(!claim.may_be(&told_by(None)));
        claim.confirmed = true;
        assert!(claim.may_be(&told_by(Some(0))));
    }
}
