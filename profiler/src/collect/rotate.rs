//! Window after window out of one collection that goes on for months: [`Collection::rotate`] ends a window, hands it out
//! whole with its names, and forgets what is dead.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{CollectError, Collection, Gap, TABLES_AT_WINDOW_END, share_inside, stacks::UserPart, unix_ns};
use crate::{
    kernel::{RecordHeader, parse_all, sys},
    profile::Profile,
};

/// Windows for which a removed cgroup keeps its index: in the first its last events arrive, in the second its accounts of the
/// other generation are read.
const WINDOWS_AFTER_REMOVAL: u32 = 2;

/// How long what is known of a container or process is kept after its end: long enough for its last records.
const KEEP_DEAD: Duration = Duration::from_mins(1);

/// Windows between two looks for dead processes and for cgroups whose end no event told of.
const TIDY_EVERY: u64 = 6;

/// What a collection remembers from window to window.
#[derive(Debug, Default)]
pub struct Rotation {
    windows: u64,
    /// Removed cgroups that still have their index, with the windows to go.
    removed: FxHashMap<u64, u32>,
    /// User stacks of the waits that were open when the last window ended, by thread.
    last_open: FxHashMap<u32, OpenStack>,
    /// The same of the window that is ending.
    open: FxHashMap<u32, OpenStack>,
}

/// The stack of a thread in one wait.
#[derive(Debug)]
struct OpenStack {
    sequence: u64,
    ip: u64,
    sp: u64,
    user: UserPart,
}

impl Rotation {
    /// Takes note that a cgroup is gone.
    pub fn cgroup_removed(&mut self, cgroup: u64) {
        self.removed.insert(cgroup, WINDOWS_AFTER_REMOVAL);
    }

    /// The user stack that this wait had when the last window ended.
    pub fn known_stack(&mut self, header: &RecordHeader) -> Option<UserPart> {
        let known = self.last_open.remove(&header.tid)?;
        if (known.sequence, known.ip, known.sp) != (header.sequence, header.ip, header.sp) {
            return None;
        }
        let user = known.user.clone();
        self.open.insert(header.tid, known);
        Some(user)
    }

    /// Remembers the user stack of a wait for the next window's end.
    pub fn remember_stack(&mut self, header: &RecordHeader, user: &UserPart) {
        let stack = OpenStack { sequence: header.sequence, ip: header.ip, sp: header.sp, user: user.clone() };
        self.open.insert(header.tid, stack);
    }

    /// Another window has ended: the cgroups whose index may now be taken back.
    fn next_window(&mut self) -> Vec<u64> {
        self.windows += 1;
        self.last_open = std::mem::take(&mut self.open);
        let mut due = Vec::new();
        self.removed.retain(|cgroup, windows| {
            *windows -= 1;
            if *windows == 0 {
                due.push(*cgroup);
            }
            *windows > 0
        });
        due
    }
}

impl Collection {
    /// Ends the window now and gives everything in it its name; the collection goes on with the next. After an error it
    /// cannot go on.
    pub fn rotate(&mut self) -> Result<Profile, CollectError> {
        self.take_events();
        for cgroup in self.rotation.removed.keys() {
            self.kernel.retire_container(*cgroup);
        }
        self.end_window(TABLES_AT_WINDOW_END)?;
        let end_ns = self.kernel.window_start_ns();
        self.end_ns = end_ns;
        // What happened before the end and is still in the rings.
        self.kernel.drain_rings();
        let next = self.take_rest(end_ns)?;
        self.follow_containers();
        for gap in self.gaps.give_up(self.start_ns) {
            self.account_gap(gap);
        }
        self.stacks.locate(&self.tracker)?;
        let profile = self.assemble()?;
        self.begin_next(end_ns);
        for gap in next {
            self.account_gap(gap);
        }
        self.tidy(end_ns)?;
        Ok(profile)
    }

    /// Kernel maps that may fill up: name, entries in use, capacity.
    pub fn map_use(&self) -> Vec<(&'static str, u64, u64)> {
        self.kernel.map_use()
    }

    /// Takes the records that are there once the window has ended, and returns the gaps that belong to the next one. A gap
    /// that spans the end is accounted to both, each its share.
    fn take_rest(&mut self, end_ns: u64) -> Result<Vec<Gap>, CollectError> {
        let batches = self.kernel.drain_records();
        // The end of the window took a while: processes became other programs meanwhile.
        self.take_events();
        self.take_remapped()?;
        let mut next = Vec::new();
        for batch in batches {
            for record in parse_all(&batch) {
                self.take_in(record);
            }
            for gap in self.gaps.join() {
                let header = &gap.record.header;
                let before = share_inside(header.gap_start_ns, header.time_ns, 0, end_ns);
                if before > 0.0 && before < 1.0 {
                    next.push(gap.clone());
                }
                if before > 0.0 { self.account_gap(gap) } else { next.push(gap) }
            }
        }
        Ok(next)
    }

    /// Everything that belongs to one window begins anew.
    fn begin_next(&mut self, start_ns: u64) {
        self.threads.clear();
        self.windows.clear();
        self.start_ns = start_ns;
        self.end_ns = u64::MAX;
        self.start_unix_ns = unix_ns().saturating_sub(sys::monotonic_ns().saturating_sub(start_ns));
    }

    /// Forgets what is dead.
    fn tidy(&mut self, now_ns: u64) -> Result<(), CollectError> {
        for cgroup in self.rotation.next_window() {
            if let Some(index) = self.kernel.release_container(cgroup) {
                self.undecided.retain(|other| *other != index);
            }
        }
        if let Err(error) = self.kernel.follow_cpus() {
            tracing::warn!("CPUs that came online are not sampled: {error}");
        }
        if self.rotation.windows.is_multiple_of(TIDY_EVERY) {
            for cgroup in self.resolver.reconcile() {
                self.rotation.cgroup_removed(cgroup.0);
            }
            let before_ns = now_ns.saturating_sub(KEEP_DEAD.as_nanos() as u64);
            self.tracker.call(move |table| table.forget_dead(before_ns))?;
        }
        self.resolver.forget_removed(KEEP_DEAD);
        let living: rustc_hash::FxHashSet<_> = self.resolver.keys().collect();
        self.pressure.retain(|key, _| living.contains(key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::unwind::Stop;

    use super::*;

    fn header(sequence: u64, ip: u64) -> RecordHeader {
        // SAFETY: plain integers, for which zero is a value.
        let mut header: RecordHeader = unsafe { std::mem::zeroed() };
        (header.tid, header.sequence, header.ip, header.sp) = (7, sequence, ip, 100);
        header
    }

    #[test]
    fn a_wait_that_goes_on_keeps_its_stack_and_another_wait_does_not_get_it() {
        let mut rotation = Rotation::default();
        let user = UserPart::Taken(vec![1, 2], Stop::End);
        rotation.remember_stack(&header(4, 50), &user);
        assert_eq!(rotation.known_stack(&header(4, 50)), None, "it is of the window that is ending");
        rotation.next_window();
        assert_eq!(rotation.known_stack(&header(4, 50)), Some(user.clone()));
        rotation.next_window();
        assert_eq!(rotation.known_stack(&header(4, 50)), Some(user));
        rotation.next_window();
        assert_eq!(rotation.known_stack(&header(5, 50)), None);
        rotation.next_window();
        assert!(rotation.open.is_empty() && rotation.last_open.is_empty());
    }

    #[test]
    fn a_removed_cgroup_keeps_its_index_until_its_accounts_are_read() {
        let mut rotation = Rotation::default();
        rotation.cgroup_removed(9);
        assert!(rotation.next_window().is_empty());
        assert_eq!(rotation.next_window(), vec![9]);
        assert!(rotation.next_window().is_empty());
    }
}
