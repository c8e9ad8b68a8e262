// SPDX-License-Identifier: GPL-2.0

//! What `health.rs` has to do, said once more and as plainly as possible: one byte at a time, blocks
//! kept whole, nothing clever. Written from SP 800-90B (4.4.1, 4.4.2), from the description of the
//! vendor's tests and from the policy, not from the driver's code, which it shares only types with.

use std::collections::VecDeque;

use crate::health::{
    Cutoffs, Decision, Failure, MinEntropy, Severity, State, Statistics, Test, VendorStatistics,
    Why,
};

/// The cutoffs for each min-entropy: RCT intermittent, permanent, APT intermittent, permanent.
///
/// `cutoffs.rs` computes them from the standard's formulas and compares with the driver's.
const CUTOFFS: [[u32; 4]; 8] = [
    [41, 61, 336, 355],
    [21, 31, 201, 220],
    [15, 21, 123, 139],
    [11, 16, 78, 91],
    [9, 13, 51, 62],
    [8, 11, 35, 44],
    [7, 10, 26, 32],
    [6, 9, 19, 25],
];

/// The vendor's RCT in one block, byte by byte.
#[must_use]
pub fn vendor_rct(block: &[u8]) -> u32 {
    let mut failures = 0;
    let mut run = 0;
    let mut last = 0;
    for &byte in block {
        if run > 0 && byte == last {
            run += 1;
            if run == 5 {
                failures += 1;
                run = 1;
            }
        } else {
            last = byte;
            run = 1;
        }
    }
    failures
}

/// The vendor's APT in one block, byte by byte.
#[must_use]
pub fn vendor_apt(block: &[u8]) -> u32 {
    let mut failures = 0;
    let mut position = 0;
    let mut reference = 0;
    let mut matches = 0;
    for &byte in block {
        match position {
            0 => {
                reference = byte;
                matches = 0;
                position = 1;
            }
            1..=63 => {
                if byte == reference {
                    matches += 1;
                }
                position += 1;
            }
            _ => {
                if matches > 5 {
                    failures += 1;
                }
                position = 0;
            }
        }
    }
    failures
}

/// The continuous tests of SP 800-90B 4.4 for a stream of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Continuous {
    /// The cutoffs in force.
    pub(crate) cutoffs: Cutoffs,
    /// RCT: the sample A and its count B.
    rct: Option<(u8, u32)>,
    /// APT: the sample A, its count B, and how many samples of the window have come.
    apt: Option<(u8, u32, usize)>,
    /// Samples that were tested.
    pub(crate) samples: u64,
    /// How often B of the RCT has reached the intermittent cutoff.
    pub(crate) rct_failures: u64,
    /// How often B of the APT has reached the intermittent cutoff.
    pub(crate) apt_failures: u64,
    /// Highest B of the RCT.
    pub(crate) longest_run: u32,
    /// Highest B of the APT.
    pub(crate) highest_count: u32,
}

impl Continuous {
    /// The tests before the first sample.
    pub(crate) fn new(cutoffs: Cutoffs) -> Self {
        Self {
            cutoffs,
            rct: None,
            apt: None,
            samples: 0,
            rct_failures: 0,
            apt_failures: 0,
            longest_run: 0,
            highest_count: 0,
        }
    }

    /// Forgets the samples but not the numbers.
    pub(crate) fn reinitialise(&mut self) {
        self.rct = None;
        self.apt = None;
    }

    /// Takes the samples `data` and returns the failures of the RCT and of the APT.
    pub(crate) fn test(&mut self, data: &[u8]) -> [Option<Failure>; 2] {
        let mut longest = 0;
        let mut highest = 0;
        for &sample in data {
            self.samples += 1;

            let b = match self.rct {
                Some((a, b)) if a == sample => b + 1,
                _ => 1,
            };
            self.rct = Some((sample, b));
            longest = longest.max(b);
            if b == self.cutoffs.rct.intermittent {
                self.rct_failures += 1;
            }

            let (a, b, seen) = match self.apt {
                None => (sample, 1, 1),
                Some((a, b, seen)) => (a, b + u32::from(a == sample), seen + 1),
            };
            if a == sample && b == self.cutoffs.apt.intermittent {
                self.apt_failures += 1;
            }
            self.apt = (seen < 512).then_some((a, b, seen));
            highest = highest.max(b);
        }
        self.longest_run = self.longest_run.max(longest);
        self.highest_count = self.highest_count.max(highest);
        [
            judge(
                Test::Rct,
                longest,
                self.cutoffs.rct.intermittent,
                self.cutoffs.rct.permanent,
            ),
            judge(
                Test::Apt,
                highest,
                self.cutoffs.apt.intermittent,
                self.cutoffs.apt.permanent,
            ),
        ]
    }
}

/// The failure that a count is, if it is one.
fn judge(test: Test, count: u32, intermittent: u32, permanent: u32) -> Option<Failure> {
    if count >= permanent {
        Some(Failure {
            test,
            severity: Severity::Permanent,
            count,
            cutoff: permanent,
        })
    } else if count >= intermittent {
        Some(Failure {
            test,
            severity: Severity::Intermittent,
            count,
            cutoff: intermittent,
        })
    } else {
        None
    }
}

/// The whole of the health tests.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// Assessed min-entropy, in bits per byte.
    min_entropy: MinEntropy,
    /// The SP 800-90B layer.
    continuous: Continuous,
    /// The vendor layer's numbers.
    pub(crate) vendor: VendorStatistics,
    /// The last blocks tested, the latest last.
    blocks: VecDeque<Vec<u8>>,
    /// What happens with the next block.
    state: State,
    /// Intermittent failures since the last delivery.
    in_a_row: u32,
    /// Intermittent failures.
    intermittent: u64,
    /// Permanent failures.
    permanent: u64,
    /// Start-up tests.
    start_up_runs: u64,
    /// Repeated blocks.
    repeated_blocks: u64,
}

impl Health {
    /// The health tests of a new device.
    pub(crate) fn new(min_entropy: MinEntropy) -> Self {
        Self {
            min_entropy,
            continuous: Continuous::new(cutoffs(min_entropy)),
            vendor: VendorStatistics::default(),
            blocks: VecDeque::new(),
            state: State::StartUp,
            in_a_row: 0,
            intermittent: 0,
            permanent: 0,
            start_up_runs: 0,
            repeated_blocks: 0,
        }
    }

    /// Other cutoffs.
    pub(crate) fn set_min_entropy(&mut self, min_entropy: MinEntropy) {
        if min_entropy != self.min_entropy {
            self.min_entropy = min_entropy;
            self.continuous.cutoffs = cutoffs(min_entropy);
            self.continuous.reinitialise();
            if !matches!(self.state, State::Stopped(_)) {
                self.state = State::StartUp;
            }
        }
    }

    /// A new device.
    pub(crate) fn attach(&mut self) {
        *self = Self::new(self.min_entropy);
    }

    /// Resume, or an on-demand test.
    pub(crate) fn restart(&mut self) {
        self.continuous.reinitialise();
        self.state = State::StartUp;
        self.in_a_row = 0;
    }

    /// A block with status byte 0.
    pub(crate) fn test_block(&mut self, block: &[u8]) -> Decision {
        if let State::Stopped(failure) = self.state {
            return Decision::Stop(failure);
        }
        self.vendor.device_status = 0;
        if self.state != State::Running {
            self.start_up_runs += 1;
        }

        let mut failures = Vec::new();
        failures.extend(self.continuous.test(block).into_iter().flatten());

        let rct = vendor_rct(block);
        self.vendor.total_rct_failures += u64::from(rct);
        self.vendor.max_rct_failures = self.vendor.max_rct_failures.max(rct);
        if rct > 6 {
            self.vendor.rct_status = 1;
            failures.push(intermittent(Test::VendorRct, rct, 7));
        }
        let apt = vendor_apt(block);
        self.vendor.total_apt_failures += u64::from(apt);
        self.vendor.max_apt_failures = self.vendor.max_apt_failures.max(apt);
        if apt > 6 {
            self.vendor.apt_status = 2;
            failures.push(intermittent(Test::VendorApt, apt, 7));
        }

        let mut ago = 0;
        for (index, old) in self.blocks.iter().rev().enumerate() {
            if ago == 0 && old == block {
                ago = index as u32 + 1;
            }
        }
        if ago > 0 {
            self.repeated_blocks += 1;
            failures.push(intermittent(Test::RepeatedBlock, ago, 16));
        }
        self.blocks.push_back(block.to_vec());
        if self.blocks.len() > 16 {
            self.blocks.pop_front();
        }

        // The first permanent failure, or else the first.
        failures.sort_by_key(|failure| failure.severity != Severity::Permanent);
        if let Some(failure) = failures.first() {
            return self.fail(*failure);
        }
        if self.state != State::Running {
            self.state = State::Running;
            self.vendor.rct_status = 0;
            self.vendor.apt_status = 0;
            Decision::Discard(Why::StartUp)
        } else {
            self.in_a_row = 0;
            Decision::Deliver
        }
    }

    /// A block while the tests are off.
    pub(crate) fn untested_block(&mut self) -> Decision {
        if let State::Stopped(failure) = self.state {
            return Decision::Stop(failure);
        }
        self.vendor.device_status = 0;
        self.continuous.reinitialise();
        if self.state == State::StartUp {
            self.state = State::Untested;
            Decision::Discard(Why::StartUp)
        } else {
            self.state = State::Untested;
            self.in_a_row = 0;
            Decision::Deliver
        }
    }

    /// A status byte that is not 0.
    pub(crate) fn device_failure(&mut self, status: u8) -> Decision {
        if let State::Stopped(failure) = self.state {
            return Decision::Stop(failure);
        }
        self.vendor.device_status = status;
        self.fail(intermittent(Test::DeviceStatus, status.into(), 1))
    }

    /// The policy.
    fn fail(&mut self, failure: Failure) -> Decision {
        self.continuous.reinitialise();
        self.in_a_row += 1;
        if failure.severity == Severity::Permanent {
            self.permanent += 1;
        } else {
            self.intermittent += 1;
        }
        if failure.severity == Severity::Permanent || self.in_a_row == 3 {
            self.state = State::Stopped(failure);
            Decision::Stop(failure)
        } else {
            self.state = State::StartUp;
            Decision::Discard(Why::Failure(failure))
        }
    }

    /// The numbers.
    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            samples: self.continuous.samples,
            rct_failures: self.continuous.rct_failures,
            apt_failures: self.continuous.apt_failures,
            intermittent: self.intermittent,
            permanent: self.permanent,
            start_up_runs: self.start_up_runs,
            repeated_blocks: self.repeated_blocks,
            longest_run: self.continuous.longest_run,
            highest_count: self.continuous.highest_count,
            cutoffs: self.continuous.cutoffs,
            state: self.state,
        }
    }
}

/// An intermittent failure.
fn intermittent(test: Test, count: u32, cutoff: u32) -> Failure {
    Failure {
        test,
        severity: Severity::Intermittent,
        count,
        cutoff,
    }
}

/// The cutoffs for a min-entropy.
pub(crate) fn cutoffs(min_entropy: MinEntropy) -> Cutoffs {
    let [rct_intermittent, rct_permanent, apt_intermittent, apt_permanent] =
        CUTOFFS[min_entropy.get() as usize - 1];
    Cutoffs {
        rct: crate::health::Cutoff {
            intermittent: rct_intermittent,
            permanent: rct_permanent,
        },
        apt: crate::health::Cutoff {
            intermittent: apt_intermittent,
            permanent: apt_permanent,
        },
    }
}
