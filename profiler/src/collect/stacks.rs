//! Stacks as they were taken, each kept once. In: addresses. Out: locations that stay meaningful when the process is gone.

use std::sync::Arc;

use profiler_ebpf::unwind::Stop;
use rustc_hash::FxHashMap;

use crate::process::{Leaf, Location, Pid, Tracker, TrackerError};

/// Position of a stack in the [`StackStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RawStackId(u32);

/// The user part of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UserPart {
    /// Addresses, leaf first, and why there are no more.
    Taken(Vec<u64>, Stop),
    /// There is none: a kernel thread.
    None,
    /// There is one, but it could not be had, for this reason.
    Missing(&'static str),
}

/// A process and how many times it has begun another program.
pub type Program = (u32, u32);

/// What makes a stack the same as another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Addresses mean something only within their process, its program, and as long as nothing else is mapped in their place;
    /// `None` where there are no user addresses.
    process: Option<(Program, u32)>,
    kernel: Vec<u64>,
    user: UserPart,
}

/// One stack.
#[derive(Debug)]
pub struct RawStack {
    /// Kernel addresses, leaf first.
    pub kernel: Vec<u64>,
    /// User locations, leaf first, or why there are none.
    pub user: Result<Vec<Location>, Option<&'static str>>,
    /// Why the walk of the user stack ended where it did.
    pub stop: Stop,
    /// Whether a walk that looked at no table left what is mapped.
    pub broken: bool,
}

/// A stack whose addresses wait to be looked up in their process.
#[derive(Debug)]
struct Waiting {
    stack: RawStackId,
    pid: u32,
    at_ns: u64,
    addresses: Vec<u64>,
    stop: Stop,
}

/// All stacks of a recording.
#[derive(Debug, Default)]
pub struct StackStore {
    ids: FxHashMap<Key, RawStackId>,
    stacks: Vec<RawStack>,
    waiting: Vec<Waiting>,
    /// When each process began another program (CLOCK_MONOTONIC, ns, ascending): the same address may be another function
    /// then.
    programs: FxHashMap<u32, Vec<u64>>,
    /// When addresses of each process came to mean something else, as above: a library was opened in the place of another.
    remapped: FxHashMap<u32, Vec<u64>>,
    /// When each program was first seen (CLOCK_MONOTONIC, ns): the one that takes its place has given the process its name
    /// before it has ended.
    seen: FxHashMap<Program, u64>,
}

impl StackStore {
    /// The stack with these addresses, of which those in user mode were taken from a process at `at_ns` (CLOCK_MONOTONIC).
    pub fn intern(&mut self, pid: u32, at_ns: u64, kernel: Vec<u64>, user: UserPart) -> RawStackId {
        let taken = matches!(user, UserPart::Taken(..));
        let program = self.program_at(pid, at_ns);
        let remapped = times_until(&self.remapped, pid, at_ns);
        let key = Key { process: taken.then_some((program, remapped)), kernel, user };
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = RawStackId(self.stacks.len() as u32);
        let (user, stop) = match &key.user {
            UserPart::Taken(addresses, stop) => {
                self.waiting.push(Waiting { stack: id, pid, at_ns, addresses: addresses.clone(), stop: *stop });
                (Ok(Vec::new()), *stop)
            }
            UserPart::None => (Err(None), Stop::NotWalked),
            UserPart::Missing(reason) => (Err(Some(*reason)), Stop::NotWalked),
        };
        self.stacks.push(RawStack { kernel: key.kernel.clone(), user, stop, broken: false });
        self.ids.insert(key, id);
        id
    }

    /// A process began another program at `at_ns`.
    pub fn exec(&mut self, pid: u32, at_ns: u64) {
        add_time(&mut self.programs, pid, at_ns);
    }

    /// From `at_ns` on some address of a process means something else than before.
    pub fn remap(&mut self, pid: u32, at_ns: u64) {
        add_time(&mut self.remapped, pid, at_ns);
    }

    /// An empty store for what is taken from `since_ns` on: programs that began since then are known to it.
    pub fn next(&self, since_ns: u64) -> Self {
        let later = |times: &FxHashMap<u32, Vec<u64>>| {
            let later = times.iter().map(|(pid, times)| {
                let at = times.partition_point(|at_ns| *at_ns <= since_ns);
                (*pid, times[at..].to_vec())
            });
            later.filter(|(_, times)| !times.is_empty()).collect()
        };
        Self { programs: later(&self.programs), remapped: later(&self.remapped), ..Self::default() }
    }

    /// Which of its programs a process ran at `at_ns`. Samples are looked at later than they were taken, and what happened
    /// meanwhile is known by then.
    pub fn program_at(&self, pid: u32, at_ns: u64) -> Program {
        (pid, times_until(&self.programs, pid, at_ns))
    }

    /// The program that a process runs at `at_ns`.
    pub fn program(&mut self, pid: u32, at_ns: u64) -> Program {
        let program = self.program_at(pid, at_ns);
        self.seen.entry(program).and_modify(|first_ns| *first_ns = at_ns.min(*first_ns)).or_insert(at_ns);
        program
    }

    /// Command names of all programs seen, asked for when every event about them has arrived.
    pub fn commands(&self, tracker: &Tracker) -> Result<FxHashMap<Program, Arc<str>>, TrackerError> {
        let seen: Vec<(Program, u64)> = self.seen.iter().map(|(program, at_ns)| (*program, *at_ns)).collect();
        tracker.call(move |table| {
            // Names of code may have been written since it was sampled.
            table.look_for_perf_maps();
            let named = seen
                .into_iter()
                .filter_map(|(program, at_ns)| Some((program, table.command(Pid(program.0), Some(at_ns))?)));
            named.collect()
        })
    }

    /// Looks up what was interned since the last call, while the processes still live.
    pub fn locate(&mut self, tracker: &Tracker) -> Result<(), TrackerError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let located = tracker.call(move |table| {
            waiting
                .into_iter()
                .map(|Waiting { stack, pid, at_ns, addresses, stop }| {
                    (stack, stop, table.normalize_stack(Pid(pid), &addresses, Leaf::Instruction, Some(at_ns)))
                })
                .collect::<Vec<_>>()
        })?;
        for (stack, stop, mut locations) in located {
            if let Some(stack) = self.stacks.get_mut(stack.0 as usize) {
                // A walk by tables knew what it walked through.
                stack.broken = stop == Stop::NotWalked && cut_at_nowhere(&mut locations);
                stack.user = Ok(locations);
            }
        }
        Ok(())
    }

    /// All stacks; [`RawStackId`] is the position.
    pub fn into_stacks(self) -> Vec<RawStack> {
        self.stacks
    }
}

fn add_time(times: &mut FxHashMap<u32, Vec<u64>>, pid: u32, at_ns: u64) {
    let times = times.entry(pid).or_default();
    let at = times.partition_point(|time| *time <= at_ns);
    times.insert(at, at_ns);
}

/// How many of a process's times had come by then.
fn times_until(times: &FxHashMap<u32, Vec<u64>>, pid: u32, at_ns: u64) -> u32 {
    times.get(&pid).map_or(0, |times| times.partition_point(|time| *time <= at_ns) as u32)
}

/// Cuts a stack, leaf first, where it leads to an address that nothing is mapped at, and whatever was read from there on.
/// The leaf itself stays. Whether anything was cut.
fn cut_at_nowhere(locations: &mut Vec<Location>) -> bool {
    let nowhere = locations.iter().skip(1).position(|location| matches!(location, Location::Unknown { .. }));
    if let Some(callers) = nowhere {
        locations.truncate(callers + 1);
    }
    nowhere.is_some()
}

impl RawStackId {
    /// Position in [`StackStore::into_stacks`].
    pub fn position(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_addresses_are_one_stack_within_a_process_and_program() {
        let mut store = StackStore::default();
        let taken = || UserPart::Taken(vec![1, 2], Stop::End);
        let first = store.intern(7, 0, vec![9], taken());
        assert_eq!(store.intern(7, 5, vec![9], taken()), first);
        assert_ne!(store.intern(8, 5, vec![9], taken()), first);
        assert_ne!(store.intern(7, 5, vec![], taken()), first);
        store.exec(7, 6);
        assert_eq!(store.intern(7, 5, vec![9], taken()), first);
        assert_ne!(store.intern(7, 6, vec![9], taken()), first);
    }

    #[test]
    fn the_same_addresses_before_and_after_a_library_took_the_place_of_another_are_two_stacks() {
        let mut store = StackStore::default();
        let taken = || UserPart::Taken(vec![1, 2], Stop::End);
        store.remap(7, 10);
        let first = store.intern(7, 9, vec![], taken());
        let second = store.intern(7, 10, vec![], taken());
        assert_ne!(first, second);
        assert_eq!((store.intern(7, 3, vec![], taken()), store.intern(7, 30, vec![], taken())), (first, second));
        assert_eq!(store.intern(7, 9, vec![9], UserPart::None), store.intern(7, 10, vec![9], UserPart::None));
        let mut next = store.next(10);
        assert_eq!(next.intern(7, 11, vec![], taken()), next.intern(7, 12, vec![], taken()));
    }

    #[test]
    fn the_next_window_knows_the_programs_that_have_begun_in_it() {
        let mut store = StackStore::default();
        store.exec(7, 6);
        store.exec(7, 12);
        store.exec(8, 6);
        let mut next = store.next(10);
        assert_eq!((next.program(7, 11), next.program(7, 12)), ((7, 0), (7, 1)));
        assert_eq!(next.program(8, 11), (8, 0));
    }

    #[test]
    fn a_stack_ends_where_the_walk_left_what_is_mapped() {
        let known = |address| Location::Kernel { address };
        let unknown = |address| Location::Unknown { address };
        let mut locations = vec![known(1), known(2), unknown(3), known(4)];
        assert!(cut_at_nowhere(&mut locations));
        assert_eq!(locations.len(), 2);
        let mut whole = vec![unknown(1), known(2)];
        assert!(!cut_at_nowhere(&mut whole));
        assert_eq!(whole.len(), 2);
    }

    #[test]
    fn kernel_stacks_are_shared_by_all_processes() {
        let mut store = StackStore::default();
        let first = store.intern(7, 0, vec![9], UserPart::None);
        assert_eq!(store.intern(8, 0, vec![9], UserPart::None), first);
        assert_ne!(store.intern(8, 0, vec![9], UserPart::Missing("exited")), first);
        assert_eq!(store.into_stacks().len(), 2);
    }
}
