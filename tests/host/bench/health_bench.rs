// SPDX-License-Identifier: GPL-2.0

//! The driver's health tests behind a C interface, for the benchmark.

#[path = "../../../health.rs"]
#[allow(dead_code, reason = "the benchmark needs little of it")]
mod health;

use core::mem::size_of;

use health::{
    Decision,
    Health,
    MinEntropy,
    BLOCK, //
};

/// Bytes that the caller has to provide for the health tests' state, aligned to 8.
#[no_mangle]
pub(crate) extern "C" fn health_size() -> usize {
    size_of::<Health>()
}

/// Begins with `bits` of assessed min-entropy per byte; false if there is no such min-entropy.
///
/// # Safety
///
/// `health` must be valid for a write of [`health_size`] bytes and aligned to 8.
#[no_mangle]
pub(crate) unsafe extern "C" fn health_init(health: *mut Health, bits: u32) -> bool {
    let Some(min_entropy) = MinEntropy::new(bits) else {
        return false;
    };
    // SAFETY: By the caller's promise.
    unsafe { health.write(Health::new(min_entropy)) };
    true
}

/// Tests a block; true if it may be delivered.
///
/// # Safety
///
/// `health` must have been initialised by [`health_init`] and `block` must point to a block; nobody
/// else may use them meanwhile.
#[no_mangle]
pub(crate) unsafe extern "C" fn health_test(
    health: *mut Health,
    block: *const [u8; BLOCK],
) -> bool {
    // SAFETY: By the caller's promise.
    let (health, block) = unsafe { (&mut *health, &*block) };
    matches!(health.test_block(block), Decision::Deliver)
}

/// Runs the known-answer vectors; true if all agree.
///
/// # Safety
///
/// `scratch` must point to memory of a block's size that nobody else uses meanwhile.
#[no_mangle]
pub(crate) unsafe extern "C" fn health_self_test(scratch: *mut [u8; BLOCK]) -> bool {
    // SAFETY: By the caller's promise.
    health::self_test(unsafe { &mut *scratch }).is_ok()
}
