// SPDX-License-Identifier: GPL-2.0

//! The virtual device without our module: the kernel's own serial driver and udev take it for what it
//! is. If they did not, the other tests would prove little.

use crate::support::{
    run,
    tests,
    tty::Tty,
    wait_until,
    Guest,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    descriptors::Speed,
    stream::{
        block,
        Command, //
    },
};
use anyhow::{
    ensure,
    Result, //
};
use std::fs;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    udev_names_it_as_a_real_one,
    every_command_is_answered_byte_for_byte,
    second_id_at_full_speed_too,
    lines_are_raised_while_it_is_open,
];

/// The tty has the name that udev gives a real device, and its ids and strings.
fn udev_names_it_as_a_real_one(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    run(&["udevadm", "settle"])?;
    let tty = device.tty()?;
    let link = "/dev/serial/by-id/usb-TectroLabs_Alpha_RNG_GUEST-0-if00";
    let target = fs::canonicalize(link)?;
    ensure!(target.to_string_lossy() == format!("/dev/{tty}"));
    ensure!(tty == "ttyACM0");
    let properties = run(&["udevadm", "info", "--query=property", "--name", link])?.stdout;
    for property in [
        "ID_BUS=usb",
        "ID_VENDOR_ID=1fc9",
        "ID_MODEL_ID=8111",
        "ID_VENDOR=TectroLabs",
        "ID_MODEL=Alpha_RNG",
        "ID_SERIAL_SHORT=GUEST-0",
        "ID_USB_DRIVER=cdc_acm",
    ] {
        let there = properties.lines().any(|line| line == property);
        ensure!(there, "no {property} in\n{properties}");
    }
    ensure!(device.attribute("speed") == "480");
    Ok(())
}

/// Sends every command on the tty, twice in turn, and compares the answers.
fn expect_right_answers(tty: &mut Tty, seed: u64) -> Result<()> {
    for k in 0..2 {
        for command in Command::ALL {
            let answer = tty.ask(command.byte())?;
            ensure!(
                answer[..BLOCK] == block(seed, command, k)[..],
                "answer {k} to {command:?} has other bytes"
            );
            ensure!(answer[BLOCK..] == [0], "status {}", answer[BLOCK]);
        }
    }
    Ok(())
}

/// A plain program on the tty gets 16000 bytes and the status byte 0 for each of the four commands.
fn every_command_is_answered_byte_for_byte(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    expect_right_answers(&mut Tty::open(&device)?, guest.seed)
}

/// So it is with the other pair of ids and at full speed.
fn second_id_at_full_speed_too(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        vendor_id: Some(0x3975),
        product_id: Some(0x0005),
        speed: Some(Speed::Full),
        ..Configure::default()
    })?;
    let device = guest.plug()?;
    ensure!(device.attribute("idVendor") == "3975");
    ensure!(device.attribute("speed") == "12");
    expect_right_answers(&mut Tty::open(&device)?, guest.seed)
}

/// DTR and RTS are raised while a program has the tty open.
fn lines_are_raised_while_it_is_open(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    ensure!(guest.emulator.status()?.line_state == 0);
    let tty = Tty::open(&device)?;
    ensure!(guest.emulator.status()?.line_state == 3);
    drop(tty);
    wait_until("the lines to be lowered", || {
        guest
            .emulator
            .status()
            .is_ok_and(|status| status.line_state == 0)
    })
}
