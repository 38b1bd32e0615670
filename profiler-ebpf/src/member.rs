//! How one member of a struct of the kernel is loaded, in one word.
//!
//! A member that is as wide as the program takes it to be is plain: its word is its offset in bytes, and the load is one
//! instruction. Kernels change the types of members (`task_struct.on_cpu` was an `int` and became a byte), so a member of
//! another width, and a bit field, has the load and the shifts that get its value above the offset. The programs tell the
//! two apart by comparing a word that the verifier knows, which then drops the branch that is not taken: a plain load costs
//! no more than it would without the choice.

use core::marker::PhantomData;

/// Bits of the word that hold the offset.
const OFFSET_BITS: u32 = 16;
const OFFSET_MASK: u32 = (1 << OFFSET_BITS) - 1;
/// Bits above it: 1 + log2 of the bytes to load, 0 for a plain member.
const UNIT_SHIFT: u32 = OFFSET_BITS;
const UNIT_MASK: u32 = 0b111;
/// Whether the value has a sign.
const SIGNED: u32 = 1 << 19;
/// How far to shift left, to drop what lies above the value, then right, to drop what lies below.
const LEFT_SHIFT: u32 = 20;
const RIGHT_SHIFT: u32 = 26;
const SHIFT_MASK: u32 = 0b11_1111;

/// What the programs take a member to be.
pub trait Shape: Copy {
    /// Bytes of it.
    const BYTES: u32;
    /// Whether the programs follow it: only a pointer will do then.
    const IS_POINTER: bool = false;
}

impl Shape for u16 {
    const BYTES: u32 = 2;
}

impl Shape for u32 {
    const BYTES: u32 = 4;
}

impl Shape for u64 {
    const BYTES: u32 = 8;
}

/// A pointer to another struct of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer;

impl Shape for Pointer {
    const BYTES: u32 = 8;
    const IS_POINTER: bool = true;
}

/// A member that the programs load as a `T`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<T>(u32, PhantomData<T>);

impl<T: Shape> Member<T> {
    /// A member that the running kernel does not have.
    pub const ABSENT: Self = Self(u32::MAX, PhantomData);

    /// The member that lies at a bit of its struct and has so many bits. None if it has no bits or more than a word has, lies
    /// too far from the struct's beginning, or cannot be loaded at once.
    pub const fn at(bit_offset: u32, bits: u32, signed: bool) -> Option<Self> {
        if bits == 0 || bits > 64 {
            return None;
        }
        let offset = bit_offset / 8;
        let whole = bit_offset.is_multiple_of(8) && matches!(bits, 8 | 16 | 32 | 64);
        if whole && bits == T::BYTES * 8 {
            return if offset > OFFSET_MASK { None } else { Some(Self(offset, PhantomData)) };
        }
        // The smallest load that covers it; a bit field's has to be aligned.
        let mut unit = 0;
        while unit <= 3 {
            let bytes = 1 << unit;
            let start = if whole { offset } else { offset / bytes * bytes };
            let skipped = bit_offset - start * 8;
            if skipped + bits <= bytes * 8 {
                if start > OFFSET_MASK {
                    return None;
                }
                let (left, right) = (64 - skipped - bits, 64 - bits);
                let sign = if signed { SIGNED } else { 0 };
                let load = (unit + 1) << UNIT_SHIFT | sign | left << LEFT_SHIFT | right << RIGHT_SHIFT;
                return Some(Self(start | load, PhantomData));
            }
            unit += 1;
        }
        None
    }

    /// Whether the running kernel has no such member.
    #[inline(always)]
    pub const fn is_absent(self) -> bool {
        self.0 == u32::MAX
    }

    /// Whether it is as wide as a `T` and begins with a byte.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        self.0 <= OFFSET_MASK
    }

    /// Offset of a plain member in bytes.
    #[inline(always)]
    pub const fn plain_offset(self) -> u32 {
        self.0
    }

    /// Where a member that is not plain is loaded from.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 & OFFSET_MASK
    }

    /// How many bytes are loaded for a member that is not plain.
    #[inline(always)]
    pub const fn load_bytes(self) -> u32 {
        1 << ((self.0 >> UNIT_SHIFT) & UNIT_MASK) >> 1
    }

    /// The value of a member that is not plain, in what was loaded (the rest of the word is zero).
    #[inline(always)]
    pub const fn value_in(self, loaded: u64) -> u64 {
        let (left, right) = ((self.0 >> LEFT_SHIFT) & SHIFT_MASK, (self.0 >> RIGHT_SHIFT) & SHIFT_MASK);
        let top = loaded << left;
        if self.0 & SIGNED == 0 { top >> right } else { ((top as i64) >> right) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a member of a struct with these bytes, as the programs load it.
    fn load<T: Shape>(member: Member<T>, bytes: &[u8; 16]) -> u64 {
        let word = |offset: u32, length: u32| {
            let at = offset as usize;
            bytes[at..at + length as usize].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        if member.is_plain() {
            return word(member.plain_offset(), T::BYTES);
        }
        member.value_in(word(member.offset(), member.load_bytes()))
    }

    const BYTES: [u8; 16] = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0xff, 1, 2, 3, 4, 5, 6, 0x80];

    #[test]
    fn a_member_of_the_expected_width_is_plain() {
        let member = Member::<u32>::at(32, 32, true);
        assert!(member.is_some_and(|member| member.is_plain() && member.plain_offset() == 4));
        assert!(Member::<Pointer>::at(64, 64, false).is_some_and(Member::is_plain));
        assert!(!Member::<u32>::ABSENT.is_plain() && Member::<u32>::ABSENT.is_absent());
    }

    #[test]
    fn a_member_of_another_width_has_its_value() {
        let value = |bit, bits, signed| Member::<u32>::at(bit, bits, signed).map(|member| load(member, &BYTES));
        assert_eq!(value(32, 8, false), Some(0x98));
        assert_eq!(value(32, 8, true), Some(0xffff_ffff_ffff_ff98));
        assert_eq!(value(8, 16, false), Some(0x5432));
        assert_eq!(value(0, 64, false), Some(0xfedc_ba98_7654_3210));
        // Packed: loaded where it lies.
        assert_eq!(Member::<u64>::at(40, 32, false).map(|member| load(member, &BYTES)), Some(0xfffe_dcba));
    }

    #[test]
    fn every_bit_field_has_its_value() {
        let whole = u128::from_le_bytes(BYTES);
        for bit in 0..64 {
            for bits in 1..=64 - bit % 64 {
                let expected = (whole >> bit) as u64 & (u64::MAX >> (64 - bits));
                let signed = ((expected << (64 - bits)) as i64 >> (64 - bits)) as u64;
                let loaded = |signed| Member::<u16>::at(bit, bits, signed).map(|member| load(member, &BYTES));
                let plain = bits == 16 && bit % 8 == 0;
                assert_eq!(loaded(false), Some(expected), "{bits} bits at {bit}");
                assert_eq!(loaded(true), Some(if plain { expected } else { signed }), "{bits} bits at {bit}");
            }
        }
    }

    #[test]
    fn what_cannot_be_loaded_at_once_is_refused() {
        assert_eq!(Member::<u32>::at(0, 0, false), None);
        assert_eq!(Member::<u32>::at(0, 65, false), None);
        assert_eq!(Member::<u32>::at(60, 8, false), None, "across two words");
        assert_eq!(Member::<u32>::at(8 * 0x1_0000, 32, false), None);
        assert_eq!(Member::<u32>::at(8 * 0x1_0000, 8, false), None);
        assert!(Member::<u32>::at(8 * 0xffff, 8, false).is_some_and(|member| !member.is_absent()));
    }
}
