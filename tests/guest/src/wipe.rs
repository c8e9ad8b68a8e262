// SPDX-License-Identifier: GPL-2.0

//! Nothing stale: bytes that were delivered, or that never will be, are gone from the kernel's memory.
//!
//! The memory is looked through by way of `/proc/kcore`. The bytes to look for are known before the
//! device is plugged in, and so are the places where this program's own making of them has left them:
//! what counts is where they are found that they were not before.

use crate::support::{
    tests,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use alpharng_emu::stream::{
    block,
    Command, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    collections::{
        HashMap,
        HashSet, //
    },
    fs::File,
    os::unix::fs::FileExt, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    delivered_and_forfeited_bytes_are_gone,
    refused_bytes_are_gone,
];

/// The file that shows the kernel's memory.
const KCORE: &str = "/proc/kcore";

/// How much of it is looked at at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// How far apart the samples of a block are that are looked for, in bytes: a multiple of 8, because
/// the driver's buffers start at pages, and a block starts where its buffer does.
const SAMPLE_EVERY: usize = 1_000;

/// What to look for: 8-byte words of the device's stream.
struct Needles {
    /// For each word, inverted so that this map is not what is found, its block and its place there.
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
            bytes.fill(0);
        }
    }

    /// Looks through the memory: for each word that is there, the block, the place in it, and the
    /// address.
    fn find(&self) -> Result<HashSet<(u64, usize, u64)>> {
        let kcore = File::open(KCORE).with_context(|| format!("cannot open {KCORE}"))?;
        let mut found = HashSet::new();
        let mut chunk = vec![0; CHUNK];
        for segment in segments(&kcore)? {
            let mut done = 0;
            while done < segment.size {
                let size = CHUNK.min(usize::try_from(segment.size - done)?);
                // Memory that has no page, or that is not to be read, is not the driver's.
                let got = kcore
                    .read_at(&mut chunk[..size], segment.offset + done)
                    .unwrap_or(0);
                for (index, bytes) in chunk[..got].chunks_exact(8).enumerate() {
                    let word = !u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
                    if self.likely[(word & 0xffff) as usize] {
                        if let Some((block, place)) = self.places.get(&word) {
                            let address = segment.address + done + 8 * index as u64;
                            found.insert((*block, *place, address));
                        }
                    }
                }
                chunk[..got].fill(0);
                done += size as u64;
            }
        }
        Ok(found)
    }
}

/// Overwrites what the functions called before have left on the stack: copies of blocks.
#[inline(never)]
fn overwrite_stack() {
    let mut zeroes = [0_u8; 1 << 19];
    std::hint::black_box(&mut zeroes);
}

/// A part of the kernel's memory in [`KCORE`].
struct Segment {
    /// Where in the file.
    offset: u64,
    /// The kernel's address of it.
    address: u64,
    /// Its size in bytes.
    size: u64,
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
                size: field(32),
            });
        }
    }
    ensure!(!segments.is_empty(), "{KCORE} shows no memory");
    Ok(segments)
}

/// Reads `count` bytes and forgets them.
fn use_up(node: &Node, count: usize) -> Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut left = count;
    while left > 0 {
        let size = left.min(BLOCK);
        let got = rustix::io::read(node, &mut buffer[..size])?;
        buffer.fill(0);
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

/// A block is in memory while it can be delivered, and no longer: delivered bytes are wiped one by one,
/// the start-up test's block when it has been tested, the others when the device goes or the module
/// is unloaded.
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
    use alpharng_emu::fault::{
        Fault,
        Kind, //
    };

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
