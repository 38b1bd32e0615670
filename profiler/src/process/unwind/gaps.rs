//! Code that no section describes and that is known by its bytes. In: the gaps between described functions. Out: the
//! places where a signal handler returns to (musl, Go), and procedure linkage tables (of linkers other than GNU's).

use memchr::memmem::Finder;
use profiler_ebpf::unwind::Rule;

use super::Source;
use super::code::{Code, Range};
use super::image::Extent;

/// Most bytes that are searched.
const SEARCHED_MAX: u64 = 64 << 20;
/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// Bytes between two gaps that are cheaper to read along than to call the kernel once more: most gaps are a few bytes between two
/// functions, and large programs have a hundred thousand.
const NEAR: u32 = 4096;

fn length(gap: Range) -> usize {
    (gap.end - gap.start) as usize
}

/// Whether a gap is read together with those before it.
fn are_near(all: Range, next: Range) -> bool {
    next.start - all.end <= NEAR && ((next.end - all.start) as usize) < CHUNK
}

/// Calls `found` with each way back from a signal: `mov $15, %rax; syscall`, in either encoding. It begins one byte before
/// its first instruction, since it is looked up as a return address. Returns bytes that were not searched.
pub(super) fn signal_returns<S: Source + ?Sized>(
    source: &S,
    code: &Code,
    gaps: impl Iterator<Item = Range>,
    mut found: impl FnMut(Range),
) -> u64 {
    // The end that both encodings share: the number of rt_sigreturn, and `syscall`.
    const NEEDLE: [u8; 6] = [15, 0, 0, 0, 0x0f, 0x05];
    const LONG: [u8; 3] = [0x48, 0xc7, 0xc0];
    const SHORT: u8 = 0xb8;
    const OVERLAP: usize = NEEDLE.len() + LONG.len();
    let finder = Finder::new(&NEEDLE);
    let (mut left, mut skipped) = (SEARCHED_MAX, 0);
    let mut chunk = vec![0; CHUNK];
    let mut search = |bytes: &[u8], start: u32, gap: Range| {
        for at in finder.find_iter(bytes) {
            let before = bytes.get(..at).unwrap_or_default();
            let first = if before.ends_with(&LONG) {
                at - LONG.len()
            } else if before.ends_with(&[SHORT]) {
                at - 1
            } else {
                continue;
            };
            let first = start + first as u32;
            found(Range { start: first.saturating_sub(1).max(gap.start), end: start + (at + NEEDLE.len()) as u32 });
        }
    };
    let mut gaps = gaps.filter(|gap| length(*gap) >= NEEDLE.len()).peekable();
    let mut group = Vec::new();
    while let Some(gap) = gaps.next() {
        group.clear();
        group.push(gap);
        let mut all = gap;
        while let Some(next) = gaps.next_if(|next| are_near(all, *next)) {
            group.push(next);
            all.end = next.end;
        }
        let mut start = all.start;
        loop {
            let part = ((all.end - start) as usize).min(CHUNK);
            let Some(bytes) = chunk.get_mut(..part) else { break };
            if left < part as u64 || source.read(code.offset(start), bytes).is_err() {
                skipped += group.iter().map(|gap| u64::from(gap.end - start.clamp(gap.start, gap.end))).sum::<u64>();
                break;
            }
            left -= part as u64;
            for gap in &group {
                // A gap that shares what is read with others lies in it whole.
                let from = gap.start.max(start);
                let within = (from - start) as usize..((gap.end - start) as usize).min(part);
                search(bytes.get(within).unwrap_or_default(), from, *gap);
            }
            if part < CHUNK {
                break;
            }
            start += (part - OVERLAP) as u32;
        }
    }
    skipped
}

/// The rule of a procedure linkage table's entries of 16 bytes, told by the second entry's first bytes.
pub(super) fn plt_rule<S: Source + ?Sized>(source: &S, plt: Extent) -> Option<Rule> {
    const ENTRY: u64 = 16;
    const JUMP_INDIRECT: [u8; 2] = [0xff, 0x25];
    const ENDBR_PUSH: [u8; 5] = [0xf3, 0x0f, 0x1e, 0xfa, 0x68];
    if plt.size < 2 * ENTRY {
        return None;
    }
    let mut entry = [0; ENTRY as usize];
    source.read(plt.offset.checked_add(ENTRY)?, &mut entry).ok()?;
    if entry.starts_with(&JUMP_INDIRECT) {
        // jmp *slot (6 bytes); push index (5): pushed from the 11th byte on.
        Some(Rule::plt(11))
    } else if entry.starts_with(&ENDBR_PUSH) {
        Some(Rule::plt(9))
    } else {
        None
    }
}
