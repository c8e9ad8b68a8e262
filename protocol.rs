// SPDX-License-Identifier: GPL-2.0

//! The AlphaRNG's wire protocol: what to send, when an answer is complete, what to do when it is not.
//!
//! The device answers each one-byte command with 16000 bytes of data and a status byte. Nothing in
//! the answer marks its beginning, so the host stays in step by counting, and gets back into step by
//! waiting until the line is quiet:
//!
//! ```text
//!            quiet                 command sent                16001 bytes
//! Draining --------> Ready ------------------------> Receiving -----------> Ready
//!    ^                                                   |
//!    +-----  silence, error, too many bytes  ------------+
//! ```
//!
//! After such a failure a late answer may still be on its way, and would pass for the answer to the
//! next command for ever after. Therefore the first complete answer behind a failure is not used:
//! the line must be quiet behind it for longer than an answer may take ([`State::Probation`]).
//!
//! This file is pure: it takes numbers of bytes and times, and returns decisions. No I/O, no kernel
//! types; the host-side tests compile it unchanged.

/// Bytes of data in an answer.
pub(crate) const DATA: usize = 16_000;

/// Bytes in an answer: the data and the status byte.
pub(crate) const ANSWER: usize = DATA + 1;

/// How long the device may take for the rest of an answer, in milliseconds: the vendor waits 1 s.
pub(crate) const ANSWER_TIMEOUT: u64 = 1_000;

/// How long the line must be silent behind the first complete answer after a failure, in
/// milliseconds: longer than a late answer can follow the one before it.
///
/// A device that keeps being as slow as this never has a complete answer in time anyway.
pub(crate) const PROBATION: u64 = 2 * ANSWER_TIMEOUT;

/// How long the line must be silent before the first command and before a retry, in milliseconds.
///
/// What an earlier owner left in the device is there at once, so this need not be long.
pub(crate) const QUIET: u64 = 50;

/// How many times a command is tried before the device is given up: as many as the vendor does.
pub(crate) const ATTEMPTS: u32 = 15;

/// How many bytes may be drained in one attempt before the device is said to babble.
///
/// An earlier owner can have left a few answers; the stock serial driver keeps 16 reads posted.
pub(crate) const MAX_DRAINED: usize = 32 * ANSWER;

/// How many empty transfers may come in one attempt.
///
/// Each of them costs time on the host's side while it says nothing.
pub(crate) const MAX_EMPTY: u32 = 64;

/// What the host can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    /// Entropy: both sources, combined and de-biased.
    Entropy = b'x',
}

/// What the status byte of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceStatus {
    /// The device's own tests passed.
    Healthy,
    /// They did not; any of the bits 1 (RCT), 2 (APT) and 4 (frequency) of the status byte.
    Failed(u8),
    /// The byte is none that a device sends: host and device are out of step.
    OutOfStep(u8),
}

impl DeviceStatus {
    /// From the last byte of an answer.
    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Healthy,
            1..=7 => Self::Failed(byte),
            _ => Self::OutOfStep(byte),
        }
    }
}

/// Why an attempt to get an answer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The rest of the answer did not come in time; so many bytes had.
    Silent(usize),
    /// More bytes came than an answer has.
    TooLong,
    /// The status byte is none that a device sends.
    BadStatus(u8),
    /// The line did not become quiet.
    NotQuiet,
    /// The transfer of the command or of the answer failed.
    Transfer,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Keep reading, at [`Protocol::received`] in the buffer.
    Read,
    /// The line is quiet, or the answer was used: a command may be sent when there is a buffer.
    Ready,
    /// A complete answer is in the buffer, and it is the answer to the command.
    Answer,
    /// What is in the buffer is worthless; read on, from the beginning of the buffer.
    Discard,
    /// As [`Step::Discard`], after an attempt that failed.
    Retry(Failure),
    /// All attempts failed; stop until [`Protocol::restart`].
    GiveUp(Failure),
}

/// Where in the exchange host and device are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for the line to become quiet; what comes is thrown away.
    Draining,
    /// Quiet; a command may be sent.
    Ready,
    /// A command was sent, its answer is coming.
    Receiving,
    /// The first complete answer behind a failure came; waiting whether more does.
    Probation,
    /// Given up.
    Dead,
}

/// One device's side of the conversation.
pub(crate) struct Protocol {
    /// Where in the exchange.
    state: State,
    /// Bytes of the present answer that have come.
    received: usize,
    /// Bytes thrown away in this attempt.
    drained: usize,
    /// Empty transfers in this attempt.
    empty: u32,
    /// Attempts that have failed since the last answer that was used.
    failures: u32,
    /// Whether an answer that comes is known to belong to the command before it.
    in_step: bool,
    /// When to lose patience, in milliseconds of the caller's clock.
    deadline: u64,
}

impl Protocol {
    /// Starts at the time `now` (milliseconds, any origin), with a line that may not be quiet.
    pub(crate) fn new(now: u64) -> Self {
        let mut this = Self {
            state: State::Draining,
            received: 0,
            drained: 0,
            empty: 0,
            failures: 0,
            // The first answer is the start-up test's, whoever asked for it.
            in_step: true,
            deadline: 0,
        };
        this.drain(State::Draining, now, QUIET);
        this
    }

    /// Starts again, with all attempts.
    pub(crate) fn restart(&mut self, now: u64) {
        // An answer that was under way may still come.
        self.in_step &= matches!(self.state, State::Ready);
        self.failures = 0;
        self.drain(State::Draining, now, QUIET);
    }

    /// How many bytes of the present answer are in the buffer: where the next ones go.
    pub(crate) fn received(&self) -> usize {
        self.received
    }

    /// Whether a command may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether the device was given up.
    pub(crate) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// When [`Self::tick`] has something to say, if at all.
    pub(crate) fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Ready | State::Dead => None,
            State::Draining | State::Receiving | State::Probation => Some(self.deadline),
        }
    }

    /// A command goes out, for which the buffer is empty.
    pub(crate) fn sent(&mut self, now: u64) {
        self.state = State::Receiving;
        self.received = 0;
        self.empty = 0;
        self.deadline = now.saturating_add(ANSWER_TIMEOUT);
    }

    /// A transfer from the device ended well, with `bytes` bytes.
    pub(crate) fn transferred(&mut self, now: u64, bytes: usize) -> Step {
        if bytes == 0 {
            self.empty = self.empty.saturating_add(1);
            if self.empty > MAX_EMPTY {
                return self.failed(now, Failure::NotQuiet);
            }
        }
        match self.state {
            State::Receiving => {
                self.received = self.received.saturating_add(bytes);
                match self.received {
                    ANSWER if self.in_step => {
                        self.state = State::Ready;
                        Step::Answer
                    }
                    ANSWER => {
                        self.drain(State::Probation, now, PROBATION);
                        Step::Discard
                    }
                    0..ANSWER => Step::Read,
                    _ => self.failed(now, Failure::TooLong),
                }
            }
            State::Draining | State::Probation => {
                self.drained = self.drained.saturating_add(bytes);
                if self.drained > MAX_DRAINED {
                    return self.failed(now, Failure::NotQuiet);
                }
                if bytes > 0 {
                    let quiet = if self.state == State::Draining {
                        QUIET
                    } else {
                        PROBATION
                    };
                    self.deadline = now.saturating_add(quiet);
                }
                Step::Discard
            }
            // Nothing was asked for, so what came belongs to nothing.
            State::Ready => self.failed(now, Failure::TooLong),
            State::Dead => Step::Discard,
        }
    }

    /// The status byte of the answer that [`Step::Answer`] announced is none that a device sends.
    pub(crate) fn bad_status(&mut self, now: u64, byte: u8) -> Step {
        self.failed(now, Failure::BadStatus(byte))
    }

    /// A transfer to or from the device failed.
    pub(crate) fn transfer_failed(&mut self, now: u64) -> Step {
        self.failed(now, Failure::Transfer)
    }

    /// The answer that [`Step::Answer`] announced was in step: all attempts are there again.
    pub(crate) fn used(&mut self) {
        self.failures = 0;
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self, now: u64) -> Step {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return if self.is_ready() {
                Step::Ready
            } else {
                Step::Read
            };
        }
        match self.state {
            State::Receiving => self.failed(now, Failure::Silent(self.received)),
            State::Draining => {
                self.state = State::Ready;
                Step::Ready
            }
            // Nothing came behind the answer: from here on each answer belongs to its command.
            State::Probation => {
                self.in_step = true;
                self.state = State::Ready;
                Step::Ready
            }
            State::Ready | State::Dead => Step::Read,
        }
    }

    /// Goes back to waiting for a quiet line, or gives up.
    fn failed(&mut self, now: u64, why: Failure) -> Step {
        if self.state == State::Dead {
            return Step::Discard;
        }
        self.in_step = false;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= ATTEMPTS {
            self.state = State::Dead;
            self.received = 0;
            return Step::GiveUp(why);
        }
        self.drain(State::Draining, now, QUIET);
        Step::Retry(why)
    }

    /// Throws away what comes, in `state`, until nothing has come for `quiet` milliseconds.
    fn drain(&mut self, state: State, now: u64, quiet: u64) {
        self.state = state;
        self.received = 0;
        self.drained = 0;
        self.empty = 0;
        self.deadline = now.saturating_add(quiet);
    }
}
