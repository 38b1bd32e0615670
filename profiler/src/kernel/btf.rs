//! Members of structs, and how wide they are, from the running kernel's BTF.
//!
//! aya reads the same data but keeps its types to itself, and only a handful of structs matter here, so this reads just
//! those. Format: <https://docs.kernel.org/bpf/btf.html>.

mod hooks;
mod walk;

use std::path::Path;

use rustc_hash::FxHashMap;
use thiserror::Error;

use walk::Info;

/// Where the kernel publishes its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How deep anonymous structs and unions are followed.
const MAX_DEPTH: u32 = 16;

/// Why BTF could not be read.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error(
        "cannot read the kernel's type information at {path}: {source}; a kernel built with CONFIG_DEBUG_INFO_BTF=y is \
         needed (5.15 or newer); run `profiler doctor`"
    )]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data is not BTF, or damaged.
    #[error("the kernel's type information is malformed ({0}); run `profiler doctor`")]
    Malformed(&'static str),
    /// A kind of type that is not known, and whose length cannot be told.
    #[error(
        "the kernel's type information has types of a kind ({0}) that this version does not know and cannot skip; a newer \
         version of profiler is needed; run `profiler doctor`"
    )]
    UnknownKind(u32),
    /// The loader of programs cannot read what it is given.
    #[error("the kernel's type information cannot be handed to the loader: {0}; run `profiler doctor`")]
    Loader(String),
}

/// Where a member lies in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in bits.
    pub bit_offset: u32,
    /// Bits of a bit field; 0 of any other member.
    field_bits: u32,
    /// The member's type.
    type_id: u32,
}

/// What a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalar {
    /// First bit, counted from the struct's first.
    pub bit_offset: u32,
    /// How many.
    pub bits: u32,
    /// Whether it has a sign.
    pub signed: bool,
    /// Whether it is a pointer.
    pub pointer: bool,
}

impl Member {
    /// Offset in bytes (of the byte that holds a bit field's first bit).
    pub fn offset(self) -> u32 {
        self.bit_offset / 8
    }
}

/// The kernel's types, indexed.
pub struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    strings_end: usize,
    /// Byte position of each type's record.
    types: Vec<u32>,
    structs: FxHashMap<Vec<u8>, u32>,
    enums: FxHashMap<Vec<u8>, u32>,
}

impl KernelTypes {
    /// Reads the running kernel's.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        Self::from_file(Path::new(KERNEL_BTF))
    }

    /// Reads a file of raw BTF.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        let data =
            std::fs::read(path).map_err(|source| BtfError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(data)
    }

    /// Indexes raw BTF.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let sections = walk::Sections::of(&data)?;
        let types = walk::positions(&data, sections)?;
        let (strings, strings_end) = sections.strings;
        let mut this =
            Self { data, strings, strings_end, types, structs: FxHashMap::default(), enums: FxHashMap::default() };
        this.index();
        Ok(this)
    }

    fn index(&mut self) {
        for (id, at) in (0_u32..).zip(&self.types).skip(1) {
            let at = *at as usize;
            let (Some(name), Some(info)) = (word_at(&self.data, at), self.info(at)) else { continue };
            if info.kind() == walk::STRUCT && info.count() > 0 {
                let name = self.string(name).to_vec();
                self.structs.entry(name).or_insert(id);
            } else if info.kind() == walk::ENUM && name != 0 {
                let name = self.string(name).to_vec();
                self.enums.entry(name).or_insert(id);
            }
        }
    }

    /// The hooks that programs attach to, as the loader reads them.
    pub fn hooks(&self) -> Result<aya::Btf, BtfError> {
        aya::Btf::parse(&hooks::of(self), aya::Endianness::default())
            .map_err(|error| BtfError::Loader(error.to_string()))
    }

    fn info(&self, at: usize) -> Option<Info> {
        word_at(&self.data, at + 4).map(Info)
    }

    /// Of the record at a position.
    fn name_and_kind(&self, at: u32) -> (&[u8], u32) {
        let at = at as usize;
        let name = word_at(&self.data, at).map(|name| self.string(name)).unwrap_or_default();
        (name, self.info(at).map_or(0, Info::kind))
    }

    /// Whether the kernel has a struct of this name.
    pub fn has_struct(&self, name: &str) -> bool {
        self.structs.contains_key(name.as_bytes())
    }

    /// Number of a struct among the types.
    pub fn struct_id(&self, name: &str) -> Option<u32> {
        self.structs.get(name.as_bytes()).copied()
    }

    /// Number of a function among the types.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        let place =
            self.types.iter().skip(1).position(|at| self.name_and_kind(*at) == (name.as_bytes(), walk::FUNC))?;
        u32::try_from(place + 1).ok()
    }

    /// A member by path: `member("task_struct", "se.cfs_rq")`. Anonymous structs and unions are looked into.
    pub fn member(&self, of: &str, path: &str) -> Option<Member> {
        let mut type_id = *self.structs.get(of.as_bytes())?;
        let mut bits = 0;
        let mut found = None;
        for name in path.split('.') {
            let member = self.find(self.resolve(type_id)?, name.as_bytes(), 0)?;
            bits = member.bit_offset.checked_add(bits)?;
            type_id = member.type_id;
            found = Some(Member { bit_offset: bits, ..member });
        }
        found
    }

    /// What a member holds, if it is one number or one pointer.
    pub fn scalar(&self, member: Member) -> Option<Scalar> {
        let whole = self.scalar_type(member.type_id, 0)?;
        let bits = if member.field_bits == 0 { whole.bits } else { member.field_bits };
        Some(Scalar { bit_offset: member.bit_offset.checked_add(whole.bit_offset)?, bits, ..whole })
    }

    /// The element of an array that is a member, as if it were a member itself.
    pub fn element(&self, member: Member, index: u32) -> Option<Member> {
        let at = *self.types.get(self.resolve(member.type_id)? as usize)? as usize;
        if self.info(at)?.kind() != walk::ARRAY {
            return None;
        }
        let (type_id, count) = (word_at(&self.data, at + 12)?, word_at(&self.data, at + 20)?);
        let bits = self.bytes_of(type_id, 0)?.checked_mul(8)?.checked_mul(index)?;
        let bit_offset = member.bit_offset.checked_add(bits)?;
        (index < count).then_some(Member { bit_offset, field_bits: 0, type_id })
    }

    /// How large a member is, in bytes, and what its type is, to be told.
    pub fn describe(&self, member: Member) -> String {
        if member.field_bits > 0 {
            return format!("a bit field of {} bits", member.field_bits);
        }
        let kind = self.resolve(member.type_id).and_then(|id| self.info(*self.types.get(id as usize)? as usize));
        let kind = match kind.map(Info::kind) {
            Some(walk::INT | walk::ENUM | walk::ENUM64) => "a number",
            Some(walk::PTR) => "a pointer",
            Some(walk::ARRAY) => "an array",
            Some(walk::STRUCT | walk::UNION) => "a struct",
            _ => "of a type that is not known",
        };
        match self.bytes_of(member.type_id, 0) {
            Some(bytes) => format!("{kind} of {bytes} bytes"),
            None => format!("{kind} of unknown size"),
        }
    }

    /// How large a member is in bytes.
    pub fn bytes(&self, member: Member) -> Option<u32> {
        self.bytes_of(member.type_id, 0)
    }

    fn scalar_type(&self, type_id: u32, depth: u32) -> Option<Scalar> {
        let at = *self.types.get(self.resolve(type_id)? as usize)? as usize;
        let info = self.info(at)?;
        let number = |bits, signed| Some(Scalar { bit_offset: 0, bits, signed, pointer: false });
        match info.kind() {
            walk::INT => {
                let encoding = word_at(&self.data, at + 12)?;
                let signed = (encoding >> 24) & 1 != 0;
                Some(Scalar { bit_offset: (encoding >> 16) & 0xff, bits: encoding & 0xff, signed, pointer: false })
            }
            walk::PTR => Some(Scalar { bit_offset: 0, bits: 64, signed: false, pointer: true }),
            walk::ENUM | walk::ENUM64 => number(word_at(&self.data, at + 8)?.checked_mul(8)?, info.flag()),
            // A struct around one number (`atomic_t`) is that number.
            walk::STRUCT if info.count() == 1 && depth < MAX_DEPTH => {
                let inner = self.scalar_type(word_at(&self.data, at + 16)?, depth + 1)?;
                (inner.bits == word_at(&self.data, at + 8)?.checked_mul(8)?).then_some(inner)
            }
            _ => None,
        }
    }

    fn bytes_of(&self, type_id: u32, depth: u32) -> Option<u32> {
        let at = *self.types.get(self.resolve(type_id)? as usize)? as usize;
        match self.info(at)?.kind() {
            walk::PTR => Some(8),
            walk::INT | walk::ENUM | walk::ENUM64 | walk::STRUCT | walk::UNION => word_at(&self.data, at + 8),
            walk::ARRAY if depth < MAX_DEPTH => {
                let element = self.bytes_of(word_at(&self.data, at + 12)?, depth + 1)?;
                element.checked_mul(word_at(&self.data, at + 20)?)
            }
            _ => None,
        }
    }

    /// Value of an enumerator.
    pub fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        let at = *self.types.get(*self.enums.get(of.as_bytes())? as usize)? as usize;
        let count = self.info(at)?.count();
        (0..count).find_map(|i| {
            let at = at + 12 + 8 * i;
            (self.string(word_at(&self.data, at)?) == name.as_bytes()).then(|| word_at(&self.data, at + 4)).flatten()
        })
    }

    fn find(&self, type_id: u32, name: &[u8], depth: u32) -> Option<Member> {
        let at = *self.types.get(type_id as usize)? as usize;
        let info = self.info(at)?;
        if !matches!(info.kind(), walk::STRUCT | walk::UNION) || depth > MAX_DEPTH {
            return None;
        }
        for i in 0..info.count() {
            let at = at + 12 + 12 * i;
            let (member_name, member_type, raw) =
                (word_at(&self.data, at)?, word_at(&self.data, at + 4)?, word_at(&self.data, at + 8)?);
            let (bit_offset, field_bits) = if info.flag() { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            let member_name = self.string(member_name);
            if member_name == name {
                return Some(Member { bit_offset, field_bits, type_id: member_type });
            }
            if member_name.is_empty()
                && let Some(inner) = self.resolve(member_type).and_then(|id| self.find(id, name, depth + 1))
            {
                let bit_offset = bit_offset.checked_add(inner.bit_offset)?;
                return Some(Member { bit_offset, ..inner });
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut type_id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let at = *self.types.get(type_id as usize)? as usize;
            match self.info(at)?.kind() {
                walk::TYPEDEF | walk::VOLATILE | walk::CONST | walk::RESTRICT | walk::TYPE_TAG => {
                    type_id = word_at(&self.data, at + 8)?;
                }
                _ => return Some(type_id),
            }
        }
        None
    }

    fn string(&self, offset: u32) -> &[u8] {
        let all = self.data.get(self.strings..self.strings_end).unwrap_or_default();
        let rest = all.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn word_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    }

    /// `struct outer { int a; struct { int b; }; struct outer *c; typedef-of-outer d }` in raw BTF.
    fn small() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0int\0color\0red\0blue\0paint\0";
        let at = |name: &str| {
            let with_end = format!("{name}\0");
            strings.windows(with_end.len()).position(|w| w == with_end.as_bytes()).map_or(0, |p| p as u32)
        };
        let types = words(&[
            at("int"),
            walk::INT << 24,
            4,
            32, // 1
            0,
            (walk::STRUCT << 24) | 1,
            4,
            at("b"),
            1,
            0, // 2: anonymous
            at("outer"),
            (walk::STRUCT << 24) | 3,
            24,
            at("a"),
            1,
            0,
            0,
            2,
            64,
            at("c"),
            1,
            128, // 3
            at("color"),
            (walk::ENUM << 24) | 2,
            4,
            at("red"),
            0,
            at("blue"),
            7, // 4
            at("paint"),
            walk::FUNC << 24,
            0, // 5
        ]);
        let mut data = Vec::new();
        data.extend(0xeb9f_u16.to_ne_bytes());
        data.extend([1, 0]);
        data.extend(words(&[24, 0, types.len() as u32, types.len() as u32, strings.len() as u32]));
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_inside_anonymous_structs() -> Result<(), BtfError> {
        let types = KernelTypes::parse(small())?;
        assert_eq!(types.member("outer", "a").map(Member::offset), Some(0));
        assert_eq!(types.member("outer", "b").map(Member::offset), Some(8));
        assert_eq!(types.member("outer", "c").map(Member::offset), Some(16));
        assert_eq!(types.member("outer", "z"), None);
        assert_eq!(types.member("nobody", "a"), None);
        assert_eq!(types.enumerator("color", "blue"), Some(7));
        assert_eq!(types.enumerator("color", "green"), None);
        Ok(())
    }

    #[test]
    fn structs_and_functions_have_their_numbers() -> Result<(), BtfError> {
        let types = KernelTypes::parse(small())?;
        assert_eq!(types.struct_id("outer"), Some(3));
        assert_eq!(types.struct_id("paint"), None);
        assert_eq!(types.function_id("paint"), Some(5));
        assert_eq!(types.function_id("outer"), None);
        Ok(())
    }

    #[test]
    fn a_missing_file_says_what_is_needed() {
        let Err(error) = KernelTypes::from_file(Path::new("/nonexistent/vmlinux")) else {
            panic!("a missing file was read");
        };
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn offsets_too_large_for_any_struct_are_no_member() -> Result<(), BtfError> {
        let mut data = small();
        let huge = (1_u32 << 31).to_ne_bytes();
        // In the records after the 24 bytes of header and the integer's 16: the anonymous struct's only member, and that
        // struct itself as a member of `outer`.
        for at in [24 + 16 + 20, 24 + 16 + 24 + 12 + 20] {
            data[at..at + 4].copy_from_slice(&huge);
        }
        let types = KernelTypes::parse(data)?;
        assert_eq!(types.member("outer", "b"), None);
        assert_eq!(types.member("outer", "c").map(Member::offset), Some(16));
        Ok(())
    }

    proptest! {
        #[test]
        fn damaged_data_is_refused_or_read_but_never_panics(cut in 0_usize..200, flip in 0_usize..200, bit in 0_u8..8) {
            let mut data = small();
            data.truncate(cut.min(data.len()));
            if let Some(byte) = data.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            if let Ok(types) = KernelTypes::parse(data) {
                types.member("outer", "b");
                types.enumerator("color", "red");
            }
        }
    }
}
