//! A linker's name in; the name that people write out.
//!
//! Only names that say that they are mangled are taken apart: to the C++ rules a C function `w` is the type `wchar_t`.

use std::borrow::Cow;

/// The name that people write.
pub fn demangled(name: &str) -> Cow<'_, str> {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}").into();
    }
    if !name.starts_with("_Z") {
        return name.into();
    }
    let cpp = cpp_demangle::Symbol::new(name).ok().and_then(|symbol| symbol.demangle().ok());
    cpp.map_or_else(|| name.into(), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::demangled;

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
    }

    #[test]
    fn what_only_looks_mangled_stays() {
        assert_eq!(demangled("_Zebra"), "_Zebra");
    }
}
