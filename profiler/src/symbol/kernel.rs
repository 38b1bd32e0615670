//! Kernel addresses. In: `/proc/kallsyms`. Out: function names, those of modules and BPF programs among them.
//!
//! kallsyms gives no sizes; a symbol ends where the next one, of whatever kind, begins. A name that has no
//! neighbour (the last of a module) ends after [`LONGEST_FUNCTION`] at most. The list is read again when an address
//! is not covered, or is a BPF program's, and modules or BPF programs have come or gone since.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHasher;

use super::Unresolved;
use crate::kernel::sys::loaded_programs;

/// No function is longer; the longest of a stock kernel are some 30 KiB.
const LONGEST_FUNCTION: u64 = 64 * 1024;

/// The list is read, and what it depends on looked at, at most this often: reading takes tens of milliseconds.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What the list says of BPF programs.
pub(crate) const PROGRAMS: &str = "[bpf]";

/// Marks a symbol that only ends the one before it.
const BOUNDARY: u16 = u16::MAX;

#[derive(Debug, Clone, Copy)]
struct Symbol {
    address: u64,
    /// Position in `text`.
    name: u32,
    /// Length in `text`.
    length: u16,
    /// Position in `modules`, or [`BOUNDARY`].
    module: u16,
}

/// The kernel's symbols, read when first needed.
#[derive(Debug)]
pub(crate) struct KernelSymbols {
    path: PathBuf,
    symbols: Vec<Symbol>,
    text: String,
    modules: Vec<Arc<str>>,
    /// When the list was read, or last found to hold still.
    read: Option<Instant>,
    /// Which code was there when it was read; `None` if that cannot be told.
    code: Option<u64>,
    code_now: fn() -> Option<u64>,
    hidden: bool,
}

/// Stands for the modules and BPF programs that there are. `None` if the kernel does not tell.
fn code_now() -> Option<u64> {
    let mut hasher = FxHasher::default();
    loaded_programs().ok()?.hash(&mut hasher);
    // Kernels without modules have no list of them.
    for module in modules_of(&std::fs::read_to_string("/proc/modules").unwrap_or_default()) {
        module.hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// Name, size and address of each module in the text of `/proc/modules`. How often each is in use changes all the time.
fn modules_of(text: &str) -> impl Iterator<Item = [Option<&str>; 3]> {
    text.lines().map(|line| {
        let mut words = line.split_ascii_whitespace();
        // `NAME SIZE USERS DEPENDENTS STATE ADDRESS`
        [words.next(), words.next(), words.nth(3)]
    })
}

impl KernelSymbols {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let (symbols, text) = (Vec::new(), String::new());
        let modules = Vec::new();
        Self { path: path.into(), symbols, text, modules, read: None, code: None, code_now, hidden: false }
    }

    /// Function and module at an address.
    pub(crate) fn find(&mut self, address: u64) -> Result<(&str, Arc<str>), Unresolved> {
        let settled = self.lookup(address).is_some_and(|symbol| !self.is_program(symbol));
        if !settled && self.read.is_none_or(|read| read.elapsed() >= RELOAD_INTERVAL) {
            self.refresh();
        }
        match self.lookup(address) {
            Some(symbol) => {
                let name = &self.text[symbol.name as usize..symbol.name as usize + usize::from(symbol.length)];
                Ok((name, self.modules[usize::from(symbol.module)].clone()))
            }
            None if self.hidden => Err(Unresolved::KernelHidden),
            None => Err(Unresolved::NoSymbol),
        }
    }

    /// Reads the list ahead of the first question: it takes a while.
    pub(crate) fn warm_up(&mut self) {
        if self.read.is_none() {
            self.reload();
        }
    }

    /// Whether the kernel hides its addresses from this process.
    pub(crate) fn hidden(&self) -> bool {
        self.hidden
    }

    fn lookup(&self, address: u64) -> Option<Symbol> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = *self.symbols.get(after.checked_sub(1)?)?;
        (symbol.module != BOUNDARY && address - symbol.address < LONGEST_FUNCTION).then_some(symbol)
    }

    /// BPF programs come and go, and a new one may lie just behind an old one: their names hold only for a moment.
    fn is_program(&self, symbol: Symbol) -> bool {
        self.modules.get(usize::from(symbol.module)).is_some_and(|module| **module == *PROGRAMS)
    }

    /// Reads the list unless it is known to hold still.
    fn refresh(&mut self) {
        let now = (self.code_now)();
        if self.read.is_none() || now.is_none() || now != self.code {
            self.reload();
        } else {
            self.read = Some(Instant::now());
        }
    }

    fn reload(&mut self) {
        self.read = Some(Instant::now());
        // What comes while the list is read makes another reading of it necessary, so this goes first.
        self.code = (self.code_now)();
        let list = File::open(&self.path).and_then(|file| self.parse(BufReader::with_capacity(1 << 16, file)));
        if list.is_err() {
            self.hidden = true;
        }
    }

    fn parse(&mut self, mut lines: impl BufRead) -> io::Result<()> {
        self.symbols.clear();
        self.text.clear();
        self.modules = vec!["[kernel]".into()];
        let (mut line, mut any) = (Vec::new(), false);
        while lines.read_until(b'\n', &mut line)? > 0 {
            if let Some((address, kind, name, module)) = parse_line(&line) {
                any = true;
                if address != 0 {
                    self.add(address, kind, name, module);
                }
            }
            line.clear();
        }
        self.hidden = any && self.symbols.is_empty();
        // Several names at one address: code before data, then the first listed.
        let symbols = &mut self.symbols;
        symbols.sort_by_key(|symbol| symbol.address);
        symbols.dedup_by(|later, earlier| {
            let same = later.address == earlier.address;
            if same && earlier.module == BOUNDARY {
                *earlier = *later;
            }
            same
        });
        self.symbols.shrink_to_fit();
        self.text.shrink_to_fit();
        Ok(())
    }

    fn add(&mut self, address: u64, kind: u8, name: &str, module: Option<&str>) {
        let code = matches!(kind, b't' | b'T' | b'w' | b'W') && u16::try_from(name.len()).is_ok();
        let module = match module {
            _ if !code => BOUNDARY,
            None => 0,
            Some(module) => self.module(module),
        };
        let (at, length) = (self.text.len() as u32, name.len() as u16);
        if module != BOUNDARY {
            self.text.push_str(name);
        }
        self.symbols.push(Symbol { address, name: at, length, module });
    }

    fn module(&mut self, name: &str) -> u16 {
        if let Some(known) = self.modules.iter().rposition(|known| **known == *name) {
            return known as u16;
        }
        if self.modules.len() == usize::from(BOUNDARY) {
            return 0;
        }
        self.modules.push(name.into());
        self.modules.len() as u16 - 1
    }
}

/// `ffffffff81000000 T _stext`, and for modules `\t[name]` behind it.
fn parse_line(line: &[u8]) -> Option<(u64, u8, &str, Option<&str>)> {
    let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    let kind = *fields.next()?.as_bytes().first()?;
    Some((address, kind, fields.next()?, fields.next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{TestResult, skip};

    const LIST: &str = "\
ffffffff81000000 T _stext
ffffffff81000000 T startup
ffffffff81000100 t helper
ffffffff81000180 r table
ffffffffc0000000 t fuse_init\t[fuse]
ffffffffc0100000 t bpf_prog_7cc47bbf07148bfe_count\t[bpf]
not a line
";

    fn symbols(list: &str) -> KernelSymbols {
        let mut symbols = KernelSymbols::new("/nonexistent");
        symbols.parse(list.as_bytes()).ok();
        symbols.read = Some(Instant::now());
        symbols
    }

    #[test]
    fn a_name_reaches_to_the_next_symbol_and_no_further() {
        let mut symbols = symbols(LIST);
        assert_eq!(symbols.find(0xffff_ffff_8100_0010).map(|found| found.0), Ok("_stext"));
        assert_eq!(symbols.find(0xffff_ffff_8100_017f), Ok(("helper", "[kernel]".into())));
        assert_eq!(symbols.find(0xffff_ffff_8100_0180), Err(Unresolved::NoSymbol));
        assert_eq!(symbols.find(0xffff_ffff_80ff_ffff), Err(Unresolved::NoSymbol));
        assert_eq!(symbols.find(0xffff_ffff_c000_0010), Ok(("fuse_init", "[fuse]".into())));
        assert_eq!(symbols.find(0xffff_ffff_c001_0000), Err(Unresolved::NoSymbol), "past the last of a module");
        let program = symbols.find(0xffff_ffff_c010_0004);
        assert_eq!(program, Ok(("bpf_prog_7cc47bbf07148bfe_count", "[bpf]".into())));
    }

    #[test]
    fn a_program_loaded_behind_another_is_not_taken_for_it() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("kallsyms");
        std::fs::write(&path, "ffffffffc0000000 t bpf_prog_1_old\t[bpf]\n")?;
        let mut symbols = KernelSymbols::new(&path);
        symbols.code_now = || Some(1);
        assert_eq!(symbols.find(0xffff_ffff_c000_0100)?.0, "bpf_prog_1_old");
        std::fs::write(&path, "ffffffffc0000000 t bpf_prog_1_old\t[bpf]\nffffffffc0000080 t bpf_prog_2_new\t[bpf]\n")?;
        let long_ago = Instant::now().checked_sub(RELOAD_INTERVAL);
        symbols.read = long_ago;
        assert_eq!(symbols.find(0xffff_ffff_c000_0100)?.0, "bpf_prog_1_old", "nothing was loaded, it is said");
        assert!(symbols.read > long_ago, "the next one need not ask");
        (symbols.read, symbols.code_now) = (long_ago, || Some(2));
        assert_eq!(symbols.find(0xffff_ffff_c000_0100)?.0, "bpf_prog_2_new");
        Ok(())
    }

    #[test]
    fn a_module_that_is_in_use_more_often_is_the_same_code() {
        fn of(text: &str) -> Vec<[Option<&str>; 3]> {
            modules_of(text).collect()
        }
        let before = "veth 45056 0 - Live 0xffffffffc09a1000\noverlay 212992 7 - Live 0xffffffffc08f0000\n";
        let used = "veth 45056 2 - Live 0xffffffffc09a1000\noverlay 212992 9 nfs, Live 0xffffffffc08f0000\n";
        assert_eq!(of(before), of(used));
        assert_eq!(of(before).first(), Some(&[Some("veth"), Some("45056"), Some("0xffffffffc09a1000")]));
        let elsewhere = before.replace("c08f", "c0ff");
        assert_ne!(of(before), of(&elsewhere), "unloaded and loaded again");
        assert_eq!(of(""), Vec::<[Option<&str>; 3]>::new());
    }

    #[test]
    fn code_that_holds_still_is_told_by_the_same_number() -> TestResult {
        // Others load programs meanwhile.
        let same = (0..20).any(|_| code_now().is_some_and(|now| code_now() == Some(now)));
        if code_now().is_none() {
            return skip("the kernel does not tell which programs are loaded");
        }
        assert!(same);
        Ok(())
    }

    #[test]
    fn hidden_addresses_are_said_to_be_hidden() {
        let mut symbols = symbols("0000000000000000 T schedule\n0000000000000000 t helper\n");
        assert_eq!(symbols.find(0xffff_ffff_8100_0000), Err(Unresolved::KernelHidden));
        assert!(symbols.hidden());
        let mut missing = KernelSymbols::new("/nonexistent");
        assert_eq!(missing.find(1), Err(Unresolved::KernelHidden));
    }

    #[test]
    fn schedule_of_the_running_kernel_is_named() -> TestResult {
        let list = std::fs::read_to_string("/proc/kallsyms")?;
        let line = list.lines().find(|line| line.ends_with(" T schedule")).unwrap_or_default();
        let address = parse_line(line.as_bytes()).map_or(0, |found| found.0);
        if address == 0 {
            return skip("the kernel hides its addresses");
        }
        let mut symbols = KernelSymbols::new("/proc/kallsyms");
        assert_eq!(symbols.find(address + 1), Ok(("schedule", "[kernel]".into())));
        assert!(matches!(symbols.find(address - 1), Ok((name, _)) if name != "schedule"));
        Ok(())
    }
}
