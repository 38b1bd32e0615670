//! The function by which programs tell the verifier what lies at an address (`bpf_rdonly_cast`, in kernels from 6.2 on): memory
//! that is reached through an array of pointers, whose type is lost, is then loaded plainly and not by a checked copy, which
//! costs ten times as much.
//!
//! Such functions are called by their number in the kernel's own type information. The programs are compiled with a number that
//! stands for it; here it is put in. Instructions:
//! <https://www.kernel.org/doc/html/latest/bpf/standardization/instruction-set.html#call-instruction-variants-kernel>.

use profiler_ebpf::settings::CAST_CALL;

use super::btf::KernelTypes;

/// Opcode of a call.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL` in the place of the source register: the number is that of a function of the kernel.
const OF_KERNEL_FUNCTION: u8 = 2 << 4;

/// What is needed to call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cast {
    function: u32,
    /// BTF id of `files_struct`.
    pub files_struct_type: u32,
}

impl Cast {
    /// Finds it; none where the kernel does not have it, or interprets programs: an interpreter calls no functions of the kernel.
    pub fn find(types: &KernelTypes) -> Option<Self> {
        let compiled = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
        if compiled.trim() == "0" {
            return None;
        }
        types.member("files_struct", "fd_array")?;
        Some(Self {
            function: types.function_id("bpf_rdonly_cast")?,
            files_struct_type: types.struct_id("files_struct")?,
        })
    }

    /// The programs with their calls in place.
    pub fn called_in(self, object: &[u8]) -> Vec<u8> {
        let placeholder = instruction(0, CAST_CALL.to_le_bytes());
        let call = instruction(OF_KERNEL_FUNCTION, self.function.to_le_bytes());
        let mut object = object.to_vec();
        // Instructions are eight bytes each, and sections that hold them begin at a multiple of eight.
        for place in object.as_chunks_mut::<8>().0 {
            if *place == placeholder {
                *place = call;
            }
        }
        object
    }
}

fn instruction(registers: u8, immediate: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = immediate;
    [CALL, registers, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calls_that_stand_for_it_are_changed() {
        let cast = Cast { function: 0x0001_0203, files_struct_type: 7 };
        let helper = instruction(0, 5_u32.to_le_bytes());
        let placeholder = instruction(0, CAST_CALL.to_le_bytes());
        let before = [helper, placeholder, helper, placeholder].concat();
        let call = [0x85, 0x20, 0, 0, 3, 2, 1, 0];
        assert_eq!(cast.called_in(&before), [helper, call, helper, call].concat());
        // What lies across two instructions is not one.
        let shifted = [&[0; 4][..], &placeholder, &[0; 4]].concat();
        assert_eq!(cast.called_in(&shifted), shifted);
    }

    #[test]
    fn the_object_in_the_tree_has_calls_to_put_in() {
        let cast = Cast { function: 9, files_struct_type: 7 };
        let object = crate::kernel::load::OBJECT;
        assert_ne!(cast.called_in(object), object);
    }
}
