//! Addresses in files. In: an open file, untrusted, and an offset in it. Out: the function there, and on request its
//! file, line and inlined functions.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blazesym::symbolize::evict::{Elf as EvictElf, Evict};
use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer as Engine};
use rustc_hash::FxHashMap;

use super::elf::{CopyOptions, ElfCopy};
use super::{ResolvedFrame, ResolvedFrames, Unresolved};
use crate::profile::FrameKind;

/// Most bytes taken of one file for names.
const NAMES_LIMIT: u64 = 256 << 20;

/// Most bytes taken of one file for lines.
const LINES_LIMIT: u64 = 1 << 30;

/// Binaries kept ready at a time; each takes a few descriptors.
const READY_LIMIT: usize = 64;

/// Files remembered as unusable; after that they are tried again.
const UNUSABLE_LIMIT: usize = 4096;

/// Where distributions put separate symbols.
const DEBUG_ROOT: &str = "/usr/lib/debug";

#[derive(Debug)]
struct Binary {
    /// The file itself, then its separate symbols, if there are any.
    copies: Vec<ElfCopy>,
    used: u64,
}

impl Binary {
    fn bytes(&self) -> u64 {
        self.copies.iter().map(ElfCopy::bytes).sum()
    }
}

/// What is known of binaries, by a key of the caller's.
#[derive(Debug)]
pub(crate) struct Binaries {
    engine: Engine,
    lines: bool,
    limit_bytes: u64,
    debug_root: PathBuf,
    ready: FxHashMap<u32, Binary>,
    unusable: FxHashMap<u32, Unresolved>,
    clock: u64,
}

impl Binaries {
    pub(crate) fn new(lines: bool, limit_bytes: u64) -> Self {
        Self {
            engine: new_engine(lines),
            lines,
            limit_bytes,
            debug_root: DEBUG_ROOT.into(),
            ready: FxHashMap::default(),
            unusable: FxHashMap::default(),
            clock: 0,
        }
    }

    /// The frames at an offset of a file.
    pub(crate) fn find(&mut self, key: u32, name: &Arc<str>, file: &File, at: u64) -> Result<ResolvedFrames, Unresolved> {
        if let Some(reason) = self.unusable.get(&key) {
            return Err(*reason);
        }
        if !self.ready.contains_key(&key)
            && let Err(reason) = self.load(key, file)
        {
            if self.unusable.len() >= UNUSABLE_LIMIT {
                self.unusable.clear();
            }
            self.unusable.insert(key, reason);
            return Err(reason);
        }
        self.clock += 1;
        let Some(binary) = self.ready.get_mut(&key) else { return Err(Unresolved::ParserFailed) };
        binary.used = self.clock;
        let address = binary.copies.first().and_then(|copy| copy.virtual_address(at)).ok_or(Unresolved::NoSymbol)?;
        let stripped = binary.copies.iter().all(|copy| copy.functions() == 0);
        // The parser is other people's code over other people's data: it may fail, but not take the recording with it.
        let (engine, lines) = (&self.engine, self.lines);
        let looked_up = catch_unwind(AssertUnwindSafe(|| {
            binary.copies.iter().find_map(|copy| look_up(engine, copy, lines, address, name))
        }));
        match looked_up {
            Ok(Some(frames)) => Ok(frames),
            Ok(None) if stripped => Err(Unresolved::Stripped),
            Ok(None) => Err(Unresolved::NoSymbol),
            Err(_) => {
                // What the parser holds may be half made.
                self.ready.clear();
                self.engine = new_engine(self.lines);
                self.unusable.insert(key, Unresolved::ParserFailed);
                Err(Unresolved::ParserFailed)
            }
        }
    }

    fn load(&mut self, key: u32, file: &File) -> Result<(), Unresolved> {
        let limit_bytes = if self.lines { LINES_LIMIT } else { NAMES_LIMIT };
        let options = CopyOptions { debug_sections: self.lines, limit_bytes };
        let copy = match ElfCopy::new(file, options) {
            // Better names without lines than none.
            Err(Unresolved::TooLarge | Unresolved::Malformed | Unresolved::Unsupported) if self.lines => {
                ElfCopy::new(file, CopyOptions { debug_sections: false, limit_bytes: NAMES_LIMIT })?
            }
            result => result?,
        };
        let separate = self.separate_symbols(&copy).and_then(|file| ElfCopy::new(&file, options).ok());
        self.make_room(copy.bytes() + separate.as_ref().map_or(0, ElfCopy::bytes));
        let mut copies = vec![copy];
        copies.extend(separate);
        self.ready.insert(key, Binary { copies, used: self.clock });
        Ok(())
    }

    /// The file with the symbols that were stripped: by build id, else by the name that the binary gives and its CRC.
    fn separate_symbols(&self, copy: &ElfCopy) -> Option<File> {
        if let [first, rest @ ..] = copy.build_id()
            && !rest.is_empty()
        {
            let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            let path = self.debug_root.join(format!(".build-id/{first:02x}/{rest}.debug"));
            if let Some(file) = open_regular(&path) {
                return Some(file);
            }
        }
        let link = copy.debug_link()?;
        let file = open_regular(&self.debug_root.join(&link.name))?;
        (checksum(&file)? == link.crc).then_some(file)
    }

    fn make_room(&mut self, bytes: u64) {
        let held = |binaries: &Self| binaries.ready.values().map(Binary::bytes).sum::<u64>();
        while !self.ready.is_empty() && (self.ready.len() >= READY_LIMIT || held(self) + bytes > self.limit_bytes) {
            let Some(key) = self.ready.iter().min_by_key(|(_, binary)| binary.used).map(|(key, _)| *key) else { return };
            let Some(binary) = self.ready.remove(&key) else { return };
            for copy in binary.copies {
                if self.engine.evict(&Evict::Elf(EvictElf::new(copy.path()))).is_err() {
                    // Descriptor numbers come back, so that a stale entry would answer for another file.
                    self.ready.clear();
                    self.engine = new_engine(self.lines);
                }
            }
        }
    }
}


fn new_engine(lines: bool) -> Engine {
    Engine::builder()
        .enable_auto_reload(false)
        .enable_code_info(lines)
        .enable_inlined_fns(lines)
        .set_debug_dirs(Some(std::iter::empty::<&Path>()))
        .build()
}

fn open_regular(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn checksum(mut file: &File) -> Option<u32> {
    let (mut crc, mut bytes) = (flate2::Crc::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut bytes).ok()? {
            0 => return Some(crc.sum()),
            length => crc.update(&bytes[..length]),
        }
    }
}

fn look_up(engine: &Engine, copy: &ElfCopy, lines: bool, address: u64, module: &Arc<str>) -> Option<ResolvedFrames> {
    let source = |debug_syms| Source::Elf(Elf { debug_syms, ..Elf::new(copy.path()) });
    let symbol = |source: &Source<'_>| {
        let symbolized = engine.symbolize_single(source, Input::VirtOffset(address)).ok()?;
        let Symbolized::Sym(symbol) = symbolized else { return None };
        symbol.size.is_some_and(|size| symbol.offset < size).then(|| symbol.into_owned())
    };
    let with_lines = if lines && copy.has_lines() { symbol(&source(true)) } else { None };
    let symbol = with_lines.or_else(|| symbol(&source(false)))?;
    Some(frames(&symbol, module))
}

fn frames(symbol: &Sym<'_>, module: &Arc<str>) -> ResolvedFrames {
    let frame = |name: &str, kind, code: Option<&CodeInfo<'_>>| ResolvedFrame {
        function: name.into(),
        module: module.clone(),
        kind,
        file: code.map_or_else(|| "".into(), |code| code.to_path().to_string_lossy().into()),
        line: code.and_then(|code| code.line).unwrap_or(0),
    };
    let outermost = frame(&symbol.name, FrameKind::User, symbol.code_info.as_deref());
    let inlined = symbol.inlined.iter().map(|f| frame(&f.name, FrameKind::UserInlined, f.code_info.as_ref()));
    std::iter::once(outermost).chain(inlined).collect()
}
