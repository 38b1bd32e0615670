//! The kernel programs. One file a probe.
fn main() {}
