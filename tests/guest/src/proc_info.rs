// SPDX-License-Identifier: GPL-2.0

//! `/proc/alrandom/info`: the text in each state, and every number in it.

use crate::support::{
    info::{
        self,
        NOT_INITIALISED,
        NO_DEVICE, //
    },
    tests,
    Guest,
    Info,
    Test, //
};
use alpharng_emu::fault::{
    Fault,
    Kind, //
};
use anyhow::{
    ensure,
    Result, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    without_a_device_it_says_so,
    before_the_first_answer_it_says_so,
    a_healthy_device_has_requests_and_no_failures,
];

/// No device: one line.
fn without_a_device_it_says_so(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    ensure!(info::read_text()? == NO_DEVICE);
    let device = guest.plug()?;
    crate::support::wait_until("the device to be in use", || device.is_in_use())?;
    ensure!(info::read_text()? != NO_DEVICE);
    guest.unplug()?;
    ensure!(info::read_text()? == NO_DEVICE);
    Ok(())
}

/// A device that has not answered yet: one line.
fn before_the_first_answer_it_says_so(guest: &mut Guest) -> Result<()> {
    guest.emulator.fault(Fault::next(Kind::Delay { ms: 900 }))?;
    let node = guest.start()?;
    ensure!(info::read_text()? == NOT_INITIALISED);
    node.read_all(1)?;
    Info::read()?;
    Ok(())
}

/// A healthy device: the number of its answers, and no failure.
fn a_healthy_device_has_requests_and_no_failures(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(1_000_000)?;
    let blocks = guest.wait_until_full()?;
    let healthy = Info {
        tests_enabled: true,
        requests: blocks,
        ..Info::default()
    };
    ensure!(Info::read()? == healthy);
    Ok(())
}
