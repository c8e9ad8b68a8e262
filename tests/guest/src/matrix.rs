// SPDX-License-Identifier: GPL-2.0

//! The same behaviour of all kinds of devices, and whatever the stock serial driver does.

use crate::support::{
    node::MAX_READ,
    run,
    tests,
    wait_until,
    Guest,
    Info,
    Node,
    Stream,
    Test, //
};
use alpharng_emu::{
    control::Configure,
    descriptors::{
        Interfaces,
        Speed, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    thread,
    time::Duration, //
};

/// Longer than the line of a device has to be quiet before the first command, 50 ms.
const SLOW: Duration = Duration::from_millis(300);

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    second_id,
    full_speed,
    answers_in_two_pieces,
    answers_that_begin_with_a_byte,
    answers_with_50_pieces_of_64_bytes,
    answers_in_pieces_of_512_bytes,
    answers_with_the_status_byte_apart,
    answers_of_odd_pieces_at_full_speed,
    a_byte_left_over,
    an_answer_left_over,
    a_lot_left_over_at_full_speed,
    an_answer_left_over_by_a_slow_device,
    other_endpoints_and_interfaces_swapped,
    interfaces_with_gaps,
    no_serial_number,
    cdc_acm_absent,
    cdc_acm_loaded_later,
];

/// The core of what users do: reads of all sizes, the numbers, pulling the device out and plugging it in,
/// unloading. The device is plugged in, and the module loaded.
fn expect_core(guest: &mut Guest) -> Result<()> {
    let node = Node::open()?;
    let mut stream = guest.stream();
    for count in [1, 16, 4097, 16_000, 20_001, MAX_READ] {
        let bytes = node.read(count)?;
        ensure!(bytes.len() == count);
        stream.expect(&bytes).context("before the unplug")?;
    }
    let requests = guest.wait_until_full()?;
    let healthy = Info {
        tests_enabled: true,
        requests,
        ..Info::default()
    };
    ensure!(Info::read()? == healthy);
    let status = guest.emulator.status()?;
    ensure!(status.most_pending <= 2 && status.commands.other() == 0);
    ensure!(status.line_state == 3);

    guest.unplug()?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    let next = guest.emulator.status()?.next_block;
    guest.emulator.plug()?;
    let mut stream = Stream::from_block(guest.seed, next + 1);
    let mut again = None;
    wait_until("the file to go on", || {
        again = node.read(50_000).ok();
        again.is_some()
    })?;
    let again = again.context("no bytes")?;
    stream.expect(&again).context("after the unplug")?;
    drop(node);
    guest.unload()?;
    ensure!(guest.emulator.status()?.line_state == 0);
    Ok(())
}

/// The core with such a device, which the stock serial driver has before and after.
fn expect_core_with(guest: &mut Guest, configure: Configure) -> Result<()> {
    guest.configure(configure)?;
    let device = guest.plug()?;
    wait_until("cdc_acm to have the device", || device.is_with_cdc_acm())?;
    guest.load(&[])?;
    ensure!(device.is_in_use(), "the device is not taken at load");
    expect_core(guest)?;
    wait_until("cdc_acm to have the device again", || {
        device.is_with_cdc_acm()
    })
}

/// The core with answers cut into transfers of these lengths.
fn expect_core_split(guest: &mut Guest, split: &[usize]) -> Result<()> {
    let split = Some(split.to_vec());
    expect_core_with(
        guest,
        Configure {
            split,
            ..Configure::default()
        },
    )
}

/// The ids of newer units.
fn second_id(guest: &mut Guest) -> Result<()> {
    expect_core_with(
        guest,
        Configure {
            vendor_id: Some(0x3975),
            product_id: Some(0x0005),
            ..Configure::default()
        },
    )
}

/// Full speed: packets of 64 bytes.
fn full_speed(guest: &mut Guest) -> Result<()> {
    expect_core_with(
        guest,
        Configure {
            speed: Some(Speed::Full),
            ..Configure::default()
        },
    )
}

/// An answer in two transfers.
fn answers_in_two_pieces(guest: &mut Guest) -> Result<()> {
    expect_core_split(guest, &[8192, 7809])
}

/// A first transfer of one byte, and single bytes in between.
fn answers_that_begin_with_a_byte(guest: &mut Guest) -> Result<()> {
    expect_core_split(guest, &[1, 1, 1, 5000, 1, 9000])
}

/// Many small transfers: not the whole answer, which may take no longer than 1 s on the slowest machine.
fn answers_with_50_pieces_of_64_bytes(guest: &mut Guest) -> Result<()> {
    let mut split = vec![64; 50];
    split.push(10_000);
    expect_core_split(guest, &split)
}

/// Transfers of a packet each.
fn answers_in_pieces_of_512_bytes(guest: &mut Guest) -> Result<()> {
    expect_core_split(guest, &[512])
}

/// The status byte in a transfer of its own.
fn answers_with_the_status_byte_apart(guest: &mut Guest) -> Result<()> {
    expect_core_split(guest, &[16_000, 1])
}

/// Odd pieces at full speed.
fn answers_of_odd_pieces_at_full_speed(guest: &mut Guest) -> Result<()> {
    expect_core_with(
        guest,
        Configure {
            speed: Some(Speed::Full),
            split: Some(vec![63, 65, 127, 1000, 4096]),
            ..Configure::default()
        },
    )
}

/// The core with bytes that an earlier owner has left unread.
fn expect_core_behind(guest: &mut Guest, leftover: usize, speed: Speed) -> Result<()> {
    expect_core_with(
        guest,
        Configure {
            leftover: Some(leftover),
            speed: Some(speed),
            ..Configure::default()
        },
    )
}

/// One byte left over: without draining, every answer would be shifted by it.
fn a_byte_left_over(guest: &mut Guest) -> Result<()> {
    expect_core_behind(guest, 1, Speed::High)
}

/// A whole answer left over: without draining, it would be taken for the first.
fn an_answer_left_over(guest: &mut Guest) -> Result<()> {
    expect_core_behind(guest, 16_001, Speed::High)
}

/// Several answers left over, and a bit.
fn a_lot_left_over_at_full_speed(guest: &mut Guest) -> Result<()> {
    expect_core_behind(guest, 50_000, Speed::Full)
}

/// Raising DTR and RTS takes longer than the line has to be quiet: that was not heard to be quiet, and is
/// drained all the same.
fn an_answer_left_over_by_a_slow_device(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    guest.configure(Configure {
        leftover: Some(16_001),
        ..Configure::default()
    })?;
    guest.plug_and_hold_line_state()?;
    thread::sleep(SLOW);
    let before = guest.emulator.status()?;
    ensure!(before.line_state == 0 && before.leftover == 16_001);
    guest.emulator.clear_faults()?;
    wait_until("the device to be used", || Node::open().is_ok())?;
    expect_core(guest)
}

/// Interfaces and endpoints have other numbers.
fn other_endpoints_and_interfaces_swapped(guest: &mut Guest) -> Result<()> {
    let interfaces = Interfaces {
        communications: 1,
        data: 0,
        notify: 3,
        bulk_in: 9,
        bulk_out: 1,
    };
    expect_core_with(
        guest,
        Configure {
            interfaces: Some(interfaces),
            ..Configure::default()
        },
    )
}

/// Interfaces are numbered with gaps, which the kernel frowns upon and accepts.
fn interfaces_with_gaps(guest: &mut Guest) -> Result<()> {
    guest.log.announce("invalid interface number");
    guest.log.announce("has no interface number");
    let interfaces = Interfaces {
        communications: 2,
        data: 5,
        notify: 4,
        bulk_in: 1,
        bulk_out: 15,
    };
    expect_core_with(
        guest,
        Configure {
            interfaces: Some(interfaces),
            ..Configure::default()
        },
    )
}

/// A unit without a serial number.
fn no_serial_number(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        serial: Some(String::new()),
        ..Configure::default()
    })?;
    guest.load(&[])?;
    let node = Node::open()?;
    guest.emulator.plug()?;
    let mut bytes = None;
    wait_until("the device to be in use", || {
        bytes = node.read(50_000).ok();
        bytes.is_some()
    })?;
    guest.stream().expect(&bytes.context("no bytes")?)
}

/// The stock serial driver is not there: the device has no driver but this, on load and on hot-plug.
fn cdc_acm_absent(guest: &mut Guest) -> Result<()> {
    guest.block_cdc_acm()?;
    let device = guest.plug_for_nobody(0)?;
    guest.load(&[])?;
    wait_until("the device to be in use", || device.is_in_use())?;
    expect_core(guest)?;
    ensure!(device.data_driver().is_none() && device.communications_driver().is_none());
    Ok(())
}

/// The stock serial driver is loaded while the device is in use: it stays so, and goes there at unload.
fn cdc_acm_loaded_later(guest: &mut Guest) -> Result<()> {
    guest.block_cdc_acm()?;
    let device = guest.plug_for_nobody(0)?;
    guest.load(&[])?;
    wait_until("the device to be in use", || device.is_in_use())?;
    let node = Node::open()?;
    let mut stream = guest.stream();
    stream.expect(&node.read_all(50_000)?)?;

    guest.allow_cdc_acm()?;
    run(&["udevadm", "settle"])?;

    ensure!(device.is_in_use(), "the device was taken away");
    stream.expect(&node.read_all(200_000)?)?;
    drop(node);
    guest.unload()?;
    wait_until("cdc_acm to have the device", || device.is_with_cdc_acm())
}
