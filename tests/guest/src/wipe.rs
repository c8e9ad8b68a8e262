// SPDX-License-Identifier: GPL-2.0

//! Nothing stale: bytes that were delivered, or that never will be, are gone from the kernel's
//! memory.
//!
//! The runner has QEMU dump the machine's memory and looks through all of it: pages in use,
//! whatever for (so buffers that a controller has been given, and those of other drivers), and free
//! ones. That it does is seen each time: all that `/proc/iomem` calls System RAM has to be in it, and
//! a page that a pipe holds has to be found.
//!
//! The bytes are known to the emulator and the runner, which are not in the machine, so whatever is
//! found has come from the device. What this program reads it overwrites at once; no other program
//! gets any.

use crate::support::{
    runner::ask_host,
    suspend::Sleep,
    sys::catch,
    tests,
    wait::{
        wait_for_exit,
        PATIENCE, //
    },
    wait_until,
    Background,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use alpharng_emu::fault::{
    At,
    Fault,
    Kind, //
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
    fs::{
        self,
        File, //
    },
    io::Read as _,
    os::unix::{
        fs::FileExt as _,
        process::ExitStatusExt as _, //
    },
    process::{
        Child,
        Command,
        Stdio, //
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    delivered_and_forfeited_bytes_are_gone,
    refused_bytes_are_gone,
    incomplete_and_interrupted_bytes_are_gone,
    bytes_of_a_killed_reader_are_gone,
    bytes_for_the_kernel_s_pool_are_gone,
];

/// Those that suspend the machine.
pub(crate) const SUSPEND_TESTS: &[Test] = tests![bytes_cut_off_by_a_suspend_are_gone];

/// Bytes in the page that a pipe holds during each search.
const PAGE: usize = 4096;

/// Where the kernel says what is at which physical address.
const IOMEM: &str = "/proc/iomem";

/// What a request to the runner begins with, and its answer (tests/vm/src/memory.rs).
const WORD: &str = "memory ";

/// How far apart the places in a block are that the runner looks for, in bytes.
const SAMPLE_EVERY: usize = 64;

/// A place where a sample of the device's stream was found.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Sample {
    /// The block.
    block: u64,
    /// Its place there, in bytes.
    place: usize,
    /// The physical address.
    address: u64,
}

impl Sample {
    /// Parses `BLOCK:PLACE:ADDRESS`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let sample = Self {
            block: parts.next()?.parse().ok()?,
            place: parts.next()?.parse().ok()?,
            address: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(sample)
    }
}

/// Has the runner look through the memory for the first `blocks` blocks of device 0's stream.
///
/// # Errors
///
/// If nobody does, or would not have found everything.
fn find(guest: &Guest, blocks: u64) -> Result<Vec<Sample>> {
    // A word that is in a page of the kernel's, and in this program only inverted.
    let beacon = fastrand::u64(..);
    let (pipe, to) = rustix::pipe::pipe()?;
    {
        let mut page: Vec<u8> = (0..PAGE / 8)
            .flat_map(|_| (!beacon).to_le_bytes())
            .collect();
        ensure!(rustix::io::write(&to, &page)? == PAGE);
        wipe(&mut page);
    }
    let answer = ask_host(&format!("{WORD}{} {blocks} {beacon}", guest.seed))?;
    drop((pipe, to));
    let found = answer
        .strip_prefix(WORD)
        .with_context(|| format!("the memory was not searched: {answer:?}"))?;
    let mut words = found.split_whitespace();
    let mut number = || words.next()?.parse::<u64>().ok();
    let (bytes, beacons) = number().zip(number()).context("no numbers")?;
    let ram = ram()?;
    ensure!(bytes >= ram, "of {ram} bytes of RAM only {bytes} were seen");
    ensure!(
        beacons >= (PAGE / 8) as u64,
        "of the page that a pipe holds only {beacons} words were found"
    );
    let mut samples: Vec<_> = words
        .map(Sample::parse)
        .collect::<Option<_>>()
        .context("a sample")?;
    samples.sort_unstable();
    println!(
        "{} MiB of RAM looked through, {} samples found",
        ram >> 20,
        samples.len()
    );
    Ok(samples)
}

/// How much RAM the kernel has, in bytes.
fn ram() -> Result<u64> {
    let text = fs::read_to_string(IOMEM).with_context(|| format!("cannot read {IOMEM}"))?;
    let mut all = 0;
    for line in text.lines() {
        // Not what is within another: `from-to : what`, in hexadecimal.
        let Some((range, "System RAM")) = line.split_once(" : ") else {
            continue;
        };
        let (from, to) = range.split_once('-').context("a range without an end")?;
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16));
        all += (to? + 1).saturating_sub(from?);
    }
    ensure!(all > 1 << 28, "{IOMEM} shows {all} bytes of RAM");
    Ok(all)
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

/// A block is in memory while it can be delivered, and no longer: delivered bytes are wiped one by
/// one, the start-up test's block when it has been tested, the others when the device goes or the
/// module is unloaded.
fn delivered_and_forfeited_bytes_are_gone(guest: &mut Guest) -> Result<()> {
    /// Blocks that are looked for.
    const BLOCKS: u64 = 12;

    let node = guest.start()?;
    guest.wait_until_full()?;
    // Two blocks and a half are delivered.
    use_up(&node, 2 * BLOCK + BLOCK / 2)?;
    guest.wait_until_full()?;
    let now = find(guest, BLOCKS)?;
    // This is how it looks when bytes are there: the rest of block 3, and block 4.
    for place in (BLOCK / 2..BLOCK).step_by(SAMPLE_EVERY) {
        ensure!(
            now.iter()
                .any(|found| (found.block, found.place) == (3, place)),
            "byte {place} of block 3, which is ready, was not found: the search does not work"
        );
    }
    ensure!(
        now.iter().any(|found| found.block == 4),
        "block 4 is not ready"
    );
    for Sample {
        block,
        place,
        address,
    } in &now
    {
        ensure!(
            *block > 3 || (*block == 3 && *place >= BLOCK / 2),
            "byte {place} of block {block}, which was used up, is at {address:#x}"
        );
    }

    guest.unplug()?;
    let now = find(guest, BLOCKS)?;
    ensure!(now.is_empty(), "left behind by the unplug: {now:x?}");

    guest.replug()?;
    guest.wait_until_full()?;
    drop(node);
    guest.unload()?;
    let now = find(guest, BLOCKS)?;
    ensure!(now.is_empty(), "left behind by the unload: {now:x?}");
    Ok(())
}

/// A block that failed is wiped, whether the device has said so or a health test.
fn refused_bytes_are_gone(guest: &mut Guest) -> Result<()> {
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
    let now = find(guest, 5)?;
    ensure!(now.is_empty(), "refused, but not wiped: {now:x?}");
    Ok(())
}

/// Nothing is left of an answer that ends too early and has none behind it, of a read that a signal
/// ends in its middle, of the blocks that were ready when the device was pulled out, and of an answer
/// that was under way when it was.
fn incomplete_and_interrupted_bytes_are_gone(guest: &mut Guest) -> Result<()> {
    /// Bytes of an answer that come.
    const PART: usize = 9_000;
    /// Blocks that are looked for.
    const BLOCKS: u64 = 48;

    catch(Signal::USR1, false)?;
    // Each command uses up a block, and those of the attempts do, too.
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
    // The short answer, behind which up to one command more was sent, is given up: others follow.
    wait_until("the device to be asked again", || {
        let status = guest.emulator.status();
        status.is_ok_and(|status| status.next_block >= next + 3)
    })?;
    let now = find(guest, BLOCKS)?;
    ensure!(
        now.is_empty(),
        "left behind by a read that was interrupted: {now:x?}"
    );
    // All attempts have failed.
    let failed = rustix::io::read(&node, &mut [0; 1]);
    ensure!(failed == Err(Errno::TIMEDOUT), "{failed:?}");
    guest.log.wait_for("no answer after 15 attempts")?;
    let now = find(guest, BLOCKS)?;
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
    let now = find(guest, BLOCKS)?;
    ensure!(
        now.is_empty(),
        "left behind by an unplug in an answer: {now:x?}"
    );
    Ok(())
}

/// The buffer of a program that is asleep in `read(2)`: its address, and how many bytes it is to get; as
/// the kernel shows the arguments of a system call that has not returned.
fn buffer_of_reader(program: &Child) -> Option<(u64, usize)> {
    let text = fs::read_to_string(format!("/proc/{}/syscall", program.id())).ok()?;
    let mut words = text.split_whitespace();
    words
        .next()
        .filter(|number| *number == libc::SYS_read.to_string())?;
    let mut number = || {
        let word = words.next()?.strip_prefix("0x")?;
        u64::from_str_radix(word, 16).ok()
    };
    let (_file, address, count) = (number()?, number()?, number()?);
    Some((address, usize::try_from(count).ok()?))
}

/// Nothing is left of what a program has got that is killed in the middle of its read, but in its own
/// memory, which is overwritten before.
fn bytes_of_a_killed_reader_are_gone(guest: &mut Guest) -> Result<()> {
    /// Blocks that are looked for.
    const BLOCKS: u64 = 16;
    /// How much the program asks for: more than there will be.
    const COUNT: usize = 6 * BLOCK;

    let node = guest.start()?;
    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    guest.fall_silent_at(next, 0)?;
    let mut reader = Command::new("dd")
        .args(["if=/dev/alrandom", "of=/dev/null", &format!("bs={COUNT}")])
        .stderr(Stdio::null())
        .spawn()?;
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", reader.id()))?;
    let mut buffer = None;
    // All that is ready is there when the last byte of it is.
    let last = (usize::try_from(next)? - 1) * BLOCK - 8;
    wait_until("the program to have got what is ready", || {
        buffer = buffer_of_reader(&reader).filter(|(_, count)| *count == COUNT);
        let mut word = [0; 8];
        buffer.is_some_and(|(address, _)| {
            let read = memory.read_exact_at(&mut word, address + last as u64);
            read.is_ok() && word != [0; 8]
        })
    })?;
    let (address, count) = buffer.context("it does not read")?;
    memory.write_all_at(&vec![0; count], address)?;
    reader.kill()?;
    let status = wait_for_exit(&mut reader, PATIENCE)?.context("it has not ended")?;
    ensure!(
        status.signal() == Some(Signal::KILL.as_raw()),
        "it ended before it was killed: {status}"
    );
    let now = find(guest, BLOCKS)?;
    ensure!(now.is_empty(), "left behind by a killed reader: {now:x?}");
    drop(node);
    Ok(())
}

/// Nothing is left of an answer that a suspend cuts off, nor of what was delivered before and behind it.
fn bytes_cut_off_by_a_suspend_are_gone(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    // It begins, and does not end.
    guest
        .emulator
        .fault(Fault::at(next, Kind::Short { bytes: 9_000 }))?;
    use_up(&node, BLOCK)?;
    wait_until("the answer to begin", || {
        guest
            .emulator
            .status()
            .is_ok_and(|status| status.next_block > next)
    })?;
    guest.suspend_and_keep(Sleep::Devices)?;
    use_up(&node, usize::try_from(next)? * BLOCK)?;
    let sent = guest.wait_until_full()?;
    let now = find(guest, sent)?;
    ensure!(!now.is_empty(), "the search does not work");
    for Sample {
        block,
        place,
        address,
    } in now
    {
        // Of those that may be ready, the first is used up by the byte.
        ensure!(
            block + 4 >= sent,
            "byte {place} of block {block}, {sent} were sent, is at {address:#x}"
        );
    }
    Ok(())
}

/// Bytes that the kernel's hardware-RNG core was given are not kept here. That core has two buffers of
/// its own, of a cache line each (`rng_buffer` and `rng_fillbuf` of drivers/char/hw_random/core.c), in
/// which what it read last for a program and for itself may still be.
fn bytes_for_the_kernel_s_pool_are_gone(guest: &mut Guest) -> Result<()> {
    /// Samples that can be in its buffers, each of which is as long as samples are apart.
    const OF_THE_CORE: usize = 2;
    /// Blocks that are looked for.
    const BLOCKS: u64 = 12;

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
    let now = find(guest, BLOCKS)?;
    // Of four blocks that can be ready, the first may have been begun.
    let used_up: Vec<_> = now.iter().filter(|found| found.block + 4 < next).collect();
    ensure!(
        used_up.len() <= OF_THE_CORE,
        "used up before block {next}: {used_up:x?}"
    );
    let ready = now.iter().filter(|found| found.block + 4 >= next);
    let samples = BLOCK.div_ceil(SAMPLE_EVERY);
    ensure!(
        ready.count() > 2 * samples,
        "the search does not work: {now:x?}"
    );
    guest.unload()?;
    let now = find(guest, BLOCKS)?;
    ensure!(
        now.len() <= OF_THE_CORE,
        "left behind by the unload: {now:x?}"
    );
    Ok(())
}
