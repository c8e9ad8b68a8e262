// SPDX-License-Identifier: GPL-2.0

//! The fuzz targets on generated data: the same cases in each run, as many as a few seconds allow.
//!
//! `make fuzz` goes on from here, and lets the coverage guide it.

use host_tests::{descriptors, exchange, packets, script};
use rand_chacha::{
    rand_core::{RngCore, SeedableRng},
    ChaCha8Rng,
};

/// Gives `count` cases of up to `longest` bytes to `case`; says which one it was that fails.
///
/// A third of the bytes are small numbers: they are lengths, counts and kinds more often than others.
fn cases(count: u64, longest: u32, mut case: impl FnMut(&[u8])) {
    for seed in 0..count {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let length = random.next_u32() % (longest + 1);
        let mut data = vec![0; length as usize];
        random.fill_bytes(&mut data);
        for byte in &mut data {
            if *byte % 3 == 0 {
                *byte /= 24;
            }
        }
        let told = Told(seed);
        case(&data);
        std::mem::forget(told);
    }
}

/// Says which case it was when it is dropped.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("seed {} of the cases", self.0);
    }
}

#[test]
fn descriptors_of_100000_devices_are_searched_as_the_model_does() {
    let mut found = 0;
    cases(100_000, 300, |data| {
        found += u32::from(descriptors::fuzz(data).is_some());
    });
    // The cases are worth something: there is a union in many, and in many there is none.
    assert!((20_000..80_000).contains(&found), "{found}");
}

#[test]
fn exchanges_with_10000_devices_keep_to_the_rules() {
    let mut sum = exchange::Outcome::default();
    cases(10_000, 250, |data| {
        let outcome = exchange::fuzz(data);
        sum.delivered += outcome.delivered;
        sum.refused += outcome.refused;
        sum.retries += outcome.retries;
        sum.given_up += outcome.given_up;
        sum.most_under_way = sum.most_under_way.max(outcome.most_under_way);
    });
    // The cases are worth something: all that can come of an exchange comes of many.
    assert!(sum.delivered > 50_000, "{sum:?}");
    assert!(sum.refused > 1_000, "{sum:?}");
    assert!(sum.retries > 100_000, "{sum:?}");
    assert!(sum.given_up > 5_000, "{sum:?}");
    assert_eq!(sum.most_under_way, 4, "{sum:?}");
}

/// What is on the line of a device that was given up is too much once more when it is tried again.
#[test]
fn an_exchange_ends_however_much_is_on_the_line() {
    let flood = exchange::Event::Repeat(31, exchange::Size::Bytes(u16::MAX));
    let script = exchange::Script {
        limit: 0,
        packet: 511,
        events: vec![flood; 20],
        end: exchange::End::Endless,
    };
    let outcome = exchange::run(&script);
    // 40 MiB; half a MiB, and a transfer more, is too much for an attempt, of which there are 15.
    assert!((4..=6).contains(&outcome.given_up), "{outcome:?}");
}

#[test]
fn packets_of_50000_peers_are_understood_or_refused() {
    let mut understood = 0;
    cases(50_000, 200, |data| understood += packets::fuzz(data));
    // Random bytes rarely are a packet.
    assert!(understood > 0);
}

#[test]
fn health_tests_of_2000_sources_agree_with_the_model() {
    cases(2_000, 400, script::fuzz);
}
