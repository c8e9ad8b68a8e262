// SPDX-License-Identifier: GPL-2.0

//! All of it mixed, for as long as one likes: readers of all kinds, of the node, by io_uring, of
//! `/dev/hwrng` and of `/proc`; devices that are plugged in and pulled out, that answer wrongly or
//! not at all, that a health test stops; drivers that are bound and unbound, resets, parameters
//! that change, signals, processes that are stopped and killed; the module loaded and unloaded.
//! What is done when follows from a seed.
//!
//! It goes on in episodes. Each begins with the module loaded and ends with nothing plugged in and
//! nothing loaded, and then, when every episode is as every other, it is counted what the kernel
//! has in memory. What is lost in each episode makes a line that rises; see `support/trend.rs` for
//! what counts as one. All that was delivered in an episode is checked at its end.
//!
//! `make soak` runs it; a short one is a test.

use crate::support::{
    crowd::{
        expect_each_once,
        pause,
        Readers,
        Victim,
        HALF_PLUGGED, //
    },
    guest::LOADED,
    leaks::Leaks,
    sys::{
        catch,
        give_memory_back, //
    },
    tests,
    trend::{
        Trend,
        LEAST, //
    },
    uring,
    wait_until,
    Guest,
    Node,
    Test,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    fault::{
        At,
        Direction,
        Fault,
        Kind,
        TransferError, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use fastrand::Rng;
use rustix::{
    io::Errno,
    process::Signal, //
};
use std::{
    collections::BTreeMap,
    fs::{
        self,
        File, //
    },
    io::{
        Read as _,
        Write as _, //
    },
    path::Path,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![a_little_of_everything];

/// How long the test goes on, at least.
const LITTLE: Duration = Duration::from_secs(10);

/// Bytes per second of the device while readers read: all that is delivered is looked up.
const RATE: u64 = 1_000_000;

/// Bytes that are read to see how fast that is.
const MEASURED: usize = 100 * BLOCK;

/// The part of all samples at the beginning in which caches fill, as a divisor.
const WARM_UP: usize = 4;

/// Where the driver is bound and unbound.
const DRIVER: &str = "/sys/bus/usb/drivers/alrandom";

/// Parameters that change meanwhile, and values of theirs: with each of them what is delivered is
/// made of whole words of the stream.
const PARAMETERS: [(&str, &[&str]); 6] = [
    ("bytesPerSample", &["16000", "8000", "800"]),
    ("minEntropy", &["5", "6", "7"]),
    ("maxCommands", &["1", "2", "3", "4"]),
    ("hwrngQuality", &["-1", "0", "512"]),
    ("idleSuspend", &["0", "1"]),
    ("debugMode", &["N", "N", "N", "Y"]),
];

/// What is counted, and by how much it may rise from the end of the warm-up to the last episode,
/// however many there are: of memory, kB.
const COUNTED: [(&str, f64); 11] = [
    // What is neither free nor a program's nor a file's: the kernel's, pages that a driver has
    // taken included. It depends on all that the machine does.
    ("kernel", 4096.0),
    ("Slab", 1024.0),
    ("SUnreclaim", 512.0),
    ("KernelStack", 64.0),
    ("PageTables", 128.0),
    ("VmallocUsed", 256.0),
    // Objects of kmalloc(), and of some caches with a name.
    ("kmalloc", 256.0),
    ("kernfs_node_cache", 64.0),
    ("filp", 64.0),
    // Threads and processes, the kernel's own too; a worker more or less comes and goes.
    ("tasks", 3.0),
    ("files", 32.0),
];

/// How much slower it may become, as part of what it is.
const SLOWER: f64 = 0.25;

/// A number of a line like `Name:   123 kB`.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(':')?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// kB of the objects in use in the slab caches whose names `wanted` accepts (slabinfo(5): name,
/// active objects, all objects, size of one).
fn slabs(text: &str, wanted: impl Fn(&str) -> bool) -> f64 {
    let caches = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let active: f64 = words.next()?.parse().ok()?;
        let size: f64 = words.nth(1)?.parse().ok()?;
        wanted(name).then_some(active * size / 1024.0)
    });
    caches.sum()
}

/// kB of the free pages that processors keep for themselves, which do not count as free: many MiB,
/// now more, now less (`count` of each `pageset` in `/proc/zoneinfo`).
fn kept_by_processors(zones: &str) -> f64 {
    let counts = zones.lines().filter_map(|line| {
        let count = line.trim_start().strip_prefix("count:")?;
        count.trim().parse::<f64>().ok()
    });
    counts.sum::<f64>() * (rustix::param::page_size() / 1024) as f64
}

/// Counts what there is, in the order of [`COUNTED`].
fn count() -> Result<[f64; COUNTED.len()]> {
    // What is only kept in case it is asked for again, and what is freed a moment later.
    give_memory_back();
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    thread::sleep(Duration::from_millis(300));
    // Each processor's counters are added up, where the kernel can be asked to.
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    let kept = kept_by_processors(&zones);
    let memory = fs::read_to_string("/proc/meminfo")?;
    let slab = fs::read_to_string("/proc/slabinfo")?;
    let tasks = fs::read_to_string("/proc/loadavg")?;
    let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let mut counted = [0.0; COUNTED.len()];
    for ((name, _), to) in COUNTED.iter().zip(&mut counted) {
        let found = match *name {
            "kernel" => {
                let not = ["MemFree", "AnonPages", "Cached", "Buffers"];
                let not = not.iter().map(|name| field(&memory, name));
                let not: Option<f64> = not.sum();
                let all = field(&memory, "MemTotal").zip(not);
                all.map(|(all, not)| all - not - kept)
            }
            "kmalloc" => Some(slabs(&slab, |name| name.starts_with("kmalloc-"))),
            "kernfs_node_cache" | "filp" => Some(slabs(&slab, |cache| cache == *name)),
            "tasks" => {
                let all = tasks.split('/').nth(1);
                all.and_then(|all| all.split(' ').next()?.parse().ok())
            }
            "files" => files.split_whitespace().next().and_then(|n| n.parse().ok()),
            _ => field(&memory, name),
        };
        *to = found.with_context(|| format!("the kernel does not tell {name}"))?;
    }
    Ok(counted)
}

/// What was done.
#[derive(Default)]
struct Done {
    /// Episodes.
    episodes: u64,
    /// How often the module was loaded and unloaded.
    loads: u64,
    /// How often the device was plugged in and went.
    plugs: u64,
    /// How often each other thing was done.
    things: BTreeMap<&'static str, u64>,
    /// Bytes that were checked.
    bytes: u64,
    /// Blocks that they came from.
    blocks: u64,
    /// Reads that failed as they may.
    refused: u64,
}

/// A soak under way.
struct Soak<'a> {
    /// The machine.
    guest: &'a mut Guest,
    /// What happens next.
    rng: Rng,
    /// When it began.
    start: Instant,
    /// What was done.
    done: Done,
    /// What was counted at the end of each episode.
    counted: Vec<[f64; COUNTED.len()]>,
    /// MB/s from the node, and from `/dev/urandom` at the same time, in each episode.
    rates: Vec<(f64, f64)>,
}

impl Soak<'_> {
    /// Tells what happens.
    fn tell(&self, what: &str) {
        println!("event {:.3} {what}", self.start.elapsed().as_secs_f64());
        // Somebody may want to know that of a machine that crashes.
        let _ = std::io::stdout().flush();
    }

    /// Counts and tells that a thing is done.
    fn does(&mut self, thing: &'static str, details: &str) {
        *self.done.things.entry(thing).or_default() += 1;
        self.tell(&format!("{thing} {details}"));
    }

    /// A log that only expects what this may lead to: anything of the driver's, and of the USB
    /// core's about a device that goes while it is looked at.
    fn watch_log(&mut self) -> Result<()> {
        let problems = self.guest.log.problems();
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        self.guest.log = crate::support::log::Log::from_now_on()?;
        // A program that is killed while it is read from the disk leaves a line of erofs's.
        let others = [" AlphaRNG", "alrandom ", "erofs (device "];
        for line in HALF_PLUGGED.into_iter().chain(others) {
            self.guest.log.announce(line);
        }
        Ok(())
    }

    /// Loads the module.
    fn load(&mut self) -> Result<()> {
        self.done.loads += 1;
        self.tell("load");
        self.guest.load_with_hwrng(&[])
    }

    /// Unloads it, when those that have just opened something have closed it.
    fn unload(&mut self) -> Result<()> {
        self.tell("unload");
        wait_until("the module to be unloaded", || self.guest.unload().is_ok())
    }

    /// Plugs the device in, if it is not.
    fn plug(&mut self) -> Result<()> {
        if !self.guest.emulator.status()?.plugged {
            self.guest.wait_until_gone()?;
            self.done.plugs += 1;
            self.tell("plug");
            self.guest.emulator.plug()?;
        }
        Ok(())
    }

    /// Pulls it out, if it is not out by itself, and waits until the kernel has noticed.
    fn unplug(&mut self) -> Result<()> {
        if self.guest.emulator.status()?.plugged {
            self.tell("unplug");
            // It may have gone at this moment.
            let _ = self.guest.emulator.unplug();
        }
        self.guest.wait_until_gone()
    }

    /// How fast the node and `/dev/urandom` are read, and what came from the node.
    fn measure(&mut self) -> Result<Vec<u8>> {
        let rate = |mut file: File| -> Result<(f64, Vec<u8>)> {
            let mut bytes = vec![1; MEASURED];
            let start = Instant::now();
            for piece in bytes.chunks_mut(BLOCK) {
                file.read_exact(piece)?;
            }
            let rate = MEASURED as f64 / start.elapsed().as_secs_f64() / 1e6;
            Ok((rate, bytes))
        };
        let (of_node, bytes) = rate(File::open(crate::support::node::NODE)?)?;
        let (of_kernel, _) = rate(File::open("/dev/urandom")?)?;
        self.rates.push((of_node, of_kernel));
        Ok(bytes)
    }

    /// Something that the device does wrong.
    fn fault(&mut self) -> Result<()> {
        let rng = &mut self.rng;
        let bytes = rng.usize(..=16_000);
        let transfers = rng.u32(1..=6);
        let kind = match rng.u32(..15) {
            0 => Kind::Status {
                value: rng.choice([1, 2, 4, 255]).unwrap_or(1),
            },
            1 | 2 => Kind::Short { bytes },
            3 | 4 => Kind::Silent,
            5 => Kind::Hold,
            6 => Kind::Stall {
                endpoint: Direction::In,
                bytes,
            },
            7 => Kind::Stall {
                endpoint: Direction::Out,
                bytes: 0,
            },
            8 => Kind::Extra {
                bytes: rng.usize(1..5000),
            },
            9 => Kind::Delay {
                ms: rng.u64(..1500),
            },
            10 | 11 => {
                let all = [
                    TransferError::IoError,
                    TransferError::Timeout,
                    TransferError::Babble,
                ];
                Kind::Error {
                    status: rng.choice(all).unwrap_or(TransferError::IoError),
                    transfers,
                }
            }
            12 => Kind::ZeroLength { transfers },
            13 => Kind::Unplug { bytes },
            _ => Kind::Stuck { value: rng.u8(..) },
        };
        let count = self.rng.u64(1..3);
        self.does("fault", &format!("{kind:?}, {count} times"));
        self.guest.emulator.fault(Fault::next(kind).count(count))?;
        pause(&mut self.rng, 800);
        Ok(())
    }

    /// One thing that happens under the readers.
    fn step(&mut self, readers: &Readers) -> Result<()> {
        self.plug()?;
        match self.rng.u32(..14) {
            // Not known yet, or just so.
            0 => {
                self.unplug()?;
                self.plug()?;
                pause(&mut self.rng, 150);
                self.unplug()?;
            }
            // In an answer.
            1 | 2 => {
                let next = self.guest.emulator.status()?.next_block;
                let block = next + self.rng.u64(..6);
                let bytes = self.rng.usize(..BLOCK);
                self.does("unplug at", &format!("byte {bytes} of block {block}"));
                // Where that block has gone by or does not come, it is pulled out later.
                let _ = self.guest.emulator.unplug_at(At::Block(block), bytes);
                pause(&mut self.rng, 500);
                self.unplug()?;
            }
            3..=6 => self.fault()?,
            7 => {
                let kind = Kind::Stuck { value: 0 };
                self.does("health stop", "");
                self.guest.emulator.fault(Fault::next(kind))?;
                pause(&mut self.rng, 400);
                // There may be no device that could be tested.
                self.does("start-up test", "");
                let _ = fs::write("/sys/class/misc/alrandom/startup_test", "1");
            }
            8 => {
                if let Some(device) = UsbDevice::find(&crate::support::guest::serial(0)) {
                    // It may go meanwhile, or be bound by another at this moment.
                    if let Ok(interface) = device.data_interface() {
                        self.does("unbind and bind", "");
                        let _ = fs::write(format!("{DRIVER}/unbind"), &interface);
                        pause(&mut self.rng, 20);
                        let _ = fs::write(format!("{DRIVER}/bind"), &interface);
                    }
                }
            }
            9 => {
                if let Some(device) = UsbDevice::find(&crate::support::guest::serial(0)) {
                    self.does("reset", "");
                    let _ = device.reset();
                }
            }
            10 | 11 => {
                let parameter = self.rng.choice(PARAMETERS);
                let (name, values) = parameter.context("no parameter")?;
                let value = self.rng.choice(values).context("no value")?;
                self.does("parameter", &format!("{name}={value}"));
                fs::write(format!("{LOADED}/parameters/{name}"), value)?;
            }
            12 => {
                let count = self.rng.usize(1..20);
                self.does("signals", &count.to_string());
                for _ in 0..count {
                    readers.interrupt(&mut self.rng)?;
                    pause(&mut self.rng, 10);
                }
            }
            _ => {
                self.does("reader to be killed", "");
                let victim = Victim::start()?;
                for signal in [Signal::STOP, Signal::CONT, Signal::STOP] {
                    pause(&mut self.rng, 60);
                    victim.signal(signal);
                }
                victim.end()?;
            }
        }
        pause(&mut self.rng, 150);
        Ok(())
    }

    /// An episode.
    fn episode(&mut self) -> Result<()> {
        self.done.episodes += 1;
        let seed = self.rng.u64(..);
        self.tell(&format!("episode {} from {seed}", self.done.episodes));
        self.rng = Rng::with_seed(seed);
        self.watch_log()?;
        let first = self.guest.emulator.status()?.next_block;
        self.guest.configure(Configure {
            rate: Some(0),
            ..Configure::default()
        })?;
        self.done.plugs += 1;
        self.guest.plug()?;
        for _ in 0..self.rng.u32(..3) {
            self.load()?;
            pause(&mut self.rng, 60);
            self.unload()?;
        }
        self.load()?;
        let measured = self.measure()?;

        self.guest.configure(Configure {
            rate: Some(RATE),
            ..Configure::default()
        })?;
        let mut readers =
            Readers::of_the_node_expecting(&[Errno::IO, Errno::TIMEDOUT])?.and_others()?;
        readers.shared.note(Ok(measured))?;
        let node = Node::open()?;
        readers.start(move |shared| shared.note(uring::read(&node, 4096, true)?))?;
        for _ in 0..self.rng.u32(3..9) {
            self.step(&readers)?;
        }

        // It works as ever, and what it delivers is checked with the rest.
        self.tell("end of the episode");
        self.guest.emulator.clear_faults()?;
        self.unplug()?;
        self.guest.replug()?;
        let bytes = readers.shared.bytes();
        wait_until("readers to get bytes again", || {
            readers.shared.bytes() > bytes + 2 * BLOCK as u64
        })?;
        let shared = readers.end(self.guest)?;
        self.done.blocks += expect_each_once(self.guest, &shared, first)?;
        self.done.bytes += shared.bytes();
        self.done.refused += shared.refused();
        self.unload()?;
        self.unplug()?;

        let counted = count()?;
        self.counted.push(counted);
        self.tell_sample(&counted);
        self.watch_log()
    }

    /// Tells what was counted at the end of an episode.
    fn tell_sample(&self, counted: &[f64]) {
        let mut line = format!(
            "sample {:.0} s: {} episodes, {} faults, {} MB checked",
            self.start.elapsed().as_secs_f64(),
            self.done.episodes,
            self.done.things.get("fault").unwrap_or(&0),
            self.done.bytes / 1_000_000,
        );
        if let Some((node, kernel)) = self.rates.last() {
            line += &format!("; {node:.1} MB/s, urandom {kernel:.1}");
        }
        for ((name, _), value) in COUNTED.iter().zip(counted) {
            line += &format!("; {name} {value:.0}");
        }
        println!("{line}");
        let _ = std::io::stdout().flush();
    }

    /// Tells what was done, and whether everything has stayed level; the names of what has not.
    fn judge(&self) -> Vec<String> {
        let Done {
            episodes,
            loads,
            plugs,
            bytes,
            blocks,
            refused,
            ..
        } = self.done;
        println!(
            "result {:.0} s: {episodes} episodes, {loads} loads, {plugs} plugs, {bytes} bytes of \
             {blocks} blocks checked, {refused} reads refused",
            self.start.elapsed().as_secs_f64()
        );
        for (thing, count) in &self.done.things {
            println!("result {thing}: {count}");
        }
        let mut bad = Vec::new();
        let mut judge = |name: &str, figures: &[f64], most: f64| {
            let level = &figures[figures.len() / WARM_UP..];
            let (Some(first), Some(last)) = (level.first(), level.last()) else {
                return;
            };
            let verdict = match Trend::of(level) {
                None => format!("too few to judge, {LEAST} are needed behind the warm-up"),
                Some(trend) => {
                    let rises = trend.rises_by_more_than(most);
                    if rises {
                        bad.push(format!("{name} does not stay level"));
                    }
                    format!(
                        "fitted rise {:.2}, deviate {:.1}: {}",
                        trend.rise,
                        trend.deviate,
                        if rises { "RISES" } else { "level" }
                    )
                }
            };
            println!("result {name}: {first:.2} to {last:.2}, {verdict}");
        };
        for (index, (name, most)) in COUNTED.iter().enumerate() {
            let figures: Vec<_> = self.counted.iter().map(|all| all[index]).collect();
            judge(name, &figures, *most);
        }
        // As a part of another thing that the machine does: the host has more or less time for it.
        let slowness: Vec<_> = self
            .rates
            .iter()
            .map(|(node, kernel)| kernel / node)
            .collect();
        let mut sorted = slowness.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        judge("time per byte, of urandom's", &slowness, SLOWER * middle);
        bad
    }
}

/// Goes on for so long, or as long as one episode takes.
fn soak(guest: &mut Guest, seed: u64, time: Duration) -> Result<()> {
    println!("seed {seed}");
    catch(Signal::USR1, false)?;
    let mut soak = Soak {
        guest,
        rng: Rng::with_seed(seed),
        start: Instant::now(),
        done: Done::default(),
        counted: Vec::new(),
        rates: Vec::new(),
    };
    while soak.done.episodes == 0 || soak.start.elapsed() < time {
        // What happens in an episode follows from its own seed.
        let next = soak.rng.u64(..);
        let episode = soak.done.episodes + 1;
        soak.episode()
            .with_context(|| format!("episode {episode} of seed {seed}"))?;
        soak.rng = Rng::with_seed(next);
    }
    let bad = soak.judge();
    ensure!(bad.is_empty(), "seed {seed}: {}", bad.join(", "));
    Ok(())
}

/// Runs the soak for so long from this seed, and says so; whether it has passed.
///
/// # Errors
///
/// If the machine is not as a test has to find it.
pub(crate) fn run(module: &Path, seed: u64, time: Duration) -> Result<bool> {
    let leaks = Leaks::watch()?;
    let mut guest = Guest::new("soak", module)?;
    let mut passed = match soak(&mut guest, seed, time) {
        Ok(()) => true,
        Err(error) => {
            println!("failed {error:#}");
            false
        }
    };
    for finding in guest.finish(passed) {
        println!("failed {finding}");
        passed = false;
    }
    if let Some(leaks) = leaks {
        for line in leaks.found()?.lines() {
            println!("failed memory was lost: {line}");
            passed = false;
        }
    }
    Ok(passed)
}

/// Some seconds of it.
fn a_little_of_everything(guest: &mut Guest) -> Result<()> {
    soak(guest, fastrand::u64(..), LITTLE)
}
