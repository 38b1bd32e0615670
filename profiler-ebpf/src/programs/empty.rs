//! Programs that do nothing, on the hooks of those that do: what the hook alone costs, for the benchmark.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};

/// Beside `sched_switch`.
#[btf_tracepoint(function = "sched_switch")]
pub fn empty_sched_switch(_context: BtfTracePointContext) -> i32 {
    0
}

/// Beside `sched_wakeup`.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn empty_sched_wakeup(_context: BtfTracePointContext) -> i32 {
    0
}

/// Beside `sys_enter`.
#[btf_tracepoint(function = "sys_enter")]
pub fn empty_sys_enter(_context: BtfTracePointContext) -> i32 {
    0
}

/// Beside `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn empty_sys_exit(_context: BtfTracePointContext) -> i32 {
    0
}

/// Beside `sys_enter`: reads the clock, as whoever times calls must.
#[btf_tracepoint(function = "sys_enter")]
pub fn clock_sys_enter(_context: BtfTracePointContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() };
    0
}

/// Beside `sys_exit`: the same.
#[btf_tracepoint(function = "sys_exit")]
pub fn clock_sys_exit(_context: BtfTracePointContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() };
    0
}

/// Beside `cpu_clock`.
#[perf_event]
pub fn empty_cpu_clock(_context: PerfEventContext) -> u32 {
    0
}
