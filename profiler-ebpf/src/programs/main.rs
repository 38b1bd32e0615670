//! The kernel programs: one file a probe, and a few that hold what several probes share.
//!
//! Every program reads as the story of one event: guard, state, decide, account. Entry points only adapt the context;
//! what they call takes plain values.
//!
//! What few events come to stands in functions of its own, marked as cold. They name the section that all functions are in: the
//! compiler would give them another, and the loader follows calls within one only.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod atomic;
mod cgroup;
mod clock;
mod container;
mod counter;
mod cpu_clock;
mod empty;
mod iter_task;
mod kernel;
mod kernel_stack;
mod lifecycle;
mod maps;
mod peer;
mod ring;
mod sched_migrate;
mod sched_switch;
mod sched_wakeup;
mod sys_enter;
mod sys_exit;
mod task;
mod unwind;
mod wait;
mod window;

/// The kernel gives GPL-only helpers to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // SAFETY: nothing that can panic survives into the object: a call to this function would fail to verify.
    unsafe { core::hint::unreachable_unchecked() }
}
