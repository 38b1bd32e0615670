//! The threads that build tables. In: files. Out: their rows, or that they have none.

use std::{io, os::fd::OwnedFd, sync::Arc};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use profiler_ebpf::unwind::{Row, Rule};

use super::tables;
use crate::process::{
    Module, ReadError, Urgency, own_vdso,
    unwind::{Limits, Refused, Table, build},
};

/// What to build a table of.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A mapped file.
    Module(Arc<Module>),
    /// The vDSO.
    Vdso,
}

/// What came of it.
#[derive(Debug)]
pub enum Built {
    /// A table.
    Table(Box<Table>),
    /// The file says nothing of unwinding: its code is followed by frame pointers throughout.
    Nothing,
    /// The file cannot be read or understood.
    Bad,
    /// The file's file system does not answer.
    Unanswered,
}

impl tables::Rows for Table {
    fn first_page(&self) -> u32 {
        self.first_page()
    }

    fn pages(&self) -> impl ExactSizeIterator<Item = &[Row]> {
        self.pages()
    }

    fn rules(&self) -> &[Rule] {
        self.rules()
    }
}

/// Files larger than this go a way of their own: they take up to seconds, and small ones are not to wait for them.
const LARGE_BYTES: u64 = 16 << 20;

/// Tables that wait to be taken; the threads wait with them. A large one has megabytes.
const WAITING: usize = 2;

/// Handle on the threads. They end with what they have in hand when it is dropped.
#[derive(Debug)]
pub struct Builder {
    small: Sender<(u32, Subject)>,
    large: Sender<(u32, Subject)>,
    built: Receiver<(u32, Built)>,
    under_way: usize,
}

impl Builder {
    /// Starts the threads, which ring the bell for everything they have built.
    pub fn spawn(bell: &Arc<OwnedFd>) -> io::Result<Self> {
        let (answers, built) = bounded(WAITING);
        let small = lane("unwind-tables", Urgency::Now, answers.clone(), bell.clone())?;
        let large = lane("unwind-large", Urgency::Ordinary, answers, bell.clone())?;
        Ok(Self { small, large, built, under_way: 0 })
    }

    /// Asks for a table. False if the thread is gone.
    pub fn ask(&mut self, number: u32, subject: Subject) -> bool {
        let lane = if is_large(&subject) { &self.large } else { &self.small };
        let asked = lane.send((number, subject)).is_ok();
        self.under_way += usize::from(asked);
        asked
    }

    /// One that has been built since.
    pub fn take(&mut self) -> Option<(u32, Built)> {
        let built = self.built.try_recv().ok()?;
        self.under_way -= 1;
        Some(built)
    }

    /// Tables asked for that are not taken yet.
    pub fn under_way(&self) -> usize {
        self.under_way
    }
}

fn is_large(subject: &Subject) -> bool {
    match subject {
        Subject::Module(module) => module.file().is_some_and(|file| file.bytes() > LARGE_BYTES),
        Subject::Vdso => false,
    }
}

/// A thread that builds one table after the other. Not bounded: there are at most as many subjects as tables.
fn lane(
    name: &str,
    urgency: Urgency,
    answers: Sender<(u32, Built)>,
    bell: Arc<OwnedFd>,
) -> io::Result<Sender<(u32, Subject)>> {
    let (subjects, asked) = unbounded::<(u32, Subject)>();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        if urgency == Urgency::Now {
            hurry();
        }
        for (number, subject) in asked {
            if answers.send((number, build_guarded(&subject, urgency))).is_err() {
                return;
            }
            // It fails only when the counter is full, and then the other thread is awake anyway.
            rustix::io::write(&*bell, &1_u64.to_ne_bytes()).ok();
        }
    })?;
    Ok(subjects)
}

/// A stack that is sampled before its table is there is lost, so the thread goes before those at ordinary priority. It works for
/// some milliseconds a new file.
fn hurry() {
    const NICE: libc::c_int = -10;
    // SAFETY: takes no pointers; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        tracing::debug!("unwind tables are built at normal priority: {}", io::Error::last_os_error());
    }
}

/// A panic in a parser is a bug, but one file must not end the building of all others' tables: it counts as one that cannot be
/// understood.
fn build_guarded(subject: &Subject, urgency: Urgency) -> Built {
    let name = match subject {
        Subject::Module(module) => module.name(),
        Subject::Vdso => "[vdso]",
    };
    let limits = Limits::default();
    let table = match subject {
        Subject::Module(module) => match module.file() {
            Some(file) => file.read(urgency, move |file| guarded(|| build(file, &limits))),
            None => return Built::Bad,
        },
        Subject::Vdso => match own_vdso() {
            Some(image) => Ok(guarded(|| build(image.as_slice(), &limits))),
            None => return Built::Nothing,
        },
    };
    match table {
        Ok(Some(Ok(table))) => Built::Table(Box::new(table)),
        Ok(Some(Err(Refused::NoUnwindInfo | Refused::NotElf))) => Built::Nothing,
        Ok(Some(Err(refused))) => {
            tracing::debug!("no unwind table of {name}: {refused}");
            Built::Bad
        }
        Ok(None) => {
            tracing::error!("building the unwind table of {name} panicked: please report it with the file");
            Built::Bad
        }
        Err(ReadError::Unanswered(_)) => Built::Unanswered,
        Err(ReadError::Unreadable) => Built::Bad,
    }
}

/// What `work` returns; nothing if it panics. It leaves nothing behind that anybody else sees.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_that_panics_costs_its_own_file_only() {
        assert_eq!(guarded(|| 3), Some(3));
        assert_eq!(guarded(|| -> u32 { panic!("a file that nobody thought of") }), None);
    }
}
