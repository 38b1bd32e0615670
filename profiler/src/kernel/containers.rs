//! Container indices: given to the kernel programs a few at a time, followed as cgroups take them, taken back when a cgroup
//! is gone. In: the maps. Out: which index stands for which cgroup.
//!
//! The programs take the index that was given first. Most indices stay here, and those that come back go out first, so that few
//! of them are ever looked through.

use aya::maps::{HashMap, MapData, Queue};
use profiler_ebpf::{CONTAINER_FIRST, map, settings::filter};

use super::Kernel;

/// Indices that lie ready for new cgroups between two looks.
const READY: usize = 256;

/// Who has which index.
pub struct Indices {
    /// Index by cgroup id.
    given: HashMap<MapData, u64, u32>,
    /// Indices that lie ready.
    ready: Queue<MapData, u32>,
    /// How many those are, or fewer: the programs put one back where two CPUs met the same cgroup at once.
    ready_count: usize,
    /// Indices kept here; the last goes out first.
    spare: Vec<u32>,
    /// Cgroup by index, as last seen.
    seen: Vec<u64>,
}

impl Indices {
    /// The indices that have to lie ready when the programs are attached to a host with this many cgroups.
    pub fn first(containers: u32, cgroups: usize) -> std::ops::Range<u32> {
        let ready = u32::try_from(READY.saturating_add(cgroups)).unwrap_or(u32::MAX);
        CONTAINER_FIRST..containers.min(CONTAINER_FIRST.saturating_add(ready))
    }

    /// All indices below `containers`, of which [`Self::first`] lie ready.
    pub fn new(given: HashMap<MapData, u64, u32>, ready: Queue<MapData, u32>, containers: u32, cgroups: usize) -> Self {
        let first = Self::first(containers, cgroups);
        Self {
            given,
            ready,
            ready_count: first.len(),
            spare: (first.end..containers).rev().collect(),
            seen: vec![0; containers as usize],
        }
    }

    /// Puts out as many as should lie ready.
    pub fn supply(&mut self) {
        while self.ready_count < READY
            && let Some(index) = self.spare.pop()
        {
            if let Err(error) = self.ready.push(index, 0) {
                tracing::warn!("no index can be given to new containers: {error}");
                self.spare.push(index);
                return;
            }
            self.ready_count += 1;
        }
    }
}

impl Kernel {
    /// Indices that something may be accounted to: those of the kernel's own, and those that a cgroup has. An index has its cgroup
    /// before anything is accounted to it. Most of all that there are stand for nobody, and looking through their rows would take
    /// megabytes through the caches with each window.
    pub(super) fn indices_in_use(&self) -> Vec<u32> {
        let taken = |index: &u32| self.cgroup_of(*index).is_some();
        (0..CONTAINER_FIRST).chain((CONTAINER_FIRST..self.containers()).filter(taken)).collect()
    }

    /// The (index, cgroup) pairs that came up since the last call.
    pub fn new_containers(&mut self) -> Vec<(u32, u64)> {
        let mut new = Vec::new();
        for (index, seen) in self.indices.seen.iter_mut().enumerate().skip(CONTAINER_FIRST as usize) {
            let cgroup = self.container_cgroups.read(index).unwrap_or(0);
            if cgroup != 0 && cgroup != *seen {
                *seen = cgroup;
                self.indices.ready_count = self.indices.ready_count.saturating_sub(1);
                new.push((index as u32, cgroup));
            }
        }
        self.indices.supply();
        new
    }

    /// A cgroup is gone: what it called of the kernel is accounted when the window ends, and makes room at once.
    pub fn retire_container(&mut self, cgroup: u64) {
        if let Ok(index) = self.indices.given.get(&cgroup, 0) {
            self.syscall_rows.retire(index);
        }
    }

    /// Takes back the index of a cgroup that is gone and whose last accounts have been read. Nothing happens if it has none.
    pub fn release_container(&mut self, cgroup: u64) -> Option<u32> {
        let index = self.indices.given.get(&cgroup, 0).ok()?;
        if let Err(error) = self.indices.given.remove(&cgroup) {
            tracing::warn!("the index of a cgroup that is gone cannot be taken back: {error}");
            return None;
        }
        self.container_cgroups.write(index as usize, 0);
        self.container_filter.write(index as usize, filter::UNDECIDED);
        if let Some(seen) = self.indices.seen.get_mut(index as usize) {
            *seen = 0;
        }
        self.forget_waited_behind(index);
        self.syscall_rows.release(index);
        self.indices.spare.push(index);
        Some(index)
    }

    /// Maps that may fill up: name, entries in use, capacity.
    pub fn map_use(&self) -> Vec<(&'static str, u64, u64)> {
        let containers = self.indices.seen.iter().filter(|cgroup| **cgroup != 0).count() as u64;
        let most = u64::from(self.sizes.containers.saturating_sub(CONTAINER_FIRST));
        let (rows, most_rows) = self.syscall_rows.in_use();
        let (pairs, most_pairs) = self.waited_behind_use();
        vec![
            (map::CONTAINERS, containers, most),
            (map::SYSCALLS, rows, most_rows),
            (map::WAITED_BEHIND, pairs, most_pairs),
        ]
    }
}
