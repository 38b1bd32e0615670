//! The length of names. In: a name as a file or a demangler gives it, however long. Out: at most [`NAME_MAX`] bytes.
//!
//! Whoever may run code chooses the names of its functions. Without a bound one of them fills the memory of the
//! profiler, of its output and of whoever reads that.

use std::borrow::Cow;

/// Most bytes of a function's name, the mark of a cut one included. Of the C++ functions of clang and LLVM one in two
/// hundred has a longer name.
pub(crate) const NAME_MAX: usize = 1024;

/// Stands before the checksum of a cut name.
const MARK: &str = "…[cut ";

/// Bytes of the mark, the checksum and the bracket behind it.
const MARK_BYTES: usize = MARK.len() + 8 + 1;

/// A name that fits as it is, a longer one cut and marked.
pub(crate) fn bounded(name: &str) -> Cow<'_, str> {
    if name.len() <= NAME_MAX { name.into() } else { cut(name, name.as_bytes()).into() }
}

/// The beginning of a name and a checksum of what the whole name comes from, which tells apart functions whose names
/// begin alike.
pub(crate) fn cut(beginning: &str, whole: &[u8]) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(whole);
    let length = beginning.floor_char_boundary(NAME_MAX - MARK_BYTES);
    format!("{}{MARK}{:08x}]", &beginning[..length], crc.sum())
}

/// Whether a name was cut.
pub(crate) fn is_cut(name: &str) -> bool {
    name.len() > NAME_MAX - MARK_BYTES - 4 && name.ends_with(']') && name.contains(MARK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn names_that_begin_alike_stay_two_when_they_are_cut() {
        let long = "x".repeat(100_000);
        let (one, other) = (format!("{long}1"), format!("{long}2"));
        let (one, other) = (bounded(&one), bounded(&other));
        assert_ne!(one, other);
        assert!(is_cut(&one) && one.len() == NAME_MAX, "{}", one.len());
        assert!(!is_cut("shop::sell(int)") && !is_cut(&"y".repeat(NAME_MAX)));
    }

    proptest! {
        #[test]
        fn a_name_is_cut_between_characters(name in "[aé漢🙂]{0,600}") {
            let short = bounded(&name);
            prop_assert!(short.len() <= NAME_MAX);
            prop_assert_eq!(is_cut(&short), name.len() > NAME_MAX);
        }
    }
}
