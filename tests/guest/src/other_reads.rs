// SPDX-License-Identifier: GPL-2.0

//! Other system calls that read: they get the same bytes as `read(2)`.

use crate::support::{
    node::MAX_READ,
    tests,
    uring,
    Background,
    Guest,
    Test,
    BLOCK, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::{
    io::Errno,
    pipe::{
        PipeFlags,
        SpliceFlags, //
    },
};
use std::{
    fs::{
        self,
        File, //
    },
    io::IoSliceMut,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    readv_fills_its_buffers_in_turn,
    splice_fills_a_pipe,
    sendfile_fills_a_file,
    io_uring_reads_in_full,
    io_uring_waits_for_bytes,
];

/// readv(2) fills its buffers one after the other, over the borders of blocks.
fn readv_fills_its_buffers_in_turn(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let lengths = [1, 0, 7, 5000, 15_999, 20_000, 3];
    let mut buffers: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
    let mut to: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();

    let got = rustix::io::readv(&node, &mut to)?;

    ensure!(got == lengths.iter().sum::<usize>());
    guest.stream().expect(&buffers.concat())
}

/// splice(2) moves bytes into a pipe.
fn splice_fills_a_pipe(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let mut bytes = Vec::new();
    while bytes.len() < 100_000 {
        let moved = rustix::pipe::splice(&node, None, &to, None, 10_000, SpliceFlags::empty())?;
        ensure!(moved > 0, "splice(2) moved nothing");
        let mut piece = vec![0; moved];
        let got = rustix::io::read(&from, &mut piece[..])?;
        ensure!(got == moved);
        bytes.extend(piece);
    }
    guest.stream().expect(&bytes)
}

/// sendfile(2) copies to a file, without moving a position that the node does not have.
fn sendfile_fills_a_file(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let path = "/tmp/sent";
    let file = File::create(path)?;
    let mut sent = 0;
    while sent < 200_000 {
        let count = rustix::fs::sendfile(&file, &node, None, 200_000 - sent)?;
        ensure!(count > 0, "sendfile(2) sent nothing");
        sent += count;
    }
    let mut stream = guest.stream();
    stream.expect(&fs::read(path)?)?;
    // Nothing was used up that did not arrive.
    stream.expect(&node.read_all(20_000)?)?;
    // A position cannot be asked for.
    let mut position = 1;
    let sent = rustix::fs::sendfile(&file, &node, Some(&mut position), 100);
    ensure!(sent == Err(Errno::SPIPE), "{sent:?}");
    stream.expect(&node.read_all(100)?)
}

/// io_uring gets what is asked for, and not more than the maximum.
fn io_uring_reads_in_full(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    for (count, expected) in [
        (1, 1),
        (16_001, 16_001),
        (MAX_READ, MAX_READ),
        (1_000_000, MAX_READ),
    ] {
        // The first attempt of io_uring's does not wait, and gets what is ready; it may leave it at
        // that.
        let bytes = uring::read(&node, count, false)?.context("io_uring")?;
        ensure!(
            !bytes.is_empty() && bytes.len() <= expected,
            "{} bytes for {count}",
            bytes.len()
        );
        stream.expect(&bytes)?;
    }
    Ok(())
}

/// io_uring waits where nothing is ready.
fn io_uring_waits_for_bytes(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let ready = node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    let reader = node.clone();
    let reader = Background::start(move || uring::read(&reader, 1000, false))?;
    ensure!(reader.goes_on_for(Duration::from_millis(300)));
    let missing = guest.answer_again(silent)?;
    let bytes = reader.join()??.context("io_uring")?;
    ensure!(bytes.len() == 1000);
    guest.expect_stream_but(&[ready, bytes].concat(), &missing)
}
