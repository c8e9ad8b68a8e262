// SPDX-License-Identifier: GPL-2.0

//! Taking the device from the stock serial driver, and giving it back.

use crate::support::{
    tests,
    tty::Tty,
    wait_until,
    Guest,
    Node,
    Stream,
    Test,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::stream::{
    block,
    Command, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    fs,
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    taken_at_load_and_given_back_at_unload,
    held_tty_is_left_alone_and_taken_when_it_is_closed,
    held_tty_is_taken_when_a_reader_asks,
    held_tty_that_is_unplugged_is_forgotten,
    one_of_several_is_used_and_the_next_takes_over,
    hot_plugged_20_times_it_is_always_taken,
    unbound_by_root_it_stays_so,
];

/// Whether there is any tty of the stock serial driver.
fn any_tty() -> bool {
    fs::read_dir("/sys/class/tty").is_ok_and(|mut ttys| {
        ttys.any(|tty| tty.is_ok_and(|tty| tty.file_name().to_string_lossy().starts_with("ttyACM")))
    })
}

/// A tty that nobody uses is taken; unloaded, the tty is back and works.
fn taken_at_load_and_given_back_at_unload(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    ensure!(device.is_with_cdc_acm() && any_tty());
    guest.load(&[])?;
    // At once: who has loaded the module can read.
    ensure!(device.is_in_use() && !any_tty());
    let blocks = guest.wait_until_full()?;
    guest.unload()?;
    ensure!(device.is_with_cdc_acm());
    let next = guest.emulator.status()?.next_block;
    ensure!(next == blocks);
    let answer = Tty::open(&device)?.ask(b'x')?;
    ensure!(answer[..BLOCK] == block(guest.seed, Command::Entropy, next)[..]);
    Ok(())
}

/// Loads the module while a program has the tty open.
fn load_while_held(guest: &mut Guest) -> Result<(UsbDevice, Tty)> {
    let device = guest.plug()?;
    let mut tty = Tty::open(&device)?;
    guest.load(&[])?;
    guest
        .log
        .wait_for("AlphaRNG is in use by another program")?;
    ensure!(device.is_with_cdc_acm(), "the device was taken away");
    ensure!(Node::open()?.read(1) == Err(Errno::NODEV));
    // The program is not disturbed.
    let answer = tty.ask(b'x')?;
    ensure!(answer[..BLOCK] == block(guest.seed, Command::Entropy, 0)[..]);
    Ok((device, tty))
}

/// A tty that a program has open stays with it. The log says so, once, and the device is taken when it
/// becomes free.
fn held_tty_is_left_alone_and_taken_when_it_is_closed(guest: &mut Guest) -> Result<()> {
    let (device, tty) = load_while_held(guest)?;
    // It is tried again each second.
    thread::sleep(Duration::from_millis(2500));
    ensure!(guest.log.count("AlphaRNG is in use by another program") == 1);
    ensure!(device.is_with_cdc_acm());

    drop(tty);

    wait_until("the device to be in use", || device.is_in_use())?;
    // Block 0 was the program's, the next one is the start-up test's.
    Stream::from_block(guest.seed, 2).expect(&Node::open()?.read_all(50_000)?)
}

/// It is also taken when a reader asks, before it would be tried again.
fn held_tty_is_taken_when_a_reader_asks(guest: &mut Guest) -> Result<()> {
    let (device, tty) = load_while_held(guest)?;
    let node = Node::open()?;
    drop(tty);
    let bytes = node.read_all(50_000)?;
    ensure!(device.is_in_use());
    Stream::from_block(guest.seed, 2).expect(&bytes)
}

/// A device that another program has, and that goes: the next one is free.
fn held_tty_that_is_unplugged_is_forgotten(guest: &mut Guest) -> Result<()> {
    let (_device, tty) = load_while_held(guest)?;
    guest.unplug()?;
    drop(tty);
    let mut stream = guest.replug()?;
    stream.expect(&Node::open()?.read_all(50_000)?)
}

/// Of several devices one is used, the others stay with the stock serial driver and work. When the used
/// one goes, the next takes over, on the same open file, until none is left.
fn one_of_several_is_used_and_the_next_takes_over(guest: &mut Guest) -> Result<()> {
    let devices = (0..3)
        .map(|k| guest.plug_device(k))
        .collect::<Result<Vec<_>>>()?;
    guest.load(&[])?;
    let node = Node::open()?;
    let mut left = vec![0, 1, 2];
    while !left.is_empty() {
        let used = left.iter().position(|k| devices[*k].is_in_use());
        let used = left.remove(used.context("no device is in use")?);
        for k in &left {
            ensure!(
                devices[*k].is_with_cdc_acm(),
                "device {k} is not left alone"
            );
        }
        let seed = guest.seed + used as u64;
        Stream::of(seed).expect(&node.read_all(30_000)?)?;
        if let [other, ..] = left[..] {
            let answer = Tty::open(&devices[other])?.ask(b'1')?;
            let seed = guest.seed + other as u64;
            let expected = block(seed, Command::NoiseOne, answers(guest, other)? - 1);
            ensure!(answer[..BLOCK] == expected[..]);
        }
        guest.emulator.device(used).unplug()?;
        guest.emulator.device(0);
        wait_until("the device to be gone", || !devices[used].is_there())?;
        wait_until("the next device to be in use", || {
            left.is_empty() || left.iter().any(|k| devices[*k].is_in_use())
        })?;
    }
    ensure!(node.read(1) == Err(Errno::NODEV));
    Ok(())
}

/// How many `1` commands device `k` has answered.
fn answers(guest: &mut Guest, k: usize) -> Result<u64> {
    let status = guest.emulator.device(k).status()?;
    guest.emulator.device(0);
    Ok(status.next_blocks.of(Command::NoiseOne))
}

/// Each time it is plugged in it ends up here, although the stock serial driver is asked first.
fn hot_plugged_20_times_it_is_always_taken(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let node = Node::open()?;
    for round in 0..20 {
        let mut stream = guest.replug()?;
        let bytes = node.read_all(20_000);
        stream.expect(&bytes.with_context(|| format!("round {round}"))?)?;
        ensure!(!any_tty());
        guest.unplug()?;
    }
    Ok(())
}

/// Root can take the device away (by `unbind` in sysfs): it is not taken again until it is replugged.
fn unbound_by_root_it_stays_so(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(1000)?;
    let drivers = "/sys/bus/usb/drivers/alrandom";
    let bound = fs::read_dir(drivers)?.flatten().find(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().ends_with(":1.1")
    });
    let interface = bound.context("nothing is bound")?.file_name();
    fs::write(format!("{drivers}/unbind"), interface.as_encoded_bytes())?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    // As long as it takes to try a busy device again.
    thread::sleep(Duration::from_millis(1500));
    ensure!(node.read(1) == Err(Errno::NODEV));
    guest.unplug()?;
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(50_000)?)
}
