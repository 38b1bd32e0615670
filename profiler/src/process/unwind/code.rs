//! Where a file's code lies. In: its segments. Out: for virtual addresses, positions: bytes from the first byte of the
//! table's first page, which is how rows are numbered.

use profiler_ebpf::unwind::storage::{PAGE_BITS, PAGES};

use super::Refused;
use super::image::Segment;

/// The executable segments of a file.
#[derive(Debug)]
pub(super) struct Code {
    segments: Vec<Segment>,
    /// File offset of the first page.
    base: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A run of code, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub start: u32,
    pub end: u32,
}

impl Code {
    /// Code further than 1 GiB apart in its file, for which a table has no pages, is refused.
    pub fn new(segments: &[Segment]) -> Result<Self, Refused> {
        let segments: Vec<Segment> = segments.iter().copied().filter(|segment| segment.executable).collect();
        let start = segments.iter().map(|segment| segment.offset).min().ok_or(Refused::NoUnwindInfo)?;
        let end = segments.iter().map(|segment| segment.offset.saturating_add(segment.file_size)).max().unwrap_or(0);
        let base = start >> PAGE_BITS << PAGE_BITS;
        let limit = u64::from(PAGES) << PAGE_BITS;
        if end - base > limit {
            return Err(Refused::TooLarge { what: "bytes of code", limit });
        }
        let bytes = segments.iter().map(|segment| segment.file_size).fold(0, u64::saturating_add);
        Ok(Self { segments, base, bytes })
    }

    /// Number of the first page.
    pub fn first_page(&self) -> Result<u32, Refused> {
        u32::try_from(self.base >> PAGE_BITS).map_err(|_| Refused::TooLarge { what: "file offset", limit: 1 << 48 })
    }

    /// The positions of a run of addresses, cut at the end of its segment.
    pub fn range(&self, start: u64, end: u64) -> Option<Range> {
        let segment = self.segments.iter().find(|segment| (segment.address..segment.end()).contains(&start))?;
        let end = end.min(segment.end());
        let position = |address: u64| u32::try_from(address - segment.address + segment.offset - self.base).ok();
        Some(Range { start: position(start)?, end: position(end)? }).filter(|range| range.start < range.end)
    }

    /// The addresses of a run of code.
    pub fn addresses(&self, range: Range) -> Option<(u64, u64)> {
        let offset = self.offset(range.start);
        let holds = |segment: &&Segment| offset >= segment.offset && offset - segment.offset < segment.file_size;
        let segment = self.segments.iter().find(holds)?;
        let start = segment.address + (offset - segment.offset);
        Some((start, start + u64::from(range.end - range.start)))
    }

    /// The file offset of a position.
    pub fn offset(&self, position: u32) -> u64 {
        self.base + u64::from(position)
    }

    /// What lies between `described` runs, which ascend and do not overlap.
    pub fn gaps(&self, described: impl Iterator<Item = Range>) -> Vec<Range> {
        let mut segments: Vec<Range> =
            self.segments.iter().filter_map(|segment| self.range(segment.address, segment.end())).collect();
        segments.sort_unstable_by_key(|range| range.start);
        let mut described = described.peekable();
        let mut gaps = Vec::new();
        for segment in segments {
            let mut at = segment.start;
            while let Some(run) = described.next_if(|run| run.start < segment.end) {
                if at < run.start {
                    gaps.push(Range { start: at, end: run.start });
                }
                at = at.max(run.end);
            }
            if at < segment.end {
                gaps.push(Range { start: at, end: segment.end });
            }
        }
        gaps
    }
}
