//! The whole program against a real kernel and real containers: what every test needs.
//!
//! - [`containers`]: private container runtimes with real containers, and [`require!`] for tests that need them

pub mod containers;
