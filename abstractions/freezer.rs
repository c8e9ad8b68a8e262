// SPDX-License-Identifier: GPL-2.0

//! Pending signals, without the freezer's fake ones.
//!
//! Why it is here: a program that is to be frozen, for a suspend of the machine or by a cgroup of
//! version 1, gets a fake signal, so that it leaves the kernel and is frozen on its way back. A
//! system call that has done a part of its work would end early for that; it can be frozen where it
//! is instead. The kernel crate has nothing for it.
//! What would retire it: `try_to_freeze()` and `recalc_sigpending()` in `rust/kernel/`.
//!
//! The freezer of cgroup v2 uses job control, as `SIGSTOP` does, and counts as a signal.
//!
//! C headers: [`include/linux/freezer.h`](srctree/include/linux/freezer.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use super::bindings::{
    __refrigerator,
    freezing_slow_path,
    sigprocmask, //
};
use kernel::{
    bindings,
    prelude::*,
    task::might_sleep, //
};

/// Whether a signal is pending for the current task. Where the task is to be frozen, it stays so
/// until it is to go on, and the fake signal is forgotten.
///
/// May sleep. To be called without locks, also of callers': a task that is frozen with a lock keeps
/// those who wait for it from being frozen.
pub(crate) fn signal_pending() -> bool {
    might_sleep();
    while kernel::current!().signal_pending() {
        // SAFETY: The current task may sleep here. The call returns at once where the task is not
        // to be frozen, as where freezing was given up meanwhile.
        unsafe { __refrigerator(false) };
        recalc_sigpending();
        // What is still pending is a signal, unless the next freeze has begun.
        if !freezing() {
            return kernel::current!().signal_pending();
        }
    }
    false
}

/// Whether the current task is to be frozen; `freezing()` without its static branch, which has no
/// bindings.
fn freezing() -> bool {
    // SAFETY: The current task is alive.
    unsafe { freezing_slow_path(kernel::current!().as_ptr()) }
}

/// Sets anew whether a signal is pending for the current task, by what is in its queues.
///
/// `recalc_sigpending()` wants a lock that has no bindings. Changing the mask of signals does the
/// same under that lock, both times, so that none which comes in between is missed. No program can
/// block `SIGSTOP`: it is not in the mask before, and the mask is the same afterwards.
fn recalc_sigpending() {
    let mut stop = bindings::sigset_t::default();
    // `siginitset()` of `sigmask()`, as in C.
    stop.sig[0] = 1 << (bindings::SIGSTOP - 1);
    let mut before = bindings::sigset_t::default();

    // SAFETY: Both sets are valid for the call, and it is the current task that changes its mask.
    unsafe { sigprocmask(bindings::SIG_BLOCK as c_int, &mut stop, &mut before) };
    // SAFETY: The set is valid for the call, and the other one is not wanted.
    unsafe {
        sigprocmask(
            bindings::SIG_SETMASK as c_int,
            &mut before,
            core::ptr::null_mut(),
        )
    };
}
