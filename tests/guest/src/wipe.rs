// SPDX-License-Identifier: GPL-2.0

//! Nothing stale: bytes that were delivered, or that never will be, are gone from the kernel's
//! memory.
//!
//! The memory is looked through by way of `/proc/kcore`, which shows all RAM that the kernel has:
//! pages in use, whatever for (so buffers that a controller has been given, and those of other
//! drivers), and free ones. That it does is seen each time: all that `/proc/iomem` calls System RAM
//! has to be in it, and a page that a pipe holds has to be found.
//!
//! The bytes to look for are known before the device is plugged in, and so are the places where
//! this program's own making of them has left them: what counts is where they are found that they
//! were not before. What this program reads it overwrites at once; no other program gets any.

use crate::support::{
    sys::catch,
    tests,
    wait_until,
    Background,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use alpharng_emu::{
    fault::{
        At,
        Fault,
        Kind, //
    },
    stream::{
        block,
        Command, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::{
    io::Errno,
    process::Signal, //
};
use std::{
    collections::{
        HashMap,
        HashSet, //
    },
    fs::{
        self,
        File, //
    },
    io::Read as _,
    os::unix::fs::FileExt, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    delivered_and_forfeited_bytes_are_gone,
    refused_bytes_are_gone,
    incomplete_and_interrupted_bytes_are_gone,
    bytes_for_the_kernel_s_pool_are_gone,
];

/// The file that shows the kernel's memory.
const KCORE: &str = "/proc/kcore";

/// How much of it is looked at at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// How far apart the samples of a block are that are looked for, in bytes: a multiple of 8, because
/// the driver's buffers start at pages, and a block starts where its buffer does.
const SAMPLE_EVERY: usize = 1_000;

/// Bytes in the page that a pipe holds during each search.
const PAGE: usize = 4096;

/// Where the kernel says what is at which physical address.
const IOMEM: &str = "/proc/iomem";

/// What to look for: 8-byte words of the device's stream.
struct Needles {
    /// For each word, inverted so that this map is not what is found, its block and its place
    /// there.
    places: HashMap<u64, (u64, usize)>,
    /// Whether there may be a word with these lowest 16 bits, inverted: most are ruled out by this.
    likely: Vec<bool>,
}

impl Needles {
    /// Samples of the blocks 0 to `count`-1 of the stream of `seed`.
    fn of(seed: u64, count: u64) -> Self {
        let mut places = HashMap::new();
        let mut likely = vec![false; 1 << 16];
        Self::note(seed, count, &mut places, &mut likely);
        overwrite_stack();
        Self { places, likely }
    }

    /// Makes the blocks and notes their samples.
    #[inline(never)]
    fn note(seed: u64, count: u64, places: &mut HashMap<u64, (u64, usize)>, likely: &mut [bool]) {
        for index in 0..count {
            let mut bytes = block(seed, Command::Entropy, index);
            for place in (0..BLOCK).step_by(SAMPLE_EVERY) {
                let word =
                    !u64::from_ne_bytes(bytes[place..place + 8].try_into().expect("8 bytes"));
                likely[(word & 0xffff) as usize] = true;
                places.insert(word, (index, place));
            }
            wipe(&mut bytes);
        }
    }

    /// Looks through the memory: for each word that is there, the block, the place in it, and the
    /// address.
    ///
    /// # Errors
    ///
    /// If it would not have found everything.
    fn find(&self) -> Result<HashSet<(u64, usize, u64)>> {
        let kcore = File::open(KCORE).with_context(|| format!("cannot open {KCORE}"))?;
        let segments = segments(&kcore)?;
        expect_all_memory(&segments)?;
        // A word that is in a page of the kernel's, and in this program only inverted.
        let beacon = fastrand::u64(..);
        let (pipe, to) = rustix::pipe::pipe()?;
        {
            let mut page: Vec<u8> = (0..PAGE / 8)
                .flat_map(|_| (!beacon).to_ne_bytes())
                .collect();
            ensure!(rustix::io::write(&to, &page)? == PAGE);
            wipe(&mut page);
        }
        let mut seen = 0;
        let mut found = HashSet::new();
        let mut chunk = vec![0; CHUNK];
        for segment in segments {
            let mut done = 0;
            while done < segment.size {
                let size = CHUNK.min(usize::try_from(segment.size - done)?);
                // Memory that has no page, or that is not to be read, is not the driver's.
                let got = kcore
                    .read_at(&mut chunk[..size], segment.offset + done)
                    .unwrap_or(0);
                for (index, bytes) in chunk[..got].chunks_exact(8).enumerate() {
                    let word = !u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
                    seen += usize::from(word == beacon);
                    if self.likely[(word & 0xffff) as usize] {
                        if let Some((block, place)) = self.places.get(&word) {
                            let address = segment.address + done + 8 * index as u64;
                            found.insert((*block, *place, address));
                        }
                    }
                }
                wipe(&mut chunk[..got]);
                done += size as u64;
            }
        }
        drop((pipe, to));
        ensure!(
            seen >= PAGE / 8,
            "of the page that a pipe holds only {seen} words were found"
        );
        Ok(found)
    }
}

/// Overwrites what the functions called before have left on the stack: copies of blocks.
#[inline(never)]
fn overwrite_stack() {
    let mut zeroes = [0_u8; 1 << 19];
    std::hint::black_box(&mut zeroes);
}

/// Checks that all RAM that the kernel has is in these parts of [`KCORE`].
fn expect_all_memory(segments: &[Segment]) -> Result<()> {
    let text = fs::read_to_string(IOMEM).with_context(|| format!("cannot read {IOMEM}"))?;
    let mut all = 0;
    for line in text.lines() {
        // Not what is within another: `from-to : what`, in hexadecimal.
        let Some((range, "System RAM")) = line.split_once(" : ") else {
            continue;
        };
        let (from, to) = range.split_once('-').context("a range without an end")?;
        let ends = [from, to].map(|end| u64::from_str_radix(end, 16));
        let [from, to] = ends;
        // Whole pages of it.
        let page = PAGE as u64;
        let (from, to) = (from?.next_multiple_of(page), (to? + 1) / page * page);
        // Parts that follow on each other count as one.
        let mut at = from;
        while let Some(segment) = segments.iter().find(|segment| segment.holds(at)) {
            at = segment.physical + segment.size;
        }
        ensure!(at >= to, "{KCORE} lacks {at:#x} to {to:#x}, which is RAM");
        all += to.saturating_sub(from);
    }
    ensure!(all > 1 << 28, "{IOMEM} shows {all} bytes of RAM");
    println!("{} MiB of RAM looked through", all >> 20);
    Ok(())
}

/// A part of the kernel's memory in [`KCORE`].
struct Segment {
    /// Where in the file.
    offset: u64,
    /// The kernel's address of it.
    address: u64,
    /// Its physical address.
    physical: u64,
    /// Its size in bytes.
    size: u64,
}

impl Segment {
    /// Whether this physical address is in it.
    fn holds(&self, physical: u64) -> bool {
        (self.physical..self.physical + self.size).contains(&physical)
    }
}

/// The parts of [`KCORE`] that are memory (ELF-64, program headers with a physical address).
fn segments(kcore: &File) -> Result<Vec<Segment>> {
    let mut header = [0; 64];
    kcore.read_exact_at(&mut header, 0)?;
    ensure!(
        header.starts_with(b"\x7fELF\x02"),
        "{KCORE} is no ELF-64 file"
    );
    let table = u64::from_ne_bytes(header[32..40].try_into()?);
    let entry = u64::from(u16::from_ne_bytes(header[54..56].try_into()?));
    let count = u64::from(u16::from_ne_bytes(header[56..58].try_into()?));
    let mut segments = Vec::new();
    for index in 0..count {
        let mut program = [0; 56];
        kcore.read_exact_at(&mut program, table + index * entry)?;
        let field =
            |at: usize| u64::from_ne_bytes(program[at..at + 8].try_into().expect("8 bytes"));
        let is_load = program[..4] == 1_u32.to_ne_bytes();
        // What is mapped a second time (modules, vmalloc) has no physical address here.
        if is_load && field(24) != u64::MAX {
            segments.push(Segment {
                offset: field(8),
                address: field(16),
                physical: field(24),
                size: field(32),
            });
        }
    }
    ensure!(!segments.is_empty(), "{KCORE} shows no memory");
    Ok(segments)
}

/// Overwrites bytes of this program's, which is seen to although nobody looks at them any more.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// Reads `count` bytes and forgets them.
fn use_up(node: &Node, count: usize) -> Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut left = count;
    while left > 0 {
        let size = left.min(BLOCK);
        let got = rustix::io::read(node, &mut buffer[..size])?;
        wipe(&mut buffer);
        left -= got;
    }
    Ok(())
}

/// The blocks of which more is found than was before.
fn new_blocks(
    now: &HashSet<(u64, usize, u64)>,
    before: &HashSet<(u64, usize, u64)>,
) -> Vec<(u64, usize, u64)> {
    let mut new: Vec<_> = now.difference(before).copied().collect();
    new.sort_unstable();
    new
}

/// A block is in memory while it can be delivered, and no longer: delivered bytes are wiped one by
/// one, the start-up test's block when it has been tested, the others when the device goes or the
/// module is unloaded.
fn delivered_and_forfeited_bytes_are_gone(guest: &mut Guest) -> Result<()> {
    let needles = Needles::of(guest.seed, 12);
    let before = needles.find()?;

    let node = guest.start()?;
    guest.wait_until_full()?;
    // Two blocks and a half are delivered.
    use_up(&node, 2 * BLOCK + BLOCK / 2)?;
    guest.wait_until_full()?;
    let now = new_blocks(&needles.find()?, &before);
    // This is how it looks when bytes are there: the rest of block 3, and block 4.
    for place in (BLOCK / 2..BLOCK).step_by(SAMPLE_EVERY) {
        ensure!(
            now.iter().any(|found| (found.0, found.1) == (3, place)),
            "byte {place} of block 3, which is ready, was not found: the search does not work"
        );
    }
    ensure!(now.iter().any(|found| found.0 == 4), "block 4 is not ready");
    for (block, place, address) in &now {
        ensure!(
            *block > 3 || (*block == 3 && *place >= BLOCK / 2),
            "byte {place} of block {block}, which was used up, is at {address:#x}"
        );
    }

    guest.unplug()?;
    let now = new_blocks(&needles.find()?, &before);
    ensure!(now.is_empty(), "left behind by the unplug: {now:x?}");

    guest.replug()?;
    guest.wait_until_full()?;
    drop(node);
    guest.unload()?;
    let now = new_blocks(&needles.find()?, &before);
    ensure!(now.is_empty(), "left behind by the unload: {now:x?}");
    Ok(())
}

/// A block that failed is wiped, whether the device has said so or a health test.
fn refused_bytes_are_gone(guest: &mut Guest) -> Result<()> {
    let needles = Needles::of(guest.seed, 5);
    let before = needles.find()?;
    // The device refuses three blocks in a row, which stops the source: nothing overwrites them.
    guest.log.announce("device's own health tests");
    for block in 1..4 {
        guest
            .emulator
            .device(0)
            .fault(Fault::at(block, Kind::Status { value: 1 }))?;
    }
    guest.start()?;
    guest.wait_until_full()?;
    let now = new_blocks(&needles.find()?, &before);
    ensure!(now.is_empty(), "refused, but not wiped: {now:x?}");
    Ok(())
}

/// Nothing is left of an answer that ends too early and has none behind it, of a read that a signal
/// ends in its middle, of the blocks that were ready when a reader was killed and the device pulled
/// out, and of an answer that was under way when it was.
fn incomplete_and_interrupted_bytes_are_gone(guest: &mut Guest) -> Result<()> {
    /// Bytes of an answer that come.
    const PART: usize = 9_000;
    /// Blocks that are looked for.
    const BLOCKS: u64 = 48;

    catch(Signal::USR1, false)?;
    // Each command uses up a block, and those of the attempts do, too.
    let needles = Needles::of(guest.seed, BLOCKS);
    let before = needles.find()?;
    let node = guest.start()?;
    guest.wait_until_full()?;
    // The next answer is short, and no other comes: nothing overwrites it.
    let next = guest.emulator.status()?.next_block;
    let short = Fault::at(next, Kind::Short { bytes: PART });
    guest.emulator.fault(short)?;
    guest.fall_silent_at(next + 1, 0)?;
    let reader = {
        let node = node.clone();
        // More than is ready, so that it sleeps in the middle.
        Background::start(move || {
            let mut buffer = vec![0; 6 * BLOCK];
            let got = rustix::io::read(&node, &mut buffer);
            wipe(&mut buffer);
            got
        })?
    };
    reader.wait_until_reading()?;
    reader.signal(Signal::USR1)?;
    let got = reader.join()?;
    ensure!(got == Ok((usize::try_from(next)? - 1) * BLOCK), "{got:?}");
    let now = new_blocks(&needles.find()?, &before);
    ensure!(
        now.is_empty(),
        "left behind by a read that was interrupted: {now:x?}"
    );
    // All attempts have failed.
    let failed = rustix::io::read(&node, &mut [0; 1]);
    ensure!(failed == Err(Errno::TIMEDOUT), "{failed:?}");
    guest.log.wait_for("no answer after 15 attempts")?;
    let now = new_blocks(&needles.find()?, &before);
    ensure!(now.is_empty(), "left behind by a short answer: {now:x?}");

    // It answers again, and is pulled out in the middle of an answer.
    guest.emulator.clear_faults()?;
    guest.unplug()?;
    guest.replug()?;
    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    guest.emulator.unplug_at(At::Block(next), PART)?;
    use_up(&node, BLOCK)?;
    wait_until("the device to be pulled out", || {
        guest.emulator.status().is_ok_and(|status| !status.plugged)
    })?;
    guest.wait_until_gone()?;
    let sent = guest.emulator.status()?.next_block;
    ensure!(sent <= BLOCKS, "block {sent} is not looked for");
    let now = new_blocks(&needles.find()?, &before);
    ensure!(
        now.is_empty(),
        "left behind by an unplug in an answer: {now:x?}"
    );
    Ok(())
}

/// Bytes that the kernel's hardware-RNG core was given are not kept here. That core has two buffers of
/// its own, of a cache line each (`rng_buffer` and `rng_fillbuf` of drivers/char/hw_random/core.c), in
/// which what it read last for a program and for itself may still be.
fn bytes_for_the_kernel_s_pool_are_gone(guest: &mut Guest) -> Result<()> {
    /// Samples that can be in its buffers, each of which is shorter than samples are apart.
    const OF_THE_CORE: usize = 2;

    let needles = Needles::of(guest.seed, 12);
    let before = needles.find()?;
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be the kernel's", || {
        let current = fs::read_to_string("/sys/class/misc/hw_random/rng_current");
        current.is_ok_and(|name| name.trim() == "alrandom")
    })?;
    let mut hwrng = File::open("/dev/hwrng")?;
    let mut buffer = [0; 500];
    for _ in 0..4 * BLOCK / buffer.len() {
        hwrng.read_exact(&mut buffer)?;
        wipe(&mut buffer);
    }
    drop(hwrng);
    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    let now = new_blocks(&needles.find()?, &before);
    // Of four blocks that can be ready, the first may have been begun.
    let used_up: Vec<_> = now.iter().filter(|found| found.0 + 4 < next).collect();
    ensure!(
        used_up.len() <= 1,
        "used up before block {next}: {used_up:x?}"
    );
    let ready = now.iter().filter(|found| found.0 + 4 >= next);
    let samples = BLOCK.div_ceil(SAMPLE_EVERY);
    ensure!(
        ready.count() > 2 * samples,
        "the search does not work: {now:x?}"
    );
    guest.unload()?;
    let now = new_blocks(&needles.find()?, &before);
    ensure!(
        now.len() <= OF_THE_CORE,
        "left behind by the unload: {now:x?}"
    );
    Ok(())
}
