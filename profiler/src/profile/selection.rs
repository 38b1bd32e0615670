//! Which containers of a profile are meant: patterns as the user writes them in, the containers they match out.

use super::{Container, ContainerIndex, Profile};

/// Containers by pattern. Patterns of one kind widen the selection, kinds narrow it; nothing at all selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names, globs over names, or the first digits (three at least) of ids.
    pub containers: Vec<String>,
    /// Kubernetes pod names, or globs over them.
    pub pods: Vec<String>,
    /// Kubernetes namespaces, or globs over them.
    pub namespaces: Vec<String>,
}

/// Why a selection selects nothing sensible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// A pattern matches nothing.
    #[error("no {what} matches '{pattern}'; there {}", list(existing))]
    Unknown {
        /// `container`, `pod` or `namespace`.
        what: &'static str,
        /// The pattern.
        pattern: String,
        /// What does exist, sorted.
        existing: Vec<String>,
    },
    /// Each pattern matches something, but nothing matches all kinds at once.
    #[error("no container matches all of --container, --pod and --namespace; give fewer of them")]
    Empty,
}

fn list(existing: &[String]) -> String {
    match existing {
        [] => "is none".to_owned(),
        [one] => format!("is only {one}"),
        many => format!("are {}", many.join(", ")),
    }
}

/// The containers of one profile that a [`Selection`] matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected(Vec<bool>);

impl Selected {
    /// One container alone.
    pub fn one(index: ContainerIndex) -> Self {
        let mut selected = vec![false; index.0 as usize];
        selected.push(true);
        Self(selected)
    }

    /// Whether the container is among them.
    pub fn contains(&self, index: ContainerIndex) -> bool {
        self.0.get(index.0 as usize).copied().unwrap_or(false)
    }

    /// Whether every container of the profile is among them.
    pub fn is_everything(&self) -> bool {
        self.0.iter().all(|selected| *selected)
    }
}

impl Selection {
    /// Whether nothing narrows the selection.
    pub fn is_everything(&self) -> bool {
        self.containers.is_empty() && self.pods.is_empty() && self.namespaces.is_empty()
    }

    /// Whether this container is selected.
    pub fn matches(&self, container: &Container) -> bool {
        let any = |patterns: &[String], matches: &dyn Fn(&str) -> bool| {
            patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern))
        };
        any(&self.containers, &|pattern| container_matches(pattern, container))
            && any(&self.pods, &|pattern| optional_matches(pattern, container.pod.as_deref()))
            && any(&self.namespaces, &|pattern| optional_matches(pattern, container.namespace.as_deref()))
    }

    /// The containers of `profile` that are selected, perhaps none.
    pub fn matching(&self, profile: &Profile) -> Selected {
        Selected(profile.containers.iter().map(|container| self.matches(container)).collect())
    }

    /// The containers of `profile` that are selected; an error if a pattern matches none of them.
    pub fn resolve(&self, profile: &Profile) -> Result<Selected, SelectionError> {
        let all = &profile.containers;
        known("container", &self.containers, all, container_matches, |container| Some(&container.name))?;
        let pod = |pattern: &str, container: &Container| optional_matches(pattern, container.pod.as_deref());
        known("pod", &self.pods, all, pod, |container| container.pod.as_ref())?;
        let namespace =
            |pattern: &str, container: &Container| optional_matches(pattern, container.namespace.as_deref());
        known("namespace", &self.namespaces, all, namespace, |container| container.namespace.as_ref())?;
        let selected = Selected(all.iter().map(|container| self.matches(container)).collect());
        if !self.is_everything() && !selected.0.contains(&true) {
            return Err(SelectionError::Empty);
        }
        Ok(selected)
    }
}

fn known(
    what: &'static str,
    patterns: &[String],
    containers: &[Container],
    matches: impl Fn(&str, &Container) -> bool,
    name: impl Fn(&Container) -> Option<&String>,
) -> Result<(), SelectionError> {
    let unknown =
        patterns.iter().find(|pattern| !containers.iter().any(|container| matches(pattern.as_str(), container)));
    match unknown {
        None => Ok(()),
        Some(pattern) => {
            let mut existing: Vec<String> = containers.iter().filter_map(&name).cloned().collect();
            existing.sort();
            existing.dedup();
            Err(SelectionError::Unknown { what, pattern: pattern.clone(), existing })
        }
    }
}

/// Fewer digits of an id match too much by chance.
const SHORTEST_ID_PREFIX: usize = 3;

fn container_matches(pattern: &str, container: &Container) -> bool {
    text_matches(pattern, &container.name)
        || optional_matches(pattern, container.container.as_deref())
        || (pattern.len() >= SHORTEST_ID_PREFIX && container.id.starts_with(pattern))
}

fn optional_matches(pattern: &str, text: Option<&str>) -> bool {
    text.is_some_and(|text| text_matches(pattern, text))
}

/// A name matches itself even where it holds characters that mean something in a glob.
fn text_matches(pattern: &str, text: &str) -> bool {
    pattern == text || glob::Pattern::new(pattern).is_ok_and(|glob| glob.matches(text))
}

#[cfg(test)]
mod tests;
