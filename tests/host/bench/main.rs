// SPDX-License-Identifier: GPL-2.0

//! The benchmark of the health tests: `health.rs` against a plain loop of the vendor's tests, both
//! compiled with the kernel's flags.
//!
//! Both do the same blocks in turn, in many rounds; what counts is the median of the rounds. The time
//! of `health.rs` includes both layers, the fingerprint and the policy. The plain loop is there in four
//! places, and the fastest of them counts. The exit status is 1 if the
//! ratio is above the budget of a fifth.

use std::{
    env,
    fs::{self, File},
    hint::black_box,
    io::{self, Read},
    process::ExitCode,
    time::Instant,
};

/// Data bytes in a block.
const BLOCK: usize = 16000;

/// Blocks in a round: more than the health tests remember, and few enough for a second-level cache.
const BLOCKS: usize = 40;

/// Blocks before the first round, so that the statistics are those of a device in use.
const WARM_UP: usize = 4000;

/// Rounds.
const ROUNDS: usize = 301;

/// Assessed min-entropy in bits per byte: the driver's default.
const MIN_ENTROPY: u32 = 6;

/// Largest time of the health tests, in units of the vendor loop's.
const BUDGET: f64 = 0.2;

/// One block.
type Block = [u8; BLOCK];

/// Room for the state of either side.
#[repr(C, align(16))]
struct State([u8; 1024]);

extern "C" {
    /// See `health_bench.rs`.
    fn health_size() -> usize;
    /// See `health_bench.rs`.
    fn health_init(health: *mut State, bits: u32) -> bool;
    /// See `health_bench.rs`.
    fn health_test(health: *mut State, block: *const Block) -> bool;
    /// See `health_bench.rs`.
    fn health_self_test(scratch: *mut Block) -> bool;
    /// See `vendor_loop.c`; this is the first of four places.
    fn vendor_loop_0(state: *mut State, data: *const Block, length: u32);
    /// The same, 16 bytes further in a cache line.
    fn vendor_loop_16(state: *mut State, data: *const Block, length: u32);
    /// The same, 32 bytes further in a cache line.
    fn vendor_loop_32(state: *mut State, data: *const Block, length: u32);
    /// The same, 48 bytes further in a cache line.
    fn vendor_loop_48(state: *mut State, data: *const Block, length: u32);
}

/// A plain loop.
type VendorLoop = unsafe extern "C" fn(*mut State, *const Block, u32);

/// The same loop in several places.
const VENDOR_LOOPS: [VendorLoop; 4] = [
    vendor_loop_0,
    vendor_loop_16,
    vendor_loop_32,
    vendor_loop_48,
];

/// Fills `blocks` with the system's random bytes.
fn fill(random: &mut impl Read, blocks: &mut [Block]) -> io::Result<()> {
    blocks
        .iter_mut()
        .try_for_each(|block| random.read_exact(block))
}

/// The time that `work` takes, in nanoseconds per byte of a round.
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / (BLOCKS * BLOCK) as f64
}

/// The median of values; of an even number, the upper one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures, prints, and says whether the budget was kept.
fn bench(json: Option<String>) -> Result<bool, String> {
    let error = |error: io::Error| format!("cannot read /dev/urandom: {error}");
    let mut random = File::open("/dev/urandom").map_err(error)?;
    let mut blocks = vec![[0; BLOCK]; BLOCKS];
    let mut vendor = State([0; 1024]);
    let mut health = State([0; 1024]);

    // SAFETY: The state is large enough, which is looked at first, and aligned; the scratch is a block.
    let ready = unsafe {
        health_size() <= size_of::<State>()
            && health_init(&mut health, MIN_ENTROPY)
            && health_self_test(&mut blocks[0])
    };
    if !ready {
        return Err("the health tests do not even start".to_owned());
    }
    // SAFETY: The state has been initialised and `block` is one.
    let mut test = |block: &Block| unsafe { health_test(&mut health, block) };
    let mut plain = |vendor_loop: VendorLoop, block: &Block| {
        // SAFETY: All zero is the vendor loop's initial state, and `block` has so many bytes.
        unsafe { vendor_loop(&mut vendor, block, BLOCK as u32) }
    };

    let mut times = [const { Vec::new() }; VENDOR_LOOPS.len()];
    for _ in 0..WARM_UP / BLOCKS {
        fill(&mut random, &mut blocks).map_err(error)?;
        for block in &blocks {
            black_box(test(block));
        }
        for (times, vendor_loop) in times.iter_mut().zip(VENDOR_LOOPS) {
            times.push(time(|| {
                blocks.iter().for_each(|block| plain(vendor_loop, block));
            }));
        }
    }
    let (_, vendor_loop) = times
        .into_iter()
        .map(|times| median(times.into_iter()))
        .zip(VENDOR_LOOPS)
        .inspect(|(time, _)| println!("plain loop in one of four places        {time:.3} ns/byte"))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .ok_or("there is no plain loop")?;

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut health = || {
            time(|| {
                for block in &blocks {
                    assert!(test(black_box(block)), "a healthy block was not delivered");
                }
            })
        };
        let mut vendor = || {
            time(|| {
                blocks
                    .iter()
                    .for_each(|block| plain(vendor_loop, black_box(block)));
            })
        };
        // Whoever comes second finds the caches warm, so they take turns at that.
        rounds.push(if round % 2 == 0 {
            let vendor = vendor();
            (vendor, health())
        } else {
            let health = health();
            (vendor(), health)
        });
    }

    let vendor = median(rounds.iter().map(|(vendor, _)| *vendor));
    let health = median(rounds.iter().map(|(_, health)| *health));
    let ratio = median(rounds.iter().map(|(vendor, health)| health / vendor));
    println!("plain loop, vendor layer alone          {vendor:.3} ns/byte");
    println!("health.rs, both layers and fingerprint  {health:.3} ns/byte");
    println!("ratio                                   {ratio:.3} (budget {BUDGET})");
    if let Some(path) = json {
        let text = format!(
            "{{\"rounds\": {ROUNDS}, \"bytes_per_round\": {}, \"vendor_loop_ns_per_byte\": {vendor:.4}, \
             \"health_ns_per_byte\": {health:.4}, \"ratio\": {ratio:.4}, \"budget\": {BUDGET}}}\n",
            BLOCKS * BLOCK
        );
        fs::write(&path, text).map_err(|error| format!("cannot write {path}: {error}"))?;
    }
    Ok(ratio <= BUDGET)
}

fn main() -> ExitCode {
    match bench(env::args().nth(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("bench: the health tests take more than {BUDGET} of the plain loop's time");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
