//! What a process has mapped. In: `/proc/PID/maps` and the files it names. Out: for an address, the file's unwind table and the
//! offset in it; and the same files' sections for framehop.

use std::collections::HashMap;
use std::fs::{self, File};
use std::rc::Rc;

use anyhow::{Context, Result};
use framehop::x86_64::{CacheX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};
use object::elf::PF_X;
use object::{Object, ObjectSection, ObjectSegment, SegmentFlags};
use profiler::process::unwind::{Limits, Table, build};
use profiler_ebpf::unwind::Rule;

/// Bytes of a section, shared by the mappings of a file.
pub type Bytes = Rc<[u8]>;

/// One executable mapping.
#[derive(Debug)]
pub struct Mapped {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// File offset of the first address.
    pub offset: u64,
    /// The file's table; none for code made at run time, and for files that say nothing.
    pub table: Option<Rc<Table>>,
}

/// A process's code.
pub struct Image {
    /// Its executable mappings, ascending.
    pub mapped: Vec<Mapped>,
    /// The same for framehop.
    pub unwinder: UnwinderX86_64<Bytes>,
    /// framehop's memory of rules.
    pub cache: CacheX86_64,
}

/// A file, read once.
struct Read {
    table: Option<Rc<Table>>,
    segments: Vec<(u64, u64, u64)>,
    sections: HashMap<&'static str, (u64, Bytes)>,
}

const PAGE: u64 = 4096;

/// Files by device, inode and path.
#[derive(Default)]
pub struct Files(HashMap<String, Option<Rc<Read>>>);

const SECTIONS: [&str; 4] = [".text", ".eh_frame", ".eh_frame_hdr", ".debug_frame"];

impl Image {
    /// Reads what a process has mapped now. `files` holds what was read before.
    pub fn of(pid: u32, files: &mut Files) -> Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("the process is gone")?;
        let mut image = Self { mapped: Vec::new(), unwinder: UnwinderX86_64::new(), cache: CacheX86_64::new() };
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(range), Some(rights), Some(offset)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if !rights.contains('x') {
                continue;
            }
            let (start, end) = range.split_once('-').context("a range without an end")?;
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            let offset = u64::from_str_radix(offset, 16)?;
            let (device, inode) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let name = fields.next().unwrap_or_default();
            let key = format!("{device} {inode} {name}");
            let read = files.0.entry(key).or_insert_with(|| read(pid, name, range).map(Rc::new)).clone();
            let (table, offset) = match &read {
                Some(read) => (read.table.clone(), offset),
                None => (None, offset),
            };
            if let Some(read) = &read {
                image.tell(name, read, (start, end, offset));
            }
            image.mapped.push(Mapped { start, end, offset, table });
        }
        Ok(image)
    }

    /// Whether an address is code.
    pub fn covers(&self, address: u64) -> bool {
        self.at(address).is_some()
    }

    /// The rule of the code at an address.
    pub fn rule(&self, address: u64) -> Option<Rule> {
        let mapped = self.at(address)?;
        let offset = address - mapped.start + mapped.offset;
        Some(mapped.table.as_ref().map_or(Rule::no_info(), |table| table.rule_at(offset)))
    }

    /// Whether framehop can only guess at the code of an address: nothing describes it, and its file is not one whose code keeps
    /// frame pointers throughout, as Go's does.
    pub fn is_guesswork(&self, address: u64) -> bool {
        let Some(table) = self.at(address).and_then(|mapped| mapped.table.as_ref()) else { return true };
        let statistics = table.statistics();
        self.rule(address).is_none_or(|rule| rule == Rule::no_info())
            && statistics.described_bytes * 2 > statistics.code_bytes
    }

    /// The mapping that an address is in.
    fn at(&self, address: u64) -> Option<&Mapped> {
        let after = self.mapped.partition_point(|mapped| mapped.start <= address);
        self.mapped.get(after.checked_sub(1)?).filter(|mapped| address < mapped.end)
    }

    fn tell(&mut self, name: &str, read: &Read, (start, end, offset): (u64, u64, u64)) {
        // A mapping begins at a page, its segment maybe inside it.
        let holds = |(_, file, size): &&(u64, u64, u64)| (file / PAGE * PAGE..file + size).contains(&offset);
        let Some((address, file, _)) = read.segments.iter().find(holds) else { return };
        let bias = start.wrapping_sub(*address).wrapping_add(*file).wrapping_sub(offset);
        let section = |name| read.sections.get(name);
        let range = |name| section(name).map(|(address, bytes): &(u64, Bytes)| *address..address + bytes.len() as u64);
        let data = |name| section(name).map(|(_, bytes)| bytes.clone());
        self.unwinder.add_module(Module::new(
            name.to_owned(),
            start..end,
            bias,
            ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma: range(".text"),
                text: data(".text"),
                eh_frame_svma: range(".eh_frame"),
                eh_frame: data(".eh_frame"),
                eh_frame_hdr_svma: range(".eh_frame_hdr"),
                eh_frame_hdr: data(".eh_frame_hdr"),
                debug_frame: data(".debug_frame"),
                ..Default::default()
            },
        ));
    }
}

fn read(pid: u32, name: &str, range: &str) -> Option<Read> {
    let (bytes, table) = if name == "[vdso]" {
        let bytes = own_vdso()?;
        let table = build(bytes.as_slice(), &Limits::default()).ok();
        (bytes, table)
    } else if name.starts_with('/') {
        let path = format!("/proc/{pid}/map_files/{range}");
        let path = if fs::metadata(&path).is_ok() { path } else { format!("/proc/{pid}/root{name}") };
        let table = build(&File::open(&path).ok()?, &Limits::default()).ok();
        (fs::read(&path).ok()?, table)
    } else {
        return None;
    };
    let elf = object::File::parse(&*bytes).ok()?;
    let segments = elf
        .segments()
        .filter(|segment| matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.contains(PF_X)))
        .map(|segment| (segment.address(), segment.file_range().0, segment.file_range().1))
        .collect();
    let sections = SECTIONS
        .into_iter()
        .filter_map(|name| {
            let section = elf.section_by_name(name)?;
            Some((name, (section.address(), Rc::from(section.uncompressed_data().ok()?.as_ref()))))
        })
        .collect();
    Some(Read { table: table.map(Rc::new), segments, sections })
}

/// The vDSO is the same for all processes.
fn own_vdso() -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let mut bytes = vec![0; (end - start) as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, start).ok()?;
    Some(bytes)
}
