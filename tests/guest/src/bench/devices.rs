// SPDX-License-Identifier: GPL-2.0

//! Several devices in use at once.

use super::{
    fetch_for,
    megabytes_per_second,
    settle,
    Bench,
    SPAN, //
};
use crate::support::{
    run as run_program,
    wait_until,
    Node, //
};
use alpharng_emu::control::Configure;
use anyhow::Result;

/// The parameter that it takes.
const PARAMETER: &str = "maxDevices";

/// How many devices.
const COUNTS: [usize; 3] = [1, 2, 4];

/// Bytes per second that each device produces, as a series calls them.
const RATES: [(u64, &str); 2] = [(4_000_000, "4 MB/s each"), (0, "unlimited")];

/// Bytes in a read.
const SIZE: usize = 100_000;

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let module = bench.guest.module.to_string_lossy().into_owned();
    let parameters = run_program(&["modinfo", "-p", &module])?.stdout;
    if !parameters.contains(PARAMETER) {
        return bench.skip(&format!("the module has no parameter {PARAMETER}"));
    }
    for round in 0..bench.rounds {
        bench.round(round)?;
        for count in COUNTS {
            bench.guest.begin_anew()?;
            bench.guest.load(&[&format!("{PARAMETER}={count}")])?;
            let devices = (0..count)
                .map(|k| bench.guest.plug_device(k))
                .collect::<Result<Vec<_>>>()?;
            wait_until("all devices to be in use", || {
                devices.iter().all(|device| device.is_in_use())
            })?;
            let node = Node::open()?;
            settle()?;
            let mut buffer = vec![0; SIZE];
            for (rate, name) in RATES {
                for k in 0..count {
                    bench.guest.emulator.device(k).configure(Configure {
                        rate: Some(rate),
                        ..Configure::default()
                    })?;
                }
                bench.guest.emulator.device(0);
                let fetch = &mut || Ok(rustix::io::read(&node, &mut buffer[..])?);
                let (bytes, time) = fetch_for(SPAN, fetch)?;
                let value = megabytes_per_second(bytes, time);
                bench.sample(round, &format!("{count} at once, {name}"), "MB/s", value)?;
            }
        }
    }
    Ok(())
}
