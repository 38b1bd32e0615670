//! Addresses in files. In: an open file, untrusted, and an offset in it. Out: the function there, and on request its
//! file, line and inlined functions.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazesym::symbolize::evict::{Elf as EvictElf, Evict};
use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer as Engine};
use rustc_hash::FxHashMap;

use super::allowance::{Allowance, Left};
use super::demangle::demangled;
use super::elf::{CopyOptions, ElfCopy};
use super::name::bounded;
use super::separate::{self, CHECKSUM_LIMIT, Places};
use super::{ResolvedFrame, ResolvedFrames, Unresolved, function_file, go_table, mini_debug};
use crate::profile::FrameKind;

/// Most bytes taken of one file for names. They are in memory twice at most, and one file's at a time.
const NAMES_LIMIT: u64 = 96 << 20;

/// Most bytes taken of one file for lines.
const LINES_LIMIT: u64 = 1 << 30;

/// Binaries kept ready at a time; each takes a few descriptors.
const READY_LIMIT: usize = 64;

/// How long a binary is kept ready that nothing is asked of: its names are remembered elsewhere.
const READY_FOR: Duration = Duration::from_mins(1);

/// Most functions inlined into each other at one address that are named; debug information may claim any number.
const INLINED_MAX: usize = 128;

/// Bytes of separate files whose checksums are computed: of all binaries together.
const CHECKSUMS: Allowance = Allowance { most: 2 << 30, each_second: 32 << 20 };

/// Files remembered as unusable; after that they are tried again.
const UNUSABLE_LIMIT: usize = 4096;

/// Where distributions put separate symbols.
pub(crate) const DEBUG_ROOT: &str = "/usr/lib/debug";

#[derive(Debug)]
struct Binary {
    /// The file itself, then its separate symbols or what stands in for them, if there are any.
    copies: Vec<ElfCopy>,
    /// Whether there may be more that could not be looked at.
    is_partial: bool,
    used: u64,
    used_at: Instant,
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
    checksums: Left,
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
            checksums: Left::new(CHECKSUMS, Instant::now()),
            clock: 0,
        }
    }

    /// The frames at an offset of a file.
    pub(crate) fn find(
        &mut self,
        key: u32,
        name: &Arc<str>,
        source: BinaryFile<'_>,
        at: u64,
    ) -> Result<ResolvedFrames, Unresolved> {
        self.find_in(key, name, at, |options, debug_root, may| gather(source, options, debug_root, may))
    }

    /// The frames at an offset of what `load` gives when it is needed.
    pub(crate) fn find_in(
        &mut self,
        key: u32,
        name: &Arc<str>,
        at: u64,
        load: impl FnOnce(CopyOptions, &Path, u64) -> Result<Gathered, Unresolved>,
    ) -> Result<ResolvedFrames, Unresolved> {
        if let Some(reason) = self.unusable.get(&key) {
            return Err(*reason);
        }
        if !self.ready.contains_key(&key)
            && let Err(reason) = self.load_guarded(key, load)
        {
            // It may answer later.
            if reason == Unresolved::Unanswered {
                return Err(reason);
            }
            if self.unusable.len() >= UNUSABLE_LIMIT {
                self.unusable.clear();
            }
            self.unusable.insert(key, reason);
            return Err(reason);
        }
        self.clock += 1;
        let Some(binary) = self.ready.get_mut(&key) else { return Err(Unresolved::ParserFailed) };
        binary.used = self.clock;
        binary.used_at = Instant::now();
        let address = binary.copies.first().and_then(|copy| copy.virtual_address(at)).ok_or(Unresolved::NoSymbol)?;
        // What is exported alone names next to nothing.
        let stripped = binary.copies.iter().all(|copy| copy.functions() == 0);
        let (engine, lines) = (&self.engine, self.lines);
        let looked_up = catch_unwind(AssertUnwindSafe(|| {
            binary.copies.iter().find_map(|copy| look_up(engine, copy, lines, address, name))
        }));
        match looked_up {
            Ok(Some(frames)) => Ok(frames),
            Ok(None) if binary.is_partial => Err(Unresolved::Unanswered),
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

    /// Whether it has been read.
    pub(crate) fn is_ready(&self, key: u32) -> bool {
        self.ready.contains_key(&key)
    }

    /// Readers are other people's code over other people's data: they may fail, but not take the recording with them.
    fn load_guarded(
        &mut self,
        key: u32,
        load: impl FnOnce(CopyOptions, &Path, u64) -> Result<Gathered, Unresolved>,
    ) -> Result<(), Unresolved> {
        catch_unwind(AssertUnwindSafe(|| self.load(key, load))).unwrap_or(Err(Unresolved::ParserFailed))
    }

    fn load(
        &mut self,
        key: u32,
        load: impl FnOnce(CopyOptions, &Path, u64) -> Result<Gathered, Unresolved>,
    ) -> Result<(), Unresolved> {
        let may = self.checksums.at(CHECKSUMS, Instant::now()).min(CHECKSUM_LIMIT);
        let gathered = load(copy_options(self.lines), &self.debug_root, may)?;
        self.checksums.spend(may.saturating_sub(gathered.checksums));
        let Gathered { copies, is_partial, .. } = gathered;
        self.make_room(copies.iter().map(ElfCopy::bytes).sum());
        self.ready.insert(key, Binary { copies, is_partial, used: self.clock, used_at: Instant::now() });
        Ok(())
    }

    fn make_room(&mut self, bytes: u64) {
        let held = |binaries: &Self| binaries.ready.values().map(Binary::bytes).sum::<u64>();
        while !self.ready.is_empty() && (self.ready.len() >= READY_LIMIT || held(self) + bytes > self.limit_bytes) {
            let Some(key) = self.ready.iter().min_by_key(|(_, binary)| binary.used).map(|(key, _)| *key) else {
                return;
            };
            self.put_away(key);
        }
    }

    /// Puts away what nothing was asked of for a while, and what may be more the next time.
    pub(crate) fn put_away_idle(&mut self) {
        let idle = |binary: &Binary| binary.is_partial || binary.used_at.elapsed() > READY_FOR;
        let keys: Vec<u32> = self.ready.iter().filter(|(_, binary)| idle(binary)).map(|(key, _)| *key).collect();
        for key in keys {
            self.put_away(key);
        }
    }

    fn put_away(&mut self, key: u32) {
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

/// A binary, and where it was mapped from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BinaryFile<'file> {
    /// The file itself.
    pub file: &'file File,
    /// Its path in its root.
    pub path: &'file Path,
    /// Its root, if it is not ours.
    pub root: Option<BorrowedFd<'file>>,
}

/// Where a binary's names come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Its own symbol table.
    OwnTable,
    /// A separate file, found by build id or debug link.
    SeparateFile,
    /// Symbols packed into it.
    Packed,
    /// The table of Go's runtime.
    GoTable,
    /// Only the table of what it exports.
    ExportedOnly,
    /// Nowhere.
    Nowhere,
}

/// What names a binary's functions.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// The file itself, then what makes up for what was stripped.
    pub copies: Vec<ElfCopy>,
    /// Where the names come from.
    pub origin: Origin,
    /// Whether there may be more that could not be looked at.
    pub is_partial: bool,
    /// Bytes of separate files that may still be read for their checksums.
    pub checksums: u64,
}

impl Gathered {
    /// With the file itself alone; `checksums` is how many bytes of separate files may be read for theirs.
    pub(crate) fn new(own: ElfCopy, checksums: u64) -> Self {
        let origin = match (own.functions(), own.exported_functions()) {
            (0, 0) => Origin::Nowhere,
            (0, _) => Origin::ExportedOnly,
            _ => Origin::OwnTable,
        };
        Self { copies: vec![own], origin, is_partial: false, checksums }
    }

    /// The file itself.
    pub(crate) fn own(&self) -> &ElfCopy {
        &self.copies[0]
    }

    /// Whether nothing but exported functions has a name.
    pub(crate) fn is_nameless(&self) -> bool {
        self.copies.iter().all(|copy| copy.functions() == 0)
    }

    /// Adds its separate symbols.
    pub(crate) fn add_separate(&mut self, separate: ElfCopy) {
        if self.origin != Origin::OwnTable && separate.functions() > 0 {
            self.origin = Origin::SeparateFile;
        }
        self.copies.push(separate);
    }
}

/// What is copied of a file, for names or for lines as well.
pub(crate) fn copy_options(lines: bool) -> CopyOptions {
    CopyOptions { debug_sections: lines, limit_bytes: if lines { LINES_LIMIT } else { NAMES_LIMIT } }
}

/// Copies whatever names the functions of a binary: itself first, then what makes up for what was stripped.
pub(crate) fn gather(
    source: BinaryFile<'_>,
    options: CopyOptions,
    debug_root: &Path,
    checksums: u64,
) -> Result<Gathered, Unresolved> {
    let mut gathered = Gathered::new(own_copy(source.file, options)?, checksums);
    if wants_separate(gathered.own(), options) {
        let places = Places { root: source.root, path: source.path, debug: debug_root };
        if let Some(separate) = separate::find(&gathered.copies[0], places, options, &mut gathered.checksums) {
            gathered.add_separate(separate);
        }
    }
    Ok(if gathered.is_nameless() { made_names(source.file, gathered) } else { gathered })
}

/// Copies the file itself.
pub(crate) fn own_copy(file: &File, options: CopyOptions) -> Result<ElfCopy, Unresolved> {
    match ElfCopy::new(file, options) {
        // Better names without lines than none.
        Err(Unresolved::TooLarge | Unresolved::Malformed | Unresolved::Unsupported) if options.debug_sections => {
            ElfCopy::new(file, copy_options(false))
        }
        result => result,
    }
}

/// Whether separate symbols are worth looking for.
pub(crate) fn wants_separate(own: &ElfCopy, options: CopyOptions) -> bool {
    own.functions() == 0 || options.debug_sections && !own.has_lines()
}

/// Adds what stands in for symbols. As with the symbols themselves: if these are broken there are none.
pub(crate) fn made_names(file: &File, mut gathered: Gathered) -> Gathered {
    if let Ok(packed) = packed_symbols(file, gathered.own()) {
        gathered.origin = Origin::Packed;
        gathered.copies.push(packed);
    } else if let Ok(functions) = go_functions(file, gathered.own()) {
        gathered.origin = Origin::GoTable;
        gathered.copies.push(functions);
    }
    gathered
}

/// Symbols packed into the binary.
fn packed_symbols(file: &File, copy: &ElfCopy) -> Result<ElfCopy, Unresolved> {
    let packed = copy.mini_debug().ok_or(Unresolved::Stripped)?;
    ElfCopy::new(&mini_debug::unpack(file, packed)?, CopyOptions { debug_sections: false, limit_bytes: NAMES_LIMIT })
}

/// Functions by Go's own table.
fn go_functions(file: &File, copy: &ElfCopy) -> Result<ElfCopy, Unresolved> {
    let table = copy.go_table().ok_or(Unresolved::Stripped)?;
    let functions = go_table::functions(file, copy, table)?;
    let made = function_file::write(&functions).map_err(|_| Unresolved::Unreadable)?;
    ElfCopy::new(&made, CopyOptions { debug_sections: false, limit_bytes: NAMES_LIMIT })
}

fn new_engine(lines: bool) -> Engine {
    Engine::builder()
        .enable_auto_reload(false)
        // It takes short names of C for types of C++; `demangle` does not.
        .enable_demangling(false)
        .enable_code_info(lines)
        .enable_inlined_fns(lines)
        .set_debug_dirs(Some(std::iter::empty::<&Path>()))
        .build()
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
        function: demangled(name).as_ref().into(),
        module: module.clone(),
        kind,
        file: code.map_or_else(|| "".into(), |code| bounded(&code.to_path().to_string_lossy()).as_ref().into()),
        line: code.and_then(|code| code.line).unwrap_or(0),
        unresolved: None,
    };
    // GCC's own second name for a function that others may replace: the same code.
    let name = symbol.name.strip_suffix(".localalias").unwrap_or(&symbol.name);
    let outermost = frame(name, FrameKind::User, symbol.code_info.as_deref());
    let inlined =
        symbol.inlined.iter().take(INLINED_MAX).map(|f| frame(&f.name, FrameKind::UserInlined, f.code_info.as_ref()));
    std::iter::once(outermost).chain(inlined).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use object::{Object, ObjectSegment, ObjectSymbol};
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    use super::*;
    use crate::process::testing::{LANDMARK, TestResult, compile, run, skip};

    /// Address of a symbol in a file; here also its file offset's, as far as the first segments go.
    fn symbol(path: &Path, name: &str) -> Result<(u64, u64), Box<dyn std::error::Error>> {
        let bytes = std::fs::read(path)?;
        let file = object::File::parse(&*bytes)?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name)).ok_or("no such symbol")?;
        Ok((symbol.address(), symbol.size()))
    }

    fn names(binaries: &mut Binaries, path: &Path, at: u64) -> Result<Vec<String>, Unresolved> {
        let file = File::open(path).map_err(|_| Unresolved::Unreadable)?;
        let frames = find(binaries, 0, &file, path, at)?;
        Ok(frames.iter().map(|frame| frame.function.to_string()).collect())
    }

    fn find(
        binaries: &mut Binaries,
        key: u32,
        file: &File,
        path: &Path,
        at: u64,
    ) -> Result<ResolvedFrames, Unresolved> {
        binaries.find(key, &"it".into(), BinaryFile { file, path, root: None }, at)
    }

    fn binaries() -> Binaries {
        Binaries::new(false, 1 << 20)
    }

    const ASSEMBLY: &str = r#"
        __asm__(".text\n.globl sized\n.type sized,@function\nsized:\nnop\nnop\ninside:\nnop\nnop\n.size sized,4\n"
                "nop\nnop\n.globl label\n.type label,@function\nlabel:\nnop\nnop\nnop\nnop\n");
        int main(void) { return 0; }"#;

    #[test]
    fn a_symbol_names_what_is_inside_its_size_and_nothing_else() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = compile(directory.path(), "assembly", ASSEMBLY, &[])?;
        let (at, size) = symbol(&path, "sized")?;
        assert_eq!(size, 4);
        let mut binaries = binaries();
        for inside in 0..4 {
            assert_eq!(names(&mut binaries, &path, at + inside), Ok(vec!["sized".to_string()]), "{inside}");
        }
        for outside in 4..10 {
            assert_eq!(names(&mut binaries, &path, at + outside), Err(Unresolved::NoSymbol), "{outside}");
        }
        assert_eq!(names(&mut binaries, &path, u64::MAX), Err(Unresolved::NoSymbol));
        Ok(())
    }

    #[test]
    fn stripped_symbols_are_found_by_build_id_and_by_debug_link() -> TestResult {
        let directory = tempfile::tempdir()?;
        let by_id = compile(directory.path(), "by_id", LANDMARK, &["-Wl,--build-id=0x0102030405"])?;
        let by_link = compile(directory.path(), "by_link", LANDMARK, &["-Wl,--build-id=none"])?;
        let (at, _) = symbol(&by_id, "known_function")?;
        let root = directory.path().join("debug");
        std::fs::create_dir_all(root.join(".build-id/01"))?;
        std::fs::copy(&by_id, root.join(".build-id/01/02030405.debug"))?;
        std::fs::copy(&by_link, root.join("by_link.debug"))?;
        run(Command::new("strip").arg(&by_id))?;
        let link = format!("--add-gnu-debuglink={}", root.join("by_link.debug").display());
        run(Command::new("objcopy").args(["--strip-all", &link]).arg(&by_link))?;
        for path in [&by_id, &by_link] {
            let mut with = Binaries { debug_root: root.clone(), ..binaries() };
            assert_eq!(names(&mut with, path, at), Ok(vec!["known_function".into()]), "{}", path.display());
            let mut without = Binaries { debug_root: "/nonexistent".into(), ..binaries() };
            assert_eq!(names(&mut without, path, at), Err(Unresolved::Stripped));
        }
        // Another file under the linked name has another checksum.
        std::fs::write(root.join("by_link.debug"), std::fs::read(directory.path().join("by_link.c"))?)?;
        let mut changed = Binaries { debug_root: root, ..binaries() };
        assert_eq!(names(&mut changed, &by_link, at), Err(Unresolved::Stripped));
        Ok(())
    }

    #[test]
    fn names_that_are_not_utf8_name_their_functions_all_the_same() -> TestResult {
        let directory = tempfile::tempdir()?;
        let source = LANDMARK.replace("known_function", "knownXfunction");
        let path = compile(directory.path(), "latin", &source, &[])?;
        let (at, _) = symbol(&path, "knownXfunction")?;
        let (main, _) = symbol(&path, "main")?;
        let mut bytes = std::fs::read(&path)?;
        let name = b"\0knownXfunction\0";
        for at in 0..bytes.len() - name.len() {
            if bytes[at..].starts_with(name) {
                bytes[at + 6] = 0xe9;
            }
        }
        std::fs::write(&path, &bytes)?;
        let mut binaries = binaries();
        assert_eq!(names(&mut binaries, &path, at), Ok(vec!["known?function".into()]));
        assert_eq!(names(&mut binaries, &path, main), Ok(vec!["main".into()]), "nor do they cost others their names");
        Ok(())
    }

    const INLINED: &str = "\
volatile int sink;
static inline __attribute__((always_inline)) void innermost(int x) {
    sink = x;
}
void outer(int x) {
    innermost(x);
}
int main(void) { outer(1); return 0; }
";

    #[test]
    fn lines_and_inlined_functions_come_from_debug_sections() -> TestResult {
        let directory = tempfile::tempdir()?;
        for extra in ["-gz=none", "-gz=zlib"] {
            let path = compile(directory.path(), "inlined", INLINED, &["-g", extra])?;
            let (at, size) = symbol(&path, "outer")?;
            let mut binaries = Binaries::new(true, 1 << 20);
            let file = File::open(&path)?;
            let found = (at..at + size)
                .find_map(|at| find(&mut binaries, 0, &file, &path, at).ok().filter(|frames| frames.len() == 2));
            let frames = found.ok_or("nothing is inlined")?;
            let seen: Vec<_> = frames.iter().map(|f| (&*f.function, f.kind, f.line)).collect();
            assert_eq!(seen, [("outer", FrameKind::User, 6), ("innermost", FrameKind::UserInlined, 3)], "{extra}");
            assert!(frames[0].file.ends_with("inlined.c"));
            let frames = find(&mut Binaries::new(false, 1 << 20), 0, &file, &path, at)?;
            assert_eq!((frames.len(), frames[0].line), (1, 0), "not asked for");
        }
        Ok(())
    }

    #[test]
    fn symbols_packed_into_the_binary_are_found() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = compile(directory.path(), "packed", LANDMARK, &[])?;
        let (at, _) = symbol(&path, "known_function")?;
        let (mini, packed) = (directory.path().join("mini"), directory.path().join("mini.xz"));
        run(Command::new("strip").arg("--strip-debug").arg(&path).arg("-o").arg(&mini))?;
        if Command::new("xz").arg("--version").output().is_err() {
            return skip("there is no xz");
        }
        run(Command::new("xz").arg("--keep").arg(&mini))?;
        run(Command::new("strip").arg(&path))?;
        let section = |from: &Path| format!(".gnu_debugdata={}", from.display());
        run(Command::new("objcopy").arg("--add-section").arg(section(&packed)).arg(&path))?;
        assert_eq!(names(&mut binaries(), &path, at), Ok(vec!["known_function".into()]));

        // What is not xz, is cut off, or becomes more than the limit names nothing, and does no harm.
        let whole = std::fs::read(&packed)?;
        let bomb = directory.path().join("bomb");
        File::create(&bomb)?.set_len(65 << 20)?;
        run(Command::new("xz").arg("-0").arg(&bomb))?;
        let bomb = std::fs::read(directory.path().join("bomb.xz"))?;
        for hostile in [&whole[..whole.len() / 2], b"no xz at all", &bomb[..]] {
            std::fs::write(&packed, hostile)?;
            run(Command::new("objcopy").arg("--update-section").arg(section(&packed)).arg(&path))?;
            assert_eq!(names(&mut binaries(), &path, at), Err(Unresolved::Stripped), "{} bytes", hostile.len());
        }
        Ok(())
    }

    #[test]
    fn stripped_go_programs_are_named_by_the_table_of_their_runtime() -> TestResult {
        if Command::new("go").arg("version").output().is_err() {
            return skip("there is no Go compiler");
        }
        let directory = tempfile::tempdir()?;
        let source = directory.path().join("main.go");
        std::fs::write(
            &source,
            "package main\n//go:noinline\nfunc known(x int) int { return x*3 + 1 }\nfunc main() { println(known(4)) }\n",
        )?;
        for mode in ["exe", "pie"] {
            let (whole, stripped) = (directory.path().join("whole"), directory.path().join("stripped"));
            for (flags, path) in [("", &whole), ("-s -w", &stripped)] {
                let mut go = Command::new("go");
                go.args(["build", "-trimpath", "-buildmode", mode, "-ldflags", flags, "-o"]).arg(path).arg(&source);
                run(go.env("GO111MODULE", "off").env("GOCACHE", directory.path().join("cache")))?;
            }
            let bytes = std::fs::read(&whole)?;
            let known = object::File::parse(&*bytes)?;
            let known = known.symbols().find(|symbol| symbol.name() == Ok("main.known")).ok_or("no such symbol")?;
            // Both lie at the same place; the file offset is what a sample comes with.
            let bytes = std::fs::read(&stripped)?;
            let parsed = object::File::parse(&*bytes)?;
            let segment = parsed.segments().find(|s| (s.address()..s.address() + s.size()).contains(&known.address()));
            let segment = segment.ok_or("no such segment")?;
            let at = known.address() - segment.address() + segment.file_range().0;
            assert_eq!(names(&mut binaries(), &stripped, at + 1), Ok(vec!["main.known".into()]), "{mode}");
        }
        Ok(())
    }

    #[test]
    fn a_containers_own_debug_files_come_first() -> TestResult {
        let root = tempfile::tempdir()?;
        let path = compile(root.path(), "contained", LANDMARK, &["-Wl,--build-id=0x0102030405"])?;
        let (at, _) = symbol(&path, "known_function")?;
        let debug = root.path().join("usr/lib/debug/.build-id/01");
        std::fs::create_dir_all(&debug)?;
        std::fs::copy(&path, debug.join("02030405.debug"))?;
        run(Command::new("strip").arg(&path))?;
        let (file, directory) = (File::open(&path)?, File::open(root.path())?);
        let find = |root: Option<BorrowedFd<'_>>| {
            let source = BinaryFile { file: &file, path: Path::new("/contained"), root };
            binaries().find(0, &"it".into(), source, at).map(|frames| frames[0].function.to_string())
        };
        assert_eq!(find(None), Err(Unresolved::Stripped));
        assert_eq!(find(Some(directory.as_fd())), Ok("known_function".into()));
        // A link that leads out of the container leads nowhere.
        let outside = tempfile::tempdir()?;
        std::fs::rename(debug.join("02030405.debug"), outside.path().join("symbols"))?;
        std::os::unix::fs::symlink(outside.path().join("symbols"), debug.join("02030405.debug"))?;
        assert_eq!(find(Some(directory.as_fd())), Err(Unresolved::Stripped));
        // Nor is a file taken that belongs to another binary.
        std::fs::remove_file(debug.join("02030405.debug"))?;
        compile(&debug, "02030405.debug", LANDMARK, &["-Wl,--build-id=0x0102030406"])?;
        assert_eq!(find(Some(directory.as_fd())), Err(Unresolved::Stripped));
        Ok(())
    }

    #[test]
    fn a_truncated_file_is_a_counted_reason() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
        let (at, _) = symbol(&path, "known_function")?;
        let whole = std::fs::read(&path)?;
        let cut = directory.path().join("cut");
        let mut reasons = std::collections::BTreeSet::new();
        for length in (0..whole.len()).step_by(331).chain([0, 3, 4, 63, 64]) {
            std::fs::write(&cut, &whole[..length])?;
            reasons.insert(names(&mut binaries(), &cut, at).err().map(Unresolved::reason));
        }
        assert_eq!(reasons, [Some("elf_truncated"), Some("not_elf")].into());
        Ok(())
    }

    #[test]
    fn a_file_that_shrinks_after_it_was_read_keeps_its_names() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
        let (at, _) = symbol(&path, "known_function")?;
        let (main, _) = symbol(&path, "main")?;
        let mut binaries = binaries();
        names(&mut binaries, &path, at)?;
        File::options().write(true).open(&path)?.set_len(0)?;
        assert_eq!(names(&mut binaries, &path, main), Ok(vec!["main".into()]));
        Ok(())
    }

    #[test]
    fn memory_is_bounded_and_what_was_dropped_comes_back() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = compile(directory.path(), "landmark", LANDMARK, &[])?;
        let (at, _) = symbol(&path, "known_function")?;
        let file = File::open(&path)?;
        let mut binaries = Binaries::new(false, 10_000);
        for round in 0..3 {
            for key in 0..100 {
                let frames = find(&mut binaries, key, &file, &path, at)?;
                assert_eq!(&*frames[0].function, "known_function", "{round} {key}");
            }
        }
        assert!(binaries.ready.len() < 10, "{}", binaries.ready.len());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn hostile_headers_give_reasons(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
            at in 0_u64..0x5000,
        ) {
            static SMALL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let bytes = SMALL.get_or_init(|| {
                let directory = tempfile::tempdir().ok();
                let path = directory.as_ref().and_then(|d| compile(d.path(), "small", INLINED, &["-g"]).ok());
                path.and_then(|path| std::fs::read(path).ok()).unwrap_or_default()
            });
            let mut bytes = bytes.clone();
            let sections = bytes.len().saturating_sub(40 * 64);
            for (position, value, in_headers) in changes {
                // The last bytes are the section headers.
                let position = if in_headers { sections + position.index(40 * 64) } else { position.index(bytes.len()) };
                bytes[position] = value;
            }
            let file = super::super::elf::memory_file("hostile", &bytes)?;
            for lines in [false, true] {
                find(&mut Binaries::new(lines, 1 << 20), 0, &file, Path::new("/hostile"), at).ok();
            }
        }
    }
}
