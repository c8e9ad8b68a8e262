// SPDX-License-Identifier: GPL-2.0

//! Many readers at once: each byte of the stream goes to exactly one of them.

use crate::support::{
    sys::catch,
    tests,
    Background,
    Guest,
    Node,
    Stream,
    Test,
    BLOCK, //
};
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
use rustix::{
    io::Errno,
    process::Signal, //
};
use std::{
    collections::HashMap,
    sync::{
        atomic::{
            AtomicUsize,
            Ordering, //
        },
        Arc, //
    },
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    eight_readers_of_100_mb_get_every_byte_once,
    odd_sizes_get_every_byte_once,
    readers_of_one_file_get_every_byte_once,
    more_readers_asleep_than_blocks_come_are_all_served,
];

/// Blocks that are read at the end by one reader alone: more than the module has, so that no block is
/// left that was begun.
const REST: usize = 8;

/// More than readers need for what they read together, on the slowest machine.
const TIME: Duration = Duration::from_secs(200);

/// Has a reader for each of `sizes` read so many bytes at a time, until they have read `total` bytes
/// together, and gives every read to what `each` makes for the reader. Returns these.
///
/// The readers use files of their own, or share `file`.
fn read_at_once<T: Default + Send + 'static>(
    sizes: &[usize],
    total: usize,
    file: Option<&Node>,
    each: fn(&mut T, &[u8]),
) -> Result<Vec<T>> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut readers = Vec::new();
    for size in sizes.iter().copied() {
        let node = file.map_or_else(Node::open, |node| Ok(node.clone()))?;
        let done = done.clone();
        readers.push(Background::start(move || -> Result<T> {
            let mut result = T::default();
            let mut bytes = vec![0; size];
            while done.fetch_add(size, Ordering::Relaxed) < total {
                let got = rustix::io::read(&node, &mut bytes[..]).context("read(2)")?;
                ensure!(got == size, "{got} bytes where {size} were asked for");
                each(&mut result, &bytes);
            }
            Ok(result)
        })?);
    }
    readers
        .into_iter()
        .map(|reader| reader.join_within(TIME)?)
        .collect()
}

/// Words of 8 bytes, counted and summed up so that neither their order nor their reader matters.
///
/// All words of a stream of random bytes are different, in practice. So if two such sums are equal, the
/// same words went into both, each as often: a word that is lost, doubled or torn makes another sum,
/// but for one chance in 2^64.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    /// How many.
    count: u64,
    /// The sum of their scrambled values.
    sum: u64,
}

impl Words {
    /// Adds the words of `bytes`.
    fn add(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8) {
            let mut word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            // A permutation that is not linear (splitmix64), so that halves of two words that have
            // changed places are noticed.
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.count += 1;
            self.sum = self.sum.wrapping_add(word ^ (word >> 31));
        }
    }
}

/// Eight readers at once, 100 MB in all. Their sizes are multiples of 8, and so is a block's, so each
/// aligned word of 8 bytes goes to one reader; see [`Words`].
fn eight_readers_of_100_mb_get_every_byte_once(guest: &mut Guest) -> Result<()> {
    const SIZES: [usize; 8] = [16, 104, 1000, 4096, 16_000, 32_768, 65_536, 100_000];
    let node = guest.start()?;

    let sums = read_at_once::<Words>(&SIZES, 100_000_000, None, Words::add)?;
    let mut words = Words::default();
    for sum in sums {
        words.count += sum.count;
        words.sum = words.sum.wrapping_add(sum.sum);
    }
    ensure!(words.count * 8 >= 99_000_000, "only {} words", words.count);
    // Up to the end of a block.
    let read = usize::try_from(words.count)? * 8;
    let rest = REST * BLOCK - read % BLOCK;
    words.add(&node.read_all(rest)?);

    let mut expected = Words::default();
    let mut stream = guest.stream();
    for _ in 0..(read + rest) / BLOCK {
        expected.add(&stream.take_block());
    }
    ensure!(words == expected, "bytes are lost, doubled or mixed up");
    Ok(())
}

/// Every read of one reader.
type Reads = Vec<Vec<u8>>;

/// Checks that the bytes of `reads`, in whatever order, are the next bytes of `stream`, each once.
///
/// A read is made of pieces, each of which is in one block, and goes on to the block's end or is the
/// read's last. A piece of at least 15 bytes has an aligned word of 8 bytes of the stream in it, which
/// tells its place from there on. The few bytes before, and those of shorter pieces, are only counted, by
/// their values: what is before a word in a read may be the end of another block.
fn expect_every_byte_once(stream: &mut Stream, reads: &[Vec<u8>]) -> Result<()> {
    let total = reads.iter().map(Vec::len).sum();
    let sent = stream.take(total);
    let words: HashMap<_, usize> = sent.chunks_exact(8).zip((0..).step_by(8)).collect();
    let mut times = vec![0_u8; total];
    let mut unplaced = [0_usize; 256];
    for read in reads {
        let mut at = 0;
        while at < read.len() {
            let rest = &read[at..];
            let place = rest.get(..8).and_then(|word| words.get(word));
            let Some(&start) = place else {
                unplaced[usize::from(rest[0])] += 1;
                at += 1;
                continue;
            };
            let end = (start / BLOCK + 1) * BLOCK;
            let piece = sent[start..end.min(total)].iter().zip(rest);
            let length = piece.take_while(|(is, should)| is == should).count();
            times[start..start + length]
                .iter_mut()
                .for_each(|t| *t += 1);
            at += length;
        }
    }

    let mut missing = [0_usize; 256];
    for (place, (times, byte)) in times.iter().zip(&sent).enumerate() {
        ensure!(
            *times < 2,
            "byte {} of block {} (from the first delivered) came {times} times",
            place % BLOCK,
            place / BLOCK
        );
        missing[usize::from(*byte)] += usize::from(*times == 0);
    }
    let small: usize = unplaced.iter().sum();
    // Of a read of 17 bytes seven may be before the word.
    ensure!(
        small < total / 4,
        "{small} bytes are in no place of the stream"
    );
    ensure!(
        unplaced == missing,
        "bytes are lost, or are none of the stream"
    );
    Ok(())
}

/// Eight readers at once with sizes that are multiples of nothing: each byte once.
fn odd_sizes_get_every_byte_once(guest: &mut Guest) -> Result<()> {
    const SIZES: [usize; 8] = [17, 101, 999, 4097, 15_999, 16_001, 65_537, 99_999];
    let node = guest.start()?;
    let keep = |reads: &mut Reads, bytes: &[u8]| reads.push(bytes.to_vec());
    let mut reads = read_at_once(&SIZES, 5_000_000, None, keep)?.concat();
    reads.push(node.read_all(REST * BLOCK)?);
    expect_every_byte_once(&mut guest.stream(), &reads)
}

/// So it is where the readers share one open file, among them some with the same size.
fn readers_of_one_file_get_every_byte_once(guest: &mut Guest) -> Result<()> {
    const SIZES: [usize; 6] = [23, 23, 4099, 20_011, 20_011, 99_991];
    let node = guest.start()?;
    let keep = |reads: &mut Reads, bytes: &[u8]| reads.push(bytes.to_vec());
    let mut reads = read_at_once(&SIZES, 2_000_000, Some(&node), keep)?.concat();
    reads.push(node.read_all(REST * BLOCK)?);
    expect_every_byte_once(&mut guest.stream(), &reads)
}

/// Readers that sleep, many more than the module has blocks, are all served out of the few blocks that
/// come: whoever leaves something wakes the next, also one that a signal ends.
fn more_readers_asleep_than_blocks_come_are_all_served(guest: &mut Guest) -> Result<()> {
    const READERS: usize = 24;
    const COUNT: usize = 100;
    catch(Signal::USR1, false)?;
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let mut bytes = vec![node.read_all((usize::try_from(silent)? - 1) * BLOCK)?];
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let node = node.clone();
        let reader = Background::start(move || node.read(COUNT))?;
        reader.wait_until_reading()?;
        readers.push(reader);
    }

    let missing = guest.answer_again(silent)?;
    // The one that is woken first.
    readers[0].signal(Signal::USR1)?;

    for reader in readers {
        match reader.join()? {
            Ok(piece) => {
                ensure!(piece.len() == COUNT);
                bytes.push(piece);
            }
            Err(Errno::INTR) => {}
            Err(error) => bail!("read(2): {error}"),
        }
    }
    // They have come from one block, in whatever order; the rest of it goes on where they end.
    let served = bytes.len() - 1;
    ensure!(served + 1 >= READERS);
    let rest = node.read_all(2 * BLOCK - served * COUNT)?;
    let pieces: Vec<_> = bytes.drain(1..).collect();
    let ready = bytes.concat();
    let sent = guest.emulator.status()?.next_block;
    let begun = (silent..sent).find(|k| {
        let block = block(guest.seed, Command::Entropy, *k);
        block[served * COUNT..] == rest[..BLOCK - served * COUNT]
    });
    let begun = begun.context("what follows is of no block")?;
    let whole = block(guest.seed, Command::Entropy, begun);
    let mut expected: Vec<_> = whole[..served * COUNT].chunks(COUNT).collect();
    let mut pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
    expected.sort_unstable();
    pieces.sort_unstable();
    ensure!(
        pieces == expected,
        "the readers have not got the block's beginning"
    );
    let next = rest[BLOCK - served * COUNT..].to_vec();
    guest.expect_stream_but(&[ready, whole.to_vec(), next].concat(), &missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stream's first blocks.
    const BLOCKS: usize = 100;

    /// The stream that is used here.
    fn stream() -> Stream {
        Stream::from_block(1, 0)
    }

    /// What [`expect_every_byte_once`] says of these reads.
    fn judge(reads: &[&[u8]]) -> Result<()> {
        let reads: Vec<_> = reads.iter().map(|read| read.to_vec()).collect();
        expect_every_byte_once(&mut stream(), &reads)
    }

    #[test]
    fn the_end_of_a_block_before_the_beginning_of_another_is_not_misplaced() -> Result<()> {
        let sent = stream().take(BLOCKS * BLOCK);
        let blocks: Vec<_> = sent.chunks(BLOCK).collect();
        let last = |k: usize| blocks[k][BLOCK - 1];
        // The last byte of block `a` is also what comes before block `b + 1`.
        let (a, b) = (0..BLOCKS - 2)
            .flat_map(|b| (b + 2..BLOCKS).map(move |a| (a, b)))
            .find(|&(a, b)| last(a) == last(b))
            .context("all end in another byte")?;
        let mixed = [&blocks[a][BLOCK - 1..], blocks[b + 1]].concat();
        let mut reads: Vec<&[u8]> = blocks.clone();
        reads[a] = &blocks[a][..BLOCK - 1];
        reads[b + 1] = &mixed;
        judge(&reads)
    }

    #[test]
    fn reads_of_any_size_are_taken_for_what_they_are() -> Result<()> {
        let sent = stream().take(BLOCKS * BLOCK);
        judge(&sent.chunks(1003).collect::<Vec<_>>())?;
        // In another order, and none twice or changed.
        judge(&sent.chunks(4099).rev().collect::<Vec<_>>())
    }

    #[test]
    fn bytes_that_come_twice_or_are_changed_are_found() {
        let sent = stream().take(BLOCKS * BLOCK);
        let mut reads: Vec<_> = sent.chunks(1000).collect();
        reads[7] = &sent[6500..7500];
        assert!(judge(&reads).is_err());
        let mut changed = sent.clone();
        changed[70_000] ^= 1;
        assert!(judge(&changed.chunks(1000).collect::<Vec<_>>()).is_err());
        // A last byte in place of another.
        let mut other = sent.clone();
        other[3 * BLOCK - 1] = sent[3 * BLOCK - 1].wrapping_add(1);
        assert!(judge(&other.chunks(1000).collect::<Vec<_>>()).is_err());
    }
}
