//! The thread that looks up names. In: locations. Out: frames, remembered up to a limit.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use rustc_hash::FxHashMap;

use super::jit_names::JitNames;
use super::kernel::{KernelSymbols, PROGRAMS};
use super::name::{NAME_MAX, is_cut};
use super::user::{Binaries, BinaryFile};
use super::{Options, ResolvedFrame, ResolvedFrames, SymbolCounters, Unresolved, foreign, vdso};
use crate::process::{Location, ModuleId};
use crate::profile::FrameKind;

/// Stands for the vDSO among the modules.
const VDSO: u32 = u32::MAX;

#[derive(Debug)]
pub(super) enum Request {
    Resolve(Vec<Location>, Sender<Vec<ResolvedFrames>>),
    Counters(Sender<SymbolCounters>),
    WarmUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Module(ModuleId, u64),
    Vdso(u64),
    Kernel(u64),
}

pub(super) struct Worker {
    binaries: Binaries,
    kernel: KernelSymbols,
    jit_names: JitNames,
    vdso: OnceCell<Option<File>>,
    cache: Cache,
    resolved: u64,
    unresolved: BTreeMap<&'static str, u64>,
    /// Names that were cut.
    cut: u64,
}

impl Worker {
    pub(super) fn new(options: Options) -> Self {
        Self {
            binaries: Binaries::new(options.lines, options.image_bytes),
            kernel: KernelSymbols::new("/proc/kallsyms"),
            jit_names: JitNames::new(),
            vdso: OnceCell::new(),
            cache: Cache::new(options.cached_addresses),
            resolved: 0,
            unresolved: BTreeMap::new(),
            cut: 0,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Request>) {
        for request in inbox {
            match request {
                Request::Resolve(locations, reply) => {
                    self.jit_names.begin_batch();
                    reply.send(self.resolve_all(&locations)).ok();
                    self.binaries.put_away_idle();
                }
                Request::WarmUp => self.kernel.warm_up(),
                Request::Counters(reply) => {
                    reply.send(self.counters()).ok();
                }
            }
        }
    }

    fn counters(&self) -> SymbolCounters {
        let mut notes = Vec::new();
        if self.kernel.hidden() {
            let note = "kernel functions have no names: /proc/kallsyms hides its addresses; \
                        run with CAP_SYSLOG and sysctl kernel.kptr_restrict=1 or 0";
            notes.push(note.into());
        }
        if self.cut > 0 {
            notes.push(format!(
                "{} function names are cut: they are longer than {NAME_MAX} bytes (each ends with a checksum of the whole)",
                self.cut
            ));
        }
        SymbolCounters { resolved: self.resolved, unresolved: self.unresolved.clone(), notes }
    }

    /// One binary after the other, whatever the order of the locations: large ones push each other out of memory.
    fn resolve_all(&mut self, locations: &[Location]) -> Vec<ResolvedFrames> {
        let mut order: Vec<usize> = (0..locations.len()).collect();
        order.sort_by_key(|position| match &locations[*position] {
            Location::Module { module, .. } => module.id().0,
            Location::Vdso { .. } | Location::Anonymous { .. } | Location::Kernel { .. } | Location::Unknown { .. } => {
                u32::MAX
            }
        });
        let mut resolved: Vec<(usize, ResolvedFrames)> =
            order.into_iter().map(|position| (position, self.resolve(&locations[position]))).collect();
        resolved.sort_by_key(|(position, _)| *position);
        resolved.into_iter().map(|(_, frames)| frames).collect()
    }

    fn resolve(&mut self, location: &Location) -> ResolvedFrames {
        let key = match location {
            Location::Module { module, offset } => Some(Key::Module(module.id(), offset.0)),
            Location::Vdso { offset } => Some(Key::Vdso(*offset)),
            Location::Kernel { address } => Some(Key::Kernel(*address)),
            Location::Anonymous { .. } | Location::Unknown { .. } => None,
        };
        if let Some(key) = key
            && let Some((frames, reason)) = self.cache.get(&key)
        {
            self.count(reason);
            return frames;
        }
        let (frames, reason) = match self.look_up(location) {
            Ok(frames) => (frames, None),
            Err(reason) => (unnamed(location, reason), Some(reason)),
        };
        self.count(reason);
        self.cut += frames.iter().filter(|frame| is_cut(&frame.function)).count() as u64;
        // The kernel's programs come and go: a name there, or its absence, holds only for now.
        let kernel = matches!(location, Location::Kernel { .. });
        let settled = !kernel || reason.is_none() && *frames[0].module != *PROGRAMS;
        // What does not answer may do so later.
        let settled = settled && reason != Some(Unresolved::Unanswered);
        if let Some(key) = key.filter(|_| settled) {
            self.cache.insert(key, (frames.clone(), reason));
        }
        frames
    }

    fn count(&mut self, reason: Option<Unresolved>) {
        match reason {
            None => self.resolved += 1,
            Some(reason) => *self.unresolved.entry(reason.reason()).or_default() += 1,
        }
    }

    fn look_up(&mut self, location: &Location) -> Result<ResolvedFrames, Unresolved> {
        match location {
            Location::Module { module, offset } => {
                // What was written to it since names others.
                if module.file().is_some() && !self.binaries.is_ready(module.id().0) && !module.is_unchanged() {
                    return Err(Unresolved::NoFile);
                }
                // What is known already is not asked for.
                let load = |options, debug: &Path, may| foreign::gather(module, options, debug, may);
                self.binaries.find_in(module.id().0, &module.name().into(), offset.0, load)
            }
            Location::Vdso { offset } => {
                let file = self.vdso.get_or_init(vdso::dump).as_ref().ok_or(Unresolved::NoFile)?;
                let source = BinaryFile { file, path: Path::new("[vdso]"), root: None };
                self.binaries.find(VDSO, &"[vdso]".into(), source, *offset)
            }
            Location::Anonymous { address, perf_maps, .. } => {
                let name = self.jit_names.find(*address, &perf_maps.files())?;
                Ok(one(name, "[jit]".into(), FrameKind::User))
            }
            Location::Kernel { address } => {
                let (name, module) = self.kernel.find(*address)?;
                Ok(one(name.into(), module, FrameKind::Kernel))
            }
            Location::Unknown { .. } => Err(Unresolved::Unmapped),
        }
    }
}

fn one(function: Arc<str>, module: Arc<str>, kind: FrameKind) -> ResolvedFrames {
    [ResolvedFrame { function, module, kind, file: "".into(), line: 0, unresolved: None }].into()
}

/// `[module+0xoffset]`, never a guess.
pub(super) fn unnamed(location: &Location, reason: Unresolved) -> ResolvedFrames {
    let (module, at, kind) = match location {
        Location::Module { module, offset } => (module.name(), offset.0, FrameKind::Unresolved),
        Location::Vdso { offset } => ("vdso", *offset, FrameKind::Unresolved),
        Location::Anonymous { address, .. } => ("jit", *address, FrameKind::Unresolved),
        Location::Kernel { address } => ("kernel", *address, FrameKind::Kernel),
        Location::Unknown { address } => ("unknown", *address, FrameKind::Unresolved),
    };
    let shown = match location {
        Location::Module { .. } => module.into(),
        Location::Unknown { .. } => "".into(),
        _ => format!("[{module}]").into(),
    };
    let function = format!("[{module}+{at:#x}]").into();
    let unresolved = Some(reason.reason());
    [ResolvedFrame { function, module: shown, kind, file: "".into(), line: 0, unresolved }].into()
}

type Answer = (ResolvedFrames, Option<Unresolved>);

/// Most bytes of names in each half of the cache.
const HALF_BYTES: usize = 12 << 20;

/// Two halves: when the younger is full the older is dropped; what is asked for moves to the younger.
struct Cache {
    half: usize,
    young: FxHashMap<Key, Answer>,
    /// Bytes of names in it.
    young_bytes: usize,
    old: FxHashMap<Key, Answer>,
}

impl Cache {
    fn new(limit: usize) -> Self {
        Self { half: (limit / 2).max(1), young: FxHashMap::default(), young_bytes: 0, old: FxHashMap::default() }
    }

    fn get(&mut self, key: &Key) -> Option<Answer> {
        if let Some(answer) = self.young.get(key) {
            return Some(answer.clone());
        }
        let answer = self.old.remove(key)?;
        self.insert(*key, answer.clone());
        Some(answer)
    }

    fn insert(&mut self, key: Key, answer: Answer) {
        if self.young.len() >= self.half || self.young_bytes >= HALF_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes_of(&answer.0);
        self.young.insert(key, answer);
    }
}

fn bytes_of(frames: &[ResolvedFrame]) -> usize {
    frames.iter().map(|frame| size_of::<ResolvedFrame>() + frame.function.len() + frame.file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_is_asked_for_and_stays_bounded() {
        let mut cache = Cache::new(8);
        let answer = || (unnamed(&Location::Kernel { address: 1 }, Unresolved::NoSymbol), None);
        cache.insert(Key::Kernel(0), answer());
        for address in 1..100 {
            cache.insert(Key::Kernel(address), answer());
            assert!(cache.get(&Key::Kernel(0)).is_some());
            assert!(cache.young.len() + cache.old.len() <= 9);
        }
        assert!(cache.get(&Key::Kernel(50)).is_none());
    }

    #[test]
    fn long_names_push_each_other_out_of_the_cache() {
        let mut cache = Cache::new(1 << 20);
        for address in 0..100_000 {
            let name = "n".repeat(NAME_MAX);
            cache.insert(Key::Kernel(address), (one(name.into(), "".into(), FrameKind::Kernel), None));
        }
        let kept: usize = cache.young.values().chain(cache.old.values()).map(|(frames, _)| bytes_of(frames)).sum();
        assert!(kept <= 2 * HALF_BYTES + 4 * NAME_MAX, "{kept}");
        assert!(cache.get(&Key::Kernel(99_999)).is_some());
    }

    #[test]
    fn frames_without_names_say_where_they_are() {
        let frames = unnamed(&Location::Unknown { address: 0x1234 }, Unresolved::Unmapped);
        assert_eq!((&*frames[0].function, &*frames[0].module), ("[unknown+0x1234]", ""));
        let frames = unnamed(&Location::Kernel { address: 0x1234 }, Unresolved::KernelHidden);
        assert!(!frames[0].is_named() && frames[0].kind == FrameKind::Kernel);
    }
}
