// SPDX-License-Identifier: GPL-2.0

//! What the tests are written with.

pub(crate) mod background;
pub(crate) mod calls;
pub(crate) mod crowd;
pub(crate) mod guest;
pub(crate) mod info;
pub(crate) mod leaks;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod pieces;
pub(crate) mod process;
pub(crate) mod raw_gadget;
pub(crate) mod readme;
pub(crate) mod rngd;
pub(crate) mod runner;
pub(crate) mod stream;
pub(crate) mod suspend;
pub(crate) mod sys;
pub(crate) mod test;
pub(crate) mod trend;
pub(crate) mod tty;
pub(crate) mod uring;
pub(crate) mod usb;
pub(crate) mod usbfs;
pub(crate) mod wait;
pub(crate) mod works;

pub(crate) use self::{
    background::Background,
    guest::Guest,
    info::Info,
    node::Node,
    process::run,
    stream::{
        Stream,
        BLOCK, //
    },
    test::Test,
    usb::UsbDevice,
    wait::{
        wait_until,
        PATIENCE, //
    },
};

/// The tests of a file: `tests![first, second]` makes a list of [`Test`]s named
/// `file::first` and `file::second` of functions that take a [`&mut Guest`](Guest) and return
/// [`anyhow::Result`].
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$($crate::support::Test::new(
            concat!(module_path!(), "::", stringify!($name)),
            $name,
        )),+]
    };
}
pub(crate) use tests;
