//! Workloads that know their own answer.
//!
//! Every workload is a program of its own that plants one thing, measures by other means than the profiler what it
//! did (clocks, `/proc/self/task/*/schedstat`, its own counters), and prints that as one JSON line, its *truth*. Tests
//! compare the profiler's figures with it.
//!
//! - [`run`]: the options all of them share, and the agreement with whoever measures them on when the work begins
//!   and ends
//! - [`crew`]: the threads that do the work, parked before and after it
//! - [`truth`]: what is measured and printed
//! - [`path`]: the named call paths, in C, whole for a walk by frame pointers

pub mod crew;
pub mod path;
pub mod run;
pub mod truth;
