//! Member offsets from the running kernel's BTF.
//!
//! aya reads the same data but keeps its types to itself, and only a handful of structs matter here, so this reads just
//! those. Format: <https://docs.kernel.org/bpf/btf.html>.

use std::path::Path;

use rustc_hash::FxHashMap;
use thiserror::Error;

/// Where the kernel publishes its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

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
}

/// Where a member lies in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in bits.
    pub bit_offset: u32,
    /// The member's type.
    type_id: u32,
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
        if data.len() < 24 || u16::from_ne_bytes([data[0], data[1]]) != MAGIC {
            return Err(BtfError::Malformed("no BTF header"));
        }
        let word = |at: usize| word_at(&data, at).ok_or(BtfError::Malformed("header cut short"));
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let (strings, strings_len) = (header + word(16)? as usize, word(20)? as usize);
        let (types_end, strings_end) = (types_at + types_len, strings + strings_len);
        if types_end > data.len() || strings_end > data.len() {
            return Err(BtfError::Malformed("sections reach beyond the end"));
        }
        let mut this = Self {
            data,
            strings,
            strings_end,
            types: vec![0],
            structs: FxHashMap::default(),
            enums: FxHashMap::default(),
        };
        this.index(types_at, types_end)?;
        Ok(this)
    }

    fn index(&mut self, mut at: usize, end: usize) -> Result<(), BtfError> {
        let short = BtfError::Malformed("a type is cut short");
        while at + 12 <= end {
            let (Some(name), Some(info)) = (word_at(&self.data, at), word_at(&self.data, at + 4)) else {
                return Err(short);
            };
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let more = match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return Err(BtfError::Malformed("a kind of type that is not known")),
            };
            let id = self.types.len() as u32;
            self.types.push(at as u32);
            if kind == KIND_STRUCT && count > 0 {
                let name = self.string(name).to_vec();
                self.structs.entry(name).or_insert(id);
            } else if kind == KIND_ENUM && name != 0 {
                let name = self.string(name).to_vec();
                self.enums.entry(name).or_insert(id);
            }
            at += 12 + more;
        }
        if at == end { Ok(()) } else { Err(short) }
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
        let is_it = |at: usize| {
            let kind = word_at(&self.data, at + 4).map(|info| (info >> 24) & 0x1f);
            kind == Some(KIND_FUNC) && word_at(&self.data, at).map(|at| self.string(at)) == Some(name.as_bytes())
        };
        let place = self.types.iter().skip(1).position(|at| is_it(*at as usize))?;
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
            found = Some(Member { bit_offset: bits, type_id });
        }
        found
    }

    /// Value of an enumerator.
    pub fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        let at = *self.types.get(*self.enums.get(of.as_bytes())? as usize)? as usize;
        let count = (word_at(&self.data, at + 4)? & 0xffff) as usize;
        (0..count).find_map(|i| {
            let at = at + 12 + 8 * i;
            (self.string(word_at(&self.data, at)?) == name.as_bytes()).then(|| word_at(&self.data, at + 4)).flatten()
        })
    }

    fn find(&self, type_id: u32, name: &[u8], depth: u32) -> Option<Member> {
        let at = *self.types.get(type_id as usize)? as usize;
        let info = word_at(&self.data, at + 4)?;
        let kind = (info >> 24) & 0x1f;
        if (kind != KIND_STRUCT && kind != KIND_UNION) || depth > MAX_DEPTH {
            return None;
        }
        let bit_fields = info >> 31 != 0;
        for i in 0..(info & 0xffff) as usize {
            let at = at + 12 + 12 * i;
            let (member_name, member_type, raw) =
                (word_at(&self.data, at)?, word_at(&self.data, at + 4)?, word_at(&self.data, at + 8)?);
            let bit_offset = if bit_fields { raw & 0x00ff_ffff } else { raw };
            let member_name = self.string(member_name);
            if member_name == name {
                return Some(Member { bit_offset, type_id: member_type });
            }
            if member_name.is_empty()
                && let Some(inner) = self.resolve(member_type).and_then(|id| self.find(id, name, depth + 1))
            {
                let bit_offset = bit_offset.checked_add(inner.bit_offset)?;
                return Some(Member { bit_offset, type_id: inner.type_id });
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut type_id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let at = *self.types.get(type_id as usize)? as usize;
            match (word_at(&self.data, at + 4)? >> 24) & 0x1f {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
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
            KIND_INT << 24,
            4,
            32, // 1
            0,
            (KIND_STRUCT << 24) | 1,
            4,
            at("b"),
            1,
            0, // 2: anonymous
            at("outer"),
            (KIND_STRUCT << 24) | 3,
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
            (KIND_ENUM << 24) | 2,
            4,
            at("red"),
            0,
            at("blue"),
            7, // 4
            at("paint"),
            KIND_FUNC << 24,
            0, // 5
        ]);
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
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
