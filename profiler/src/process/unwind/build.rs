//! From a file to its table: the functions that its sections describe are listed and sorted, what two of them claim is
//! settled, and their rows are written one after the other.

use gimli::{DebugFrame, EhFrame, LittleEndian};
use profiler_ebpf::unwind::{Rule, rule};

use super::cfi::{Interpreter, State};
use super::code::{Code, Range};
use super::frame_section::{Described, FrameSection, Kind};
use super::image::Image;
use super::section::{self, Budget};
use super::table::TableBuilder;
use super::{Limits, Refused, Source, Statistics, Table, Unsupported};
use super::{derived, gaps, go_functions};

/// Who describes a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The FDE at a position of `.eh_frame`.
    EhFrame(u32),
    /// The FDE at a position of `.debug_frame`.
    DebugFrame(u32),
    /// Known otherwise: one rule throughout.
    Known(Rule),
}

/// A function, by position.
#[derive(Debug, Clone, Copy)]
struct Function {
    range: Range,
    origin: Origin,
}

/// Builds the table of an ELF file.
pub fn build<S: Source + ?Sized>(source: &S, limits: &Limits) -> Result<Table, Refused> {
    let image = Image::read(source)?;
    build_image(source, &image, limits)
}

fn build_image<S: Source + ?Sized>(source: &S, image: &Image, limits: &Limits) -> Result<Table, Refused> {
    let code = Code::new(&image.segments)?;
    let mut budget = Budget::new(limits.section_bytes);
    let mut statistics = Statistics { code_bytes: code.bytes, ..Statistics::default() };
    let mut functions = Functions::default();

    let eh_frame = image.eh_frame.map(|extent| section::read(source, extent.extent, &mut budget)).transpose()?;
    let mut eh_frame = eh_frame.as_deref().zip(image.eh_frame).map(|(bytes, extent)| {
        (FrameSection::new(EhFrame::new(bytes, LittleEndian), bytes, extent.extent.address), extent.terminated)
    });
    if let Some((section, terminated)) = &mut eh_frame {
        functions.list(section, *terminated, &code, limits, &mut statistics, Origin::EhFrame)?;
    }
    let is_go = functions.add_go(source, image, &code, &mut budget, &mut statistics);
    // Go's own call frame information does not say where frame pointers are kept, which are what leads across its stacks.
    let debug_frame = image.debug_frame.filter(|_| !is_go);
    let debug_frame = match debug_frame.map(|extent| section::read(source, extent, &mut budget)) {
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(refused)) if functions.settled.is_empty() => return Err(refused),
        Some(Err(_)) => {
            statistics.malformed += 1;
            None
        }
        None => None,
    };
    let mut debug_frame =
        debug_frame.as_deref().map(|bytes| FrameSection::new(DebugFrame::new(bytes, LittleEndian), bytes, 0));
    if let Some(section) = &mut debug_frame {
        functions.list(section, false, &code, limits, &mut statistics, Origin::DebugFrame)?;
    }
    functions.add_known(source, image, &code, &mut statistics);
    if !is_go {
        functions.add_derived(source, image, &code, limits, &mut statistics)?;
    }
    if functions.settled.is_empty() {
        return Err(Refused::NoUnwindInfo);
    }

    let mut writer = Writer {
        table: TableBuilder::new(code.first_page()?, limits),
        interpreter: Interpreter::new(limits.instructions),
        statistics,
    };
    let mut functions = functions.settled.iter().peekable();
    while let Some(function) = functions.next() {
        match function.origin {
            Origin::EhFrame(entry) => {
                writer.function(eh_frame.as_mut().map(|(section, _)| section), function.range, entry)?;
            }
            Origin::DebugFrame(entry) => writer.function(debug_frame.as_mut(), function.range, entry)?,
            Origin::Known(rule) => writer.known(function.range, rule)?,
        }
        let next = functions.peek().map(|next| next.range.start);
        if next.is_none_or(|next| !is_padding(function.range.end, next)) {
            writer.table.row(function.range.end, rule::NO_INFO)?;
        }
    }
    Ok(writer.finish())
}

/// Whether there is nothing between two functions but what aligns the second. No instruction there is ever run, so what
/// the first one ends with may hold there too, and a row is saved.
fn is_padding(end: u32, next: u32) -> bool {
    const LARGEST_ALIGNMENT: u32 = 6;
    next - end < 1 << next.trailing_zeros().min(LARGEST_ALIGNMENT)
}

/// Functions, sorted and without overlap.
#[derive(Debug, Default)]
struct Functions {
    settled: Vec<Function>,
}

impl Functions {
    /// Adds what a section describes, where nothing added before says anything.
    fn list<'d, K: Kind<'d>>(
        &mut self,
        section: &mut FrameSection<'d, K>,
        terminated: bool,
        code: &Code,
        limits: &Limits,
        statistics: &mut Statistics,
        origin: impl Fn(u32) -> Origin,
    ) -> Result<(), Refused> {
        let mut found = Vec::new();
        section.describe(terminated, limits, |Described { start, end, entry }| {
            statistics.functions += 1;
            match code.range(start, end) {
                Some(range) => found.push(Function { range, origin: origin(entry) }),
                None => statistics.functions_outside += 1,
            }
            Ok(())
        })?;
        statistics.malformed += section.malformed;
        statistics.functions_hidden += self.add(found);
        Ok(())
    }

    /// Adds the functions of Go that nobody calls. Returns whether there is a table of Go's functions.
    fn add_go<S: Source + ?Sized>(
        &mut self,
        source: &S,
        image: &Image,
        code: &Code,
        budget: &mut Budget,
        statistics: &mut Statistics,
    ) -> bool {
        let Some(extent) = image.go_functions else { return false };
        let mut found = Vec::new();
        let text = image.text.map_or(0, |text| text.address);
        let listed = section::read(source, extent, budget).ok().and_then(|table| {
            go_functions::top_frames(&table, text, |start, end| {
                if let Some(range) = code.range(start, end) {
                    found.push(Function { range, origin: Origin::Known(Rule::end()) });
                }
            })
        });
        statistics.malformed += u64::from(listed.is_none());
        statistics.top_frames = found.len() as u64;
        self.add(found);
        listed.is_some()
    }

    /// Adds code that is known by its bytes, as far as nothing else is said of it.
    fn add_known<S: Source + ?Sized>(&mut self, source: &S, image: &Image, code: &Code, statistics: &mut Statistics) {
        if let Some(plt) = image.plt
            && let Some(range) = code.range(plt.address, plt.address.saturating_add(plt.size))
            && let Some(rule) = gaps::plt_rule(source, plt)
        {
            self.add(vec![Function { range, origin: Origin::Known(rule) }]);
        }
        // Signal handlers return through the C library, or through what a static program or Go's runtime has of its own. Large programs
        // are spared a search of all their code.
        if image.names_loader && image.go_functions.is_none() {
            return;
        }
        let mut found = Vec::new();
        let undescribed = code.gaps(self.settled.iter().map(|function| function.range));
        statistics.unsearched_bytes = gaps::signal_returns(source, code, undescribed.into_iter(), |range| {
            found.push(Function { range, origin: Origin::Known(Rule::signal()) });
        });
        statistics.signal_returns = found.len() as u64;
        self.add(found);
    }

    /// Adds rows of code of which nothing is said so far, as its instructions tell.
    fn add_derived<S: Source + ?Sized>(
        &mut self,
        source: &S,
        image: &Image,
        code: &Code,
        limits: &Limits,
        statistics: &mut Statistics,
    ) -> Result<(), Refused> {
        let mut found = Vec::new();
        let described = self.settled.iter().map(|function| function.range);
        let outcome = derived::rows(source, image, code, described, limits.derived_instructions, |range, rule| {
            found.push(Function { range, origin: Origin::Known(rule) });
        })?;
        statistics.derived_bytes = outcome.derived_bytes;
        statistics.derived_cut_off = outcome.cut_off;
        self.add(found);
        Ok(())
    }

    /// Returns how many were hidden by others.
    fn add(&mut self, mut found: Vec<Function>) -> u64 {
        let all = found.len();
        // Stable: of two that begin at the same address the one described first counts.
        found.sort_by_key(|function| function.range.start);
        found.dedup_by_key(|function| function.range.start);
        // As whoever looks addresses up in .eh_frame_hdr would find them: a function ends where the next begins.
        let starts: Vec<u32> = found.iter().skip(1).map(|function| function.range.start).collect();
        for (function, next) in found.iter_mut().zip(starts) {
            function.range.end = function.range.end.min(next);
        }
        if !self.settled.is_empty() {
            found.retain(|function| !self.overlaps(function.range));
        }
        let hidden = all - found.len();
        let merge = !self.settled.is_empty() && !found.is_empty();
        self.settled.append(&mut found);
        if merge {
            self.settled.sort_by_key(|function| function.range.start);
        }
        hidden as u64
    }

    fn overlaps(&self, range: Range) -> bool {
        let after = self.settled.partition_point(|function| function.range.end <= range.start);
        self.settled.get(after).is_some_and(|function| function.range.start < range.end)
    }
}

/// Writes functions, in order.
struct Writer {
    table: TableBuilder,
    interpreter: Interpreter,
    statistics: Statistics,
}

impl Writer {
    fn function<'d, K: Kind<'d>>(
        &mut self,
        section: Option<&mut FrameSection<'d, K>>,
        range: Range,
        entry: u32,
    ) -> Result<(), Refused> {
        let Some(section) = section else { return Ok(()) };
        let Self { table, interpreter, statistics } = self;
        statistics.described_bytes += u64::from(range.end - range.start);
        let mut first = None;
        section.rows(entry, interpreter, |address, state: &State| {
            let skipped = address - *first.get_or_insert(address);
            // Past the end where another function begins inside this one, or the segment ends.
            let position = u32::try_from(skipped).ok().and_then(|skipped| range.start.checked_add(skipped));
            let Some(position) = position.filter(|position| *position < range.end) else { return Ok(()) };
            statistics.rows_described += 1;
            let index = match state.rule() {
                Ok(rule) => table.index(rule),
                Err(why) => {
                    statistics.count(why, 1);
                    rule::UNSUPPORTED
                }
            };
            table.row(position, index)
        })
    }

    fn known(&mut self, range: Range, rule: Rule) -> Result<(), Refused> {
        self.statistics.described_bytes += u64::from(range.end - range.start);
        self.statistics.rows_described += 1;
        let index = self.table.index(rule);
        self.table.row(range.start, index)
    }

    fn finish(mut self) -> Table {
        self.statistics.malformed += self.interpreter.broken;
        self.statistics.count(Unsupported::TooManyRules, self.table.rules_refused);
        self.table.finish(self.statistics)
    }
}
