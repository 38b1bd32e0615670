//! Which members of the kernel's structs the programs load, and where they are in the running kernel.

use profiler_ebpf::Offsets;

use super::{
    KernelError,
    btf::{KernelTypes, Member},
};

/// Resolves every offset that the programs need. A member that they cannot do without is an error that names it.
pub fn resolve(types: &KernelTypes, hierarchy: &HierarchyKind) -> Result<Offsets, KernelError> {
    let need = |of: &'static str, path: &'static str| {
        types.member(of, path).map(Member::offset).ok_or(KernelError::MissingMember { of, member: path })
    };
    let want = |of: &str, path: &str| types.member(of, path).map_or(Offsets::ABSENT, Member::offset);
    let in_iowait = types
        .member("task_struct", "in_iowait")
        .ok_or(KernelError::MissingMember { of: "task_struct", member: "in_iowait" })?;
    let (css_set_cgroup, css_cgroup) = match hierarchy {
        HierarchyKind::V2 => (need("css_set", "dfl_cgrp")?, Offsets::ABSENT),
        HierarchyKind::V1 { controller, .. } => {
            let index = types
                .enumerator("cgroup_subsys_id", &format!("{controller}_cgrp_id"))
                .ok_or_else(|| KernelError::MissingController { controller: controller.clone() })?;
            (need("css_set", "subsys")? + index * 8, need("cgroup_subsys_state", "cgroup")?)
        }
    };
    let throttle = throttle_clock(types);
    Ok(Offsets {
        task_state: need("task_struct", "__state")?,
        task_pid: need("task_struct", "pid")?,
        task_tgid: need("task_struct", "tgid")?,
        task_flags: need("task_struct", "flags")?,
        task_comm: need("task_struct", "comm")?,
        task_utime: need("task_struct", "utime")?,
        task_stime: need("task_struct", "stime")?,
        task_exec: need("task_struct", "se.sum_exec_runtime")?,
        task_cgroups: need("task_struct", "cgroups")?,
        task_files: need("task_struct", "files")?,
        task_on_cpu: need("task_struct", "on_cpu")?,
        task_cpu: types
            .member("task_struct", "thread_info.cpu")
            .or_else(|| types.member("task_struct", "cpu"))
            .map(Member::offset)
            .ok_or(KernelError::MissingMember { of: "task_struct", member: "thread_info.cpu" })?,
        task_status: want("task_struct", "thread_info.status"),
        task_in_iowait: in_iowait.offset(),
        task_in_iowait_bit: in_iowait.bit_offset % 8,
        task_cfs_rq: want("task_struct", "se.cfs_rq"),
        task_group: want("task_struct", "sched_task_group"),
        group_cfs_rq: want("task_group", "cfs_rq"),
        cfs_rq_rq: want("cfs_rq", "rq"),
        cfs_rq_throttled_since: throttle.map_or(Offsets::ABSENT, |clock| clock.since),
        cfs_rq_throttled_time: throttle.map_or(Offsets::ABSENT, |clock| clock.time),
        rq_clock: throttle.map_or(Offsets::ABSENT, |clock| clock.clock),
        css_set_cgroup,
        css_cgroup,
        cgroup_kn: need("cgroup", "kn")?,
        cgroup_root: need("cgroup", "root")?,
        root_hierarchy: need("cgroup_root", "hierarchy_id")?,
        kn_id: need("kernfs_node", "id")?,
        files_fdt: need("files_struct", "fdt")?,
        files_fd_array: want("files_struct", "fd_array"),
        fdt_fd: need("fdtable", "fd")?,
        fdt_max_fds: need("fdtable", "max_fds")?,
        file_inode: need("file", "f_inode")?,
        file_op: need("file", "f_op")?,
        inode_mode: need("inode", "i_mode")?,
        regs_syscall: need("pt_regs", registers::SYSCALL)?,
        regs_args: [
            need("pt_regs", registers::ARGUMENTS[0])?,
            need("pt_regs", registers::ARGUMENTS[1])?,
            need("pt_regs", registers::ARGUMENTS[2])?,
        ],
        regs_ip: need("pt_regs", registers::IP)?,
        regs_sp: need("pt_regs", registers::SP)?,
        regs_fp: need("pt_regs", registers::FP)?,
        cfs_rq_throttle_count: throttle.map_or(Offsets::ABSENT, |clock| clock.count),
        task_last_queued: want("task_struct", "sched_info.last_queued"),
        rq_wall_clock: want("rq", "clock"),
        rq_clock_lost: throttle.map_or(Offsets::ABSENT, |clock| clock.lost),
        file_private_data: want("file", "private_data"),
        socket_sk: want("socket", "sk"),
        sock_family: want("sock", "__sk_common.skc_family"),
        sock_remote_port: want("sock", "__sk_common.skc_dport"),
        sock_remote_ipv4: want("sock", "__sk_common.skc_daddr"),
        sock_remote_ipv6: want("sock", "__sk_common.skc_v6_daddr"),
        unix_peer: want("unix_sock", "peer"),
        unix_address: want("unix_sock", "addr"),
        unix_address_length: want("unix_address", "len"),
        unix_address_name: want("unix_address", "name"),
        task_stack_pointer: want("task_struct", "thread.sp"),
    })
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
#[derive(Clone, Copy)]
struct ThrottleClock {
    since: u32,
    time: u32,
    clock: u32,
    count: u32,
    lost: u32,
}

/// The best clock the kernel has: its own (6.6 and newer), else the one that stops the load tracking, which runs in its
/// own time and is not cleared at the end of a throttling. None without CONFIG_CFS_BANDWIDTH.
fn throttle_clock(types: &KernelTypes) -> Option<ThrottleClock> {
    let at = |of: &str, path: &str| types.member(of, path).map(Member::offset);
    let own = || {
        Some(ThrottleClock {
            since: at("cfs_rq", "throttled_clock_self")?,
            time: at("cfs_rq", "throttled_clock_self_time")?,
            clock: at("rq", "clock")?,
            count: Offsets::ABSENT,
            lost: Offsets::ABSENT,
        })
    };
    let pelt = || {
        Some(ThrottleClock {
            since: at("cfs_rq", "throttled_clock_pelt")?,
            time: at("cfs_rq", "throttled_clock_pelt_time")?,
            clock: at("rq", "clock_pelt")?,
            count: at("cfs_rq", "throttle_count")?,
            lost: at("rq", "lost_idle_time")?,
        })
    };
    let task = || {
        Some(ThrottleClock {
            since: at("cfs_rq", "throttled_clock_task")?,
            time: at("cfs_rq", "throttled_clock_task_time")?,
            clock: at("rq", "clock_task")?,
            count: at("cfs_rq", "throttle_count")?,
            lost: Offsets::ABSENT,
        })
    };
    own().or_else(pelt).or_else(task)
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
    use super::*;
    use crate::kernel::btf::BtfError;

    #[test]
    fn the_running_kernel_has_every_member_or_there_is_no_btf() -> Result<(), Box<dyn std::error::Error>> {
        let Ok(types) = KernelTypes::of_running_kernel() else { return Ok(()) };
        let offsets = resolve(&types, &HierarchyKind::V2)?;
        assert_ne!(offsets.task_pid, offsets.task_tgid);
        assert_eq!(offsets.css_cgroup, Offsets::ABSENT);
        Ok(())
    }

    #[test]
    fn an_unknown_controller_is_named() {
        let Ok(types) = KernelTypes::of_running_kernel() else { return };
        let error = resolve(&types, &HierarchyKind::V1 { controller: "nosuch".into(), number: 1 });
        assert!(error.is_err_and(|error| error.to_string().contains("nosuch")));
    }

    /// Raw BTF of structs whose members, all of one type, lie eight bytes apart.
    fn types(structs: &[(&str, &[&str])]) -> Result<KernelTypes, BtfError> {
        const INT: u32 = 1 << 24;
        const STRUCT: u32 = 4 << 24;
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let mut words = vec![name("int"), INT, 4, 32];
        for (of, members) in structs {
            words.extend([name(of), STRUCT | members.len() as u32, members.len() as u32 * 8]);
            for (at, member) in members.iter().enumerate() {
                words.extend([name(member), 1, at as u32 * 64]);
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
        for (there, missing) in [(&["pid"][..], "in_iowait"), (&["in_iowait", "pid"][..], "__state")] {
            let types = types(&[("task_struct", there), ("css_set", &["dfl_cgrp"])])?;
            let error = resolve(&types, &HierarchyKind::V2);
            let named = format!("task_struct.{missing}");
            assert!(error.is_err_and(|error| error.to_string().contains(&named)), "{missing}");
        }
        Ok(())
    }

    #[test]
    fn the_kernels_own_throttle_clock_is_preferred_to_older_ones() -> Result<(), BtfError> {
        let own = ["throttled_clock_self", "throttled_clock_self_time"];
        let pelt = ["throttled_clock_pelt", "throttled_clock_pelt_time", "throttle_count"];
        let rq: &[&str] = &["clock", "clock_pelt", "lost_idle_time"];
        let both = types(&[("cfs_rq", &[&own[..], &pelt[..]].concat()), ("rq", rq)])?;
        let clock = throttle_clock(&both).map(|clock| (clock.since, clock.time, clock.clock, clock.count, clock.lost));
        assert_eq!(clock, Some((0, 8, 0, Offsets::ABSENT, Offsets::ABSENT)));
        let older = types(&[("cfs_rq", &pelt), ("rq", rq)])?;
        let clock = throttle_clock(&older).map(|clock| (clock.since, clock.time, clock.clock, clock.count, clock.lost));
        assert_eq!(clock, Some((0, 8, 8, 16, 16)));
        let without_quotas = types(&[("cfs_rq", &["curr"]), ("rq", rq)])?;
        assert!(throttle_clock(&without_quotas).is_none());
        Ok(())
    }
}
