// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for what `rust/kernel/` lacks on the kernels that this driver supports.
//!
//! Each file mirrors a plausible file of `rust/kernel/`, is named after its C header, knows nothing
//! of any one device, and says at its head why it is here and what would retire it. All `unsafe` of
//! the driver, and every use of the kernel's raw bindings, is in this folder.

#[cfg_attr(not(CONFIG_FREEZER), path = "no_freezer.rs")]
pub(crate) mod freezer;
pub(crate) mod hw_random;
pub(crate) mod iov;
pub(crate) mod miscdevice;
#[macro_use]
pub(crate) mod moduleparam;
pub(crate) mod proc_fs;
pub(crate) mod sensitive;
#[cfg_attr(not(CONFIG_TTY), path = "no_tty.rs")]
pub(crate) mod tty;
#[macro_use]
pub(crate) mod usb;
#[macro_use]
pub(crate) mod workqueue;

/// Bindings for the headers in `bindings.h`, made by bindgen when the driver is built.
mod bindings {
    #![allow(
        clippy::all,
        improper_ctypes,
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        unreachable_pub,
        unsafe_op_in_unsafe_fn,
        unused,
        reason = "The contents are generated."
    )]

    include!(env!("ALRANDOM_BINDINGS"));
}
