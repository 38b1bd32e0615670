//! What userspace tells the kernel programs: constants of the running kernel and of this collection before loading,
//! the window and the filters while running.

/// Byte offsets of members in the running kernel's structs, resolved from its BTF.
///
/// The programs load through typed pointers at these offsets; the verifier sees them as constants because the map that
/// holds them is frozen, and checks each load against the kernel's BTF. [`Offsets::ABSENT`] marks a member that this
/// kernel does not have; the code that needs it is then dead and dropped.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.__state` (5.14 and newer).
    pub task_state: u32,
    /// `task_struct.pid`: the thread id.
    pub task_pid: u32,
    /// `task_struct.tgid`: the process id.
    pub task_tgid: u32,
    /// `task_struct.flags`.
    pub task_flags: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.utime`, in nanoseconds, counted by ticks.
    pub task_utime: u32,
    /// `task_struct.stime`, in nanoseconds, counted by ticks.
    pub task_stime: u32,
    /// `task_struct.se.sum_exec_runtime`, in nanoseconds: CPU time as the scheduler accounts it.
    pub task_exec: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `task_struct.on_cpu`.
    pub task_on_cpu: u32,
    /// `task_struct.thread_info.cpu` or `task_struct.cpu`.
    pub task_cpu: u32,
    /// `task_struct.thread_info.status`.
    pub task_status: u32,
    /// Byte that holds `task_struct.in_iowait`.
    pub task_in_iowait: u32,
    /// Bit of `in_iowait` within its byte.
    pub task_in_iowait_bit: u32,
    /// `task_struct.se.cfs_rq`.
    pub task_cfs_rq: u32,
    /// `task_struct.sched_task_group`.
    pub task_group: u32,
    /// `task_group.cfs_rq`.
    pub group_cfs_rq: u32,
    /// `cfs_rq.rq`.
    pub cfs_rq_rq: u32,
    /// `cfs_rq.throttled_clock_self`, or what stands for it on older kernels: since when it is throttled, 0 if not.
    pub cfs_rq_throttled_since: u32,
    /// `cfs_rq.throttled_clock_self_time`, or what stands for it: how long it has been throttled in all.
    pub cfs_rq_throttled_time: u32,
    /// The clock of `rq` that the two are in (`clock`, `clock_pelt` or `clock_task`).
    pub rq_clock: u32,
    /// `css_set.dfl_cgrp`, or, where containers live in a v1 hierarchy, the `css_set.subsys` entry of its controller.
    pub css_set_cgroup: u32,
    /// `cgroup_subsys_state.cgroup` on v1; absent on v2, where `css_set_cgroup` already is the cgroup.
    pub css_cgroup: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `cgroup.root`.
    pub cgroup_root: u32,
    /// `cgroup_root.hierarchy_id`.
    pub root_hierarchy: u32,
    /// `kernfs_node.id`.
    pub kn_id: u32,
    /// `files_struct.fdt`.
    pub files_fdt: u32,
    /// `files_struct.fd_array`: 64 elements.
    pub files_fd_array: u32,
    /// `fdtable.fd`.
    pub fdt_fd: u32,
    /// `fdtable.max_fds`.
    pub fdt_max_fds: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `file.f_op`.
    pub file_op: u32,
    /// `inode.i_mode`.
    pub inode_mode: u32,
    /// `pt_regs.orig_ax`: the syscall's number, negative outside syscalls.
    pub regs_syscall: u32,
    /// `pt_regs` members that hold the first, second and third argument of a syscall.
    pub regs_args: [u32; 3],
    /// `pt_regs` instruction pointer.
    pub regs_ip: u32,
    /// `pt_regs` stack pointer.
    pub regs_sp: u32,
    /// `pt_regs` frame pointer.
    pub regs_fp: u32,
    /// `cfs_rq.throttle_count`, where `cfs_rq_throttled_since` is not cleared when the throttling ends.
    pub cfs_rq_throttle_count: u32,
    /// `task_struct.sched_info.last_queued`: since when it waits on a run queue, by that queue's clock.
    pub task_last_queued: u32,
    /// `rq.clock`.
    pub rq_wall_clock: u32,
    /// `rq.lost_idle_time`, where `rq_clock` runs ahead by it.
    pub rq_clock_lost: u32,
    /// `file.private_data`: of a socket's file, its `struct socket`.
    pub file_private_data: u32,
    /// `socket.sk`.
    pub socket_sk: u32,
    /// `sock.__sk_common.skc_family`.
    pub sock_family: u32,
    /// `sock.__sk_common.skc_dport`, in network order.
    pub sock_remote_port: u32,
    /// `sock.__sk_common.skc_daddr`.
    pub sock_remote_ipv4: u32,
    /// `sock.__sk_common.skc_v6_daddr`.
    pub sock_remote_ipv6: u32,
    /// `unix_sock.peer`.
    pub unix_peer: u32,
    /// `unix_sock.addr`.
    pub unix_address: u32,
    /// `unix_address.len`, which counts the family too.
    pub unix_address_length: u32,
    /// `unix_address.name`: a `sockaddr_un`.
    pub unix_address_name: u32,
    /// `task_struct.thread.sp`: the kernel stack pointer of a thread that is off the CPU (x86).
    pub task_stack_pointer: u32,
}

impl Offsets {
    /// A member that the running kernel does not have.
    pub const ABSENT: u32 = u32::MAX;

    /// All absent.
    pub const fn absent() -> Self {
        Self {
            task_state: Self::ABSENT,
            task_pid: Self::ABSENT,
            task_tgid: Self::ABSENT,
            task_flags: Self::ABSENT,
            task_comm: Self::ABSENT,
            task_utime: Self::ABSENT,
            task_stime: Self::ABSENT,
            task_exec: Self::ABSENT,
            task_cgroups: Self::ABSENT,
            task_files: Self::ABSENT,
            task_on_cpu: Self::ABSENT,
            task_cpu: Self::ABSENT,
            task_status: Self::ABSENT,
            task_in_iowait: Self::ABSENT,
            task_in_iowait_bit: Self::ABSENT,
            task_cfs_rq: Self::ABSENT,
            task_group: Self::ABSENT,
            group_cfs_rq: Self::ABSENT,
            cfs_rq_rq: Self::ABSENT,
            cfs_rq_throttled_since: Self::ABSENT,
            cfs_rq_throttled_time: Self::ABSENT,
            rq_clock: Self::ABSENT,
            css_set_cgroup: Self::ABSENT,
            css_cgroup: Self::ABSENT,
            cgroup_kn: Self::ABSENT,
            cgroup_root: Self::ABSENT,
            root_hierarchy: Self::ABSENT,
            kn_id: Self::ABSENT,
            files_fdt: Self::ABSENT,
            files_fd_array: Self::ABSENT,
            fdt_fd: Self::ABSENT,
            fdt_max_fds: Self::ABSENT,
            file_inode: Self::ABSENT,
            file_op: Self::ABSENT,
            inode_mode: Self::ABSENT,
            regs_syscall: Self::ABSENT,
            regs_args: [Self::ABSENT; 3],
            regs_ip: Self::ABSENT,
            regs_sp: Self::ABSENT,
            regs_fp: Self::ABSENT,
            cfs_rq_throttle_count: Self::ABSENT,
            task_last_queued: Self::ABSENT,
            rq_wall_clock: Self::ABSENT,
            rq_clock_lost: Self::ABSENT,
            file_private_data: Self::ABSENT,
            socket_sk: Self::ABSENT,
            sock_family: Self::ABSENT,
            sock_remote_port: Self::ABSENT,
            sock_remote_ipv4: Self::ABSENT,
            sock_remote_ipv6: Self::ABSENT,
            unix_peer: Self::ABSENT,
            unix_address: Self::ABSENT,
            unix_address_length: Self::ABSENT,
            unix_address_name: Self::ABSENT,
            task_stack_pointer: Self::ABSENT,
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
const _: () = assert!(size_of::<Offsets>() == 57 * 4 && align_of::<Offsets>() == 4);
const _: () = assert!(size_of::<Settings>() == 56 && align_of::<Settings>() == 8);
const _: () = assert!(size_of::<Control>() == 32 && align_of::<Control>() == 8);
