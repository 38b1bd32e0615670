//! Where an ELF image keeps what unwinding needs. In: a [`Source`], untrusted. Out: its loaded segments, its build id,
//! and the extents of its unwind sections.
//!
//! Section headers are believed where they are there; a file without them is read as the dynamic loader sees it, through
//! its program headers. Counts are bounded before memory is taken, and everything that is read lies inside the file.

use object::LittleEndian as LE;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, NT_GNU_BUILD_ID, NoteHeader64, PF_X,
    PT_GNU_EH_FRAME, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader64, SHF_COMPRESSED, SHN_XINDEX, SHT_NOBITS,
    SectionHeader64,
};
use object::pod::{Pod, from_bytes, slice_from_bytes};

use super::{Refused, Source};

/// Most program headers: the kernel refuses to execute files with more than 64 KiB of them.
const SEGMENTS_MAX: u16 = 1170;
/// Most section headers. `-ffunction-sections` leaves none of its thousands in a linked file.
const SECTIONS_MAX: u64 = 16_384;
/// Most bytes of section names.
const NAMES_MAX: u64 = 1 << 20;
/// Most bytes of a section's name that are looked at: names may overlap, and those that matter are short.
const NAME_MAX: usize = 64;
/// Most bytes of notes that are searched for a build id.
const NOTES_MAX: u64 = 64 << 10;
/// Longest build id.
const BUILD_ID_MAX: usize = 64;

/// One loaded segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes that come from the file.
    pub file_size: u64,
    /// Where it begins in the image's own address space.
    pub address: u64,
    /// Whether it holds code.
    pub executable: bool,
}

impl Segment {
    /// First address after it; segments that would wrap around are refused when they are read.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.file_size)
    }
}

/// A section, or what serves as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub size: u64,
    /// Its address; 0 where it is not loaded.
    pub address: u64,
    /// Whether its bytes are a compression header and a compressed stream.
    pub compressed: bool,
}

/// `.eh_frame`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EhFrame {
    /// Where it lies.
    pub extent: Extent,
    /// Whether only its terminator says where it ends.
    pub terminated: bool,
}

/// What an ELF file says of itself.
#[derive(Debug)]
pub struct Image {
    /// Where it is entered: an address; 0 in most libraries.
    pub entry: u64,
    /// Whether it names a loader (`PT_INTERP`), and so leaves to its C library what every program has to have.
    pub names_loader: bool,
    /// Its loaded segments, by address.
    pub segments: Vec<Segment>,
    /// `.eh_frame`.
    pub eh_frame: Option<EhFrame>,
    /// `.debug_frame`.
    pub debug_frame: Option<Extent>,
    /// `.gopclntab`, Go's table of functions.
    pub go_functions: Option<Extent>,
    /// `.plt`.
    pub plt: Option<Extent>,
    /// `.text`.
    pub text: Option<Extent>,
    /// Its GNU build id.
    pub build_id: Option<Box<[u8]>>,
}

impl Image {
    /// Reads the headers.
    pub fn read<S: Source + ?Sized>(source: &S) -> Result<Self, Refused> {
        let (headers, file, programs) = Headers::new(source)?;
        let mut image = Self::loaded(&headers, &file, &programs)?;
        // Sections are optional: what is wrong with them does not matter while segments say enough.
        let sections = headers.sections(&file, &mut image);
        if image.eh_frame.is_none() {
            image.eh_frame = headers.loaded_eh_frame(&programs, &image.segments);
        }
        if image.eh_frame.is_none() && image.debug_frame.is_none() && image.go_functions.is_none() {
            sections?;
        }
        Ok(image)
    }

    /// Reads no more than what is loaded: segments and build id.
    pub fn read_headers<S: Source + ?Sized>(source: &S) -> Result<Self, Refused> {
        let (headers, file, programs) = Headers::new(source)?;
        Self::loaded(&headers, &file, &programs)
    }

    fn loaded<S: Source + ?Sized>(
        headers: &Headers<'_, S>,
        file: &FileHeader64<LE>,
        programs: &[ProgramHeader64<LE>],
    ) -> Result<Self, Refused> {
        Ok(Self {
            entry: file.e_entry.get(LE),
            names_loader: programs.iter().any(|program| program.p_type.get(LE) == PT_INTERP),
            segments: segments(programs, headers.length)?,
            eh_frame: None,
            debug_frame: None,
            go_functions: None,
            plt: None,
            text: None,
            build_id: headers.build_id(programs)?,
        })
    }
}

type Programs = Vec<ProgramHeader64<LE>>;

struct Headers<'s, S: ?Sized> {
    source: &'s S,
    length: u64,
}

impl<'s, S: Source + ?Sized> Headers<'s, S> {
    fn new(source: &'s S) -> Result<(Self, FileHeader64<LE>, Programs), Refused> {
        let headers = Self { source, length: source.length()? };
        let file = headers.file()?;
        let count = u64::from(file.e_phnum.get(LE));
        let programs = headers.table(file.e_phoff.get(LE), count, file.e_phentsize.get(LE), "program headers")?;
        Ok((headers, file, programs))
    }

    fn file(&self) -> Result<FileHeader64<LE>, Refused> {
        let mut bytes = [0; size_of::<FileHeader64<LE>>()];
        if self.length < bytes.len() as u64 {
            return Err(Refused::NotElf);
        }
        self.source.read(0, &mut bytes)?;
        let file = *pod::<FileHeader64<LE>>(&bytes)?;
        if file.e_ident.magic != ELFMAG {
            return Err(Refused::NotElf);
        }
        if file.e_ident.class != ELFCLASS64 || file.e_ident.data != ELFDATA2LSB || file.e_machine.get(LE) != EM_X86_64 {
            return Err(Refused::OtherMachine);
        }
        if !matches!(file.e_type.get(LE), ET_EXEC | ET_DYN) {
            return Err(Refused::NotElf);
        }
        if file.e_phnum.get(LE) > SEGMENTS_MAX {
            return Err(Refused::TooLarge { what: "program headers", limit: SEGMENTS_MAX.into() });
        }
        Ok(file)
    }

    /// An array of headers; how many there are is bounded by the caller.
    fn table<T: Pod + Copy>(&self, offset: u64, count: u64, entry: u16, what: &'static str) -> Result<Vec<T>, Refused> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(entry) != size_of::<T>() {
            return Err(Refused::Malformed(what));
        }
        let bytes = self.bytes(offset, count * u64::from(entry))?;
        let (items, _) =
            slice_from_bytes::<T>(&bytes, count as usize).map_err(|()| Refused::Malformed("header alignment"))?;
        Ok(items.to_vec())
    }

    /// Bytes of the file; how many is bounded by the caller and by the file's length.
    fn bytes(&self, offset: u64, size: u64) -> Result<Vec<u8>, Refused> {
        if offset.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(Refused::Truncated);
        }
        let mut bytes = vec![0; size as usize];
        self.source.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn sections(&self, file: &FileHeader64<LE>, image: &mut Image) -> Result<(), Refused> {
        const WHAT: &str = "section headers";
        let (offset, entry) = (file.e_shoff.get(LE), file.e_shentsize.get(LE));
        if offset == 0 {
            return Ok(());
        }
        let mut count = u64::from(file.e_shnum.get(LE));
        let mut names = u64::from(file.e_shstrndx.get(LE).0);
        // Numbers that do not fit the header stand in the first section.
        if count == 0 || names == u64::from(SHN_XINDEX.0) {
            let first: Vec<SectionHeader64<LE>> = self.table(offset, 1, entry, WHAT)?;
            let first = first.first().ok_or(Refused::Malformed(WHAT))?;
            count = if count == 0 { first.sh_size.get(LE) } else { count };
            if names == u64::from(SHN_XINDEX.0) {
                names = first.sh_link.get(LE).into();
            }
        }
        if count > SECTIONS_MAX {
            return Err(Refused::TooLarge { what: WHAT, limit: SECTIONS_MAX });
        }
        let sections: Vec<SectionHeader64<LE>> = self.table(offset, count, entry, WHAT)?;
        let names = usize::try_from(names).ok().and_then(|index| sections.get(index));
        let names = names.ok_or(Refused::Malformed("index of section names"))?;
        let names = self.bytes(names.sh_offset.get(LE), names.sh_size.get(LE).min(NAMES_MAX))?;
        for section in &sections {
            let Some(name) = names.get(section.sh_name.get(LE) as usize..) else { continue };
            let name = &name[..name.len().min(NAME_MAX)];
            let Some(name) = name.split(|byte| *byte == 0).next() else { continue };
            let place = match name {
                b".eh_frame" => {
                    let found = self.extent(section).map(|extent| EhFrame { extent, terminated: false });
                    image.eh_frame = found.or(image.eh_frame);
                    continue;
                }
                b".debug_frame" => &mut image.debug_frame,
                b".gopclntab" | b".data.rel.ro.gopclntab" => &mut image.go_functions,
                b".plt" => &mut image.plt,
                b".text" => &mut image.text,
                _ => continue,
            };
            *place = self.extent(section).or(*place);
        }
        Ok(())
    }

    /// Where a section's bytes are; `None` where they are not in this file (as in a separate debug file).
    fn extent(&self, section: &SectionHeader64<LE>) -> Option<Extent> {
        let (offset, size) = (section.sh_offset.get(LE), section.sh_size.get(LE));
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.length);
        (inside && size > 0 && section.sh_type.get(LE) != SHT_NOBITS).then(|| Extent {
            offset,
            size,
            address: section.sh_addr.get(LE),
            compressed: section.sh_flags.get(LE).contains(SHF_COMPRESSED),
        })
    }

    /// `.eh_frame` as its header in a segment of its own finds it: from where that points to the end of the segment. The
    /// terminator ends it earlier.
    fn loaded_eh_frame(&self, programs: &[ProgramHeader64<LE>], segments: &[Segment]) -> Option<EhFrame> {
        const PCREL_SDATA4: u8 = 0x1b;
        let header = programs.iter().find(|program| program.p_type.get(LE) == PT_GNU_EH_FRAME)?;
        let mut bytes = [0; 8];
        self.source.read(header.p_offset.get(LE), &mut bytes).ok()?;
        let [version, encoding, _, _, relative @ ..] = bytes;
        if version != 1 || encoding != PCREL_SDATA4 {
            return None;
        }
        let relative = i32::from_le_bytes(relative);
        let address = header.p_vaddr.get(LE).checked_add(4)?.checked_add_signed(relative.into())?;
        let segment = segments.iter().find(|segment| (segment.address..segment.end()).contains(&address))?;
        let skipped = address - segment.address;
        let extent =
            Extent { offset: segment.offset + skipped, size: segment.file_size - skipped, address, compressed: false };
        Some(EhFrame { extent, terminated: true })
    }

    fn build_id(&self, programs: &[ProgramHeader64<LE>]) -> Result<Option<Box<[u8]>>, Refused> {
        let mut budget = NOTES_MAX;
        for program in programs.iter().filter(|program| program.p_type.get(LE) == PT_NOTE) {
            let size = program.p_filesz.get(LE).min(budget);
            budget -= size;
            let Ok(notes) = self.bytes(program.p_offset.get(LE), size) else { return Err(Refused::Truncated) };
            if let Some(id) = build_id_note(&notes, program.p_align.get(LE)) {
                return Ok(Some(id.into()));
            }
        }
        Ok(None)
    }
}

fn segments(programs: &[ProgramHeader64<LE>], length: u64) -> Result<Vec<Segment>, Refused> {
    let mut segments = Vec::new();
    for program in programs.iter().filter(|program| program.p_type.get(LE) == PT_LOAD) {
        let segment = Segment {
            offset: program.p_offset.get(LE),
            file_size: program.p_filesz.get(LE),
            address: program.p_vaddr.get(LE),
            executable: program.p_flags.get(LE).contains(PF_X),
        };
        if segment.file_size == 0 {
            continue;
        }
        if segment.offset.checked_add(segment.file_size).is_none_or(|end| end > length) {
            return Err(Refused::Truncated);
        }
        if segment.address.checked_add(segment.file_size).is_none() {
            return Err(Refused::Malformed("a segment that wraps around"));
        }
        segments.push(segment);
    }
    segments.sort_unstable_by_key(|segment| segment.address);
    if segments.windows(2).any(|pair| pair[0].end() > pair[1].address) {
        return Err(Refused::Malformed("segments that overlap"));
    }
    Ok(segments)
}

/// The build id among notes, each a header, a name and a description, padded.
fn build_id_note(mut notes: &[u8], alignment: u64) -> Option<&[u8]> {
    let padding = if alignment == 8 { 8 } else { 4 };
    loop {
        let header = pod::<NoteHeader64<LE>>(notes).ok()?;
        let (name, description) = (header.n_namesz.get(LE) as usize, header.n_descsz.get(LE) as usize);
        let name_end = size_of::<NoteHeader64<LE>>().checked_add(name)?;
        let start = name_end.checked_next_multiple_of(padding)?;
        let end = start.checked_add(description)?;
        let found = header.n_type.get(LE) == NT_GNU_BUILD_ID
            && notes.get(size_of::<NoteHeader64<LE>>()..name_end)? == b"GNU\0"
            && (1..=BUILD_ID_MAX).contains(&description);
        if found {
            return notes.get(start..end);
        }
        notes = notes.get(end.checked_next_multiple_of(padding)?..)?;
    }
}

fn pod<T: Pod>(bytes: &[u8]) -> Result<&T, Refused> {
    from_bytes::<T>(bytes).map(|(item, _)| item).map_err(|()| Refused::Malformed("header alignment"))
}
