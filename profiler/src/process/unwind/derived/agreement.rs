//! How far what instructions tell agrees with what the compiler wrote down. In: a file with call frame information. Out: shares
//! of its code, followed as if there were none.

use profiler_ebpf::unwind::Rule;
use profiler_ebpf::unwind::rule;

use super::flow::{Described, Flow};
use super::state::{Rbp, State};
use super::text::Text;
use super::{SEGMENTS_MAX, explore};
use crate::process::unwind::code::Code;
use crate::process::unwind::image::Image;
use crate::process::unwind::{Limits, Refused, Source, build};

/// Instructions of described code, by what following them told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Bytes of described code.
    pub described_bytes: u64,
    /// Bytes of it for which instructions told a rule.
    pub derived_bytes: u64,
    /// Instructions for which both have a rule.
    pub compared: u64,
    /// Those of them that lead to the same caller, with the same rbp where it is known.
    pub alike: u64,
    /// File offsets of some that do not.
    pub unlike_at: Vec<u64>,
}

/// Offsets that are kept of what is not alike.
const UNLIKE_MAX: usize = 1000;

/// Follows the code of a file as if nothing were said of it, and compares.
pub fn agreement<S: Source + ?Sized>(source: &S, limits: &Limits) -> Result<Agreement, Refused> {
    let described = build(source, &Limits { derived_instructions: 0, ..*limits })?;
    let image = Image::read(source)?;
    let code = Code::new(&image.segments)?;
    let text = Text::read(source, &image, SEGMENTS_MAX)?
        .ok_or(Refused::TooLarge { what: "bytes of segments", limit: SEGMENTS_MAX })?;
    let gaps: Vec<(u64, u64)> =
        code.gaps(std::iter::empty()).into_iter().filter_map(|gap| code.addresses(gap)).collect();
    let nothing = Described::default();
    let mut flow = Flow::new(&text, &nothing, limits.derived_instructions);
    explore(&mut flow, &image, &text, &gaps);
    let mut found = Agreement { described_bytes: described.statistics().described_bytes, ..Agreement::default() };
    for (address, visit) in flow.visits() {
        let Some(range) = code.range(address, address + u64::from(visit.length)) else { continue };
        let offset = code.offset(range.start);
        let theirs = described.rule_at(offset);
        let is_told = !described.rules()[..usize::from(rule::WELL_KNOWN)].contains(&theirs) || theirs == Rule::end();
        if !is_told || visit.state.rule().is_none() {
            continue;
        }
        found.compared += 1;
        found.derived_bytes += u64::from(visit.length);
        if leads_alike(&visit.state, theirs) {
            found.alike += 1;
        } else if found.unlike_at.len() < UNLIKE_MAX {
            found.unlike_at.push(offset);
        }
    }
    Ok(found)
}

/// Whether a rule leads where a state does: either may speak of rsp where the other speaks of rbp.
fn leads_alike(state: &State, theirs: Rule) -> bool {
    use rule::{Cfa, Rbp as Kind};
    let to = |offset: i64| i32::try_from(offset).ok();
    let cfa = match theirs.cfa() {
        kind if kind == Cfa::End as u32 => return state.outermost,
        kind if kind == Cfa::Rsp as u32 => state.depth.is_none_or(|depth| Some(depth) == to(theirs.offset())),
        kind if kind == Cfa::Rbp as u32 => match state.rbp {
            Rbp::Frame(frame) => Some(frame) == to(theirs.offset()),
            Rbp::Callers | Rbp::Other => false,
        },
        kind if kind == Cfa::Plt as u32 => state.depth.is_some_and(|depth| depth == 8 || depth == 16),
        // Where it was saved is not followed.
        _ => return true,
    };
    let rbp = match theirs.rbp_kind() {
        kind if kind == Kind::AtCfa as u32 => match state.rbp {
            // What was popped is still there for a while.
            Rbp::Callers => true,
            Rbp::Frame(_) | Rbp::Other => state.saved.map(|saved| i64::from(-saved)) == Some(theirs.rbp_offset()),
        },
        kind if kind == Kind::Unchanged as u32 => state.rbp == Rbp::Callers,
        _ => true,
    };
    cfa && rbp
}
