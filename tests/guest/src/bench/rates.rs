// SPDX-License-Identifier: GPL-2.0

//! A device that takes its time: whether it ever has to wait for the next command while somebody reads,
//! and how regularly that reader gets its blocks.

use super::{
    settle,
    Bench,
    SPAN, //
};
use crate::support::{
    Node,
    BLOCK, //
};
use alpharng_emu::stream::ANSWER_LENGTH;
use anyhow::{
    Context,
    Result, //
};
use std::{
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Bytes per second that the device produces, as a series calls them.
const RATES: [(u64, &str); 3] = [
    (1_000_000, "1 MB/s"),
    (10_000_000, "10 MB/s"),
    (27_500_000, "27.5 MB/s"),
];

/// Commands under way.
const DEPTHS: [usize; 2] = [1, 2];

/// Reads block by block until `stop`. Returns when each came.
fn read_blocks(node: &Node, stop: &AtomicBool) -> Result<Vec<Instant>> {
    let mut buffer = vec![0; BLOCK];
    // Room for a long time, so that no memory is moved meanwhile.
    let mut times = Vec::with_capacity(1 << 16);
    while !stop.load(Ordering::Relaxed) {
        rustix::io::read(node, &mut buffer[..])?;
        times.push(Instant::now());
    }
    Ok(times)
}

/// The value that so many percent of `values`, which are sorted, do not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let index = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for round in 0..bench.rounds {
        bench.round(round)?;
        for depth in DEPTHS {
            bench.guest.begin_anew()?;
            let node = bench.guest.start_with(&[&format!("maxCommands={depth}")])?;
            settle()?;
            for (rate, name) in RATES {
                bench.set_rate(rate)?;
                measure(bench, round, &node, rate, &format!("{name}, depth {depth}"))?;
            }
        }
    }
    Ok(())
}

/// Measures with one rate.
fn measure(bench: &mut Bench, round: u32, node: &Node, rate: u64, name: &str) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (node, stop) = (node.clone(), stop.clone());
        move || read_blocks(&node, &stop)
    });
    // What was ready, and what was asked for at the last rate, is gone behind this.
    thread::sleep(SPAN / 2);
    let (before, start) = (bench.guest.emulator.status(), Instant::now());
    thread::sleep(2 * SPAN);
    let (after, end) = (bench.guest.emulator.status(), Instant::now());
    stop.store(true, Ordering::Relaxed);
    let times = reader.join().ok().context("the reader panicked")??;
    let (before, after) = (before?, after?);

    let block = Duration::from_secs_f64(ANSWER_LENGTH as f64 / rate as f64);
    let busy = (after.next_block - before.next_block) as f64 * block.as_secs_f64();
    let idle = (after.idle_us - before.idle_us) as f64 / 1e6;
    let share = 100.0 * idle / (idle + busy);
    bench.sample(round, &format!("{name}: device idle"), "%", share)?;

    let mut gaps: Vec<_> = times
        .iter()
        .zip(times.iter().skip(1))
        .filter(|(time, next)| **time >= start && **next <= end)
        .map(|(time, next)| (*next - *time).as_secs_f64() / block.as_secs_f64())
        .collect();
    gaps.sort_by(f64::total_cmp);
    for (what, percent) in [("half of all", 50), ("99 %", 99), ("all", 100)] {
        let series = format!("{name}: time between blocks, {what} within");
        bench.sample(round, &series, "block times", percentile(&gaps, percent))?;
    }
    Ok(())
}
