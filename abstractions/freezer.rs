// SPDX-License-Identifier: GPL-2.0

//! Telling a signal from the freezer's knock.
//!
//! Why it is here: to make a program that runs in the kernel notice that it is to be frozen, for a
//! suspend of the machine or by a cgroup, the freezer pretends that a signal had come. It is meant
//! for the way back to user space; a system call that has done a part of its work, and would end
//! early for nothing, can freeze where it is instead. The kernel crate has nothing for that.
//! What would retire it: `try_to_freeze()` and `recalc_sigpending()` in `rust/kernel/`.
//!
//! The freezer of cgroup v2 uses job control, as `SIGSTOP` does, and counts as a signal.
//!
//! C headers: [`include/linux/freezer.h`](srctree/include/linux/freezer.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

#[cfg(CONFIG_FREEZER)]
use super::bindings::{
    __refrigerator,
    freezing_slow_path,
    sigprocmask, //
};
#[cfg(CONFIG_FREEZER)]
use kernel::{
    bindings,
    prelude::*,
    task::might_sleep, //
};

/// Whether a signal is pending for the current task, be it a fatal one. Stays frozen for as long as
/// the task is to be, and forgets the signal that the freezer pretends.
///
/// May sleep. To be called without locks, also of callers': a task that is frozen with a lock keeps
/// those who wait for it from being frozen.
#[cfg(CONFIG_FREEZER)]
pub(crate) fn signal_pending() -> bool {
    might_sleep();
    while kernel::current!().signal_pending() {
        // SAFETY: May be called in any context in which the caller may sleep; returns at once where
        // the task is not to be frozen, as it is where freezing was given up before.
        unsafe { __refrigerator(false) };
        recalc_sigpending();
        // What is still said to be pending is, unless the next freeze has begun.
        if !freezing() {
            return kernel::current!().signal_pending();
        }
    }
    false
}

/// As above on kernels that freeze nobody, so that a signal is one.
#[cfg(not(CONFIG_FREEZER))]
pub(crate) fn signal_pending() -> bool {
    kernel::current!().signal_pending()
}

/// Whether the current task is to be frozen; `freezing()` without its static branch, which has no
/// bindings.
#[cfg(CONFIG_FREEZER)]
fn freezing() -> bool {
    // SAFETY: The current task is alive.
    unsafe { freezing_slow_path(kernel::current!().as_ptr()) }
}

/// Sets anew whether a signal is pending for the current task, by what is in its queues.
///
/// `recalc_sigpending()` wants a lock that has no bindings. Changing the mask of signals does the
/// same under that lock, both times, so that none which comes in between is missed. No program can
/// block `SIGSTOP`: it is not in the mask before, and the mask is the same afterwards.
#[cfg(CONFIG_FREEZER)]
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
