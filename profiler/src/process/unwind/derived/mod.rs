//! Rows of code that nothing describes, found by following what each instruction does to rsp and rbp. In: an image and the
//! gaps between its described functions. Out: runs of code, each with its rule.
//!
//! This is for programs built without call frame information and without frame pointers (Debian's static busybox, musl's
//! library): elsewhere the frame pointer leads on. What cannot be told gets no rule, and is taken by the frame pointer as before;
//! and nothing here ever speaks of code that is described.
//!
//! Functions begin where the image is entered, where calls lead, where words of data point, and behind the end of others; the
//! last two only if following them makes sense: every return must be reached with the stack as it was.

mod agreement;
mod by_address;
mod flow;
mod jump_table;
mod state;
mod text;

use memchr::memmem;
use profiler_ebpf::unwind::Rule;

pub use agreement::{Agreement, agreement};
use flow::{Described, Flow, Proof};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};
use state::State;
use text::Text;

use super::code::{Code, Range};
use super::image::Image;
use super::{Refused, Source};

/// Less code than this is not worth it: what every program's start is made of.
const LEAST_BYTES: u64 = 4 << 10;
/// Segments are read whole, up to this.
const SEGMENTS_MAX: u64 = 16 << 20;
/// Code that keeps a frame pointer at least once in so many bytes is led through by that.
const FRAME_POINTER_BYTES: u64 = 2 << 10;

/// Where compilers begin most functions.
const FUNCTION_ALIGNMENT: u64 = 16;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Bytes of code that a rule was found for.
    pub derived_bytes: u64,
    /// Whether the limit ended it early.
    pub cut_off: bool,
}

/// Calls `found` with runs of code and their rules. Follows `instructions` at most.
pub(super) fn rows<S: Source + ?Sized>(
    source: &S,
    image: &Image,
    code: &Code,
    described: impl Iterator<Item = Range> + Clone,
    instructions: u64,
    mut found: impl FnMut(Range, Rule),
) -> Result<Outcome, Refused> {
    let mut outcome = Outcome::default();
    let gaps = code.gaps(described.clone());
    let open: u64 = gaps.iter().map(|gap| u64::from(gap.end - gap.start)).sum();
    if instructions == 0 || open < LEAST_BYTES {
        return Ok(outcome);
    }
    let Some(text) = Text::read(source, image, SEGMENTS_MAX)? else { return Ok(outcome) };
    let gaps: Vec<(u64, u64)> = gaps.iter().filter_map(|gap| code.addresses(*gap)).collect();
    if keeps_frame_pointers(&text, &gaps, open) {
        return Ok(outcome);
    }
    let described = Described(described.filter_map(|range| code.addresses(range)).collect());
    let mut flow = Flow::new(&text, &described, instructions);
    explore(&mut flow, image, &text, &gaps);
    outcome.cut_off = flow.is_exhausted();
    let mut visits: Vec<_> =
        flow.visits().filter_map(|(address, visit)| Some((address, visit.length, visit.state.rule()?))).collect();
    visits.sort_unstable_by_key(|(address, ..)| *address);
    let mut runs = visits.into_iter().peekable();
    while let Some((start, length, rule)) = runs.next() {
        let mut end = start + u64::from(length);
        while let Some((_, length, _)) = runs.next_if(|(next, _, other)| *next == end && *other == rule) {
            end += u64::from(length);
        }
        // Ways that decode the same bytes differently: the one that begins first counts.
        while runs.next_if(|(next, ..)| *next < end).is_some() {}
        if let Some(range) = code.range(start, end) {
            outcome.derived_bytes += end - start;
            found(range, rule);
        }
    }
    Ok(outcome)
}

fn explore(flow: &mut Flow, image: &Image, text: &Text, gaps: &[(u64, u64)]) {
    // Libraries have no entry.
    if image.entry != 0 {
        flow.explore(image.entry, State::OUTERMOST);
        flow.read_described(image.entry);
    }
    flow.guess_loaded();
    for word in text.data_words() {
        if flow.is_open(word) && !flow.is_reached(word) {
            flow.guess(word, State::ENTRY, Proof::Returns);
            flow.guess_loaded();
        }
    }
    // What nothing that was seen leads to: called through pointers that are computed, or behind what never returns.
    for (start, end) in gaps {
        let mut address = *start;
        while let Some(next) = first_unreached(flow, text, address, *end) {
            if next.is_multiple_of(FUNCTION_ALIGNMENT) || flow.begins_function(next) {
                flow.guess(next, State::ENTRY, Proof::Returns);
            }
            if !flow.is_reached(next) {
                let state = flow.state_before(next).unwrap_or(State::ENTRY);
                flow.guess(next, state, Proof::Returns);
            }
            flow.guess_loaded();
            address = if flow.is_reached(next) { next } else { behind_end(text, next, *end) };
            if flow.is_exhausted() {
                return;
            }
        }
    }
}

/// The next instruction that was not reached, other than what aligns code.
fn first_unreached(flow: &Flow, text: &Text, from: u64, end: u64) -> Option<u64> {
    let mut address = from;
    while address < end {
        if let Some(visit) = flow.visit(address) {
            address += u64::from(visit.length.max(1));
            continue;
        }
        let code = text.code(address)?;
        let code = code.get(..(end - address) as usize).unwrap_or(code);
        let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
        let is_padding = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) || code.starts_with(&[0, 0]);
        if !is_padding && !instruction.is_invalid() {
            return Some(address);
        }
        address += if instruction.is_invalid() { 1 } else { instruction.len() as u64 };
    }
    None
}

/// The first address behind an instruction that nothing runs past, or `end`.
fn behind_end(text: &Text, from: u64, end: u64) -> u64 {
    let code = text.code(from).unwrap_or_default();
    let code = code.get(..(end - from) as usize).unwrap_or(code);
    for instruction in Decoder::with_ip(64, code, from, DecoderOptions::NONE) {
        let ends = [FlowControl::Return, FlowControl::UnconditionalBranch, FlowControl::IndirectBranch];
        if instruction.is_invalid() || ends.contains(&instruction.flow_control()) {
            return instruction.next_ip();
        }
    }
    end
}

fn keeps_frame_pointers(text: &Text, gaps: &[(u64, u64)], open: u64) -> bool {
    const KEEPS: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];
    let finder = memmem::Finder::new(&KEEPS);
    let bytes = |(start, end): &(u64, u64)| text.code(*start).and_then(|code| code.get(..(end - start) as usize));
    let kept: usize = gaps.iter().filter_map(bytes).map(|code| finder.find_iter(code).count()).sum();
    kept as u64 * FRAME_POINTER_BYTES > open
}
