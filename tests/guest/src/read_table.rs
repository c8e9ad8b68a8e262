// SPDX-License-Identifier: GPL-2.0

//! What `read(2)` of `/dev/alrandom` returns, line by line.

use crate::support::{
    guest::GIVEN_UP,
    node::MAX_READ,
    sys::{
        catch,
        read_nothing_to_null,
        read_to_nowhere,
        HalfMemory, //
    },
    tests,
    uring,
    Background,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    fault::{
        Fault,
        Kind, //
    },
    stream::Command,
};
use anyhow::{
    ensure,
    Result, //
};
use rustix::{
    fs::OFlags,
    io::{
        Errno,
        ReadWriteFlags, //
    },
    process::Signal, //
};
use std::io::IoSliceMut;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    what_is_asked_for_comes_in_full,
    more_than_the_maximum_gives_the_maximum,
    zero_bytes_are_zero,
    no_device_is_enodev,
    bad_buffer_is_efault_and_nothing_is_lost,
    partly_bad_buffer_gets_what_fits_and_nothing_is_lost,
    nonblocking_with_nothing_ready_is_eagain,
    nonblocking_gets_what_is_ready,
    nowait_is_as_nonblocking,
    signal_before_the_first_byte_is_eintr,
    restartable_signal_before_the_first_byte_is_not_seen,
    signal_after_some_bytes_gives_those,
    unplug_before_the_first_byte_is_enodev,
    unplug_after_some_bytes_gives_those_and_then_enodev,
    silent_device_is_etimedout_and_is_asked_again,
    permanent_health_failure_is_eio,
    three_failures_in_a_row_are_eio,
    writing_is_einval,
    there_is_no_position,
];

/// n bytes asked, not more than the maximum: n bytes, whatever n is.
fn what_is_asked_for_comes_in_full(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    // Around what can matter: words, pages, blocks, the maximum.
    for count in [
        1, 2, 3, 7, 8, 9, 16, 100, 4095, 4096, 4097, 15_999, 16_000, 16_001, 32_000, 65_536,
        99_999, 100_000, 1,
    ] {
        let bytes = node.read(count)?;
        ensure!(bytes.len() == count, "{} bytes for {count}", bytes.len());
        stream.expect(&bytes)?;
    }
    Ok(())
}

/// More asked: 100000 bytes.
fn more_than_the_maximum_gives_the_maximum(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    for count in [MAX_READ + 1, 131_072, 1_000_000] {
        let bytes = node.read(count)?;
        ensure!(bytes.len() == MAX_READ, "{} bytes for {count}", bytes.len());
        stream.expect(&bytes)?;
    }
    Ok(())
}

/// Nothing asked: 0, with a device and without one, and it uses nothing up.
fn zero_bytes_are_zero(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    ensure!(node.read(0)?.is_empty());
    ensure!(read_nothing_to_null(&node) == Ok(0));
    guest.stream().expect(&node.read(100)?)?;
    guest.unplug()?;
    ensure!(node.read(0)?.is_empty());
    Ok(())
}

/// No device: the node can be opened, but not read.
fn no_device_is_enodev(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let node = Node::open()?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    ensure!(node.read(MAX_READ) == Err(Errno::NODEV));
    ensure!(Node::open_nonblocking()?.read(1) == Err(Errno::NODEV));
    Ok(())
}

/// A bad buffer: EFAULT, and the bytes are there for the next read.
fn bad_buffer_is_efault_and_nothing_is_lost(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    for count in [1, 100, 5000, MAX_READ] {
        ensure!(
            read_to_nowhere(&node, count) == Err(Errno::FAULT),
            "{count} bytes"
        );
        stream.expect(&node.read(1000)?)?;
    }
    Ok(())
}

/// A buffer that ends in memory that cannot be written: what fits before it, and the rest is there for
/// the next read.
fn partly_bad_buffer_gets_what_fits_and_nothing_is_lost(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    let mut memory = HalfMemory::new()?;
    for (room, count) in [
        (1, 2),
        (100, 4000),
        (4096, 5000),
        (5000, 20_000),
        (16_000, 16_001),
        (40_000, MAX_READ),
        (99_999, MAX_READ),
    ] {
        let bytes = memory.read_with_room(&node, room, count)?;
        ensure!(bytes.len() == room, "{} bytes into {room}", bytes.len());
        stream.expect(&bytes)?;
        stream.expect(&node.read(777)?)?;
    }
    Ok(())
}

/// Without waiting, nothing ready: EAGAIN, as long as that is so.
fn nonblocking_with_nothing_ready_is_eagain(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_nonblocking()?;
    let silent = guest.fall_silent()?;
    let ready = node.take_ready()?;
    for count in [1, 16_000, MAX_READ] {
        ensure!(node.read(count) == Err(Errno::AGAIN));
    }
    let missing = guest.answer_again(silent)?;
    let bytes = [ready, node.collect(50_000)?].concat();
    guest.expect_stream_but(&bytes, &missing)
}

/// Without waiting, something ready: as much as is ready, in one read.
fn nonblocking_gets_what_is_ready(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_nonblocking()?;
    let silent = guest.fall_silent()?;
    let ready = usize::try_from(silent)? - 1;

    let first = node.read(1000)?;
    let rest = node.read(MAX_READ)?;

    ensure!(first.len() == 1000);
    ensure!(rest.len() == ready * BLOCK - 1000);
    ensure!(node.read(1) == Err(Errno::AGAIN));
    guest.stream().expect(&[first, rest].concat())
}

/// `RWF_NOWAIT`, by preadv2(2) and io_uring, on a file that otherwise waits: the same.
fn nowait_is_as_nonblocking(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    let silent = guest.fall_silent()?;
    let ready = (usize::try_from(silent)? - 1) * BLOCK;
    let preadv2 = |count: usize| {
        let mut bytes = vec![0; count];
        let mut to = [IoSliceMut::new(&mut bytes)];
        // This offset stands for the file's position.
        let got = rustix::io::preadv2(&node, &mut to, u64::MAX, ReadWriteFlags::NOWAIT)?;
        bytes.truncate(got);
        Ok::<_, Errno>(bytes)
    };

    stream.expect(&preadv2(1000)?)?;
    let rest = uring::read(&node, MAX_READ, true)??;

    ensure!(rest.len() == ready - 1000);
    stream.expect(&rest)?;
    ensure!(preadv2(1) == Err(Errno::AGAIN));
    ensure!(uring::read(&node, 1, true)? == Err(Errno::AGAIN));
    Ok(())
}

/// A signal before the first byte: EINTR, and nothing is lost.
fn signal_before_the_first_byte_is_eintr(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    catch(Signal::USR1, false)?;
    for count in [1, MAX_READ] {
        let reader = node.clone();
        let reader = Background::start(move || reader.read(count))?;
        reader.wait_until_reading()?;
        reader.signal(Signal::USR1)?;
        ensure!(reader.join()? == Err(Errno::INTR));
    }
    let missing = guest.answer_again(silent)?;
    let bytes = [ready, node.read_all(50_000)?].concat();
    guest.expect_stream_but(&bytes, &missing)
}

/// A signal before the first byte whose handler restarts system calls (SA_RESTART): the read goes on.
fn restartable_signal_before_the_first_byte_is_not_seen(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    catch(Signal::USR1, true)?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read(20_000))?;
    for _ in 0..5 {
        reader.wait_until_reading()?;
        reader.signal(Signal::USR1)?;
    }
    let missing = guest.answer_again(silent)?;
    let bytes = reader.join()??;
    ensure!(bytes.len() == 20_000);
    guest.expect_stream_but(&[ready, bytes].concat(), &missing)
}

/// A signal after some bytes: those, and the next read goes on behind them.
fn signal_after_some_bytes_gives_those(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = (usize::try_from(silent)? - 1) * BLOCK;
    catch(Signal::USR1, true)?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read(MAX_READ))?;
    reader.wait_until_reading()?;
    reader.signal(Signal::USR1)?;
    let bytes = reader.join()??;
    ensure!(bytes.len() == ready);
    let missing = guest.answer_again(silent)?;
    let bytes = [bytes, node.read_all(50_000)?].concat();
    guest.expect_stream_but(&bytes, &missing)
}

/// Unplugged before the first byte: ENODEV.
fn unplug_before_the_first_byte_is_enodev(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read(1))?;
    reader.wait_until_reading()?;
    guest.unplug()?;
    ensure!(reader.join()? == Err(Errno::NODEV));
    guest.stream().expect(&ready)
}

/// Unplugged after some bytes: those; the next read gets ENODEV.
fn unplug_after_some_bytes_gives_those_and_then_enodev(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = (usize::try_from(silent)? - 1) * BLOCK;
    let reader = node.clone();
    let reader = Background::start(move || reader.read(MAX_READ))?;
    reader.wait_until_reading()?;
    guest.unplug()?;
    let bytes = reader.join()??;
    ensure!(bytes.len() == ready);
    guest.stream().expect(&bytes)?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    Ok(())
}

/// A device that stays silent through all retries: what there is, then ETIMEDOUT; a later read has it
/// tried again.
fn silent_device_is_etimedout_and_is_asked_again(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = (usize::try_from(silent)? - 1) * BLOCK;

    let bytes = node.read(MAX_READ)?;
    let commands = guest.emulator.status()?.commands.of(Command::Entropy);
    guest.log.wait_for(GIVEN_UP)?;

    ensure!(bytes.len() == ready);
    // 15 attempts, as the vendor's module makes, the first of them with two commands under way.
    ensure!(commands == silent + 16);
    ensure!(Node::open_nonblocking()?.read(1) == Err(Errno::TIMEDOUT));
    let missing = guest.answer_again(silent)?;
    let bytes = [bytes, node.read_all(50_000)?].concat();
    guest.expect_stream_but(&bytes, &missing)
}

/// A permanent health failure: EIO, until the device is replugged, and nothing of the bad block.
fn permanent_health_failure_is_eio(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.wait_until_full()?;
    guest
        .emulator
        .fault(Fault::next(Kind::Stuck { value: 7 }))?;

    let mut bytes = Vec::new();
    let error = loop {
        match node.read(1000) {
            Ok(more) => bytes.extend(more),
            Err(error) => break error,
        }
    };

    ensure!(error == Errno::IO);
    guest.stream().expect(&bytes)?;
    guest.log.wait_for("stopped: replug the device")?;
    ensure!(node.read(MAX_READ) == Err(Errno::IO));
    ensure!(Node::open_nonblocking()?.read(1) == Err(Errno::IO));
    guest.unplug()?;
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(50_000)?)
}

/// A health failure that outlasts the retries, here the device's own: EIO.
fn three_failures_in_a_row_are_eio(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.wait_until_full()?;
    guest.log.announce("start-up test runs again");
    let fault = Fault::next(Kind::Status { value: 4 });
    guest.emulator.fault(fault.count(3))?;

    let mut bytes = Vec::new();
    let error = loop {
        match node.read(1000) {
            Ok(more) => bytes.extend(more),
            Err(error) => break error,
        }
    };

    ensure!(error == Errno::IO);
    guest.stream().expect(&bytes)?;
    guest.log.wait_for("stopped: replug the device")?;
    ensure!(node.read(1) == Err(Errno::IO));
    Ok(())
}

/// Writing: EINVAL.
fn writing_is_einval(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_with(OFlags::RDWR)?;
    ensure!(rustix::io::write(&node, b"x") == Err(Errno::INVAL));
    guest.stream().expect(&node.read(100)?)
}

/// The node has no position: lseek and pread give ESPIPE.
fn there_is_no_position(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let sought = rustix::fs::seek(&node, rustix::fs::SeekFrom::Start(0));
    ensure!(sought == Err(Errno::SPIPE), "{sought:?}");
    let mut bytes = [0; 10];
    let read = rustix::io::pread(&node, &mut bytes[..], 0);
    ensure!(read == Err(Errno::SPIPE), "{read:?}");
    guest.stream().expect(&node.read(100)?)
}
