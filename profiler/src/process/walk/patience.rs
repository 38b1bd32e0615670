//! What takes the kernel's time: a change to its map of maps and the end of its programs are waited for some ten milliseconds
//! each. The thread that follows processes cannot wait so long, for others live and die meanwhile; this one does it instead.
//! In: new segments, extents out of use. Out: extents that may be given away.

use std::{io, os::fd::OwnedFd, sync::Arc};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::lists::Unused;
use crate::kernel::{Announcement, GracePeriod};

enum Task {
    Announce(Announcement),
    Retire(GracePeriod, Vec<Unused>),
}

/// Handle on the thread. It ends with what it has in hand when it is dropped.
#[derive(Debug)]
pub struct Patience {
    tasks: Sender<Task>,
    over: Receiver<Vec<Unused>>,
    /// Batches whose grace period is not over.
    under_way: usize,
}

impl Patience {
    /// Starts the thread, which rings the bell whenever it has done something.
    pub fn spawn(bell: &Arc<OwnedFd>) -> io::Result<Self> {
        let (tasks, inbox) = unbounded();
        let (answers, over) = unbounded();
        let bell = bell.clone();
        std::thread::Builder::new().name("unwind-grace".into()).spawn(move || run(&inbox, &answers, &bell))?;
        Ok(Self { tasks, over, under_way: 0 })
    }

    /// Lets the programs find a segment soon.
    pub fn announce(&self, announcement: Announcement) {
        // The thread ends after its handle only.
        self.tasks.send(Task::Announce(announcement)).ok();
    }

    /// Has the programs' end waited for; then [`Self::take`] gives it back.
    pub fn retire(&mut self, grace: GracePeriod, unused: Vec<Unused>) {
        self.under_way += usize::from(self.tasks.send(Task::Retire(grace, unused)).is_ok());
    }

    /// What no program reads any more.
    pub fn take(&mut self) -> Option<Vec<Unused>> {
        let unused = self.over.try_recv().ok()?;
        self.under_way -= 1;
        Some(unused)
    }

    /// Whether a grace period is being waited for.
    pub fn is_waiting(&self) -> bool {
        self.under_way > 0
    }
}

fn run(inbox: &Receiver<Task>, answers: &Sender<Vec<Unused>>, bell: &Arc<OwnedFd>) {
    while let Ok(first) = inbox.recv() {
        let (mut announcements, mut retired) = (Vec::new(), Vec::new());
        for task in std::iter::once(first).chain(inbox.try_iter()) {
            match task {
                Task::Announce(announcement) => announcements.push(announcement),
                Task::Retire(grace, unused) => retired.push((grace, unused)),
            }
        }
        // Segments go first: tables lie in them already.
        if let Err(error) = Announcement::make(&announcements) {
            tracing::warn!("no stack is walked by some unwind tables: {error}");
        }
        if let Some((grace, _)) = retired.first() {
            grace.wait();
        }
        for (_, unused) in retired {
            if answers.send(unused).is_err() {
                return;
            }
        }
        // It fails only when the counter is full, and then the other thread is awake anyway.
        rustix::io::write(&**bell, &1_u64.to_ne_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::{kernel::UnwindMaps, process::walk::places::Extent};

    #[test]
    fn what_is_retired_comes_back_once_and_rings() -> Result<(), Box<dyn std::error::Error>> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let mut patience = Patience::spawn(&bell)?;
        let mut maps = UnwindMaps::in_memory()?;
        let (number, announcement) = maps.add_segment()?;
        assert!(!maps.is_announced(number));
        patience.announce(announcement);
        let unused = |place| Unused { extent: Extent { place, words: 8 }, tables: vec![place] };
        patience.retire(maps.grace_period(), vec![unused(0)]);
        patience.retire(maps.grace_period(), vec![unused(8), unused(16)]);
        let (mut back, began) = (Vec::new(), Instant::now());
        while patience.is_waiting() && began.elapsed() < Duration::from_secs(10) {
            back.extend(patience.take().into_iter().flatten().map(|unused| unused.extent.place));
        }
        back.sort_unstable();
        assert_eq!(back, [0, 8, 16]);
        assert!(maps.is_announced(number));
        assert_eq!(rustix::io::read(&*bell, &mut [0_u8; 8])?, 8);
        Ok(())
    }
}
