// SPDX-License-Identifier: GPL-2.0

//! The programs that the benchmark compares the module with: they have to deliver the device's bytes, or
//! the comparison says nothing.

use crate::support::{
    tests,
    tty::Tty,
    usbfs::UsbFs,
    wait_until,
    Guest,
    Stream,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    stream::ANSWER_LENGTH, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    on_usbfs_with_one_two_and_four_commands_under_way,
    on_the_tty, //
];

/// How many blocks to compare.
const BLOCKS: u64 = 20;

/// Bytes per second of the device, which takes longer for an answer than commands take to come, even on a
/// busy host.
const RATE: u64 = 200_000;

/// On usbfs all bytes come in their order, with as many commands under way as were asked for; behind it
/// nothing is left in the device, and the serial driver has it again.
fn on_usbfs_with_one_two_and_four_commands_under_way(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    let device = guest.plug()?;
    for depth in [1, 2, 4] {
        let mut stream = Stream::from_block(guest.seed, guest.emulator.status()?.next_block);
        let mut program = UsbFs::open(&device, depth)?;
        ensure!(!device.is_with_cdc_acm());
        for number in 0..BLOCKS {
            stream
                .expect(program.next_block()?)
                .with_context(|| format!("block {number}, {depth} under way"))?;
        }
        program.finish()?;
        wait_until("the serial driver to have the device", || {
            device.is_with_cdc_acm()
        })?;
        let status = guest.emulator.status()?;
        ensure!((status.pending, status.reads) == (0, 0), "{status:?}");
        ensure!(status.most_pending == depth, "{depth}: {status:?}");
        ensure!((status.early_commands == 0) == (depth == 1), "{status:?}");
    }
    Ok(())
}

/// On the tty, too, and with one command at a time.
fn on_the_tty(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    let mut stream = Stream::from_block(guest.seed, 0);
    let mut tty = Tty::open(&device)?;
    let mut answer = [0; ANSWER_LENGTH];
    for number in 0..BLOCKS {
        tty.next_block(&mut answer)?;
        stream
            .expect(&answer[..BLOCK])
            .with_context(|| format!("block {number}"))?;
    }
    let status = guest.emulator.status()?;
    ensure!((status.pending, status.early_commands) == (0, 0));
    ensure!(status.next_block == BLOCKS);
    Ok(())
}
