//! How to get from a frame to its caller's: one word a rule.

/// What the canonical frame address (CFA: the stack pointer before the call pushed its return address) is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cfa {
    /// Nothing is said of this code: its frame is taken by the frame pointer.
    NoInfo = 0,
    /// The return address is undefined: the stack ends here (`_start`, `clone3`).
    End = 1,
    /// There is a rule, but none that this walker can follow.
    Unsupported = 2,
    /// The kernel's signal frame: all registers lie in the `ucontext` that the stack pointer shows.
    Signal = 3,
    /// rsp + offset.
    Rsp = 4,
    /// rbp + offset.
    Rbp = 5,
    /// rsp + 8, and 8 more from byte `offset` of a 16-byte entry on: a procedure linkage table.
    Plt = 6,
    /// The word at rsp + the low half of offset, plus the high half of offset.
    DerefRsp = 7,
    /// The word at rbp + the low half of offset, plus the high half of offset.
    DerefRbp = 8,
    /// rsp + offset, and the return address is in rdi: a function that took it off the stack before a system call (glibc's
    /// `vfork`).
    ReturnInRdi = 9,
}

/// What the caller's rbp is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rbp {
    /// As it is.
    Unchanged = 0,
    /// The word at CFA + offset.
    AtCfa = 1,
    /// The word at rbp + offset (a frame realigned by GCC).
    AtRbp = 2,
    /// Not to be told.
    Undefined = 3,
}

/// One rule in one word, so that the kernel loads it at once.
///
/// From the lowest bit: a [`Cfa`] (8 bits), a [`Rbp`] (8), the offset of rbp in bytes (16, signed), the offset of the CFA
/// (32, signed). The return address lies at CFA - 8, but
/// for [`Cfa::ReturnInRdi`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule(u64);

/// Index of the rule of code of which nothing is said.
pub const NO_INFO: u16 = 0;
/// Index of the rule that ends a stack.
pub const END: u16 = 1;
/// Index of the rule that cannot be followed.
pub const UNSUPPORTED: u16 = 2;
/// Index of the rule of a signal's way back.
pub const SIGNAL: u16 = 3;
/// Number of rules that have the same index in every table.
pub const WELL_KNOWN: u16 = 4;

/// Rules that may exist at once: as many as a row can name.
pub const RULES: usize = 1 << 16;

/// The rules that have the same index in every table.
pub const fn well_known() -> [Rule; WELL_KNOWN as usize] {
    [Rule::no_info(), Rule::end(), Rule::unsupported(), Rule::signal()]
}

impl Rule {
    const fn new(cfa: Cfa, offset: i32, rbp: Rbp, rbp_offset: i16) -> Self {
        Self(cfa as u64 | (rbp as u64) << 8 | (rbp_offset as u16 as u64) << 16 | (offset as u32 as u64) << 32)
    }

    /// [`Cfa::NoInfo`].
    pub const fn no_info() -> Self {
        Self::new(Cfa::NoInfo, 0, Rbp::Unchanged, 0)
    }

    /// [`Cfa::End`].
    pub const fn end() -> Self {
        Self::new(Cfa::End, 0, Rbp::Unchanged, 0)
    }

    /// [`Cfa::Unsupported`].
    pub const fn unsupported() -> Self {
        Self::new(Cfa::Unsupported, 0, Rbp::Unchanged, 0)
    }

    /// [`Cfa::Signal`].
    pub const fn signal() -> Self {
        Self::new(Cfa::Signal, 0, Rbp::Unchanged, 0)
    }

    /// CFA = rsp + `offset` bytes.
    pub const fn rsp(offset: i32) -> Self {
        Self::new(Cfa::Rsp, offset, Rbp::Unchanged, 0)
    }

    /// CFA = rbp + `offset` bytes.
    pub const fn rbp(offset: i32) -> Self {
        Self::new(Cfa::Rbp, offset, Rbp::Unchanged, 0)
    }

    /// CFA = rsp + `offset` bytes, and the return address is in rdi.
    pub const fn return_in_rdi(offset: i32) -> Self {
        Self::new(Cfa::ReturnInRdi, offset, Rbp::Unchanged, 0)
    }

    /// CFA = rsp + 8, and 8 more where pc & 15 >= `pushed_from` (11 in GNU's classic entries).
    pub const fn plt(pushed_from: u8) -> Self {
        Self::new(Cfa::Plt, pushed_from as i32, Rbp::Unchanged, 0)
    }

    /// CFA = the word at rsp + `at` bytes, plus `addend`.
    pub const fn deref_rsp(at: i16, addend: i16) -> Self {
        Self::new(Cfa::DerefRsp, halves(at, addend), Rbp::Unchanged, 0)
    }

    /// CFA = the word at rbp + `at` bytes, plus `addend`.
    pub const fn deref_rbp(at: i16, addend: i16) -> Self {
        Self::new(Cfa::DerefRbp, halves(at, addend), Rbp::Unchanged, 0)
    }

    /// The same with the caller's rbp at CFA + `offset` bytes.
    #[must_use]
    pub const fn with_rbp_at_cfa(self, offset: i16) -> Self {
        self.with_rbp(Rbp::AtCfa, offset)
    }

    /// The same with the caller's rbp at this frame's rbp + `offset` bytes.
    #[must_use]
    pub const fn with_rbp_at_rbp(self, offset: i16) -> Self {
        self.with_rbp(Rbp::AtRbp, offset)
    }

    /// The same with the caller's rbp unknown.
    #[must_use]
    pub const fn with_rbp_undefined(self) -> Self {
        self.with_rbp(Rbp::Undefined, 0)
    }

    const fn with_rbp(self, rbp: Rbp, offset: i16) -> Self {
        Self(self.0 & !0xffff_ff00 | (rbp as u64) << 8 | (offset as u16 as u64) << 16)
    }

    /// The rule as a word, as it lies in the kernel's array.
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// A rule out of the kernel's array. Every word is one: what has no meaning reads as unsupported.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// A [`Cfa`] as a number.
    #[inline(always)]
    pub const fn cfa(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// Offset of the CFA; its meaning depends on [`Self::cfa`].
    #[inline(always)]
    pub const fn offset(self) -> i64 {
        self.0.cast_signed() >> 32
    }

    /// Where a dereferenced CFA is found, in bytes.
    #[inline(always)]
    pub const fn deref_at(self) -> i64 {
        (self.0 << 16).cast_signed() >> 48
    }

    /// What is added to a dereferenced CFA, in bytes.
    #[inline(always)]
    pub const fn deref_addend(self) -> i64 {
        self.0.cast_signed() >> 48
    }

    /// A [`Rbp`] as a number.
    #[inline(always)]
    pub const fn rbp_kind(self) -> u32 {
        ((self.0 >> 8) & 0xff) as u32
    }

    /// Offset of the caller's rbp in bytes.
    #[inline(always)]
    pub const fn rbp_offset(self) -> i64 {
        (self.0 << 32).cast_signed() >> 48
    }
}

const fn halves(low: i16, high: i16) -> i32 {
    ((low as u16 as u32) | (high as u16 as u32) << 16).cast_signed()
}

impl core::fmt::Debug for Rule {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.cfa() {
            kind if kind == Cfa::NoInfo as u32 => out.write_str("no info"),
            kind if kind == Cfa::End as u32 => out.write_str("end"),
            kind if kind == Cfa::Signal as u32 => out.write_str("signal"),
            kind if kind == Cfa::Rsp as u32 => write!(out, "rsp{:+}", self.offset()),
            kind if kind == Cfa::Rbp as u32 => write!(out, "rbp{:+}", self.offset()),
            kind if kind == Cfa::ReturnInRdi as u32 => write!(out, "rsp{:+}, return address in rdi", self.offset()),
            kind if kind == Cfa::Plt as u32 => write!(out, "plt from {}", self.offset()),
            kind if kind == Cfa::DerefRsp as u32 => {
                write!(out, "[rsp{:+}]{:+}", self.deref_at(), self.deref_addend())
            }
            kind if kind == Cfa::DerefRbp as u32 => {
                write!(out, "[rbp{:+}]{:+}", self.deref_at(), self.deref_addend())
            }
            _ => out.write_str("unsupported"),
        }?;
        match self.rbp_kind() {
            kind if kind == Rbp::AtCfa as u32 => write!(out, ", rbp at cfa{:+}", self.rbp_offset()),
            kind if kind == Rbp::AtRbp as u32 => write!(out, ", rbp at rbp{:+}", self.rbp_offset()),
            kind if kind == Rbp::Undefined as u32 => out.write_str(", rbp undefined"),
            _ => Ok(()),
        }
    }
}

const _: () = assert!(size_of::<Rule>() == 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_into_a_rule_comes_out_again(offset in any::<i32>(), at in any::<i16>(), addend in any::<i16>()) {
            let rule = Rule::rsp(offset).with_rbp_at_cfa(at);
            assert_eq!((rule.cfa(), rule.offset()), (Cfa::Rsp as u32, i64::from(offset)));
            assert_eq!((rule.rbp_kind(), rule.rbp_offset()), (Rbp::AtCfa as u32, i64::from(at)));
            let rule = Rule::deref_rbp(at, addend).with_rbp_at_rbp(addend);
            assert_eq!((rule.deref_at(), rule.deref_addend()), (i64::from(at), i64::from(addend)));
            assert_eq!((rule.rbp_kind(), rule.rbp_offset()), (Rbp::AtRbp as u32, i64::from(addend)));
        }
    }

    #[test]
    fn well_known_rules_stand_at_their_indices() {
        let rules = well_known();
        assert_eq!(rules[usize::from(NO_INFO)], Rule::no_info());
        assert_eq!(rules[usize::from(END)], Rule::end());
        assert_eq!(rules[usize::from(UNSUPPORTED)], Rule::unsupported());
        assert_eq!(rules[usize::from(SIGNAL)], Rule::signal());
    }
}
