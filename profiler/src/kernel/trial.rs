//! Programs that are loaded and attached for a moment or beside the real ones: to find out whether this kernel takes them, and
//! what its hooks cost.

use std::{os::fd::AsFd, time::Duration};

use aya::{
    Ebpf,
    programs::{Iter, PerfEvent},
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::{
    HierarchyKind, KernelError, KernelOptions, Sizes,
    load::{attach, attach_tracepoint, check_lockdown, failed, load_object, typed},
    sampler::Sampler,
};

/// Names a program that the kernel is made to refuse, so that tests see how that is told.
pub(super) const FAIL_PROGRAM: &str = "PROFILER_TEST_FAIL_PROGRAM";

/// Programs that do nothing, by the hook beside whose program the benchmark measures them.
const EMPTY: [(&str, &str); 4] = [
    ("empty_sched_switch", "sched_switch"),
    ("empty_sched_wakeup", "sched_wakeup"),
    ("empty_sys_enter", "sys_enter"),
    ("empty_sys_exit", "sys_exit"),
];

/// Programs that only read the clock, likewise.
const CLOCK: [(&str, &str); 2] = [("clock_sys_enter", "sys_enter"), ("clock_sys_exit", "sys_exit")];

/// Everything a recording can ask for, with the smallest maps.
fn everything(hierarchy: HierarchyKind) -> KernelOptions {
    KernelOptions {
        frequency_hz: Some(1),
        off_cpu: true,
        syscalls: true,
        offcpu_threshold: Duration::from_millis(1),
        hierarchy,
        cgroups: 0,
        least_containers: 0,
        filter_containers: false,
        processes: Vec::new(),
        threads: Vec::new(),
        kernel_log: false,
        tiny_maps: true,
    }
}

/// Loads and attaches every program that a recording does, in a collection of its own, and takes all away again. No window
/// begins, so the programs account for nothing.
pub fn load_and_attach_all(hierarchy: HierarchyKind) -> Result<(), KernelError> {
    check_lockdown()?;
    let options = everything(hierarchy);
    let (mut ebpf, btf) = load_object(&options, Sizes::of(&options)?)?;
    attach(&mut ebpf, &btf, &options)?;
    let iterator: &mut Iter = typed(&mut ebpf, "iter_task")?;
    iterator.attach().map_err(|error| failed("attach", "iter_task", error))?;
    let sampler: &mut PerfEvent = typed(&mut ebpf, "cpu_clock")?;
    let sampler = sampler.fd().map_err(|error| failed("attach", "cpu_clock", error))?.as_fd();
    Sampler::start(sampler, options.frequency_hz.unwrap_or(1)).map(drop)
}

/// The empty programs alone, attached: what the hooks themselves cost.
pub struct EmptyPrograms {
    _ebpf: Ebpf,
}

impl EmptyPrograms {
    /// Loads and attaches those whose hook is named; with `clock`, those that read the clock, where there are such.
    pub fn attach(hooks: &[String], clock: bool) -> Result<Self, KernelError> {
        let options = everything(HierarchyKind::V2);
        let (mut ebpf, btf) = load_object(&options, Sizes::of(&options)?)?;
        for (program, hook) in if clock { &CLOCK[..] } else { &EMPTY } {
            if hooks.iter().any(|wanted| wanted == hook) {
                attach_tracepoint(&mut ebpf, &btf, program, hook)?;
            }
        }
        Ok(Self { _ebpf: ebpf })
    }
}

/// Makes a program one that every verifier refuses: it begins by reading through a register that nothing was written to. None
/// if the object has no such program.
pub(super) fn refused(mut object: Vec<u8>, program: &str) -> Option<Vec<u8>> {
    /// `r0 = *(u64 *)(r9 + 0)`
    const READ_THROUGH_R9: [u8; 8] = [0x79, 0x90, 0, 0, 0, 0, 0, 0];
    let at = {
        let file = object::File::parse(&*object).ok()?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(program))?;
        let (section, _) = file.section_by_index(symbol.section_index()?).ok()?.file_range()?;
        usize::try_from(section.checked_add(symbol.address())?).ok()?
    };
    object.get_mut(at..at.checked_add(READ_THROUGH_R9.len())?)?.copy_from_slice(&READ_THROUGH_R9);
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::load::OBJECT;

    #[test]
    fn one_instruction_of_the_named_program_is_changed() {
        for program in ["sched_switch", "iter_task", "cpu_clock"] {
            let spoilt = refused(OBJECT.to_vec(), program).unwrap_or_default();
            assert_eq!(spoilt.len(), OBJECT.len(), "{program}");
            let changed = spoilt.chunks(8).zip(OBJECT.chunks(8)).filter(|(spoilt, before)| spoilt != before).count();
            assert_eq!(changed, 1, "{program}");
        }
        assert_eq!(refused(OBJECT.to_vec(), "no_such_program"), None);
    }
}
