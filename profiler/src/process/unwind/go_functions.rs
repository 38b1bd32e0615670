//! Where stacks of Go begin. In: `.gopclntab`, Go's table of functions, which stripping leaves in place. Out: the
//! functions that nobody called (`runtime.goexit`, `mstart`, `rt0_go`): the compiler marks them as top frames.
//!
//! Go keeps frame pointers and marks a stack's end in no other way: above `mstart` lies whatever was on the thread's stack.
//! The layout is that of runtime/symtab.go and debug/gosym/pclntab.go, from Go 1.16 on.

use super::frame_section::array;

/// `abi.FuncFlagTopFrame`.
const TOP_FRAME: u8 = 1;

/// One layout of the table.
struct Layout {
    /// Bytes of each number in the list of functions.
    entry: usize,
    /// Position in the header of the place of the list of functions.
    list: usize,
    /// Position in the header of the address that entries count from.
    text: Option<usize>,
    /// Position of the flags in a function's record.
    flags: usize,
}

impl Layout {
    fn of(magic: u32) -> Option<Self> {
        match magic {
            // Go 1.20
            0xffff_fff1 => Some(Self { entry: 4, list: 64, text: Some(24), flags: 41 }),
            // Go 1.18
            0xffff_fff0 => Some(Self { entry: 4, list: 64, text: Some(24), flags: 37 }),
            // Go 1.16
            0xffff_fffa => Some(Self { entry: 8, list: 56, text: None, flags: 41 }),
            _ => None,
        }
    }
}

/// Calls `found` with the first and the last address but one of each top frame. `None` where the table is none.
pub(super) fn top_frames(table: &[u8], text: u64, mut found: impl FnMut(u64, u64)) -> Option<()> {
    let layout = Layout::of(u32::from_le_bytes(array(table, 0)?))?;
    let [0, 0, 1, 8] = array(table, 4)? else { return None };
    let count = usize::try_from(u64::from_le_bytes(array(table, 8)?)).ok()?;
    // Left to the dynamic loader to fill in, it is 0 here; then it is the beginning of .text, as far as one can tell.
    let base = match layout.text {
        Some(at) => match u64::from_le_bytes(array(table, at)?) {
            0 => text,
            base => base,
        },
        None => 0,
    };
    let list = table.get(usize::try_from(u64::from_le_bytes(array(table, layout.list)?)).ok()?..)?;
    let number = |at: usize| -> Option<u64> {
        let at = at.checked_mul(layout.entry)?;
        if layout.entry == 4 {
            Some(u32::from_le_bytes(array(list, at)?).into())
        } else {
            Some(u64::from_le_bytes(array(list, at)?))
        }
    };
    if count > list.len() / (2 * layout.entry) {
        return None;
    }
    // A last number says where the last function ends.
    for index in 0..count {
        let record = usize::try_from(number(2 * index + 1)?).ok()?;
        let flags = record.checked_add(layout.flags).and_then(|at| list.get(at)).copied()?;
        if flags & TOP_FRAME != 0 {
            let (start, end) = (number(2 * index)?, number(2 * index + 2)?);
            found(base.checked_add(start)?, base.checked_add(end)?);
        }
    }
    Some(())
}
