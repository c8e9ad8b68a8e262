// SPDX-License-Identifier: GPL-2.0

//! What stands for `freezer.rs` on kernels that freeze nobody, where no signal is a fake one.
//!
//! Why it is here: what the C header has for these kernels are inline functions, which have no
//! bindings. What would retire it: `try_to_freeze()` in `rust/kernel/`.
//!
//! C header: [`include/linux/freezer.h`](srctree/include/linux/freezer.h)

/// Whether a signal is pending for the current task.
pub(crate) fn signal_pending() -> bool {
    kernel::current!().signal_pending()
}
