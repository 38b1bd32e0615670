//! The kernel's types as the loader of programs needs them: it looks up the hooks, by name, and uses their numbers. All
//! other types become forward declarations without a name, which keep the numbers as they are: so the loader never meets
//! a kind that it does not know, and what it reads is a tenth as long.

use super::{KernelTypes, walk};

/// What tracepoints' typedefs begin with, and iterators' functions.
const HOOKS: [(u32, &[u8]); 2] = [(walk::TYPEDEF, b"btf_trace_"), (walk::FUNC, b"bpf_iter_")];

/// Raw BTF of the hooks.
pub(super) fn of(types: &KernelTypes) -> Vec<u8> {
    let mut words = Vec::with_capacity(types.types.len() * 3);
    let mut strings = vec![0];
    for record in types.types.iter().skip(1) {
        let (name, kind) = types.name_and_kind(*record);
        let is_hook = HOOKS.iter().any(|(of, prefix)| *of == kind && name.starts_with(prefix));
        if is_hook {
            words.extend([strings.len() as u32, kind << 24, 0]);
            strings.extend(name);
            strings.push(0);
        } else {
            words.extend([0, walk::FWD << 24, 0]);
        }
    }
    let (types_len, strings_len) = (words.len() as u32 * 4, strings.len() as u32);
    let header = [0xeb9f | 1 << 16, 24, 0, types_len, types_len, strings_len];
    let mut data: Vec<u8> = header.iter().chain(&words).flat_map(|word| word.to_ne_bytes()).collect();
    data.extend(strings);
    data
}

#[cfg(test)]
mod tests {
    use aya::Endianness;
    use aya_obj::btf::{Btf, BtfKind};

    use super::*;

    /// Raw BTF of an unknown kind and of two hooks behind it.
    fn newer_kernel() -> Vec<u8> {
        let strings = b"\0btf_trace_sched_switch\0bpf_iter_task\0";
        let unknown = [0, 21 << 24 | 1, 0, 1, 2];
        let types = [&unknown[..], &[1, walk::TYPEDEF << 24, 1], &[24, walk::FUNC << 24, 1]].concat();
        let header = [0xeb9f | 1 << 16, 24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32];
        let mut data: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        data.extend(strings);
        data
    }

    #[test]
    fn hooks_keep_their_numbers_where_a_kind_is_unknown() -> Result<(), Box<dyn std::error::Error>> {
        assert!(Btf::parse(&newer_kernel(), Endianness::default()).is_err(), "the loader knows the kind by now");
        let types = KernelTypes::parse(newer_kernel())?;
        let hooks = Btf::parse(&of(&types), Endianness::default())?;
        assert_eq!(hooks.id_by_type_name_kind("btf_trace_sched_switch", BtfKind::Typedef)?, 2);
        assert_eq!(hooks.id_by_type_name_kind("bpf_iter_task", BtfKind::Func)?, 3);
        Ok(())
    }

    #[test]
    fn the_running_kernels_hooks_keep_their_numbers() -> Result<(), Box<dyn std::error::Error>> {
        let Ok(types) = KernelTypes::of_running_kernel() else { return Ok(()) };
        let (all, hooks) = (Btf::from_sys_fs()?, Btf::parse(&of(&types), Endianness::default())?);
        for (name, kind) in [("btf_trace_sched_switch", BtfKind::Typedef), ("bpf_iter_task", BtfKind::Func)] {
            assert_eq!(hooks.id_by_type_name_kind(name, kind)?, all.id_by_type_name_kind(name, kind)?, "{name}");
        }
        Ok(())
    }
}
