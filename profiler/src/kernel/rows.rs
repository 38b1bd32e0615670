//! Rows of system calls, one for each that a container has made. In: the maps. Out: accounts, and room for other containers.
//!
//! The programs take rows in order and never give one back: on a node where containers come and go, all would be taken in minutes.
//! So rows of containers that are gone are given back here. A row in the middle cannot be handed to the programs; instead the
//! last rows move into the gaps, and the count of rows taken is lowered behind them. A program that has just looked up where a
//! row lies may still write where it lay: so that place is read once more at the end of the next window, when all such programs
//! have ended, and is free only then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
};

use profiler_ebpf::{
    account::{ERRNOS, SyscallRow},
    settings::Control,
    syscall::SYSCALLS,
};

use super::{drain::SyscallAccount, mapped::MappedArray};

/// Rows that move at the end of one window, at most.
const MOST_MOVES: usize = 1024;

/// Nobody's row.
const NOBODY: u32 = u32::MAX;

/// The rows, and where those of each container lie.
pub struct Rows {
    /// By container and syscall: 1 + the number of the row, 0 for none yet.
    places: MappedArray<u32>,
    /// Those of the first generation, then those of the second.
    contents: MappedArray<SyscallRow>,
    /// Rows of a generation.
    capacity: u32,
    /// Rows below the count that nobody has.
    free: BTreeSet<u32>,
    /// Places in `places` whose row moved in this window, with the row's old number.
    moved: Vec<(u32, u32)>,
    /// Whose each row is: a place in `places`.
    owners: Vec<u32>,
}

impl Rows {
    /// All rows, none of which is taken.
    pub fn new(places: MappedArray<u32>, contents: MappedArray<SyscallRow>, capacity: u32) -> Self {
        Self { places, contents, capacity, free: BTreeSet::new(), moved: Vec::new(), owners: Vec::new() }
    }

    /// Rows in use, and those there are.
    pub fn in_use(&self, control: &MappedArray<Control>) -> (u64, u64) {
        let taken = u64::from(self.taken(control));
        (taken.saturating_sub(self.free.len() as u64), u64::from(self.capacity))
    }

    fn taken(&self, control: &MappedArray<Control>) -> u32 {
        control.read(0).map_or(0, |control| control.next_syscall_row).min(self.capacity)
    }

    /// Takes the accounts of a generation that no program writes to any more, and makes room.
    pub fn take(&mut self, generation: u32, control: &MappedArray<Control>) -> Vec<SyscallAccount> {
        let taken = self.taken(control);
        if taken == 0 {
            return Vec::new();
        }
        let mut accounts = Vec::new();
        self.owners.clear();
        self.owners.resize(taken as usize, NOBODY);
        for at in 0..self.places.len() {
            let Some(place) = self.places.read(at) else { continue };
            if place == 0 || place > taken {
                continue;
            }
            self.owners[place as usize - 1] = at as u32;
            accounts.extend(self.account(generation, place - 1, at as u32));
        }
        self.settle_moves(&mut accounts);
        self.lower(control);
        self.close_gaps(control);
        accounts
    }

    /// What a row holds, if anything; it is then empty.
    fn account(&self, generation: u32, row: u32, at: u32) -> Option<SyscallAccount> {
        let index = (generation as usize & 1) * self.capacity as usize + row as usize;
        let row = self.contents.read(index)?;
        if row.latency.iter().all(|count| *count == 0) {
            return None;
        }
        self.contents.zero(index);
        let errors = (0..ERRNOS as u32).zip(row.errors).filter(|(_, n)| *n > 0);
        Some(SyscallAccount {
            container: at / SYSCALLS as u32,
            number: at % SYSCALLS as u32,
            total_ns: row.total_ns,
            max_ns: row.max_ns,
            bytes: row.bytes,
            latency: row.latency.iter().map(|count| u64::from(*count)).collect(),
            errors: errors.map(|(errno, n)| (errno, u64::from(n))).collect::<BTreeMap<_, _>>(),
        })
    }

    /// What was still written to the old places of rows that moved belongs to who has them now.
    fn settle_moves(&mut self, accounts: &mut Vec<SyscallAccount>) {
        for (at, old) in std::mem::take(&mut self.moved) {
            for generation in [0, 1] {
                let Some(rest) = self.account(generation, old, at) else { continue };
                let same = |one: &&mut SyscallAccount| (one.container, one.number) == (rest.container, rest.number);
                match accounts.iter_mut().find(same) {
                    Some(account) => account.add(&rest),
                    None => accounts.push(rest),
                }
            }
            self.free.insert(old);
        }
    }

    /// Lowers the count of rows taken as far as the last ones are free.
    fn lower(&mut self, control: &MappedArray<Control>) {
        let Some(control) = control.at(0) else { return };
        // SAFETY: inside the mapping and aligned; the programs change it by atomic instructions too.
        let next = unsafe { AtomicU32::from_ptr(&raw mut (*control).next_syscall_row) };
        while let Some(last) = self.free.last().copied() {
            // Where a program takes a row at this very moment, the count is another, and nothing happens.
            if next.compare_exchange(last + 1, last, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                return;
            }
            self.free.remove(&last);
        }
    }

    /// Moves the last rows into the gaps before them, once more than half of all rows are taken.
    fn close_gaps(&mut self, control: &MappedArray<Control>) {
        let taken = self.taken(control);
        if taken <= self.capacity / 2 {
            return;
        }
        for row in (0..taken).rev() {
            let Some(gap) = self.free.first().copied().filter(|gap| *gap < row) else { return };
            let owner = self.owners.get(row as usize).copied().filter(|owner| *owner != NOBODY);
            // A row without an owner is free already, or was taken a moment ago.
            let Some(at) = owner else { continue };
            if self.moved.len() >= MOST_MOVES {
                return;
            }
            self.free.remove(&gap);
            // The programs change a place from nought only.
            self.places.write(at as usize, gap + 1);
            self.moved.push((at, row));
        }
    }

    /// Takes back the rows of a container that is gone and whose accounts of both generations have been taken.
    pub fn release(&mut self, container: u32) {
        let first = container as usize * SYSCALLS;
        for at in first..first + SYSCALLS {
            let Some(place) = self.places.read(at).filter(|place| (1..=self.capacity).contains(place)) else {
                continue;
            };
            self.places.write(at, 0);
            for generation in [0, 1] {
                self.contents.zero(generation * self.capacity as usize + place as usize - 1);
            }
            self.free.insert(place - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;

    use super::*;
    use crate::kernel::mapped::testing::in_memory;

    /// The rows, with the kernel programs' side of them.
    struct Bench {
        rows: Rows,
        control: MappedArray<Control>,
        generation: u32,
        _files: [OwnedFd; 3],
    }

    impl Bench {
        fn new(containers: usize, capacity: u32) -> Result<Self, Box<dyn std::error::Error>> {
            let (places_file, places) = in_memory::<u32>(containers * SYSCALLS)?;
            let (rows_file, rows) = in_memory::<SyscallRow>(2 * capacity as usize)?;
            let (control_file, control) = in_memory::<Control>(1)?;
            let rows = Rows::new(places, rows, capacity);
            Ok(Self { rows, control, generation: 0, _files: [places_file, rows_file, control_file] })
        }

        /// As the program does; where it looked the row up is returned, so that it may write there late.
        fn look_up(&self, container: u32, number: u32) -> Option<u32> {
            let at = container as usize * SYSCALLS + number as usize;
            let place = self.rows.places.read(at).unwrap_or(0);
            if place > 0 {
                return Some(place - 1);
            }
            let mut control = self.control.read(0)?;
            let row = control.next_syscall_row;
            if row >= self.rows.capacity {
                return None;
            }
            control.next_syscall_row += 1;
            self.control.write(0, control);
            self.rows.places.write(at, row + 1);
            Some(row)
        }

        fn write(&self, row: u32) {
            let index = self.generation as usize * self.rows.capacity as usize + row as usize;
            if let Some(mut account) = self.rows.contents.read(index) {
                account.latency[3] += 1;
                account.total_ns += 10;
                self.rows.contents.write(index, account);
            }
        }

        fn end_window(&mut self) -> BTreeMap<(u32, u32), u64> {
            let ended = self.generation;
            self.generation ^= 1;
            let accounts = self.rows.take(ended, &self.control);
            let mut sums = BTreeMap::new();
            for account in accounts {
                *sums.entry((account.container, account.number)).or_default() += account.latency.iter().sum::<u64>();
            }
            sums
        }
    }

    #[test]
    fn rows_of_containers_that_are_gone_serve_others_for_ever() -> Result<(), Box<dyn std::error::Error>> {
        // Those that stay, those of a guest, and those that two guests before it left behind.
        let mut bench = Bench::new(8, 96)?;
        for round in 0..200_u32 {
            // Two containers stay, one a round comes and goes, under another index each time.
            let guest = 2 + round % 6;
            for number in 0..15 {
                for container in [0, 1, guest] {
                    let row = bench.look_up(container, number).ok_or("no row is left")?;
                    bench.write(row);
                }
            }
            let sums = bench.end_window();
            assert_eq!(sums.len(), 45, "round {round}");
            assert!(sums.values().all(|calls| *calls == 1), "round {round}: {sums:?}");
            bench.rows.release(guest);
        }
        assert!(bench.rows.in_use(&bench.control).0 <= 60);
        Ok(())
    }

    #[test]
    fn what_is_written_where_a_row_lay_a_moment_ago_is_not_lost() -> Result<(), Box<dyn std::error::Error>> {
        let mut bench = Bench::new(4, 16)?;
        for (container, number) in (0..2).flat_map(|container| (0..6).map(move |number| (container, number))) {
            bench.look_up(container, number).ok_or("no row")?;
        }
        bench.rows.release(0);
        let late = bench.look_up(1, 5).ok_or("no row")?;
        bench.end_window();
        let now = bench.look_up(1, 5).ok_or("no row")?;
        assert_ne!(late, now, "nothing moved");
        bench.write(late);
        bench.write(now);
        assert_eq!(bench.end_window(), [((1, 5), 2)].into());
        assert_eq!(bench.end_window(), BTreeMap::new());
        assert_eq!(bench.rows.in_use(&bench.control), (6, 16));
        Ok(())
    }

    proptest! {
        #[test]
        fn every_call_is_counted_once_for_whom_made_it(
            steps in prop::collection::vec((0..10_u8, 0..6_u32, 0..12_u32), 0..400),
        ) {
            let mut bench = Bench::new(6, 48).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let (mut made, mut found) = (BTreeMap::new(), BTreeMap::new());
            let mut quiet = [0_u32; 6];
            for (what, container, number) in steps {
                match what {
                    0 => {
                        for (key, calls) in bench.end_window() {
                            *found.entry(key).or_insert(0) += calls;
                        }
                        quiet = quiet.map(|windows| windows + 1);
                    }
                    1 if quiet[container as usize] >= 2 => bench.rows.release(container),
                    _ => {
                        if let Some(row) = bench.look_up(container, number) {
                            bench.write(row);
                            *made.entry((container, number)).or_insert(0_u64) += 1;
                        }
                        quiet[container as usize] = 0;
                    }
                }
                let places = (0..6 * SYSCALLS).filter_map(|at| bench.rows.places.read(at)).filter(|place| *place > 0);
                let taken: Vec<u32> = places.collect();
                let different: BTreeSet<u32> = taken.iter().copied().collect();
                prop_assert_eq!(taken.len(), different.len(), "two have the same row");
                prop_assert!(different.iter().all(|place| !bench.rows.free.contains(&(place - 1))));
            }
            for _ in 0..2 {
                for (key, calls) in bench.end_window() {
                    *found.entry(key).or_insert(0) += calls;
                }
            }
            prop_assert_eq!(made, found);
        }
    }
}
