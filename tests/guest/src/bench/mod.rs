// SPDX-License-Identifier: GPL-2.0

//! The benchmark of the stream between the device and its readers.
//!
//! Each part measures competitors in turn, round by round (A B A B), so that whatever slows the machine down
//! for a while slows all of them. The figures are only good for being compared with others of the same
//! round. They go to standard output as they are, a line each ([`Line`]); the runner on the host makes medians
//! of them and compares them with the goals.

mod cpu;
mod devices;
pub(crate) mod line;
mod memory;
mod rates;
mod readers;
mod sequential;
mod small;

use crate::support::{
    run,
    tty::Tty,
    usbfs::UsbFs,
    wait_until,
    Guest,
    Node,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::stream::ANSWER_LENGTH;
use anyhow::{
    Context,
    Result, //
};
use line::Line;
use std::{
    fs,
    io::Write,
    path::Path,
    time::{
        Duration,
        Instant, //
    },
};

/// How long one competitor runs in a round, behind a quarter of that for warming up.
const SPAN: Duration = Duration::from_millis(800);

/// A part of the benchmark.
struct Part {
    /// Its name.
    name: &'static str,
    /// What it does; figures go to the [`Bench`].
    run: fn(&mut Bench) -> Result<()>,
}

/// All parts.
const PARTS: &[Part] = &[
    Part {
        name: "sequential",
        run: sequential::run,
    },
    Part {
        name: "small",
        run: small::run,
    },
    Part {
        name: "readers",
        run: readers::run,
    },
    Part {
        name: "rates",
        run: rates::run,
    },
    Part {
        name: "cpu",
        run: cpu::run,
    },
    Part {
        name: "memory",
        run: memory::run,
    },
    Part {
        name: "devices",
        run: devices::run,
    },
];

/// A part at work.
struct Bench {
    /// The machine.
    guest: Guest,
    /// The part's name.
    part: &'static str,
    /// How many rounds to do.
    rounds: u32,
}

/// Runs the parts with `filter` in their names, so many rounds of each; whether all went well.
///
/// # Errors
///
/// If nothing can be told.
pub(crate) fn run_all(module: &Path, filter: &str, rounds: u32) -> Result<bool> {
    tell(&machine(module)?)?;
    let mut all_well = true;
    let wanted = |part: &&Part| part.name.contains(filter);
    for part in PARTS.iter().filter(wanted) {
        step(part.name)?;
        if let Err(error) = run_part(part, module, rounds) {
            all_well = false;
            tell(&Line::Failed {
                part: part.name.to_owned(),
                why: format!("{error:#}"),
            })?;
        }
    }
    Ok(all_well)
}

/// Runs one part, from a clean state to a clean state.
fn run_part(part: &Part, module: &Path, rounds: u32) -> Result<()> {
    let mut bench = Bench {
        guest: Guest::new(part.name, module)?,
        part: part.name,
        rounds,
    };
    let result = (part.run)(&mut bench);
    let findings = bench.guest.finish(result.is_ok());
    result?;
    anyhow::ensure!(findings.is_empty(), "{}", findings.join("; "));
    Ok(())
}

/// Tells the runner.
fn tell(line: &Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}

/// Tells what is done next.
fn step(text: &str) -> Result<()> {
    tell(&Line::Step {
        text: text.to_owned(),
    })
}

/// What is being measured in.
fn machine(module: &Path) -> Result<Line> {
    let of_processor = fs::read_to_string("/proc/cpuinfo")?;
    let model = of_processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let module = module.to_string_lossy();
    let info = |field: &[&str]| -> Result<String> {
        let argv = [&["modinfo"], field, &[&*module]].concat();
        Ok(run(&argv)?.stdout.trim().to_owned())
    };
    Ok(Line::Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        model: model.unwrap_or("unknown").to_owned(),
        module: info(&["-F", "version"])?,
        parameters: info(&["-p"])?.lines().map(str::to_owned).collect(),
    })
}

impl Bench {
    /// Tells a figure.
    fn sample(&self, round: u32, series: &str, unit: &str, value: f64) -> Result<()> {
        tell(&Line::Sample {
            part: self.part.to_owned(),
            series: series.to_owned(),
            unit: unit.to_owned(),
            round,
            value,
        })
    }

    /// Tells that the part cannot be measured.
    fn skip(&self, why: &str) -> Result<()> {
        tell(&Line::Skipped {
            part: self.part.to_owned(),
            why: why.to_owned(),
        })
    }

    /// Tells that a round begins.
    fn round(&self, round: u32) -> Result<()> {
        step(&format!(
            "{}, round {} of {}",
            self.part,
            round + 1,
            self.rounds
        ))
    }

    /// Sets how many bytes a second device 0 produces, 0 for no limit.
    fn set_rate(&mut self, rate: u64) -> Result<()> {
        self.guest.configure(alpharng_emu::control::Configure {
            rate: Some(rate),
            ..Default::default()
        })
    }

    /// Runs a competitor with device 0, which the serial driver has before and afterwards: `with` gets a
    /// function that fetches some bytes and returns how many.
    fn compete<T>(
        &mut self,
        competitor: Competitor,
        device: &UsbDevice,
        with: impl FnOnce(&mut Fetch<'_>) -> Result<T>,
    ) -> Result<T> {
        let result = match competitor {
            Competitor::Module { depth, size } => {
                self.guest.load(&[&format!("maxCommands={depth}")])?;
                let node = Node::open()?;
                settle()?;
                let mut buffer = vec![0; size];
                let result = with(&mut || Ok(rustix::io::read(&node, &mut buffer[..])?));
                drop(node);
                self.guest.wait_until_full()?;
                self.guest.unload()?;
                result
            }
            Competitor::UsbFs { depth } => {
                let mut program = UsbFs::open(device, depth)?;
                settle()?;
                let result = with(&mut || program.next_block().map(<[u8]>::len));
                program.finish()?;
                result
            }
            Competitor::Tty => {
                let mut tty = Tty::open(device)?;
                settle()?;
                let mut answer = [0; ANSWER_LENGTH];
                with(&mut || {
                    tty.next_block(&mut answer)?;
                    Ok(BLOCK)
                })
            }
        };
        wait_until("the serial driver to have the device", || {
            device.is_with_cdc_acm()
        })?;
        result.with_context(|| competitor.to_string())
    }
}

/// Fetches some bytes and returns how many.
type Fetch<'a> = dyn FnMut() -> Result<usize> + 'a;

/// A way to the device's bytes.
#[derive(Clone, Copy)]
enum Competitor {
    /// `read(2)` of `size` bytes from `/dev/alrandom`, with the parameter `maxCommands`.
    Module {
        /// Commands under way.
        depth: usize,
        /// Bytes in a read.
        size: usize,
    },
    /// A program on usbfs.
    UsbFs {
        /// Commands under way.
        depth: usize,
    },
    /// A program on the serial driver's tty, with one command under way.
    Tty,
}

impl std::fmt::Display for Competitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Module { depth, size } => write!(f, "alrandom depth {depth} bs {size}"),
            Self::UsbFs { depth } => write!(f, "usbfs depth {depth}"),
            Self::Tty => write!(f, "tty depth 1"),
        }
    }
}

/// Lets udev finish: it has work whenever a driver comes or goes.
fn settle() -> Result<()> {
    run(&["udevadm", "settle"]).map(|_| ())
}

/// Fetches for `span`, behind a quarter of that for warming up. Returns how many bytes came and how long it
/// took from one end of a fetch to another.
fn fetch_for(span: Duration, fetch: &mut Fetch<'_>) -> Result<(u64, Duration)> {
    let warm_up = Instant::now();
    while warm_up.elapsed() < span / 4 {
        fetch()?;
    }
    let mut bytes = 0;
    let start = Instant::now();
    loop {
        bytes += fetch()? as u64;
        let time = start.elapsed();
        if time >= span {
            return Ok((bytes, time));
        }
    }
}

/// A throughput in MB/s (millions of bytes).
fn megabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}
