//! What tests of these rooms share.

/// Says why a test that needs the kernel is left out; fails instead where the environment promises that it can run.
#[expect(clippy::print_stderr, clippy::panic, reason = "a test speaks to whoever runs it")]
pub fn skip(reason: &str) {
    assert!(std::env::var("PROFILER_REQUIRE_KERNEL").as_deref() != Ok("1"), "cannot run: {reason}");
    eprintln!("skipped: {reason}");
}
