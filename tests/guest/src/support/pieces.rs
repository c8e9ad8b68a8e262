// SPDX-License-Identifier: GPL-2.0

//! Where in the device's stream bytes are from that some of many readers got: pieces of any length,
//! from any place, one behind the other.

use super::stream::BLOCK;
use alpharng_emu::stream::{
    block,
    Command, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::{
    collections::HashMap,
    ops::Range, //
};

/// How far apart the words are that are known, in bytes, and their length: a piece of [`SURE`]
/// bytes has one of them in it.
const WORD: usize = 8;

/// Pieces of so many bytes are always found.
const SURE: usize = 2 * WORD - 1;

/// Two pieces may seem to share fewer bytes than this, since some are equal by chance: one in 2^32
/// pieces seems to go on for so many bytes.
const CHANCE: u64 = 4;

/// The stream of a device, to look bytes up in.
pub(crate) struct Pieces {
    /// The stream.
    bytes: Vec<u8>,
    /// Where its words are, by their values.
    places: HashMap<[u8; WORD], usize>,
    /// What was found: ranges of the stream.
    found: Vec<Range<u64>>,
    /// Bytes that are in no piece of [`SURE`] bytes.
    unsure: u64,
}

impl Pieces {
    /// Of the first `blocks` blocks of the stream of `seed`.
    pub(crate) fn of(seed: u64, blocks: u64) -> Self {
        let blocks = (0..blocks).flat_map(|k| block(seed, Command::Entropy, k));
        let bytes: Vec<_> = blocks.collect();
        let words = bytes.chunks_exact(WORD).enumerate();
        let places = words
            .filter_map(|(index, word)| Some((word.try_into().ok()?, WORD * index)))
            .collect();
        Self {
            bytes,
            places,
            found: Vec::new(),
            unsure: 0,
        }
    }

    /// The first word in `bytes` that is known: where it is there, and in the stream.
    fn first(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let mut windows = bytes.windows(WORD).enumerate();
        windows.find_map(|(at, word)| Some((at, *self.places.get(word)?)))
    }

    /// Takes note of what one read has returned.
    ///
    /// # Errors
    ///
    /// If there is something in it that is not the stream's.
    pub(crate) fn note(&mut self, bytes: &[u8]) -> Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            let rest = &bytes[from..];
            let (at, place) = self.first(rest).unwrap_or((rest.len(), 0));
            // What comes before belongs to this piece as far as it is equal.
            let before = rest[..at].iter().rev();
            let same = before.zip(self.bytes[..place].iter().rev());
            let back = same.take_while(|(is, was)| is == was).count();
            let strange = at - back;
            ensure!(
                strange < SURE,
                "{strange} bytes from byte {from} of a read of {} on are not the device's",
                bytes.len()
            );
            self.unsure += strange as u64;
            let behind = rest[at..].iter().zip(&self.bytes[place..]);
            let length = behind.take_while(|(is, was)| is == was).count();
            if at < rest.len() {
                let start = (place - back) as u64;
                self.found.push(start..(place + length) as u64);
            }
            from += at + length;
        }
        Ok(())
    }

    /// Checks that nothing came twice. Returns how many bytes came.
    ///
    /// # Errors
    ///
    /// If something did.
    pub(crate) fn expect_each_once(&mut self) -> Result<u64> {
        self.found.sort_by_key(|range| range.start);
        let mut furthest = 0;
        let mut count = self.unsure;
        for range in &self.found {
            ensure!(
                range.start + CHANCE > furthest,
                "{} bytes from byte {} of block {} on were delivered twice",
                furthest.min(range.end) - range.start,
                range.start % BLOCK as u64,
                range.start / BLOCK as u64
            );
            furthest = furthest.max(range.end);
            count += range.end - range.start;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes `range` of the stream of seed 1.
    fn stream(range: Range<usize>) -> Vec<u8> {
        let blocks = (0..4).flat_map(|k| block(1, Command::Entropy, k));
        blocks.skip(range.start).take(range.len()).collect()
    }

    #[test]
    fn pieces_of_any_length_are_found_wherever_they_are() {
        let mut pieces = Pieces::of(1, 4);
        // One read of three pieces, none at a word's border, and one of a few bytes.
        let one = [
            stream(16_003..20_001),
            stream(5..41),
            stream(40_001..40_100),
        ]
        .concat();
        pieces.note(&one).unwrap();
        pieces.note(&stream(1_000..1_003)).unwrap();
        let count = one.len() as u64 + 3;
        assert_eq!(pieces.expect_each_once().unwrap(), count);
    }

    #[test]
    fn what_comes_twice_is_seen() {
        for overlap in [8_usize, 15, 100] {
            let mut pieces = Pieces::of(1, 4);
            pieces.note(&stream(100..2_000)).unwrap();
            pieces.note(&stream(2_000 - overlap..3_000)).unwrap();
            assert!(pieces.expect_each_once().is_err(), "{overlap}");
        }
        // A piece within another.
        let mut pieces = Pieces::of(1, 4);
        pieces.note(&stream(0..16_000)).unwrap();
        pieces.note(&stream(3_000..3_020)).unwrap();
        assert!(pieces.expect_each_once().is_err());
    }

    #[test]
    fn what_is_not_the_streams_is_seen() {
        let mut pieces = Pieces::of(1, 4);
        assert!(pieces.note(&[0; 16]).is_err());
        let mut bytes = stream(0..1_000);
        bytes[500..520].fill(7);
        assert!(Pieces::of(1, 4).note(&bytes).is_err());
        // Another device's.
        assert!(Pieces::of(2, 4).note(&stream(0..100)).is_err());
    }
}
