//! DWARF expressions that occur in call frame information. In: an expression. Out: its [`Shape`], if it is one of the few
//! that compilers, linkers and hand-written assembly use.

use gimli::{Encoding, Expression, Format, Operation, Register, X86_64};

use super::frame_section::Bytes;

/// An expression that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// register + offset.
    Plus { register: Register, offset: i16 },
    /// The word at register + `at`, plus `addend`.
    Deref { register: Register, at: i16, addend: i16 },
    /// rsp + 8, and 8 more where rip & 15 >= `pushed_from`.
    Plt { pushed_from: u8 },
}

/// Longest expression that is looked at, in operations.
const OPERATIONS: usize = 10;

/// What an expression is; `None` for one of another shape.
pub(super) fn shape(expression: Expression<Bytes<'_>>) -> Option<Shape> {
    let encoding = Encoding { format: Format::Dwarf32, version: 4, address_size: 8 };
    let mut operations = expression.operations(encoding);
    let mut list = [const { Operation::Nop }; OPERATIONS];
    let mut count = 0;
    while let Some(operation) = operations.next().ok()? {
        *list.get_mut(count)? = operation;
        count += 1;
    }
    match list.get(..count)? {
        [base] => {
            let (register, offset) = register_offset(base)?;
            Some(Shape::Plus { register, offset })
        }
        [base, Operation::Deref { size: 8, space: false, .. }] => {
            let (register, at) = register_offset(base)?;
            Some(Shape::Deref { register, at, addend: 0 })
        }
        [base, Operation::Deref { size: 8, space: false, .. }, Operation::PlusConstant { value }] => {
            let (register, at) = register_offset(base)?;
            Some(Shape::Deref { register, at, addend: i16::try_from(*value).ok()? })
        }
        [base, Operation::PlusConstant { value }] => {
            let (register, offset) = register_offset(base)?;
            Some(Shape::Plus { register, offset: offset.checked_add_unsigned(u16::try_from(*value).ok()?)? })
        }
        // breg7 rsp+8; breg16 rip+0; lit15; and; lit11; ge; lit3; shl; plus
        [
            stack,
            address,
            Operation::UnsignedConstant { value: 15 },
            Operation::And,
            Operation::UnsignedConstant { value: pushed_from @ 0..=15 },
            Operation::Ge,
            Operation::UnsignedConstant { value: 3 },
            Operation::Shl,
            Operation::Plus,
        ] if register_offset(stack)? == (X86_64::RSP, 8) && register_offset(address)? == (X86_64::RA, 0) => {
            Some(Shape::Plt { pushed_from: *pushed_from as u8 })
        }
        _ => None,
    }
}

fn register_offset(operation: &Operation<Bytes<'_>>) -> Option<(Register, i16)> {
    match *operation {
        Operation::RegisterOffset { register, offset, base_type } if base_type.0 == 0 => {
            Some((register, i16::try_from(offset).ok()?))
        }
        _ => None,
    }
}
