// SPDX-License-Identifier: GPL-2.0

//! Health tests of the AlphaRNG's output.
//!
//! Every block that the device answers to the command `x` passes through two layers of tests,
//! always both, before a byte of it is delivered:
//!
//! - the **vendor layer**: the repetition count test and the adaptive proportion test of the
//!   vendor's own module. They start afresh with each block, tolerate six failures in it, and keep
//!   the numbers of `/proc/alrandom/info`;
//! - the **SP 800-90B layer**: the continuous repetition count test (RCT, section 4.4.1) and
//!   adaptive proportion test (APT, section 4.4.2). The blocks are one stream of 8-bit samples to
//!   them: a run and a window go on from one block into the next.
//!
//! Neither can see that a block came twice. A fingerprint of the last blocks does.
//!
//! What follows from a failure is the policy of [`Health`]. This file takes bytes and returns
//! decisions: it does no I/O, allocates nothing, never panics, and knows no kernel type. The tests
//! on the host compile it a second time, unchanged.

#![deny(unsafe_code)]

use core::fmt;

/// Data bytes in one block: an answer of the device without its status byte.
pub(crate) const BLOCK: usize = 16000;

/// Samples in a window of the SP 800-90B adaptive proportion test (4.4.2: 512 for samples that are
/// not binary). The first of them is the reference and counts as one match.
const WINDOW: usize = 512;

/// Length of a run that the vendor's repetition count test calls a failure.
const VENDOR_RUN: u32 = 5;

/// Bytes in a window of the vendor's adaptive proportion test: the reference, those that are
/// compared with it, and a last one that ends the window without being compared.
const VENDOR_WINDOW: usize = 65;

/// Matches with the reference that the vendor's adaptive proportion test tolerates in a window.
const VENDOR_MATCHES: u32 = 5;

/// Failures in one block, counted for each of the vendor's two tests, that the vendor tolerates.
const VENDOR_FAILURES: u32 = 6;

/// Value of the vendor's RCT status byte after a block with too many failures.
const VENDOR_RCT_STATUS: u8 = 1;

/// Value of the vendor's APT status byte after a block with too many failures.
const VENDOR_APT_STATUS: u8 = 2;

/// Intermittent failures in a row, no block having been delivered in between, that stop the source.
const FAILURES_IN_A_ROW: u32 = 3;

/// Blocks that are remembered by their fingerprint.
const REMEMBERED: usize = 16;

/// Shortest run that the word-at-a-time search reports. Every failing run is longer.
const LONG_RUN: u32 = 4;

/// Bytes that the word-at-a-time search for runs looks at before it branches.
const GROUP: usize = 64;

/// Assessed min-entropy of the device's output, in bits per byte: 1 to 8.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MinEntropy(u32);

impl MinEntropy {
    /// Takes `bits` per byte; [`None`] unless it is in 1 to 8.
    pub(crate) const fn new(bits: u32) -> Option<Self> {
        match bits {
            1..=8 => Some(Self(bits)),
            _ => None,
        }
    }

    /// The assessed min-entropy in bits per byte.
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// The cutoffs of the SP 800-90B layer for this much min-entropy.
    ///
    /// RCT: `1 + ceil(-log2(alpha) / H)` (4.4.1). APT: `1 + critbinom(512, 2^-H, 1 - alpha)`
    /// (4.4.2). The false-alarm rate alpha of each test is 2^-40 for an intermittent failure and
    /// 2^-60 for a permanent one. The tests on the host compute the table again with exact
    /// binomials.
    const fn cutoffs(self) -> Cutoffs {
        match self.0 {
            1 => Cutoffs::new([41, 61], [336, 355]),
            2 => Cutoffs::new([21, 31], [201, 220]),
            3 => Cutoffs::new([15, 21], [123, 139]),
            4 => Cutoffs::new([11, 16], [78, 91]),
            5 => Cutoffs::new([9, 13], [51, 62]),
            6 => Cutoffs::new([8, 11], [35, 44]),
            7 => Cutoffs::new([7, 10], [26, 32]),
            _ => Cutoffs::new([6, 9], [19, 25]),
        }
    }
}

/// The two cutoffs of one test, in samples: a count that reaches one is a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cutoff {
    /// False-alarm rate 2^-40: an intermittent failure.
    pub(crate) intermittent: u32,
    /// False-alarm rate 2^-60: a permanent failure.
    pub(crate) permanent: u32,
}

impl Cutoff {
    /// Judges the highest `count` that `test` has seen in a block.
    fn judge(self, test: Test, count: u32) -> Option<Failure> {
        let (severity, cutoff) = if count >= self.permanent {
            (Severity::Permanent, self.permanent)
        } else if count >= self.intermittent {
            (Severity::Intermittent, self.intermittent)
        } else {
            return None;
        };
        Some(Failure {
            test,
            severity,
            count,
            cutoff,
        })
    }
}

/// The cutoffs of the SP 800-90B layer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cutoffs {
    /// Cutoffs of the repetition count test: length of a run.
    pub(crate) rct: Cutoff,
    /// Cutoffs of the adaptive proportion test: matches in a window, its first sample included.
    pub(crate) apt: Cutoff,
}

impl Cutoffs {
    /// Makes the cutoffs from pairs of an intermittent and a permanent one.
    const fn new(rct: [u32; 2], apt: [u32; 2]) -> Self {
        let [rct_intermittent, rct_permanent] = rct;
        let [apt_intermittent, apt_permanent] = apt;
        Self {
            rct: Cutoff {
                intermittent: rct_intermittent,
                permanent: rct_permanent,
            },
            apt: Cutoff {
                intermittent: apt_intermittent,
                permanent: apt_permanent,
            },
        }
    }
}

/// A test that a block can fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Test {
    /// SP 800-90B layer, repetition count test (4.4.1); counts the samples of a run.
    Rct,
    /// SP 800-90B layer, adaptive proportion test (4.4.2); counts the matches in a window.
    Apt,
    /// Vendor layer, repetition count test; counts the failures in a block.
    VendorRct,
    /// Vendor layer, adaptive proportion test; counts the failures in a block.
    VendorApt,
    /// Fingerprints; counts how many blocks ago the same block came, 1 for the one just before.
    RepeatedBlock,
    /// The device's own tests; counts nothing, the value is the device's status byte.
    DeviceStatus,
}

/// How bad a failure is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Severity {
    /// The block is discarded and the start-up test runs again; three in a row stop the source.
    Intermittent,
    /// The source stops at once.
    Permanent,
}

/// A failed health test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    /// The test, and by that its layer.
    pub(crate) test: Test,
    /// The severity of this failure alone: the third intermittent one in a row stays intermittent.
    pub(crate) severity: Severity,
    /// What the test counted; its meaning is told by [`Test`].
    pub(crate) count: u32,
    /// The count at which the test fails with this severity.
    pub(crate) cutoff: u32,
}

impl Failure {
    /// An intermittent failure of `test`.
    const fn intermittent(test: Test, count: u32, cutoff: u32) -> Self {
        Self {
            test,
            severity: Severity::Intermittent,
            count,
            cutoff,
        }
    }
}

impl fmt::Display for Failure {
    /// One clause for a log line, such as `SP 800-90B repetition count test: permanent failure, run
    /// of 16000 equal bytes (cutoff 11)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Intermittent => "intermittent",
            Severity::Permanent => "permanent",
        };
        let (count, cutoff) = (self.count, self.cutoff);
        match self.test {
            Test::Rct => write!(
                f,
                "SP 800-90B repetition count test: {severity} failure, \
                 run of {count} equal bytes (cutoff {cutoff})"
            ),
            Test::Apt => write!(
                f,
                "SP 800-90B adaptive proportion test: {severity} failure, \
                 {count} equal bytes in a window of {WINDOW} (cutoff {cutoff})"
            ),
            Test::VendorRct => write!(
                f,
                "vendor's repetition count test: {severity} failure, \
                 {count} failures in a block (cutoff {cutoff})"
            ),
            Test::VendorApt => write!(
                f,
                "vendor's adaptive proportion test: {severity} failure, \
                 {count} failures in a block (cutoff {cutoff})"
            ),
            Test::RepeatedBlock => write!(
                f,
                "repeated block: {severity} failure, equal to the block {count} before it \
                 (the last {cutoff} are remembered)"
            ),
            Test::DeviceStatus => write!(
                f,
                "device's own health tests: {severity} failure, status byte {count}"
            ),
        }
    }
}

/// Why a block is thrown away although the source goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Why {
    /// It was the block of the start-up test, which it has passed.
    StartUp,
    /// It has failed; the start-up test is due.
    Failure(Failure),
}

/// What to do with a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a block may be delivered only if the decision says so"]
pub(crate) enum Decision {
    /// It may be delivered.
    Deliver,
    /// Wipe it and ask for the next one.
    Discard(Why),
    /// Wipe it and ask for no more: the source has stopped until [`Health::attach`] or
    /// [`Health::restart`].
    Stop(Failure),
}

/// What the health tests are doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// The next block is the start-up test's.
    StartUp,
    /// The start-up test has passed: blocks that pass are delivered.
    Running,
    /// The start-up block was thrown away and blocks are delivered untested.
    Untested,
    /// The source has stopped because of this failure.
    Stopped(Failure),
}

/// The vendor layer's numbers, those of `/proc/alrandom/info`, since the device was attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct VendorStatistics {
    /// Most RCT failures in one block.
    pub(crate) max_rct_failures: u32,
    /// Most APT failures in one block.
    pub(crate) max_apt_failures: u32,
    /// RCT failures in all blocks.
    pub(crate) total_rct_failures: u64,
    /// APT failures in all blocks.
    pub(crate) total_apt_failures: u64,
    /// 1 from a block with too many RCT failures until the start-up test has passed, otherwise 0.
    pub(crate) rct_status: u8,
    /// 2 from a block with too many APT failures until the start-up test has passed, otherwise 0.
    pub(crate) apt_status: u8,
    /// Status byte of the device's last answer.
    pub(crate) device_status: u8,
}

/// A snapshot of the SP 800-90B layer and of the policy, for `/proc/alrandom/health`.
///
/// The counts are those since the device was attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Statistics {
    /// Samples (bytes) tested.
    pub(crate) samples: u64,
    /// Runs that reached the RCT's intermittent cutoff.
    pub(crate) rct_failures: u64,
    /// Windows that reached the APT's intermittent cutoff.
    pub(crate) apt_failures: u64,
    /// Intermittent failures of any test, at most one for each block.
    pub(crate) intermittent: u64,
    /// Permanent failures, at most one for each block.
    pub(crate) permanent: u64,
    /// Blocks used for a start-up test, passed or not.
    pub(crate) start_up_runs: u64,
    /// Blocks equal to one of the sixteen before.
    pub(crate) repeated_blocks: u64,
    /// Longest run, in samples.
    pub(crate) longest_run: u32,
    /// Most matches in one window, its first sample included.
    pub(crate) highest_count: u32,
    /// The cutoffs in force.
    pub(crate) cutoffs: Cutoffs,
    /// What the health tests are doing.
    pub(crate) state: State,
}

/// All state of both layers and of the policy.
///
/// A block that fails is discarded, the continuous tests are re-initialised, and the start-up test
/// is due: the next block is tested and thrown away even if it passes. Three intermittent failures
/// in a row, no block having been delivered in between, or one permanent failure stop the source.
pub(crate) struct Health {
    /// Assessed min-entropy, which the cutoffs of `continuous` come from.
    min_entropy: MinEntropy,
    /// The vendor layer.
    vendor: VendorStatistics,
    /// The SP 800-90B layer.
    continuous: Continuous,
    /// Fingerprints of the last blocks tested.
    memory: Memory,
    /// What the next block will be used for.
    state: State,
    /// Intermittent failures since the last block that was delivered.
    in_a_row: u32,
    /// See [`Statistics::intermittent`].
    intermittent: u64,
    /// See [`Statistics::permanent`].
    permanent: u64,
    /// See [`Statistics::start_up_runs`].
    start_up_runs: u64,
    /// See [`Statistics::repeated_blocks`].
    repeated_blocks: u64,
}

impl Health {
    /// Health tests for a source with `min_entropy` that has not delivered anything yet.
    pub(crate) const fn new(min_entropy: MinEntropy) -> Self {
        Self {
            min_entropy,
            vendor: VendorStatistics {
                max_rct_failures: 0,
                max_apt_failures: 0,
                total_rct_failures: 0,
                total_apt_failures: 0,
                rct_status: 0,
                apt_status: 0,
                device_status: 0,
            },
            continuous: Continuous::new(min_entropy.cutoffs()),
            memory: Memory::new(),
            state: State::StartUp,
            in_a_row: 0,
            intermittent: 0,
            permanent: 0,
            start_up_runs: 0,
            repeated_blocks: 0,
        }
    }

    /// Uses the cutoffs for `min_entropy` from now on.
    ///
    /// If they are others, the continuous tests are re-initialised and the start-up test is due. A
    /// source that has stopped stays stopped.
    pub(crate) fn set_min_entropy(&mut self, min_entropy: MinEntropy) {
        if min_entropy == self.min_entropy {
            return;
        }
        self.min_entropy = min_entropy;
        self.continuous.cutoffs = min_entropy.cutoffs();
        self.continuous.reinitialise();
        if !self.is_stopped() {
            self.state = State::StartUp;
        }
    }

    /// Begins with a new device: every number restarts from zero and the start-up test is due.
    pub(crate) fn attach(&mut self) {
        *self = Self::new(self.min_entropy);
    }

    /// Begins again with the same device, after resume or for an on-demand test (SP 800-90B 4.2).
    ///
    /// The start-up test is due, a source that had stopped starts again, and all numbers go on.
    pub(crate) fn restart(&mut self) {
        self.continuous.reinitialise();
        self.state = State::StartUp;
        self.in_a_row = 0;
    }

    /// Tests a block that came with the device's status byte 0, and decides what becomes of it.
    ///
    /// After a stop nothing is tested and the answer is the failure that stopped the source.
    pub(crate) fn test_block(&mut self, data: &[u8; BLOCK]) -> Decision {
        if let State::Stopped(failure) = self.state {
            return Decision::Stop(failure);
        }
        self.vendor.device_status = 0;
        let start_up = self.state != State::Running;
        if start_up {
            self.start_up_runs = self.start_up_runs.wrapping_add(1);
        }
        if let Some(failure) = self.examine(data).worst() {
            return self.fail(failure);
        }
        if start_up {
            self.state = State::Running;
            self.vendor.rct_status = 0;
            self.vendor.apt_status = 0;
            return Decision::Discard(Why::StartUp);
        }
        self.in_a_row = 0;
        Decision::Deliver
    }

    /// Decides what becomes of a block while the tests are switched off.
    ///
    /// The block that a start-up test would use is still thrown away. The start-up test is due as
    /// soon as a block is tested again.
    pub(crate) fn untested_block(&mut self) -> Decision {
        if let State::Stopped(failure) = self.state {
            return Decision::Stop(failure);
        }
        self.vendor.device_status = 0;
        self.continuous.reinitialise();
        let start_up = self.state == State::StartUp;
        self.state = State::Untested;
        if start_up {
            return Decision::Discard(Why::StartUp);
        }
        self.in_a_row = 0;
        Decision::Deliver
    }

    /// Decides what follows from an answer whose status byte `status` was not 0.
    ///
    /// Its data are worthless and were not tested; the stream of samples has a gap.
    pub(crate) fn device_failure(&mut self, status: u8) -> Decision {
        if let State::Stopped(failure) = self.state {
            return Decision::Stop(failure);
        }
        self.vendor.device_status = status;
        self.fail(Failure::intermittent(
            Test::DeviceStatus,
            u32::from(status),
            1,
        ))
    }

    /// Whether the source has stopped, until [`Health::attach`] or [`Health::restart`].
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped(_))
    }

    /// The vendor layer's numbers.
    pub(crate) fn vendor(&self) -> &VendorStatistics {
        &self.vendor
    }

    /// The other numbers.
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

    /// Runs every test over `data` and updates every number, but not the policy's.
    fn examine(&mut self, data: &[u8; BLOCK]) -> Findings {
        // The search for runs is the same for both layers.
        let mut vendor_rct_failures: u32 = 0;
        let [rct, apt] = self.continuous.test(data, &mut |length| {
            let failures = vendor_rct_failures_in_run(length);
            vendor_rct_failures = vendor_rct_failures.wrapping_add(failures);
        });
        let [vendor_rct, vendor_apt] = self
            .vendor
            .count(vendor_rct_failures, vendor_apt_failures(data));

        let repeated = self.memory.recall(fingerprint(data)).map(|blocks| {
            self.repeated_blocks = self.repeated_blocks.wrapping_add(1);
            Failure::intermittent(Test::RepeatedBlock, blocks, REMEMBERED as u32)
        });

        Findings([rct, apt, vendor_rct, vendor_apt, repeated])
    }

    /// Applies the policy to a failure.
    fn fail(&mut self, failure: Failure) -> Decision {
        self.continuous.reinitialise();
        self.in_a_row = self.in_a_row.wrapping_add(1);
        let stop = match failure.severity {
            Severity::Permanent => {
                self.permanent = self.permanent.wrapping_add(1);
                true
            }
            Severity::Intermittent => {
                self.intermittent = self.intermittent.wrapping_add(1);
                self.in_a_row >= FAILURES_IN_A_ROW
            }
        };
        if stop {
            self.state = State::Stopped(failure);
            Decision::Stop(failure)
        } else {
            self.state = State::StartUp;
            Decision::Discard(Why::Failure(failure))
        }
    }
}

/// What the tests found in one block, the most telling failure first.
struct Findings([Option<Failure>; 5]);

impl Findings {
    /// The failure to act on: a permanent one if there is any, otherwise the first.
    fn worst(self) -> Option<Failure> {
        let Self(failures) = self;
        let mut worst: Option<Failure> = None;
        for failure in failures.into_iter().flatten() {
            if worst.is_none() || failure.severity == Severity::Permanent {
                worst = Some(failure);
            }
            if failure.severity == Severity::Permanent {
                break;
            }
        }
        worst
    }
}

impl VendorStatistics {
    /// Adds the failures of one block and judges them.
    fn count(&mut self, rct_failures: u32, apt_failures: u32) -> [Option<Failure>; 2] {
        self.max_rct_failures = self.max_rct_failures.max(rct_failures);
        self.max_apt_failures = self.max_apt_failures.max(apt_failures);
        self.total_rct_failures = self
            .total_rct_failures
            .wrapping_add(u64::from(rct_failures));
        self.total_apt_failures = self
            .total_apt_failures
            .wrapping_add(u64::from(apt_failures));
        let rct = (rct_failures > VENDOR_FAILURES).then(|| {
            self.rct_status = VENDOR_RCT_STATUS;
            Failure::intermittent(Test::VendorRct, rct_failures, VENDOR_FAILURES + 1)
        });
        let apt = (apt_failures > VENDOR_FAILURES).then(|| {
            self.apt_status = VENDOR_APT_STATUS;
            Failure::intermittent(Test::VendorApt, apt_failures, VENDOR_FAILURES + 1)
        });
        [rct, apt]
    }
}

/// Failures that the vendor's repetition count test finds in a run of `length` equal bytes.
///
/// The byte that completes a failure is the first of the next run, so the first failure takes
/// [`VENDOR_RUN`] bytes and each further one takes a byte less.
fn vendor_rct_failures_in_run(length: u32) -> u32 {
    length.saturating_sub(1) / (VENDOR_RUN - 1)
}

/// Failures that the vendor's adaptive proportion test finds in a block.
///
/// A window that the end of the block cuts short is never judged.
fn vendor_apt_failures(data: &[u8; BLOCK]) -> u32 {
    let mut failures: u32 = 0;
    for window in data.chunks_exact(VENDOR_WINDOW) {
        let [reference, compared @ .., _] = window else {
            continue;
        };
        if vendor_window_is_suspicious(window)
            && swar::count_equal(compared, *reference) > VENDOR_MATCHES
        {
            failures = failures.wrapping_add(1);
        }
    }
    failures
}

/// Whether a window of [`VENDOR_WINDOW`] bytes may have more than [`VENDOR_MATCHES`] matches.
///
/// Each half of the window is folded into one word of marks: a mark says that at least one and at
/// most four of the bytes in its place match. More than five matches therefore leave two marks,
/// which one window of random bytes in forty does.
#[inline(always)]
fn vendor_window_is_suspicious(window: &[u8]) -> bool {
    let [reference, words @ ..] = window else {
        return false;
    };
    let reference = swar::broadcast(*reference);
    let mut words = words.chunks_exact(8).map(swar::word);
    let mut fold = || {
        words
            .by_ref()
            .take(4)
            .fold(!0, |unequal, word| unequal & swar::unequal(word, reference))
    };
    let marks = (!fold() & swar::TOP_BITS) | ((!fold() & swar::TOP_BITS) >> 1);
    marks & marks.wrapping_sub(1) != 0
}

/// The continuous tests of SP 800-90B 4.4, over a stream that comes in pieces of any length.
pub(crate) struct Continuous {
    /// The cutoffs in force.
    cutoffs: Cutoffs,
    /// RCT: the last sample.
    last: u8,
    /// RCT: how many times in a row `last` has come; 0 before the first sample.
    run: u32,
    /// APT: the first sample of the open window.
    reference: u8,
    /// APT: samples in the open window, less than [`WINDOW`]; 0 if none is open.
    seen: usize,
    /// APT: matches in the open window, its first sample included.
    matches: u32,
    /// See [`Statistics::samples`].
    pub(crate) samples: u64,
    /// See [`Statistics::rct_failures`].
    pub(crate) rct_failures: u64,
    /// See [`Statistics::apt_failures`].
    pub(crate) apt_failures: u64,
    /// See [`Statistics::longest_run`].
    pub(crate) longest_run: u32,
    /// See [`Statistics::highest_count`].
    pub(crate) highest_count: u32,
}

impl Continuous {
    /// Tests with these cutoffs, before the first sample.
    pub(crate) const fn new(cutoffs: Cutoffs) -> Self {
        Self {
            cutoffs,
            last: 0,
            run: 0,
            reference: 0,
            seen: 0,
            matches: 0,
            samples: 0,
            rct_failures: 0,
            apt_failures: 0,
            longest_run: 0,
            highest_count: 0,
        }
    }

    /// Begins a new stream: the next sample is the first. The numbers go on.
    fn reinitialise(&mut self) {
        self.run = 0;
        self.seen = 0;
        self.matches = 0;
    }

    /// Tests the samples `data` that follow those before, and judges the two tests.
    ///
    /// The whole of `data` is tested, also behind a failure. `each_run` is called with the length
    /// of each run inside `data` that has at least [`LONG_RUN`] samples.
    pub(crate) fn test(
        &mut self,
        data: &[u8],
        each_run: &mut dyn FnMut(u32),
    ) -> [Option<Failure>; 2] {
        self.samples = self.samples.wrapping_add(data.len() as u64);
        let longest = self.repetition_count(data, each_run);
        let highest = self.adaptive_proportion(data);
        self.longest_run = self.longest_run.max(longest);
        self.highest_count = self.highest_count.max(highest);
        [
            self.cutoffs.rct.judge(Test::Rct, longest),
            self.cutoffs.apt.judge(Test::Apt, highest),
        ]
    }

    /// Does the RCT over `data` and returns the length that its longest run has reached.
    ///
    /// The result may be too small while it is below both [`LONG_RUN`] and `longest_run`.
    fn repetition_count(&mut self, data: &[u8], each_run: &mut dyn FnMut(u32)) -> u32 {
        let (Some(first), Some(last)) = (data.first(), data.last()) else {
            return 0;
        };
        let cutoff = self.cutoffs.rct.intermittent;
        let mut failures: u64 = 0;

        // The first run may go on from the data before; then it may have failed already.
        let carried = if *first == self.last { self.run } else { 0 };
        let leading = run_length(data.iter(), *first);
        let mut longest = carried.saturating_add(leading);
        if carried < cutoff && longest >= cutoff {
            failures = failures.wrapping_add(1);
        }

        for run in Runs::new(data) {
            each_run(run.length);
            longest = longest.max(run.length);
            if run.start > 0 && run.length >= cutoff {
                failures = failures.wrapping_add(1);
            }
        }
        if self.longest_run < LONG_RUN - 1 {
            longest = longest.max(longest_run(data));
        }

        let trailing = run_length(data.iter().rev(), *last);
        self.run = if trailing as usize == data.len() {
            carried.saturating_add(trailing)
        } else {
            trailing
        };
        self.last = *last;
        self.rct_failures = self.rct_failures.wrapping_add(failures);
        longest
    }

    /// Does the APT over `data` and returns the highest count that a window has reached.
    ///
    /// The result may be too low while it is below both the cutoff and `highest_count`.
    fn adaptive_proportion(&mut self, mut data: &[u8]) -> u32 {
        let cutoff = self.cutoffs.apt.intermittent;
        let mut highest: u32 = 0;
        while let Some(first) = data.first() {
            if self.seen == 0 {
                // Most windows are whole ones in which nothing is worth an exact count.
                if let Some((window, rest)) = data.split_first_chunk::<WINDOW>() {
                    let limit = self
                        .highest_count
                        .max(highest)
                        .min(cutoff.saturating_sub(1));
                    if swar::count_equal_at_most(window, *first) <= limit {
                        data = rest;
                        continue;
                    }
                }
                self.reference = *first;
                self.matches = 0;
            }
            let rest_of_window = WINDOW.saturating_sub(self.seen).min(data.len());
            let Some((window, rest)) = data.split_at_checked(rest_of_window) else {
                break;
            };
            let before = self.matches;
            self.matches = before.saturating_add(swar::count_equal(window, self.reference));
            highest = highest.max(self.matches);
            if before < cutoff && self.matches >= cutoff {
                self.apt_failures = self.apt_failures.wrapping_add(1);
            }
            self.seen = self.seen.wrapping_add(window.len());
            if self.seen >= WINDOW {
                self.seen = 0;
            }
            data = rest;
        }
        highest
    }
}

/// Counts the bytes at the beginning of `data` that are equal to `value`.
fn run_length<'a>(data: impl Iterator<Item = &'a u8>, value: u8) -> u32 {
    data.take_while(|byte| **byte == value)
        .fold(0, |length: u32, _| length.saturating_add(1))
}

/// The length of the longest run in `data`, byte by byte.
#[cold]
fn longest_run(data: &[u8]) -> u32 {
    let mut longest: u32 = 0;
    let mut length: u32 = 0;
    let mut last = None;
    for byte in data {
        length = if last == Some(byte) {
            length.saturating_add(1)
        } else {
            1
        };
        longest = longest.max(length);
        last = Some(byte);
    }
    longest
}

/// A run of equal bytes.
struct Run {
    /// Position of its first byte.
    start: usize,
    /// Its length in bytes.
    length: u32,
}

/// The runs of at least [`LONG_RUN`] bytes in a piece of data, in their order.
///
/// The data are searched in groups of [`GROUP`] bytes, and byte by byte only where a group has
/// three equal bytes in a row that begin at an even position: every run of four has such three.
struct Runs<'a> {
    /// The data.
    data: &'a [u8],
    /// Where the search byte by byte goes on: the beginning of a run.
    position: usize,
    /// Where the search byte by byte ends: no run that begins there or later is looked at.
    end: usize,
    /// Where the next group begins.
    group: usize,
}

impl<'a> Runs<'a> {
    /// Searches `data` from its beginning.
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            position: 0,
            end: 0,
            group: 0,
        }
    }

    /// Searches byte by byte from `position` to `end`.
    fn next_in_group(&mut self) -> Option<Run> {
        while self.position < self.end {
            let start = self.position;
            let rest = self.data.get(start..)?;
            let length = run_length(rest.iter(), *rest.first()?);
            self.position = start.saturating_add(length as usize);
            if length >= LONG_RUN {
                return Some(Run { start, length });
            }
        }
        None
    }

    /// Finds the next group that may have a run, and sets `position` and `end` to search it.
    fn next_group(&mut self) -> Option<()> {
        let mut groups = self.data.get(self.group..)?;
        // A group and the byte behind it; the last bytes of the data are always worth a search.
        while let Some(group) = groups.first_chunk::<{ GROUP + 1 }>() {
            if swar::has_three_equal(group) {
                break;
            }
            groups = groups.get(GROUP..)?;
        }
        let first = groups.first()?;
        let start = self.data.len().saturating_sub(groups.len());
        self.group = start.saturating_add(GROUP);
        self.end = self.group.min(self.data.len());

        // A run may have begun in the group before, unless it has been searched already.
        let before = self.data.get(self.position..start).unwrap_or(&[]);
        let begun = run_length(before.iter().rev(), *first) as usize;
        self.position = self.position.max(start.saturating_sub(begun));
        Some(())
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        loop {
            if let Some(run) = self.next_in_group() {
                return Some(run);
            }
            self.next_group()?;
        }
    }
}

/// Fingerprints of the last [`REMEMBERED`] blocks.
struct Memory {
    /// The fingerprints, the latest first; [`None`] where there was no block yet.
    fingerprints: [Option<u64>; REMEMBERED],
}

impl Memory {
    /// Remembers no block.
    const fn new() -> Self {
        Self {
            fingerprints: [None; REMEMBERED],
        }
    }

    /// Remembers `fingerprint` and says how many blocks ago the same came last, if it did.
    fn recall(&mut self, fingerprint: u64) -> Option<u32> {
        let blocks = self
            .fingerprints
            .iter()
            .zip(1u32..)
            .find(|(old, _)| **old == Some(fingerprint))
            .map(|(_, blocks)| blocks);
        self.fingerprints.rotate_right(1);
        if let Some(latest) = self.fingerprints.first_mut() {
            *latest = Some(fingerprint);
        }
        blocks
    }
}

/// A fingerprint of a block.
///
/// Equal blocks have equal fingerprints. Two blocks of random bytes have the same one with
/// probability 2^-64; nothing here has to resist an attacker, who could send anything.
fn fingerprint(data: &[u8; BLOCK]) -> u64 {
    /// 2^64 divided by the golden ratio, made odd: a usual multiplier to mix bits with.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Bytes in a round: a word for each lane.
    const ROUND: usize = 32;

    // A block is a whole number of rounds.
    const _: () = assert!(BLOCK % ROUND == 0);

    // Two running sums, as in Fletcher's checksum: the second one knows the order of the words.
    // Four pairs of them, because one pair would wait for itself.
    let mut lanes = [(0u64, 0u64); 4];
    for bytes in data.chunks_exact(ROUND) {
        for ((sum, sum_of_sums), bytes) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            *sum = sum.wrapping_add(swar::word(bytes));
            *sum_of_sums = sum_of_sums.wrapping_add(*sum);
        }
    }
    lanes.iter().fold(0, |hash: u64, (sum, sum_of_sums)| {
        [sum, sum_of_sums].into_iter().fold(hash, |hash, part| {
            (hash ^ part).wrapping_mul(MULTIPLIER).rotate_left(29)
        })
    })
}

/// Eight bytes at a time in a general register: the kernel must not use SSE here.
///
/// A byte equals the reference if their exclusive or is zero. To find zero bytes, let `w` be the
/// word and `L` the word with a one in the lowest bit of each byte. `(w - L) & !w` has the top bit
/// set in each byte of `w` that is zero, because that byte borrows, and clear in each other byte,
/// unless a zero byte below has taken the borrow from a byte that is one: a zero byte is never
/// missed, and now and then there seems to be one more. That is good enough to pass over data in
/// which there is nothing to see. What is counted is `(w & !T) + !T | w` instead, `T` being the top
/// bits: no carry leaves a byte, and its top bit is clear exactly if the byte is zero. The same
/// works for lanes of two bytes.
mod swar {
    use super::{
        GROUP,
        WINDOW, //
    };

    /// The lowest bit of each byte.
    const LOW_BITS: u64 = u64::MAX / 0xff;

    /// The top bit of each byte.
    pub(super) const TOP_BITS: u64 = LOW_BITS << 7;

    /// The lowest bit of each lane of two bytes.
    const LOW_BITS_16: u64 = u64::MAX / 0xffff;

    /// The top bit of each lane of two bytes.
    const TOP_BITS_16: u64 = LOW_BITS_16 << 15;

    /// The first eight bytes of `bytes` as a word whose lowest byte is the first one.
    ///
    /// All callers pass at least eight; the value for fewer is 0.
    #[inline(always)]
    pub(super) fn word(bytes: &[u8]) -> u64 {
        bytes
            .first_chunk()
            .map_or(0, |word| u64::from_le_bytes(*word))
    }

    /// A word of eight times `byte`.
    #[inline(always)]
    pub(super) const fn broadcast(byte: u8) -> u64 {
        LOW_BITS.wrapping_mul(byte as u64)
    }

    /// Compares the bytes of two words: the top bit of a byte is clear if they are equal, and set
    /// if they are not, but for the rare error that the module's head speaks of. The other bits
    /// mean nothing.
    #[inline(always)]
    pub(super) fn unequal(word: u64, reference: u64) -> u64 {
        // The complement of `(w - L) & !w`, in one operation less.
        let w = word ^ reference;
        (LOW_BITS - 1).wrapping_sub(w) | w
    }

    /// Sums the bytes of a word.
    #[inline(always)]
    fn sum_of_bytes(word: u64) -> u32 {
        const EVEN: u64 = u64::MAX / 0xffff * 0xff;
        let pairs = (word & EVEN).wrapping_add((word >> 8) & EVEN);
        (pairs.wrapping_mul(LOW_BITS_16) >> 48) as u32
    }

    /// Counts the bytes of `data` that are equal to `reference`.
    pub(super) fn count_equal(data: &[u8], reference: u8) -> u32 {
        let mut count: u32 = 0;
        // 255 words at once, so that no byte of the sum overflows.
        for data in data.chunks(8 * 255) {
            let words = data.chunks_exact(8);
            for byte in words.remainder() {
                count = count.wrapping_add(u32::from(*byte == reference));
            }
            let mut sum: u64 = 0;
            for bytes in words {
                let w = word(bytes) ^ broadcast(reference);
                let unequal = (w & !TOP_BITS).wrapping_add(!TOP_BITS) | w;
                sum = sum.wrapping_add((!unequal & TOP_BITS) >> 7);
            }
            count = count.wrapping_add(sum_of_bytes(sum));
        }
        count
    }

    /// A number that is not less than the count of the bytes in `window` that are equal to
    /// `reference`.
    ///
    /// Two words are folded into one before they are counted, so each mark in it stands for at most
    /// two matches.
    #[inline(always)]
    pub(super) fn count_equal_at_most(window: &[u8; WINDOW], reference: u8) -> u32 {
        const PAIRS: u32 = (WINDOW / 16) as u32;
        let reference = broadcast(reference);
        let mut sum: u64 = 0;
        for pair in window.chunks_exact(16) {
            let (first, second) = pair.split_at_checked(8).unwrap_or((pair, pair));
            let unmarked = unequal(word(first), reference) & unequal(word(second), reference);
            sum = sum.wrapping_add((unmarked >> 7) & LOW_BITS);
        }
        (PAIRS * 8).wrapping_sub(sum_of_bytes(sum)).wrapping_mul(2)
    }

    /// Whether three equal bytes in a row begin at an even position of `group`, whose last byte
    /// belongs to the next group.
    #[inline(always)]
    pub(super) fn has_three_equal(group: &[u8; GROUP + 1]) -> bool {
        let [_, next @ ..] = group;
        let mut none: u64 = TOP_BITS_16;
        for (bytes, next) in group.chunks_exact(8).zip(next.chunks_exact(8)) {
            // A lane is zero if its two bytes are equal to those one further on.
            let w = word(bytes) ^ word(next);
            none &= (LOW_BITS_16 - 1).wrapping_sub(w) | w;
        }
        none != TOP_BITS_16
    }
}

/// A known-answer vector of [`self_test`] whose answer was another one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SelfTestFailure {
    /// What the vector shows.
    vector: &'static str,
    /// Assessed min-entropy, in bits per byte, that the vector ran with.
    min_entropy: u32,
}

impl fmt::Display for SelfTestFailure {
    /// One clause for a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vector,
            min_entropy,
        } = self;
        write!(
            f,
            "known-answer vector \"{vector}\" disagrees at a min-entropy of {min_entropy} bits \
             per byte"
        )
    }
}

/// The cutoffs that the self-test demands, for min-entropies of 1 to 8 bits per byte: RCT
/// intermittent and permanent, APT intermittent and permanent.
///
/// They are the standard's, written down a second time: a vector that took its cutoff from the code
/// under test would follow each of its errors.
const KNOWN_CUTOFFS: [[u32; 4]; 8] = [
    [41, 61, 336, 355],
    [21, 31, 201, 220],
    [15, 21, 123, 139],
    [11, 16, 78, 91],
    [9, 13, 51, 62],
    [8, 11, 35, 44],
    [7, 10, 26, 32],
    [6, 9, 19, 25],
];

/// Samples in a window of the APT, written down a second time as well.
const KNOWN_WINDOW: usize = 512;

/// Runs known-answer vectors through every test of both layers and through the policy: each test
/// must pass just below its cutoff and fail at it, inside a block and across the border of two.
///
/// `scratch` holds the blocks; what is in it before does not matter. An error means that this build
/// must not be used.
pub(crate) fn self_test(scratch: &mut [u8; BLOCK]) -> Result<(), SelfTestFailure> {
    for (min_entropy, known) in (1..=8).zip(KNOWN_CUTOFFS) {
        let failed = |vector| SelfTestFailure {
            vector,
            min_entropy,
        };
        let min_entropy = MinEntropy::new(min_entropy).ok_or(failed("min-entropy"))?;
        continuous_vectors(scratch, min_entropy, known).map_err(failed)?;
        vendor_vectors(scratch, min_entropy).map_err(failed)?;
        policy_vectors(scratch, min_entropy, known).map_err(failed)?;
    }
    if MinEntropy::new(0).is_some() || MinEntropy::new(9).is_some() {
        return Err(SelfTestFailure {
            vector: "range of the min-entropy",
            min_entropy: 0,
        });
    }
    Ok(())
}

/// Turns a comparison into the result of a vector.
fn expect(agrees: bool, vector: &'static str) -> Result<(), &'static str> {
    agrees.then_some(()).ok_or(vector)
}

/// Fills `block` with bytes that fail no test and are never 0: a counter from 1 to 255 that begins
/// at `1 + seed`.
#[inline(never)]
fn background(block: &mut [u8; BLOCK], seed: u8) {
    let mut value = seed;
    for byte in block {
        value = if value == u8::MAX {
            1
        } else {
            value.wrapping_add(1)
        };
        *byte = value;
    }
}

/// Writes zeros to `positions` of `block`, which a position is counted from the beginning of; those
/// that are not in the block are left out.
fn plant(block: &mut [u8; BLOCK], positions: impl Iterator<Item = usize>) {
    for position in positions {
        if let Some(byte) = block.get_mut(position) {
            *byte = 0;
        }
    }
}

/// Positions of `count` bytes, at least two, that are spread evenly over the window that begins at
/// `start`, its first and its last byte among them, and of the byte behind the window.
fn spread(start: usize, count: u32) -> impl Iterator<Item = usize> {
    let last = count.saturating_sub(1) as usize;
    (0..=last)
        .filter_map(move |index| index.saturating_mul(KNOWN_WINDOW - 1).checked_div(last))
        .chain([KNOWN_WINDOW])
        .map(move |offset| start.saturating_add(offset))
}

/// Positions of `count` bytes in the window that begins at `start`, its first byte among them, as
/// many as possible in the same place of the two words that are folded into one before they are
/// counted.
fn folded(start: usize, count: u32) -> impl Iterator<Item = usize> {
    // Places that are not neighbours come first.
    [0, 2, 4, 6, 1, 3, 5, 7]
        .into_iter()
        .flat_map(|place: usize| {
            (0..KNOWN_WINDOW)
                .step_by(8)
                .map(move |word| word.saturating_add(place))
        })
        .take(count as usize)
        .map(move |offset| start.saturating_add(offset))
}

/// The vectors of the SP 800-90B layer. An error is the vector's name.
fn continuous_vectors(
    scratch: &mut [u8; BLOCK],
    min_entropy: MinEntropy,
    known: [u32; 4],
) -> Result<(), &'static str> {
    // Where the first window that a block of 16000 samples cuts begins.
    const CUT_WINDOW: usize = BLOCK - BLOCK % KNOWN_WINDOW;

    let [rct_intermittent, rct_permanent, apt_intermittent, apt_permanent] = known;
    let below = |cutoff: u32| cutoff.saturating_sub(1);
    let failure = |test, severity, count, cutoff| {
        Some(Failure {
            test,
            severity,
            count,
            cutoff,
        })
    };

    let rct = |severity, count, cutoff| failure(Test::Rct, severity, count, cutoff);
    for (count, answer, vector) in [
        (
            below(rct_intermittent),
            None,
            "RCT below the intermittent cutoff",
        ),
        (
            rct_intermittent,
            rct(Severity::Intermittent, rct_intermittent, rct_intermittent),
            "RCT at the intermittent cutoff",
        ),
        (
            below(rct_permanent),
            rct(
                Severity::Intermittent,
                below(rct_permanent),
                rct_intermittent,
            ),
            "RCT below the permanent cutoff",
        ),
        (
            rct_permanent,
            rct(Severity::Permanent, rct_permanent, rct_permanent),
            "RCT at the permanent cutoff",
        ),
    ] {
        let count = count as usize;

        let mut tests = Continuous::new(min_entropy.cutoffs());
        background(scratch, 0);
        // It begins with the last byte of a group.
        plant(scratch, 767..count.saturating_add(767));
        expect(tests.test(scratch, &mut |_| ()) == [answer, None], vector)?;

        // All but the last sample of the run in the first block.
        let mut tests = Continuous::new(min_entropy.cutoffs());
        background(scratch, 0);
        let start = (BLOCK + 1).saturating_sub(count);
        plant(scratch, start..BLOCK);
        let [before, _] = tests.test(scratch, &mut |_| ());
        expect(
            before.is_none() || count > rct_intermittent as usize,
            vector,
        )?;
        background(scratch, 0);
        plant(scratch, 0..1);
        expect(tests.test(scratch, &mut |_| ()) == [answer, None], vector)?;
    }

    let apt = |severity, count, cutoff| failure(Test::Apt, severity, count, cutoff);
    for (count, answer, vector) in [
        (
            below(apt_intermittent),
            None,
            "APT below the intermittent cutoff",
        ),
        (
            apt_intermittent,
            apt(Severity::Intermittent, apt_intermittent, apt_intermittent),
            "APT at the intermittent cutoff",
        ),
        (
            below(apt_permanent),
            apt(
                Severity::Intermittent,
                below(apt_permanent),
                apt_intermittent,
            ),
            "APT below the permanent cutoff",
        ),
        (
            apt_permanent,
            apt(Severity::Permanent, apt_permanent, apt_permanent),
            "APT at the permanent cutoff",
        ),
    ] {
        let mut tests = Continuous::new(min_entropy.cutoffs());
        background(scratch, 0);
        plant(scratch, spread(3 * KNOWN_WINDOW, count));
        expect(tests.test(scratch, &mut |_| ()) == [None, answer], vector)?;

        // The window that both blocks have a part of.
        let mut tests = Continuous::new(min_entropy.cutoffs());
        background(scratch, 0);
        plant(scratch, spread(CUT_WINDOW, count));
        expect(tests.test(scratch, &mut |_| ()) == [None, None], vector)?;
        background(scratch, 0);
        plant(
            scratch,
            spread(CUT_WINDOW, count).filter_map(|position| position.checked_sub(BLOCK)),
        );
        expect(tests.test(scratch, &mut |_| ()) == [None, answer], vector)?;
    }

    // A window just below the cutoff must not make the next one look harmless.
    let mut tests = Continuous::new(min_entropy.cutoffs());
    background(scratch, 0);
    plant(scratch, spread(3 * KNOWN_WINDOW, below(apt_intermittent)));
    plant(scratch, folded(5 * KNOWN_WINDOW, apt_intermittent));
    expect(
        tests.test(scratch, &mut |_| ())
            == [
                None,
                apt(Severity::Intermittent, apt_intermittent, apt_intermittent),
            ],
        "APT after a window below the cutoff",
    )
}

/// The vectors of the vendor layer. An error is the vector's name.
fn vendor_vectors(scratch: &mut [u8; BLOCK], min_entropy: MinEntropy) -> Result<(), &'static str> {
    // RCT: runs of a length, and how many of them; the failures they must give.
    for (length, runs, failures, vector) in [
        (4, 200, 0, "vendor's RCT: runs of 4 are no failure"),
        (5, 6, 6, "vendor's RCT: six runs of 5 pass"),
        (5, 7, 7, "vendor's RCT: seven runs of 5 fail"),
        (28, 1, 6, "vendor's RCT: a run of 28 passes"),
        (29, 1, 7, "vendor's RCT: a run of 29 fails"),
    ] {
        background(scratch, 0);
        for start in (63..BLOCK).step_by(73).take(runs) {
            plant(scratch, start..start.saturating_add(length));
        }
        let (rct, _, statistics) = vendor_layer(scratch, min_entropy);
        let answer = (failures > 6).then(|| Failure::intermittent(Test::VendorRct, failures, 7));
        let status = if answer.is_some() { 1 } else { 0 };
        expect(
            rct == answer
                && statistics.rct_status == status
                && statistics.max_rct_failures == failures
                && statistics.total_rct_failures == u64::from(failures),
            vector,
        )?;
    }

    // RCT: a run that goes on in the next block is two runs.
    let mut health = Health::new(min_entropy);
    background(scratch, 0);
    plant(scratch, BLOCK - 4..BLOCK);
    let _ = health.examine(scratch);
    background(scratch, 0);
    plant(scratch, 0..4);
    let _ = health.examine(scratch);
    expect(
        health.vendor.total_rct_failures == 0,
        "vendor's RCT restarts with each block",
    )?;

    // APT: zeros in a window, its first byte among them, and how many such windows; the failures
    // they must give. The byte that ends the window is always 0 and must not count.
    let five: &[usize] = &[0, 1, 13, 25, 37, 63, 64];
    let six: &[usize] = &[0, 1, 13, 25, 37, 49, 63, 64];
    let late: &[usize] = &[0, 50, 52, 54, 58, 60, 62, 64];
    let same_place: &[usize] = &[0, 1, 9, 17, 25, 33, 41, 64];
    for (offsets, windows, failures, vector) in [
        (five, 246, 0, "vendor's APT: five matches are no failure"),
        (six, 6, 6, "vendor's APT: six windows with six matches pass"),
        (
            six,
            7,
            7,
            "vendor's APT: seven windows with six matches fail",
        ),
        (late, 7, 7, "vendor's APT: matches at the end of the window"),
        (same_place, 7, 7, "vendor's APT: matches eight bytes apart"),
    ] {
        background(scratch, 0);
        for start in (0..BLOCK).step_by(65).take(windows) {
            plant(
                scratch,
                offsets.iter().map(|offset| offset.saturating_add(start)),
            );
        }
        let (_, apt, statistics) = vendor_layer(scratch, min_entropy);
        let answer = (failures > 6).then(|| Failure::intermittent(Test::VendorApt, failures, 7));
        let status = if answer.is_some() { 2 } else { 0 };
        expect(
            apt == answer
                && statistics.apt_status == status
                && statistics.max_apt_failures == failures
                && statistics.total_apt_failures == u64::from(failures),
            vector,
        )?;
    }

    // APT: 16000 bytes are 246 windows and ten bytes of one that is never finished.
    background(scratch, 0);
    plant(
        scratch,
        [0, 1, 2, 4, 5, 6, 8]
            .into_iter()
            .map(|offset: usize| offset.saturating_add(15990)),
    );
    let (_, _, statistics) = vendor_layer(scratch, min_entropy);
    expect(
        statistics.total_apt_failures == 0,
        "vendor's APT: an unfinished window is no failure",
    )
}

/// The vendor layer's RCT and APT verdicts on `block`, and its numbers, when it is the first one.
fn vendor_layer(
    block: &[u8; BLOCK],
    min_entropy: MinEntropy,
) -> (Option<Failure>, Option<Failure>, VendorStatistics) {
    let mut health = Health::new(min_entropy);
    let Findings([_, _, rct, apt, _]) = health.examine(block);
    (rct, apt, health.vendor)
}

/// What happens in a vector of the policy.
#[derive(Clone, Copy)]
enum Event {
    /// A block comes that passes; blocks of different seeds are different.
    Healthy(u8),
    /// A block comes that has seven runs of five, too many for the vendor layer alone.
    Runs,
    /// A block of zeros comes.
    Stuck,
    /// A block comes with a run of the first length, and with a window of the second count.
    RunAndWindow(u32, u32),
    /// A block comes that passes and ends with so many zeros.
    Trailing(usize),
    /// A block comes that passes and begins with a zero.
    Leading,
    /// The device reports a failure with status byte 4.
    Status,
    /// A block comes that is not tested.
    Untested,
    /// The tests are restarted. Decides nothing; [`Decision::Deliver`] stands for that.
    Restart,
}

impl Event {
    /// Lets it happen.
    fn happen(self, health: &mut Health, scratch: &mut [u8; BLOCK]) -> Decision {
        background(scratch, 100);
        match self {
            Self::Healthy(seed) => background(scratch, seed),
            Self::Runs => {
                for start in (3..BLOCK).step_by(73).take(7) {
                    plant(scratch, start..start.saturating_add(5));
                }
            }
            Self::Stuck => plant(scratch, 0..BLOCK),
            Self::RunAndWindow(length, count) => {
                plant(scratch, 767..(length as usize).saturating_add(767));
                plant(scratch, spread(5 * KNOWN_WINDOW, count));
            }
            Self::Trailing(length) => plant(scratch, BLOCK.saturating_sub(length)..BLOCK),
            Self::Leading => plant(scratch, 0..1),
            Self::Status => return health.device_failure(4),
            Self::Untested => return health.untested_block(),
            Self::Restart => {
                health.restart();
                return Decision::Deliver;
            }
        }
        health.test_block(scratch)
    }
}

/// The vectors of the policy. An error is the vector's name.
fn policy_vectors(
    scratch: &mut [u8; BLOCK],
    min_entropy: MinEntropy,
    known: [u32; 4],
) -> Result<(), &'static str> {
    let deliver = Decision::Deliver;
    let start_up = Decision::Discard(Why::StartUp);
    let discard = |test, count, cutoff| {
        Decision::Discard(Why::Failure(Failure::intermittent(test, count, cutoff)))
    };
    let status = Failure::intermittent(Test::DeviceStatus, 4, 1);
    let [rct_intermittent, rct_permanent, _, apt_permanent] = known;
    let permanent = |test, count, cutoff| {
        Decision::Stop(Failure {
            test,
            severity: Severity::Permanent,
            count,
            cutoff,
        })
    };
    let stuck = permanent(Test::Rct, BLOCK as u32, rct_permanent);
    // One sample less than a failing run, but not so many that the vendor layer minds.
    let trailing = rct_intermittent.saturating_sub(1).min(28) as usize;

    let mut health = Health::new(min_entropy);
    let [mut vendor_failed, mut vendor_passed] = [0; 2];
    for (event, decision, vector) in [
        (Event::Healthy(0), start_up, "start-up test"),
        (Event::Healthy(1), deliver, "start-up test has passed"),
        (
            Event::Healthy(0),
            discard(Test::RepeatedBlock, 2, 16),
            "repeated block",
        ),
        (Event::Healthy(2), start_up, "start-up test after a failure"),
        (
            Event::Healthy(3),
            deliver,
            "second start-up test has passed",
        ),
        (
            Event::Status,
            discard(Test::DeviceStatus, 4, 1),
            "first failure",
        ),
        (Event::Healthy(4), start_up, "first failure is over"),
        (
            Event::Status,
            discard(Test::DeviceStatus, 4, 1),
            "second in a row",
        ),
        (Event::Status, Decision::Stop(status), "third in a row"),
        (Event::Healthy(5), Decision::Stop(status), "stopped"),
        (Event::Untested, Decision::Stop(status), "stopped untested"),
        (Event::Restart, deliver, "restart"),
        (Event::Untested, start_up, "untested start-up block"),
        (Event::Untested, deliver, "untested block"),
        (
            Event::Healthy(6),
            start_up,
            "start-up test after untested blocks",
        ),
        (Event::Trailing(trailing), deliver, "begun run"),
        (
            Event::Status,
            discard(Test::DeviceStatus, 4, 1),
            "gap in a run",
        ),
        (Event::Leading, start_up, "run that a failure has ended"),
        (Event::Healthy(7), deliver, "delivery between failures"),
        (
            Event::Runs,
            discard(Test::VendorRct, 7, 7),
            "vendor's failure",
        ),
        (Event::Healthy(8), start_up, "vendor's failure is over"),
        (
            Event::Healthy(9),
            deliver,
            "delivery after the vendor's failure",
        ),
        (Event::Stuck, stuck, "permanent failure"),
        (Event::Healthy(10), stuck, "permanent stop"),
        (Event::Restart, deliver, "restart after a permanent failure"),
        (
            Event::RunAndWindow(rct_intermittent, apt_permanent),
            permanent(Test::Apt, apt_permanent, apt_permanent),
            "permanent beside an intermittent failure",
        ),
    ] {
        expect(event.happen(&mut health, scratch) == decision, vector)?;
        match event {
            Event::Runs => vendor_failed = health.vendor.rct_status,
            Event::Healthy(8) => vendor_passed = health.vendor.rct_status,
            _ => (),
        }
    }
    expect(
        (vendor_failed, vendor_passed) == (VENDOR_RCT_STATUS, 0),
        "vendor's status byte",
    )?;

    // A block is remembered for as long as sixteen others.
    let mut health = Health::new(min_entropy);
    for seed in 0..17 {
        let _ = Event::Healthy(seed).happen(&mut health, scratch);
    }
    for (seed, decision) in [(0, deliver), (2, discard(Test::RepeatedBlock, 16, 16))] {
        expect(
            Event::Healthy(seed).happen(&mut health, scratch) == decision,
            "blocks remembered",
        )?;
    }
    Ok(())
}
