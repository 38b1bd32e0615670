//! Cgroups come and go, and processes are moved between them: hints by which even short-lived containers get a name.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use profiler_ebpf::{Counter, EventKind, event::PATH_BYTES};

use crate::{
    counter::count,
    kernel::{cgroup_id, load},
    maps::{EVENTS, offset, setting},
};

/// `cgroup_mkdir(struct cgroup *cgrp, const char *path)`
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    tell(EventKind::CgroupCreated, &context);
    0
}

/// `cgroup_rmdir(struct cgroup *cgrp, const char *path)`
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(context: BtfTracePointContext) -> i32 {
    tell(EventKind::CgroupRemoved, &context);
    0
}

#[inline(always)]
fn tell(kind: EventKind, context: &BtfTracePointContext) {
    let (cgroup, path): (*const c_void, *const c_void) = (context.arg(0), context.arg(1));
    // On hybrid hosts the event comes once a hierarchy, each time with another id.
    // SAFETY: `cgroup` is typed by the tracepoint, its root by the load.
    let (hierarchy, id) = unsafe {
        let root: *const c_void = load(cgroup, offset!(cgroup_root));
        (load::<u32>(root, offset!(root_hierarchy)), cgroup_id(cgroup))
    };
    if hierarchy != setting!(hierarchy) {
        return;
    }
    debug!(
        context,
        "cgroup {}: {}",
        id,
        if kind as u32 == EventKind::CgroupCreated as u32 { "created" } else { "removed" }
    );
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::EventsRingFull);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry has room for an event; the helper writes at most the path's length and ends it with a NUL.
    unsafe {
        (*event).kind = kind as u32;
        (*event).pid = 0;
        (*event).tid = 0;
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).cgroup = id;
        let bytes = bpf_probe_read_kernel_str((&raw mut (*event).path).cast(), PATH_BYTES as u32, path);
        (*event).path_bytes = if bytes > 0 { bytes as u32 - 1 } else { 0 };
    }
    entry.submit(0);
}
