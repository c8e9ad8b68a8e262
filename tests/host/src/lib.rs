// SPDX-License-Identifier: GPL-2.0

//! alrandom's pure files, compiled a second time, unchanged, and tested on the host.
//!
//! The driver's code is `health` itself. `model` says what it has to do, slowly; [`script`] runs
//! both side by side; [`catalogue`] finds out what becomes of a noise source that fails.

pub mod catalogue;
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
