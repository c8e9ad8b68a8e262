// SPDX-License-Identifier: GPL-2.0

//! Scripts: what happens to a device, step by step, done to the driver's code and to the model at
//! once. The property tests and the fuzz target write such scripts.

use arbitrary::{Arbitrary, Unstructured};
use rand_chacha::{
    rand_core::{RngCore, SeedableRng},
    ChaCha8Rng,
};

use crate::{
    health::{Health, MinEntropy, BLOCK},
    model,
};

/// One step of a script.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// A block comes with status byte 0 and is tested.
    Block(Plan),
    /// The same block as `n` steps with a block ago comes again, if there is one.
    Again(u8),
    /// A block comes while the tests are off.
    Untested,
    /// The device reports a failure of its own.
    DeviceFailure(u8),
    /// Another device is attached.
    Attach,
    /// Resume, or an on-demand test.
    Restart,
    /// The assessed min-entropy is set, to 1 plus the value modulo 8.
    MinEntropy(u8),
}

/// How to make a block.
#[derive(Arbitrary, Clone, Debug)]
pub struct Plan {
    /// What the block is made of before anything is planted in it.
    pub background: Background,
    /// What is planted in it, in this order.
    pub plants: Vec<Plant>,
}

/// What most of a block is made of.
#[derive(Arbitrary, Clone, Debug)]
pub enum Background {
    /// Random bytes from a seed.
    Random(u16),
    /// Random bytes from a seed, each masked with a value: fewer symbols.
    Masked(u16, u8),
    /// A counter with a first value.
    Counter(u8),
    /// One value.
    Constant(u8),
    /// Two values in turn.
    Alternating(u8, u8),
}

/// Something planted in a block.
#[derive(Arbitrary, Clone, Debug)]
pub enum Plant {
    /// `length` bytes of `value` from `start` on; what is behind the block's end is left out.
    Run {
        /// Position of the first byte.
        start: u16,
        /// Number of bytes.
        length: u16,
        /// Their value.
        value: u8,
    },
    /// `count` bytes of `value` from `start` on, `stride` apart.
    Comb {
        /// Position of the first byte.
        start: u16,
        /// Number of bytes.
        count: u16,
        /// Distance of two bytes; 0 counts as 1.
        stride: u8,
        /// Their value.
        value: u8,
    },
}

impl Plan {
    /// Makes the block.
    #[must_use]
    pub fn block(&self) -> Box<[u8; BLOCK]> {
        let mut block = Box::new([0; BLOCK]);
        match self.background {
            Background::Random(seed) => random(seed).fill_bytes(&mut *block),
            Background::Masked(seed, mask) => {
                random(seed).fill_bytes(&mut *block);
                block.iter_mut().for_each(|byte| *byte &= mask);
            }
            Background::Counter(first) => {
                for (index, byte) in block.iter_mut().enumerate() {
                    *byte = first.wrapping_add(index as u8);
                }
            }
            Background::Constant(value) => block.fill(value),
            Background::Alternating(even, odd) => {
                for pair in block.chunks_exact_mut(2) {
                    pair.copy_from_slice(&[even, odd]);
                }
            }
        }
        for plant in &self.plants {
            let (start, count, stride, value) = match *plant {
                Plant::Run {
                    start,
                    length,
                    value,
                } => (start, length, 1, value),
                Plant::Comb {
                    start,
                    count,
                    stride,
                    value,
                } => (start, count, stride.max(1), value),
            };
            for byte in block
                .iter_mut()
                .skip(start.into())
                .step_by(stride.into())
                .take(count.into())
            {
                *byte = value;
            }
        }
        block
    }
}

/// The random bytes of a seed.
fn random(seed: u16) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed.into())
}

/// Runs a script and compares every decision and every number of the driver's code with the model's.
///
/// # Panics
///
/// If they differ.
pub fn run(min_entropy: u8, steps: &[Step]) {
    let min_entropy = bits(min_entropy);
    let mut health = Health::new(min_entropy);
    let mut model = model::Health::new(min_entropy);
    let mut blocks: Vec<Box<[u8; BLOCK]>> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let (decision, expected) = match step {
            Step::Block(plan) => {
                let block = plan.block();
                let decisions = (health.test_block(&block), model.test_block(&block[..]));
                blocks.push(block);
                decisions
            }
            Step::Again(n) => {
                let Some(block) = blocks.iter().rev().nth((*n).into()).cloned() else {
                    continue;
                };
                let decisions = (health.test_block(&block), model.test_block(&block[..]));
                blocks.push(block);
                decisions
            }
            Step::Untested => (health.untested_block(), model.untested_block()),
            Step::DeviceFailure(status) => (
                health.device_failure(*status),
                model.device_failure(*status),
            ),
            Step::Attach => {
                health.attach();
                model.attach();
                continue;
            }
            Step::Restart => {
                health.restart();
                model.restart();
                continue;
            }
            Step::MinEntropy(value) => {
                health.set_min_entropy(bits(*value));
                model.set_min_entropy(bits(*value));
                continue;
            }
        };
        assert_eq!(decision, expected, "decision of step {index}");
        assert_eq!(*health.vendor(), model.vendor, "vendor layer, step {index}");
        assert_eq!(
            health.statistics(),
            model.statistics(),
            "statistics, step {index}"
        );
        assert_eq!(
            health.is_stopped(),
            matches!(decision, crate::health::Decision::Stop(_)),
            "stop, step {index}"
        );
    }
}

/// A min-entropy in the range that there is.
fn bits(value: u8) -> MinEntropy {
    MinEntropy::new(u32::from(value % 8) + 1).expect("1 to 8 bits per byte are a min-entropy")
}

/// Runs the script that `data` encode: the fuzz target.
///
/// # Panics
///
/// If the driver's code and the model differ.
pub fn fuzz(data: &[u8]) {
    /// Steps that are enough for any failure and its consequences.
    const STEPS: usize = 24;

    let mut data = Unstructured::new(data);
    let Ok(min_entropy) = data.arbitrary() else {
        return;
    };
    let steps: Vec<Step> = data
        .arbitrary_iter()
        .map(|steps| steps.take(STEPS).map_while(Result::ok).collect())
        .unwrap_or_default();
    run(min_entropy, &steps);
}
