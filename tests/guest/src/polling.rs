// SPDX-License-Identifier: GPL-2.0

//! `poll(2)` and `epoll(7)`: readable when bytes are ready, or when a read would fail.

use crate::support::{
    node::{
        timespec,
        MAX_READ, //
    },
    tests,
    Background,
    Guest,
    Node,
    Test,
    BLOCK,
    PATIENCE, //
};
use alpharng_emu::fault::{
    Fault,
    Kind, //
};
use anyhow::{
    ensure,
    Result, //
};
use rustix::{
    event::{
        epoll,
        PollFlags, //
    },
    io::Errno, //
};
use std::{
    os::fd::OwnedFd,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    bytes_ready_are_readable,
    nothing_ready_is_not_readable_until_bytes_come,
    no_device_is_an_error,
    unplug_wakes_who_polls,
    stopped_device_is_an_error,
    edge_triggered_reader_misses_nothing,
];

/// What is reported where bytes are ready.
const READABLE: PollFlags = PollFlags::IN.union(PollFlags::RDNORM);

/// What is reported where a read would fail.
const FAILING: PollFlags = READABLE.union(PollFlags::ERR);

/// How long nothing must happen where nothing is to happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// An epoll instance that watches the file.
fn epoll_of(node: &Node, flags: epoll::EventFlags) -> Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&epoll, node, data, flags | epoll::EventFlags::IN)?;
    Ok(epoll)
}

/// What the epoll instance reports within `limit`, in the bits of poll.
fn epoll_wait(epoll: &OwnedFd, limit: Duration) -> Result<PollFlags> {
    let mut events = Vec::with_capacity(1);
    let limit = timespec(limit);
    epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(&mut events),
        Some(&limit),
    )?;
    let flags = events.first().map(|event| event.flags);
    let flags = flags.map_or(0, |flags| flags.bits());
    // The two share their numbers.
    Ok(PollFlags::from_bits_retain(flags as u16))
}

/// Checks what poll and epoll report at once.
fn expect_now(node: &Node, expected: PollFlags) -> Result<()> {
    let poll = node.poll(Duration::ZERO)?;
    ensure!(poll == expected, "poll: {poll:?} instead of {expected:?}");
    let epoll = epoll_of(node, epoll::EventFlags::empty())?;
    let epoll = epoll_wait(&epoll, Duration::ZERO)?;
    // epoll was not asked for RDNORM.
    let expected = expected.difference(PollFlags::RDNORM);
    ensure!(
        epoll == expected,
        "epoll: {epoll:?} instead of {expected:?}"
    );
    Ok(())
}

/// Bytes are ready: readable, however often it is asked, and nothing is used up.
fn bytes_ready_are_readable(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    ensure!(node.poll(PATIENCE)? == READABLE);
    expect_now(&node, READABLE)?;
    expect_now(&node, READABLE)?;
    guest.stream().expect(&node.read(100)?)
}

/// Nothing is ready: not readable; as soon as bytes come, it is, and who waits is woken.
fn nothing_ready_is_not_readable_until_bytes_come(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_nonblocking()?;
    let silent = guest.fall_silent()?;
    let mut bytes = node.take_ready()?;
    expect_now(&node, PollFlags::empty())?;

    let poller = node.clone();
    let poller = Background::start(move || poller.poll(PATIENCE))?;
    let watcher = epoll_of(&node, epoll::EventFlags::empty())?;
    let watcher = Background::start(move || epoll_wait(&watcher, PATIENCE))?;
    ensure!(poller.goes_on_for(A_WHILE) && watcher.goes_on_for(A_WHILE));
    let missing = guest.answer_again(silent)?;

    ensure!(poller.join()?? == READABLE);
    ensure!(watcher.join()?? == PollFlags::IN);
    bytes.extend(node.read(BLOCK)?);
    guest.expect_stream_but(&bytes, &missing)
}

/// No device: readable, with an error, for a read would fail.
fn no_device_is_an_error(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let node = Node::open()?;
    expect_now(&node, FAILING)?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    Ok(())
}

/// The device goes: who waits is woken.
fn unplug_wakes_who_polls(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_nonblocking()?;
    guest.fall_silent()?;
    node.take_ready()?;
    let poller = node.clone();
    let poller = Background::start(move || poller.poll(PATIENCE))?;
    let watcher = epoll_of(&node, epoll::EventFlags::empty())?;
    let watcher = Background::start(move || epoll_wait(&watcher, PATIENCE))?;
    ensure!(poller.goes_on_for(A_WHILE) && watcher.goes_on_for(A_WHILE));

    guest.unplug()?;

    ensure!(poller.join()?? == FAILING);
    ensure!(watcher.join()?? == PollFlags::IN | PollFlags::ERR);
    expect_now(&node, FAILING)?;
    guest.emulator.clear_faults()?;
    guest.replug()?;
    ensure!(node.poll(PATIENCE)? == READABLE);
    Ok(())
}

/// A health test has stopped the device: readable, with an error.
fn stopped_device_is_an_error(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_nonblocking()?;
    guest.wait_until_full()?;
    guest
        .emulator
        .fault(Fault::next(Kind::Stuck { value: 7 }))?;
    while node.read(MAX_READ) != Err(Errno::IO) {
        node.poll(PATIENCE)?;
    }
    guest.log.wait_for("stopped: replug the device")?;
    expect_now(&node, FAILING)
}

/// A reader that is told of changes only (EPOLLET), and reads all there is each time, gets everything.
fn edge_triggered_reader_misses_nothing(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let node = Node::open_nonblocking()?;
    let epoll = epoll_of(&node, epoll::EventFlags::ET)?;
    let mut bytes = Vec::new();
    while bytes.len() < 1_000_000 {
        let event = epoll_wait(&epoll, PATIENCE)?;
        ensure!(
            event == PollFlags::IN,
            "{event:?} after {} bytes",
            bytes.len()
        );
        bytes.extend(node.take_ready()?);
    }
    guest.stream().expect(&bytes)
}
