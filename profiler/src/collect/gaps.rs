//! Off-CPU gaps and their user stacks, which arrive apart, brought together. In: records. Out: whole gaps.

use profiler_ebpf::{record::user_stack, unwind::Stop};
use rustc_hash::FxHashMap;

use super::stacks::UserPart;
use crate::kernel::{Record, RecordHeader, RecordKind};

/// User stacks taken at a switch that are remembered a thread: most of their gaps are never chosen.
const TAKEN_PER_THREAD: usize = 1024;

/// Records for whose places memory is kept from one drain to the next.
const SPARE_RECORDS: usize = 4096;

/// A gap and its user stack.
#[derive(Debug, Clone)]
pub struct Gap {
    /// The gap's record.
    pub record: Box<Record>,
    /// Its user stack.
    pub user: UserPart,
    /// When that was taken (CLOCK_MONOTONIC, ns): for some as the thread left the syscall, after the gap.
    pub user_ns: u64,
}

impl Gap {
    /// A gap without a user stack.
    fn without(record: Box<Record>, user: UserPart) -> Self {
        Self { user_ns: record.header.time_ns, record, user }
    }
}

/// A user stack taken at a switch.
#[derive(Debug)]
struct Taken {
    /// The gap it belongs to, if that is chosen.
    sequence: u64,
    /// When it was taken (CLOCK_MONOTONIC, ns).
    time_ns: u64,
    user: UserPart,
}

/// Gaps that wait for their user stack, and user stacks that wait for their gap.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "what is sorted and moved from list to list is a pointer instead of some hundreds of bytes"
)]
pub struct GapJoin {
    /// Of the drain that is being taken in: gaps, and user stacks taken at the ends of syscalls.
    gaps: Vec<Box<Record>>,
    exits: Vec<Box<Record>>,
    /// By thread: gaps whose user stack is taken when the thread leaves its syscall.
    open: FxHashMap<u32, Vec<Box<Record>>>,
    /// By thread: user stacks taken at a switch, with the gap's sequence.
    taken: FxHashMap<u32, Vec<Taken>>,
    /// Gaps whose user stack was taken at the switch but not yet seen: the rings are read one after another, and the
    /// stack may have gone into one that had been read already.
    unmatched: Vec<Box<Record>>,
}

impl GapJoin {
    /// Takes in a record of a drain, in any order among CPUs.
    pub fn add(&mut self, mut record: Record) {
        match record.header.kind {
            kind if kind == RecordKind::UserStackAtSwitch as u8 => self.remember(&mut record),
            kind if kind == RecordKind::UserStackAtExit as u8 => self.exits.push(Box::new(record)),
            _ => self.gaps.push(Box::new(record)),
        }
    }

    /// The gaps that are whole, once all records of a drain were taken in.
    pub fn join(&mut self) -> Vec<Gap> {
        let (mut gaps, mut exits) = (std::mem::take(&mut self.gaps), std::mem::take(&mut self.exits));
        let mut whole = Vec::with_capacity(gaps.len());
        // Threads move between CPUs, so one ring's records are no sequence of a thread's gaps, nor of its syscalls' ends.
        gaps.sort_by_key(|gap| gap.header.time_ns);
        exits.sort_by_key(|exit| exit.header.time_ns);
        for gap in std::mem::take(&mut self.unmatched) {
            whole.push(match self.recall(gap.header.tid, gap.header.sequence) {
                Some(Taken { user, time_ns, .. }) => Gap { record: gap, user, user_ns: time_ns },
                None => Gap::without(gap, UserPart::Missing("lost")),
            });
        }
        for gap in gaps.drain(..) {
            let tid = gap.header.tid;
            match gap.header.user_stack {
                user_stack::AT_EXIT => self.open.entry(tid).or_default().push(gap),
                user_stack::AT_SWITCH => match self.recall(tid, gap.header.sequence) {
                    Some(Taken { user, time_ns, .. }) => whole.push(Gap { record: gap, user, user_ns: time_ns }),
                    None => self.unmatched.push(gap),
                },
                user_stack::NOT_TAKEN => {
                    whole.push(Gap::without(gap, UserPart::Missing("not_taken")));
                }
                _ => whole.push(Gap::without(gap, UserPart::None)),
            }
        }
        for mut exit in exits.drain(..) {
            let user = take_user_part(&mut exit);
            // The first gap of this syscall that was chosen; what is older belonged to one whose stack was lost.
            let RecordHeader { tid, time_ns, gap_start_ns: first, sequence: last, .. } = exit.header;
            self.complete(tid, first, (&UserPart::Missing("lost"), time_ns), &mut whole);
            self.complete(tid, last + 1, (&user, time_ns), &mut whole);
        }
        for spare in [&mut gaps, &mut exits] {
            spare.shrink_to(SPARE_RECORDS);
        }
        (self.gaps, self.exits) = (gaps, exits);
        whole
    }

    /// A gap that is still open: its thread's earlier gaps within the same syscall have the same user stack, taken at
    /// `user_ns`.
    pub fn complete_open(&mut self, tid: u32, sequence: u64, user: &UserPart, user_ns: u64) -> Vec<Gap> {
        let mut whole = Vec::new();
        self.complete(tid, sequence + 1, (user, user_ns), &mut whole);
        whole
    }

    /// What has waited since before `time_ns` and will hardly get its user stack any more: its thread ended, or its record
    /// was lost. User stacks as old as that, whose gaps were not chosen, are forgotten.
    pub fn give_up(&mut self, time_ns: u64) -> Vec<Gap> {
        let mut old = Vec::new();
        self.open.retain(|_, gaps| {
            let later = gaps.iter().position(|gap| gap.header.time_ns >= time_ns).unwrap_or(gaps.len());
            old.extend(gaps.drain(..later));
            !gaps.is_empty()
        });
        self.taken.retain(|_, taken| {
            taken.retain(|one| one.time_ns >= time_ns);
            !taken.is_empty()
        });
        old.into_iter().map(|record| Gap::without(record, UserPart::Missing("never_left_syscall"))).collect()
    }

    /// What never got its user stack: the thread ended, or began another program, or its record was lost.
    pub fn finish(self) -> Vec<Gap> {
        let open = self.open.into_values().flatten().map(|gap| (gap, "never_left_syscall"));
        let lost = self.unmatched.into_iter().map(|gap| (gap, "lost"));
        open.chain(lost).map(|(record, reason)| Gap::without(record, UserPart::Missing(reason))).collect()
    }

    /// Gives the user stack, with the time when it was taken, to the thread's gaps below `sequence`.
    fn complete(&mut self, tid: u32, sequence: u64, (user, user_ns): (&UserPart, u64), whole: &mut Vec<Gap>) {
        let Some(open) = self.open.get_mut(&tid) else { return };
        let later = open.iter().position(|gap| gap.header.sequence >= sequence).unwrap_or(open.len());
        let done = open.drain(..later);
        whole.extend(done.map(|record| Gap { record, user: user.clone(), user_ns }));
        if open.is_empty() {
            self.open.remove(&tid);
        }
    }

    fn remember(&mut self, record: &mut Record) {
        let taken = self.taken.entry(record.header.tid).or_default();
        if taken.len() >= TAKEN_PER_THREAD {
            taken.drain(..TAKEN_PER_THREAD / 2);
        }
        let user = take_user_part(record);
        taken.push(Taken { sequence: record.header.sequence, time_ns: record.header.time_ns, user });
    }

    fn recall(&mut self, tid: u32, sequence: u64) -> Option<Taken> {
        let taken = self.taken.get_mut(&tid)?;
        let found = taken.iter().position(|one| one.sequence == sequence).map(|at| taken.swap_remove(at));
        taken.retain(|one| one.sequence > sequence);
        if taken.is_empty() {
            self.taken.remove(&tid);
        }
        found
    }
}

/// Takes the user part out of a record.
pub fn take_user_part(record: &mut Record) -> UserPart {
    if record.header.user_bytes < 0 {
        UserPart::Missing("unreadable")
    } else if record.user.is_empty() {
        UserPart::None
    } else {
        UserPart::Taken(std::mem::take(&mut record.user), Stop::from_number(record.header.user_stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(join: &mut GapJoin, records: Vec<Record>) -> Vec<Gap> {
        for record in records {
            join.add(record);
        }
        join.join()
    }

    fn record(kind: RecordKind, tid: u32, sequence: u64, source: u8, user: &[u64]) -> Record {
        // SAFETY: plain integers, for which zero is a value.
        let mut header: RecordHeader = unsafe { std::mem::zeroed() };
        header.kind = kind as u8;
        header.tid = tid;
        header.sequence = sequence;
        header.user_stack = source;
        header.user_bytes = user.len() as i32 * 8;
        Record { header, kernel: vec![1], user: user.to_vec() }
    }

    #[test]
    fn several_gaps_of_one_syscall_share_the_stack_taken_at_its_end() {
        let mut join = GapJoin::default();
        let gap = |sequence| record(RecordKind::Gap, 5, sequence, user_stack::AT_EXIT, &[]);
        assert!(joined(&mut join, vec![gap(1), gap(2)]).is_empty());
        let exit = |first, last, user: &[u64]| {
            let mut exit = record(RecordKind::UserStackAtExit, 5, last, 0, user);
            exit.header.gap_start_ns = first;
            exit
        };
        let whole = joined(&mut join, vec![exit(1, 2, &[7]), gap(3)]);
        assert_eq!(whole.len(), 2);
        assert!(whole.iter().all(|gap| gap.user == UserPart::Taken(vec![7], Stop::NotWalked)));
        let rest = join.finish();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].user, UserPart::Missing("never_left_syscall"));
    }

    #[test]
    fn a_stack_taken_at_the_switch_meets_its_gap_whatever_the_order_of_rings() {
        let mut join = GapJoin::default();
        let whole = joined(
            &mut join,
            vec![
                record(RecordKind::Gap, 5, 4, user_stack::AT_SWITCH, &[]),
                record(RecordKind::UserStackAtSwitch, 5, 3, 0, &[8]),
                record(RecordKind::UserStackAtSwitch, 5, 4, 0, &[9]),
            ],
        );
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].user, UserPart::Taken(vec![9], Stop::NotWalked));
        assert!(join.taken.is_empty(), "what came before is forgotten");
    }

    #[test]
    fn ends_of_syscalls_are_taken_in_their_order_though_a_later_one_lies_in_a_ring_that_is_read_first() {
        let mut join = GapJoin::default();
        let gap = |sequence| record(RecordKind::Gap, 5, sequence, user_stack::AT_EXIT, &[]);
        let end = |sequence, stack| {
            let mut exit = record(RecordKind::UserStackAtExit, 5, sequence, 0, &[stack]);
            (exit.header.gap_start_ns, exit.header.time_ns) = (sequence, sequence);
            exit
        };
        let whole = joined(&mut join, vec![gap(3), gap(8), end(8, 80), end(3, 30)]);
        let taken = |stack| UserPart::Taken(vec![stack], Stop::NotWalked);
        let found: Vec<_> = whole.into_iter().map(|gap| (gap.user, gap.user_ns)).collect();
        assert_eq!(found, [(taken(30), 3), (taken(80), 8)], "with the times when they were taken");
    }

    #[test]
    fn a_lost_stack_is_not_replaced_by_that_of_a_later_syscall() {
        let mut join = GapJoin::default();
        let gap = |sequence| record(RecordKind::Gap, 5, sequence, user_stack::AT_EXIT, &[]);
        let mut exit = record(RecordKind::UserStackAtExit, 5, 9, 0, &[7]);
        exit.header.gap_start_ns = 8;
        let whole = joined(&mut join, vec![gap(3), gap(8), exit]);
        assert_eq!(whole[0].user, UserPart::Missing("lost"));
        assert_eq!(whole[1].user, UserPart::Taken(vec![7], Stop::NotWalked));
    }

    #[test]
    fn a_stack_in_a_ring_that_had_been_read_meets_its_gap_one_drain_later() {
        let mut join = GapJoin::default();
        assert!(joined(&mut join, vec![record(RecordKind::Gap, 5, 4, user_stack::AT_SWITCH, &[])]).is_empty());
        let whole = joined(&mut join, vec![record(RecordKind::UserStackAtSwitch, 5, 4, 0, &[9])]);
        assert_eq!(whole[0].user, UserPart::Taken(vec![9], Stop::NotWalked));
    }

    #[test]
    fn an_open_gap_lends_its_stack_to_the_earlier_ones_of_its_syscall() {
        let mut join = GapJoin::default();
        joined(&mut join, vec![record(RecordKind::Gap, 5, 1, user_stack::AT_EXIT, &[])]);
        let whole = join.complete_open(5, 2, &UserPart::Taken(vec![3], Stop::NotWalked), 9);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].user, UserPart::Taken(vec![3], Stop::NotWalked));
        assert!(join.finish().is_empty());
    }

    #[test]
    fn what_a_dead_thread_left_behind_is_given_up_with_a_reason() {
        let mut join = GapJoin::default();
        let at = |kind, tid, sequence, source, time_ns| {
            let mut record = record(kind, tid, sequence, source, &[8]);
            record.header.time_ns = time_ns;
            record
        };
        joined(
            &mut join,
            vec![
                at(RecordKind::Gap, 5, 1, user_stack::AT_EXIT, 10),
                at(RecordKind::Gap, 5, 2, user_stack::AT_EXIT, 30),
                at(RecordKind::UserStackAtSwitch, 6, 1, 0, 10),
            ],
        );
        let old = join.give_up(20);
        assert_eq!(old.len(), 1);
        assert_eq!(old[0].user, UserPart::Missing("never_left_syscall"));
        assert!(join.taken.is_empty());
        assert_eq!(join.finish().len(), 1, "the later gap may still get its stack");
    }

    #[test]
    fn a_thread_that_is_never_chosen_does_not_fill_memory() {
        let mut join = GapJoin::default();
        for sequence in 0..1000 {
            joined(&mut join, vec![record(RecordKind::UserStackAtSwitch, 5, sequence, 0, &[8])]);
        }
        assert!(join.taken[&5].len() <= TAKEN_PER_THREAD);
    }
}
