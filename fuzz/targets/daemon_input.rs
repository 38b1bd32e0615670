//! See `src/daemon_input.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::daemon_input::run(data));
