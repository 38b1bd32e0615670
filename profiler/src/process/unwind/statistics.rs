//! What a table was made from. In: what the builder met. Out: figures for coverage and `doctor`.

/// Why a row has no rule that the walker can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unsupported {
    /// Nothing says where the frame is.
    CfaUndefined,
    /// The frame is found through a register other than rsp and rbp.
    CfaRegister,
    /// The frame is found through an expression of a shape that is not known.
    CfaExpression,
    /// The return address, or the caller's rsp, is not where a call leaves it.
    ReturnAddress,
    /// An offset does not fit.
    Offset,
    /// An instruction is unknown or makes no sense where it stands.
    Instruction,
    /// States are remembered too deep.
    RememberedTooDeep,
    /// The file has more different rules than a table holds.
    TooManyRules,
}

impl Unsupported {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::CfaUndefined,
        Self::CfaRegister,
        Self::CfaExpression,
        Self::ReturnAddress,
        Self::Offset,
        Self::Instruction,
        Self::RememberedTooDeep,
        Self::TooManyRules,
    ];

    /// The name used in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CfaUndefined => "cfa_undefined",
            Self::CfaRegister => "cfa_register",
            Self::CfaExpression => "cfa_expression",
            Self::ReturnAddress => "return_address",
            Self::Offset => "offset",
            Self::Instruction => "instruction",
            Self::RememberedTooDeep => "remembered_too_deep",
            Self::TooManyRules => "too_many_rules",
        }
    }
}

/// What a table was made from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of executable segments.
    pub code_bytes: u64,
    /// Bytes of them that something is said of.
    pub described_bytes: u64,
    /// Functions described.
    pub functions: u64,
    /// Functions outside every executable segment: leftovers of what the linker threw away.
    pub functions_outside: u64,
    /// Functions that another one hides: described twice.
    pub functions_hidden: u64,
    /// Records that could not be parsed, and functions whose instructions make no sense.
    pub malformed: u64,
    /// Functions of Go that nobody calls: where its stacks begin.
    pub top_frames: u64,
    /// Ways back from a signal that were found by their bytes.
    pub signal_returns: u64,
    /// Bytes of code not described that were not searched for such.
    pub unsearched_bytes: u64,
    /// Bytes of code that nothing describes and whose rows were found by following its instructions.
    pub derived_bytes: u64,
    /// Whether following instructions was cut off.
    pub derived_cut_off: bool,
    /// Rows before neighbours were merged.
    pub rows_described: u64,
    pub(super) unsupported: [u64; Unsupported::ALL.len()],
}

impl Statistics {
    /// Rows that cannot be followed, by reason.
    pub fn unsupported(&self) -> impl Iterator<Item = (Unsupported, u64)> {
        Unsupported::ALL.into_iter().zip(self.unsupported)
    }

    /// Rows that cannot be followed.
    pub fn unsupported_rows(&self) -> u64 {
        self.unsupported.iter().sum()
    }

    pub(super) fn count(&mut self, why: Unsupported, rows: u64) {
        self.unsupported[why as usize] += rows;
    }
}
