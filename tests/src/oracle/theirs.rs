//! framehop's walk of a copied stack. In: a process's sections and a snapshot. Out: the frames.

use framehop::Unwinder;
use framehop::x86_64::UnwindRegsX86_64;
use profiler_ebpf::unwind::USER_FRAMES;

use super::Snapshot;
use super::image::Image;

/// Walks to the end.
pub fn walk(image: &mut Image, snapshot: &Snapshot) -> Vec<u64> {
    let [pc, sp, bp] = snapshot.registers;
    let registers = UnwindRegsX86_64::new(pc, sp, bp);
    let mut read = |address| snapshot.word(address).ok_or(());
    let mut frames = image.unwinder.iter_frames(pc, registers, &mut image.cache, &mut read);
    let mut found = Vec::new();
    // A stack that cannot be walked any further ends here, whatever the reason.
    while let Ok(Some(frame)) = frames.next() {
        if found.len() == USER_FRAMES {
            break;
        }
        found.push(frame.address());
    }
    found
}
