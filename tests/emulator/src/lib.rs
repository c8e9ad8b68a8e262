// SPDX-License-Identifier: GPL-2.0
//! A virtual AlphaRNG.
//!
//! The library has the unit itself and what tests of a driver need to steer it and to know what it
//! sends; the program `alpharng-emu` connects it to QEMU. The files:
//!
//! - [`usbredir`]: the protocol towards QEMU, packets to bytes and back;
//! - [`descriptors`]: what the unit says of itself;
//! - [`device`]: the unit, a pure state machine;
//! - [`session`]: the unit at the end of a usbredir connection;
//! - [`stream`]: the data of its answers;
//! - [`pattern`]: data of noise sources gone bad;
//! - [`fault`]: all that can be made to go wrong;
//! - [`control`]: the JSON protocol by which a test steers it.
//!
//! A test regenerates what the unit sent:
//!
//! ```
//! use alpharng_emu::fault::Kind;
//! use alpharng_emu::stream::{block, Command};
//!
//! let healthy = block(7, Command::Entropy, 3);
//! let mut faulty = healthy;
//! Kind::BitStuck { bit: 0, value: 1 }.apply(3, None, &mut faulty);
//! assert!(faulty.iter().zip(&healthy).all(|(f, h)| *f == h | 1));
//! ```

#![forbid(unsafe_code)]

pub mod control;
pub mod descriptors;
pub mod device;
pub mod fault;
pub mod pattern;
pub mod session;
pub mod stream;
pub mod usbredir;
