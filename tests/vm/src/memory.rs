// SPDX-License-Identifier: GPL-2.0

//! Looks through all of a machine's memory, as QEMU dumps it, for bytes of the virtual device: no program in
//! the guest knows them, so wherever they are, they have come over USB.
//!
//! A test in the guest asks by a line of its output, and gets a line as input:
//!
//! ```text
//! memory SEED BLOCKS BEACON
//! memory BYTES BEACONS BLOCK:PLACE:ADDRESS ...
//! ```
//!
//! All are decimal numbers, but the address, which is physical and hexadecimal. Samples of the first BLOCKS
//! blocks of the stream of SEED are looked for, at any address, and so is the word BEACON, inverted, at
//! multiples of 8: a test that puts it somewhere knows that the search works. BYTES were looked through. If
//! they could not be, the line is `failed`, and why.

use crate::qemu;
use alpharng_emu::stream::{
    block,
    Command, //
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use serde_json::{
    json,
    Value, //
};
use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{
        BufRead as _,
        BufReader,
        Write as _, //
    },
    os::unix::{
        fs::FileExt,
        net::UnixStream, //
    },
    path::Path,
    time::Duration,
};

/// What a request begins with, and its answer.
pub const WORD: &str = "memory ";

/// How long QEMU may take to write the memory to a file: it is some GiB.
const DUMP_TIME: Duration = Duration::from_secs(300);

/// How far apart the samples of a block are, in bytes. Each has [`SAMPLE`].
const SAMPLE_EVERY: usize = 64;

/// Bytes in a sample: two words. One alone may be what a register held, as those of any copying loop do, when an
/// interrupt saved it on a stack.
const SAMPLE: usize = 16;

/// Bytes in a word.
const WORD_BYTES: usize = 8;

/// How much is looked at at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// What is skipped in one piece if nothing is in it, in bytes.
const PAGE: usize = 4096;

/// A page with nothing in it, and what words reach into of the next.
const EMPTY: [u8; PAGE + SAMPLE - 1] = [0; PAGE + SAMPLE - 1];

/// Most blocks that can be looked for: memory for their samples.
const MAX_BLOCKS: u64 = 1000;

/// What to look for.
struct Needles {
    /// Second word, block, and place there of each sample, by its first word.
    places: HashMap<u64, (u64, u64, usize)>,
    /// Whether there is a sample whose first word has these lowest bits: most words are ruled out by this.
    likely: Vec<bool>,
    /// What is only counted.
    beacon: u64,
}

/// What was found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// How many bytes were looked through.
    bytes: u64,
    /// How many beacons there are.
    beacons: u64,
    /// Block and place there of the samples, and their physical addresses.
    samples: Vec<(u64, usize, u64)>,
}

impl Needles {
    /// How many of a word's lowest bits the table has.
    const BITS: u32 = 20;

    /// Place in the table.
    fn index(word: u64) -> usize {
        (word & ((1 << Self::BITS) - 1)) as usize
    }

    /// Parses the numbers of a request.
    fn parse(numbers: &str) -> Result<Needles> {
        let numbers: Result<Vec<u64>, _> = numbers.split_whitespace().map(str::parse).collect();
        let Ok([seed, blocks, beacon]) = numbers.as_deref() else {
            bail!("a request has three numbers: the seed, how many blocks, and the beacon");
        };
        ensure!(*blocks <= MAX_BLOCKS, "{blocks} blocks are too many");
        let mut places = HashMap::new();
        let mut likely = vec![false; 1 << Self::BITS];
        for index in 0..*blocks {
            let bytes = block(*seed, Command::Entropy, index);
            for (number, sample) in bytes.chunks_exact(SAMPLE_EVERY).enumerate() {
                let (first, second) = (word(sample), word(&sample[WORD_BYTES..]));
                likely[Self::index(first)] = true;
                places.insert(first, (second, index, number * SAMPLE_EVERY));
            }
        }
        Ok(Needles {
            places,
            likely,
            beacon: !beacon,
        })
    }

    /// Looks through the samples that begin in `bytes`, but for the last [`SAMPLE`] - 1 places, where
    /// none has room; `address` is a multiple of 8.
    fn find(&self, bytes: &[u8], address: u64, found: &mut Found) {
        let last = (bytes.len() + 1).saturating_sub(SAMPLE);
        for page in (0..last).step_by(PAGE) {
            let end = (page + PAGE).min(last);
            // With the beginnings of the words that reach into the next one.
            let whole = &bytes[page..end + SAMPLE - 1];
            if *whole == EMPTY[..whole.len()] {
                continue;
            }
            for at in page..end {
                let first = word(&bytes[at..]);
                found.beacons += u64::from(first == self.beacon && at % WORD_BYTES == 0);
                if !self.likely[Self::index(first)] {
                    continue;
                }
                if let Some((second, block, place)) = self.places.get(&first) {
                    if word(&bytes[at + WORD_BYTES..]) == *second {
                        found.samples.push((*block, *place, address + at as u64));
                    }
                }
            }
        }
    }

    /// Looks through a dump.
    fn find_in(&self, dump: &File) -> Result<Found> {
        let mut found = Found::default();
        let mut chunk = vec![0; CHUNK + SAMPLE - 1];
        for segment in segments(dump)? {
            let mut done = 0;
            while done < segment.size {
                // With the beginning of what follows, if that is of this part.
                let left = usize::try_from(segment.size - done)?;
                let bytes = &mut chunk[..left.min(CHUNK + SAMPLE - 1)];
                dump.read_exact_at(bytes, segment.offset + done)
                    .context("the dump is shorter than it says")?;
                self.find(bytes, segment.physical + done, &mut found);
                done += left.min(CHUNK) as u64;
            }
            found.bytes += segment.size;
        }
        Ok(found)
    }
}

/// The first eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD_BYTES];
    word.copy_from_slice(&bytes[..WORD_BYTES]);
    u64::from_le_bytes(word)
}

/// A part of the memory in a dump.
struct Segment {
    /// Where in the file.
    offset: u64,
    /// Its physical address.
    physical: u64,
    /// Its size in bytes.
    size: u64,
}

/// The parts of a dump, which is an ELF-64 file (little endian).
fn segments(dump: &File) -> Result<Vec<Segment>> {
    /// The kind of entry that is memory (`PT_LOAD`).
    const LOAD: [u8; 4] = 1_u32.to_le_bytes();

    let mut header = [0; 64];
    dump.read_exact_at(&mut header, 0)
        .context("the dump has no header")?;
    ensure!(
        header.starts_with(b"\x7fELF\x02\x01"),
        "the dump is no ELF-64 file"
    );
    let table = word(&header[32..]);
    let size = u64::from(u16::from_le_bytes([header[54], header[55]]));
    let count = u64::from(u16::from_le_bytes([header[56], header[57]]));
    let mut segments = Vec::new();
    for index in 0..count {
        let mut entry = [0; 56];
        dump.read_exact_at(&mut entry, table + index * size)
            .context("the dump's table is cut off")?;
        if entry[..4] == LOAD {
            segments.push(Segment {
                offset: word(&entry[8..]),
                physical: word(&entry[24..]),
                size: word(&entry[32..]),
            });
        }
    }
    ensure!(!segments.is_empty(), "the dump shows no memory");
    Ok(segments)
}

/// Has QEMU write the memory to a file; the machine stands still meanwhile.
fn dump(run: &Path, to: &Path) -> Result<()> {
    let stream = UnixStream::connect(qemu::qmp_socket(run)).context("can't reach QEMU")?;
    stream.set_read_timeout(Some(DUMP_TIME))?;
    let mut lines = BufReader::new(&stream).lines();
    let mut ask = |command: Value| -> Result<()> {
        writeln!(&stream, "{command}")?;
        loop {
            let line = lines.next().context("QEMU is gone")?;
            let answer: Value = serde_json::from_str(&line.context("QEMU does not answer")?)?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU: {}", error["desc"].as_str().unwrap_or_default());
            }
            // There may be its greeting before, and events.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    };
    ask(json!({"execute": "qmp_capabilities"}))?;
    ask(json!({
        "execute": "dump-guest-memory",
        "arguments": {"paging": false, "protocol": format!("file:{}", to.display())},
    }))
}

/// Searches the memory, see [`answer`].
///
/// # Errors
///
/// If it is no request, or the memory can't be dumped.
fn search(numbers: &str, run: &Path, directory: &Path) -> Result<Found> {
    let needles = Needles::parse(numbers)?;
    let file = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("can't write to {}", directory.display()))?;
    dump(run, file.path()).context("the machine's memory was not dumped")?;
    needles.find_in(&File::open(file.path())?)
}

/// Does what a request asks for, whose numbers these are, of the machine whose sockets are in `run`; the dump goes
/// to a file in `directory`, for as long as it takes. Returns the line to answer with.
pub fn answer(numbers: &str, run: &Path, directory: &Path) -> String {
    match search(numbers, run, directory) {
        Ok(found) => {
            let mut line = format!("{WORD}{} {}", found.bytes, found.beacons);
            for (block, place, address) in found.samples {
                let _ = write!(line, " {block}:{place}:{address:x}");
            }
            line.push('\n');
            line
        }
        Err(error) => format!("failed: {error:#}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is looked for: two blocks of stream 5, and a beacon.
    const REQUEST: &str = "5 2 77";

    /// A dump of these parts, each with its physical address.
    fn dump_of(parts: &[(u64, &[u8])]) -> File {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        let entries = u16::try_from(parts.len() + 1).unwrap();
        bytes[56..58].copy_from_slice(&entries.to_le_bytes());
        // A note first, as QEMU has it.
        let mut entry = [0; 56];
        entry[0] = 4;
        bytes.extend(entry);
        let mut offset = 64 + 56 * u64::from(entries);
        for (physical, part) in parts {
            let mut entry = [0; 56];
            entry[0] = 1;
            entry[8..16].copy_from_slice(&offset.to_le_bytes());
            entry[24..32].copy_from_slice(&physical.to_le_bytes());
            entry[32..40].copy_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend(entry);
            offset += part.len() as u64;
        }
        bytes.extend(parts.iter().flat_map(|(_, part)| part.iter()));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    /// What is found in these parts.
    fn find(parts: &[(u64, &[u8])]) -> Found {
        let needles = Needles::parse(REQUEST).unwrap();
        needles.find_in(&dump_of(parts)).unwrap()
    }

    #[test]
    fn a_block_is_found_wherever_it_begins() {
        let bytes = block(5, Command::Entropy, 1);
        // Within the first page, at odd places, and across what is read at a time.
        for at in [0, 1, PAGE - 3, CHUNK - 8_001, CHUNK - 1] {
            let mut memory = vec![0; 2 * CHUNK];
            memory[at..at + bytes.len()].copy_from_slice(&bytes);
            let found = find(&[(0x10_0000, &memory)]);
            let expected: Vec<_> = (0..bytes.len() / SAMPLE_EVERY)
                .map(|number| number * SAMPLE_EVERY)
                .map(|place| (1, place, 0x10_0000 + (at + place) as u64))
                .collect();
            assert_eq!(found.samples, expected, "at {at}");
            assert_eq!((found.bytes, found.beacons), (2 << 20, 0));
        }
    }

    #[test]
    fn a_sample_at_the_end_of_a_part_is_found_and_half_of_one_is_not() {
        let bytes = block(5, Command::Entropy, 0);
        let whole = &bytes[64..64 + SAMPLE];
        let half = &bytes[128..128 + SAMPLE - 1];
        let found = find(&[(0x1000, whole), (0x8000, half)]);
        assert_eq!(found.samples, [(0, 64, 0x1000)]);
        assert_eq!(found.bytes, 31);
    }

    #[test]
    fn a_word_that_a_register_held_is_none() {
        let bytes = block(5, Command::Entropy, 0);
        // As an interrupt saves what a loop has loaded into several.
        let mut stack: Vec<_> = bytes[64..96]
            .rchunks(WORD_BYTES)
            .flatten()
            .copied()
            .collect();
        stack.resize(PAGE, 0);
        assert_eq!(find(&[(0x1000, &stack)]).samples, []);
    }

    #[test]
    fn beacons_are_counted_and_other_streams_are_not() {
        let mut memory = (!77_u64).to_le_bytes().repeat(3);
        memory.extend(77_u64.to_le_bytes());
        memory.extend(block(6, Command::Entropy, 0));
        memory.extend(block(5, Command::Entropy, 2));
        let found = find(&[(0, &memory)]);
        assert_eq!((found.beacons, found.samples), (3, vec![]));
    }

    #[test]
    fn what_is_no_request_or_no_dump_is_said() {
        for request in ["", "1 2", "1 2 x", "1 2 3 4", "1 1001 3"] {
            assert!(Needles::parse(request).is_err(), "{request}");
        }
        let mut text = tempfile::tempfile().unwrap();
        text.write_all(&[b'x'; 100]).unwrap();
        assert!(segments(&text).is_err());
        assert!(segments(&dump_of(&[])).is_err());
        let nowhere = tempfile::tempdir().unwrap();
        let line = answer(REQUEST, nowhere.path(), nowhere.path());
        assert!(line.starts_with("failed: the machine's memory was not dumped: "));
        assert!(line.ends_with('\n'));
    }
}
