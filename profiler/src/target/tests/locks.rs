//! Locks of several languages, and what looks like one.

use super::{ENTRY, FUTEX, Planted};
use crate::profile::OffCpuReason;
use crate::target::Kind;

#[test]
fn locks_of_every_language_are_known_by_the_functions_that_take_them() {
    for taken in [
        "pthread_mutex_lock@libc.so.6 > __lll_lock_wait@libc.so.6",
        "pthread_rwlock_wrlock@libc.so.6",
        "<std::sys::sync::mutex::futex::Mutex>::lock_contended > syscall@libc.so.6",
        "std::sys::sync::rwlock::futex::RwLock::read_contended > syscall@libc.so.6",
        "parking_lot::raw_mutex::RawMutex::lock_slow > syscall@libc.so.6",
        "ObjectMonitor::enter(JavaThread*)@libjvm.so > pthread_cond_wait@libc.so.6",
    ] {
        let mut planted = Planted::new();
        planted.wait(OffCpuReason::Lock, &format!("main > reserve > {taken} > {FUTEX}"), 60.0, 30_000.0);
        planted.only(Kind::LockContention, "reserve");
    }
}

#[test]
fn what_waits_for_work_on_a_futex_holds_no_lock() {
    for parked in [
        "pthread_cond_timedwait@libc.so.6",
        "sem_wait@libc.so.6",
        "<std::sys::sync::condvar::futex::Condvar>::wait > syscall@libc.so.6",
        "std::thread::park > syscall@libc.so.6",
        "pthread_join@libc.so.6",
        "pthread_barrier_wait@libc.so.6",
    ] {
        let mut planted = Planted::new();
        planted.wait(OffCpuReason::Lock, &format!("main > take_job > {parked} > {FUTEX}"), 60.0, 30_000.0);
        assert_eq!(planted.found(), [], "{parked}");
    }
}

#[test]
fn goroutines_at_a_mutex_are_seen_by_the_cpu_time_that_meeting_costs() {
    let wake = format!("sync.(*Mutex).unlockSlow > runtime.semrelease1 > runtime.wakep > runtime.futex > {ENTRY}");
    let mut planted = Planted::new();
    planted
        .cpu("runtime.goexit > main.record", 300)
        .cpu(&format!("runtime.goexit > main.record > {wake} > __x64_sys_futex_[k]"), 150)
        .cpu("runtime.goexit > main.record > sync.(*Mutex).lockSlow > runtime.procyield", 50)
        .calls("futex", 500_000, 0, &[]);
    let found = planted.found();
    let name = || "main.record".to_owned();
    assert_eq!(found, [(Kind::CpuHotspot, name()), (Kind::LockContention, name())]);
    let lock = &planted.analysis().targets[1];
    assert!((lock.cost.value - 0.2).abs() < 1e-9, "{lock:?}");
}

#[test]
fn python_takes_locks_by_with_and_waits_for_work_by_acquire() {
    let wait = format!("lock_PyThread_acquire_lock@python3.11 > sem_wait@libc.so.6 > {FUTEX}");
    let mut planted = Planted::new();
    planted
        .wait(
            OffCpuReason::Lock,
            &format!("_PyEval_EvalFrameDefault@python3.11 > cfunction_call@python3.11 > {wait}"),
            40.0,
            9_000.0,
        )
        .wait(
            OffCpuReason::Lock,
            &format!("_PyEval_EvalFrameDefault@python3.11 > method_vectorcall@python3.11 > {wait}"),
            80.0,
            9_000.0,
        );
    let target = planted.only(Kind::LockContention, "[shop]");
    assert!((target.claims_s - 40.0).abs() < 1e-9);
}
