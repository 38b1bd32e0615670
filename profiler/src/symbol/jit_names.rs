//! Every perf map in use. In: files. Out: names, within what one container and the whole node may take of memory and time.
//!
//! Files with names are other people's, and as many as there are processes. So bounds hold over all of them: what does
//! not fit is left out and counted as `perf_map_too_large`.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::allowance::{Allowance, Left};
use super::perf_map::{Budget, PerfMap};
use super::{Unresolved, foreign};
use crate::process::{ForeignFile, PerfMapFile};

/// What perf maps may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Bytes of memory for the maps of one container.
    container_bytes: usize,
    /// Bytes of memory for all of them.
    node_bytes: usize,
    /// Bytes of one container's files that are read at once.
    container_read: Allowance,
    /// The same for all of them.
    node_read: Allowance,
}

const LIMITS: Limits = Limits {
    container_bytes: 80 << 20,
    node_bytes: 112 << 20,
    container_read: Allowance { most: 256 << 20, each_second: 16 << 20 },
    node_read: Allowance { most: 512 << 20, each_second: 32 << 20 },
};

/// Files whose names are kept at a time.
const MAPS: usize = 1024;

/// How long names are kept that nobody asks for.
const IDLE: Duration = Duration::from_mins(10);

/// Batches for which nothing was asked of a map after which it gives way to others.
const RESTED: u64 = 8;

/// Containers whose reading is remembered.
const OWNERS: usize = 4096;

#[derive(Debug)]
struct Kept {
    map: PerfMap,
    owner: u64,
    /// The batch that it was last asked for in.
    batch: u64,
    used_at: Instant,
}

/// The maps.
#[derive(Debug)]
pub(super) struct JitNames {
    limits: Limits,
    maps: FxHashMap<u32, Kept>,
    owners: FxHashMap<u64, Left>,
    node: Left,
    batch: u64,
}

impl JitNames {
    pub(super) fn new() -> Self {
        Self::with_limits(LIMITS)
    }

    fn with_limits(limits: Limits) -> Self {
        let node = Left::new(limits.node_read, Instant::now());
        Self { limits, maps: FxHashMap::default(), owners: FxHashMap::default(), node, batch: 1 }
    }

    /// Begins a batch: files are looked at once in each.
    pub(super) fn begin_batch(&mut self) {
        self.batch += 1;
        self.maps.retain(|_, kept| kept.used_at.elapsed() < IDLE);
    }

    /// The name of an address by these files, the first that has one.
    pub(super) fn find(&mut self, address: u64, files: &[Arc<PerfMapFile>]) -> Result<Arc<str>, Unresolved> {
        let mut reason = if files.is_empty() { Unresolved::NoPerfMap } else { Unresolved::NotInPerfMap };
        for file in files {
            let map = self.map(file.id(), file.owner(), |map, budget| refresh(file.file(), map, budget));
            if let Some(name) = map.find(address) {
                return Ok(name);
            }
            if map.is_full() {
                reason = Unresolved::PerfMapTooLarge;
            }
        }
        Err(reason)
    }

    /// The names in a file, as it is in this batch: a runtime moves code, and says so in the file.
    fn map(&mut self, id: u32, owner: u64, refresh: impl FnOnce(PerfMap, Budget) -> (PerfMap, u64)) -> &mut PerfMap {
        let now = Instant::now();
        if self.maps.get(&id).is_none_or(|kept| kept.batch != self.batch) {
            let map = self.maps.remove(&id).map(|kept| kept.map).unwrap_or_default();
            let budget = self.budget(owner, now);
            let (map, read) = refresh(map, budget);
            self.node.spend(read);
            if let Some(left) = self.owners.get_mut(&owner) {
                left.spend(read);
            }
            self.maps.insert(id, Kept { map, owner, batch: self.batch, used_at: now });
        }
        // Just put there where it was missing.
        &mut self.maps.entry(id).or_insert_with(|| Kept { map: PerfMap::default(), owner, batch: 0, used_at: now }).map
    }

    /// What a map of this owner may come to, beside all the others.
    fn budget(&mut self, owner: u64, now: Instant) -> Budget {
        // A map grows to more than is free when it is asked for, so that room is made ahead.
        while self.maps.len() >= MAPS || self.bytes() > self.limits.node_bytes / 2 {
            let rested = |kept: &Kept| kept.batch + RESTED < self.batch || self.maps.len() >= MAPS;
            let oldest = self.maps.iter().filter(|(_, kept)| rested(kept)).min_by_key(|(_, kept)| kept.batch);
            let Some(id) = oldest.map(|(id, _)| *id) else { break };
            self.maps.remove(&id);
        }
        if self.owners.len() >= OWNERS {
            self.owners.clear();
        }
        let own: usize = self.maps.values().filter(|kept| kept.owner == owner).map(|kept| kept.map.bytes()).sum();
        let of_container = self.limits.container_bytes.saturating_sub(own);
        let of_node = self.limits.node_bytes.saturating_sub(self.bytes());
        let (container_read, node_read) = (self.limits.container_read, self.limits.node_read);
        let left = self.owners.entry(owner).or_insert_with(|| Left::new(container_read, now));
        let read = left.at(container_read, now).min(self.node.at(node_read, now));
        Budget { memory: of_container.min(of_node), read }
    }

    fn bytes(&self) -> usize {
        self.maps.values().map(|kept| kept.map.bytes()).sum()
    }
}

/// The map as its file is now, and the bytes that were read for it.
fn refresh(file: &Arc<ForeignFile>, mut map: PerfMap, budget: Budget) -> (PerfMap, u64) {
    // What was read stays where nothing more can be.
    if !file.files().may_ask(file.subject()) {
        return (map, 0);
    }
    let work = move |file: &File| {
        let read = map.refresh(file, budget);
        (map, read)
    };
    // Where the answer stays out the names are gone, and read anew when it comes.
    foreign::read(file, work).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;

    use super::*;

    const SMALL: Limits = Limits {
        container_bytes: 3 << 20,
        node_bytes: 5 << 20,
        container_read: Allowance { most: 64 << 20, each_second: 0 },
        node_read: Allowance { most: 256 << 20, each_second: 0 },
    };

    /// A perf map of so many names that do not become shorter when they are packed.
    fn written(names: u64) -> std::io::Result<File> {
        let mut file = tempfile::tempfile()?;
        let (mut text, mut state) = (String::new(), names);
        for at in 0..names {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            writeln!(text, "{at:x}0 10 {state:016x}{:016x}", state.rotate_left(29) ^ at).unwrap_or_default();
        }
        file.write_all(text.as_bytes())?;
        Ok(file)
    }

    fn look(file: &File) -> impl FnOnce(PerfMap, Budget) -> (PerfMap, u64) {
        |mut map, budget| {
            let read = map.refresh(file, budget);
            (map, read)
        }
    }

    fn names(maps: &mut JitNames, id: u32, owner: u64, file: &File) -> usize {
        maps.map(id, owner, look(file)).len()
    }

    #[test]
    fn the_maps_of_one_container_and_of_all_take_what_they_may_and_no_more() -> std::io::Result<()> {
        let (file, mut maps) = (written(30_000)?, JitNames::with_limits(SMALL));
        let alone = names(&mut maps, 0, 0, &file);
        assert_eq!(alone, 30_000);
        for id in 1..20 {
            names(&mut maps, id, 0, &file);
        }
        // A chunk more than it may, since that is what is read at a time.
        assert!(maps.bytes() < SMALL.container_bytes + (3 << 19), "{}", maps.bytes());
        assert_eq!(names(&mut maps, 20, 1, &written(5000)?), 5000, "another container has names all the same");
        for id in 21..400 {
            names(&mut maps, id, u64::from(id), &file);
        }
        assert!(maps.bytes() < SMALL.node_bytes + (3 << 20), "{}", maps.bytes());
        assert!(maps.map(399, 399, look(&file)).is_full(), "it is counted");
        Ok(())
    }

    #[test]
    fn maps_that_nobody_asks_for_give_way() -> std::io::Result<()> {
        let (file, mut maps) = (written(30_000)?, JitNames::with_limits(SMALL));
        for id in 0..10 {
            names(&mut maps, id, u64::from(id), &file);
        }
        assert!(names(&mut maps, 10, 10, &file) < 30_000);
        for _ in 0..=RESTED {
            maps.begin_batch();
        }
        maps.begin_batch();
        assert_eq!(names(&mut maps, 11, 11, &file), 30_000);
        Ok(())
    }

    #[test]
    fn a_file_that_is_always_written_anew_is_read_as_fast_as_it_may() -> std::io::Result<()> {
        let limits = Limits { container_read: Allowance { most: 8 << 20, each_second: 0 }, ..SMALL };
        let (file, mut maps) = (tempfile::tempfile()?, JitNames::with_limits(limits));
        let mut read = 0;
        for round in 0..200_u64 {
            maps.begin_batch();
            let line = format!("{round:x} 10 name{round}\n").repeat(20_000);
            file.set_len(0)?;
            std::os::unix::fs::FileExt::write_all_at(&file, line.as_bytes(), 0)?;
            let before = maps.node.bytes;
            names(&mut maps, 0, 0, &file);
            read += before - maps.node.bytes;
        }
        assert!((8 << 20..9 << 20).contains(&read), "{read}");
        Ok(())
    }
}
