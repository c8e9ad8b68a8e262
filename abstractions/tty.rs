// SPDX-License-Identifier: GPL-2.0

//! Finding out whether a tty is in use, and keeping it unused.
//!
//! Why it is here: the kernel crate has nothing for ttys. What would retire it:
//! `rust/kernel/tty.rs`.
//!
//! C header: [`include/linux/tty.h`](srctree/include/linux/tty.h)

use super::bindings::{
    tty_kclose,
    tty_kopen_exclusive,
    tty_unlock, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

/// A tty that nobody had open, and that nobody can open until this is dropped.
///
/// # Invariants
///
/// `tty` came from `tty_kopen_exclusive()` and is closed by nobody else.
pub(crate) struct ExclusiveTty {
    /// The C side.
    tty: NonNull<bindings::tty_struct>,
}

impl ExclusiveTty {
    /// Takes the tty with the number `number`; may sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` where somebody has it open, others where there is no such tty (any more).
    pub(crate) fn open(number: bindings::dev_t) -> Result<Self> {
        // SAFETY: The function takes any number.
        let tty = from_err_ptr(unsafe { tty_kopen_exclusive(number) })?;

        // INVARIANT: The tty was just opened.
        let tty = Self {
            tty: NonNull::new(tty).ok_or(ENODEV)?,
        };
        // SAFETY: `tty_kopen_exclusive()` returns with the lock of the tty held.
        unsafe { tty_unlock(tty.tty.as_ptr()) };
        Ok(tty)
    }
}

impl Drop for ExclusiveTty {
    fn drop(&mut self) {
        // SAFETY: By the type invariants; the lock of the tty is not held.
        unsafe { tty_kclose(self.tty.as_ptr()) };
    }
}
