// SPDX-License-Identifier: GPL-2.0

//! Pulling the device out, at the worst moments, and plugging it in again: an open file survives.

use crate::support::{
    info::{
        self,
        NO_DEVICE, //
    },
    node::MAX_READ,
    stream::blocks_of,
    tests,
    wait::wait_for_exit,
    wait_until,
    Background,
    Guest,
    Info,
    Node,
    Test,
    BLOCK,
    PATIENCE, //
};
use alpharng_emu::fault::At;
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    process::{
        Command,
        Stdio, //
    },
    sync::{
        atomic::{
            AtomicBool,
            AtomicUsize,
            Ordering, //
        },
        Arc, //
    },
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    in_the_middle_of_a_read_the_file_survives,
    at_any_point_of_an_answer,
    before_the_start_up_test_is_through,
    without_a_reader_what_was_ready_is_gone,
    before_the_first_device_the_file_waits_for_it,
    all_sleepers_are_woken,
    killed_reader_is_gone_at_once,
    storm_of_20,
];

/// Pulled out in the middle of a block that a reader waits for: the reader gets the bytes of the blocks
/// before it; then the file has no device; with the next one it goes on.
fn in_the_middle_of_a_read_the_file_survives(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    let cut = next + 1;
    guest.emulator.unplug_at(At::Block(cut), 8000)?;

    let mut bytes = Vec::new();
    let error = loop {
        match node.read(MAX_READ) {
            Ok(more) => bytes.extend(more),
            Err(error) => break error,
        }
    };

    ensure!(error == Errno::NODEV);
    guest.stream().expect(&bytes)?;
    ensure!(!bytes.is_empty() && bytes.len() <= (usize::try_from(cut)? - 1) * BLOCK);
    ensure!(info::read_text()? == NO_DEVICE);
    ensure!(!guest.emulator.status()?.plugged);

    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(500_000)?)
}

/// Pulled out at the beginning, in the middle and at the end of an answer: nothing of that answer is
/// delivered unless it was complete, and nothing that was is wrong.
fn at_any_point_of_an_answer(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    for bytes in [0, 1, 511, 512, 513, 8192, 15_999, 16_000, 16_001] {
        guest.wait_until_full()?;
        let next = guest.emulator.status()?.next_block;
        guest.emulator.unplug_at(At::Next, bytes)?;
        let mut got = Vec::new();
        let error = loop {
            match node.read(1000) {
                Ok(more) => got.extend(more),
                Err(error) => break error,
            }
        };
        ensure!(error == Errno::NODEV, "{error:?} at {bytes}");
        stream
            .expect(&got)
            .with_context(|| format!("unplugged at {bytes}, block {next}"))?;
        wait_until("the device to be gone", || {
            guest.emulator.status().is_ok_and(|status| !status.plugged)
        })?;
        guest.unplug()?;
        stream = guest.replug()?;
    }
    stream.expect(&node.read_all(50_000)?)
}

/// Pulled out before anything was delivered, in the first answer: the next plug begins anew.
fn before_the_start_up_test_is_through(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let node = Node::open()?;
    guest.emulator.unplug_at(At::Block(0), 8000)?;
    guest.emulator.plug()?;
    wait_until("the device to be gone again", || {
        guest.emulator.status().is_ok_and(|status| !status.plugged)
    })?;
    guest.unplug()?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(50_000)?)
}

/// Pulled out while nobody reads: what was ready is not delivered any more, and the numbers restart with
/// the next device.
fn without_a_reader_what_was_ready_is_gone(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(200_000)?;
    let before = guest.wait_until_full()?;
    guest.unplug()?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(50_000)?)?;
    let after = guest.wait_until_full()?;
    ensure!(Info::read()?.requests == after - before);
    Ok(())
}

/// A file opened before there was any device.
fn before_the_first_device_the_file_waits_for_it(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let node = Node::open()?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(50_000)?)
}

/// Every reader asleep is woken, be it on the same file or on one of its own.
fn all_sleepers_are_woken(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    let mut sleepers = Vec::new();
    for k in 0..40 {
        let node = if k % 2 == 0 {
            node.clone()
        } else {
            Node::open()?
        };
        sleepers.push(Background::start(move || node.read(1 + 3000 * k))?);
    }
    for sleeper in &sleepers {
        sleeper.wait_until_reading()?;
    }

    guest.unplug()?;

    for sleeper in sleepers {
        let result = sleeper.join()?;
        ensure!(result == Err(Errno::NODEV), "{result:?}");
    }
    Ok(())
}

/// A reader asleep can be killed at any time, and leaves nothing behind that keeps the module.
fn killed_reader_is_gone_at_once(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    for _ in 0..3 {
        let mut dd = Command::new("dd")
            .args(["if=/dev/alrandom", "of=/dev/null", "bs=100000", "count=1"])
            .stderr(Stdio::null())
            .spawn()?;
        let path = format!("/proc/{}/syscall", dd.id());
        let reading = format!("{} ", libc::SYS_read);
        wait_until("dd to sleep in read(2)", || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // File 0 is what dd reads from.
            text.starts_with(&format!("{reading}0x0 "))
        })?;
        dd.kill()?;
        let status = wait_for_exit(&mut dd, PATIENCE)?.context("dd does not die")?;
        ensure!(!status.success());
    }
    let missing = guest.answer_again(silent)?;
    let bytes = [ready, node.read_all(50_000)?].concat();
    guest.expect_stream_but(&bytes, &missing)?;
    drop(node);
    guest.unload()
}

/// Twenty times out and in, under a reader that never stops, half of the times before there was a byte:
/// the file goes on each time, and what it delivers are whole blocks in their order, each at most once.
fn storm_of_20(guest: &mut Guest) -> Result<()> {
    const ROUNDS: usize = 20;
    let node = guest.start()?;
    let count = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (counted, stopped) = (count.clone(), stop.clone());
    let reader = Background::start(move || {
        // What was read between two times without a device.
        let mut episodes = vec![Vec::new()];
        while !stopped.load(Ordering::Relaxed) {
            match node.read(5000) {
                Ok(bytes) => {
                    counted.fetch_add(bytes.len(), Ordering::Relaxed);
                    episodes.last_mut().context("empty")?.extend(bytes);
                }
                Err(Errno::NODEV) => {
                    if episodes.last().is_some_and(|episode| !episode.is_empty()) {
                        episodes.push(Vec::new());
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error).context("read(2)"),
            }
        }
        Ok(episodes)
    })?;
    for round in 0..ROUNDS {
        let before = count.load(Ordering::Relaxed);
        if round % 2 == 0 {
            wait_until("the reader to get some bytes", || {
                count.load(Ordering::Relaxed) > before + 2 * BLOCK
            })?;
        }
        guest.unplug()?;
        guest.replug()?;
    }
    stop.store(true, Ordering::Relaxed);
    let episodes = reader.join()??;

    ensure!(episodes.len() > ROUNDS / 2, "{} episodes", episodes.len());
    let sent = guest.emulator.status()?.next_block;
    let mut next = 0;
    for episode in episodes {
        for (block, index) in blocks_of(guest.seed, sent, &episode)?.into_iter().zip(0..) {
            let in_order = match index {
                // The start-up test has taken one at least.
                0 => block > next,
                _ => block == next,
            };
            ensure!(in_order, "block {block} where {next} was to come");
            next = block + 1;
        }
    }
    Ok(())
}
