//! Reads the daemon's configuration files. In: a file's text. Out: the value, or the line, the key and what is wrong.
//!
//! The files hold tokens and hashes of passwords, and errors go into logs and answers. An error therefore never quotes the
//! text: it names the line and the path of keys, and shows a key only if it looks like one.

use std::fmt::{self, Write};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_path_to_error::{Path, Segment};
use serde_saphyr::{Budget, Error, Options, Spanned};

/// Deepest nesting that is read. Settings nest four deep; whatever reads the text recurses.
const MAX_DEPTH: usize = 64;

/// Longest key that is shown.
const MAX_KEY_CHARS: usize = 64;

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct YamlError {
    /// Counted from 1; none where the reader knows none.
    pub line: Option<u64>,
    /// The path of keys, `push.pyroscope.labels`; empty at the top, or where the text is no YAML.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

impl YamlError {
    /// What is wrong with the value of a key that the text could be read with.
    pub fn at(text: &str, keys: &[&str], what: impl Into<String>) -> Self {
        let line = Node::read(text).and_then(|node| node.line_of(keys.iter().map(|key| Step::Key(key))));
        let key = keys.iter().map(|key| shown_key(key)).collect::<Vec<_>>().join(".");
        Self { line, key, what: what.into() }
    }
}

/// Reads a value from text. Text of blanks and comments alone is the default.
pub fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, YamlError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(T::default());
    }
    let mut path = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = Some(error.path().clone());
            error.into_inner()
        })
    });
    read.map_err(|error| explain(text, path.as_ref(), error.without_snippet()))
}

fn options() -> Options {
    let budget = Budget { max_depth: MAX_DEPTH, ..Budget::default() };
    Options { budget: Some(budget), with_snippet: false, ..Options::default() }
}

fn explain(text: &str, path: Option<&Path>, error: &Error) -> YamlError {
    let known_line = error.location().map(|location| location.line());
    // The reader's location is the mapping's for an unknown key, and nowhere for errors that are not the reader's own.
    match (path, Node::read(text)) {
        (Some(path), Some(node)) => YamlError {
            line: node.line_of(path.iter().map(Step::of)).or(known_line),
            key: shown_path(path),
            what: explained(error),
        },
        _ => YamlError { line: known_line, key: String::new(), what: explained(error) },
    }
}

/// The keys that lead to a value, as far as they can be shown.
fn shown_path(path: &Path) -> String {
    let mut shown = String::new();
    for segment in path {
        match segment {
            // Writing to text cannot fail.
            Segment::Seq { index } => drop(write!(shown, "[{index}]")),
            Segment::Map { key } => {
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(shown_key(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    shown
}

/// A key, unless it may be a value that was written in the position of a key by mistake.
pub fn shown_key(key: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if !key.is_empty() && key.len() <= MAX_KEY_CHARS && key.chars().all(plain) { key } else { "(a key not shown)" }
}

/// The reader's words without what they quote.
fn explained(error: &Error) -> String {
    let message = match error {
        Error::Message { msg, .. } | Error::HookError { msg, .. } => msg,
        Error::Unexpected { expected, .. } => {
            return match *expected {
                "string scalar" => "text or a number is expected".to_owned(),
                "mapping start" => "a mapping is expected, lines of `key: value`".to_owned(),
                "sequence start" => "a list is expected".to_owned(),
                other => format!("expected {other}"),
            };
        }
        Error::WithSnippet { error, .. } => return explained(error),
        Error::Eof { .. } => return "the text ends too early".to_owned(),
        Error::ContainerEndMismatch { .. } => return "a list or mapping ends where another began".to_owned(),
        Error::UnknownAnchor { .. } => return "an alias names an anchor that does not exist".to_owned(),
        Error::Budget { .. } => return "it is nested too deep, or too large".to_owned(),
        Error::IOError { .. } => return "it cannot be read".to_owned(),
        Error::QuotingRequired { .. } => return "text that looks like a number needs quotes".to_owned(),
    };
    if message.starts_with("unknown field ") {
        // The key itself is the last of the path.
        let known = message.rsplit_once("`, expected ").map(|(_, known)| known.replace('`', ""));
        let known = known.map(|known| known.trim_start_matches("one of ").to_owned());
        return known.map_or("no such key".to_owned(), |known| format!("no such key; there are {known}"));
    }
    if message.starts_with("invalid YAML 1.1 bool") {
        return "true or false is expected".to_owned();
    }
    if message.starts_with("multiple YAML documents") {
        return "there is more than one document; `---` may not separate anything".to_owned();
    }
    if message.starts_with("duplicate mapping key") {
        return "the key is there twice".to_owned();
    }
    if let Some(field) = message.strip_prefix("missing field `") {
        // A name from this program, not from the text.
        return format!("{} is missing", field.trim_end_matches('`'));
    }
    unquoted(message)
}

/// The message with everything between its first and its last quotation mark left out.
fn unquoted(message: &str) -> String {
    let Some(first) = message.find(['`', '"']) else { return message.to_owned() };
    let last = message.rfind(['`', '"', '\'']).filter(|last| *last > first).unwrap_or(message.len() - 1);
    format!("{}…{}", &message[..first], message.get(last + 1..).unwrap_or_default())
}

/// Where the parts of a text are.
#[derive(Debug, Default)]
struct Node {
    entries: Vec<(String, u64, Node)>,
    items: Vec<(u64, Node)>,
}

/// One step down a path.
enum Step<'a> {
    Key(&'a str),
    Item(usize),
    Nowhere,
}

impl<'a> Step<'a> {
    fn of(segment: &'a Segment) -> Self {
        match segment {
            Segment::Map { key } => Self::Key(key),
            Segment::Seq { index } => Self::Item(*index),
            Segment::Enum { .. } | Segment::Unknown => Self::Nowhere,
        }
    }
}

impl Node {
    fn read(text: &str) -> Option<Self> {
        let read = |deserializer: serde_saphyr::Deserializer<'_>| Self::deserialize(deserializer);
        serde_saphyr::with_deserializer_from_str_with_options(text, options(), read).ok()
    }

    /// The line of the last key or item of a path that there is.
    fn line_of<'a>(&self, path: impl Iterator<Item = Step<'a>>) -> Option<u64> {
        let mut node = self;
        let mut found = None;
        for step in path {
            let next = match step {
                Step::Key(key) => {
                    node.entries.iter().find(|(name, ..)| name == key).map(|(_, line, value)| (*line, value))
                }
                Step::Item(index) => node.items.get(index).map(|(line, value)| (*line, value)),
                Step::Nowhere => None,
            };
            let Some((line, value)) = next else { break };
            (found, node) = (Some(line), value);
        }
        found
    }
}

struct NodeVisitor;

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some(item) = sequence.next_element::<Spanned<Node>>()? {
            node.items.push((item.referenced.line(), item.value));
        }
        Ok(node)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            node.entries.push((key.value, key.referenced.line(), value));
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct File {
        interval: Option<Unit>,
        number: Option<u32>,
        switch: Option<bool>,
        list: Vec<String>,
        server: Server,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Server {
        url: Option<String>,
        headers: BTreeMap<String, String>,
        login: Option<Login>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only reading them matters")]
    struct Login {
        name: String,
        word: String,
    }

    /// Refuses whatever it is given, and quotes it, as parsers do.
    #[derive(Debug)]
    struct Unit;

    impl<'de> Deserialize<'de> for Unit {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            Err(serde::de::Error::custom(format!("`{text}`: `{text}` is no unit of time")))
        }
    }

    fn error(text: &str) -> String {
        parse::<File>(text).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_error_names_the_line_and_the_key() {
        for (text, expected) in [
            (
                "number: 1\nserver:\n  url: x\n  headers:\n    K: v\n  labls:\n    a: b\n",
                "line 6: server.labls: no such key",
            ),
            ("switch: true\nnumber: many\n", "line 2: number: invalid u32"),
            ("\n\nswitch: perhaps\n", "line 3: switch: true or false"),
            ("list:\n- a\n- [b]\n", "line 3: list[1]: text"),
            ("number: 2\ninterval: 5 parsecs\n", "line 2: interval: … is no unit of time"),
            ("server:\n  headers: x\n", "line 2: server.headers: a mapping"),
            ("server:\n  url: x\n  login:\n    name: y\n", "line 3: server.login: word is missing"),
            ("number: 1\nnumber: 2\n", "line 2: the key is there twice"),
            ("number: 1\n---\nnumber: 2\n", "line 3: there is more than one document"),
        ] {
            assert!(error(text).starts_with(expected), "{text}: {}", error(text));
        }
    }

    #[test]
    fn no_error_quotes_a_value() {
        const SECRET: &str = "hunter2$`'\"x";
        for text in [
            "number: SECRET\n",
            "switch: SECRET\n",
            "interval: SECRET\n",
            "list: SECRET\n",
            "SECRET\n",
            "- SECRET\n",
            "server:\n  SECRET\n",
            "server: {headers: {K: SECRET}, labls: 1}\n",
            "server: {url: SECRET, urk: SECRET}\n",
            "server:\n  headers:\n    K:SECRET\n",
            "server:\n  headers:\n    K: \"SECRET\n",
            "server:\n  headers:\n    K: SECRET: x\n",
            "server:\n  headers:\n    K: [SECRET]\n",
            "server:\n  headers:\n    K: *SECRET\n",
            "server:\n  headers:\n    K: SECRET\n   L: SECRET\n",
            "server:\n  headers:\n    SECRET: a\n    SECRET: b\n",
            "server: {url=SECRET}\n",
            "server: {login: {name: SECRET}}\n",
            "? [SECRET]\n: SECRET\n",
            "server: {login: SECRET\n",
            "number: !!int SECRET\n",
            "number: &SECRET x\n",
        ] {
            for secret in [SECRET, "hunter2"] {
                // A plain word in the position of a key cannot be told from a key.
                if secret == "hunter2" && text.contains("SECRET:") {
                    continue;
                }
                let said = error(&text.replace("SECRET", secret));
                assert!(!said.is_empty() && !said.contains("hunter2"), "{text}: {said}");
            }
        }
    }

    #[test]
    fn what_is_found_wrong_later_is_named_by_line_and_key_too() {
        let text = "number: 1\nserver:\n  headers:\n    X-Token: hunter2\n";
        let error = |keys: &[&str]| YamlError::at(text, keys, "is wrong").to_string();
        assert_eq!(error(&["server", "headers", "X-Token"]), "line 4: server.headers.X-Token: is wrong");
        assert_eq!(error(&["server", "url"]), "line 2: server.url: is wrong");
        assert_eq!(error(&["$2y$10$hunter2"]), "(a key not shown): is wrong");
    }

    #[test]
    fn blanks_and_comments_are_the_default() {
        for text in ["", "\n  \n", "# nothing\n\n   # more\n"] {
            assert!(parse::<File>(text).is_ok_and(|file| file.number.is_none()), "{text:?}");
        }
    }

    #[test]
    fn nesting_without_an_end_is_refused() {
        for text in ["[".repeat(100_000), format!("list: {}", "{a: ".repeat(10_000)), "- ".repeat(50_000)] {
            assert!(parse::<File>(&text).is_err());
        }
    }
}
