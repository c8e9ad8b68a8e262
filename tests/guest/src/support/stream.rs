// SPDX-License-Identifier: GPL-2.0

//! What a device with a seeded source sends, regenerated.

use alpharng_emu::stream::{
    block,
    Command, //
};
use anyhow::{
    bail,
    ensure,
    Result, //
};
use std::collections::VecDeque;

/// Data bytes in an answer of the device (device.md, wire protocol).
pub(crate) const BLOCK: usize = 16_000;

/// The bytes that the module has to deliver, in their order.
pub(crate) struct Stream {
    /// The seed of the device's source.
    seed: u64,
    /// Index of the next block to make.
    next: u64,
    /// How many bytes of each block are delivered: the last ones.
    used: usize,
    /// Bytes made and not taken.
    ready: VecDeque<u8>,
}

impl Stream {
    /// The stream from block `first` on.
    pub(crate) fn from_block(seed: u64, first: u64) -> Self {
        Self {
            seed,
            next: first,
            used: BLOCK,
            ready: VecDeque::new(),
        }
    }

    /// The stream of a device that was just plugged in for the first time: all but the first block,
    /// which the start-up test uses up.
    pub(crate) fn of(seed: u64) -> Self {
        Self::from_block(seed, 1)
    }

    /// The stream of only the last `used` bytes of each block.
    pub(crate) fn of_last_bytes(self, used: usize) -> Self {
        Self { used, ..self }
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.ready.len() < count {
            let block = block(self.seed, Command::Entropy, self.next);
            self.next += 1;
            self.ready.extend(&block[BLOCK - self.used..]);
        }
        self.ready.drain(..count).collect()
    }

    /// The next whole block, where no bytes of the one before are left.
    pub(crate) fn take_block(&mut self) -> Box<[u8]> {
        assert!(self.ready.is_empty() && self.used == BLOCK);
        self.next += 1;
        Box::new(block(self.seed, Command::Entropy, self.next - 1))
    }

    /// Checks that `bytes` are what comes next.
    ///
    /// # Errors
    ///
    /// If they are not; says where they differ, and what they are instead if that can be told.
    pub(crate) fn expect(&mut self, bytes: &[u8]) -> Result<()> {
        let first = self.next;
        let expected = self.take(bytes.len());
        let Some(at) = bytes
            .iter()
            .zip(&expected)
            .position(|(is, should)| is != should)
        else {
            return Ok(());
        };
        let seed = self.seed;
        let mut found = String::from("nothing of the stream nearby");
        if let Some(start) = bytes.get(at..at + 8) {
            for k in first.saturating_sub(20)..self.next + 20 {
                let block = block(seed, Command::Entropy, k);
                if let Some(offset) = block.windows(8).position(|window| window == start) {
                    found = format!("byte {offset} of block {k}");
                }
            }
        }
        bail!(
            "byte {at} of {} is not the stream's (block {} was to be made next): it is {found}",
            bytes.len(),
            self.next
        );
    }
}

/// The indices of the blocks whose bytes `bytes` are made of, in their order; they begin with the
/// beginning of a block, and only the last one may be cut short. Blocks from `0` to `limit` are known.
///
/// # Errors
///
/// If a byte is of no block.
pub(crate) fn blocks_of(seed: u64, limit: u64, bytes: &[u8]) -> Result<Vec<u64>> {
    let known: Vec<_> = (0..limit)
        .map(|k| block(seed, Command::Entropy, k))
        .collect();
    let mut found = Vec::new();
    for (piece, index) in bytes.chunks(BLOCK).zip(0..) {
        let Some(k) = known.iter().position(|block| block.starts_with(piece)) else {
            bail!("bytes {}.. are of no healthy block", index * BLOCK);
        };
        found.push(k as u64);
    }
    Ok(found)
}

/// Checks that `blocks` are in order, each once, and that all are there from `first` on but those in
/// `missing`, which need not but can be missing.
///
/// # Errors
///
/// If they are not.
pub(crate) fn expect_all_but(blocks: &[u64], first: u64, missing: &[u64]) -> Result<()> {
    let mut next = first;
    for block in blocks {
        while next < *block && missing.contains(&next) {
            next += 1;
        }
        ensure!(
            *block == next,
            "block {next} was to come, but block {block} did: {blocks:?}"
        );
        next += 1;
    }
    Ok(())
}
