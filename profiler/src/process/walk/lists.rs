//! Processes' mappings as the kernel programs read them. In: mappings. Out: lists in the segments, each shared by the processes
//! that forked from one another and have changed nothing since.

use std::sync::Arc;

use profiler_ebpf::unwind::{ProcessEntry, storage::MAPPINGS};
use rustc_hash::FxHashMap;

use super::places::Extent;
use crate::process::{Mappings, Pid};

/// One list and who uses it.
#[derive(Debug)]
struct List {
    /// Kept so that the address by which the list is known is not given to another.
    _mappings: Arc<Mappings>,
    extent: Extent,
    count: u32,
    /// Tables that it names, each once.
    tables: Vec<u32>,
    users: u32,
}

/// All lists.
#[derive(Debug, Default)]
pub struct Lists {
    /// By the address of the mappings.
    by_mappings: FxHashMap<usize, List>,
    by_process: FxHashMap<Pid, usize>,
    generation: u32,
}

/// A list that nobody uses any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Unused {
    /// Where it lies.
    pub extent: Extent,
    /// Tables that it named.
    pub tables: Vec<u32>,
}

fn key(mappings: &Arc<Mappings>) -> usize {
    Arc::as_ptr(mappings) as usize
}

impl Lists {
    /// Whether a process has this very list.
    pub fn is_current(&self, pid: Pid, mappings: &Arc<Mappings>) -> bool {
        self.by_process.get(&pid) == Some(&key(mappings))
    }

    /// Whether the list is laid out, for whomever.
    pub fn has(&self, mappings: &Arc<Mappings>) -> bool {
        self.by_mappings.contains_key(&key(mappings))
    }

    /// Notes where a list was laid out.
    pub fn add(&mut self, mappings: Arc<Mappings>, extent: Extent, count: u32, tables: Vec<u32>) {
        debug_assert!(count <= MAPPINGS);
        self.by_mappings.insert(key(&mappings), List { _mappings: mappings, extent, count, tables, users: 0 });
    }

    /// Gives a list that is laid out to a process: what to tell the programs, and what it had before if nobody has that now.
    pub fn assign(&mut self, pid: Pid, mappings: &Arc<Mappings>) -> Option<(ProcessEntry, Option<Unused>)> {
        self.generation = self.generation.wrapping_add(1);
        let list = self.by_mappings.get_mut(&key(mappings))?;
        list.users += 1;
        let entry =
            ProcessEntry { pid: pid.0, place: list.extent.place, mappings: list.count, generation: self.generation };
        let before = self.by_process.insert(pid, key(mappings));
        Some((entry, before.and_then(|before| self.leave(before))))
    }

    /// Takes a process's list away. What nobody has now is returned.
    pub fn forget(&mut self, pid: Pid) -> Option<Unused> {
        let before = self.by_process.remove(&pid)?;
        self.leave(before)
    }

    /// Place and number of a process's mappings.
    pub fn of(&self, pid: Pid) -> Option<(u32, u32)> {
        let list = self.by_mappings.get(self.by_process.get(&pid)?)?;
        Some((list.extent.place, list.count))
    }

    /// Number of processes that have a list.
    pub fn processes(&self) -> usize {
        self.by_process.len()
    }

    fn leave(&mut self, key: usize) -> Option<Unused> {
        let list = self.by_mappings.get_mut(&key)?;
        list.users = list.users.saturating_sub(1);
        if list.users > 0 {
            return None;
        }
        self.by_mappings.remove(&key).map(|list| Unused { extent: list.extent, tables: list.tables })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_lives_as_long_as_the_last_process_that_has_it() {
        let mut lists = Lists::default();
        let (one, two) = (Arc::new(Mappings::default()), Arc::new(Mappings::default()));
        let extent = |place| Extent { place, words: 8 };
        lists.add(one.clone(), extent(0), 1, vec![3]);
        assert!(lists.assign(Pid(1), &one).is_some_and(|(entry, before)| entry.place == 0 && before.is_none()));
        assert!(lists.assign(Pid(2), &one).is_some());
        assert!(lists.is_current(Pid(2), &one) && lists.has(&one) && !lists.has(&two));
        lists.add(two.clone(), extent(8), 1, vec![4]);
        let moved = lists.assign(Pid(1), &two);
        assert!(moved.is_some_and(|(entry, before)| entry.place == 8 && before.is_none()));
        assert_eq!(lists.of(Pid(1)), Some((8, 1)));
        assert_eq!(lists.forget(Pid(2)), Some(Unused { extent: extent(0), tables: vec![3] }));
        assert_eq!(lists.forget(Pid(2)), None);
        assert_eq!(lists.processes(), 1);
    }
}
