//! Which containers the user means: patterns in, a yes or no for each container out.

use glob::Pattern;

use super::ContainerError;
use super::naming::Description;
use crate::terminal::printable;

/// An id is meant from this many digits on.
const MIN_ID_DIGITS: usize = 4;

/// A container as the user names it: by name, by the beginning of its id, or by a glob over either.
#[derive(Debug, Clone)]
pub struct ContainerPattern {
    text: String,
    glob: Pattern,
}

impl ContainerPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, ContainerError> {
        let glob = parse_glob("containers", text)?;
        Ok(Self { text: text.to_owned(), glob })
    }

    /// Whether it means this container: its display name, its own name, or its id.
    pub fn matches(&self, container: &Description) -> bool {
        let own = container.container.as_deref().unwrap_or_default();
        let id_prefix = self.text.len() >= MIN_ID_DIGITS && container.id.starts_with(&self.text);
        self.glob.matches(&container.name)
            || (!own.is_empty() && self.glob.matches(own))
            || (!container.id.is_empty() && (id_prefix || self.glob_over_id(&container.id)))
    }

    /// `*` alone means every name; it must not be read as an id, and neither must a glob with too few digits.
    fn glob_over_id(&self, id: &str) -> bool {
        let digits = self.text.bytes().filter(u8::is_ascii_hexdigit).count();
        digits >= MIN_ID_DIGITS && self.glob.matches(id)
    }
}

fn parse_glob(what: &'static str, text: &str) -> Result<Pattern, ContainerError> {
    let bad = |reason: String| ContainerError::BadPattern { what, pattern: text.to_owned(), reason };
    if text.is_empty() {
        return Err(bad("it is empty".to_owned()));
    }
    Pattern::new(text).map_err(|error| bad(error.to_string()))
}

/// The containers a command is about: any of the containers, in any of the pods, in any of the namespaces named.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    containers: Vec<ContainerPattern>,
    pods: Vec<Pattern>,
    namespaces: Vec<Pattern>,
}

impl Selection {
    /// Reads `--container`, `--pod` and `--namespace`; nothing at all selects everything.
    pub fn parse(containers: &[String], pods: &[String], namespaces: &[String]) -> Result<Self, ContainerError> {
        let globs = |what, texts: &[String]| -> Result<Vec<Pattern>, ContainerError> {
            texts.iter().map(|text| parse_glob(what, text)).collect()
        };
        Ok(Self {
            containers: containers.iter().map(|text| ContainerPattern::parse(text)).collect::<Result<_, _>>()?,
            pods: globs("pods", pods)?,
            namespaces: globs("namespaces", namespaces)?,
        })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.containers.is_empty() && self.pods.is_empty() && self.namespaces.is_empty()
    }

    /// Whether it selects this container.
    pub fn matches(&self, container: &Description) -> bool {
        let any = |globs: &[Pattern], value: &Option<String>| {
            globs.is_empty() || value.as_deref().is_some_and(|value| globs.iter().any(|glob| glob.matches(value)))
        };
        (self.containers.is_empty() || self.containers.iter().any(|pattern| pattern.matches(container)))
            && any(&self.pods, &container.pod)
            && any(&self.namespaces, &container.namespace)
    }

    /// Fails for the first pattern that means nothing among `existing`, and says what there is.
    pub fn check(&self, existing: &[Description]) -> Result<(), ContainerError> {
        for pattern in &self.containers {
            if !existing.iter().any(|container| pattern.matches(container)) {
                let names = existing.iter().map(|container| container.name.as_str());
                return Err(no_match("container", &pattern.text, names));
            }
        }
        check_field("pod", &self.pods, existing, |container| container.pod.as_deref())?;
        check_field("namespace", &self.namespaces, existing, |container| container.namespace.as_deref())
    }
}

fn check_field(
    what: &'static str,
    globs: &[Pattern],
    existing: &[Description],
    field: impl Fn(&Description) -> Option<&str>,
) -> Result<(), ContainerError> {
    let values: Vec<&str> = existing.iter().filter_map(field).collect();
    match globs.iter().find(|glob| !values.iter().any(|value| glob.matches(value))) {
        Some(glob) => Err(no_match(what, glob.as_str(), values.into_iter())),
        None => Ok(()),
    }
}

fn no_match<'a>(what: &'static str, pattern: &str, existing: impl Iterator<Item = &'a str>) -> ContainerError {
    let mut names: Vec<_> = existing.map(printable).collect();
    names.sort_unstable();
    names.dedup();
    let existing = match names.as_slice() {
        [] => format!("is no {what} here"),
        [name] => format!("is {name}"),
        names => format!("are {}", names.join(", ")),
    };
    ContainerError::NoMatch { what, pattern: pattern.to_owned(), existing }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use super::*;
    use crate::container::naming::tests::container;

    fn web() -> Description {
        Description {
            name: "shop/web-1/nginx".to_owned(),
            pod: Some("web-1".to_owned()),
            namespace: Some("shop".to_owned()),
            ..container("abcdef0123456789", "containerd", Some("nginx"))
        }
    }

    fn selects(pattern: &str) -> bool {
        ContainerPattern::parse(pattern).unwrap().matches(&web())
    }

    #[test]
    fn a_pattern_is_a_name_an_id_prefix_or_a_glob() {
        for pattern in
            ["shop/web-1/nginx", "nginx", "ngi*", "shop/*", "*", "abcd", "abcdef0123456789", "abcd*89", "n[gh]inx"]
        {
            assert!(selects(pattern), "{pattern}");
        }
        for pattern in ["web", "abc", "bcdef", "a*", "other*", "shop"] {
            assert!(!selects(pattern), "{pattern}");
        }
        let host = Description { id: String::new(), name: "host".to_owned(), ..container("", "host", None) };
        assert!(ContainerPattern::parse("host").unwrap().matches(&host));
        assert!(!ContainerPattern::parse("abcd").unwrap().matches(&host));
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_an_error_with_a_way_out() {
        for pattern in ["", "a[", "***"] {
            let error = ContainerPattern::parse(pattern).unwrap_err().to_string();
            assert!(error.contains("web*"), "{error}");
        }
    }

    fn selection(containers: &[&str], pods: &[&str], namespaces: &[&str]) -> Selection {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Selection::parse(&own(containers), &own(pods), &own(namespaces)).unwrap()
    }

    #[test]
    fn kinds_of_filters_narrow_each_other_and_filters_of_a_kind_widen() {
        assert!(selection(&[], &[], &[]).is_everything());
        assert!(selection(&[], &[], &[]).matches(&web()));
        assert!(selection(&["nothing", "nginx"], &["web-*"], &["shop"]).matches(&web()));
        assert!(!selection(&["nginx"], &[], &["other"]).matches(&web()));
        assert!(!selection(&[], &["api-*"], &[]).matches(&web()));
        let plain = container("1", "docker", Some("nginx"));
        assert!(!selection(&[], &["*"], &[]).matches(&plain));
        assert!(!selection(&["x"], &[], &[]).is_everything());
    }

    #[test]
    fn an_unknown_pattern_says_what_exists() {
        let existing = [web(), Description { name: "db".to_owned(), ..container("1", "docker", Some("db")) }];
        let text = |selection: Selection| selection.check(&existing).unwrap_err().to_string();
        let message = text(selection(&["nope"], &[], &[]));
        assert_eq!(message, "no container matches `nope`; there are db, shop/web-1/nginx");
        assert_eq!(text(selection(&[], &["nope"], &[])), "no pod matches `nope`; there is web-1");
        assert_eq!(text(selection(&[], &[], &["n*"])), "no namespace matches `n*`; there is shop");
        selection(&["db"], &["web-1"], &["shop"]).check(&existing).unwrap();
        let nothing = selection(&["db"], &[], &[]).check(&[]).unwrap_err().to_string();
        assert_eq!(nothing, "no container matches `db`; there is no container here");
    }
}
