//! Rules, each once for all tables. In: a table's own rules. Out: their indices in the kernel's array.

use profiler_ebpf::unwind::{
    Rule,
    rule::{RULES, UNSUPPORTED, well_known},
};
use rustc_hash::FxHashMap;

use crate::kernel::UnwindMaps;

/// Every rule in the kernel's array.
#[derive(Debug)]
pub struct Rules {
    indices: FxHashMap<Rule, u16>,
    refused: u64,
}

impl Rules {
    /// Stores the rules that every table knows.
    pub fn new(maps: &UnwindMaps) -> Self {
        let mut indices = FxHashMap::default();
        for (index, rule) in (0..).zip(well_known()) {
            maps.set_rule(index, rule);
            indices.insert(rule, index);
        }
        Self { indices, refused: 0 }
    }

    /// Index of a rule, stored if it is new. Those beyond what a row can name cannot be followed.
    pub fn index(&mut self, rule: Rule, maps: &UnwindMaps) -> u16 {
        if let Some(index) = self.indices.get(&rule) {
            return *index;
        }
        let next = self.indices.len();
        if next >= RULES {
            self.refused += 1;
            return UNSUPPORTED;
        }
        maps.set_rule(next as u16, rule);
        self.indices.insert(rule, next as u16);
        next as u16
    }

    /// Rules there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Rules for which there was no index left.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
