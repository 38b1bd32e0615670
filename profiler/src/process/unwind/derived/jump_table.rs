//! Where a jump through a table leads. In: the instructions before the jump, in the order in which they run. Out: the table's
//! targets.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::text::Text;

/// Entries of a table, at most.
const ENTRIES_MAX: u32 = 2048;
/// Addresses that are remembered.
const BASES: usize = 4;
/// Targets of a table whose length is not known lie this close to the jump.
const REACH: u64 = 32 << 10;

/// What the last instructions tell about a jump to come.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Clues {
    /// Addresses that registers were loaded with last.
    bases: [(Register, u64); BASES],
    next: u8,
    /// The register that held the table of which an entry was loaded.
    relative: Option<Register>,
    /// The last constant that something was compared with.
    compared: Option<u32>,
}

impl Clues {
    /// Takes in an instruction.
    pub fn note(&mut self, instruction: &Instruction) {
        match instruction.mnemonic() {
            Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                if let Some(base) = self.bases.get_mut(usize::from(self.next) % BASES) {
                    *base = (instruction.op0_register(), instruction.ip_rel_memory_address());
                }
                self.next = self.next.wrapping_add(1);
            }
            Mnemonic::Movsxd if instruction.memory_index_scale() == 4 => {
                self.relative = Some(instruction.memory_base());
            }
            Mnemonic::Cmp if instruction.op1_kind() != OpKind::Register && instruction.op1_kind() != OpKind::Memory => {
                self.compared = u32::try_from(instruction.immediate(1)).ok().filter(|most| *most < ENTRIES_MAX);
            }
            _ => {}
        }
    }

    /// The targets of an indirect jump, if it goes through a table.
    pub fn targets(&self, jump: &Instruction, text: &Text) -> Vec<u64> {
        if jump.op0_kind() == OpKind::Memory {
            let is_table = jump.memory_index_scale() == 8 && jump.memory_index() != Register::None;
            let table = match jump.memory_base() {
                Register::None => Some(jump.memory_displacement64()),
                base => self.base(base).map(|table| table.wrapping_add(jump.memory_displacement64())),
            };
            return match table.filter(|_| is_table) {
                Some(table) => self.entries(jump.ip(), text, |index| text.long(table.checked_add(8 * index)?)),
                None => Vec::new(),
            };
        }
        let Some(table) = self.relative.and_then(|base| self.base(base)) else { return Vec::new() };
        self.entries(jump.ip(), text, |index| {
            let offset = text.signed_word(table.checked_add(4 * index)?)?;
            table.checked_add_signed(offset.into())
        })
    }

    fn base(&self, register: Register) -> Option<u64> {
        let newest_first = (1..=BASES).map(|back| (usize::from(self.next) + 2 * BASES - back) % BASES);
        newest_first
            .filter_map(|at| self.bases.get(at))
            .find(|(held_in, _)| *held_in == register)
            .map(|(_, base)| *base)
    }

    fn entries(&self, jump: u64, text: &Text, entry: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
        let count = self.compared.map_or(ENTRIES_MAX, |most| most + 1);
        let near = |target: &u64| target.abs_diff(jump) < REACH && text.code(*target).is_some();
        let mut targets: Vec<u64> = (0..count.into()).map_while(|index| entry(index).filter(near)).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}
