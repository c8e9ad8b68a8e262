// SPDX-License-Identifier: GPL-2.0

//! A device that nobody uses is suspended, where root wants that, and wakes up for the next reader.

use crate::support::{
    tests,
    wait::wait_until_within,
    wait_until,
    Guest,
    Node,
    Test,
    UsbDevice,
    BLOCK,
    PATIENCE, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::{
    fs,
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    suspended_when_idle_and_woken_by_a_read,
    woken_again_and_again_no_byte_is_lost_or_doubled,
    unplugged_while_suspended,
    unloaded_while_suspended,
    never_suspended_by_default,
    unloaded_nothing_keeps_the_device_awake,
];

/// How long after the last use a device may be suspended: the parameter's second, and the two of the
/// USB core's `autosuspend_delay_ms`; it takes its time to be so under emulation.
const SOON: Duration = PATIENCE;

/// Whether the device is suspended.
fn is_suspended(device: &UsbDevice) -> bool {
    device.attribute("power/runtime_status") == "suspended"
}

/// Loads the module so that an idle device is suspended after a second, and waits for that. Returns the
/// index of the device's next block, too.
fn start(guest: &mut Guest) -> Result<(UsbDevice, Node, u64)> {
    let device = guest.plug()?;
    guest.load(&["idleSuspend=1"])?;
    let node = Node::open()?;
    let next = guest.wait_until_full()?;
    wait_until_within(SOON, "the device to be suspended", || is_suspended(&device))?;
    Ok((device, node, next))
}

/// It is suspended when all blocks are full and nobody has read for the time. What is ready is read
/// without waking it. A reader that frees a block does wake it, and the start-up test uses up a block.
fn suspended_when_idle_and_woken_by_a_read(guest: &mut Guest) -> Result<()> {
    let (device, node, next) = start(guest)?;
    let mut bytes = node.read_all(100)?;
    thread::sleep(Duration::from_secs(2));
    ensure!(is_suspended(&device), "awake although a block is ready");
    ensure!(guest.emulator.status()?.next_block == next);

    bytes.extend(node.read_all(10 * BLOCK - 100)?);

    ensure!(device.attribute("power/runtime_status") == "active");
    guest.expect_stream_but(&bytes, &[next])?;
    let delivered = bytes.len() / BLOCK;
    let mut stream = guest.stream();
    ensure!(
        stream.expect(&bytes).is_err(),
        "no start-up test: {delivered} blocks are those from 1 on without a gap"
    );
    wait_until_within(SOON, "the device to be suspended again", || {
        is_suspended(&device)
    })
}

/// Each time that it wakes up one block is the start-up test's, and all others are delivered once.
fn woken_again_and_again_no_byte_is_lost_or_doubled(guest: &mut Guest) -> Result<()> {
    let (device, node, mut next) = start(guest)?;
    let mut bytes = Vec::new();
    let mut missing = Vec::new();
    for _ in 0..4 {
        missing.push(next);
        bytes.extend(node.read_all(5 * BLOCK)?);
        guest.wait_until_full()?;
        next = guest.emulator.status()?.next_block;
        wait_until_within(SOON, "the device to be suspended", || is_suspended(&device))?;
    }
    guest.expect_stream_but(&bytes, &missing)
}

/// Unplugged while it is suspended, and plugged in again.
fn unplugged_while_suspended(guest: &mut Guest) -> Result<()> {
    let (_device, node, _next) = start(guest)?;
    guest.unplug()?;
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(100_000)?)
}

/// Unloaded while it is suspended, the stock driver gets a device that is awake and works, and that is
/// not to be suspended, as before.
fn unloaded_while_suspended(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    let control = device.attribute("power/control");
    ensure!(control == "on");
    guest.load(&["idleSuspend=1"])?;
    wait_until_within(SOON, "the device to be suspended", || is_suspended(&device))?;
    ensure!(device.attribute("power/control") == "auto");
    guest.unload()?;
    ensure!(device.is_with_cdc_acm() && !is_suspended(&device));
    ensure!(device.attribute("power/control") == "on");
    Ok(())
}

/// Without the parameter it is never suspended, even where root has allowed it for the device; set
/// later, the parameter counts from then on.
fn never_suspended_by_default(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    guest.load(&[])?;
    let node = Node::open()?;
    device.set_attribute("power/control", "auto")?;
    device.set_attribute("power/autosuspend_delay_ms", "0")?;
    ensure!(device.attribute("power/control") == "auto");
    guest.wait_until_full()?;
    thread::sleep(Duration::from_secs(3));
    ensure!(!is_suspended(&device));

    fs::write("/sys/module/alrandom/parameters/idleSuspend", "1")?;
    node.read_all(BLOCK)?;
    wait_until("the device to be suspended", || is_suspended(&device))?;
    // What root has allowed stays so.
    drop(node);
    guest.unload()?;
    ensure!(device.attribute("power/control") == "auto");
    Ok(())
}

/// The core counts on who wants a device to be awake when its driver changes: after this module the stock
/// serial driver's device is suspended as before it.
fn unloaded_nothing_keeps_the_device_awake(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    device.set_attribute("power/autosuspend_delay_ms", "0")?;
    device.set_attribute("power/control", "auto")?;
    let suspended = || is_suspended(&device);
    wait_until_within(SOON, "the stock driver's device to be suspended", suspended)?;
    for parameters in [&[][..], &["idleSuspend=1"]] {
        guest.load(parameters)?;
        guest.wait_until_full()?;
        if !parameters.is_empty() {
            wait_until_within(SOON, "the idle device to be suspended", suspended)?;
        }
        guest.unload()?;
        ensure!(device.is_with_cdc_acm());
        wait_until_within(SOON, "the device to be suspended again", suspended)?;
    }
    Ok(())
}
