//! Tables against other readers of the same information, and against files made to do harm.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod derived_rows;
mod framehop_walks;
mod gimli_rows;
mod known_code;
mod real_files;
