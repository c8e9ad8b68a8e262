// SPDX-License-Identifier: GPL-2.0

//! alrandom's pure files, compiled a second time, unchanged, and tested on the host.
//!
//! The driver's code is `health`, `cdc` and `protocol`. `model` says what the health tests have to
//! do, slowly; [`script`] runs both side by side; [`catalogue`] finds out what becomes of a noise
//! source that fails. [`descriptors`] and [`exchange`] play a hostile device, and [`packets`] a
//! hostile peer of the emulator. What has a function `fuzz` is a fuzz target; `make check` runs it
//! on generated data.

pub mod catalogue;
pub mod descriptors;
pub mod exchange;
pub mod packets;
pub mod script;

mod model;

#[cfg(test)]
mod cutoffs;
#[cfg(test)]
mod properties;

#[path = "../../../health.rs"]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the driver uses all of it, and so do the tests")
)]
mod health;

#[path = "../../../cdc.rs"]
#[expect(dead_code, reason = "the driver uses all of it")]
mod cdc;

#[path = "../../../protocol.rs"]
#[expect(dead_code, reason = "the driver uses all of it, and so do the tests")]
mod protocol;
