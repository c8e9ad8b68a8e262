// SPDX-License-Identifier: GPL-2.0
//! Ways in which a noise source goes bad: pure functions on the data of one answer.
//!
//! Each turns the healthy data of answer `k` into what the failing unit sends instead. Modes that
//! have a state (a period, a counter) go on over the border of two answers, as they would in a
//! stream. What is random comes from a seed alone: a test calls the same function for the same
//! bytes.

use rand_chacha::rand_core::RngCore;

use crate::stream::{generator, Block, BLOCK_LENGTH};

/// One value, always: a noise source that is dead, or saturated.
pub fn stuck(data: &mut Block, value: u8) {
    data.fill(value);
}

/// Two values in turn: an oscillation.
pub fn alternating(data: &mut Block, a: u8, b: u8) {
    for pair in data.chunks_exact_mut(2) {
        pair.copy_from_slice(&[a, b]);
    }
}

/// Random bytes that come again after `length` bytes, in step from answer to answer.
pub fn period(data: &mut Block, k: u64, seed: u64, length: usize) {
    let mut bytes = vec![0; length];
    generator(seed, b'P', 0).fill_bytes(&mut bytes);
    // Taken modulo the period before it can overflow.
    let start = (k % length as u64) as usize * (BLOCK_LENGTH % length) % length;
    for (byte, value) in data.iter_mut().zip(bytes.iter().cycle().skip(start)) {
        *byte = *value;
    }
}

/// One bit (0 is the lowest) of every byte always has the same value.
pub fn bit_stuck(data: &mut Block, bit: u8, value: bool) {
    for byte in data {
        if value {
            *byte |= 1 << bit;
        } else {
            *byte &= !(1 << bit);
        }
    }
}

/// Every byte is `value` with a probability of exactly 1/`one_in`, and otherwise any of the other
/// 255 with equal probability: a min-entropy of log2(`one_in`) bits per byte, up to 8.
pub fn symbol(data: &mut Block, k: u64, seed: u64, value: u8, one_in: u32) {
    let mut random = generator(seed, b'S', k);
    for byte in data {
        *byte = if below(&mut random, one_in) == 0 {
            value
        } else {
            // One of the 255 values that are `value` plus 1 to 255.
            value.wrapping_add(1 + below(&mut random, 255) as u8)
        };
    }
}

/// Only the `size` lowest byte values occur, equally often.
pub fn alphabet(data: &mut Block, size: u16) {
    for byte in data {
        *byte = ((u32::from(*byte) * u32::from(size)) >> 8) as u8;
    }
}

/// English words in ASCII.
pub fn ascii(data: &mut Block, k: u64, seed: u64) {
    const WORDS: [&str; 24] = [
        "the", "of", "and", "to", "a", "in", "is", "that", "it", "was", "for", "on", "are", "with",
        "noise", "source", "device", "random", "number", "test", "health", "failure", "sample",
        "entropy",
    ];
    let mut random = generator(seed, b'A', k);
    let mut left: &mut [u8] = data;
    while !left.is_empty() {
        let word = WORDS[below(&mut random, WORDS.len() as u32) as usize];
        let end = if below(&mut random, 12) == 0 {
            b'\n'
        } else {
            b' '
        };
        for byte in word.bytes().chain([end]) {
            let Some((first, rest)) = left.split_first_mut() else {
                return;
            };
            *first = byte;
            left = rest;
        }
    }
}

/// 0, 1, 2 ... 255, 0 ..., in step from answer to answer.
pub fn counter(data: &mut Block, k: u64) {
    let start = (k as u8).wrapping_mul((BLOCK_LENGTH % 256) as u8);
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = start.wrapping_add(i as u8);
    }
}

/// Each byte is lost, and reads as zero, with a probability of `percent`/100.
pub fn dropouts(data: &mut Block, k: u64, seed: u64, percent: f64) {
    let limit = (percent / 100.0 * 2f64.powi(32)) as u64;
    let mut random = generator(seed, b'D', k);
    for byte in data {
        if u64::from(random.next_u32()) < limit {
            *byte = 0;
        }
    }
}

/// A random number from 0 to below `limit`. The bias is at most 2^-24 for the limits used here.
fn below(random: &mut impl RngCore, limit: u32) -> u32 {
    ((u64::from(random.next_u32()) * u64::from(limit)) >> 32) as u32
}
