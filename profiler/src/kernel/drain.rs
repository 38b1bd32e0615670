//! Windows out of the maps: flip to the other generation, wait until nobody writes to the old one, settle, read, zero.

use std::{collections::BTreeMap, mem::offset_of};

use profiler_ebpf::{
    Account, CONTAINER_IDLE, Control, Counter, CpuState, Event, EventWithPath, LedgerRow, account::PARTS,
    histogram::BUCKETS, settings::iterate,
};
use rustc_hash::FxHashMap;

use super::{Kernel, KernelError, Record, cost::WindowCosts, records::parse_all, sys};

/// One container's exact account of a window, summed over CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerAccount {
    /// Thread-nanoseconds by [`profiler_ebpf::Part`].
    pub parts_ns: [u64; PARTS],
    /// User time by ticks in nanoseconds; only its ratio to `kernel_ticks_ns` is meaningful.
    pub user_ticks_ns: u64,
    /// Kernel time by ticks in nanoseconds.
    pub kernel_ticks_ns: u64,
    /// Switches away from a thread that blocked.
    pub voluntary: u64,
    /// Switches away from a thread that could have run on.
    pub involuntary: u64,
    /// Longest run-queue latency in nanoseconds.
    pub run_queue_max_ns: u64,
    /// Run-queue latency by bucket.
    pub run_queue: Vec<u64>,
}

impl Default for LedgerAccount {
    fn default() -> Self {
        Self {
            parts_ns: [0; PARTS],
            user_ticks_ns: 0,
            kernel_ticks_ns: 0,
            voluntary: 0,
            involuntary: 0,
            run_queue_max_ns: 0,
            run_queue: vec![0; BUCKETS],
        }
    }
}

impl LedgerAccount {
    fn add(&mut self, row: &LedgerRow) {
        for (sum, ns) in self.parts_ns.iter_mut().zip(row.parts_ns) {
            *sum = sum.wrapping_add(ns);
        }
        self.user_ticks_ns += row.user_ticks_ns;
        self.kernel_ticks_ns += row.kernel_ticks_ns;
        self.voluntary += row.voluntary;
        self.involuntary += row.involuntary;
        self.run_queue_max_ns = self.run_queue_max_ns.max(row.run_queue_max_ns);
        for (sum, count) in self.run_queue.iter_mut().zip(row.run_queue) {
            *sum += u64::from(count);
        }
    }
}

/// One container's exact account of one syscall in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyscallAccount {
    /// Container index.
    pub container: u32,
    /// Syscall number.
    pub number: u32,
    /// Summed latency in nanoseconds.
    pub total_ns: u64,
    /// Longest latency in nanoseconds.
    pub max_ns: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Calls that returned without having begun: in no bucket of `latency`.
    pub skipped: u64,
    /// The first bucket of `latency`.
    pub first_bucket: u32,
    /// Latency by bucket, without empty ones before and behind; their sum is the number of calls that began.
    pub latency: Vec<u64>,
    /// Failed calls by errno position ([`profiler_ebpf::account::ERRNOS`]), those that occurred.
    pub errors: Vec<(u32, u64)>,
}

/// Everything that the maps hold of one window. Records and events are drained apart.
#[derive(Debug, Default)]
pub struct RawWindow {
    /// Start (CLOCK_MONOTONIC, ns).
    pub start_ns: u64,
    /// End (CLOCK_MONOTONIC, ns).
    pub end_ns: u64,
    /// Accounts by container index.
    pub ledgers: BTreeMap<u32, LedgerAccount>,
    /// Syscalls.
    pub syscalls: Vec<SyscallAccount>,
    /// (waiter, runner, ns), by container index.
    pub waited_behind: Vec<(u32, u32, u64)>,
    /// Gaps still open at the end, with the user registers of their threads.
    pub open_gaps: Vec<Record>,
    /// Growth of each counter.
    pub counters: BTreeMap<&'static str, u64>,
    /// Samples due by the events' own counts.
    pub samples_expected: u64,
    /// Samples that were due while CPUs were idle, by the CPUs' own idle time.
    pub samples_due_idle: u64,
    /// What the programs cost.
    pub costs: WindowCosts,
    /// Bytes of records that made no sense.
    pub record_bytes_skipped: u64,
    /// Records that were read but found no room in memory.
    pub records_lost: u64,
    /// Whether the kernel waited for its programs, or only time passed.
    pub grace_by_kernel: bool,
}

impl RawWindow {
    /// Growth of one counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(counter.name()).copied().unwrap_or(0)
    }
}

/// What was read of counts that only grow.
#[derive(Default)]
pub struct SoFar {
    window_start_ns: u64,
    counters: FxHashMap<u32, u64>,
    expected: u64,
    waited_behind: FxHashMap<u64, u64>,
    skipped: u64,
    lost_records: u64,
}

/// An event and its path, which lies behind it if it has one.
fn event_of(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let fixed = bytes.get(..size_of::<Event>())?;
    // SAFETY: as many bytes are there; an event is plain integers, read unaligned.
    let event = unsafe { std::ptr::read_unaligned(fixed.as_ptr().cast::<Event>()) };
    let length = bytes.get(offset_of!(EventWithPath, path_bytes)..).and_then(|rest| rest.first_chunk());
    let length = length.map_or(0, |length| u64::from_ne_bytes(*length) as usize);
    let path = bytes.get(offset_of!(EventWithPath, path)..).and_then(|path| path.get(..length));
    Some((event, path.unwrap_or_default()))
}

impl Kernel {
    /// Begins the first window: what was accounted before it is thrown away.
    pub(super) fn begin_first_window(&mut self) -> Result<(), KernelError> {
        self.end_window().map(drop)
    }

    /// Start of the current window (CLOCK_MONOTONIC, ns).
    pub fn window_start_ns(&self) -> u64 {
        self.so_far.window_start_ns
    }

    /// Stops sampling, so that the last window's samples and their expectation belong together.
    pub fn stop_sampling(&mut self) {
        if let Some(sampler) = &self.sampler {
            sampler.stop();
        }
    }

    /// Empties the rings now: what was recorded before is then there to be taken.
    pub fn drain_rings(&self) {
        self.drainer.drain_now();
    }

    /// Takes the records that have gathered, a batch for each look into the rings: what belongs together lies in one batch
    /// or two that follow one another. Each batch is read by [`super::parse_all`].
    pub fn drain_records(&mut self) -> Vec<Vec<u8>> {
        let mut batches = Vec::new();
        for batch in self.drainer.take() {
            self.so_far.skipped += batch.skipped_bytes;
            self.so_far.lost_records += batch.lost_records;
            batches.push(batch.records);
        }
        self.costs.tick();
        batches
    }

    /// Takes the process and cgroup events that have gathered, with their paths: empty where an event has none.
    pub fn drain_events(&mut self, mut take: impl FnMut(Event, &[u8])) {
        while let Some(item) = self.events.next() {
            if let Some((event, path)) = event_of(&item) {
                take(event, path);
            }
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Opens sampling events on CPUs that came online.
    pub fn follow_cpus(&mut self) -> Result<(), KernelError> {
        self.sampler.as_mut().map_or(Ok(()), super::sampler::Sampler::follow_cpus)
    }

    /// Ends the window and begins the next.
    pub fn end_window(&mut self) -> Result<RawWindow, KernelError> {
        let (generation, _) = Control::split(self.window_word());
        let end_ns = sys::monotonic_ns() & !1;
        self.set_window(Control::join(generation ^ 1, end_ns));
        // Programs that read the old word may still be writing to the old generation; after this none is.
        let by_kernel = sys::wait_for_programs();
        let written = self.walk_threads(iterate::SETTLE)?;
        // Nor is one that settled a thread's state in the iterator's place.
        let grace_by_kernel = sys::wait_for_programs() && by_kernel;
        let mut window = RawWindow {
            start_ns: std::mem::replace(&mut self.so_far.window_start_ns, end_ns),
            end_ns,
            open_gaps: parse_all(&written).collect(),
            grace_by_kernel,
            record_bytes_skipped: std::mem::take(&mut self.so_far.skipped),
            records_lost: std::mem::take(&mut self.so_far.lost_records),
            costs: self.costs.end_window(&self.ebpf),
            ..RawWindow::default()
        };
        let in_use = self.indices_in_use();
        self.take_ledgers(generation, &in_use, &mut window);
        window.syscalls = self.syscall_rows.take(generation, &in_use);
        self.take_waited_behind(&mut window);
        self.take_counters(&mut window);
        Ok(window)
    }

    fn window_word(&self) -> u64 {
        self.control.read(0).map_or(0, |control| control.window)
    }

    fn set_window(&self, word: u64) {
        // Programs that see the new word on one CPU and then the old one on another account to either generation what belongs
        // to it, and all have seen the new one before the old generation is read.
        for cpu in 0..self.cpu_states.len() {
            if let Some(state) = self.cpu_states.at(cpu) {
                // SAFETY: inside the mapping and aligned, so the word is stored whole.
                unsafe { std::ptr::write_volatile(&raw mut (*state).window, word) };
            }
        }
        if let Some(control) = self.control.at(0) {
            // SAFETY: as above.
            unsafe { std::ptr::write_volatile(&raw mut (*control).window, word) };
        }
    }

    /// CPU nanoseconds of the window that runs, by container, up to each thread's last switch or tick.
    pub fn cpu_ns(&self) -> FxHashMap<u32, u64> {
        let (generation, _) = Control::split(self.window_word());
        let in_use = self.indices_in_use();
        let mut sums: FxHashMap<u32, u64> = FxHashMap::default();
        for cpu in 0..=self.sizes.cpus {
            for container in &in_use {
                // SAFETY: inside the mapping and aligned; any bits are a value. The row is a hundred times as long.
                let ns = self.ledger_row(generation, cpu, *container).map_or(0, |row| unsafe {
                    (&raw const (*row).parts_ns[profiler_ebpf::Part::Cpu as usize]).read_volatile()
                });
                if ns > 0 {
                    let sum = sums.entry(*container).or_default();
                    *sum = sum.wrapping_add(ns);
                }
            }
        }
        sums
    }

    /// Where the account of a container on a CPU lies.
    fn account(&self, cpu: u32, container: u32) -> Option<*mut Account> {
        self.accounts.at(cpu as usize * self.sizes.containers as usize + container as usize)
    }

    /// What a CPU is doing, and how long it was idle before that, in nanoseconds.
    fn idle_before(&self, cpu: u32) -> Option<(CpuState, u64)> {
        let account = self.account(cpu, CONTAINER_IDLE)?;
        // SAFETY: inside the mapping and aligned; any bits are a value.
        let idle_ns = unsafe { (&raw const (*account).clock_ns).read_volatile() };
        Some((self.cpu_states.read(cpu as usize)?, idle_ns))
    }

    /// Where the row of a container on a CPU lies.
    fn ledger_row(&self, generation: u32, cpu: u32, container: u32) -> Option<*mut LedgerRow> {
        let account = self.account(cpu, container)?;
        // SAFETY: the account lies inside the mapping, and the index is masked to the array's length.
        Some(unsafe { (&raw mut (*account).ledger).cast::<LedgerRow>().add((generation & 1) as usize) })
    }

    fn take_ledgers(&mut self, generation: u32, in_use: &[u32], window: &mut RawWindow) {
        for cpu in 0..=self.sizes.cpus {
            for container in in_use {
                let Some(place) = self.ledger_row(generation, cpu, *container) else { continue };
                // SAFETY: inside the mapping and aligned; any bits are a value, and nobody writes to the ended generation.
                let row = unsafe { place.read_volatile() };
                if row.parts_ns.iter().all(|ns| *ns == 0) && row.voluntary + row.involuntary == 0 {
                    continue;
                }
                window.ledgers.entry(*container).or_default().add(&row);
                // SAFETY: as above; zero is a value of every contract type.
                unsafe { place.write_bytes(0, 1) };
            }
        }
    }

    fn take_waited_behind(&mut self, window: &mut RawWindow) {
        let mut idle = Vec::new();
        let mut count = 0;
        for (key, ns) in self.waited_behind.read() {
            count += 1;
            let before = self.so_far.waited_behind.insert(key, ns).unwrap_or(0);
            // An entry that was deleted and came back counts from nought.
            let grown_ns = if ns >= before { ns - before } else { ns };
            if grown_ns > 0 {
                window.waited_behind.push(((key >> 32) as u32, key as u32, grown_ns));
            } else {
                idle.push(key);
            }
        }
        // Pairs that have stopped meeting make room before others find none.
        if count * 4 > self.sizes.waited_behind() as usize * 3 {
            for key in idle {
                self.drop_waited_behind(key);
            }
        }
    }

    /// Forgets who waited behind a container whose index is taken back, and behind whom it waited.
    pub(super) fn forget_waited_behind(&mut self, index: u32) {
        let of_index = |key: &u64| (*key >> 32) as u32 == index || *key as u32 == index;
        let keys: Vec<u64> = self.so_far.waited_behind.keys().copied().filter(of_index).collect();
        for key in keys {
            self.drop_waited_behind(key);
        }
    }

    /// Pairs known, and those that there is room for.
    pub(super) fn waited_behind_use(&self) -> (u64, u64) {
        (self.so_far.waited_behind.len() as u64, u64::from(self.sizes.waited_behind()))
    }

    fn drop_waited_behind(&mut self, key: u64) {
        self.so_far.waited_behind.remove(&key);
        if let Err(error) = self.waited_behind.remove(key) {
            tracing::debug!("a pair of containers that is gone cannot be forgotten: {error}");
        }
    }

    /// A counter since the programs were loaded.
    pub(super) fn counted(&self, counter: Counter) -> u64 {
        let place = counter as usize;
        (0..self.counters.len()).filter_map(|cpu| self.counters.read(cpu)).map(|row| row[place]).sum()
    }

    fn take_counters(&mut self, window: &mut RawWindow) {
        let expected = self.sampler.as_ref().map_or(0, super::sampler::Sampler::expected);
        window.samples_expected = expected - std::mem::replace(&mut self.so_far.expected, expected);
        let online = super::cpus::online().unwrap_or_default();
        let cpus: Vec<_> = (0..self.sizes.cpus).filter_map(|cpu| self.idle_before(cpu)).collect();
        let idle_ns = self.idle.end_window(window.end_ns, &online, &cpus);
        window.samples_due_idle = self.sampler.as_ref().map_or(0, |sampler| sampler.due_in(idle_ns));
        for counter in Counter::ALL {
            let sum = self.counted(*counter);
            let before = self.so_far.counters.insert(*counter as u32, sum).unwrap_or(0);
            if sum > before {
                window.counters.insert(counter.name(), sum - before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::{EventKind, event::PATH_BYTES};

    use super::*;

    fn bytes_of(length: u64) -> Vec<u8> {
        let head = [(EventKind::CgroupCreated as u32).to_ne_bytes(), 7_u32.to_ne_bytes()].concat();
        let words = [30_u64, 40, length].map(u64::to_ne_bytes).concat();
        let mut path = b"/docker/abc\0".to_vec();
        path.resize(PATH_BYTES, b'x');
        [head, words, path].concat()
    }

    #[test]
    fn an_event_has_a_path_or_none() {
        let whole = bytes_of(11);
        assert_eq!(whole.len(), size_of::<EventWithPath>());
        let of = |bytes: &[u8]| {
            event_of(bytes).map(|(event, path)| (event.kind, event.pid, event.time_ns, event.cgroup, path.to_vec()))
        };
        assert_eq!(of(&whole), Some((EventKind::CgroupCreated as u32, 7, 30, 40, b"/docker/abc".to_vec())));
        let short = size_of::<Event>();
        assert_eq!(of(&whole[..short]), Some((EventKind::CgroupCreated as u32, 7, 30, 40, Vec::new())));
        assert_eq!(of(&whole[..short - 1]), None);
        for odd in [PATH_BYTES as u64 + 1, u64::MAX] {
            assert_eq!(event_of(&bytes_of(odd)).map(|(_, path)| path.len()), Some(0), "{odd}");
        }
    }
}
