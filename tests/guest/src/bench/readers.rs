// SPDX-License-Identifier: GPL-2.0

//! Many readers at once: what they get together, and what the one gets that gets least.

use super::{
    megabytes_per_second,
    settle,
    Bench,
    SPAN, //
};
use crate::support::Node;
use anyhow::{
    Context,
    Result, //
};
use std::{
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering, //
        },
        Arc, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::Instant,
};

/// How many readers.
const COUNTS: [usize; 4] = [1, 2, 8, 64];

/// Bytes in a read.
const SIZE: usize = 16_384;

/// Threads that read, each from a file of its own, until this is dropped or stopped.
struct Readers {
    /// How many bytes each has got.
    got: Vec<Arc<AtomicU64>>,
    /// Whether they are to end.
    stop: Arc<AtomicBool>,
    /// The threads.
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Readers {
    /// Starts so many.
    fn start(count: usize) -> Result<Self> {
        let mut readers = Self {
            got: Vec::new(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let node = Node::open()?;
            let got = Arc::new(AtomicU64::new(0));
            let stop = readers.stop.clone();
            readers.got.push(got.clone());
            readers.threads.push(thread::spawn(move || {
                let mut buffer = vec![0; SIZE];
                while !stop.load(Ordering::Relaxed) {
                    let bytes = rustix::io::read(&node, &mut buffer[..])?;
                    got.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        Ok(readers)
    }

    /// How many bytes each has got so far.
    fn got(&self) -> Vec<u64> {
        let got = self.got.iter();
        got.map(|bytes| bytes.load(Ordering::Relaxed)).collect()
    }

    /// Ends them; an error is one's of them.
    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a reader panicked")??;
        }
        Ok(())
    }
}

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let _node = bench.guest.start()?;
    settle()?;
    for round in 0..bench.rounds {
        bench.round(round)?;
        for count in COUNTS {
            let readers = Readers::start(count)?;
            thread::sleep(SPAN / 4);
            let (before, start) = (readers.got(), Instant::now());
            thread::sleep(2 * SPAN);
            let (after, time) = (readers.got(), start.elapsed());
            readers.stop()?;

            let got: Vec<_> = after.iter().zip(before).map(|(b, a)| b - a).collect();
            let total: u64 = got.iter().sum();
            let least = got.iter().min().copied().unwrap_or(0);
            let value = megabytes_per_second(total, time);
            bench.sample(round, &format!("{count} at once, together"), "MB/s", value)?;
            let share = least as f64 * count as f64 / total.max(1) as f64;
            let series = format!("{count} at once, least of all");
            bench.sample(round, &series, "fair shares", share)?;
        }
    }
    Ok(())
}
