// SPDX-License-Identifier: GPL-2.0

//! Memory: what the module takes, and what a device takes that is attached to it.
//!
//! The pages that are free (/proc/zoneinfo: those in the zones and those that processors keep) are counted
//! with and without, again and again, as the machine takes and frees some all the time; what counts is the
//! median. That includes everything: code and data, page tables, entries in sysfs, buffers, whatever
//! rounds sizes up. Next to it is what the kernel says that the module itself takes (`coresize`).

use super::{
    settle,
    Bench, //
};
use crate::support::{
    usb::UsbDevice,
    wait_until, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    thread,
    time::Duration, //
};

/// Size of a page in KiB.
const PAGE: f64 = 4.0;

/// Comparisons, in a round.
const TIMES: u32 = 3;

/// How long the machine gets to free what it wants to free.
const QUIET: Duration = Duration::from_millis(300);

/// How many pages are free.
fn free_pages() -> Result<f64> {
    settle()?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    thread::sleep(QUIET);
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    Ok(zones
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let count = line
                .strip_prefix("nr_free_pages ")
                .or(line.strip_prefix("count:"));
            count?.trim().parse::<f64>().ok()
        })
        .sum())
}

/// What a change takes, in KiB.
fn cost(change: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = free_pages()?;
    change()?;
    Ok((before - free_pages()?) * PAGE)
}

/// Binds a device's data interface to the module, or takes it away (`what`: `bind`, `unbind`).
fn order(device: &UsbDevice, what: &str) -> Result<()> {
    let interface = device.data_interface()?;
    let file = format!("/sys/bus/usb/drivers/alrandom/{what}");
    fs::write(&file, &interface).with_context(|| format!("cannot write {interface} to {file}"))
}

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    // So that nobody else wants the device.
    bench.guest.block_cdc_acm()?;
    for round in 0..bench.rounds {
        bench.round(round)?;
        let (mut loaded, mut attached) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            loaded.push(cost(|| bench.guest.load(&[]))?);
            bench.guest.unload()?;
        }

        bench.guest.load(&[])?;
        let size = fs::read_to_string("/sys/module/alrandom/coresize")?;
        let device = bench.guest.plug()?;
        bench.guest.wait_until_full()?;
        for _ in 0..TIMES {
            order(&device, "unbind")?;
            let answers = bench.guest.emulator.status()?.blocks;
            attached.push(cost(|| {
                order(&device, "bind")?;
                wait_until("the module to take blocks", || {
                    let status = bench.guest.emulator.status();
                    status.is_ok_and(|status| status.blocks > answers)
                })?;
                bench.guest.wait_until_full().map(|_| ())
            })?);
        }
        bench.guest.unload()?;
        bench.guest.unplug()?;

        bench.sample(round, "loaded", "KiB", middle(loaded))?;
        bench.sample(round, "attached device", "KiB", middle(attached))?;
        let size: f64 = size.trim().parse()?;
        bench.sample(round, "the module itself (coresize)", "KiB", size / 1024.0)?;
    }
    bench.guest.allow_cdc_acm()
}

/// The one in the middle.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
