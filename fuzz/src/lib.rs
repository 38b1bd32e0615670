//! What the fuzzers do with their input. In: any bytes. Out: nothing, or a panic if a promise is broken.
//!
//! `profiler/tests/fuzz_corpus.rs` replays the corpus through the same code, without a fuzzer.

pub mod daemon_input;
pub mod elf;
pub mod recording;
pub mod unwind_table;
pub mod unwind_walk;
