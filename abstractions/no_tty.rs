// SPDX-License-Identifier: GPL-2.0

//! What stands for `tty.rs` on kernels without ttys, where nothing can be in use as one.
//!
//! Why it is here: what the C header has for these kernels are inline functions, which have no
//! bindings. What would retire it: `rust/kernel/tty.rs`.
//!
//! C header: [`include/linux/tty.h`](srctree/include/linux/tty.h)

use kernel::{
    bindings,
    prelude::*, //
};

/// A tty that nobody had open; there is none.
pub(crate) enum ExclusiveTty {}

impl ExclusiveTty {
    /// Takes the tty with the number `number`.
    ///
    /// # Errors
    ///
    /// `ENODEV`, as the C header's function.
    pub(crate) fn open(_number: bindings::dev_t) -> Result<Self> {
        Err(ENODEV)
    }
}
