//! The sampling events: a `cpu-clock` event on every online CPU, each with the program attached, and each with a count
//! of its own that says how many samples there should be.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{perf_event_attr, perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK, perf_type_id::PERF_TYPE_SOFTWARE};

use super::{KernelError, cpus, sys};

const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;

/// One CPU's event; the link keeps the program attached to it.
struct CpuEvent {
    event: OwnedFd,
    _link: OwnedFd,
}

/// Sampling at a fixed period on every online CPU.
pub struct Sampler {
    period_ns: u64,
    program: OwnedFd,
    events: BTreeMap<u32, CpuEvent>,
    /// Samples due from events that are closed.
    closed: u64,
}

impl Sampler {
    /// Opens and starts an event on every online CPU.
    pub fn start(program: BorrowedFd<'_>, frequency_hz: u32) -> Result<Self, KernelError> {
        let program = program.try_clone_to_owned().map_err(|source| KernelError::Sampling { cpu: None, source })?;
        let period_ns = 1_000_000_000 / u64::from(frequency_hz.max(1));
        let mut this = Self { period_ns, program, events: BTreeMap::new(), closed: 0 };
        this.follow_cpus()?;
        Ok(this)
    }

    /// Opens events on CPUs that came online and closes those of CPUs that went. Cheap when nothing changed.
    pub fn follow_cpus(&mut self) -> Result<(), KernelError> {
        let online = cpus::online().map_err(|source| KernelError::Sampling { cpu: None, source })?;
        let gone: Vec<u32> = self.events.keys().copied().filter(|cpu| !online.contains(cpu)).collect();
        for cpu in gone {
            if let Some(event) = self.events.remove(&cpu) {
                self.closed += due(&event.event, self.period_ns);
            }
        }
        for cpu in online {
            if self.events.contains_key(&cpu) {
                continue;
            }
            match self.open(cpu) {
                Ok(event) => {
                    self.events.insert(cpu, event);
                }
                // It went offline again in between.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(source) => return Err(KernelError::Sampling { cpu: Some(cpu), source }),
            }
        }
        Ok(())
    }

    fn open(&self, cpu: u32) -> io::Result<CpuEvent> {
        let event = open_event(cpu, self.period_ns)?;
        let link = sys::link_perf_event(self.program.as_fd(), event.as_fd())?;
        control(&event, PERF_EVENT_IOC_ENABLE)?;
        Ok(CpuEvent { event, _link: link })
    }

    /// Samples due so far, by the events' own counts.
    pub fn expected(&self) -> u64 {
        self.closed + self.events.values().map(|event| due(&event.event, self.period_ns)).sum::<u64>()
    }

    /// Samples due in so much time of one CPU.
    pub fn due_in(&self, ns: u64) -> u64 {
        ns / self.period_ns
    }

    /// Stops all events; their counts stay readable.
    pub fn stop(&self) {
        for (cpu, event) in &self.events {
            if let Err(error) = control(&event.event, PERF_EVENT_IOC_DISABLE) {
                tracing::warn!("cannot stop sampling on CPU {cpu}: {error}");
            }
        }
    }
}

/// Opens a `cpu-clock` event of everything on a CPU, disabled.
pub(super) fn open_event(cpu: u32, period_ns: u64) -> io::Result<OwnedFd> {
    // SAFETY: plain integers, for which zero is the documented default.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.type_ = PERF_TYPE_SOFTWARE as u32;
    attr.config = PERF_COUNT_SW_CPU_CLOCK as u64;
    attr.__bindgen_anon_1.sample_period = period_ns;
    attr.set_disabled(1);
    // SAFETY: the attribute is complete and outlives the call; the result is a fresh descriptor or -1.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu as libc::c_int, -1, PERF_FLAG_FD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn control(event: &OwnedFd, request: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these two requests take no argument.
    if unsafe { libc::ioctl(event.as_raw_fd(), request, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The event's count, which for `cpu-clock` is nanoseconds, in periods.
fn due(event: &OwnedFd, period_ns: u64) -> u64 {
    let mut count = [0_u8; 8];
    match rustix::io::read(event, &mut count) {
        Ok(8) => u64::from_ne_bytes(count) / period_ns,
        Ok(_) => 0,
        Err(error) => {
            tracing::warn!("cannot read a sampling event's count: {error}");
            0
        }
    }
}
