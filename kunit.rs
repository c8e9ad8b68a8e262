// SPDX-License-Identifier: GPL-2.0

//! KUnit suite of the health tests: the self-test's known-answer vectors and the policy's outline,
//! on the machine and with the compiler that run the driver.
//!
//! It runs when the module is loaded into a kernel with `CONFIG_KUNIT=y`. The tests on the host go
//! further; here it is the kernel's own build that is tested.

use kernel::prelude::*;

#[kunit_tests(alrandom_health)]
mod tests {
    use super::*;
    use crate::health::{
        self_test,
        Decision,
        Health,
        MinEntropy,
        Severity,
        State,
        Test,
        Why,
        BLOCK, //
    };

    /// Memory for a block, filled with `value`: too much for the stack.
    fn scratch(value: u8) -> Result<KVec<u8>> {
        KVec::from_elem(value, BLOCK, GFP_KERNEL).map_err(Into::into)
    }

    /// The memory as a block.
    fn block(memory: &mut KVec<u8>) -> Result<&mut [u8; BLOCK]> {
        memory.first_chunk_mut().ok_or(EINVAL)
    }

    /// A counter that begins with `first`: a block in which no test sees a failure.
    fn healthy(block: &mut [u8; BLOCK], first: u8) -> &[u8; BLOCK] {
        let mut value = first;
        for byte in block.iter_mut() {
            *byte = value;
            value = value.wrapping_add(1);
        }
        block
    }

    #[test]
    fn known_answers() -> Result {
        for value in [0, 0xff] {
            let mut memory = scratch(value)?;
            assert_eq!(self_test(block(&mut memory)?), Ok(()));
        }
        Ok(())
    }

    #[test]
    fn state_is_small() {
        assert!(core::mem::size_of::<Health>() < 1024);
    }

    #[test]
    fn min_entropy_has_a_range() {
        assert!(MinEntropy::new(0).is_none());
        assert!(MinEntropy::new(9).is_none());
        for bits in 1..=8 {
            assert_eq!(MinEntropy::new(bits).map(MinEntropy::get), Some(bits));
        }
    }

    #[test]
    fn first_block_is_thrown_away() -> Result {
        let mut memory = scratch(0)?;
        let block = block(&mut memory)?;
        let mut health = Health::new(MinEntropy::new(6).ok_or(EINVAL)?);
        assert_eq!(
            health.test_block(healthy(block, 0)),
            Decision::Discard(Why::StartUp)
        );
        assert_eq!(health.test_block(healthy(block, 1)), Decision::Deliver);
        assert_eq!(health.statistics().samples, 2 * BLOCK as u64);
        assert_eq!(health.statistics().state, State::Running);
        Ok(())
    }

    #[test]
    fn stuck_source_stops_at_once() -> Result {
        let mut memory = scratch(0xaa)?;
        let mut health = Health::new(MinEntropy::new(6).ok_or(EINVAL)?);
        let decision = health.test_block(block(&mut memory)?);
        assert!(matches!(
            decision,
            Decision::Stop(failure)
                if failure.test == Test::Rct && failure.severity == Severity::Permanent
        ));
        assert!(health.is_stopped());
        health.restart();
        assert!(!health.is_stopped());
        Ok(())
    }

    #[test]
    fn repeated_block_stops_the_third_time() -> Result {
        let mut memory = scratch(0)?;
        let block = healthy(block(&mut memory)?, 0);
        let mut health = Health::new(MinEntropy::new(6).ok_or(EINVAL)?);
        assert_eq!(health.test_block(block), Decision::Discard(Why::StartUp));
        for _ in 0..2 {
            assert!(matches!(
                health.test_block(block),
                Decision::Discard(Why::Failure(failure)) if failure.test == Test::RepeatedBlock
            ));
        }
        assert!(matches!(health.test_block(block), Decision::Stop(_)));
        assert_eq!(health.statistics().repeated_blocks, 3);
        Ok(())
    }
}
