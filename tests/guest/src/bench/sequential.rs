// SPDX-License-Identifier: GPL-2.0

//! One sequential reader, as `dd` is, against programs that do without the module: one on usbfs, which is
//! what user space can reach at best, and one on the serial driver's tty.

use super::{
    fetch_for,
    megabytes_per_second,
    Bench,
    Competitor,
    SPAN, //
};
use anyhow::Result;

/// Commands under way.
const DEPTHS: [usize; 3] = [1, 2, 4];

/// Bytes in a read.
const SIZES: [usize; 2] = [100_000, 16_384];

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let device = bench.guest.plug()?;
    let mut competitors = vec![Competitor::Tty];
    for depth in DEPTHS {
        competitors.push(Competitor::UsbFs { depth });
        competitors.extend(SIZES.map(|size| Competitor::Module { depth, size }));
    }
    for round in 0..bench.rounds {
        bench.round(round)?;
        for competitor in &competitors {
            let (bytes, time) =
                bench.compete(*competitor, &device, |fetch| fetch_for(SPAN, fetch))?;
            let value = megabytes_per_second(bytes, time);
            bench.sample(round, &competitor.to_string(), "MB/s", value)?;
        }
    }
    Ok(())
}
