//! Text from outside on its way to a terminal or a log. In: names of containers, processes, functions and files, as whoever
//! made them wrote them. Out: the same text, which shows as what it is.
//!
//! Escape sequences would be obeyed, line ends would begin lines that the program did not write, and marks of direction would
//! show a text in another order than it has. They are written as escapes: `\x1b`, `\n`, `\u{202e}`.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character does something to a terminal instead of showing, or hides.
pub fn is_unprintable(c: char) -> bool {
    let invisible = matches!(
        c,
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    c.is_control() || invisible
}

/// The text with escapes in the place of what would not show.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            // Writing to text cannot fail.
            c if is_unprintable(c) && u32::from(c) < 0x100 => {
                write!(shown, "\\x{:02x}", u32::from(c)).unwrap_or_default();
            }
            c if is_unprintable(c) => write!(shown, "\\u{{{:x}}}", u32::from(c)).unwrap_or_default(),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Text of several lines, which are the program's own: each is printable, and all but the first are set in, so that none
/// looks like one that the program began.
pub fn printable_lines(text: &str) -> String {
    text.trim_end().split('\n').map(printable).collect::<Vec<_>>().join("\n    ")
}

/// A JSON document in which nothing is left that a terminal would obey. Such characters can stand within strings only, but
/// for the line ends and blanks between them.
pub fn printable_json(document: &str) -> Cow<'_, str> {
    let unprintable = |c: char| c != '\n' && is_unprintable(c);
    if !document.contains(unprintable) {
        return Cow::Borrowed(document);
    }
    let mut shown = String::with_capacity(document.len() + 16);
    let mut units = [0; 2];
    for c in document.chars() {
        if unprintable(c) {
            for unit in c.encode_utf16(&mut units) {
                // Writing to text cannot fail.
                write!(shown, "\\u{unit:04x}").unwrap_or_default();
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        for (text, shown) in [
            ("plain größe 🔥", "plain größe 🔥"),
            ("esc\x1b[31m.service", "esc\\x1b[31m.service"),
            ("a\nerror: b\tc\r", "a\\nerror: b\\tc\\r"),
            ("\u{9b}31m\u{7f}", "\\x9b31m\\x7f"),
            ("nimda\u{202e}gpj\u{2066}x", "nimda\\u{202e}gpj\\u{2066}x"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn later_lines_of_a_message_do_not_look_like_messages_of_their_own() {
        assert_eq!(printable_lines("a\nerror: \x1b[2Jb\n"), "a\n    error: \\x1b[2Jb");
    }

    #[test]
    fn a_json_document_says_the_same_without_control_characters() {
        let value = serde_json::json!({ "name": "\u{9b}2J\u{202e}\u{e0041}\x1b" });
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        let shown = printable_json(&text);
        assert!(!shown.contains(|c| c != '\n' && is_unprintable(c)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).ok(), Some(value));
    }

    proptest! {
        #[test]
        fn nothing_that_does_not_show_is_left_of_any_text(text in any::<String>()) {
            prop_assert!(!printable(&text).contains(is_unprintable));
        }
    }
}
