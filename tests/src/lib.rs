//! The whole program against a real kernel and real containers: what every test needs.
//!
//! - [`requirement`]: may this test run here, and alone
//! - [`workload`]: a program of `examples` with a known answer
//! - [`cgroup`]: a container without a runtime: a cgroup that looks like one
//! - [`containers`]: private container runtimes with real containers, and [`require!`] for tests that need them
//! - [`daemon`]: the daemon, asked over HTTP
//! - [`receiver`]: a server that the daemon pushes to
//! - [`program`]: the profiler, run as a user runs it
//! - [`report`] and [`pprof`]: what it wrote, read by other code than wrote it
//! - [`observation`]: workloads, recorded from before their work to after it
//! - [`software`]: what distributions ship, under load
//! - [`stacks`]: how whole, named and right its stacks are
//! - [`oracle`]: stacks walked a second time by somebody else's code
//! - [`hung`]: a file system that stops answering
//! - [`figures`]: is one figure close enough to another

pub mod cgroup;
pub mod containers;
pub mod daemon;
pub mod figures;
pub mod hung;
pub mod observation;
pub mod oracle;
pub mod pprof;
pub mod program;
pub mod receiver;
pub mod report;
pub mod requirement;
pub mod software;
pub mod stacks;
pub mod workload;
