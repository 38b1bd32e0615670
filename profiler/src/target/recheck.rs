//! The command that shows whether a target is still there. In: the profile's own settings, the container. Out: a
//! `profiler record` that measures the container for as long and writes the report as text.

use crate::profile::{Container, Profile};

/// Filters that select containers.
const CONTAINERS: [&str; 3] = ["--container ", "--pod ", "--namespace "];

/// The command.
pub fn command(profile: &Profile, container: &Container) -> String {
    let seconds = (profile.window.duration_ns as f64 / 1e9).round().clamp(1.0, 600.0);
    let mut words = vec!["profiler record".to_owned()];
    let filters = &profile.settings.filters;
    let run = filters.iter().find(|filter| filter.starts_with("-- "));
    if run.is_none() {
        words.push(format!("-d {seconds:.0}s"));
    }
    words.push("-o recheck.txt".to_owned());
    // A command that is run again makes containers of other names. Else others than this one would only be in the way: a report tells
    // no more than its first targets in full.
    let narrowed = |filter: &str| run.is_none() && CONTAINERS.iter().any(|flag| filter.starts_with(flag));
    if filters.is_empty() || filters.iter().any(|filter| narrowed(filter)) {
        words.push(format!("--container {}", quoted(&container.name)));
    }
    for filter in filters.iter().filter(|filter| !filter.starts_with("-- ") && !narrowed(filter)) {
        match filter.split_once(' ') {
            Some((flag, value)) => words.push(format!("{flag} {}", quoted(value))),
            None => words.push(filter.clone()),
        }
    }
    words.extend(run.cloned());
    words.join(" ")
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_as_a_shell_needs_it() {
        let container = |name: &str| Container { name: name.to_owned(), ..Container::default() };
        let mut profile = Profile::default();
        profile.window.duration_ns = 10_000_000_000;
        assert_eq!(
            command(&profile, &container("shop/web-1/nginx")),
            "profiler record -d 10s -o recheck.txt --container shop/web-1/nginx"
        );
        assert!(command(&profile, &container("it's")).ends_with("--container 'it'\\''s'"));
        profile.settings.filters = vec!["--container web-1".to_owned(), "--namespace shop".to_owned()];
        assert!(command(&profile, &container("shop/web-1/nginx")).ends_with("--container shop/web-1/nginx"));
        profile.settings.filters = vec!["--pid 7".to_owned()];
        assert!(command(&profile, &container("host")).ends_with("recheck.txt --pid 7"));
        profile.settings.filters = vec!["--container web*".to_owned(), "-- ./server --fast".to_owned()];
        assert_eq!(
            command(&profile, &container("host")),
            "profiler record -o recheck.txt --container 'web*' -- ./server --fast"
        );
    }
}
