// SPDX-License-Identifier: GPL-2.0

//! Several commands under way at once: when, and what becomes of it when something goes wrong.

use crate::support::{
    stream::blocks_of,
    tests,
    wait::wait_until,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    fault::{
        Direction,
        Fault,
        Kind,
        TransferError, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    as_many_commands_as_the_parameter_says,
    a_device_that_drops_the_second_command,
    a_device_that_splits_its_answers,
    what_goes_wrong_with_two_under_way,
    what_goes_wrong_with_four_under_way,
    a_replugged_device_may_show_it_again,
];

/// What the log says of a device that gets one command at a time.
const REFUSED: &str = "one command at a time until it is replugged";

/// How fast the devices are, in bytes per second.
const RATE: u64 = 5_000_000;

/// Bytes that are read to see how a device is asked: 100 blocks.
const MUCH: usize = 100 * BLOCK;

/// Starts with a device that takes its time, as a real one does, so that a command can come while it is
/// busy with another.
fn start(guest: &mut Guest, parameters: &[&str]) -> Result<Node> {
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    guest.start_with(parameters)
}

/// By default there are two commands under way, never more than the parameter says, and with 1 none
/// is sent before the answer to the last is complete. The stream is the same in each case.
fn as_many_commands_as_the_parameter_says(guest: &mut Guest) -> Result<()> {
    for (parameter, most) in [
        (None, 2),
        (Some("maxCommands=1"), 1),
        (Some("maxCommands=3"), 3),
        (Some("maxCommands=4"), 4),
    ] {
        guest.begin_anew()?;
        let node = start(guest, &Vec::from_iter(parameter))?;
        guest.stream().expect(&node.read_all(MUCH)?)?;
        let status = guest.emulator.status()?;
        ensure!(status.most_pending == most, "{parameter:?}: {status:?}");
        ensure!((status.early_commands == 0) == (most == 1));
        ensure!(status.commands.other() == 0);
    }
    Ok(())
}

/// A device that forgets a command that comes before it has answered the last is asked for one at a time,
/// and no block is lost but the one that tells host and device that they are in step.
fn a_device_that_drops_the_second_command(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        queue: Some(1),
        ..Configure::default()
    })?;
    guest
        .log
        .announce("no complete answer in time (0 of 16001 bytes)");
    guest.log.announce(REFUSED);
    let node = start(guest, &[])?;
    let bytes = node.read_all(MUCH)?;
    guest.log.wait_for(REFUSED)?;
    let status = guest.emulator.status()?;
    ensure!((status.dropped, status.early_commands) == (1, 1));
    // Block 0 is the start-up test's, 1 the answer to the first of two, 2 the one behind the silence.
    guest.expect_stream_but(&bytes, &[2])
}

/// A device that sends its answers in pieces is not asked for two at once, and nothing is lost.
fn a_device_that_splits_its_answers(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        split: Some(vec![8192, 7809]),
        ..Configure::default()
    })?;
    let node = start(guest, &["maxCommands=4"])?;
    guest.log.wait_for(REFUSED)?;
    guest.stream().expect(&node.read_all(MUCH)?)?;
    let status = guest.emulator.status()?;
    ensure!((status.most_pending, status.early_commands) == (1, 0));
    Ok(())
}

/// Has an answer go wrong in every way while so many commands are under way. The stream has gaps at
/// most there, and the device gets one command at a time from then on.
fn expect_one_at_a_time(guest: &mut Guest, depth: u64) -> Result<()> {
    for (kind, before) in [
        Kind::Status { value: 255 },
        Kind::Short { bytes: 0 },
        Kind::Short { bytes: 9000 },
        Kind::Silent,
        Kind::Hold,
        Kind::Extra { bytes: 1 },
        Kind::Extra { bytes: 20_000 },
        Kind::Delay { ms: 1_500 },
        Kind::ZeroLength { transfers: 1 },
        Kind::Stall {
            endpoint: Direction::In,
            bytes: 512,
        },
        Kind::Stall {
            endpoint: Direction::Out,
            bytes: 0,
        },
        Kind::Error {
            status: TransferError::Babble,
            transfers: 1,
        },
    ]
    .into_iter()
    .zip(0..)
    {
        let name = format!("{kind:?}");
        expect_recovery(guest, depth, kind).with_context(|| name)?;
        ensure!(guest.log.count(REFUSED) == before + 1);
    }
    Ok(())
}

/// One of [`expect_one_at_a_time`], with a device that is plugged in anew.
fn expect_recovery(guest: &mut Guest, depth: u64, kind: Kind) -> Result<()> {
    guest.begin_anew()?;
    let told = guest.log.count(REFUSED);
    let node = start(guest, &[&format!("maxCommands={depth}")])?;
    let mut bytes = node.read_all(MUCH)?;
    ensure!(guest.emulator.status()?.early_commands > 0);
    // The reader is in the middle of much more.
    let bad = guest.emulator.status()?.next_block + 20;
    let silent = kind == Kind::Silent;
    guest.emulator.fault(Fault::at(bad, kind))?;
    guest.log.announce("trying again");
    bytes.extend(node.read_all(MUCH)?);
    // A command that is lost shows when no other is under way, a second later.
    wait_until("the module to see that something is wrong", || {
        guest.log.count(REFUSED) > told
    })?;

    let before = guest.emulator.status()?;
    bytes.extend(node.read_all(MUCH)?);
    let after = guest.emulator.status()?;
    ensure!(after.early_commands == before.early_commands);

    // What was under way before and behind it, and those that the line is found quiet with.
    let mut missing: Vec<_> = (bad + 1 - depth..=bad + depth + 2).collect();
    if silent {
        // This was found out only when the module was full.
        missing.extend(before.next_block - 1..=before.next_block);
    }
    let blocks = blocks_of(guest.seed, after.next_block, &bytes)?;
    ensure!(blocks.len() >= 3 * MUCH / BLOCK);
    guest.expect_stream_but(&bytes, &missing)
}

/// Whatever goes wrong, with the default.
fn what_goes_wrong_with_two_under_way(guest: &mut Guest) -> Result<()> {
    expect_one_at_a_time(guest, 2)
}

/// Whatever goes wrong, with as many as can be.
fn what_goes_wrong_with_four_under_way(guest: &mut Guest) -> Result<()> {
    expect_one_at_a_time(guest, 4)
}

/// Replugged, a device gets several commands at once again.
fn a_replugged_device_may_show_it_again(guest: &mut Guest) -> Result<()> {
    let node = start(guest, &[])?;
    node.read_all(MUCH)?;
    let bad = guest.emulator.status()?.next_block + 4;
    guest
        .emulator
        .fault(Fault::at(bad, Kind::Short { bytes: 100 }))?;
    guest.log.announce("trying again");
    node.read_all(MUCH)?;
    guest.log.wait_for(REFUSED)?;
    let before = guest.emulator.status()?.early_commands;
    node.read_all(MUCH)?;
    ensure!(guest.emulator.status()?.early_commands == before);

    guest.unplug()?;
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(MUCH)?)?;
    ensure!(guest.emulator.status()?.early_commands > before);
    Ok(())
}
