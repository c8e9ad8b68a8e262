// SPDX-License-Identifier: GPL-2.0

//! The commands of the vendor's manual, and other programs that read files.

use crate::support::{
    process::shell,
    run,
    tests,
    Guest,
    Test, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::fs;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    download_of_the_manual_is_the_stream,
    ten_records_of_100000_are_whole,
    a_record_of_1000000_has_100000,
    full_blocks_of_1_mib,
    single_bytes_are_the_stream,
    cat_and_head_read_the_stream,
];

/// `dd if=/dev/alrandom of=download.bin bs=100 count=100000` makes a file of exactly 10000000 bytes: the
/// device's, in their order, but for the block that the start-up test has used up.
fn download_of_the_manual_is_the_stream(guest: &mut Guest) -> Result<()> {
    let _node = guest.start()?;

    let dd = shell("cd /tmp && dd if=/dev/alrandom of=download.bin bs=100 count=100000")?;

    ensure!(dd.stderr.contains("100000+0 records in\n"), "{}", dd.stderr);
    ensure!(
        dd.stderr.contains("100000+0 records out\n"),
        "{}",
        dd.stderr
    );
    let bytes = fs::read("/tmp/download.bin")?;
    fs::remove_file("/tmp/download.bin")?;
    ensure!(bytes.len() == 10_000_000);
    guest.stream().expect(&bytes)
}

/// `dd bs=100000 count=10` reads ten whole records.
fn ten_records_of_100000_are_whole(guest: &mut Guest) -> Result<()> {
    guest.start()?;

    let dd = shell("dd if=/dev/alrandom of=/dev/null bs=100000 count=10")?;

    ensure!(dd.stderr.contains("10+0 records in\n"), "{}", dd.stderr);
    ensure!(dd.stderr.contains("10+0 records out\n"), "{}", dd.stderr);
    Ok(())
}

/// A read of more than 100000 bytes returns 100000: `dd` calls that a partial record.
fn a_record_of_1000000_has_100000(guest: &mut Guest) -> Result<()> {
    guest.start()?;

    let dd = run(&["dd", "if=/dev/alrandom", "bs=1000000", "count=3"])?;

    ensure!(dd.stderr.contains("0+3 records in\n"), "{}", dd.stderr);
    ensure!(dd.bytes.len() == 300_000);
    guest.stream().expect(&dd.bytes)
}

/// `iflag=fullblock` puts records together from several reads.
fn full_blocks_of_1_mib(guest: &mut Guest) -> Result<()> {
    guest.start()?;

    let dd = run(&[
        "dd",
        "if=/dev/alrandom",
        "iflag=fullblock",
        "bs=1M",
        "count=2",
    ])?;

    ensure!(dd.stderr.contains("2+0 records in\n"), "{}", dd.stderr);
    ensure!(dd.bytes.len() == 2 << 20);
    guest.stream().expect(&dd.bytes)
}

/// Reads of one byte get one byte each, over the border of a block too.
fn single_bytes_are_the_stream(guest: &mut Guest) -> Result<()> {
    guest.start()?;

    let dd = run(&["dd", "if=/dev/alrandom", "bs=1", "count=16100"])?;

    ensure!(dd.stderr.contains("16100+0 records in\n"), "{}", dd.stderr);
    guest.stream().expect(&dd.bytes)
}

/// One program after the other goes on where the one before has stopped: what `head` has read and not
/// used is gone, but no byte comes twice.
fn cat_and_head_read_the_stream(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let mut stream = guest.stream();

    let head = run(&["head", "-c", "4096", "/dev/alrandom"])?;
    let cat = shell("cat /dev/alrandom | dd iflag=fullblock bs=250001 count=1")?;

    stream.expect(&head.bytes)?;
    // head(1) may read more than it is asked to print.
    let start = &cat.bytes[..16];
    let ahead = stream.take(100_000);
    let skipped = ahead.windows(16).position(|window| window == start);
    ensure!(skipped.is_some(), "cat's bytes are not behind head's");
    let mut stream = guest.stream();
    stream.take(4096 + skipped.unwrap_or_default());
    stream.expect(&cat.bytes)
}
