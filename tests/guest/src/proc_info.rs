// SPDX-License-Identifier: GPL-2.0

//! `/proc/alrandom/info`: the text in each state, and every number in it, compared with a model of the
//! vendor's tests written from their description (device.md, "The vendor's health tests, exactly").

use crate::support::{
    info::{
        self,
        INFO,
        NOT_INITIALISED,
        NO_DEVICE, //
    },
    run,
    stream::blocks_of,
    tests,
    wait_until,
    Background,
    Guest,
    Info,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    fault::{
        Fault,
        Kind,
        Piece, //
    },
    stream::{
        block,
        Command, //
    },
};
use anyhow::{
    ensure,
    Result, //
};
use std::{
    fs::{
        self,
        File, //
    },
    io::Read,
    os::unix::fs::{
        FileExt,
        PermissionsExt, //
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    without_a_device_it_says_so,
    before_the_first_answer_it_says_so,
    a_healthy_device_has_requests_and_no_failures,
    rct_failures_are_counted,
    apt_failures_are_counted,
    tests_restart_with_each_block,
    totals_and_maxima_go_on_over_blocks,
    biased_data_give_the_model_s_numbers,
    seven_rct_failures_refuse_a_block_and_show_until_the_start_up_test,
    seven_apt_failures_refuse_a_block_and_show_until_the_start_up_test,
    device_status_is_shown_until_the_next_answer,
    tests_disabled_count_nothing,
    many_readers_with_small_buffers_get_the_whole_text,
    any_offset_gives_the_rest_of_the_text,
    everybody_may_read_it,
];

/// Wide cutoffs for the other layer of health tests, so that crafted blocks are judged by the vendor's
/// alone: with 1 bit per byte, a run of 41 equal bytes or 336 equal bytes of 512 fail it.
const WIDE: &str = "minEntropy=1";

/// RCT failures of a block: a run that reaches 5 bytes is one, and begins again with its last byte.
fn rct_failures(data: &[u8]) -> u64 {
    let mut failures = 0;
    let mut run = 1;
    for pair in data.windows(2) {
        run = if pair[0] == pair[1] { run + 1 } else { 1 };
        if run == 5 {
            failures += 1;
            run = 1;
        }
    }
    failures
}

/// APT failures of a block: windows of 65 bytes in which more than 5 of the 63 bytes behind the first
/// are equal to it; the last byte is not compared.
fn apt_failures(data: &[u8]) -> u64 {
    let windows = data.chunks_exact(65);
    let failed = windows.filter(|window| {
        let compared = &window[1..64];
        compared.iter().filter(|byte| **byte == window[0]).count() > 5
    });
    failed.count() as u64
}

/// The numbers that these blocks make, the first of which is the start-up test's, if all are delivered
/// or the start-up test has passed again since.
fn model(blocks: &[Vec<u8>]) -> Info {
    let rct: Vec<_> = blocks.iter().map(|block| rct_failures(block)).collect();
    let apt: Vec<_> = blocks.iter().map(|block| apt_failures(block)).collect();
    Info {
        tests_enabled: true,
        max_rct: rct.iter().copied().max().unwrap_or(0),
        max_apt: apt.iter().copied().max().unwrap_or(0),
        total_rct: rct.iter().sum(),
        total_apt: apt.iter().sum(),
        requests: blocks.len() as u64,
        ..Info::default()
    }
}

/// A healthy block but for these pieces.
fn crafted(seed: u64, k: u64, pieces: &[Piece]) -> Vec<u8> {
    let mut data = block(seed, Command::Entropy, k);
    let pieces = pieces.to_vec();
    Kind::Overlay { pieces }.apply(k, None, &mut data);
    data.to_vec()
}

/// Has the device send blocks with these pieces in them, from block 2 on, and checks that the numbers are
/// the model's, and `expected` failures in all (RCT, APT); the blocks are also delivered.
fn expect_counts(guest: &mut Guest, crafts: &[Vec<Piece>], expected: (u64, u64)) -> Result<()> {
    for (pieces, k) in crafts.iter().zip(2..) {
        let pieces = pieces.clone();
        let fault = Fault::at(k, Kind::Overlay { pieces });
        guest.emulator.fault(fault)?;
    }
    let node = guest.start_with(&[WIDE])?;
    let bytes = node.read_all((crafts.len() + 1) * BLOCK)?;
    let sent = guest.wait_until_full()?;

    let none = Vec::new();
    let blocks: Vec<_> = (0..sent)
        .map(|k| {
            let craft = k.checked_sub(2).and_then(|i| crafts.get(i as usize));
            crafted(guest.seed, k, craft.unwrap_or(&none))
        })
        .collect();
    let model = model(&blocks);
    ensure!(
        (model.total_rct, model.total_apt) == expected,
        "the test is wrong"
    );
    ensure!(Info::read()? == model);
    ensure!(bytes == blocks[1..][..crafts.len() + 1].concat());
    Ok(())
}

/// A run of equal bytes at `at`, and another byte on both sides of it.
fn run_of(length: usize, at: usize) -> Vec<Piece> {
    vec![
        Piece::run(at - 1, 1, 0x11),
        Piece::run(at, length, 0xaa),
        Piece::run(at + length, 1, 0x22),
    ]
}

/// A window (of 65 bytes, counted from 0) in which `matches` of the bytes that are compared are equal to
/// the first, and the last one too, which is not compared.
fn window_with(matches: usize, window: usize) -> Vec<Piece> {
    let mut bytes: Vec<u8> = (0..65).collect();
    // Apart from each other, so that they make no runs.
    (0..matches).for_each(|i| bytes[2 + 2 * i] = 0);
    bytes[64] = 0;
    vec![Piece::bytes(65 * window, &bytes)]
}

/// No device: one line.
fn without_a_device_it_says_so(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    ensure!(info::read_text()? == NO_DEVICE);
    let device = guest.plug()?;
    wait_until("the device to be in use", || device.is_in_use())?;
    ensure!(info::read_text()? != NO_DEVICE);
    guest.unplug()?;
    ensure!(info::read_text()? == NO_DEVICE);
    Ok(())
}

/// A device that has not answered yet: one line.
fn before_the_first_answer_it_says_so(guest: &mut Guest) -> Result<()> {
    guest.emulator.fault(Fault::next(Kind::Delay { ms: 900 }))?;
    let node = guest.start()?;
    ensure!(info::read_text()? == NOT_INITIALISED);
    node.read_all(1)?;
    Info::read()?;
    Ok(())
}

/// A healthy device: the number of its answers, and no failure.
fn a_healthy_device_has_requests_and_no_failures(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(1_000_000)?;
    let blocks = guest.wait_until_full()?;
    let healthy = Info {
        tests_enabled: true,
        requests: blocks,
        ..Info::default()
    };
    ensure!(Info::read()? == healthy);
    Ok(())
}

/// A run of 5 equal bytes is one failure of the RCT, every 4 more are another.
fn rct_failures_are_counted(guest: &mut Guest) -> Result<()> {
    let at_both_ends = vec![Piece::run(0, 5, 1), Piece::run(BLOCK - 5, 5, 2)];
    let crafts = [
        run_of(4, 1000),
        run_of(5, 1001),
        run_of(8, 1002),
        run_of(9, 1003),
        run_of(25, 1004),
        at_both_ends,
    ];
    expect_counts(guest, &crafts, (1 + 1 + 2 + 6 + 2, 0))
}

/// More than 5 matches in a window are one failure of the APT, however many; its last byte is not looked
/// at.
fn apt_failures_are_counted(guest: &mut Guest) -> Result<()> {
    let several = [window_with(6, 0), window_with(8, 1), window_with(31, 245)].concat();
    let crafts = [window_with(5, 7), window_with(6, 8), several];
    expect_counts(guest, &crafts, (0, 1 + 3))
}

/// A run over the border of two blocks is two short ones.
fn tests_restart_with_each_block(guest: &mut Guest) -> Result<()> {
    let crafts = [
        vec![Piece::run(BLOCK - 4, 4, 9)],
        vec![Piece::run(0, 4, 9), Piece::run(4, 1, 8)],
    ];
    expect_counts(guest, &crafts, (0, 0))
}

/// Totals add up, maxima are of the worst block; 6 failures of each test are still delivered.
fn totals_and_maxima_go_on_over_blocks(guest: &mut Guest) -> Result<()> {
    let six_runs: Vec<_> = (0..6).flat_map(|i| run_of(5, 3000 + 100 * i)).collect();
    let six_windows: Vec<_> = (0..6).flat_map(|i| window_with(6, 20 * i)).collect();
    let crafts = [
        run_of(5, 500),
        [six_runs, six_windows].concat(),
        [run_of(9, 700), window_with(7, 100)].concat(),
    ];
    expect_counts(guest, &crafts, (1 + 6 + 2, 6 + 1))
}

/// Data in which one byte value is too frequent, as the model judges them: some blocks are refused, all
/// are counted.
fn biased_data_give_the_model_s_numbers(guest: &mut Guest) -> Result<()> {
    const BIASED: u64 = 40;
    let bias = Kind::Symbol {
        value: 0x5a,
        one_in: 16,
        seed: 3,
    };
    guest.log.announce("start-up test runs again");
    let fault = Fault::at(1, bias.clone()).count(BIASED);
    guest.emulator.fault(fault)?;
    let node = guest.start_with(&[WIDE])?;
    wait_until("the biased blocks to be over", || {
        let more = node.read(BLOCK).is_ok();
        more && guest
            .emulator
            .status()
            .is_ok_and(|s| s.next_block > BIASED + 3)
    })?;
    let sent = guest.wait_until_full()?;

    let blocks: Vec<_> = (0..sent)
        .map(|k| {
            let mut data = block(guest.seed, Command::Entropy, k);
            if (1..=BIASED).contains(&k) {
                bias.apply(k, None, &mut data);
            }
            data.to_vec()
        })
        .collect();
    let model = model(&blocks);
    ensure!(model.total_apt > 50, "the test is wrong: {model:?}");
    ensure!(Info::read()? == model);
    Ok(())
}

/// A block with more than 6 failures is refused. The status byte of the test shows until the start-up
/// test has passed; totals and maxima stay. The block that the start-up test takes is not delivered.
fn expect_refusal(guest: &mut Guest, pieces: Vec<Piece>, shown: &Info) -> Result<()> {
    let node = guest.start_with(&[WIDE])?;
    let bad = guest.wait_until_full()?;
    guest.log.announce("start-up test runs again");
    let fault = Fault::at(bad, Kind::Overlay { pieces });
    guest.emulator.fault(fault)?;
    // Time to look at the state in between.
    let late = Fault::at(bad + 1, Kind::Delay { ms: 900 });
    guest.emulator.fault(late)?;

    let mut bytes = node.read_all(BLOCK)?;
    wait_until("the bad block to be counted", || {
        Info::read().is_ok_and(|info| info.requests == bad + 1)
    })?;
    let between = Info::read()?;
    bytes.extend(node.read_all(6 * BLOCK)?);
    let sent = guest.wait_until_full()?;

    let requests = bad + 1;
    ensure!(
        between
            == Info {
                requests,
                ..shown.clone()
            }
    );
    let after = Info {
        requests: sent,
        rct_status: 0,
        apt_status: 0,
        ..shown.clone()
    };
    ensure!(Info::read()? == after);
    let all = blocks_of(guest.seed, sent, &bytes)?;
    let delivered = (1..).filter(|k| *k != bad && *k != bad + 1);
    ensure!(all.iter().copied().eq(delivered.take(all.len())), "{all:?}");
    Ok(())
}

/// The RCT's status byte is 1.
fn seven_rct_failures_refuse_a_block_and_show_until_the_start_up_test(
    guest: &mut Guest,
) -> Result<()> {
    let seven = (0..7).flat_map(|i| run_of(5, 3000 + 100 * i)).collect();
    let shown = Info {
        tests_enabled: true,
        max_rct: 7,
        total_rct: 7,
        rct_status: 1,
        ..Info::default()
    };
    expect_refusal(guest, seven, &shown)
}

/// The APT's status byte is 2.
fn seven_apt_failures_refuse_a_block_and_show_until_the_start_up_test(
    guest: &mut Guest,
) -> Result<()> {
    let seven = (0..7).flat_map(|i| window_with(6, 30 * i)).collect();
    let shown = Info {
        tests_enabled: true,
        max_apt: 7,
        total_apt: 7,
        apt_status: 2,
        ..Info::default()
    };
    expect_refusal(guest, seven, &shown)
}

/// The device's own status byte is that of its last answer.
fn device_status_is_shown_until_the_next_answer(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.log.announce("start-up test runs again");
    let mut next = guest.wait_until_full()?;
    for value in [1, 2, 4] {
        guest
            .emulator
            .fault(Fault::at(next, Kind::Status { value }))?;
        // Time to look at the state in between.
        let late = Fault::at(next + 1, Kind::Delay { ms: 900 });
        guest.emulator.fault(late)?;
        node.read_all(BLOCK)?;
        wait_until("the bad status to be counted", || {
            Info::read().is_ok_and(|info| info.requests == next + 1)
        })?;
        ensure!(Info::read()?.device_status == u64::from(value));
        next = guest.wait_until_full()?;
        let healthy = Info {
            tests_enabled: true,
            requests: next,
            ..Info::default()
        };
        ensure!(Info::read()? == healthy);
    }
    Ok(())
}

/// With the tests off, the first line says so, and nothing is counted but requests.
fn tests_disabled_count_nothing(guest: &mut Guest) -> Result<()> {
    guest.log.announce("statistical tests are disabled");
    let fault = Fault::at(1, Kind::Stuck { value: 0 }).count(3);
    guest.emulator.fault(fault)?;
    let node = guest.start_with(&["disableStatisticalTests=1"])?;
    ensure!(node.read_all(3 * BLOCK)? == vec![0; 3 * BLOCK]);
    let requests = guest.wait_until_full()?;
    let untested = Info {
        requests,
        ..Info::default()
    };
    ensure!(Info::read()? == untested);
    ensure!(info::read_text()?.starts_with("AlphaRNG statistical tests: disabled\n"));
    Ok(())
}

/// Eight readers at once, each with a buffer of few bytes: each of them gets the text as it is.
fn many_readers_with_small_buffers_get_the_whole_text(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    guest.wait_until_full()?;
    let text = info::read_text()?;
    let mut readers = Vec::new();
    for size in [1, 1, 1, 2, 3, 7, 100, 4096] {
        readers.push(Background::start(move || -> Result<Vec<String>> {
            let mut texts = Vec::new();
            for _ in 0..5 {
                let mut file = File::open(INFO)?;
                let mut all = Vec::new();
                let mut piece = vec![0; size];
                while let got @ 1.. = file.read(&mut piece)? {
                    all.extend(&piece[..got]);
                }
                texts.push(String::from_utf8(all)?);
            }
            Ok(texts)
        })?);
    }
    for reader in readers {
        for read in reader.join()?? {
            ensure!(read == text, "one reader got:\n{read}");
        }
    }
    Ok(())
}

/// A read from any offset gets the rest of the text; from behind its end, nothing.
fn any_offset_gives_the_rest_of_the_text(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    guest.wait_until_full()?;
    let text = info::read_text()?;
    let file = File::open(INFO)?;
    let mut piece = vec![0; 4096];
    // Backwards, so that each has to begin anew.
    for offset in (0..text.len() + 3).rev() {
        let got = file.read_at(&mut piece, offset as u64)?;
        let rest = text.as_bytes().get(offset..).unwrap_or_default();
        ensure!(&piece[..got] == rest, "at offset {offset}");
    }
    Ok(())
}

/// Mode 0444: everybody may read it.
fn everybody_may_read_it(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    ensure!(fs::metadata(INFO)?.permissions().mode() & 0o7777 == 0o444);
    let cat = run(&["setpriv", "--reuid=65534", "--clear-groups", "cat", INFO])?;
    ensure!(cat.stdout == NO_DEVICE);
    Ok(())
}
