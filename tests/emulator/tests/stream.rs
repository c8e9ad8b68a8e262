// SPDX-License-Identifier: GPL-2.0
//! The data: against a ChaCha of its own, and each pattern against what its name says.

use std::collections::BTreeSet;
use std::io::Write;

use alpharng_emu::fault::{Kind, Piece};
use alpharng_emu::stream::{
    block, extra, leftover, Block, Command, Source, SourceSpec, BLOCK_LENGTH,
};

/// ChaCha with 8 rounds as RFC 8439 section 2.3 describes it for 20, with the original's 64-bit
/// counter and 64-bit nonce.
fn chacha8(key: &[u8; 32], nonce: u64, length: usize) -> Vec<u8> {
    fn quarter(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
        for (x, y, z, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            s[x] = s[x].wrapping_add(s[y]);
            s[z] = (s[z] ^ s[x]).rotate_left(turn);
        }
    }
    let mut out = Vec::new();
    for counter in 0u64.. {
        let mut input = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574].to_vec();
        input.extend(
            key.chunks(4)
                .map(|word| u32::from_le_bytes(word.try_into().unwrap())),
        );
        input.extend([counter as u32, (counter >> 32) as u32]);
        input.extend([nonce as u32, (nonce >> 32) as u32]);
        let input: [u32; 16] = input.try_into().unwrap();
        let mut s = input;
        for _ in 0..4 {
            for column in 0..4 {
                quarter(&mut s, column, 4 + column, 8 + column, 12 + column);
            }
            for i in 0..4 {
                quarter(
                    &mut s,
                    i,
                    4 + (i + 1) % 4,
                    8 + (i + 2) % 4,
                    12 + (i + 3) % 4,
                );
            }
        }
        for (word, start) in s.iter().zip(input) {
            out.extend(word.wrapping_add(start).to_le_bytes());
        }
        if out.len() >= length {
            break;
        }
    }
    out.truncate(length);
    out
}

fn key(seed: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (i, byte) in key.iter_mut().take(8).enumerate() {
        *byte = (seed >> (8 * i)) as u8;
    }
    key
}

#[test]
fn blocks_are_chacha8() {
    for (seed, command, byte, k) in [
        (0, Command::Entropy, 0x78u64, 0),
        (0x0123_4567_89ab_cdef, Command::NoiseOne, 0x31, 1),
        (7, Command::NoiseTwo, 0x32, 70_000),
        (u64::MAX, Command::Noise, 0x6e, 1 << 40),
    ] {
        let expected = chacha8(&key(seed), (byte << 56) | k, BLOCK_LENGTH);
        assert!(
            block(seed, command, k)[..] == expected[..],
            "{command:?} {k}"
        );
    }
}

#[test]
fn other_streams_of_a_seed_are_their_own() {
    assert_eq!(leftover(5, 100), chacha8(&key(5), 0x6c << 56, 100));
    assert_eq!(
        extra(5, Command::Entropy, 3, 100),
        chacha8(&key(5), (0xf8 << 56) | 3, 100)
    );
}

#[test]
fn commands_have_their_bytes() {
    let bytes = Command::ALL.map(Command::byte);
    assert_eq!(bytes, [0x78, 0x31, 0x32, 0x6e]);
    for command in Command::ALL {
        assert_eq!(Command::from_byte(command.byte()), Some(command));
    }
    let known = (0..=255)
        .filter(|b| Command::from_byte(*b).is_some())
        .count();
    assert_eq!(known, 4);
}

#[test]
fn made_ahead_is_the_same() {
    let mut source = Source::new(SourceSpec::Seeded { seed: 3 }).unwrap();
    let mut order = Vec::new();
    for k in 0..6 {
        order.push((Command::Entropy, k));
    }
    // Another command in between, a jump, and back.
    order.extend([
        (Command::Noise, 0),
        (Command::Entropy, 6),
        (Command::Entropy, 9),
    ]);
    order.extend([(Command::Entropy, 10), (Command::Entropy, 2)]);
    for (i, (command, k)) in order.into_iter().enumerate() {
        let made = source.take(command, k).unwrap();
        assert!(*made == block(3, command, k), "{command:?} {k}");
        assert!(source.wants_to_prepare());
        // Now and then not all of it, or nothing.
        for _ in 0..i % 6 {
            source.prepare();
        }
    }
    // It ends some time.
    for _ in 0..100 {
        source.prepare();
    }
    assert!(!source.wants_to_prepare());
}

#[test]
fn what_is_made_ahead_is_used() {
    let mut source = Source::new(SourceSpec::Seeded { seed: 3 }).unwrap();
    let prepare = |source: &mut Source| {
        let mut count = 0;
        while source.wants_to_prepare() {
            source.prepare();
            count += 1;
        }
        count
    };
    assert_eq!(
        prepare(&mut source),
        0,
        "nobody knows what will be asked for"
    );
    source.take(Command::Entropy, 0).unwrap();
    let all = prepare(&mut source);
    assert!(all > 1);
    // One is taken, one has to be made.
    source.take(Command::Entropy, 1).unwrap();
    assert_eq!(prepare(&mut source), 1);
    // Another command's block of the same index is none of those.
    let made = source.take(Command::Noise, 2).unwrap();
    assert!(*made == block(3, Command::Noise, 2));
    assert_eq!(prepare(&mut source), all);
}

#[test]
fn the_operating_systems_source_differs_each_time() {
    let source = Source::new(SourceSpec::Os).unwrap();
    let blocks = [(); 4].map(|()| source.make(Command::Entropy, 0).unwrap());
    for (i, one) in blocks.iter().enumerate() {
        assert!(blocks[..i].iter().all(|other| other != one));
        // All 256 values occur in 16000 random bytes but for a chance of 2^-82.
        let values: BTreeSet<u8> = one.iter().copied().collect();
        assert_eq!(values.len(), 256);
    }
}

#[test]
fn files_go_round() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
    file.write_all(&content).unwrap();
    let spec = SourceSpec::File {
        path: file.path().to_owned(),
    };
    let source = Source::new(spec).unwrap();
    for k in [0, 1, 2, 3, 7] {
        let made = source.make(Command::Noise, k).unwrap();
        for (i, byte) in made.iter().enumerate() {
            assert_eq!(*byte, content[(k as usize * BLOCK_LENGTH + i) % 40_000]);
        }
    }
}

#[test]
fn bad_files_are_refused_in_one_line() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for path in [empty.path(), folder.path(), &missing] {
        let error = Source::new(SourceSpec::File { path: path.into() }).unwrap_err();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(!error.contains('\n'));
    }
}

/// A healthy block.
fn healthy(k: u64) -> Block {
    block(1, Command::Entropy, k)
}

/// The data of block `k` with a fault.
fn faulty(kind: &Kind, k: u64) -> Block {
    kind.check().unwrap();
    let mut data = healthy(k);
    kind.apply(k, None, &mut data);
    data
}

/// Two consecutive blocks with a fault.
fn two(kind: &Kind, k: u64) -> Vec<u8> {
    [faulty(kind, k), faulty(kind, k + 1)].concat()
}

/// How often each value occurs.
fn counts(data: &[u8]) -> [u32; 256] {
    let mut counts = [0; 256];
    for byte in data {
        counts[usize::from(*byte)] += 1;
    }
    counts
}

#[test]
fn stuck_and_alternating() {
    assert!(faulty(&Kind::Stuck { value: 0x5a }, 0) == [0x5a; BLOCK_LENGTH]);
    let data = two(&Kind::Alternating { a: 1, b: 2 }, 5);
    for (i, byte) in data.iter().enumerate() {
        assert_eq!(*byte, if i % 2 == 0 { 1 } else { 2 });
    }
}

#[test]
fn period_goes_on_over_the_border() {
    for length in [1, 4, 16, 65, 512, 16000] {
        let kind = Kind::Period { length, seed: 8 };
        let data = two(&kind, 1_000_003);
        for i in length..data.len() {
            assert_eq!(data[i], data[i - length], "period {length} at {i}");
        }
        if length > 4 {
            let shorter = (1..length).find(|p| (*p..data.len()).all(|i| data[i] == data[i - p]));
            assert_eq!(shorter, None, "a shorter period than {length}");
        }
        // Block 0 begins with the period's first byte: so does the one after `length` blocks.
        assert!(faulty(&kind, 0) == faulty(&kind, length as u64));
        assert!(faulty(&kind, 0) != faulty(&Kind::Period { length, seed: 9 }, 0));
    }
}

#[test]
fn bit_stuck() {
    for bit in 0..8 {
        for value in [0, 1] {
            let data = faulty(&Kind::BitStuck { bit, value }, 0);
            for (faulty, healthy) in data.iter().zip(healthy(0)) {
                let weight = 1 << bit;
                let others = healthy - (healthy / weight % 2) * weight;
                assert_eq!(*faulty, others + value * weight);
            }
        }
    }
}

#[test]
fn symbol_has_its_probability() {
    for one_in in [2u32, 4, 8, 16, 32] {
        let kind = Kind::Symbol {
            value: 0xaa,
            one_in,
            seed: 4,
        };
        let data: Vec<u8> = (0..20).flat_map(|k| faulty(&kind, k)).collect();
        let counts = counts(&data).map(f64::from);
        let n = data.len() as f64;
        let p = 1.0 / f64::from(one_in);
        let deviation = (n * p * (1.0 - p)).sqrt();
        let error = (counts[0xaa] - n * p).abs();
        assert!(error < 5.0 * deviation, "1/{one_in}: off by {error}");
        // Any other value: an equal share of the rest.
        let q = (1.0 - p) / 255.0;
        let deviation = (n * q * (1.0 - q)).sqrt();
        for value in (0..256).filter(|value| *value != 0xaa) {
            let error = (counts[value] - n * q).abs();
            assert!(
                error < 6.0 * deviation,
                "{value} of 1/{one_in}: off by {error}"
            );
        }
    }
    let kind = |seed| Kind::Symbol {
        value: 0,
        one_in: 1,
        seed,
    };
    assert!(faulty(&kind(1), 0) == [0; BLOCK_LENGTH]);
    let kind = |seed| Kind::Symbol {
        value: 0,
        one_in: 2,
        seed,
    };
    assert!(faulty(&kind(1), 0) == faulty(&kind(1), 0));
    assert!(faulty(&kind(1), 0) != faulty(&kind(2), 0));
    assert!(faulty(&kind(1), 0) != faulty(&kind(1), 1));
}

#[test]
fn symbols_are_few() {
    for size in [1u16, 2, 3, 16, 64, 100, 256] {
        let data = faulty(&Kind::Symbols { size }, 0);
        let values: BTreeSet<u16> = data.iter().map(|byte| u16::from(*byte)).collect();
        assert_eq!(values, (0..size).collect(), "{size} values");
    }
    // Powers of two: equally often.
    let data = faulty(&Kind::Symbols { size: 16 }, 0);
    assert!(counts(&data)[..16].iter().all(|n| (850..1150).contains(n)));
}

#[test]
fn ascii_is_text() {
    let data = faulty(&Kind::Ascii { seed: 1 }, 0);
    assert!(data
        .iter()
        .all(|b| b.is_ascii_lowercase() || b" \n".contains(b)));
    let text = String::from_utf8(data.to_vec()).unwrap();
    assert!(
        text.split_whitespace()
            .filter(|word| *word == "the")
            .count()
            > 50
    );
    assert!(data != faulty(&Kind::Ascii { seed: 1 }, 1));
    assert!(data != faulty(&Kind::Ascii { seed: 2 }, 0));
}

#[test]
fn counter_goes_on_over_the_border() {
    for k in [0, 1, 254, u64::from(u32::MAX)] {
        let data = two(&Kind::Counter, k);
        assert!(data
            .windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1)));
    }
    assert_eq!(faulty(&Kind::Counter, 0)[0], 0);
}

#[test]
fn dropouts_have_their_share() {
    for percent in [1.0, 10.0] {
        let kind = Kind::Dropouts { percent, seed: 2 };
        let mut dropped = 0;
        for k in 0..20 {
            for (faulty, healthy) in faulty(&kind, k).iter().zip(healthy(k)) {
                if *faulty != healthy {
                    assert_eq!(*faulty, 0);
                    dropped += 1;
                }
            }
        }
        // One of 256 healthy bytes was zero before.
        let expected = 320_000.0 * percent / 100.0 * 255.0 / 256.0;
        let error = (f64::from(dropped) - expected).abs();
        assert!(error < 5.0 * expected.sqrt(), "{percent}%: off by {error}");
    }
    let all = Kind::Dropouts {
        percent: 100.0,
        seed: 2,
    };
    assert!(faulty(&all, 0) == [0; BLOCK_LENGTH]);
    let none = Kind::Dropouts {
        percent: 0.0,
        seed: 2,
    };
    assert!(faulty(&none, 0) == healthy(0));
}

#[test]
fn repeat_takes_the_data_before() {
    let mut data = healthy(1);
    Kind::Repeat { of: None }.apply(1, Some(&healthy(0)), &mut data);
    assert!(data == healthy(0));
    assert!(faulty(&Kind::Repeat { of: None }, 1) == healthy(1));
}

#[test]
fn overlay_puts_its_pieces_in_order() {
    let kind = Kind::Overlay {
        pieces: vec![
            Piece::run(10, 20, 7),
            Piece::bytes(12, &[0xab, 0xcd]),
            Piece::run(15_999, 1, 9),
            Piece::run(16_000, 0, 9),
        ],
    };
    let data = faulty(&kind, 0);
    let mut expected = healthy(0);
    for (i, byte) in expected.iter_mut().enumerate() {
        match i {
            12 => *byte = 0xab,
            13 => *byte = 0xcd,
            10..30 => *byte = 7,
            15_999 => *byte = 9,
            _ => {}
        }
    }
    assert!(data == expected);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let piece = |at, hex: Option<&str>, length, value| Kind::Overlay {
        pieces: vec![Piece {
            at,
            hex: hex.map(str::to_owned),
            length,
            value,
        }],
    };
    let bad = [
        Kind::Short { bytes: 16_002 },
        Kind::Unplug { bytes: 16_002 },
        Kind::Extra { bytes: 0 },
        Kind::Extra {
            bytes: (1 << 20) + 1,
        },
        Kind::ZeroLength { transfers: 0 },
        Kind::Period { length: 0, seed: 0 },
        Kind::Period {
            length: 16_001,
            seed: 0,
        },
        Kind::BitStuck { bit: 8, value: 0 },
        Kind::BitStuck { bit: 0, value: 2 },
        Kind::Symbol {
            value: 0,
            one_in: 0,
            seed: 0,
        },
        Kind::Symbols { size: 0 },
        Kind::Symbols { size: 257 },
        Kind::Dropouts {
            percent: -0.1,
            seed: 0,
        },
        Kind::Dropouts {
            percent: 100.1,
            seed: 0,
        },
        Kind::Dropouts {
            percent: f64::NAN,
            seed: 0,
        },
        piece(15_999, Some("0011"), None, None),
        piece(usize::MAX, Some("00"), None, None),
        piece(0, Some("0"), None, None),
        piece(0, Some("zz"), None, None),
        piece(0, None, Some(16_001), Some(0)),
        piece(0, None, Some(usize::MAX), Some(0)),
        piece(0, None, Some(1), None),
        piece(0, Some("00"), Some(1), Some(0)),
        piece(0, None, None, None),
        Kind::File {
            path: "/does/not/exist".into(),
        },
    ];
    for kind in bad {
        let error = kind.check().expect_err(&format!("{kind:?}"));
        assert!(!error.contains('\n'), "{error}");
    }
}
