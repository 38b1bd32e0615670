//! Which members of the kernel's structs the programs load, and where and how wide they are in the running kernel.

use profiler_ebpf::{COMM_BYTES, Member, Offsets, member::Shape};

use super::{
    KernelError,
    btf::{self, KernelTypes},
};

/// Resolves every member that the programs need. One that they cannot do without, and one that is of a kind or a width that
/// they cannot load, is an error that names it.
pub fn resolve(types: &KernelTypes, hierarchy: &HierarchyKind) -> Result<Offsets, KernelError> {
    let read = Reader(types);
    let (css_set_cgroup, css_cgroup) = match hierarchy {
        HierarchyKind::V2 => (read.need("css_set", "dfl_cgrp")?, Member::ABSENT),
        HierarchyKind::V1 { controller, .. } => {
            let index = types
                .enumerator("cgroup_subsys_id", &format!("{controller}_cgrp_id"))
                .ok_or_else(|| KernelError::MissingController { controller: controller.clone() })?;
            (read.need_element("css_set", "subsys", index)?, read.need("cgroup_subsys_state", "cgroup")?)
        }
    };
    let throttle = throttle_clock(read)?;
    let in_thread_info = types.member("task_struct", "thread_info.cpu").is_some();
    Ok(Offsets {
        task_state: read.need("task_struct", "__state")?,
        task_pid: read.need("task_struct", "pid")?,
        task_tgid: read.need("task_struct", "tgid")?,
        task_flags: read.need("task_struct", "flags")?,
        task_comm: read.place("task_struct", "comm", COMM_BYTES as u32)?.ok_or(missing("task_struct", "comm"))?,
        task_utime: read.need("task_struct", "utime")?,
        task_stime: read.need("task_struct", "stime")?,
        task_exec: read.need("task_struct", "se.sum_exec_runtime")?,
        task_cgroups: read.need("task_struct", "cgroups")?,
        task_files: read.need("task_struct", "files")?,
        task_on_cpu: read.need("task_struct", "on_cpu")?,
        task_cpu: read.need("task_struct", if in_thread_info { "thread_info.cpu" } else { "cpu" })?,
        task_status: read.want("task_struct", "thread_info.status")?,
        task_in_iowait: read.need("task_struct", "in_iowait")?,
        task_cfs_rq: read.want("task_struct", "se.cfs_rq")?,
        task_group: read.want("task_struct", "sched_task_group")?,
        group_cfs_rq: read.want("task_group", "cfs_rq")?,
        cfs_rq_rq: read.want("cfs_rq", "rq")?,
        cfs_rq_throttled_since: throttle.map_or(Member::ABSENT, |clock| clock.since),
        cfs_rq_throttled_time: throttle.map_or(Member::ABSENT, |clock| clock.time),
        rq_clock: throttle.map_or(Member::ABSENT, |clock| clock.clock),
        css_set_cgroup,
        css_cgroup,
        cgroup_kn: read.need("cgroup", "kn")?,
        cgroup_root: read.need("cgroup", "root")?,
        root_hierarchy: read.need("cgroup_root", "hierarchy_id")?,
        kn_id: read.need("kernfs_node", "id")?,
        files_fdt: read.need("files_struct", "fdt")?,
        files_fd_array: read.place("files_struct", "fd_array", 8)?.unwrap_or(Offsets::ABSENT),
        fdt_fd: read.need("fdtable", "fd")?,
        fdt_max_fds: read.need("fdtable", "max_fds")?,
        file_inode: read.need("file", "f_inode")?,
        file_op: read.need("file", "f_op")?,
        inode_mode: read.need("inode", "i_mode")?,
        regs_syscall: read.need("pt_regs", registers::SYSCALL)?,
        regs_args: [
            read.need("pt_regs", registers::ARGUMENTS[0])?,
            read.need("pt_regs", registers::ARGUMENTS[1])?,
            read.need("pt_regs", registers::ARGUMENTS[2])?,
        ],
        regs_ip: read.need("pt_regs", registers::IP)?,
        regs_sp: read.need("pt_regs", registers::SP)?,
        regs_fp: read.need("pt_regs", registers::FP)?,
        cfs_rq_throttle_count: throttle.map_or(Member::ABSENT, |clock| clock.count),
        task_last_queued: read.want("task_struct", "sched_info.last_queued")?,
        rq_wall_clock: read.want("rq", "clock")?,
        rq_clock_lost: throttle.map_or(Member::ABSENT, |clock| clock.lost),
        file_private_data: read.want("file", "private_data")?,
        socket_sk: read.want("socket", "sk")?,
        sock_family: read.want("sock", "__sk_common.skc_family")?,
        sock_remote_port: read.want("sock", "__sk_common.skc_dport")?,
        sock_remote_ipv4: read.place("sock", "__sk_common.skc_daddr", 4)?.unwrap_or(Offsets::ABSENT),
        sock_remote_ipv6: read.place("sock", "__sk_common.skc_v6_daddr", 16)?.unwrap_or(Offsets::ABSENT),
        unix_peer: read.want("unix_sock", "peer")?,
        unix_address: read.want("unix_sock", "addr")?,
        unix_address_length: read.want("unix_address", "len")?,
        unix_address_name: read.place("unix_address", "name", 0)?.unwrap_or(Offsets::ABSENT),
        task_stack_pointer: read.want("task_struct", "thread.sp")?,
    })
}

/// Members by name, as the programs load them.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a KernelTypes);

impl Reader<'_> {
    /// A member that every kernel has.
    fn need<T: Shape>(self, of: &'static str, member: &'static str) -> Result<Member<T>, KernelError> {
        self.find(of, member)?.ok_or(missing(of, member))
    }

    /// A member that some kernels have.
    fn want<T: Shape>(self, of: &'static str, member: &'static str) -> Result<Member<T>, KernelError> {
        Ok(self.find(of, member)?.unwrap_or(Member::ABSENT))
    }

    fn find<T: Shape>(self, of: &'static str, member: &'static str) -> Result<Option<Member<T>>, KernelError> {
        let Some(found) = self.0.member(of, member) else { return Ok(None) };
        self.loaded(of, member, found).map(Some)
    }

    /// An element of an array.
    fn need_element<T: Shape>(
        self,
        of: &'static str,
        member: &'static str,
        index: u32,
    ) -> Result<Member<T>, KernelError> {
        let array = self.0.member(of, member).ok_or(missing(of, member))?;
        let element = self.0.element(array, index).ok_or_else(|| self.odd::<T>(of, member, array))?;
        self.loaded(of, member, element)
    }

    /// How the programs load a member.
    fn loaded<T: Shape>(
        self,
        of: &'static str,
        member: &'static str,
        found: btf::Member,
    ) -> Result<Member<T>, KernelError> {
        let scalar = self.0.scalar(found).filter(|scalar| !T::IS_POINTER || (scalar.pointer && scalar.bits == 64));
        scalar
            .and_then(|scalar| Member::at(scalar.bit_offset, scalar.bits, scalar.signed))
            .ok_or_else(|| self.odd::<T>(of, member, found))
    }

    fn odd<T: Shape>(self, of: &'static str, member: &'static str, found: btf::Member) -> KernelError {
        let expected = if T::IS_POINTER { "a pointer".to_owned() } else { format!("a number of {} bytes", T::BYTES) };
        KernelError::OddMember { of, member, found: self.0.describe(found), expected }
    }

    /// Offset of a member of which only the address is needed, and at least so many bytes there.
    fn place(self, of: &'static str, member: &'static str, bytes: u32) -> Result<Option<u32>, KernelError> {
        let Some(found) = self.0.member(of, member) else { return Ok(None) };
        if self.0.bytes(found).is_none_or(|there| there < bytes) {
            let expected = format!("{bytes} bytes at least");
            return Err(KernelError::OddMember { of, member, found: self.0.describe(found), expected });
        }
        Ok(Some(found.offset()))
    }
}

fn missing(of: &'static str, member: &'static str) -> KernelError {
    KernelError::MissingMember { of, member }
}

/// Which hierarchy the containers' cgroup ids come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HierarchyKind {
    /// The unified one.
    V2,
    /// A v1 hierarchy, named by one of its controllers.
    V1 {
        /// As in `cgroup_subsys_id` (`cpu`, `memory`, …).
        controller: String,
        /// The hierarchy's number in /proc/PID/cgroup.
        number: u32,
    },
}

impl HierarchyKind {
    /// The kernel's number of the hierarchy; 0 is the unified one.
    pub fn number(&self) -> u32 {
        match self {
            Self::V2 => 0,
            Self::V1 { number, .. } => *number,
        }
    }
}

/// The clock by which a run queue's time without quota is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ThrottleClock {
    since: Member<u64>,
    time: Member<u64>,
    clock: Member<u64>,
    count: Member<u32>,
    lost: Member<u64>,
}

/// The best clock the kernel has: its own (6.6 and newer), else the one that stops the load tracking, which runs in its
/// own time and is not cleared at the end of a throttling. None without CONFIG_CFS_BANDWIDTH.
fn throttle_clock(read: Reader<'_>) -> Result<Option<ThrottleClock>, KernelError> {
    const OWN: [&str; 3] = ["throttled_clock_self", "throttled_clock_self_time", "clock"];
    const PELT: [&str; 3] = ["throttled_clock_pelt", "throttled_clock_pelt_time", "clock_pelt"];
    const TASK: [&str; 3] = ["throttled_clock_task", "throttled_clock_task_time", "clock_task"];
    for ([since, time, clock], counts, loses) in [(OWN, false, false), (PELT, true, true), (TASK, true, false)] {
        let found = ThrottleClock {
            since: read.want("cfs_rq", since)?,
            time: read.want("cfs_rq", time)?,
            clock: read.want("rq", clock)?,
            count: if counts { read.want("cfs_rq", "throttle_count")? } else { Member::ABSENT },
            lost: if loses { read.want("rq", "lost_idle_time")? } else { Member::ABSENT },
        };
        let lacks = found.since.is_absent()
            || found.time.is_absent()
            || found.clock.is_absent()
            || (counts && found.count.is_absent())
            || (loses && found.lost.is_absent());
        if !lacks {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Names of the registers in `pt_regs`.
#[cfg(target_arch = "x86_64")]
mod registers {
    pub const SYSCALL: &str = "orig_ax";
    pub const ARGUMENTS: [&str; 3] = ["di", "si", "dx"];
    pub const IP: &str = "ip";
    pub const SP: &str = "sp";
    pub const FP: &str = "bp";
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::Pointer;

    use super::*;
    use crate::kernel::btf::BtfError;

    #[test]
    fn the_running_kernel_has_every_member_or_there_is_no_btf() -> Result<(), Box<dyn std::error::Error>> {
        let Ok(types) = KernelTypes::of_running_kernel() else { return Ok(()) };
        let offsets = resolve(&types, &HierarchyKind::V2)?;
        assert_ne!(offsets.task_pid, offsets.task_tgid);
        assert!(offsets.css_cgroup.is_absent());
        // Those that every switch loads are as wide as the programs take them to be: another width costs shifts.
        assert!(offsets.task_pid.is_plain() && offsets.task_state.is_plain() && offsets.task_exec.is_plain());
        assert!(!offsets.task_in_iowait.is_plain());
        Ok(())
    }

    #[test]
    fn an_unknown_controller_is_named() {
        let Ok(types) = KernelTypes::of_running_kernel() else { return };
        let error = resolve(&types, &HierarchyKind::V1 { controller: "nosuch".into(), number: 1 });
        assert!(error.is_err_and(|error| error.to_string().contains("nosuch")));
    }

    /// Raw BTF of structs with members of these types, eight bytes apart: `"on_cpu: u8"`. `bit` is a bit field of two bits
    /// that begins at the third.
    fn types(structs: &[(&str, &[&str])]) -> Result<KernelTypes, BtfError> {
        const INT: u32 = 1 << 24;
        const KINDS: [&str; 8] = ["", "u64", "ptr", "u8", "i32", "atomic", "u128", "bit"];
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let mut words = vec![name("u64"), INT, 8, 64];
        words.extend([0, 2 << 24, 1]);
        words.extend([name("u8"), INT, 1, 8]);
        words.extend([name("i32"), INT, 4, 1 << 24 | 32]);
        words.extend([name("atomic_t"), 4 << 24 | 1, 4, name("counter"), 4, 0]);
        words.extend([name("u128"), INT, 16, 128]);
        words.extend([name("bits"), INT, 1, 8]);
        for (of, members) in structs {
            words.extend([name(of), 1 << 31 | 4 << 24 | members.len() as u32, members.len() as u32 * 8]);
            for (at, member) in members.iter().enumerate() {
                let (member, kind) = member.split_once(": ").unwrap_or((member, "u64"));
                let kind = KINDS.iter().position(|known| *known == kind).unwrap_or_default() as u32;
                let field = if kind == 7 { 2 << 24 | 2 } else { 0 };
                words.extend([name(member), kind, field + at as u32 * 64]);
            }
        }
        let (types_len, strings_len) = (words.len() as u32 * 4, strings.len() as u32);
        let header = [0xeb9f | 1 << 16, 24, 0, types_len, types_len, strings_len];
        let mut data: Vec<u8> = header.iter().chain(&words).flat_map(|word| word.to_ne_bytes()).collect();
        data.extend(strings);
        KernelTypes::parse(data)
    }

    #[test]
    fn a_missing_member_is_named() -> Result<(), BtfError> {
        for (there, missing) in [(&["pid"][..], "__state"), (&["__state", "tgid"][..], "pid")] {
            let types = types(&[("task_struct", there), ("css_set", &["dfl_cgrp: ptr"])])?;
            let error = resolve(&types, &HierarchyKind::V2);
            let named = format!("task_struct.{missing} ");
            assert!(error.is_err_and(|error| error.to_string().contains(&named)), "{missing}");
        }
        Ok(())
    }

    #[test]
    fn a_member_is_loaded_as_wide_as_the_kernel_has_it() -> Result<(), Box<dyn std::error::Error>> {
        let types = types(&[("task_struct", &["a: i32", "on_cpu: u8", "b: bit", "wide: u64", "count: atomic"])])?;
        let read = |member| Reader(&types).need::<u32>("task_struct", member);
        assert!(read("a")?.is_plain() && read("count")?.is_plain());
        let on_cpu = read("on_cpu")?;
        assert_eq!((on_cpu.offset(), on_cpu.load_bytes(), on_cpu.value_in(0xff)), (8, 1, 0xff));
        let bits = read("b")?;
        assert_eq!((bits.offset(), bits.load_bytes(), bits.value_in(0b1111_1011)), (16, 1, 0b10));
        let wide = read("wide")?;
        assert_eq!((wide.offset(), wide.load_bytes(), wide.value_in(7)), (24, 8, 7));
        Ok(())
    }

    #[test]
    fn a_member_that_cannot_be_loaded_is_named_with_its_size() -> Result<(), BtfError> {
        let types = types(&[("task_struct", &["pid: u128", "files: u8"])])?;
        let number = Reader(&types).need::<u32>("task_struct", "pid").map_err(|error| error.to_string());
        assert!(number.is_err_and(|text| text.contains("task_struct.pid") && text.contains("16 bytes")));
        let pointer = Reader(&types).need::<Pointer>("task_struct", "files").map_err(|error| error.to_string());
        assert!(pointer.is_err_and(|text| text.contains("task_struct.files") && text.contains("1 bytes")));
        let place = Reader(&types).place("task_struct", "files", 16).map_err(|error| error.to_string());
        assert!(place.is_err_and(|text| text.contains("task_struct.files") && text.contains("16 bytes at least")));
        Ok(())
    }

    #[test]
    fn the_kernels_own_throttle_clock_is_preferred_to_older_ones() -> Result<(), Box<dyn std::error::Error>> {
        let own = ["throttled_clock_self", "throttled_clock_self_time"];
        let pelt = ["throttled_clock_pelt", "throttled_clock_pelt_time", "throttle_count: i32"];
        let rq: &[&str] = &["clock", "clock_pelt", "lost_idle_time"];
        let clock = |types: &KernelTypes| {
            throttle_clock(Reader(types)).map(|clock| {
                clock.map(|found| {
                    let offsets = [found.since, found.time, found.clock, found.lost].map(Member::plain_offset);
                    (offsets, found.count.plain_offset())
                })
            })
        };
        let both = types(&[("cfs_rq", &[&own[..], &pelt[..]].concat()), ("rq", rq)])?;
        assert_eq!(clock(&both)?, Some(([0, 8, 0, Offsets::ABSENT], Offsets::ABSENT)));
        let older = types(&[("cfs_rq", &pelt), ("rq", rq)])?;
        assert_eq!(clock(&older)?, Some(([0, 8, 8, 16], 16)));
        let without_quotas = types(&[("cfs_rq", &["curr"]), ("rq", rq)])?;
        assert_eq!(clock(&without_quotas)?, None);
        Ok(())
    }
}
