//! Members of the kernel's structs, by plain loads through typed pointers.
//!
//! tp_btf arguments and `bpf_get_current_task_btf` give pointers whose type the verifier knows. It checks a load at a
//! constant offset against BTF, gives the result the member's type where that is a pointer again, and turns a fault into
//! a zero. `bpf_probe_read_kernel` is ten times dearer and only used where the type is lost (an array of pointers).

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::{
    bindings::task_struct,
    helpers::{bpf_probe_read_kernel, generated::bpf_task_pt_regs},
};
use profiler_ebpf::{COMM_BYTES, Member, Pointer, member::Shape, record::RecordHeader, settings::CAST_CALL};

use crate::maps::{offset, setting, timer_operations};

/// `PF_KTHREAD`: a kernel thread.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_IO_WORKER`: a worker of io_uring, which never returns to user space.
const PF_IO_WORKER: u32 = 0x0000_0010;
/// `TASK_UNINTERRUPTIBLE`.
const TASK_UNINTERRUPTIBLE: u32 = 0x0002;
/// `TASK_DEAD`: the thread's last switch.
const TASK_DEAD: u32 = 0x0080;
/// `TASK_NEW`: forked, not yet woken.
const TASK_NEW: u32 = 0x0800;
/// `TS_COMPAT`: in a syscall made through the 32-bit table.
const TS_COMPAT: u32 = 0x0002;
/// File type of `i_mode`: its place and its values.
const S_IFMT_SHIFT: u16 = 12;
const S_IFDIR: u16 = 0o04;
const S_IFBLK: u16 = 0o06;
const S_IFREG: u16 = 0o10;
const S_IFLNK: u16 = 0o12;
const S_IFSOCK: u16 = 0o14;

/// Kinds of files that blocking is told apart by.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    /// A pipe, a terminal, anything else.
    Other = 0,
    /// A regular file, a directory, a symbolic link or a block device.
    Disk,
    /// A socket.
    Socket,
    /// A timer.
    Timer,
}

impl From<u32> for FileKind {
    #[inline(always)]
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Disk,
            2 => Self::Socket,
            3 => Self::Timer,
            _ => Self::Other,
        }
    }
}

/// What a member is loaded as.
pub trait Loaded: Default + Shape {
    /// The low bits of a word.
    fn truncated(word: u64) -> Self;
}

impl Loaded for u16 {
    #[inline(always)]
    fn truncated(word: u64) -> Self {
        word as Self
    }
}

impl Loaded for u32 {
    #[inline(always)]
    fn truncated(word: u64) -> Self {
        word as Self
    }
}

impl Loaded for u64 {
    #[inline(always)]
    fn truncated(word: u64) -> Self {
        word
    }
}

/// Loads a member by what [`Offsets`](profiler_ebpf::Offsets) says of it. The verifier knows the word, so one branch stays.
///
/// # Safety
///
/// `base` must be a pointer that the verifier has typed, and `member` one of that type's. The verifier checks both again.
#[inline(always)]
pub unsafe fn load<T: Loaded>(base: *const c_void, member: Member<T>) -> T {
    // SAFETY: the caller's promise; a fault reads as zero.
    unsafe {
        if member.is_plain() {
            return load_at(base, member.plain_offset());
        }
        let at = member.offset();
        let loaded = match member.load_bytes() {
            1 => u64::from(load_at::<u8>(base, at)),
            2 => u64::from(load_at::<u16>(base, at)),
            4 => u64::from(load_at::<u32>(base, at)),
            _ => load_at::<u64>(base, at),
        };
        T::truncated(member.value_in(loaded))
    }
}

/// Loads a pointer: the verifier types it.
///
/// # Safety
///
/// As above.
#[inline(always)]
pub unsafe fn pointer(base: *const c_void, member: Member<Pointer>) -> *const c_void {
    // SAFETY: the caller's promise. Members that are pointers are always plain.
    unsafe { load_at(base, member.plain_offset()) }
}

/// Loads a pointer as a number.
///
/// # Safety
///
/// As above.
#[inline(always)]
unsafe fn address(base: *const c_void, member: Member<Pointer>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { load_at(base, member.plain_offset()) }
}

/// Loads what lies at an offset.
///
/// # Safety
///
/// As above; a `T` must lie there.
#[inline(always)]
unsafe fn load_at<T: Copy>(base: *const c_void, offset: u32) -> T {
    // SAFETY: the caller's promise; a fault reads as zero.
    unsafe { ptr::read_volatile(base.cast::<u8>().add(offset as usize).cast::<T>()) }
}

/// Reads a member where no type is known, by the helper, which checks; zero if it cannot be read.
#[inline(always)]
pub fn probe<T: Loaded>(base: u64, member: Member<T>) -> T {
    // SAFETY: the helper checks what it reads.
    unsafe {
        if member.is_plain() {
            return bpf_probe_read_kernel((base + u64::from(member.plain_offset())) as *const T).unwrap_or_default();
        }
        let at = base + u64::from(member.offset());
        let loaded = match member.load_bytes() {
            1 => u64::from(bpf_probe_read_kernel(at as *const u8).unwrap_or_default()),
            2 => u64::from(bpf_probe_read_kernel(at as *const u16).unwrap_or_default()),
            4 => u64::from(bpf_probe_read_kernel(at as *const u32).unwrap_or_default()),
            _ => bpf_probe_read_kernel(at as *const u64).unwrap_or_default(),
        };
        T::truncated(member.value_in(loaded))
    }
}

/// The same for a pointer; zero if it cannot be read.
#[inline(always)]
pub fn probe_pointer(base: u64, member: Member<Pointer>) -> u64 {
    // SAFETY: the helper checks what it reads.
    unsafe { bpf_probe_read_kernel((base + u64::from(member.plain_offset())) as *const u64) }.unwrap_or(0)
}

/// Gives the memory at an address a type: what lies there is then loaded plainly, and a fault reads as zero.
///
/// # Safety
///
/// Only where [`Settings`](profiler_ebpf::Settings) has the type: the loader makes the call one of `bpf_rdonly_cast`.
#[inline(always)]
unsafe fn cast(address: u64, type_id: u32) -> *const c_void {
    let typed: u64;
    // SAFETY: the function reads its two arguments and nothing else; like every call it may change the first six registers.
    unsafe {
        asm!("call {call}", call = const CAST_CALL,
            inlateout("r1") address => _, inlateout("r2") u64::from(type_id) => _,
            lateout("r0") typed, lateout("r3") _, lateout("r4") _, lateout("r5") _);
    }
    typed as *const c_void
}

/// A thread, as tp_btf arguments, the iterator and `bpf_get_current_task_btf` give it.
#[derive(Clone, Copy)]
pub struct Task(pub *mut task_struct);

impl Task {
    #[inline(always)]
    fn base(self) -> *const c_void {
        self.0.cast_const().cast()
    }

    #[inline(always)]
    fn member<T: Loaded>(self, member: Member<T>) -> T {
        // SAFETY: `self.0` is typed `task_struct` by the verifier and the member is one of that struct's.
        unsafe { load(self.base(), member) }
    }

    #[inline(always)]
    fn pointer(self, member: Member<Pointer>) -> *const c_void {
        // SAFETY: as above.
        unsafe { pointer(self.base(), member) }
    }

    /// Thread id; 0 for the idle thread of a CPU.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.member(offset!(task_pid))
    }

    /// Process id.
    #[inline(always)]
    pub fn pid(self) -> u32 {
        self.member(offset!(task_tgid))
    }

    #[inline(always)]
    fn flags(self) -> u32 {
        self.member(offset!(task_flags))
    }

    /// Whether it is a kernel thread.
    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// Whether it ever runs in user mode.
    #[inline(always)]
    pub fn has_user_stack(self) -> bool {
        self.flags() & (PF_KTHREAD | PF_IO_WORKER) == 0
    }

    /// `__state`: 0 while it can run.
    #[inline(always)]
    pub fn state(self) -> u32 {
        self.member(offset!(task_state))
    }

    #[inline(always)]
    pub fn on_cpu(self) -> bool {
        self.member(offset!(task_on_cpu)) != 0
    }

    /// The CPU it runs or waits on.
    #[inline(always)]
    pub fn cpu(self) -> u32 {
        self.member(offset!(task_cpu))
    }

    /// User time by ticks, in nanoseconds.
    #[inline(always)]
    pub fn user_ticks_ns(self) -> u64 {
        self.member(offset!(task_utime))
    }

    /// Kernel time by ticks, in nanoseconds.
    #[inline(always)]
    pub fn kernel_ticks_ns(self) -> u64 {
        self.member(offset!(task_stime))
    }

    /// CPU time as the scheduler accounts it, in nanoseconds: up to date when the thread leaves the CPU, else up to the
    /// last tick.
    #[inline(always)]
    pub fn exec_ns(self) -> u64 {
        self.member(offset!(task_exec))
    }

    /// Its kernel stack pointer as the last switch away from it left it. Only where [`Offsets`](profiler_ebpf::Offsets) has it.
    #[inline(always)]
    pub fn stack_pointer(self) -> u64 {
        self.member(offset!(task_stack_pointer))
    }

    /// Whether it waits for block I/O.
    #[inline(always)]
    pub fn in_iowait(self) -> bool {
        self.member(offset!(task_in_iowait)) != 0
    }

    /// Whether it is inside a syscall of another architecture's table.
    #[inline(always)]
    pub fn in_compat_syscall(self) -> bool {
        let status = offset!(task_status);
        !status.is_absent() && self.member(status) & TS_COMPAT != 0
    }

    /// Copies the thread's name.
    #[inline(always)]
    pub fn copy_comm(self, header: *mut RecordHeader) {
        let at = offset!(task_comm);
        // SAFETY: `header` points into a ring's reserved bytes; `comm` is sixteen bytes, read and written as two words.
        unsafe {
            let low: u64 = load_at(self.base(), at);
            let high: u64 = load_at(self.base(), at + COMM_BYTES as u32 / 2);
            let comm = (&raw mut (*header).comm).cast::<u64>();
            comm.write_unaligned(low);
            comm.add(1).write_unaligned(high);
        }
    }

    /// Address of its `css_set`: the same while it is in the same cgroups.
    #[inline(always)]
    pub fn css_set(self) -> u64 {
        // SAFETY: as in `member`.
        unsafe { address(self.base(), offset!(task_cgroups)) }
    }

    /// Id of its cgroup in the hierarchy that containers live in.
    #[inline(always)]
    pub fn cgroup_id(self) -> u64 {
        let css_set = self.pointer(offset!(task_cgroups));
        // SAFETY: each pointer is typed by the load before it (`css_set`, `cgroup_subsys_state`, `cgroup`).
        unsafe {
            let mut cgroup = pointer(css_set, offset!(css_set_cgroup));
            if !offset!(css_cgroup).is_absent() {
                cgroup = pointer(cgroup, offset!(css_cgroup));
            }
            cgroup_id(cgroup)
        }
    }

    /// The user registers saved at the last entry into the kernel.
    #[inline(always)]
    pub fn registers(self) -> Registers {
        // SAFETY: the helper takes a typed task and returns a typed `pt_regs` of it.
        Registers(unsafe { bpf_task_pt_regs(self.0) } as *const c_void)
    }

    /// The clock of the run queue that it is on, as the scheduler set it last, in nanoseconds since it counts; none where the
    /// kernel has no groups of threads.
    #[inline(always)]
    pub fn queue_clock_ns(self) -> Option<u64> {
        if offset!(task_cfs_rq).is_absent() || offset!(cfs_rq_rq).is_absent() || offset!(rq_wall_clock).is_absent() {
            return None;
        }
        let cfs_rq = self.pointer(offset!(task_cfs_rq));
        // SAFETY: typed by the loads before them (`cfs_rq`, `rq`).
        unsafe {
            let rq = pointer(cfs_rq, offset!(cfs_rq_rq));
            Some(load(rq, offset!(rq_wall_clock)))
        }
    }

    /// Since when it waits on its run queue, by that queue's clock, as the scheduler accounts it (schedstat's run_delay), in
    /// nanoseconds; none where that is not known.
    #[inline(always)]
    pub fn queued_since_ns(self) -> Option<u64> {
        if offset!(task_last_queued).is_absent() {
            return None;
        }
        let since_ns = self.member(offset!(task_last_queued));
        if since_ns == 0 { None } else { Some(since_ns) }
    }

    /// How long the run queue it is on has been throttled so far, in nanoseconds of the queue's own clock.
    #[inline(always)]
    pub fn throttled_ns(self) -> u64 {
        let at = offset!(task_cfs_rq);
        if at.is_absent() || offset!(cfs_rq_throttled_since).is_absent() {
            return 0;
        }
        let cfs_rq = self.pointer(at);
        // SAFETY: typed by the loads before them (`cfs_rq`, `rq`).
        unsafe {
            let time = load(cfs_rq, offset!(cfs_rq_throttled_time));
            let count = offset!(cfs_rq_throttle_count);
            if !count.is_absent() && load(cfs_rq, count) == 0 {
                return time;
            }
            let since = load(cfs_rq, offset!(cfs_rq_throttled_since));
            if count.is_absent() && since == 0 {
                return time;
            }
            let rq = pointer(cfs_rq, offset!(cfs_rq_rq));
            let mut clock = load(rq, offset!(rq_clock));
            if !offset!(rq_clock_lost).is_absent() {
                clock = clock.wrapping_sub(load(rq, offset!(rq_clock_lost)));
            }
            time + clock.saturating_sub(since)
        }
    }

    /// The same for the run queue that its group has on another CPU: it is about to move there.
    #[inline(always)]
    pub fn throttled_on_ns(self, cpu: u32) -> u64 {
        if offset!(task_group).is_absent() || offset!(cfs_rq_throttled_since).is_absent() {
            return 0;
        }
        let group = self.pointer(offset!(task_group));
        // SAFETY: the array of pointers loses its type, so everything below is read by the helper, which checks.
        unsafe {
            let queues = address(group, offset!(group_cfs_rq));
            let Ok(cfs_rq) = bpf_probe_read_kernel((queues + u64::from(cpu) * 8) as *const u64) else { return 0 };
            let time = probe(cfs_rq, offset!(cfs_rq_throttled_time));
            let since = probe(cfs_rq, offset!(cfs_rq_throttled_since));
            let count = offset!(cfs_rq_throttle_count);
            let throttled = if count.is_absent() { since != 0 } else { probe(cfs_rq, count) != 0 };
            if !throttled {
                return time;
            }
            let rq = probe_pointer(cfs_rq, offset!(cfs_rq_rq));
            let mut clock = probe(rq, offset!(rq_clock));
            if !offset!(rq_clock_lost).is_absent() {
                clock = clock.wrapping_sub(probe(rq, offset!(rq_clock_lost)));
            }
            time + clock.saturating_sub(since)
        }
    }

    /// Address of the place in its process's table of descriptors that points to a descriptor's file.
    #[inline(always)]
    fn place_of_file(self, descriptor: u64) -> Option<u64> {
        let files = self.pointer(offset!(task_files));
        // SAFETY: `files_struct` and `fdtable` are typed by the loads before them.
        unsafe {
            let table = pointer(files, offset!(files_fdt));
            let max = load(table, offset!(fdt_max_fds));
            if descriptor >= u64::from(max) {
                return None;
            }
            let array = address(table, offset!(fdt_fd));
            Some(array + descriptor * 8)
        }
    }

    /// The open file behind a descriptor of the thread's process.
    #[inline(always)]
    pub fn file(self, descriptor: u64) -> Option<File> {
        let place = self.place_of_file(descriptor)?;
        // SAFETY: the table is an array of pointers, whose type is lost, so the helper reads it and checks.
        unsafe { bpf_probe_read_kernel(place as *const u64) }.ok().map(File)
    }

    /// Address of the operations of the file behind a descriptor; 0 if there is none.
    #[inline(always)]
    pub fn file_operations(self, descriptor: u64) -> u64 {
        let type_id = setting!(files_struct_type);
        if type_id == 0 {
            return self.file(descriptor).map_or(0, File::operations);
        }
        let Some(place) = self.place_of_file(descriptor) else { return 0 };
        let first = offset!(files_fd_array);
        // SAFETY: the type is known here. The place is looked at as the first of the array that `files_struct` ends with, whose elements
        // are typed `file`.
        unsafe {
            let files = cast(place.wrapping_sub(u64::from(first)), type_id);
            let file: *const c_void = load_at(files, first);
            address(file, offset!(file_op))
        }
    }
}

/// An open file, by the address of the kernel's struct.
#[derive(Clone, Copy)]
pub struct File(u64);

impl File {
    /// Address of the kernel's struct.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0
    }

    /// Address of its operations; 0 if it cannot be read.
    #[inline(always)]
    fn operations(self) -> u64 {
        probe_pointer(self.0, offset!(file_op))
    }

    /// What kind of file it is.
    #[inline(always)]
    pub fn kind(self) -> FileKind {
        let inode = probe_pointer(self.0, offset!(file_inode));
        if inode == 0 {
            return FileKind::Other;
        }
        let mode = probe(inode, offset!(inode_mode));
        let kind = mode >> S_IFMT_SHIFT;
        // Anonymous files have no type, or (6.16 and newer) that of a regular file.
        if kind == 0 || kind == S_IFREG {
            let operations = self.operations();
            if operations != 0 && operations == timer_operations() {
                return FileKind::Timer;
            }
        }
        match kind {
            S_IFSOCK => FileKind::Socket,
            S_IFREG | S_IFDIR | S_IFBLK | S_IFLNK => FileKind::Disk,
            _ => FileKind::Other,
        }
    }
}

/// Id of a cgroup.
///
/// # Safety
///
/// `cgroup` must be typed `cgroup` by the verifier.
#[inline(always)]
pub unsafe fn cgroup_id(cgroup: *const c_void) -> u64 {
    // SAFETY: the caller's promise; `kernfs_node` is typed by the load.
    unsafe {
        let node = pointer(cgroup, offset!(cgroup_kn));
        load(node, offset!(kn_id))
    }
}

/// Whether a thread in this state sleeps and only the event it waits for can wake it.
#[inline(always)]
pub fn is_uninterruptible(state: u32) -> bool {
    state & TASK_UNINTERRUPTIBLE != 0
}

/// Whether this is a thread's last switch.
#[inline(always)]
pub fn is_dead(state: u32) -> bool {
    state & TASK_DEAD != 0
}

/// Whether a thread was forked but not yet woken.
#[inline(always)]
pub fn is_new(state: u32) -> bool {
    state & TASK_NEW != 0
}

/// A thread's saved user registers.
#[derive(Clone, Copy)]
pub struct Registers(pub *const c_void);

impl Registers {
    #[inline(always)]
    fn member(self, member: Member<u64>) -> u64 {
        // SAFETY: `self.0` is typed `pt_regs` by the verifier and the member is one of that struct's.
        unsafe { load(self.0, member) }
    }

    /// Number of the syscall it is in; negative outside syscalls (exceptions and interrupts store -1).
    #[inline(always)]
    pub fn syscall(self) -> i64 {
        self.member(offset!(regs_syscall)) as i64
    }

    /// Argument 0, 1 or 2 of that syscall.
    #[inline(always)]
    pub fn argument(self, index: u8) -> u64 {
        match index {
            0 => self.member(constant_argument(0)),
            1 => self.member(constant_argument(1)),
            _ => self.member(constant_argument(2)),
        }
    }

    /// User instruction pointer.
    #[inline(always)]
    pub fn ip(self) -> u64 {
        self.member(offset!(regs_ip))
    }

    /// User stack pointer.
    #[inline(always)]
    pub fn sp(self) -> u64 {
        self.member(offset!(regs_sp))
    }

    /// User frame pointer.
    #[inline(always)]
    pub fn fp(self) -> u64 {
        self.member(offset!(regs_fp))
    }
}

#[inline(always)]
fn constant_argument(index: usize) -> Member<u64> {
    crate::maps::constant(&raw const crate::maps::OFFSETS.regs_args[index])
}
