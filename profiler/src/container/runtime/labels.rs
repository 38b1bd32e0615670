//! Which labels of a container are kept. In: what a runtime tells, and what the operator asked for. Out: labels that whoever
//! may see a profile may see as well.
//!
//! Labels hold whatever their programs needed a place for: password hashes of proxies' users, tokens, paths. All but a few
//! well-known ones stay with the runtime, unless the operator names them.

use std::collections::BTreeMap;

use glob::Pattern;

use crate::container::ContainerError;

/// Labels that say which application a container is part of, and nothing else.
const WELL_KNOWN: [&str; 6] = [
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "com.docker.compose.project",
    "com.docker.compose.service",
];

/// The labels that are kept: the well-known ones and those asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptLabels {
    asked_for: Vec<Pattern>,
}

impl KeptLabels {
    /// Reads what the operator asked for: names of labels, or globs such as `team.example.org/*`.
    pub fn parse(patterns: &[String]) -> Result<Self, ContainerError> {
        let parse = |text: &String| {
            let bad = |reason: String| ContainerError::BadPattern { what: "labels", pattern: text.clone(), reason };
            if text.is_empty() {
                return Err(bad("it is empty".to_owned()));
            }
            Pattern::new(text).map_err(|error| bad(error.to_string()))
        };
        Ok(Self { asked_for: patterns.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Takes out of `labels` all that are not kept.
    pub fn retain_in(&self, labels: &mut BTreeMap<String, String>) {
        labels.retain(|name, _| {
            WELL_KNOWN.contains(&name.as_str()) || self.asked_for.iter().any(|one| one.matches(name))
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;

    fn kept(patterns: &[&str]) -> Vec<String> {
        let names = [
            "app.kubernetes.io/name",
            "com.docker.compose.project",
            "com.docker.compose.project.working_dir",
            "com.docker.compose.service",
            "io.kubernetes.pod.namespace",
            "team.example.org/cost",
            "team.example.org/owner",
            "traefik.http.middlewares.auth.basicauth.users",
        ];
        let mut labels = names.map(|name| (name.to_owned(), "value".to_owned())).into();
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        KeptLabels::parse(&patterns).unwrap().retain_in(&mut labels);
        labels.into_keys().collect()
    }

    #[test]
    fn only_well_known_labels_are_kept_unless_others_are_asked_for() {
        let well_known = ["app.kubernetes.io/name", "com.docker.compose.project", "com.docker.compose.service"];
        assert_eq!(kept(&[]), well_known);
        let more = kept(&["team.example.org/*", "io.kubernetes.pod.namespace"]);
        assert_eq!(more.len(), 6);
        assert!(!more.iter().any(|name| name.starts_with("traefik")));
        assert_eq!(kept(&["*"]).len(), 8);
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_refused_by_name() {
        for wrong in ["", "a[", "***"] {
            let error = KeptLabels::parse(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("labels"), "{error}");
        }
    }
}
