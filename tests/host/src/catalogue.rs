// SPDX-License-Identifier: GPL-2.0

//! The failure catalogue: what becomes of a noise source that fails in a certain way.
//!
//! The failing data are the emulator's: its faults alter the answers of its seeded source. The same
//! fault in the emulator, from answer [`FIRST_FAULTY`] on, has the same consequences for a driver in
//! the test machine as it has here for `health.rs` alone.

use std::{fmt::Write as _, sync::OnceLock};

use alpharng_emu::{
    fault::Kind,
    stream::{self, Block, Command},
};

use crate::health::{Decision, Failure, Health, MinEntropy, Test, Why};

/// Seed of the emulator's source.
pub const SEED: u64 = 1;

/// Index of the first answer that is faulty; the healthy ones before are the start-up test's and two
/// that are delivered.
pub const FIRST_FAULTY: u64 = 3;

/// Faulty blocks after which a source that has not stopped is taken for one that never does.
pub const PATIENCE: u64 = 100;

/// A way to fail.
pub struct Mode {
    /// Its name in the documentation.
    pub name: &'static str,
    /// The emulator's fault, or none for healthy data.
    pub fault: Option<Kind>,
    /// Whether it is beyond what the RCT and the APT can see, whatever their cutoffs.
    pub invisible: bool,
}

/// All modes of the catalogue.
#[must_use]
pub fn modes() -> Vec<Mode> {
    let period = |length| Kind::Period { length, seed: SEED };
    let symbol = |one_in| Kind::Symbol {
        value: 0,
        one_in,
        seed: SEED,
    };
    let mode = |name, fault| Mode {
        name,
        fault: Some(fault),
        invisible: false,
    };
    let invisible = |name, fault| Mode {
        invisible: true,
        ..mode(name, fault)
    };
    vec![
        mode("stuck at one value", Kind::Stuck { value: 0xff }),
        mode(
            "alternating, 10101010 and 01010101",
            Kind::Alternating { a: 0xaa, b: 0x55 },
        ),
        mode("period of 4 bytes", period(4)),
        mode("period of 16 bytes", period(16)),
        invisible("period of 65 bytes", period(65)),
        invisible("period of 512 bytes", period(512)),
        mode(
            "one bit of eight stuck",
            Kind::BitStuck { bit: 3, value: 1 },
        ),
        mode("one symbol with probability 1/2 (H = 1)", symbol(2)),
        mode("one symbol with probability 1/4 (H = 2)", symbol(4)),
        mode("one symbol with probability 1/8 (H = 3)", symbol(8)),
        mode("one symbol with probability 1/16 (H = 4)", symbol(16)),
        mode("one symbol with probability 1/32 (H = 5)", symbol(32)),
        mode("only 16 symbols (H = 4)", Kind::Symbols { size: 16 }),
        mode("only 64 symbols (H = 6)", Kind::Symbols { size: 64 }),
        mode("ASCII text", Kind::Ascii { seed: SEED }),
        invisible("a counter", Kind::Counter),
        invisible("the same block again and again", Kind::Repeat { of: None }),
        mode(
            "1% of the bytes lost and zero",
            Kind::Dropouts {
                percent: 1.0,
                seed: SEED,
            },
        ),
        Mode {
            name: "healthy data",
            fault: None,
            invisible: false,
        },
    ]
}

impl Mode {
    /// The answers from the first one on.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let mut before: Option<Block> = None;
        (0..).map(move |k| {
            let mut block = stream::block(SEED, Command::Entropy, k);
            if let Some(fault) = &self.fault {
                if k >= FIRST_FAULTY {
                    fault.apply(k, before.as_ref(), &mut block);
                }
            }
            before = Some(block);
            block
        })
    }
}

/// What became of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The first block that failed, 1 for the first faulty one, and the test that it failed.
    first: Option<(u64, Failure)>,
    /// The block at which the source stopped, counted the same way.
    stopped: Option<u64>,
    /// Faulty blocks that were delivered until then.
    delivered: u64,
}

impl Outcome {
    /// Takes what was decided about the faulty block with this number, 1 for the first.
    fn note(&mut self, number: u64, decision: Decision) {
        if self.stopped.is_some() {
            return;
        }
        match decision {
            Decision::Deliver => self.delivered += 1,
            Decision::Discard(Why::StartUp) => (),
            Decision::Discard(Why::Failure(failure)) => {
                self.first.get_or_insert((number, failure));
            }
            Decision::Stop(failure) => {
                self.first.get_or_insert((number, failure));
                self.stopped = Some(number);
            }
        }
    }
}

/// What became of a source in one mode, which is a row of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row {
    /// At the default of 6 bits of min-entropy per byte.
    six: Outcome,
    /// At 8 bits per byte.
    eight: Outcome,
    /// The first faulty block that the vendor layer alone would refuse.
    vendor: Option<u64>,
}

impl Row {
    /// Finds out about `mode`.
    #[must_use]
    pub fn new(mode: &Mode) -> Self {
        let [mut six, mut eight] = [6, 8].map(|bits| Health::new(min_entropy(bits)));
        let mut row = Self::default();
        for (k, block) in (0..FIRST_FAULTY + PATIENCE).zip(mode.blocks()) {
            let decisions = [six.test_block(&block), eight.test_block(&block)];
            if k < FIRST_FAULTY {
                continue;
            }
            let number = k - FIRST_FAULTY + 1;
            row.six.note(number, decisions[0]);
            row.eight.note(number, decisions[1]);
            if row.vendor.is_none() {
                // As the first block of a new device: nothing but the layer itself is left.
                let mut alone = Health::new(min_entropy(1));
                let _ = alone.test_block(&block);
                let vendor = alone.vendor();
                if vendor.rct_status != 0 || vendor.apt_status != 0 {
                    row.vendor = Some(number);
                }
            }
            if row.six.stopped.is_some() && row.eight.stopped.is_some() && row.vendor.is_some() {
                break;
            }
        }
        row
    }
}

/// A min-entropy that exists.
fn min_entropy(bits: u32) -> MinEntropy {
    MinEntropy::new(bits).expect("the catalogue uses 1 to 8 bits per byte")
}

/// All modes and their rows.
fn rows() -> &'static [(Mode, Row)] {
    static ROWS: OnceLock<Vec<(Mode, Row)>> = OnceLock::new();
    ROWS.get_or_init(|| {
        modes()
            .into_iter()
            .map(|mode| {
                let row = Row::new(&mode);
                (mode, row)
            })
            .collect()
    })
}

/// The table of the documentation, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut table = String::from(
        "| failure | seen by | first failure | stops | faulty blocks delivered | stops at H = 8 | vendor's tests alone |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let number = |number: Option<u64>| number.map_or("never".to_owned(), |n| format!("block {n}"));
    for (mode, row) in rows() {
        let outcome = row.six;
        let seen_by = match outcome.first {
            None => "nothing",
            Some((_, failure)) => match failure.test {
                Test::Rct => "RCT",
                Test::Apt => "APT",
                Test::VendorRct => "vendor's RCT",
                Test::VendorApt => "vendor's APT",
                Test::RepeatedBlock => "fingerprint",
                Test::DeviceStatus => "device",
            },
        };
        writeln!(
            table,
            "| {}{} | {seen_by} | {} | {} | {} | {} | {} |",
            mode.name,
            if mode.invisible { " (*)" } else { "" },
            number(outcome.first.map(|(number, _)| number)),
            number(outcome.stopped),
            if outcome.stopped.is_some() {
                outcome.delivered.to_string()
            } else {
                "all".to_owned()
            },
            number(row.eight.stopped),
            number(row.vendor),
        )
        .expect("a string takes everything");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    /// The text between two marks of the documentation.
    fn documented(name: &str) -> String {
        let text = include_str!("../../../docs/health-tests.md");
        let begin = format!("<!-- {name} -->\n");
        let end = format!("<!-- end of {name} -->");
        let (_, behind) = text
            .split_once(&begin)
            .unwrap_or_else(|| panic!("docs/health-tests.md has no mark `{}`", begin.trim()));
        let (part, _) = behind
            .split_once(&end)
            .unwrap_or_else(|| panic!("docs/health-tests.md has no mark `{end}`"));
        part.trim().to_owned()
    }

    /// The model's row, found out independently.
    fn model_row(mode: &Mode) -> Row {
        let [mut six, mut eight] = [6, 8].map(|bits| model::Health::new(min_entropy(bits)));
        let mut row = Row::default();
        for (k, block) in (0..FIRST_FAULTY + PATIENCE).zip(mode.blocks()) {
            let decisions = [six.test_block(&block), eight.test_block(&block)];
            let Some(number) = (k + 1).checked_sub(FIRST_FAULTY).filter(|n| *n > 0) else {
                continue;
            };
            row.six.note(number, decisions[0]);
            row.eight.note(number, decisions[1]);
            if model::vendor_rct(&block) > 6 || model::vendor_apt(&block) > 6 {
                row.vendor.get_or_insert(number);
            }
            if row.six.stopped.is_some() && row.eight.stopped.is_some() && row.vendor.is_some() {
                break;
            }
        }
        row
    }

    /// What RCT and APT cannot see is not seen by them, and stops the source all the same.
    #[test]
    fn rows_are_the_models_and_invisible_modes_are_caught() {
        for (mode, row) in rows() {
            assert_eq!(*row, model_row(mode), "{}", mode.name);
            if mode.invisible {
                let (_, failure) = row.eight.first.expect(mode.name);
                assert_eq!(failure.test, Test::RepeatedBlock, "{}", mode.name);
                assert!(row.eight.stopped.is_some(), "{}", mode.name);
            }
        }
    }

    #[test]
    fn documentation_has_this_table() {
        assert_eq!(
            documented("catalogue"),
            table().trim(),
            "run `cargo run -p host-tests --bin health-catalogue` and put its table into \
             docs/health-tests.md"
        );
    }

    #[test]
    fn documentation_has_these_cutoffs() {
        let mut expected = String::from(
            "| H | RCT intermittent | RCT permanent | APT intermittent | APT permanent |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for bits in 1..=8 {
            let cutoffs = model::cutoffs(min_entropy(bits));
            let (rct, apt) = (cutoffs.rct, cutoffs.apt);
            writeln!(
                expected,
                "| {bits} | {} | {} | {} | {} |",
                rct.intermittent, rct.permanent, apt.intermittent, apt.permanent
            )
            .unwrap();
        }
        assert_eq!(documented("cutoffs"), expected.trim());
    }
}
