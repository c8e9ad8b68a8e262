// SPDX-License-Identifier: GPL-2.0

//! What `read(2)` of `/dev/alrandom` returns, line by line.

use crate::support::{
    node::MAX_READ,
    sys::{
        read_nothing_to_null,
        read_to_nowhere,
        HalfMemory, //
    },
    tests,
    Guest,
    Node,
    Test, //
};
use anyhow::{
    ensure,
    Result, //
};
use rustix::{
    fs::OFlags,
    io::Errno, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    what_is_asked_for_comes_in_full,
    more_than_the_maximum_gives_the_maximum,
    zero_bytes_are_zero,
    no_device_is_enodev,
    bad_buffer_is_efault_and_nothing_is_lost,
    partly_bad_buffer_gets_what_fits_and_nothing_is_lost,
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
