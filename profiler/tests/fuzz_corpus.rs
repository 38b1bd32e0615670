//! What the fuzzers have found worth keeping, run again without a fuzzer.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::path::Path;

#[path = "../../fuzz/src/daemon_input.rs"]
mod daemon_input;
#[path = "../../fuzz/src/elf.rs"]
mod elf;
#[path = "../../fuzz/src/recording.rs"]
mod recording;
#[path = "../../fuzz/src/unwind_table.rs"]
mod unwind_table;
#[path = "../../fuzz/src/unwind_walk.rs"]
mod unwind_walk;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", corpus.display());
}

#[test]
fn files_that_fuzzing_found_are_refused_or_make_sound_tables() {
    replay("unwind_table", unwind_table::run);
}

#[test]
fn stacks_that_fuzzing_found_are_walked_to_an_end() {
    replay("unwind_walk", unwind_walk::run);
}

#[test]
fn recordings_that_fuzzing_found_are_refused_or_read() {
    replay("recording", recording::run);
}

#[test]
fn what_fuzzing_wrote_to_the_daemon_is_taken_or_refused_in_words() {
    replay("daemon_input", daemon_input::run);
}
