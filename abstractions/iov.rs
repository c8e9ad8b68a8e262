// SPDX-License-Identifier: GPL-2.0

//! Copies to user space that never sleep.
//!
//! Why it is here: `IovIterDest::copy_to_iter()` may sleep in a page fault for as long as user
//! space likes, so it cannot be used under a lock. This is the kernel's usual pair of a copy
//! with page faults disabled and a `fault_in_iov_iter_writeable()` outside the lock.
//! What would retire it: the same pair in `rust/kernel/iov.rs`.
//!
//! C headers: [`include/linux/uio.h`](srctree/include/linux/uio.h),
//! [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use core::sync::atomic::{
    compiler_fence,
    Ordering, //
};
use kernel::{
    bindings,
    iov::IovIterDest,
    prelude::*, //
};

/// A stretch of code in which a page fault fails instead of sleeping, for the current task.
///
/// The counterpart of C's `pagefault_disable()` and `pagefault_enable()`.
struct PagefaultDisabled {
    /// It counts for the task that made it.
    _not_send: kernel::types::NotThreadSafe,
}

impl PagefaultDisabled {
    /// Adds to the current task's counter.
    fn add(change: c_int) {
        let task = kernel::current!().as_ptr();
        // SAFETY: The current task is alive, and only it touches this counter of its own. As many
        // are taken away as were added, since each object does both.
        unsafe { (*task).pagefault_disabled = (*task).pagefault_disabled.wrapping_add(change) };
    }

    /// Starts the stretch.
    fn new() -> Self {
        Self::add(1);
        compiler_fence(Ordering::SeqCst);
        Self {
            _not_send: kernel::types::NotThreadSafe,
        }
    }
}

impl Drop for PagefaultDisabled {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        Self::add(-1);
    }
}

/// What [`IovIterDest`] lacks.
pub(crate) trait IovIterDestExt {
    /// Copies as much of `input` as can be copied without a page fault; never sleeps.
    ///
    /// Returns the number of bytes copied, by which the vector moves on.
    fn copy_to_iter_nofault(&mut self, input: &[u8]) -> usize;

    /// Brings in the pages that the next `bytes` bytes go to; may sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` where not even the first byte can be written.
    fn fault_in(&mut self, bytes: usize) -> Result;

    /// Whether a program's memory is written to, and not the kernel's as in `splice(2)`.
    ///
    /// The C side's `user_backed_iter()`.
    fn is_user_backed(&mut self) -> bool;
}

impl IovIterDestExt for IovIterDest<'_> {
    fn copy_to_iter_nofault(&mut self, input: &[u8]) -> usize {
        let _guard = PagefaultDisabled::new();
        self.copy_to_iter(input)
    }

    fn fault_in(&mut self, bytes: usize) -> Result {
        let bytes = bytes.min(self.len());

        // SAFETY: The vector is valid by the type invariants of `IovIterDest`.
        let left = unsafe { bindings::fault_in_iov_iter_writeable(self.as_raw(), bytes) };

        // A part is good enough: the copy that follows stops where the rest begins.
        if bytes > 0 && left == bytes {
            Err(EFAULT)
        } else {
            Ok(())
        }
    }

    fn is_user_backed(&mut self) -> bool {
        // SAFETY: The vector is valid by the type invariants of `IovIterDest`.
        let iter_type = unsafe { (*self.as_raw()).iter_type };
        matches!(
            u32::from(iter_type),
            bindings::iter_type_ITER_UBUF | bindings::iter_type_ITER_IOVEC
        )
    }
}
