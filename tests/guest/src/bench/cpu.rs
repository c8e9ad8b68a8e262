// SPDX-License-Identifier: GPL-2.0

//! Processor time for a megabyte, with a device that is slow enough for all competitors to keep up with.
//!
//! `all` is what a program loses that wants every moment that nobody else does (a loop with the policy
//! SCHED_IDLE, one for each processor): interrupts, work items, system calls, the reader. It counts its turns
//! right before, while nobody reads, too. The kernel's own statistics do not tell this time: what
//! interrupts do in an idle processor, they count as idle. `program` and `kernel threads` are parts of it, as the
//! scheduler accounts for them (/proc/PID/schedstat); what interrupts them is with them.

use super::{
    fetch_for,
    Bench,
    Competitor,
    SPAN, //
};
use crate::support::sys::run_when_idle;
use anyhow::Result;
use std::{
    fs,
    hint::black_box,
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering, //
        },
        mpsc,
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Bytes per second that the device produces: what the slowest competitor can do on a slow machine.
const RATE: u64 = 3_000_000;

/// Who competes.
const COMPETITORS: [Competitor; 5] = [
    Competitor::Tty,
    Competitor::UsbFs { depth: 1 },
    Competitor::UsbFs { depth: 2 },
    Competitor::Module {
        depth: 1,
        size: 100_000,
    },
    Competitor::Module {
        depth: 2,
        size: 100_000,
    },
];

/// Loops that take what is left of the processors' time.
struct Loops {
    /// How many turns each has made.
    turns: Vec<Arc<AtomicU64>>,
    /// Whether they are to end.
    stop: Arc<AtomicBool>,
}

impl Loops {
    /// Starts one for each processor.
    fn start(processors: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut turns = Vec::new();
        for _ in 0..processors {
            let (count, stop) = (Arc::new(AtomicU64::new(0)), stop.clone());
            turns.push(count.clone());
            let (tell, told) = mpsc::channel();
            thread::spawn(move || {
                // Nobody listens where the benchmark has failed meanwhile.
                let _ = tell.send(run_when_idle());
                let mut value = 1_u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..1000 {
                        value = black_box(value.wrapping_mul(3));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            told.recv()??;
        }
        Ok(Self { turns, stop })
    }

    /// How many turns they have made together.
    fn turns(&self) -> f64 {
        let turns = self.turns.iter();
        turns
            .map(|turns| turns.load(Ordering::Relaxed) as f64)
            .sum()
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Accounts at a moment.
struct Accounts {
    /// The moment.
    at: Instant,
    /// Turns of the loops.
    turns: f64,
    /// Seconds that the reading thread has run.
    program: f64,
    /// Seconds that all kernel threads have run.
    kernel: f64,
}

/// Seconds that a task has run: the first field of its schedstat, in nanoseconds.
fn run_time(task: &str) -> f64 {
    // A task that has ended since it was listed has not run here.
    let text = fs::read_to_string(format!("/proc/{task}/schedstat")).unwrap_or_default();
    let time = text.split(' ').next().and_then(|field| field.parse().ok());
    time.unwrap_or(0.0) / 1e9
}

/// Whether a process is a kernel thread: it has no command line.
fn is_kernel_thread(process: &str) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.is_empty())
}

impl Accounts {
    /// As they are now, for the thread that calls.
    fn now(loops: &Loops) -> Result<Self> {
        let processes: Vec<_> = fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .collect();
        let kernel = processes
            .iter()
            .filter(|process| is_kernel_thread(process))
            .map(|process| run_time(process))
            .sum();
        Ok(Self {
            kernel,
            program: run_time("thread-self"),
            turns: loops.turns(),
            at: Instant::now(),
        })
    }

    /// Seconds since an earlier moment.
    fn time(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }

    /// Turns of the loops in a second since an earlier moment.
    fn pace(&self, earlier: &Self) -> f64 {
        (self.turns - earlier.turns) / self.time(earlier)
    }
}

/// How long to look.
const LONG: Duration = Duration::from_millis(2 * SPAN.as_millis() as u64);

/// Measures.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let processors = thread::available_parallelism()?.get();
    bench.set_rate(RATE)?;
    let device = bench.guest.plug()?;
    super::settle()?;
    for round in 0..bench.rounds {
        bench.round(round)?;
        for competitor in COMPETITORS {
            let mut samples = Vec::new();
            bench.compete(competitor, &device, |fetch| {
                let loops = Loops::start(processors)?;
                let quiet = Accounts::now(&loops)?;
                thread::sleep(LONG / 2);
                let undisturbed = Accounts::now(&loops)?.pace(&quiet);

                fetch_for(SPAN / 4, fetch)?;
                let (before, mut bytes) = (Accounts::now(&loops)?, 0);
                while before.at.elapsed() < LONG {
                    bytes += fetch()? as u64;
                }
                let after = Accounts::now(&loops)?;

                let lost = 1.0 - after.pace(&before) / undisturbed;
                let megabytes = bytes as f64 / 1e6;
                for (what, seconds) in [
                    ("all", lost * after.time(&before) * processors as f64),
                    ("program", after.program - before.program),
                    ("kernel threads", after.kernel - before.kernel),
                ] {
                    let series = format!("{competitor}, {what}");
                    let value = 1e3 * seconds / megabytes;
                    samples.push((series, value));
                }
                Ok(())
            })?;
            for (series, value) in samples {
                bench.sample(round, &series, "ms/MB", value)?;
            }
        }
    }
    Ok(())
}
