//! See `src/unwind_walk.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::unwind_walk::run(data));
