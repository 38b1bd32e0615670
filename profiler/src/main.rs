//! The `profiler` command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs before the language's runtime, which changes what a command that is recorded would otherwise inherit.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = profiler::inherited::note;

fn main() -> ExitCode {
    profiler::cli::run()
}
