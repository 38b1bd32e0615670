//! What userspace tells the kernel programs: constants of the running kernel and of this collection before loading,
//! the window and the filters while running.

use crate::member::{Member, Pointer};

/// Members of the running kernel's structs, resolved from its BTF: [`Member`]s that are loaded whole, and byte offsets of
/// what only their address is needed of.
///
/// The programs load through typed pointers; the verifier sees the offsets as constants because the map that holds them is
/// frozen, and checks each load against the kernel's BTF. [`Offsets::ABSENT`] and [`Member::ABSENT`] mark a member that
/// this kernel does not have; the code that needs it is then dead and dropped.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.__state` (5.14 and newer).
    pub task_state: Member<u32>,
    /// `task_struct.pid`: the thread id.
    pub task_pid: Member<u32>,
    /// `task_struct.tgid`: the process id.
    pub task_tgid: Member<u32>,
    /// `task_struct.flags`.
    pub task_flags: Member<u32>,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.utime`, in nanoseconds, counted by ticks.
    pub task_utime: Member<u64>,
    /// `task_struct.stime`, in nanoseconds, counted by ticks.
    pub task_stime: Member<u64>,
    /// `task_struct.se.sum_exec_runtime`, in nanoseconds: CPU time as the scheduler accounts it.
    pub task_exec: Member<u64>,
    /// `task_struct.cgroups`.
    pub task_cgroups: Member<Pointer>,
    /// `task_struct.files`.
    pub task_files: Member<Pointer>,
    /// `task_struct.on_cpu`.
    pub task_on_cpu: Member<u32>,
    /// `task_struct.thread_info.cpu` or `task_struct.cpu`.
    pub task_cpu: Member<u32>,
    /// `task_struct.thread_info.status`.
    pub task_status: Member<u32>,
    /// `task_struct.in_iowait`.
    pub task_in_iowait: Member<u32>,
    /// `task_struct.se.cfs_rq`.
    pub task_cfs_rq: Member<Pointer>,
    /// `task_struct.sched_task_group`.
    pub task_group: Member<Pointer>,
    /// `task_group.cfs_rq`.
    pub group_cfs_rq: Member<Pointer>,
    /// `cfs_rq.rq`.
    pub cfs_rq_rq: Member<Pointer>,
    /// `cfs_rq.throttled_clock_self`, or what stands for it on older kernels: since when it is throttled, 0 if not.
    pub cfs_rq_throttled_since: Member<u64>,
    /// `cfs_rq.throttled_clock_self_time`, or what stands for it: how long it has been throttled in all.
    pub cfs_rq_throttled_time: Member<u64>,
    /// The clock of `rq` that the two are in (`clock`, `clock_pelt` or `clock_task`).
    pub rq_clock: Member<u64>,
    /// `css_set.dfl_cgrp`, or, where containers live in a v1 hierarchy, the `css_set.subsys` entry of its controller.
    pub css_set_cgroup: Member<Pointer>,
    /// `cgroup_subsys_state.cgroup` on v1; absent on v2, where `css_set_cgroup` already is the cgroup.
    pub css_cgroup: Member<Pointer>,
    /// `cgroup.kn`.
    pub cgroup_kn: Member<Pointer>,
    /// `cgroup.root`.
    pub cgroup_root: Member<Pointer>,
    /// `cgroup_root.hierarchy_id`.
    pub root_hierarchy: Member<u32>,
    /// `kernfs_node.id`.
    pub kn_id: Member<u64>,
    /// `files_struct.fdt`.
    pub files_fdt: Member<Pointer>,
    /// `files_struct.fd_array`: 64 elements.
    pub files_fd_array: u32,
    /// `fdtable.fd`.
    pub fdt_fd: Member<Pointer>,
    /// `fdtable.max_fds`.
    pub fdt_max_fds: Member<u32>,
    /// `file.f_inode`.
    pub file_inode: Member<Pointer>,
    /// `file.f_op`.
    pub file_op: Member<Pointer>,
    /// `inode.i_mode`.
    pub inode_mode: Member<u16>,
    /// `pt_regs.orig_ax`: the syscall's number, negative outside syscalls.
    pub regs_syscall: Member<u64>,
    /// `pt_regs` members that hold the first, second and third argument of a syscall.
    pub regs_args: [Member<u64>; 3],
    /// `pt_regs` instruction pointer.
    pub regs_ip: Member<u64>,
    /// `pt_regs` stack pointer.
    pub regs_sp: Member<u64>,
    /// `pt_regs` frame pointer.
    pub regs_fp: Member<u64>,
    /// `cfs_rq.throttle_count`, where `cfs_rq_throttled_since` is not cleared when the throttling ends.
    pub cfs_rq_throttle_count: Member<u32>,
    /// `task_struct.sched_info.last_queued`: since when it waits on a run queue, by that queue's clock.
    pub task_last_queued: Member<u64>,
    /// `rq.clock`.
    pub rq_wall_clock: Member<u64>,
    /// `rq.lost_idle_time`, where `rq_clock` runs ahead by it.
    pub rq_clock_lost: Member<u64>,
    /// `file.private_data`: of a socket's file, its `struct socket`.
    pub file_private_data: Member<Pointer>,
    /// `socket.sk`.
    pub socket_sk: Member<Pointer>,
    /// `sock.__sk_common.skc_family`.
    pub sock_family: Member<u16>,
    /// `sock.__sk_common.skc_dport`, in network order.
    pub sock_remote_port: Member<u16>,
    /// `sock.__sk_common.skc_daddr`.
    pub sock_remote_ipv4: u32,
    /// `sock.__sk_common.skc_v6_daddr`.
    pub sock_remote_ipv6: u32,
    /// `unix_sock.peer`.
    pub unix_peer: Member<Pointer>,
    /// `unix_sock.addr`.
    pub unix_address: Member<Pointer>,
    /// `unix_address.len`, which counts the family too.
    pub unix_address_length: Member<u32>,
    /// `unix_address.name`: a `sockaddr_un`.
    pub unix_address_name: u32,
    /// `task_struct.thread.sp`: the kernel stack pointer of a thread that is off the CPU (x86).
    pub task_stack_pointer: Member<u64>,
}

impl Offsets {
    /// A member that the running kernel does not have.
    pub const ABSENT: u32 = u32::MAX;

    /// All absent.
    pub const fn absent() -> Self {
        Self {
            task_state: Member::ABSENT,
            task_pid: Member::ABSENT,
            task_tgid: Member::ABSENT,
            task_flags: Member::ABSENT,
            task_comm: Self::ABSENT,
            task_utime: Member::ABSENT,
            task_stime: Member::ABSENT,
            task_exec: Member::ABSENT,
            task_cgroups: Member::ABSENT,
            task_files: Member::ABSENT,
            task_on_cpu: Member::ABSENT,
            task_cpu: Member::ABSENT,
            task_status: Member::ABSENT,
            task_in_iowait: Member::ABSENT,
            task_cfs_rq: Member::ABSENT,
            task_group: Member::ABSENT,
            group_cfs_rq: Member::ABSENT,
            cfs_rq_rq: Member::ABSENT,
            cfs_rq_throttled_since: Member::ABSENT,
            cfs_rq_throttled_time: Member::ABSENT,
            rq_clock: Member::ABSENT,
            css_set_cgroup: Member::ABSENT,
            css_cgroup: Member::ABSENT,
            cgroup_kn: Member::ABSENT,
            cgroup_root: Member::ABSENT,
            root_hierarchy: Member::ABSENT,
            kn_id: Member::ABSENT,
            files_fdt: Member::ABSENT,
            files_fd_array: Self::ABSENT,
            fdt_fd: Member::ABSENT,
            fdt_max_fds: Member::ABSENT,
            file_inode: Member::ABSENT,
            file_op: Member::ABSENT,
            inode_mode: Member::ABSENT,
            regs_syscall: Member::ABSENT,
            regs_args: [Member::ABSENT; 3],
            regs_ip: Member::ABSENT,
            regs_sp: Member::ABSENT,
            regs_fp: Member::ABSENT,
            cfs_rq_throttle_count: Member::ABSENT,
            task_last_queued: Member::ABSENT,
            rq_wall_clock: Member::ABSENT,
            rq_clock_lost: Member::ABSENT,
            file_private_data: Member::ABSENT,
            socket_sk: Member::ABSENT,
            sock_family: Member::ABSENT,
            sock_remote_port: Member::ABSENT,
            sock_remote_ipv4: Self::ABSENT,
            sock_remote_ipv6: Self::ABSENT,
            unix_peer: Member::ABSENT,
            unix_address: Member::ABSENT,
            unix_address_length: Member::ABSENT,
            unix_address_name: Self::ABSENT,
            task_stack_pointer: Member::ABSENT,
        }
    }
}

/// Constants of this collection, frozen before the programs are verified.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Possible CPUs: rows of everything kept by CPU.
    pub cpus: u32,
    /// Container indices: columns of everything kept by container.
    pub containers: u32,
    /// `SyscallRow`s of one generation.
    pub syscall_rows: u32,
    /// Bytes of a ring that are used, a power of two, at most [`crate::record::RING_BYTES`].
    pub ring_bytes: u32,
    /// T: off-CPU gaps shorter than this are kept with probability gap / T. At most 4 s.
    pub offcpu_threshold_ns: u64,
    /// Hierarchy id that cgroup events must come from.
    pub hierarchy: u32,
    /// Whether off-CPU stacks are wanted.
    pub off_cpu: u32,
    /// Whether user stacks of off-CPU gaps are taken in sys_exit.
    pub user_stack_at_exit: u32,
    /// Whether syscalls are counted.
    pub syscalls: u32,
    /// Whether only selected containers are measured.
    pub filter_containers: u32,
    /// Whether only selected processes are measured.
    pub filter_processes: u32,
    /// Whether user stacks are walked by tables; else by frame pointers, by the kernel.
    pub unwind: u32,
    /// BTF id of `files_struct`, where [`CAST_CALL`]s are calls of a function that can give memory that type; else 0.
    pub files_struct_type: u32,
}

/// What the programs call where they mean the kernel's `bpf_rdonly_cast`: a number that no helper has, which the loader replaces.
/// Where the kernel has no such function the call is never reached, and what the verifier finds to be dead it does not check.
pub const CAST_CALL: i32 = 0x7ead_0001;

/// What a container's filter byte says.
pub mod filter {
    /// Not yet decided: measured, and judged by userspace when the container has a name.
    pub const UNDECIDED: u8 = 0;
    /// Wanted.
    pub const KEEP: u8 = 1;
    /// Not wanted.
    pub const DROP: u8 = 2;
}

/// What userspace changes while the programs run.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// Start of the current window (CLOCK_MONOTONIC, ns) with its lowest bit replaced by the generation that the window
    /// is kept in. One word, so that both change at once. 0 until the first window begins.
    pub window: u64,
    /// What the task iterator is to do: one of [`iterate`].
    pub iterate: u32,
    /// Grows with every change of what is known of processes' mappings; never 0.
    pub mappings_generation: u32,
    /// The loader's own thread, for [`iterate::LEARN`].
    pub own_thread: u32,
    /// A timerfd of the loader's, for [`iterate::LEARN`].
    pub own_timerfd: u32,
    /// Address of the operations that timers' files have, learnt from that one; 0 until then.
    pub timer_operations: u64,
}

impl Control {
    /// Generation (0 or 1) and start (ns) of a window word.
    #[inline(always)]
    pub const fn split(window: u64) -> (u32, u64) {
        ((window & 1) as u32, window & !1)
    }

    /// The window word of a generation and a start.
    #[inline(always)]
    pub const fn join(generation: u32, start_ns: u64) -> u64 {
        (start_ns & !1) | (generation & 1) as u64
    }
}

/// What the task iterator does on its way.
pub mod iterate {
    /// Create the slots of threads that have none.
    pub const CREATE: u32 = 0;
    /// Correct slots whose thread changed state while they were being created.
    pub const CORRECT: u32 = 1;
    /// Settle what is open at the window's end into the ended generation, and write out the waits still open.
    pub const SETTLE: u32 = 2;
    /// Learn from the loader's own descriptors what a timer looks like.
    pub const LEARN: u32 = 3;
}

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Every loss and every count that is not part of a result, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $variant,)+
        }

        impl Counter {
            /// All counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in outputs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

counters! {
    /// On-CPU samples written.
    SamplesKept = "samples_kept",
    /// On-CPU samples of an idle CPU.
    SamplesIdle = "samples_idle",
    /// On-CPU samples that the filters exclude.
    SamplesFiltered = "samples_filtered",
    /// On-CPU samples for which the ring had no room.
    SamplesRingFull = "ring_full",
    /// On-CPU samples of a thread without a slot.
    SamplesNoSlot = "no_slot",
    /// Scheduler events of a thread without a slot.
    SwitchNoSlot = "switch_without_slot",
    /// Slots that could not be created.
    SlotNotCreated = "slot_not_created",
    /// Cgroups seen when all container indices were taken.
    ContainersExhausted = "containers_exhausted",
    /// Off-CPU gaps chosen for a stack.
    GapsChosen = "gaps_chosen",
    /// Off-CPU gaps for which the ring had no room.
    GapsRingFull = "gaps_ring_full",
    /// User stacks for which the ring had no room.
    UserStackRingFull = "user_stack_ring_full",
    /// User stacks not taken because another thread's was being taken on the same CPU.
    UserStackBusy = "user_stack_busy",
    /// Syscalls accounted for.
    SyscallsCounted = "syscalls_counted",
    /// Syscalls that returned without having been seen to enter.
    SyscallsNotEntered = "syscalls_not_entered",
    /// Syscalls lost because all rows were taken.
    SyscallRowsExhausted = "syscall_rows_exhausted",
    /// Syscalls of a thread without a slot.
    SyscallsNoSlot = "syscalls_without_slot",
    /// Process and cgroup events for which the ring had no room.
    EventsRingFull = "events_ring_full",
    /// Waited-behind slices that could not be attributed.
    WaitedBehindFull = "waited_behind_full",
    /// Open waits that the iterator could not write out.
    OpenWaitsLost = "open_waits_lost",
}

/// Numbers a CPU in the counters' map: a power of two, room for all of [`Counter`].
pub const COUNTERS: usize = 32;

const _: () = assert!(Counter::ALL.len() <= COUNTERS);
const _: () = assert!(size_of::<Offsets>() == 56 * 4 && align_of::<Offsets>() == 4);
const _: () = assert!(size_of::<Settings>() == 56 && align_of::<Settings>() == 8);
const _: () = assert!(size_of::<Control>() == 32 && align_of::<Control>() == 8);
