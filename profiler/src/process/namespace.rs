//! Which namespaces this process is in. In: links in /proc. Out: whether they are the host's.

/// A kind of namespace, of which the host's first has a fixed number (`include/linux/proc_ns.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Process ids.
    Pid,
    /// Users and capabilities.
    User,
}

impl Namespace {
    /// The link in /proc that tells which one this process is in.
    pub fn link(self) -> &'static str {
        match self {
            Self::Pid => "/proc/self/ns/pid",
            Self::User => "/proc/self/ns/user",
        }
    }

    /// Whether a link's text (`pid:[4026531836]`) is that of the host's.
    pub fn is_initial(self, link: &str) -> bool {
        let initial: u32 = match self {
            Self::Pid => 0xEFFF_FFFC,
            Self::User => 0xEFFF_FFFD,
        };
        let inode = link.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
        inode.and_then(|inode| inode.parse::<u32>().ok()) == Some(initial)
    }

    /// Whether this process is known to be in another namespace than the host's first.
    pub fn is_of_our_own(self) -> bool {
        std::fs::read_link(self.link()).is_ok_and(|link| !self.is_initial(&link.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_namespaces_have_fixed_numbers() {
        assert!(Namespace::Pid.is_initial("pid:[4026531836]"));
        assert!(Namespace::User.is_initial("user:[4026531837]"));
        // The last but one is the users' number.
        for other in ["pid:[4026532201]", "pid:[x]", "pid:4026531836", "pid:[4026531837]", ""] {
            assert!(!Namespace::Pid.is_initial(other), "{other}");
        }
    }
}
