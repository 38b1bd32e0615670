//! Any bytes as tables, mappings, registers and stack: the walk ends within its frames, with a reason, whatever they say.

use profiler_ebpf::unwind::lookup::{Lookup, Segments};
use profiler_ebpf::unwind::storage::{PLACE_BITS, TableEntry};
use profiler_ebpf::unwind::walk::walk_all;
use profiler_ebpf::unwind::{Memory, USER_FRAMES, Walk};

/// Words that stand for everything: segments, tables, rules and the stack. What lies beyond repeats from the start, so
/// that addresses of any size lead somewhere.
#[derive(Clone, Copy)]
struct Words<'d>(&'d [u8]);

impl Words<'_> {
    fn long(self, at: u64) -> u64 {
        let at = (at % (self.0.len() as u64 - 7)) as usize;
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(word)
    }
}

impl Segments for Words<'_> {
    type Segment = u32;

    fn segment(&self, number: u32) -> Option<u32> {
        (number < 4).then_some(number)
    }

    fn word(&self, segment: u32, place: u32) -> u32 {
        Words::long(*self, u64::from(segment) + 4 * u64::from(place & ((1 << PLACE_BITS) - 1))) as u32
    }

    fn long(&self, segment: u32, place: u32) -> u64 {
        Words::long(*self, u64::from(segment) + 4 * u64::from(place & ((1 << PLACE_BITS) - 1)))
    }

    fn table(&self, number: u32) -> Option<TableEntry> {
        let at = 16 * u64::from(number);
        let (low, high) = (Words::long(*self, at), Words::long(*self, at + 8));
        Some(TableEntry {
            state: (low & 3) as u32,
            directory: (low >> 32) as u32,
            first_page: high as u32,
            pages: (high >> 32) as u32,
        })
    }

    fn rule(&self, index: u16) -> Option<u64> {
        (index < 0x8000).then(|| Words::long(*self, 8 * u64::from(index)))
    }
}

impl Memory for Words<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        (address != u64::MAX).then(|| self.long(address))
    }
}

/// Runs one input: five words of registers and mappings, then the words of everything else.
pub fn run(data: &[u8]) {
    const HEAD: usize = 32;
    if data.len() < HEAD + 16 {
        return;
    }
    let (head, rest) = data.split_at(HEAD);
    let head = Words(head);
    let mut words = Words(rest);
    let place = head.long(24);
    let mut tables = Lookup::new(words, place as u32, (place >> 32) as u32);
    let mut walk = Walk::from_registers(head.long(0), head.long(8), head.long(16));
    let mut frames = [0; USER_FRAMES];
    let (count, stop) = walk_all(&mut walk, &mut words, &mut tables, &mut frames);
    assert!((1..=USER_FRAMES).contains(&count));
    assert!(!stop.name().is_empty());
    assert_eq!(frames[0], head.long(0));
}
