//! Why a walk ended: every stack carries one of these.

macro_rules! stops {
    ($($(#[$doc:meta])* $variant:ident = $value:literal, $name:literal, $complete:literal;)+) => {
        /// Why a walk ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Stop {
            $($(#[$doc])* $variant = $value,)+
        }

        impl Stop {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in outputs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Whether the stack is whole: the walk reached where the thread began.
            pub const fn is_complete(self) -> bool {
                match self {
                    $(Self::$variant => $complete,)+
                }
            }

            /// The reason behind a number; [`Self::NotWalked`] for one that has none.
            pub const fn from_number(number: u8) -> Self {
                match number {
                    $($value => Self::$variant,)+
                    _ => Self::NotWalked,
                }
            }
        }
    };
}

stops! {
    /// Nobody walked this stack (there is none, or the kernel's own walk by frame pointers took it).
    NotWalked = 0, "not_walked", false;
    /// The rule says that the stack ends here: a program's or a thread's first function.
    End = 1, "end", true;
    /// Code that is followed by frame pointers, and the frame pointer is 0: a runtime's root (Go), `_start` of musl.
    FramePointerEnd = 2, "frame_pointer_end", true;
    /// The return address is 0.
    NullReturn = 3, "null_return", true;
    /// Nothing is known of the process's mappings yet.
    NoProcess = 4, "no_process", false;
    /// The address is in no known mapping.
    NoMapping = 5, "no_mapping", false;
    /// The file's table is not built yet.
    NoTable = 6, "no_table", false;
    /// The file's table was put out of memory, or never found room.
    NoRoom = 7, "no_room", false;
    /// The file could not be opened or read, or is malformed.
    BadFile = 8, "bad_file", false;
    /// A rule that cannot be followed.
    UnsupportedRule = 9, "unsupported_rule", false;
    /// A rule needs rbp, which an inner frame did not keep.
    LostRegister = 10, "lost_register", false;
    /// The stack could not be read: paged out, or not a stack.
    Unreadable = 11, "unreadable", false;
    /// More frames than are kept.
    TooDeep = 12, "too_deep", false;
    /// A frame is not above the one it called.
    NotProgressing = 13, "not_progressing", false;
    /// Code without unwind information does not keep a frame pointer either.
    NoFramePointer = 14, "no_frame_pointer", false;
}

/// What a step returns when the walk goes on.
pub const GO_ON: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_comes_back_from_its_number() {
        for (place, stop) in Stop::ALL.iter().enumerate() {
            assert_eq!(Stop::from_number(*stop as u8), *stop);
            assert!(Stop::ALL[..place].iter().all(|other| other.name() != stop.name()));
        }
        assert_eq!(Stop::from_number(200), Stop::NotWalked);
    }
}
