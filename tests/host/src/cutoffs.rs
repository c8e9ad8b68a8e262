// SPDX-License-Identifier: GPL-2.0

//! The cutoffs, computed from the formulas of SP 800-90B with exact integers.

use num_bigint::BigUint;

use crate::{
    health::{Health, MinEntropy},
    model,
};

/// Samples in a window of the APT.
const WINDOW: u32 = 512;

/// `1 + ceil(-log2(alpha) / H)` for alpha = 2^-`bits` (SP 800-90B 4.4.1).
fn rct(min_entropy: u32, bits: u32) -> u32 {
    1 + bits.div_ceil(min_entropy)
}

/// `1 + critbinom(512, 2^-H, 1 - alpha)` for alpha = 2^-`bits` (SP 800-90B 4.4.2): critbinom is the
/// smallest k for which the probability of at most k successes in 512 trials is at least 1 - alpha.
fn apt(min_entropy: u32, bits: u32) -> u32 {
    // In units of 2^(-512 H), the probability of exactly k successes is
    // binomial(512, k) (2^H - 1)^(512 - k). What has to stay below alpha is that of more than k.
    let failure = BigUint::from((1u32 << min_entropy) - 1);
    let alpha = BigUint::from(1u32) << (WINDOW * min_entropy - bits);
    let mut tail = BigUint::from(0u32);
    let mut binomial = BigUint::from(1u32);
    // From k = 512 down; `binomial` is binomial(512, k).
    for k in (0..=WINDOW).rev() {
        tail += &binomial * failure.pow(WINDOW - k);
        if tail > alpha {
            return 1 + k;
        }
        binomial = binomial * k / (WINDOW - k + 1);
    }
    panic!("some k has a tail above any alpha below 1");
}

/// The critical value by the definition's other side: sums from 0 up, as a check of [`apt`].
fn apt_from_below(min_entropy: u32, bits: u32) -> u32 {
    let failure = BigUint::from((1u32 << min_entropy) - 1);
    let total = BigUint::from(1u32) << (WINDOW * min_entropy);
    let enough = &total - (&total >> bits);
    let mut sum = BigUint::from(0u32);
    let mut binomial = BigUint::from(1u32);
    for k in 0..=WINDOW {
        sum += &binomial * failure.pow(WINDOW - k);
        if sum >= enough {
            return 1 + k;
        }
        binomial = binomial * (WINDOW - k) / (k + 1);
    }
    panic!("the sum over all k is 1");
}

#[test]
fn compiled_in_table_is_the_standards() {
    for bits in 1..=8 {
        let min_entropy = MinEntropy::new(bits).unwrap();
        assert_eq!(min_entropy.get(), bits);
        let cutoffs = Health::new(min_entropy).statistics().cutoffs;
        assert_eq!(cutoffs.rct.intermittent, rct(bits, 40), "RCT, H = {bits}");
        assert_eq!(cutoffs.rct.permanent, rct(bits, 60), "RCT, H = {bits}");
        assert_eq!(cutoffs.apt.intermittent, apt(bits, 40), "APT, H = {bits}");
        assert_eq!(cutoffs.apt.permanent, apt(bits, 60), "APT, H = {bits}");
        assert_eq!(cutoffs, model::cutoffs(min_entropy), "model, H = {bits}");

        let mut other = Health::new(MinEntropy::new(9 - bits).unwrap());
        other.set_min_entropy(min_entropy);
        assert_eq!(other.statistics().cutoffs, cutoffs, "set, H = {bits}");
    }
}

#[test]
fn both_directions_agree() {
    for min_entropy in 1..=8 {
        for bits in [20, 30, 40, 60] {
            assert_eq!(
                apt(min_entropy, bits),
                apt_from_below(min_entropy, bits),
                "H = {min_entropy}, alpha = 2^-{bits}"
            );
        }
    }
}

/// The table of the design, with 2^-30 too: H, then RCT and APT for 2^-30, 2^-40 and 2^-60.
#[test]
fn published_table() {
    for (min_entropy, rcts, apts) in [
        (1, [31, 41, 61], [325, 336, 355]),
        (4, [9, 11, 16], [71, 78, 91]),
        (5, [7, 9, 13], [46, 51, 62]),
        (6, [6, 8, 11], [31, 35, 44]),
        (7, [6, 7, 10], [22, 26, 32]),
        (8, [5, 6, 9], [16, 19, 25]),
    ] {
        assert_eq!([30, 40, 60].map(|bits| rct(min_entropy, bits)), rcts);
        assert_eq!([30, 40, 60].map(|bits| apt(min_entropy, bits)), apts);
    }
}

/// Values that others have published: the example of SP 800-90B 4.4.1 (alpha = 2^-30, H = 2: 16), its
/// table of APT cutoffs for 512 samples (alpha = 2^-20, H = 1, 2, 4, 8), and the cutoffs of the
/// kernel's `crypto/jitterentropy.c` (H = 1, alpha = 2^-30 and 2^-60).
#[test]
fn values_published_elsewhere() {
    assert_eq!(rct(2, 30), 16);
    assert_eq!([1, 2, 4, 8].map(|bits| apt(bits, 20)), [311, 177, 62, 13]);
    assert_eq!([30, 60].map(|alpha| apt(1, alpha)), [325, 355]);
}

#[test]
fn only_whole_bits_from_1_to_8() {
    for bits in 0..=u32::from(u16::MAX) {
        assert_eq!(MinEntropy::new(bits).is_some(), (1..=8).contains(&bits));
    }
    assert_eq!(MinEntropy::new(u32::MAX), None);
}
