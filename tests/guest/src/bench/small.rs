// SPDX-License-Identifier: GPL-2.0

//! Small reads, against those from `/dev/urandom`.
//!
//! `ready` is the time of a read that finds bytes: a few at a time, less than a block together, with pauses
//! in which the module fetches more. `steady` is the time of one in a long sequence, and has its share of
//! all that happens in the background to have bytes: transfers, health tests, wiping.

use super::{
    settle,
    Bench,
    SPAN, //
};
use crate::support::{
    Node,
    BLOCK, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::{
    fs::File,
    os::fd::AsFd,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Bytes in a read.
const SIZES: [usize; 4] = [1, 16, 256, 4096];

/// How long the module has to fetch blocks, between two bursts of reads.
const PAUSE: Duration = Duration::from_millis(10);

/// Bursts of reads, in a round.
const BURSTS: usize = 25;

/// Most reads in a burst.
const MOST: usize = 500;

/// Times `count` reads into `buffer`.
fn time_of(file: impl AsFd, count: usize, buffer: &mut [u8]) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..count {
        let got = rustix::io::read(&file, &mut *buffer)?;
        ensure!(got == buffer.len(), "a read returned {got} bytes");
    }
    Ok(start.elapsed())
}

/// Microseconds for a read, in bursts with pauses.
fn in_bursts(file: impl AsFd, buffer: &mut [u8]) -> Result<f64> {
    let count = MOST.min(BLOCK / 2 / buffer.len()).max(1);
    let mut time = Duration::ZERO;
    for _ in 0..BURSTS {
        thread::sleep(PAUSE);
        // The way from a sleep to the first read is no part of this.
        time_of(&file, 1, buffer)?;
        time += time_of(&file, count, buffer)?;
    }
    Ok(time.as_secs_f64() * 1e6 / (BURSTS * count) as f64)
}

/// Microseconds for a read, in a long sequence.
fn steady(file: impl AsFd, buffer: &mut [u8]) -> Result<f64> {
    let (mut count, mut time) = (0, Duration::ZERO);
    while time < SPAN / 2 {
        time += time_of(&file, MOST, buffer)?;
        count += MOST;
    }
    Ok(time.as_secs_f64() * 1e6 / count as f64)
}

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let node = bench.guest.start()?;
    let urandom = File::open("/dev/urandom")?;
    settle()?;
    bench.guest.wait_until_full()?;
    for round in 0..bench.rounds {
        bench.round(round)?;
        for size in SIZES {
            let buffer = &mut vec![0; size];
            let sample = |who: &str, how: &str, value| {
                bench.sample(round, &format!("{who} {size} bytes, {how}"), "us", value)
            };
            sample("urandom", "ready", in_bursts(&urandom, buffer)?)?;
            sample("alrandom", "ready", in_bursts(&node, buffer)?)?;
            sample("urandom", "steady", steady(&urandom, buffer)?)?;
            sample("alrandom", "steady", steady(&node, buffer)?)?;
        }
    }
    drop::<Node>(node);
    Ok(())
}
