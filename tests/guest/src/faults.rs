// SPDX-License-Identifier: GPL-2.0

//! A device that does not do what it should, for a moment: nothing of a bad answer is delivered, the
//! bytes go on correctly afterwards, and nothing healthy is lost but what it takes to get back into
//! step.

use crate::support::{
    guest::GIVEN_UP,
    stream::blocks_of,
    tests,
    tty::Tty,
    wait_until,
    works::Works,
    Background,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    fault::{
        ControlAnswer,
        ControlFault,
        ControlRequest,
        Direction,
        Fault,
        Kind,
        TransferError, //
    },
    stream::Command,
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    bad_status_bytes,
    status_bytes_that_are_none,
    short_answer,
    answer_without_bytes,
    no_answer,
    command_not_taken,
    stalled_input,
    stalled_output,
    extra_bytes,
    slow_answer_is_used,
    late_answer_is_not_taken_for_the_next,
    later_answer_is_not_taken_for_the_next,
    failed_transfers_that_the_controller_repeats,
    failed_transfers,
    babble,
    empty_transfers_are_nothing,
    one_after_the_other,
    halt_that_cannot_be_cleared,
    attempts_are_counted_and_spaced,
    a_dead_device_costs_nothing,
    a_flood_of_notifications_costs_nothing,
];

/// What becomes of the answer with the fault.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It is as good as any.
    Delivered,
    /// It is not delivered, and neither need the next answers be: so many at most.
    Lost(u64),
}
use Fate::{
    Delivered,
    Lost, //
};

/// Starts with one command at a time, so that what goes wrong goes wrong with that one alone.
fn start(guest: &mut Guest) -> Result<Node> {
    guest.start_with(&["maxCommands=1"])
}

/// Has one answer go wrong in each of these ways, one after the other, and checks what is delivered.
/// `log` is part of what the log says of it, if anything.
fn expect_recovery(guest: &mut Guest, kinds: &[Kind], fate: Fate, log: Option<&str>) -> Result<()> {
    let node = start(guest)?;
    let mut bytes = Vec::new();
    let mut lost = Vec::new();
    let mut missing = Vec::new();
    for kind in kinds {
        guest.wait_until_full()?;
        // Not the very next, so that the reader is in the middle of it.
        let bad = guest.emulator.status()?.next_block + 1;
        guest.emulator.fault(Fault::at(bad, kind.clone()))?;
        if let Lost(more) = fate {
            lost.push(bad);
            missing.extend(bad..=bad + more);
        }
        if let Some(log) = log {
            guest.log.announce(log);
        }
        let more = node.read_all(8 * BLOCK);
        bytes.extend(more.with_context(|| format!("with {kind:?}"))?);
    }
    if let Some(log) = log {
        guest.log.wait_for(log)?;
    }

    let sent = guest.emulator.status()?.next_block;
    let blocks = blocks_of(guest.seed, sent, &bytes)?;
    for block in lost {
        ensure!(!blocks.contains(&block), "bad block {block} is delivered");
    }
    guest.expect_stream_but(&bytes, &missing)
}

/// The device's own tests failed: the answer is worthless, the next one is the start-up test's.
fn bad_status_bytes(guest: &mut Guest) -> Result<()> {
    let kinds = [1, 2, 4, 3, 7].map(|value| Kind::Status { value });
    expect_recovery(guest, &kinds, Lost(1), Some("start-up test runs again"))
}

/// A status byte that no device sends: host and device are out of step.
fn status_bytes_that_are_none(guest: &mut Guest) -> Result<()> {
    let kinds = [8, 255].map(|value| Kind::Status { value });
    expect_recovery(guest, &kinds, Lost(2), Some("trying again"))
}

/// The answer ends early.
fn short_answer(guest: &mut Guest) -> Result<()> {
    let kinds = [1, 9000, 16_000].map(|bytes| Kind::Short { bytes });
    expect_recovery(guest, &kinds, Lost(2), Some("no complete answer in time"))
}

/// An answer of no bytes at all.
fn answer_without_bytes(guest: &mut Guest) -> Result<()> {
    let kinds = [Kind::Short { bytes: 0 }];
    expect_recovery(guest, &kinds, Lost(2), Some("no complete answer in time"))
}

/// One command is not answered.
fn no_answer(guest: &mut Guest) -> Result<()> {
    let log = Some("no complete answer in time (0 of 16001 bytes)");
    expect_recovery(guest, &[Kind::Silent], Lost(2), log)
}

/// One command is not taken.
fn command_not_taken(guest: &mut Guest) -> Result<()> {
    // The command uses up no block, so the block itself can come.
    let node = start(guest)?;
    guest.wait_until_full()?;
    let bad = guest.emulator.status()?.next_block + 1;
    guest.emulator.fault(Fault::at(bad, Kind::Hold))?;
    guest.log.announce("no complete answer in time");
    let bytes = node.read_all(8 * BLOCK)?;
    guest.expect_stream_but(&bytes, &[bad, bad + 1, bad + 2])
}

/// Bulk IN halts, before and in the middle of an answer.
fn stalled_input(guest: &mut Guest) -> Result<()> {
    let endpoint = Direction::In;
    let kinds = [0, 512, 15_872].map(|bytes| Kind::Stall { endpoint, bytes });
    expect_recovery(guest, &kinds, Lost(2), Some("USB transfer failed"))?;
    ensure!(guest.emulator.status()?.cleared_halts >= 3);
    Ok(())
}

/// Bulk OUT halts at a command, which is not executed: no block is used up by it.
fn stalled_output(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.wait_until_full()?;
    let bad = guest.emulator.status()?.next_block + 1;
    let kind = Kind::Stall {
        endpoint: Direction::Out,
        bytes: 0,
    };
    guest.emulator.fault(Fault::at(bad, kind))?;
    guest.log.announce("USB transfer failed");
    let bytes = node.read_all(8 * BLOCK)?;
    ensure!(!guest.emulator.status()?.halted_out);
    guest.expect_stream_but(&bytes, &[bad, bad + 1, bad + 2])
}

/// Bytes behind the status byte: whatever they are, they are not taken for the next answer's.
fn extra_bytes(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let mut bytes = Vec::new();
    let mut missing = Vec::new();
    guest.log.announce("trying again");
    for extra in [1, 100, 16_001, 20_000] {
        guest.wait_until_full()?;
        let bad = guest.emulator.status()?.next_block + 1;
        guest
            .emulator
            .fault(Fault::at(bad, Kind::Extra { bytes: extra }))?;
        missing.extend(bad..=bad + 3);
        let more = node.read_all(8 * BLOCK);
        bytes.extend(more.with_context(|| format!("with {extra} extra bytes"))?);
    }
    guest.expect_stream_but(&bytes, &missing)
}

/// An answer that takes less than the time limit of 1 s is used.
fn slow_answer_is_used(guest: &mut Guest) -> Result<()> {
    expect_recovery(guest, &[Kind::Delay { ms: 700 }], Delivered, None)
}

/// An answer that comes when the module has given it up: that it is the answer to an earlier command
/// cannot be seen from its bytes, but it must not be taken for the answer to a later one for ever after.
fn late_answer_is_not_taken_for_the_next(guest: &mut Guest) -> Result<()> {
    let log = Some("no complete answer in time");
    expect_recovery(guest, &[Kind::Delay { ms: 1500 }], Lost(2), log)
}

/// As before, when more has been asked for meanwhile.
fn later_answer_is_not_taken_for_the_next(guest: &mut Guest) -> Result<()> {
    let log = Some("no complete answer in time");
    expect_recovery(guest, &[Kind::Delay { ms: 2600 }], Lost(4), log)
}

/// Transfers fail, but fewer in a row than the host controller tries.
fn failed_transfers_that_the_controller_repeats(guest: &mut Guest) -> Result<()> {
    let kinds = [TransferError::IoError, TransferError::Timeout];
    let kinds = kinds.map(|status| Kind::Error {
        status,
        transfers: 1,
    });
    expect_recovery(guest, &kinds, Delivered, None)
}

/// Transfers fail for good.
fn failed_transfers(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.wait_until_full()?;
    let bad = guest.emulator.status()?.next_block + 1;
    let kind = Kind::Error {
        status: TransferError::IoError,
        transfers: 6,
    };
    guest.emulator.fault(Fault::at(bad, kind))?;
    guest.log.announce("USB transfer failed");
    guest.log.announce("no complete answer in time");
    let bytes = node.read_all(8 * BLOCK)?;
    guest.expect_stream_but(&bytes, &[bad, bad + 1, bad + 2, bad + 3])
}

/// The device sends more than there is room for.
fn babble(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.wait_until_full()?;
    let bad = guest.emulator.status()?.next_block + 1;
    let kind = Kind::Error {
        status: TransferError::Babble,
        transfers: 1,
    };
    guest.emulator.fault(Fault::at(bad, kind))?;
    guest.log.announce("USB transfer failed");
    let bytes = node.read_all(8 * BLOCK)?;
    guest.expect_stream_but(&bytes, &[bad, bad + 1, bad + 2, bad + 3])
}

/// Transfers without data come before an answer.
fn empty_transfers_are_nothing(guest: &mut Guest) -> Result<()> {
    let kinds = [1, 5].map(|transfers| Kind::ZeroLength { transfers });
    expect_recovery(guest, &kinds, Delivered, None)
}

/// Different faults in a row, at answers that follow each other: still nothing wrong is delivered.
fn one_after_the_other(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.wait_until_full()?;
    let first = guest.emulator.status()?.next_block;
    for (kind, k) in [
        Kind::Short { bytes: 5000 },
        Kind::Extra { bytes: 33 },
        Kind::Status { value: 2 },
        Kind::Stall {
            endpoint: Direction::In,
            bytes: 1024,
        },
    ]
    .into_iter()
    .zip(first..)
    {
        guest.emulator.fault(Fault::at(k, kind))?;
    }
    guest.log.announce("trying again");
    guest.log.announce("start-up test runs again");
    let bytes = node.read_all(12 * BLOCK)?;
    let sent = guest.emulator.status()?.next_block;
    let blocks = blocks_of(guest.seed, sent, &bytes)?;
    for bad in [first, first + 2, first + 3] {
        ensure!(!blocks.contains(&bad), "bad block {bad} is delivered");
    }
    let missing: Vec<_> = (first..first + 8).collect();
    guest.expect_stream_but(&bytes, &missing)
}

/// The device stalls the very request that would end the stall: the attempts run out, and when it takes the
/// request again, the stream goes on.
fn halt_that_cannot_be_cleared(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.wait_until_full()?;
    let bad = guest.emulator.status()?.next_block;
    let fault = ControlFault::next(ControlRequest::ClearHalt, ControlAnswer::Stall);
    guest.emulator.control_fault(fault.count(0))?;
    guest.emulator.fault(Fault::next(Kind::Stall {
        endpoint: Direction::In,
        bytes: 512,
    }))?;
    guest.log.announce("USB transfer failed");
    let ready = (usize::try_from(bad)? - 1) * BLOCK;
    let mut bytes = node.read_all(ready)?;
    ensure!(node.read(1) == Err(Errno::IO));
    guest.log.wait_for(GIVEN_UP)?;
    guest
        .log
        .wait_for("the halt of an endpoint could not be cleared")?;

    guest.emulator.clear_faults()?;
    // A read that comes while an attempt fails still fails with it.
    wait_until("the device to answer again", || match node.read(BLOCK) {
        Ok(more) => {
            bytes.extend(more);
            true
        }
        Err(_) => false,
    })?;
    bytes.extend(node.read_all(50_000)?);
    ensure!(!guest.emulator.status()?.halted_in);
    let sent = guest.emulator.status()?.next_block;
    let blocks = blocks_of(guest.seed, sent, &bytes)?;
    let first = blocks.iter().find(|block| **block >= bad);
    let first = *first.context("nothing has come since")?;
    // The commands of the attempts have used up a block each.
    ensure!(
        (bad + 1..=bad + 45).contains(&first),
        "{first} behind {bad}"
    );
    guest.expect_stream_but(&bytes, &(bad..first).collect::<Vec<_>>())
}

/// How many times a command is tried (README.md, Reading).
const ATTEMPTS: u64 = 15;

/// How long an answer may take (device.md: the vendor waits 1 s).
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// How long the line has to be quiet before a command is tried again (protocol.rs, `QUIET`).
const QUIET_TIME: Duration = Duration::from_millis(50);

/// Has the device answer no command well from the first on, and has a read wait for it. Returns its error,
/// how many commands there were until then, and how long that took. No two commands may be closer to each
/// other than `spacing`.
fn fail_all_attempts(
    guest: &mut Guest,
    kind: Kind,
    spacing: Duration,
) -> Result<(Errno, u64, Duration)> {
    guest.begin_anew()?;
    guest.emulator.fault(Fault::next(kind).count(0))?;
    for text in ["trying again", "given up until", GIVEN_UP] {
        guest.log.announce(text);
    }
    let told = guest.log.count(GIVEN_UP);
    let begin = Instant::now();
    let node = start(guest)?;
    let reader = Background::start(move || node.read(1))?;
    // How many commands the device had seen, at some time between these two.
    let mut samples = Vec::new();
    while guest.log.count(GIVEN_UP) == told {
        let before = Instant::now();
        let status = guest.emulator.status()?;
        // A command that is not taken, or stalled, is only seen as a transfer.
        let commands = status.commands.of(Command::Entropy);
        samples.push((before, commands, Instant::now()));
        ensure!(begin.elapsed() < 4 * PATIENCE_OF_ATTEMPTS, "no end of it");
        thread::sleep(Duration::from_millis(10));
    }
    let took = begin.elapsed();
    for (k, (from, first, _)) in samples.iter().enumerate() {
        for (_, last, to) in &samples[k..] {
            let most = (*to - *from).div_duration_f64(spacing) as u64 + 1;
            ensure!(
                last - first <= most,
                "{} commands in {:?}",
                last - first,
                *to - *from
            );
        }
    }
    let error = reader.join()?.err().context("a byte was delivered")?;
    Ok((error, samples.last().map_or(0, |sample| sample.1), took))
}

/// How long all attempts take where each fails by silence.
const PATIENCE_OF_ATTEMPTS: Duration = Duration::from_secs(16);

/// Attempts are counted, and spaced: by the time that an answer may take where the device is silent, and
/// by a pause otherwise.
fn attempts_are_counted_and_spaced(guest: &mut Guest) -> Result<()> {
    let spacing = ANSWER_TIME + QUIET_TIME;
    let (error, commands, took) = fail_all_attempts(guest, Kind::Silent, spacing)?;
    ensure!((error, commands) == (Errno::TIMEDOUT, ATTEMPTS));
    // Seconds are seconds, with whatever frequency the kernel's clock ticks. The upper limit is far off:
    // the machine may be slow, but not twice as slow as that.
    ensure!(took >= (ATTEMPTS as u32) * ANSWER_TIME, "{took:?}");
    ensure!(took < 2 * PATIENCE_OF_ATTEMPTS, "{took:?}");

    // Behind the first failure, a complete answer only tells that host and device are in step.
    let in_step = 2 * ATTEMPTS - 1;
    for (kind, expected) in [
        (Kind::Status { value: 255 }, in_step),
        (Kind::Extra { bytes: 1 }, ATTEMPTS),
        (
            Kind::Stall {
                endpoint: Direction::In,
                bytes: 512,
            },
            ATTEMPTS,
        ),
    ] {
        let name = format!("{kind:?}");
        let (error, commands, _) =
            fail_all_attempts(guest, kind, QUIET_TIME).with_context(|| name.clone())?;
        // The last of them fails as soon as it is sent, so it may not have been seen.
        ensure!(
            error == Errno::IO && (expected - 1..=expected).contains(&commands),
            "{name}: {error:?} after {commands} commands"
        );
    }
    Ok(())
}

/// A device that was given up is left alone: it sees no transfer, and the module's work does not run.
fn a_dead_device_costs_nothing(guest: &mut Guest) -> Result<()> {
    /// For how long to look.
    const SPAN: Duration = Duration::from_secs(3);

    for kind in [
        Kind::Silent,
        Kind::Stall {
            endpoint: Direction::In,
            bytes: 0,
        },
        Kind::Stall {
            endpoint: Direction::Out,
            bytes: 0,
        },
        Kind::Error {
            status: TransferError::IoError,
            transfers: 1000,
        },
        Kind::Error {
            status: TransferError::Babble,
            transfers: 1000,
        },
        Kind::ZeroLength { transfers: 1000 },
        Kind::Extra { bytes: 1 },
    ] {
        let name = format!("{kind:?}");
        guest.begin_anew()?;
        for text in ["trying again", "given up until", GIVEN_UP] {
            guest.log.announce(text);
        }
        guest.emulator.fault(Fault::next(kind.clone()).count(0))?;
        let works = Works::watch()?;
        let node = start(guest)?;
        let error = node.read(1).err().with_context(|| name.clone())?;
        let expected = if kind == Kind::Silent {
            Errno::TIMEDOUT
        } else {
            Errno::IO
        };
        ensure!(error == expected, "{name}: {error:?}");
        // The work ran, so that its runs are seen.
        ensure!(works.take_runs()? > 0, "{name}");
        // Whoever was told that it is dead does not have it tried once more.
        let told = guest.emulator.status()?;
        let last = guest.wait_until_given_up()?;
        ensure!(last.commands == told.commands, "{name}: {last:?}");

        works.take_runs()?;
        thread::sleep(SPAN);
        ensure!(works.take_runs()? == 0, "{name}: the work runs");
        let now = guest.emulator.status()?;
        ensure!(now == last, "{name}: {now:?} after {last:?}");
    }
    Ok(())
}

/// The communications interface sends notifications as often as it can: nobody asks for them, so they
/// never come, and the stream is as ever.
fn a_flood_of_notifications_costs_nothing(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        interrupts: Some(1000),
        ..Configure::default()
    })?;
    // Who does ask gets them.
    let device = guest.plug()?;
    let tty = Tty::open(&device)?;
    wait_until("notifications", || {
        let status = guest.emulator.status();
        status.is_ok_and(|status| status.notifications > 100)
    })?;
    drop(tty);
    guest.unplug()?;
    let before = guest.emulator.status()?.notifications;

    guest.load(&[])?;
    let mut stream = guest.replug()?;
    let node = Node::open()?;
    stream.expect(&node.read_all(100 * BLOCK)?)?;
    thread::sleep(Duration::from_millis(500));
    stream.expect(&node.read_all(100 * BLOCK)?)?;
    ensure!(guest.emulator.status()?.notifications == before);
    Ok(())
}
