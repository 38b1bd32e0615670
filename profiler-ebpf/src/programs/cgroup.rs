//! Cgroups come and go, and processes are moved between them: hints by which even short-lived containers get a name.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use profiler_ebpf::{Counter, Event, EventKind, EventWithPath, event::PATH_BYTES};

use crate::{
    counter::count,
    kernel::{cgroup_id, load, pointer},
    lifecycle::QUIETLY,
    maps::{EVENTS, offset, setting},
};

/// `cgroup_mkdir(struct cgroup *cgrp, const char *path)`
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    let Some(cgroup) = followed(&context) else { return 0 };
    debug!(&context, "cgroup {}: created", cgroup);
    let Some(mut entry) = EVENTS.reserve_untyped::<EventWithPath>(0) else {
        count(Counter::EventsRingFull);
        return 0;
    };
    let told = entry.as_mut_ptr();
    // SAFETY: the entry has room for what is told; the helper writes at most the path's length and ends it with a NUL.
    unsafe {
        (*told).event = event(EventKind::CgroupCreated, cgroup);
        let path: *const c_void = context.arg(1);
        let bytes = bpf_probe_read_kernel_str((&raw mut (*told).path).cast(), PATH_BYTES as u32, path);
        (*told).path_bytes = if bytes > 0 { bytes as u64 - 1 } else { 0 };
    }
    entry.submit(QUIETLY);
    0
}

/// `cgroup_rmdir(struct cgroup *cgrp, const char *path)`
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(context: BtfTracePointContext) -> i32 {
    let Some(cgroup) = followed(&context) else { return 0 };
    debug!(&context, "cgroup {}: removed", cgroup);
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::EventsRingFull);
        return 0;
    };
    entry.write(event(EventKind::CgroupRemoved, cgroup));
    entry.submit(QUIETLY);
    0
}

/// Id of the cgroup that an event is of, if that is in the hierarchy that containers live in: on hybrid hosts the event comes
/// once a hierarchy, each time with another id.
#[inline(always)]
fn followed(context: &BtfTracePointContext) -> Option<u64> {
    let cgroup: *const c_void = context.arg(0);
    // SAFETY: `cgroup` is typed by the tracepoint, its root by the load.
    let (hierarchy, id) = unsafe {
        let root = pointer(cgroup, offset!(cgroup_root));
        (load(root, offset!(root_hierarchy)), cgroup_id(cgroup))
    };
    (hierarchy == setting!(hierarchy)).then_some(id)
}

#[inline(always)]
fn event(kind: EventKind, cgroup: u64) -> Event {
    // SAFETY: the helper has no preconditions.
    Event { kind: kind as u32, pid: 0, time_ns: unsafe { bpf_ktime_get_ns() }, cgroup }
}
