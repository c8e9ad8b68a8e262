// SPDX-License-Identifier: GPL-2.0

//! Properties: on any data the driver's code and the model come to the same verdicts and numbers.
//!
//! What is marked as ignored takes a release build; `make test` runs it.

use std::iter;

use proptest::prelude::*;
use rand_chacha::{
    rand_core::{RngCore, SeedableRng},
    ChaCha8Rng,
};

use crate::{
    health::{
        self_test, Continuous, Cutoffs, Decision, Failure, Health, MinEntropy, Test, Why, BLOCK,
    },
    model,
    script::{self, Background, Plan, Plant, Step},
};

/// Samples in a window of the APT.
const WINDOW: usize = 512;

/// Bytes in a window of the vendor's APT.
const VENDOR_WINDOW: usize = 65;

/// All cutoffs, by min-entropy from 1 to 8 bits per byte.
fn all_cutoffs() -> impl Iterator<Item = Cutoffs> {
    (1..=8).map(|bits| model::cutoffs(MinEntropy::new(bits).unwrap()))
}

/// A counter from 1 to 255 that begins with `1 + seed`: nothing in it fails and no byte is 0.
fn background(length: usize, seed: usize) -> Vec<u8> {
    (seed..seed + length)
        .map(|value| (value % 255) as u8 + 1)
        .collect()
}

/// The background as a block.
fn background_block(seed: usize) -> [u8; BLOCK] {
    background(BLOCK, seed).try_into().unwrap()
}

/// Gives `pieces` in turn to the driver's SP 800-90B layer and to the model, and compares them.
/// Returns the driver's verdicts on the last piece.
fn compare<'a>(
    cutoffs: Cutoffs,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> [Option<Failure>; 2] {
    let mut tests = Continuous::new(cutoffs);
    let mut model = model::Continuous::new(cutoffs);
    let mut verdicts = [None, None];
    for (index, piece) in pieces.into_iter().enumerate() {
        let mut runs = Vec::new();
        verdicts = tests.test(piece, &mut |length| runs.push(length));
        assert_eq!(verdicts, model.test(piece), "verdicts on piece {index}");
        assert_eq!(
            (
                tests.samples,
                tests.rct_failures,
                tests.apt_failures,
                tests.longest_run,
                tests.highest_count
            ),
            (
                model.samples,
                model.rct_failures,
                model.apt_failures,
                model.longest_run,
                model.highest_count
            ),
            "numbers after piece {index}"
        );
        assert_eq!(runs, long_runs(piece), "runs of piece {index}");
    }
    verdicts
}

/// The lengths of the runs of at least four equal bytes in `data`.
fn long_runs(data: &[u8]) -> Vec<u32> {
    data.chunk_by(|a, b| a == b)
        .map(|run| run.len() as u32)
        .filter(|length| *length >= 4)
        .collect()
}

/// Cuts `data` into pieces of these lengths; the last one takes what is left.
fn cut<'a>(data: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = data;
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, behind) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    pieces
}

/// Positions of `count` bytes spread over the window that begins at `start`, both ends included.
fn spread(start: usize, count: u32) -> impl Iterator<Item = usize> {
    let last = count as usize - 1;
    (0..=last).map(move |index| start + index * (WINDOW - 1) / last)
}

#[test]
fn known_answers_of_the_driver() {
    let mut scratch = [0xa5; BLOCK];
    assert_eq!(self_test(&mut scratch), Ok(()));
    // What the scratch holds before does not matter.
    assert_eq!(self_test(&mut scratch), Ok(()));
}

/// Every run from just below the intermittent cutoff to just above it, and about the permanent one,
/// at every alignment to words, groups and windows.
#[test]
fn runs_at_every_alignment() {
    for cutoffs in all_cutoffs() {
        for cutoff in [cutoffs.rct.intermittent, cutoffs.rct.permanent] {
            for length in cutoff - 1..=cutoff + 1 {
                for start in 0..3 * 64 {
                    let mut data = background(600, start);
                    data[start..][..length as usize].fill(0);
                    let [rct, _] = compare(cutoffs, [&data[..]]);
                    assert_eq!(
                        rct.map(|failure| failure.count),
                        (length >= cutoffs.rct.intermittent).then_some(length)
                    );
                }
            }
        }
    }
}

/// A run that the border of two pieces cuts at every place, for every alignment of the border.
#[test]
fn runs_across_every_split() {
    for cutoffs in all_cutoffs() {
        for length in [
            cutoffs.rct.intermittent - 1,
            cutoffs.rct.intermittent,
            cutoffs.rct.permanent,
        ] {
            for start in 60..60 + 16 {
                let mut data = background(300, start);
                data[start..][..length as usize].fill(0);
                for split in start..=start + length as usize {
                    compare(cutoffs, cut(&data, &[split]));
                    // A piece of one byte, and an empty one.
                    compare(cutoffs, cut(&data, &[split, 1, 0]));
                }
            }
        }
    }
}

/// Whole windows with counts about the cutoffs, cut in two at every place, whatever piece came before.
#[test]
fn windows_across_every_split() {
    for cutoffs in all_cutoffs() {
        for count in [
            cutoffs.apt.intermittent - 1,
            cutoffs.apt.intermittent,
            cutoffs.apt.permanent - 1,
            cutoffs.apt.permanent,
        ] {
            let mut data = background(3 * WINDOW + 77, 0);
            for position in spread(WINDOW, count) {
                data[position] = 0;
            }
            let mut failed = 0;
            for split in (0..=WINDOW + 70).step_by(3) {
                let pieces = [split, WINDOW + 7];
                compare(cutoffs, cut(&data, &pieces));
                let mut tests = Continuous::new(cutoffs);
                for piece in cut(&data, &pieces) {
                    let _ = tests.test(piece, &mut |_| ());
                }
                assert_eq!(tests.highest_count, count);
                failed += tests.apt_failures;
            }
            assert_eq!(failed > 0, count >= cutoffs.apt.intermittent);
        }
    }
}

/// A window begins right behind the one before: its 513th sample is the next one's first.
#[test]
fn windows_follow_one_another() {
    let cutoffs = model::cutoffs(MinEntropy::new(8).unwrap());
    let cutoff = cutoffs.apt.intermittent;
    for late in 0..4 {
        // The last match is `late` samples behind the window's last sample.
        let mut data = background(4 * WINDOW, 0);
        for position in spread(WINDOW, cutoff) {
            data[position] = 0;
        }
        data[2 * WINDOW - 1] = 7;
        data[2 * WINDOW - 1 + late] = 0;
        let [_, apt] = compare(cutoffs, [&data[..]]);
        assert_eq!(apt.is_some(), late == 0);
    }
}

/// The vendor's failures in a block, as the driver counts them.
fn vendor(block: &[u8; BLOCK]) -> (u32, u32) {
    let mut health = Health::new(MinEntropy::new(1).unwrap());
    let _ = health.test_block(block);
    let vendor = health.vendor();
    (vendor.max_rct_failures, vendor.max_apt_failures)
}

/// Runs of every length up to 64, in a block of their own.
#[test]
fn vendor_runs_of_every_length() {
    for length in 1..=64 {
        for start in [0, 1, 63, 777, BLOCK - length] {
            let mut block = background_block(0);
            block[start..][..length].fill(0);
            let (rct, _) = vendor(&block);
            assert_eq!(rct, model::vendor_rct(&block), "{length} bytes at {start}");
            assert_eq!(rct as usize, (length - 1) / 4);
        }
    }
}

/// Every place in a window that a match can have, beside five others, in windows of every alignment:
/// all but the last byte of the window count.
#[test]
fn vendor_windows_with_a_match_anywhere() {
    for window in [0, 1, 2, 3, 4, 5, 6, 7, 121, 244, 245] {
        let start = window * VENDOR_WINDOW;
        for others in [[1, 9, 17, 25, 33], [2, 3, 4, 5, 6], [59, 60, 61, 62, 63]] {
            for offset in 1..VENDOR_WINDOW {
                if others.contains(&offset) {
                    continue;
                }
                let mut block = background_block(0);
                block[start] = 0;
                for offset in iter::once(offset).chain(others) {
                    block[start + offset] = 0;
                }
                let (_, apt) = vendor(&block);
                assert_eq!(apt, model::vendor_apt(&block), "{window} {offset}");
                assert_eq!(apt, u32::from(offset != 64));
            }
        }
    }
}

/// Six matches in the same place of six words: the hardest case for marks that stand for up to four.
#[test]
fn vendor_windows_with_matches_eight_apart() {
    for lane in 1..=8 {
        for left_out in 0..8 {
            for too_few in [false, true] {
                let mut block = background_block(0);
                for window in (3..246).step_by(30) {
                    let start = window * VENDOR_WINDOW;
                    block[start] = 0;
                    let words = (0..8).filter(|word| *word != left_out);
                    for word in words.take(if too_few { 5 } else { 6 }) {
                        block[start + lane + 8 * word] = 0;
                    }
                }
                let (_, apt) = vendor(&block);
                assert_eq!(apt, model::vendor_apt(&block), "{lane} {left_out}");
            }
        }
    }
}

/// A run across the border of two blocks, at every offset, through the whole of the driver's code.
#[test]
fn runs_across_blocks() {
    for bits in 1..=8 {
        let min_entropy = MinEntropy::new(bits).unwrap();
        let cutoff = model::cutoffs(min_entropy).rct.intermittent as usize;
        for before in 0..=cutoff {
            let mut health = Health::new(min_entropy);
            let mut model = model::Health::new(min_entropy);
            let mut first = background_block(0);
            let mut second = background_block(1);
            // The byte in front of the run must not be the same in both blocks.
            first[BLOCK - before..].fill(0);
            second[..cutoff - before].fill(0);
            for block in [&background_block(2), &first, &second] {
                assert_eq!(health.test_block(block), model.test_block(&block[..]));
                assert_eq!(health.statistics(), model.statistics());
            }
            // A run of 29 or more is too much for the vendor layer: then the first block ends the stream.
            let seen = before <= 28 || before == cutoff;
            assert_eq!(
                health.statistics().rct_failures,
                u64::from(seen),
                "{before} of {cutoff}"
            );
        }
    }
}

/// A failure makes the tests forget: what comes before it is not counted with what comes after it.
#[test]
fn failure_ends_the_stream() {
    let min_entropy = MinEntropy::new(8).unwrap();
    for (gap, failures) in [(false, 1), (true, 0)] {
        let mut health = Health::new(min_entropy);
        let mut first = background_block(0);
        let mut second = background_block(1);
        first[BLOCK - 3..].fill(0);
        second[..3].fill(0);
        assert_eq!(
            health.test_block(&first),
            Decision::Discard(Why::StartUp),
            "half of the run is no failure"
        );
        if gap {
            let _ = health.device_failure(1);
        }
        let _ = health.test_block(&second);
        assert_eq!(health.statistics().rct_failures, failures);
    }
}

/// What is counted as failures in a row, and what ends the count.
///
/// Events: H healthy block, U untested block, F failure of the device, R restart, A another device.
/// Decisions: `d` deliver, `s` thrown away for the start-up test, `x` discarded, `!` stop, `-` none.
#[test]
fn failures_in_a_row() {
    for (events, decisions) in [
        ("FFF", "xx!"),
        ("HHFFF", "sdxx!"),
        // Start-up tests that pass deliver nothing: the row goes on.
        ("HHFHFHF", "sdxsxs!"),
        // A delivery ends it, tested or not.
        ("HHFHHFHHFHHFFF", "sdxsdxsdxsdxx!"),
        ("UUFUUFUUFUUFFF", "sdxsdxsdxsdxx!"),
        ("UUFUFUF", "sdxsxs!"),
        // So do a restart and another device.
        ("FFRFFF", "xx-xx!"),
        ("FFAFFF", "xx-xx!"),
        ("FFFRHH", "xx!-sd"),
        ("FFFAHH", "xx!-sd"),
        // Nothing else ends a stop.
        ("FFFHHUUF", "xx!!!!!!"),
        // The start-up test is due after a restart, and after untested blocks, but not before them.
        ("HHRHH", "sd-sd"),
        ("HUUHH", "sddsd"),
        ("RUUU", "-sdd"),
    ] {
        let mut health = Health::new(MinEntropy::new(6).unwrap());
        let decided: String = events
            .chars()
            .enumerate()
            .map(|(seed, event)| {
                let decision = match event {
                    'H' => health.test_block(&background_block(seed)),
                    'U' => health.untested_block(),
                    'F' => health.device_failure(4),
                    'R' => {
                        health.restart();
                        return '-';
                    }
                    _ => {
                        health.attach();
                        return '-';
                    }
                };
                match decision {
                    Decision::Deliver => 'd',
                    Decision::Discard(Why::StartUp) => 's',
                    Decision::Discard(Why::Failure(_)) => 'x',
                    Decision::Stop(_) => '!',
                }
            })
            .collect();
        assert_eq!(decided, decisions, "{events}");
    }
}

/// The sixteen blocks before are remembered, and not the seventeenth.
#[test]
fn repeated_block_is_seen_sixteen_blocks_long() {
    for ago in 1..=20 {
        let mut health = Health::new(MinEntropy::new(6).unwrap());
        for seed in 0..ago {
            let _ = health.test_block(&background_block(seed));
        }
        let decision = health.test_block(&background_block(0));
        if ago <= 16 {
            assert!(
                matches!(
                    decision,
                    Decision::Discard(Why::Failure(Failure {
                        test: Test::RepeatedBlock,
                        count,
                        ..
                    })) if count as usize == ago
                ),
                "{ago}: {decision:?}"
            );
        } else {
            assert_eq!(decision, Decision::Deliver, "{ago}");
        }
    }
}

/// A block that differs from the one before in one bit, or in the order of two words, is another one.
#[test]
fn nearly_repeated_block_is_none() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut block = [0; BLOCK];
    random.fill_bytes(&mut block);
    let mut health = Health::new(MinEntropy::new(6).unwrap());
    let _ = health.test_block(&block);
    for _ in 0..200 {
        let position = random.next_u32() as usize % BLOCK;
        block[position] ^= 1 << (random.next_u32() % 8);
        assert_eq!(health.test_block(&block), Decision::Deliver, "{position}");
    }
    for _ in 0..200 {
        let words = BLOCK / 8;
        let a = random.next_u32() as usize % words;
        let b = (a + 1 + random.next_u32() as usize % (words - 1)) % words;
        for byte in 0..8 {
            block.swap(8 * a + byte, 8 * b + byte);
        }
        assert_eq!(health.test_block(&block), Decision::Deliver, "{a} {b}");
    }
}

/// Healthy data: no false alarm of the SP 800-90B layer, and nothing else either.
fn healthy_data(blocks: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(blocks);
    let mut block = [0; BLOCK];
    // The driver's default, and the strictest cutoffs that there are.
    let mut tests = [6, 8].map(|bits| Health::new(MinEntropy::new(bits).unwrap()));
    for index in 0..blocks {
        random.fill_bytes(&mut block);
        for health in &mut tests {
            let expected = if index == 0 {
                Decision::Discard(Why::StartUp)
            } else {
                Decision::Deliver
            };
            assert_eq!(health.test_block(&block), expected, "block {index}");
        }
    }
    for health in &tests {
        let statistics = health.statistics();
        assert_eq!(statistics.samples, blocks * BLOCK as u64);
        assert_eq!(statistics.rct_failures + statistics.apt_failures, 0);
        assert_eq!(statistics.intermittent + statistics.permanent, 0);
        assert_eq!(statistics.start_up_runs, 1);
    }
}

#[test]
fn healthy_data_short() {
    healthy_data(500);
}

/// 2 GB.
#[test]
#[ignore = "takes a release build: make test"]
fn healthy_data_long() {
    healthy_data(2_000_000_000 / BLOCK as u64 + 1);
}

/// A run at every position of two blocks.
#[test]
#[ignore = "takes a release build: make test"]
fn runs_at_every_position() {
    let min_entropy = MinEntropy::new(6).unwrap();
    let cutoff = model::cutoffs(min_entropy).rct.intermittent as usize;
    for length in [cutoff - 1, cutoff] {
        for start in 0..2 * BLOCK - length {
            let mut data = background(2 * BLOCK, 0);
            data[start..][..length].fill(0);
            let [rct, apt] = compare(model::cutoffs(min_entropy), cut(&data, &[BLOCK]));
            assert_eq!(apt, None);
            let in_second = start + length > BLOCK;
            assert_eq!(rct.is_some(), in_second && length == cutoff, "{start}");
        }
    }
}

/// A stream that has runs and crowded windows of some symbols, and the pieces it comes in.
fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let symbols = prop_oneof![Just(1u8), Just(2), Just(5), Just(16), Just(255)];
    let plants = prop::collection::vec((0usize..2600, 0usize..70, 1usize..6, 0u8..4), 0..12);
    let pieces = prop::collection::vec(
        prop_oneof![0usize..10, 0usize..140, 480usize..560, 0usize..1200],
        0..8,
    );
    (any::<u64>(), symbols, 0usize..2600, plants, pieces).prop_map(
        |(seed, symbols, length, plants, pieces)| {
            let mut data = vec![0; length];
            ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut data);
            data.iter_mut().for_each(|byte| *byte %= symbols);
            for (start, count, stride, value) in plants {
                for byte in data.iter_mut().skip(start).step_by(stride).take(count) {
                    *byte = value;
                }
            }
            (data, pieces)
        },
    )
}

/// A step of a script; most are blocks with something planted in them.
fn step() -> impl Strategy<Value = Step> {
    let background = prop_oneof![
        6 => any::<u16>().prop_map(Background::Random),
        3 => any::<u8>().prop_map(Background::Counter),
        2 => (any::<u16>(), any::<u8>()).prop_map(|(seed, mask)| Background::Masked(seed, mask)),
        1 => any::<u8>().prop_map(Background::Constant),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Background::Alternating(a, b)),
    ];
    // Near the borders of blocks, where what is planted may go on.
    let start = prop_oneof![0u16..700, 0..BLOCK as u16, BLOCK as u16 - 700..BLOCK as u16];
    let plant = prop_oneof![
        (start.clone(), 1u16..70, 0u8..3).prop_map(|(start, length, value)| Plant::Run {
            start,
            length,
            value
        }),
        (start, 1u16..400, 1u8..70, 0u8..3).prop_map(|(start, count, stride, value)| Plant::Comb {
            start,
            count,
            stride,
            value
        }),
    ];
    let plan = (background, prop::collection::vec(plant, 0..6))
        .prop_map(|(background, plants)| Plan { background, plants });
    prop_oneof![
        12 => plan.prop_map(Step::Block),
        2 => (0u8..18).prop_map(Step::Again),
        1 => Just(Step::Untested),
        1 => any::<u8>().prop_map(Step::DeviceFailure),
        1 => Just(Step::Attach),
        2 => Just(Step::Restart),
        1 => any::<u8>().prop_map(Step::MinEntropy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any stream in any pieces.
    #[test]
    fn continuous_tests_agree((data, lengths) in stream()) {
        for cutoffs in all_cutoffs() {
            compare(cutoffs, cut(&data, &lengths));
        }
    }

    /// Where a stream is cut changes no number, whatever the verdicts on its pieces are.
    #[test]
    fn splits_do_not_matter((data, lengths) in stream()) {
        for cutoffs in all_cutoffs() {
            let mut whole = Continuous::new(cutoffs);
            let _ = whole.test(&data, &mut |_| ());
            let mut parts = Continuous::new(cutoffs);
            for piece in cut(&data, &lengths) {
                let _ = parts.test(piece, &mut |_| ());
            }
            prop_assert_eq!(whole.samples, parts.samples);
            prop_assert_eq!(whole.rct_failures, parts.rct_failures);
            prop_assert_eq!(whole.apt_failures, parts.apt_failures);
            prop_assert_eq!(whole.longest_run, parts.longest_run);
            prop_assert_eq!(whole.highest_count, parts.highest_count);
        }
    }

    /// Any script.
    #[test]
    fn decisions_and_numbers_agree(
        min_entropy in any::<u8>(),
        steps in prop::collection::vec(step(), 1..10),
    ) {
        script::run(min_entropy, &steps);
    }

    /// Any input of the fuzz target.
    #[test]
    fn fuzz_target_agrees(data in prop::collection::vec(any::<u8>(), 0..400)) {
        script::fuzz(&data);
    }
}
