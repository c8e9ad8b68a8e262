// SPDX-License-Identifier: GPL-2.0

//! Memory for data that nobody may find later.
//!
//! Why it is here: the kernel crate has no allocation that is wiped when it is freed, and its
//! vectors come from `kmalloc`, which rounds a buffer of a little over 16 KiB up to 32 KiB.
//! What would retire it: a `kvfree_sensitive`-like allocator in `rust/kernel/alloc/`, with exact
//! sizes of physically contiguous pages.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/string.h`](srctree/include/linux/string.h) (`memzero_explicit`).

use core::{
    ops::Range,
    ptr::NonNull,
    slice,
    sync::atomic::{
        compiler_fence,
        Ordering, //
    },
};
use kernel::{
    bindings,
    prelude::*, //
};

/// A physically contiguous, page-aligned buffer, fit for DMA, that is wiped before it is freed.
///
/// # Invariants
///
/// `start` points to `len` initialised bytes that came from `alloc_pages_exact(len)`, which this
/// object owns.
pub(crate) struct SensitiveBuffer {
    /// The first byte.
    start: NonNull<u8>,
    /// The size in bytes.
    len: usize,
}

// SAFETY: The buffer owns its memory, which is ordinary memory of the kernel.
unsafe impl Send for SensitiveBuffer {}
// SAFETY: A shared reference only allows reading.
unsafe impl Sync for SensitiveBuffer {}

impl SensitiveBuffer {
    /// Allocates `len` zeroed bytes (rounded up to whole pages by the page allocator); may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where so many contiguous pages cannot be had, `EINVAL` for no bytes at all.
    pub(crate) fn new(len: usize) -> Result<Self> {
        if len == 0 {
            return Err(EINVAL);
        }
        let gfp = bindings::GFP_KERNEL | bindings::__GFP_ZERO;

        // SAFETY: The function may be called with any size and flags in a context that may sleep.
        let start = unsafe { bindings::alloc_pages_exact_noprof(len, gfp) };

        // INVARIANT: The memory was just allocated with this length, and zeroed.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            len,
        })
    }

    /// The size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first byte's address, for a transfer that fills the buffer.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The whole buffer.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: By the type invariants these bytes are initialised and owned by `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The whole buffer, to write to.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: By the type invariants these bytes are initialised and owned by `self`, which is
        // borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Overwrites `range` with zeroes, in a way that the compiler may not leave out.
    ///
    /// What lies outside the buffer is ignored.
    pub(crate) fn wipe(&mut self, range: Range<usize>) {
        let end = range.end.min(self.len);
        if let Some(bytes) = self.as_mut_slice().get_mut(range.start.min(end)..end) {
            bytes.fill(0);
            // As `memzero_explicit()` does: the pointer escapes, so the stores must be made.
            // SAFETY: An empty assembly block that is said to read memory through `bytes`.
            unsafe {
                core::arch::asm!(
                    "/* {0} */",
                    in(reg) bytes.as_ptr(),
                    options(nostack, preserves_flags)
                )
            };
            compiler_fence(Ordering::SeqCst);
        }
    }
}

impl Drop for SensitiveBuffer {
    fn drop(&mut self) {
        self.wipe(0..self.len);
        // SAFETY: By the type invariants the memory came from `alloc_pages_exact()` with this
        // length, and `self` is gone after this.
        unsafe { bindings::free_pages_exact(self.start.as_ptr().cast(), self.len) };
    }
}
