//! Whether a profile holds together: every index points at something, every figure is a number. A recording is checked
//! once, when it is read or written, so that everything downstream may trust it.

use profiler_ebpf::histogram::BUCKETS;

use super::{Container, Profile};

/// What does not hold together in a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// An index points past the end of the table it belongs to.
    #[error("{item} {position} points at {table} {index}, but there are only {len}")]
    Dangling {
        /// What holds the index.
        item: &'static str,
        /// Its position among its like.
        position: usize,
        /// The table that the index points into.
        table: &'static str,
        /// The index.
        index: u32,
        /// Number of entries in that table.
        len: usize,
    },
    /// A figure is negative, infinite or not a number.
    #[error("{item} {position} has a {figure} that is no finite, positive number")]
    NotANumber {
        /// What holds the figure.
        item: &'static str,
        /// Its position among its like.
        position: usize,
        /// The figure.
        figure: &'static str,
    },
    /// A histogram has more buckets than there are.
    #[error("a latency histogram of container {position} has {buckets} buckets, more than the {BUCKETS} there are")]
    TooManyBuckets {
        /// Position of the container.
        position: usize,
        /// Number of buckets found.
        buckets: usize,
    },
}

impl Profile {
    /// Checks every index and every floating-point figure.
    pub fn check(&self) -> Result<(), Inconsistency> {
        let texts = self.stacks.text_count();
        let frames = self.stacks.frames().len();
        let stacks = self.stacks.stacks().len();
        for (position, frame) in self.stacks.frames().iter().enumerate() {
            for id in [frame.function, frame.module, frame.file] {
                within("frame", position, "text", id.0, texts)?;
            }
        }
        for (position, stack) in self.stacks.stacks().iter().enumerate() {
            for id in stack {
                within("stack", position, "frame", id.0, frames)?;
            }
        }
        for (position, process) in self.processes.iter().enumerate() {
            within("process", position, "text", process.command.0, texts)?;
        }
        for (position, sample) in self.on_cpu.iter().enumerate() {
            let item = "on-CPU sample";
            within(item, position, "container", sample.container.0, self.containers.len())?;
            within(item, position, "process", sample.process.0, self.processes.len())?;
            within(item, position, "text", sample.thread.0, texts)?;
            within(item, position, "stack", sample.stack.0, stacks)?;
        }
        for (position, sample) in self.off_cpu.iter().enumerate() {
            let item = "off-CPU sample";
            within(item, position, "container", sample.container.0, self.containers.len())?;
            within(item, position, "process", sample.process.0, self.processes.len())?;
            within(item, position, "text", sample.thread.0, texts)?;
            within(item, position, "stack", sample.stack.0, stacks)?;
            sample.peer.map_or(Ok(()), |peer| within(item, position, "text", peer.0, texts))?;
            number(item, position, "weight", Some(sample.weight_ns))?;
            number(item, position, "count", Some(sample.count))?;
        }
        self.containers.iter().enumerate().try_for_each(|(position, container)| check_container(position, container))
    }
}

fn check_container(position: usize, container: &Container) -> Result<(), Inconsistency> {
    let item = "container";
    number(item, position, "CPU limit", container.cpu_limit_cores)?;
    number(item, position, "CPU pressure", container.pressure.cpu)?;
    number(item, position, "I/O pressure", container.pressure.io)?;
    number(item, position, "memory pressure", container.pressure.memory)?;
    let histograms = container.syscalls.iter().map(|syscall| &syscall.latency);
    for histogram in histograms.chain([&container.run_queue.latency]) {
        if histogram.end() > BUCKETS {
            return Err(Inconsistency::TooManyBuckets { position, buckets: histogram.end() });
        }
    }
    Ok(())
}

fn within(
    item: &'static str,
    position: usize,
    table: &'static str,
    index: u32,
    len: usize,
) -> Result<(), Inconsistency> {
    if (index as usize) < len { Ok(()) } else { Err(Inconsistency::Dangling { item, position, table, index, len }) }
}

fn number(item: &'static str, position: usize, figure: &'static str, value: Option<f64>) -> Result<(), Inconsistency> {
    match value {
        Some(value) if !(value.is_finite() && value >= 0.0) => {
            Err(Inconsistency::NotANumber { item, position, figure })
        }
        _ => Ok(()),
    }
}
