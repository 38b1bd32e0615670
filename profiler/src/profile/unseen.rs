//! Whether a profile holds anything of what was asked for. In: the profile. Out: what to say instead of a verdict.

use super::{Container, Profile};

impl Profile {
    /// Why nothing can be said about what was asked for; `None` if anything of it was seen.
    pub fn nothing_seen(&self) -> Option<String> {
        let seen = !self.on_cpu.is_empty() || !self.off_cpu.is_empty();
        if seen { None } else { self.nothing_seen_of(&self.containers) }
    }

    /// The same for some of its containers.
    pub fn nothing_seen_of<'c>(&self, containers: impl IntoIterator<Item = &'c Container>) -> Option<String> {
        // Every thread that was alive for a moment has time in the ledger, whether it ran or not.
        if containers.into_iter().any(|container| container.ledger.thread_ns > 0) {
            return None;
        }
        let filters = self.settings.filters.join(" ");
        Some(if filters.is_empty() {
            "nothing was seen: no thread was alive in this window, or the kernel programs were not called; run \
             `profiler doctor`"
                .to_owned()
        } else {
            format!(
                "nothing was seen of what was asked for ({filters}): no thread of it was alive in this window; `ps` and \
                 `profiler containers` show what there is"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::profile::{Container, Ledger, Profile, Settings, testing};

    #[test]
    fn a_profile_of_living_threads_has_seen_something() {
        assert_eq!(testing::profile().nothing_seen(), None);
        let asleep = Ledger { thread_ns: 1, blocked_sleep_ns: 1, ..Ledger::default() };
        let containers = vec![Container { ledger: asleep, ..Container::default() }];
        assert_eq!(Profile { containers, ..Profile::default() }.nothing_seen(), None);
    }

    #[test]
    fn an_empty_profile_says_what_was_not_seen() {
        let filters = vec!["--pid 7".to_owned(), "--container web".to_owned()];
        let settings = Settings { filters, ..Settings::default() };
        let containers = vec![Container::default()];
        let said = Profile { settings, containers, ..Profile::default() }.nothing_seen().unwrap_or_default();
        assert!(said.contains("(--pid 7 --container web)"), "{said}");
        let said = Profile::default().nothing_seen().unwrap_or_default();
        assert!(said.contains("profiler doctor"), "{said}");
    }
}
