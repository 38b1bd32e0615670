//! A linker's name in; the name that people write out.
//!
//! Only names that say that they are mangled are taken apart: to the C++ rules a C function `w` is the type `wchar_t`.
//!
//! A mangled name refers back to its own parts, so that two hundred bytes may stand for gigabytes of text, and the
//! parser of C++ names goes back and tries anew, so that it may take hours over sixty bytes. Both are bounded here:
//! writing ends at [`NAME_MAX`] bytes or after [`STEPS_MAX`] steps, and a name whose parsing might take long
//! ([`may_parse`]) stays as the linker has it.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cpp_demangle::{DemangleNodeType, DemangleOptions, DemangleWrite, ParseOptions, Symbol};

use super::name::{NAME_MAX, bounded, cut};

/// Longest mangled name that is taken apart.
const MANGLED_MAX: usize = 4096;

/// Depth to which the parts of a mangled C++ name nest. Of the functions of clang and LLVM one in two thousand needs
/// more; each few levels more double the time of the worst name.
const PARSE_DEPTH: u32 = 52;

/// Most `new` expressions (`nw` and `na`) in a mangled name: the parser tries each twice, and what is inside it twice
/// each time. They are counted inside identifiers too, since only the parser knows where those begin.
const NEW_MAX: usize = 8;

/// Parts of a name that are visited at most while it is written out: parts that write nothing can be as many as those
/// that do.
const STEPS_MAX: u32 = 16 * 1024;

/// The name that people write, of at most [`NAME_MAX`] bytes.
pub(crate) fn demangled(name: &str) -> Cow<'_, str> {
    if name.len() > MANGLED_MAX {
        return bounded(name);
    }
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        let mut text = Text::default();
        let written = write!(text, "{rust:#}");
        return text.finish(name, written.is_ok());
    }
    if !name.starts_with("_Z") || !may_parse(name) {
        return bounded(name);
    }
    let options = ParseOptions::default().recursion_limit(PARSE_DEPTH);
    let Ok(symbol) = Symbol::new_with_options(name, &options) else { return bounded(name) };
    let mut text = Text::default();
    // Where nothing is written there is no result that could end the writing: unwinding from `CppText` ends it.
    let write = AssertUnwindSafe(|| symbol.structured_demangle(&mut CppText(&mut text), &DemangleOptions::default()));
    let written = catch_unwind(write).is_ok_and(|written| written.is_ok());
    text.finish(name, written)
}

/// Whether the time that parsing takes is bounded.
fn may_parse(name: &str) -> bool {
    name.matches("nw").count() + name.matches("na").count() <= NEW_MAX
}

/// Text that ends at [`NAME_MAX`].
#[derive(Default)]
struct Text {
    written: String,
    is_full: bool,
    steps: u32,
}

impl Text {
    /// The text; where it is not whole, cut where it was full, or the mangled name where that went wrong.
    fn finish(self, mangled: &str, whole: bool) -> Cow<'_, str> {
        match (whole, self.is_full) {
            (_, true) => cut(&self.written, mangled.as_bytes()).into(),
            (true, false) => self.written.into(),
            (false, false) => bounded(mangled),
        }
    }

    fn write(&mut self, text: &str) -> fmt::Result {
        if self.is_full {
            return Err(fmt::Error);
        }
        if self.written.len() + text.len() <= NAME_MAX {
            self.written.push_str(text);
            return Ok(());
        }
        self.written.push_str(&text[..text.floor_char_boundary(NAME_MAX - self.written.len())]);
        self.is_full = true;
        Err(fmt::Error)
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text)
    }
}

/// What C++ names are written into: the parser also tells of each part that it comes to.
struct CppText<'text>(&'text mut Text);

impl DemangleWrite for CppText<'_> {
    fn push_demangle_node(&mut self, _: DemangleNodeType) {
        self.0.steps += 1;
        if self.0.steps > STEPS_MAX {
            // Caught where the writing began. Without a message: nothing is wrong with the program.
            resume_unwind(Box::new("too many parts"));
        }
    }

    fn write_string(&mut self, text: &str) -> fmt::Result {
        self.0.write(text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::symbol::name::is_cut;

    #[test]
    fn a_c_functions_short_name_is_no_type_of_cpp() {
        for name in ["w", "b", "i", "main", "PFvvE", "_start"] {
            assert_eq!(demangled(name), name);
        }
    }

    #[test]
    fn names_of_rust_and_cpp_are_taken_apart() {
        assert_eq!(demangled("_ZN4shop5Queue4take17h0123456789abcdefE"), "shop::Queue::take");
        assert_eq!(demangled("_RNvC4shop4main"), "shop::main");
        assert_eq!(demangled("_ZN4shop4sellEi"), "shop::sell(int)");
        assert_eq!(demangled("_Znwm"), "operator new(unsigned long)");
        let nested = "_ZNSt3mapISsSt6vectorISt4pairIiSt10shared_ptrISt8functionIFvRKSsEEEESaIS8_EESt4lessISsESaIS0_IKSsSA_EEEixERSD_";
        assert!(demangled(nested).starts_with("std::map<std::string, std::vector<"), "{}", demangled(nested));
    }

    #[test]
    fn what_only_looks_mangled_stays() {
        assert_eq!(demangled("_Zebra"), "_Zebra");
    }

    /// Number `index` of the parts that a name may refer back to.
    fn reference(index: usize) -> String {
        let digits = |mut index: usize| {
            let mut text = String::new();
            loop {
                text.insert(0, char::from_digit((index % 36) as u32, 36).unwrap_or('0').to_ascii_uppercase());
                index /= 36;
                if index == 0 {
                    return text;
                }
            }
        };
        if index == 0 { "S_".into() } else { format!("S{}_", digits(index - 1)) }
    }

    /// Each template has the one before it as its argument twice.
    fn doubling(levels: usize) -> String {
        let mut name = "_Z1f1A1XIS_S_E".to_string();
        for level in 0..levels {
            write!(name, "S0_I{0}{0}E", reference(level + 2)).unwrap_or_default();
        }
        name
    }

    #[test]
    fn a_name_that_doubles_with_each_part_is_cut() {
        assert_eq!(demangled(&doubling(1)), "f(A, X<A, A>, X<X<A, A>, X<A, A>>)".replace(">>", "> >"));
        for levels in [21, 60] {
            let name = doubling(levels);
            let text = demangled(&name);
            assert!(is_cut(&text) && text.starts_with("f(A, X<A, A>, X<"), "{levels}: {text}");
        }
        // The same in Rust: tuples of two that refer back to the tuple before.
        let mut rust = "_RIC4shop".to_string();
        let mut last = "u".to_string();
        for _ in 0..40 {
            let at = rust.len() - 2;
            write!(rust, "T{last}{last}E").unwrap_or_default();
            let digit = |value: usize| char::from_digit(value as u32, 36);
            let number: String = match at - 1 {
                below @ 0..62 => [digit(below % 36)].into_iter().flatten().collect(),
                _ => "_".into(),
            };
            last = format!("B{number}_");
        }
        rust += "E";
        assert!(demangled(&rust).len() <= NAME_MAX);
    }

    #[test]
    fn parts_that_write_nothing_come_to_an_end() {
        // Packs of the pack before, twice each; the first is empty.
        let mut name = "_Z1fIJE".to_string();
        for level in 0..50 {
            let before = if level == 0 { "T_".to_string() } else { format!("T{}_", level - 1) };
            write!(name, "J{before}{before}E").unwrap_or_default();
        }
        name += "EvT48_";
        bounded_time(&[name]);
    }

    #[test]
    fn names_that_the_parser_tries_in_many_ways_take_no_long() {
        let units =
            ["SaI", "nw", "1fI", "T_I", "cvT_I", "St1AI", "il", "tl1A", "cl", "Z", "u1AI", "srT_I1f", "na", "ds"];
        let names: Vec<String> = units
            .iter()
            .flat_map(|unit| ["_Z", "_Z1fvDT", "_Z1fIXDT", "_ZcvDT"].map(|begin| (begin, unit)))
            .flat_map(|(begin, unit)| [5, 20, 200, 1000].map(|times| format!("{begin}{}?", unit.repeat(times))))
            .collect();
        bounded_time(&names);
    }

    fn bounded_time(names: &[String]) {
        for name in names {
            let (begun, length) = (Instant::now(), demangled(name).len());
            // A hundred times what it takes: without the bounds it would be hours.
            assert!(begun.elapsed() < Duration::from_secs(5), "{name}");
            assert!(length <= NAME_MAX, "{name}");
        }
    }
}
