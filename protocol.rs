// SPDX-License-Identifier: GPL-2.0

//! The AlphaRNG's wire protocol: what to send, when an answer is complete, what to do when it is
//! not.
//!
//! The device answers each one-byte command with 16000 bytes of data and a status byte. Nothing in
//! the answer marks its beginning, so the host stays in step by counting, and gets back into step
//! by waiting until the line is quiet:
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
//! More than one command may be under way, so that the device never waits for the host. What
//! devices make of that is not documented, so each one has to show it ([`Pipelining`]): the first
//! answer is asked for alone, then two are asked for at once. Where all of them come completely and
//! in one transfer each, up to the limit may be under way from then on; where anything else comes,
//! then or later, it is one command at a time until the device is plugged in again.
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

/// How long the line may take to become quiet, in milliseconds: a device that sends a byte now and
/// then would otherwise keep its readers waiting for hours.
///
/// It is enough for [`MAX_DRAINED`] bytes from any device, and for a late answer in the last moment
/// of [`PROBATION`], with as long a silence behind it.
pub(crate) const MAX_DRAIN: u64 = 2 * PROBATION;

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
    /// An answer came in pieces although there were several commands.
    Split,
    /// The line did not become quiet.
    NotQuiet,
    /// The device did not take a command in time, although something came that looks like its
    /// answer.
    NotTaken,
    /// The transfer of the command or of the answer failed.
    Transfer,
}

/// Whether several commands may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipelining {
    /// Not known yet; two at once are tried behind the first answer.
    Untried,
    /// The device has answered two at once.
    Shown,
    /// It has sent an answer in pieces, or something went wrong while there were several: never
    /// again.
    Refused,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Keep reading, at [`Protocol::received`] in the buffer.
    Read,
    /// A command may be sent when there is a buffer for its answer; where others are under way,
    /// reading goes on besides.
    Ready,
    /// A complete answer is in the buffer, and it is the answer to the oldest command under way.
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
    /// Commands were sent, the answer to the oldest is coming.
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
    /// Most commands that may be under way at once, at least 1.
    limit: usize,
    /// Whether the device can do with more than one.
    pipelining: Pipelining,
    /// Commands under way: sent, and not answered.
    under_way: usize,
    /// Most of them since there were none: what goes wrong with more than one may be due to that.
    most_under_way: usize,
    /// Whether an answer was used since the start.
    answered: bool,
    /// Bytes of the present answer that have come.
    received: usize,
    /// Bytes thrown away in this attempt.
    drained: usize,
    /// Since when they have been, in milliseconds of the caller's clock.
    draining_since: u64,
    /// Empty transfers in this attempt.
    empty: u32,
    /// Attempts that have failed since the last answer that was used.
    failures: u32,
    /// Whether an answer that comes is known to belong to the command before it.
    in_step: bool,
    /// When to lose patience, in milliseconds of the caller's clock.
    deadline: u64,
    /// Commands whose transfer has not ended, answered or not.
    not_taken: usize,
    /// When the oldest of them should have been taken, in milliseconds of the caller's clock.
    taken_deadline: u64,
}

impl Protocol {
    /// Starts at the time `now` (milliseconds, any origin), with a line that may not be quiet.
    ///
    /// At most `limit` commands will be under way at once, but always one.
    pub(crate) fn new(now: u64, limit: usize) -> Self {
        let mut this = Self {
            state: State::Draining,
            limit,
            pipelining: Pipelining::Untried,
            under_way: 0,
            most_under_way: 0,
            answered: false,
            received: 0,
            drained: 0,
            draining_since: 0,
            empty: 0,
            failures: 0,
            // The first answer is the start-up test's, whoever asked for it.
            in_step: true,
            deadline: 0,
            not_taken: 0,
            taken_deadline: 0,
        };
        this.drain(State::Draining, now, QUIET);
        this
    }

    /// Starts again, with all attempts, when all transfers have been taken back.
    pub(crate) fn restart(&mut self, now: u64) {
        // An answer that was under way may still come.
        self.in_step &= matches!(self.state, State::Ready);
        self.failures = 0;
        self.not_taken = 0;
        // The device may have lost what it had; what it is, it stays.
        self.answered = false;
        if self.pipelining == Pipelining::Shown {
            self.pipelining = Pipelining::Untried;
        }
        self.drain(State::Draining, now, QUIET);
    }

    /// How many bytes of the present answer are in the buffer: where the next ones go.
    pub(crate) fn received(&self) -> usize {
        self.received
    }

    /// Whether no command is under way and one may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether a command may be sent, be it behind others that are under way.
    pub(crate) fn may_send(&self) -> bool {
        match self.state {
            State::Ready => true,
            State::Receiving if self.in_step => match self.pipelining {
                // Two, once, and nothing more until both are answered.
                Pipelining::Untried => self.answered && self.limit > 1 && self.most_under_way < 2,
                Pipelining::Shown => self.under_way < self.limit,
                Pipelining::Refused => false,
            },
            State::Receiving | State::Draining | State::Probation | State::Dead => false,
        }
    }

    /// Commands under way: sent, and not answered.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether the device may have several commands under way.
    pub(crate) fn pipelining(&self) -> Pipelining {
        self.pipelining
    }

    /// Whether the device was given up.
    pub(crate) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// When [`Self::tick`] has something to say, if at all.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let taken = (self.not_taken > 0).then_some(self.taken_deadline);
        match self.state {
            State::Dead => None,
            State::Ready => taken,
            State::Draining | State::Receiving | State::Probation => {
                Some(taken.map_or(self.deadline, |taken| taken.min(self.deadline)))
            }
        }
    }

    /// A command goes out, for whose answer there is an empty buffer.
    ///
    /// To be called where [`Self::may_send`] allows it.
    pub(crate) fn sent(&mut self, now: u64) {
        if self.state != State::Receiving {
            self.under_way = 0;
            self.most_under_way = 0;
            self.await_answer(now);
        }
        self.under_way = self.under_way.saturating_add(1);
        self.most_under_way = self.most_under_way.max(self.under_way);
        if self.not_taken == 0 {
            self.taken_deadline = now.saturating_add(ANSWER_TIMEOUT);
        }
        self.not_taken = self.not_taken.saturating_add(1);
    }

    /// The transfer of the oldest command that was not taken ended well.
    ///
    /// This may come behind its answer, as the two are transfers of different endpoints.
    pub(crate) fn taken(&mut self, now: u64) {
        self.not_taken = self.not_taken.saturating_sub(1);
        self.taken_deadline = now.saturating_add(ANSWER_TIMEOUT);
    }

    /// The next answer is due, from its first byte on.
    fn await_answer(&mut self, now: u64) {
        self.state = State::Receiving;
        self.received = 0;
        self.empty = 0;
        self.deadline = now.saturating_add(ANSWER_TIMEOUT);
    }

    /// A read has been posted: only from now on the line is known to be quiet when nothing comes.
    pub(crate) fn listening(&mut self, now: u64) {
        let quiet = match self.state {
            State::Draining => QUIET,
            State::Probation => PROBATION,
            State::Ready | State::Receiving | State::Dead => return,
        };
        self.deadline = now.saturating_add(quiet);
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
                        self.complete(now);
                        Step::Answer
                    }
                    ANSWER => {
                        self.drain(State::Probation, now, PROBATION);
                        Step::Discard
                    }
                    // The rest is in the buffer of another answer.
                    0..ANSWER if self.most_under_way > 1 => self.failed(now, Failure::Split),
                    0..ANSWER => {
                        self.pipelining = Pipelining::Refused;
                        Step::Read
                    }
                    _ => self.failed(now, Failure::TooLong),
                }
            }
            State::Draining | State::Probation => {
                self.drained = self.drained.saturating_add(bytes);
                let time = now.saturating_sub(self.draining_since);
                if self.drained > MAX_DRAINED || time >= MAX_DRAIN {
                    return self.failed(now, Failure::NotQuiet);
                }
                if bytes > 0 {
                    self.listening(now);
                }
                Step::Discard
            }
            // Nothing was asked for, so what came belongs to nothing.
            State::Ready => self.failed(now, Failure::TooLong),
            State::Dead => Step::Discard,
        }
    }

    /// The answer to the oldest command is complete, and in step.
    fn complete(&mut self, now: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way > 0 {
            return self.await_answer(now);
        }
        self.state = State::Ready;
        if self.most_under_way > 1 && self.pipelining == Pipelining::Untried {
            self.pipelining = Pipelining::Shown;
        }
    }

    /// The status byte of the answer that [`Step::Answer`] announced is none that a device sends.
    pub(crate) fn bad_status(&mut self, now: u64, byte: u8) -> Step {
        self.failed(now, Failure::BadStatus(byte))
    }

    /// A transfer to or from the device failed. All others are to be taken back.
    pub(crate) fn transfer_failed(&mut self, now: u64) -> Step {
        self.failed(now, Failure::Transfer)
    }

    /// The answer that [`Step::Answer`] announced was in step: all attempts are there again.
    pub(crate) fn used(&mut self) {
        self.failures = 0;
        self.answered = true;
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self, now: u64) -> Step {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return if self.may_send() {
                Step::Ready
            } else {
                Step::Read
            };
        }
        let due = now >= self.deadline;
        match self.state {
            State::Receiving if due => self.failed(now, Failure::Silent(self.received)),
            _ if self.not_taken > 0 && now >= self.taken_deadline => {
                self.failed(now, Failure::NotTaken)
            }
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
            State::Receiving | State::Ready | State::Dead => Step::Read,
        }
    }

    /// Goes back to waiting for a quiet line, or gives up.
    fn failed(&mut self, now: u64, why: Failure) -> Step {
        if self.state == State::Dead {
            return Step::Discard;
        }
        if self.most_under_way > 1 {
            self.pipelining = Pipelining::Refused;
        }
        self.in_step = false;
        self.not_taken = 0;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= ATTEMPTS {
            self.state = State::Dead;
            self.under_way = 0;
            self.most_under_way = 0;
            self.received = 0;
            return Step::GiveUp(why);
        }
        self.drain(State::Draining, now, QUIET);
        Step::Retry(why)
    }

    /// Throws away what comes, in `state`, until nothing has come for `quiet` milliseconds.
    fn drain(&mut self, state: State, now: u64, quiet: u64) {
        self.state = state;
        self.under_way = 0;
        self.most_under_way = 0;
        self.received = 0;
        self.drained = 0;
        self.draining_since = now;
        self.empty = 0;
        self.deadline = now.saturating_add(quiet);
    }
}
