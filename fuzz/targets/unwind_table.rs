//! See `src/unwind_table.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::unwind_table::run(data));
