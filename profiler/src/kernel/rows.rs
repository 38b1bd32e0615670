//! Rows of system calls, one for each that a container has made. In: the maps. Out: accounts, and room for other containers.
//!
//! The programs take a row from the stack of free ones when a container makes a call for the first time, and never give one back:
//! on a node where containers come and go, all would be taken in minutes, and on one where they stay, by calls that are made once at their
//! start. So rows of containers that are gone, and rows of calls that nobody makes any more, are given back here. A program that
//! looked up where a row lies a moment ago may still write there, so it is emptied and free only when the next window has ended,
//! and all such programs have.

use std::mem::offset_of;

use aya::maps::{MapData, MapError, Stack};
use profiler_ebpf::{
    account::{ERRNOS, SyscallRow},
    syscall::SYSCALLS,
};

use super::{drain::SyscallAccount, mapped::MappedArray};

/// Windows without a call after which a row serves another.
const IDLE_WINDOWS: u8 = 6;

/// Where the programs take free rows from.
pub trait FreeRows {
    /// Gives one to the programs.
    fn give(&mut self, row: u32) -> Result<(), MapError>;
}

impl FreeRows for Stack<MapData, u32> {
    fn give(&mut self, row: u32) -> Result<(), MapError> {
        self.push(row, 0)
    }
}

/// The rows, and where those of each container lie.
pub struct Rows<F = Stack<MapData, u32>> {
    /// By container and syscall: 1 + the number of the row, 0 for none yet.
    places: MappedArray<u32>,
    /// Those of the first generation, then those of the second.
    contents: MappedArray<SyscallRow>,
    free: F,
    /// Rows that nobody finds any more, until no program can be writing to them, and whose what is written to them still is: a
    /// position among `places`, or nobody.
    leaving: Vec<(u32, Option<u32>)>,
    /// Windows in which nothing was written, by row.
    idle: Vec<u8>,
    /// Rows that containers had when a window last ended.
    in_use: usize,
}

impl<F: FreeRows> Rows<F> {
    /// All rows, none of which is taken: the numbers of all lie in `free`.
    pub fn new(places: MappedArray<u32>, contents: MappedArray<SyscallRow>, free: F) -> Self {
        let idle = vec![0; contents.len() / 2];
        Self { places, contents, free, leaving: Vec::new(), idle, in_use: 0 }
    }

    /// Rows of a generation.
    fn capacity(&self) -> usize {
        self.contents.len() / 2
    }

    /// Rows in use, and those there are.
    pub fn in_use(&self) -> (u64, u64) {
        (self.in_use as u64, self.capacity() as u64)
    }

    /// Takes the accounts that these containers have in a generation that no program writes to any more, and makes room.
    pub fn take(&mut self, generation: u32, containers: &[u32]) -> Vec<SyscallAccount> {
        let mut accounts = Vec::new();
        self.free_leaving(&mut accounts);
        self.in_use = 0;
        for container in containers {
            for at in Self::places_of(*container) {
                let Some(row) = self.row_at(at) else { continue };
                let account = self.account(generation, row, at as u32);
                let Some(idle) = self.idle.get_mut(row as usize) else { continue };
                *idle = if account.is_some() { 0 } else { *idle + 1 };
                if *idle < IDLE_WINDOWS {
                    self.in_use += 1;
                } else {
                    self.leave(at, row);
                }
                accounts.extend(account);
            }
        }
        accounts
    }

    fn places_of(container: u32) -> std::ops::Range<usize> {
        let first = container as usize * SYSCALLS;
        first..first + SYSCALLS
    }

    fn row_at(&self, at: usize) -> Option<u32> {
        let place = self.places.read(at).unwrap_or(0);
        (1..=self.capacity()).contains(&(place as usize)).then(|| place - 1)
    }

    /// Programs that look for the row from now on find none, and take another if they have to.
    fn leave(&mut self, at: usize, row: u32) {
        self.places.write(at, 0);
        self.leaving.push((row, Some(at as u32)));
    }

    /// Rows that have left are empty and free. What cannot be given back stays among them.
    fn free_leaving(&mut self, accounts: &mut Vec<SyscallAccount>) {
        for (row, whose) in std::mem::take(&mut self.leaving) {
            for generation in [0, 1] {
                match whose {
                    Some(at) => accounts.extend(self.account(generation, row, at)),
                    None => self.contents.zero(generation as usize * self.capacity() + row as usize),
                }
            }
            if let Some(idle) = self.idle.get_mut(row as usize) {
                *idle = 0;
            }
            if let Err(error) = self.free.give(row) {
                tracing::warn!("a row of system calls cannot be given back: {error}");
                self.leaving.push((row, None));
            }
        }
    }

    /// What a row holds, if anything; it is then empty.
    fn account(&self, generation: u32, row: u32, at: u32) -> Option<SyscallAccount> {
        let index = (generation as usize & 1) * self.capacity() + row as usize;
        let mut account = SyscallAccount {
            container: at / SYSCALLS as u32,
            number: at % SYSCALLS as u32,
            total_ns: 0,
            max_ns: 0,
            bytes: 0,
            skipped: 0,
            first_bucket: 0,
            latency: Vec::new(),
            errors: Vec::new(),
        };
        self.contents.take_lines(index, |first, words| {
            for (at, word) in (first..).zip(words).filter(|(_, word)| *word > 0) {
                put(&mut account, at, u64::from(word));
            }
        });
        (account.skipped > 0 || !account.latency.is_empty()).then_some(account)
    }

    /// Takes back the rows of a container that makes no more calls. What it made is accounted when the window ends.
    pub fn retire(&mut self, container: u32) {
        for at in Self::places_of(container) {
            if let Some(row) = self.row_at(at) {
                self.leave(at, row);
            }
        }
    }

    /// Takes back the rows of a container whose index will be another's: accounts of both generations have been taken.
    pub fn release(&mut self, container: u32) {
        self.retire(container);
        for (_, whose) in &mut self.leaving {
            *whose = whose.filter(|at| *at as usize / SYSCALLS != container as usize);
        }
    }
}

/// Adds the half word at position `at` of a row to the account of what the row holds. Positions ascend.
fn put(account: &mut SyscallAccount, at: usize, half: u64) {
    const HALF: usize = size_of::<u32>();
    const SUMS: usize = offset_of!(SyscallRow, latency) / HALF;
    const ERRORS: usize = offset_of!(SyscallRow, errors) / HALF;
    match at {
        0..SUMS => {
            let sum = match at / 2 * 2 * HALF {
                at if at == offset_of!(SyscallRow, total_ns) => &mut account.total_ns,
                at if at == offset_of!(SyscallRow, max_ns) => &mut account.max_ns,
                at if at == offset_of!(SyscallRow, bytes) => &mut account.bytes,
                at if at == offset_of!(SyscallRow, skipped) => &mut account.skipped,
                _ => return,
            };
            let high = usize::from(cfg!(target_endian = "big"));
            *sum |= if at % 2 == high { half } else { half << 32 };
        }
        SUMS..ERRORS => {
            let bucket = at - SUMS;
            if account.latency.is_empty() {
                account.first_bucket = bucket as u32;
            }
            account.latency.resize(bucket - account.first_bucket as usize, 0);
            account.latency.push(half);
        }
        _ if at - ERRORS < ERRNOS => account.errors.push(((at - ERRORS) as u32, half)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        os::fd::OwnedFd,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::kernel::mapped::testing::in_memory;

    impl FreeRows for Vec<u32> {
        fn give(&mut self, row: u32) -> Result<(), MapError> {
            self.push(row);
            Ok(())
        }
    }

    /// The rows, with the kernel programs' side of them.
    struct Bench {
        rows: Rows<Vec<u32>>,
        generation: u32,
        _files: [OwnedFd; 2],
    }

    impl Bench {
        fn new(containers: usize, capacity: u32) -> Result<Self, Box<dyn std::error::Error>> {
            let (places_file, places) = in_memory::<u32>(containers * SYSCALLS)?;
            let (rows_file, rows) = in_memory::<SyscallRow>(2 * capacity as usize)?;
            let rows = Rows::new(places, rows, (0..capacity).rev().collect());
            Ok(Self { rows, generation: 0, _files: [places_file, rows_file] })
        }

        /// As the program does.
        fn look_up(&mut self, container: u32, number: u32) -> Option<u32> {
            let at = container as usize * SYSCALLS + number as usize;
            let place = self.rows.places.read(at).unwrap_or(0);
            if place > 0 {
                return Some(place - 1);
            }
            let row = self.rows.free.pop()?;
            self.rows.places.write(at, row + 1);
            Some(row)
        }

        fn write(&self, row: u32) {
            let index = self.generation as usize * self.rows.capacity() + row as usize;
            if let Some(mut account) = self.rows.contents.read(index) {
                account.latency[3] += 1;
                account.total_ns += 10;
                self.rows.contents.write(index, account);
            }
        }

        fn end_window(&mut self) -> BTreeMap<(u32, u32), u64> {
            let ended = self.generation;
            self.generation ^= 1;
            let containers: Vec<u32> = (0..(self.rows.places.len() / SYSCALLS) as u32).collect();
            let accounts = self.rows.take(ended, &containers);
            let mut sums = BTreeMap::new();
            for account in accounts {
                *sums.entry((account.container, account.number)).or_default() += account.latency.iter().sum::<u64>();
            }
            sums
        }
    }

    #[test]
    fn rows_of_containers_that_are_gone_serve_others_for_ever() -> Result<(), Box<dyn std::error::Error>> {
        // Those that stay, those of a guest, and those that the guest before it left behind.
        let mut bench = Bench::new(8, 60)?;
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
        assert!(bench.rows.in_use().0 <= 60);
        Ok(())
    }

    #[test]
    fn what_is_written_late_to_a_row_of_a_container_that_is_gone_is_nobodys() -> Result<(), Box<dyn std::error::Error>>
    {
        let mut bench = Bench::new(4, 8)?;
        let late = bench.look_up(0, 5).ok_or("no row")?;
        bench.rows.release(0);
        bench.write(late);
        let other = bench.look_up(1, 5).ok_or("no row")?;
        assert_ne!(late, other, "a row serves another before it has rested");
        assert_eq!(bench.end_window(), BTreeMap::new());
        let now = bench.look_up(2, 5).ok_or("no row")?;
        assert_eq!(late, now, "a row that has rested is not given away");
        bench.write(now);
        assert_eq!(bench.end_window(), [((2, 5), 1)].into());
        assert_eq!(bench.rows.in_use(), (2, 8));
        Ok(())
    }

    #[test]
    fn rows_of_a_container_that_has_ended_serve_others_from_the_next_window_on()
    -> Result<(), Box<dyn std::error::Error>> {
        let mut bench = Bench::new(4, 2)?;
        let late = bench.look_up(0, 5).ok_or("no row")?;
        bench.write(late);
        bench.rows.retire(0);
        // A program that had looked it up just before.
        bench.write(late);
        assert_ne!(bench.look_up(1, 5), Some(late));
        assert_eq!(bench.end_window(), [((0, 5), 2)].into());
        assert_eq!(bench.look_up(2, 5), Some(late));
        assert_eq!(bench.end_window(), BTreeMap::new());
        Ok(())
    }

    #[test]
    fn a_call_that_is_made_no_more_gives_its_row_back() -> Result<(), Box<dyn std::error::Error>> {
        let mut bench = Bench::new(4, 20)?;
        for window in 0..u32::from(IDLE_WINDOWS) + 2 {
            for number in 0..20 {
                if number == 0 || window == 0 {
                    let row = bench.look_up(3, number).ok_or("no row")?;
                    bench.write(row);
                }
            }
            assert_eq!(bench.end_window().get(&(3, 0)), Some(&1));
        }
        assert_eq!((bench.rows.in_use(), bench.rows.free.len()), ((1, 20), 19));
        let again = bench.look_up(3, 7).ok_or("no row")?;
        bench.write(again);
        assert_eq!(bench.end_window(), [((3, 7), 1)].into());
        Ok(())
    }

    proptest! {
        #[test]
        fn every_call_is_counted_once_for_whom_made_it(
            steps in prop::collection::vec((0..11_u8, 0..6_u32, 0..12_u32), 0..400),
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
                    2 => bench.rows.retire(container),
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
                prop_assert_eq!(taken.len() + bench.rows.free.len() + bench.rows.leaving.len(), 48, "a row is lost");
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
