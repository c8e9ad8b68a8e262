// SPDX-License-Identifier: GPL-2.0

//! The test machine: boots a stock kernel in QEMU, with a virtual AlphaRNG plugged in.

pub mod architecture;
pub mod bench;
pub mod console;
pub mod cpio;
pub mod frame;
pub mod host;
pub mod in_tree;
pub mod interrupt;
pub mod kernels;
pub mod kvm;
pub mod layout;
pub mod linux;
pub mod machine;
pub mod memory;
pub mod menu;
pub mod modules;
pub mod more;
pub mod parallel;
pub mod provoked;
pub mod qemu;
pub mod shell;
pub mod soak;
pub mod step;
pub mod suite;
pub mod systemd;
pub mod tap;
