// SPDX-License-Identifier: GPL-2.0

//! The driver's `protocol.rs` against simulated devices, on a simulated clock.
//!
//! The simulation owns the truth: it knows which byte was produced for which command, so that a
//! driver that is out of step is found out, which the driver itself cannot do.

#[allow(dead_code, unreachable_pub)]
#[path = "../../../protocol.rs"]
mod protocol;

use proptest::prelude::*;
use protocol::{
    DeviceStatus, Failure, Pipelining, Protocol, Step, ANSWER, ANSWER_TIMEOUT, ATTEMPTS,
    MAX_DRAINED, MAX_EMPTY, QUIET,
};
use std::collections::VecDeque;

/// What the simulated device does with one command.
#[derive(Clone, Debug)]
struct Behaviour {
    /// Milliseconds until it answers; `None`: never.
    delay: Option<u64>,
    /// Bytes in the answer.
    length: usize,
    /// Lengths of the transfers that the answer is cut into; the last one repeats.
    split: Vec<usize>,
}

impl Behaviour {
    /// Answers as it should.
    fn healthy() -> Self {
        Self {
            delay: Some(1),
            length: ANSWER,
            split: vec![ANSWER],
        }
    }
}

/// A transfer on its way to the host.
#[derive(Debug)]
struct Transfer {
    /// When it is there, in milliseconds.
    at: u64,
    /// For which command, counted from 1; 0 for what an earlier owner left.
    command: usize,
    /// Its length in bytes.
    length: usize,
}

/// A device, a driver that obeys the protocol, and the clock.
struct Simulation {
    /// The code under test.
    protocol: Protocol,
    /// Milliseconds.
    now: u64,
    /// What will come, in order.
    line: VecDeque<Transfer>,
    /// What the device does with the next commands; then it is healthy.
    script: VecDeque<Behaviour>,
    /// Whether the device ignores commands that come before the answer to another is taken.
    deaf: bool,
    /// Commands sent.
    sent: usize,
    /// Those that the driver has not got an answer to, oldest first.
    under_way: VecDeque<usize>,
    /// The most of them, since somebody looked.
    most: usize,
    /// For which command each byte in the driver's first buffer was produced.
    buffer: Vec<usize>,
    /// Failed attempts.
    retries: Vec<Failure>,
}

/// What a driver hands on.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// What passes for the answer to a command; for which command each byte was produced.
    Answer(usize, Vec<usize>),
    /// The device was given up.
    GivenUp(Failure),
}

impl Simulation {
    /// A device with this future, in which an earlier owner left so many bytes.
    fn new(script: Vec<Behaviour>, leftover: usize) -> Self {
        Self::with_limit(1, script, leftover)
    }

    /// The same, with a driver that has so many commands under way.
    fn with_limit(limit: usize, script: Vec<Behaviour>, leftover: usize) -> Self {
        let mut line = VecDeque::new();
        if leftover > 0 {
            line.push_back(Transfer {
                at: 0,
                command: 0,
                length: leftover,
            });
        }
        Self {
            protocol: Protocol::new(0, limit),
            now: 0,
            line,
            script: script.into(),
            deaf: false,
            sent: 0,
            under_way: VecDeque::new(),
            most: 0,
            buffer: Vec::new(),
            retries: Vec::new(),
        }
    }

    /// The device gets a command.
    fn send(&mut self) {
        self.protocol.sent(self.now);
        self.protocol.taken(self.now);
        self.sent += 1;
        self.under_way.push_back(self.sent);
        self.most = self.most.max(self.under_way.len());
        if self.under_way.len() == 1 {
            self.buffer.clear();
        }
        assert_eq!(self.protocol.under_way(), self.under_way.len());
        if self.deaf && !self.line.is_empty() {
            return;
        }
        let behaviour = self.script.pop_front().unwrap_or(Behaviour::healthy());
        let Some(delay) = behaviour.delay else { return };
        // The device works on one command after the other.
        let start = self
            .line
            .back()
            .map_or(self.now, |last| last.at.max(self.now));
        let mut left = behaviour.length;
        let mut cuts = behaviour.split.iter().copied();
        let mut cut = ANSWER;
        while left > 0 {
            cut = cuts.next().unwrap_or(cut);
            let length = cut.min(left);
            self.line.push_back(Transfer {
                at: start + delay,
                command: self.sent,
                length,
            });
            if cut > 0 {
                left -= length;
            }
        }
    }

    /// The driver starts again.
    fn restart(&mut self) {
        self.protocol.restart(self.now);
        self.under_way.clear();
    }

    /// Runs until the driver has an answer or gives up.
    fn next(&mut self) -> Outcome {
        for _ in 0..200_000 {
            let due = self
                .line
                .front()
                .is_some_and(|transfer| transfer.at <= self.now);
            let step = if due {
                let transfer = self.line.pop_front().expect("there is one");
                // The driver reads whole packets, as many as still belong to an answer.
                let room = (ANSWER - self.protocol.received()).next_multiple_of(512);
                let length = transfer.length.min(room);
                if length < transfer.length {
                    self.line.push_front(Transfer {
                        length: transfer.length - length,
                        ..transfer
                    });
                }
                let at = self.protocol.received();
                self.buffer.truncate(at);
                self.buffer
                    .extend(std::iter::repeat_n(transfer.command, length));
                self.protocol.transferred(self.now, length)
            } else {
                self.protocol.tick(self.now)
            };
            match step {
                Step::Answer => {
                    self.protocol.used();
                    let command = self.under_way.pop_front().expect("one was sent");
                    let bytes = self.buffer[..ANSWER].to_vec();
                    self.buffer.clear();
                    return Outcome::Answer(command, bytes);
                }
                Step::GiveUp(why) => {
                    self.under_way.clear();
                    return Outcome::GivenUp(why);
                }
                Step::Retry(why) => {
                    self.under_way.clear();
                    self.retries.push(why);
                }
                Step::Discard => self.under_way.clear(),
                Step::Ready => self.send(),
                Step::Read if due => {}
                Step::Read => {
                    // Nothing happens until the next transfer or the deadline.
                    let deadline = self.protocol.deadline().expect("somebody must wake it");
                    let next = self.line.front().map_or(deadline, |t| t.at.min(deadline));
                    assert!(next > self.now || due, "time stands still at {next}");
                    self.now = next;
                }
            }
        }
        panic!("no outcome: {:?} {:?}", self.retries.len(), self.now);
    }

    /// Demands that the next outcome is the answer to the oldest command, and to it alone.
    fn expect_answer(&mut self) {
        match self.next() {
            Outcome::Answer(command, bytes) => {
                assert_eq!(bytes.len(), ANSWER);
                assert!(
                    bytes.iter().all(|byte| *byte == command),
                    "bytes of command {} and {} in the answer to {command}",
                    bytes[0],
                    bytes[ANSWER - 1],
                );
            }
            Outcome::GivenUp(why) => panic!("given up: {why:?}"),
        }
    }
}

#[test]
fn a_healthy_device_is_asked_once_for_each_answer() {
    let mut simulation = Simulation::new(vec![], 0);
    for k in 1..=100 {
        simulation.expect_answer();
        assert_eq!(simulation.sent, k);
    }
    assert!(simulation.retries.is_empty());
    // A quiet line costs one wait, at the beginning.
    assert_eq!(simulation.now, QUIET + 100);
}

#[test]
fn leftover_bytes_are_drained_before_the_first_command() {
    for leftover in [1, 129, 512, 16_000, ANSWER, 3 * ANSWER + 7] {
        let mut simulation = Simulation::new(vec![], leftover);
        simulation.expect_answer();
        assert_eq!(simulation.sent, 1, "{leftover} bytes left over");
        assert!(simulation.retries.is_empty());
    }
}

/// A driver that is late with its first read has heard nothing so far, whatever the clock says.
#[test]
fn the_line_is_not_quiet_before_somebody_listens() {
    let mut protocol = Protocol::new(0, 1);
    let late = 10 * QUIET;
    protocol.listening(late);
    assert_eq!(protocol.tick(late + QUIET - 1), Step::Read);
    assert_eq!(protocol.tick(late + QUIET), Step::Ready);
    // A command is not given more time by its read.
    protocol.sent(late + QUIET);
    let deadline = protocol.deadline();
    protocol.listening(late + QUIET + 7);
    assert_eq!(protocol.deadline(), deadline);
}

#[test]
fn silence_is_retried_fifteen_times_at_intervals() {
    let silent = Behaviour {
        delay: None,
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::new(vec![silent.clone(); 100], 0);
    assert_eq!(simulation.next(), Outcome::GivenUp(Failure::Silent(0)));
    assert_eq!(simulation.sent, 15);
    assert_eq!(simulation.retries.len(), 14);
    // Each attempt waits 1 s for the answer, behind a quiet line.
    assert_eq!(simulation.now, 15 * (1_000 + QUIET));
    assert!(simulation.protocol.is_dead());
    assert_eq!(
        simulation.protocol.deadline(),
        None,
        "a dead device costs no time"
    );

    // Asked again, it gets as many attempts.
    simulation.restart();
    assert_eq!(simulation.next(), Outcome::GivenUp(Failure::Silent(0)));
    assert_eq!(simulation.sent, 30);
}

#[test]
fn a_device_that_recovers_within_the_attempts_is_used() {
    let silent = Behaviour {
        delay: None,
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::new(vec![silent; 14], 0);
    simulation.expect_answer();
    // The first answer behind the silence is not trusted.
    assert_eq!(simulation.sent, 16);
    // And the attempts are all there again.
    simulation.expect_answer();
    assert_eq!(simulation.retries.len(), 14);
}

#[test]
fn a_device_that_fails_every_other_time_is_given_up() {
    let silent = Behaviour {
        delay: None,
        ..Behaviour::healthy()
    };
    let script: Vec<_> = (0..200)
        .map(|k| {
            if k % 2 == 0 {
                silent.clone()
            } else {
                Behaviour::healthy()
            }
        })
        .collect();
    let mut simulation = Simulation::new(script, 0);
    assert_eq!(simulation.next(), Outcome::GivenUp(Failure::Silent(0)));
    assert_eq!(simulation.retries.len() as u32, ATTEMPTS - 1);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    // Later than the host waits, at every moment of the next attempt.
    for delay in (ANSWER_TIMEOUT + 1..2 * ANSWER_TIMEOUT).step_by(10) {
        let late = Behaviour {
            delay: Some(delay),
            ..Behaviour::healthy()
        };
        let mut simulation = Simulation::new(vec![Behaviour::healthy(), late], 0);
        simulation.expect_answer();
        simulation.expect_answer();
        simulation.expect_answer();
        assert!(!simulation.retries.is_empty(), "{delay} ms was in time");
    }
}

#[test]
fn an_answer_in_the_last_millisecond_is_in_time() {
    let slow = Behaviour {
        delay: Some(ANSWER_TIMEOUT - 1),
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::new(vec![slow.clone(), slow], 0);
    simulation.expect_answer();
    simulation.expect_answer();
    assert!(simulation.retries.is_empty());
}

#[test]
fn answers_may_come_in_any_pieces() {
    for split in [
        vec![1],
        vec![63, 1],
        vec![64],
        vec![512],
        vec![16_000, 1],
        vec![1, 16_000],
        vec![8_192, 7_809],
        vec![0, 5, 0, ANSWER],
    ] {
        let behaviour = Behaviour {
            split: split.clone(),
            ..Behaviour::healthy()
        };
        let mut simulation = Simulation::new(vec![behaviour; 3], 0);
        for _ in 0..3 {
            simulation.expect_answer();
        }
        assert!(simulation.retries.is_empty(), "{split:?}");
    }
}

#[test]
fn a_short_or_long_answer_is_refused() {
    for (length, why) in [
        (1, Failure::Silent(1)),
        (ANSWER - 1, Failure::Silent(ANSWER - 1)),
        (ANSWER + 1, Failure::TooLong),
        (ANSWER + 300, Failure::TooLong),
    ] {
        let bad = Behaviour {
            length,
            split: vec![length],
            ..Behaviour::healthy()
        };
        let mut simulation = Simulation::new(vec![bad], 0);
        simulation.expect_answer();
        assert_eq!(simulation.retries, [why], "{length} bytes");
    }
}

#[test]
fn bytes_behind_a_complete_answer_are_found_with_the_next_one() {
    let bad = Behaviour {
        length: ANSWER + 1,
        split: vec![ANSWER, 1],
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::new(vec![bad], 0);
    simulation.expect_answer();
    simulation.expect_answer();
    assert_eq!(simulation.retries, [Failure::TooLong]);
}

#[test]
fn bytes_that_nobody_asked_for_are_refused() {
    let mut protocol = Protocol::new(0, 1);
    assert_eq!(protocol.tick(QUIET), Step::Ready);
    assert_eq!(
        protocol.transferred(QUIET, 5),
        Step::Retry(Failure::TooLong)
    );
    assert!(!protocol.is_ready());
}

#[test]
fn an_endless_device_is_given_up() {
    let mut protocol = Protocol::new(0, 1);
    let mut bytes = 0;
    let mut retries = 0;
    loop {
        bytes += 16_384;
        match protocol.transferred(0, 16_384) {
            Step::Discard => {}
            Step::Retry(why) => {
                assert_eq!(why, Failure::NotQuiet);
                retries += 1;
            }
            Step::GiveUp(why) => {
                assert_eq!(why, Failure::NotQuiet);
                break;
            }
            step => panic!("{step:?}"),
        }
        assert!(bytes <= ATTEMPTS as usize * (MAX_DRAINED + 2 * 16_384));
    }
    assert_eq!(retries, ATTEMPTS - 1);
}

#[test]
fn empty_transfers_are_bounded() {
    let mut protocol = Protocol::new(0, 1);
    assert_eq!(protocol.tick(QUIET), Step::Ready);
    protocol.sent(QUIET);
    for _ in 0..MAX_EMPTY {
        assert_eq!(protocol.transferred(QUIET, 0), Step::Read);
    }
    assert_eq!(
        protocol.transferred(QUIET, 0),
        Step::Retry(Failure::NotQuiet)
    );
}

#[test]
fn a_bad_status_byte_means_out_of_step() {
    assert_eq!(DeviceStatus::from_byte(0), DeviceStatus::Healthy);
    for byte in 1..=7 {
        assert_eq!(DeviceStatus::from_byte(byte), DeviceStatus::Failed(byte));
    }
    for byte in 8..=255 {
        assert_eq!(DeviceStatus::from_byte(byte), DeviceStatus::OutOfStep(byte));
    }

    let mut simulation = Simulation::new(vec![], 0);
    simulation.expect_answer();
    let step = simulation.protocol.bad_status(simulation.now, 0x5a);
    assert_eq!(step, Step::Retry(Failure::BadStatus(0x5a)));
    simulation.expect_answer();
    // One answer behind it is for finding the step again.
    assert_eq!(simulation.sent, 3);
}

#[test]
fn a_restart_in_the_middle_of_an_answer_gets_back_into_step() {
    let slow = Behaviour {
        delay: Some(500),
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::new(vec![Behaviour::healthy(), slow], 0);
    simulation.expect_answer();
    assert_eq!(simulation.protocol.tick(simulation.now), Step::Ready);
    simulation.send();
    simulation.now += 10;
    simulation.restart();
    simulation.expect_answer();
    simulation.expect_answer();
}

#[test]
fn a_transfer_error_is_an_attempt() {
    let mut protocol = Protocol::new(0, 1);
    let mut now = 0;
    for attempt in 1..=ATTEMPTS {
        now += QUIET;
        assert_eq!(protocol.tick(now), Step::Ready);
        protocol.sent(now);
        let step = protocol.transfer_failed(now);
        if attempt < ATTEMPTS {
            assert_eq!(step, Step::Retry(Failure::Transfer));
            // Spaced: the next command waits for a quiet line.
            assert_eq!(protocol.tick(now), Step::Read);
        } else {
            assert_eq!(step, Step::GiveUp(Failure::Transfer));
        }
    }
}

/// A byte now and then, just often enough to keep the line from being quiet, is not waited for
/// longer than any device needs: fifteen times, and the device is given up.
#[test]
fn a_device_that_drips_is_given_up() {
    let mut protocol = Protocol::new(0, 1);
    let mut now = 0;
    let mut retries = 0;
    loop {
        now += QUIET - 1;
        match protocol.transferred(now, 1) {
            Step::Discard => {}
            Step::Retry(Failure::NotQuiet) => retries += 1,
            Step::GiveUp(Failure::NotQuiet) => break,
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(retries, ATTEMPTS - 1);
    // The vendor waits 15 s for 15 attempts; draining may take four times as long, and a last
    // byte may come late each time.
    assert!((60_000..62_000).contains(&now), "{now} ms");
}

/// The same in the silence behind the first complete answer after a failure.
#[test]
fn a_device_that_drips_behind_an_answer_is_not_waited_for() {
    let mut protocol = Protocol::new(0, 1);
    assert_eq!(protocol.transfer_failed(0), Step::Retry(Failure::Transfer));
    assert_eq!(protocol.tick(QUIET), Step::Ready);
    protocol.sent(QUIET);
    protocol.taken(QUIET);
    assert_eq!(protocol.transferred(QUIET, ANSWER), Step::Discard);
    for second in 1..=3 {
        let now = QUIET + second * 1_000;
        assert_eq!(protocol.transferred(now, 1), Step::Discard);
    }
    assert_eq!(
        protocol.transferred(QUIET + 4_000, 1),
        Step::Retry(Failure::NotQuiet)
    );
}

/// What looks like an answer comes, but the command was never taken: nothing more can be asked
/// for, and that must not be for ever.
#[test]
fn an_answer_to_a_command_that_was_not_taken_is_an_attempt() {
    let mut protocol = Protocol::new(0, 1);
    assert_eq!(protocol.tick(QUIET), Step::Ready);
    protocol.sent(QUIET);
    assert_eq!(protocol.transferred(QUIET + 10, ANSWER), Step::Answer);
    protocol.used();
    assert_eq!(protocol.deadline(), Some(QUIET + ANSWER_TIMEOUT));
    assert_eq!(protocol.tick(QUIET + ANSWER_TIMEOUT - 1), Step::Ready);
    assert_eq!(
        protocol.tick(QUIET + ANSWER_TIMEOUT),
        Step::Retry(Failure::NotTaken)
    );

    // Taken behind its answer, a moment later: that is how controllers are.
    let mut protocol = Protocol::new(0, 1);
    assert_eq!(protocol.tick(QUIET), Step::Ready);
    protocol.sent(QUIET);
    assert_eq!(protocol.transferred(QUIET + 10, ANSWER), Step::Answer);
    protocol.used();
    protocol.taken(QUIET + 11);
    assert_eq!(protocol.deadline(), None);
    assert_eq!(protocol.tick(QUIET + 10 * ANSWER_TIMEOUT), Step::Ready);
}

/// Behind the first answer two commands are sent at once, and when both are answered, as many as
/// the limit allows.
#[test]
fn several_commands_are_under_way_once_two_were_answered() {
    for limit in 1..=4 {
        let mut simulation = Simulation::with_limit(limit, vec![], 0);
        let mut most = || {
            simulation.most = 0;
            simulation.expect_answer();
            simulation.most
        };
        // Of each answer: the most that were under way until it came.
        let seen = [most(), most(), most(), most(), most(), most()];
        let (two, all) = (limit.min(2), limit);
        // The second of two comes without another command being sent, which is what 0 says.
        let expected = match limit {
            1 => [1, 1, 1, 1, 1, 1],
            _ => [1, two, 0, all, all, all],
        };
        assert_eq!(seen, expected, "limit {limit}");
        assert!(simulation.retries.is_empty());
    }
}

/// A device that ignores what comes while it is busy is found out at once, and used.
#[test]
fn a_device_that_takes_one_command_at_a_time_gets_one() {
    for limit in 2..=4 {
        let mut simulation = Simulation::with_limit(limit, vec![], 0);
        simulation.deaf = true;
        for _ in 0..2 {
            simulation.expect_answer();
        }
        assert_eq!(simulation.most, 2);
        simulation.expect_answer();
        assert_eq!(simulation.retries, [Failure::Silent(0)]);
        assert_eq!(simulation.protocol.pipelining(), Pipelining::Refused);
        simulation.most = 0;
        for _ in 0..100 {
            simulation.expect_answer();
        }
        assert_eq!((simulation.most, simulation.retries.len()), (1, 1));
    }
}

/// Whatever goes wrong with several commands under way, it is one at a time from then on, also
/// behind a restart; the answers still belong to their commands.
#[test]
fn anything_unexpected_ends_having_several_under_way() {
    let healthy = Behaviour::healthy;
    for (bad, why) in [
        (
            Behaviour {
                split: vec![8_192, 7_809],
                ..healthy()
            },
            Failure::Split,
        ),
        (
            Behaviour {
                length: ANSWER + 1,
                split: vec![ANSWER + 1],
                ..healthy()
            },
            Failure::TooLong,
        ),
        (
            Behaviour {
                length: 500,
                split: vec![500],
                ..healthy()
            },
            Failure::Split,
        ),
        (
            Behaviour {
                delay: Some(ANSWER_TIMEOUT + 500),
                ..healthy()
            },
            Failure::Silent(0),
        ),
    ] {
        // At the trial of two, and much later.
        for at in [1, 2, 10, 11] {
            let mut script = vec![healthy(); at];
            script.push(bad.clone());
            let mut simulation = Simulation::with_limit(2, script, 0);
            for _ in 0..at + 5 {
                simulation.expect_answer();
            }
            assert_eq!(simulation.retries.first(), Some(&why), "answer {at}");
            assert_eq!(simulation.protocol.pipelining(), Pipelining::Refused);
            simulation.restart();
            simulation.most = 0;
            for _ in 0..20 {
                simulation.expect_answer();
            }
            assert_eq!(simulation.most, 1, "answer {at}");
        }
    }
}

/// A device that sends its answers in pieces is not asked for two at once, which costs nothing.
#[test]
fn a_device_that_splits_its_answers_gets_one_command_at_a_time() {
    let split = Behaviour {
        split: vec![8_192, 7_809],
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::with_limit(4, vec![split; 10], 0);
    for _ in 0..20 {
        simulation.expect_answer();
    }
    assert!(simulation.retries.is_empty());
    assert_eq!(simulation.protocol.pipelining(), Pipelining::Refused);
    assert_eq!(simulation.most, 1);
}

/// A failure of a single command says nothing about several.
#[test]
fn what_goes_wrong_with_one_command_under_way_is_no_reason() {
    let silent = Behaviour {
        delay: None,
        ..Behaviour::healthy()
    };
    let mut simulation = Simulation::with_limit(2, vec![silent], 0);
    simulation.expect_answer();
    assert_eq!(simulation.retries, [Failure::Silent(0)]);
    for _ in 0..10 {
        simulation.expect_answer();
    }
    assert_eq!(simulation.protocol.pipelining(), Pipelining::Shown);
    assert_eq!(simulation.most, 2);
}

/// Behind a suspend the device has to show again what it can do.
#[test]
fn a_restart_tries_two_commands_anew() {
    let mut simulation = Simulation::with_limit(4, vec![], 0);
    for _ in 0..10 {
        simulation.expect_answer();
    }
    assert_eq!(simulation.protocol.pipelining(), Pipelining::Shown);
    simulation.restart();
    assert_eq!(simulation.protocol.pipelining(), Pipelining::Untried);
    simulation.most = 0;
    simulation.expect_answer();
    assert_eq!(simulation.most, 1);
}

prop_compose! {
    fn behaviour()(
        delay in prop_oneof![Just(None), (0u64..2_000).prop_map(Some), Just(Some(1))],
        length in prop_oneof![Just(ANSWER), 0usize..3 * ANSWER],
        split in prop::collection::vec(prop_oneof![1usize..20_000, Just(512), Just(64)], 1..4),
    ) -> Behaviour {
        Behaviour { delay, length, split }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a device has done, once it is healthy it is used again, and soon after that every
    /// answer belongs to the command before it.
    #[test]
    fn a_device_that_becomes_healthy_is_used(
        script in prop::collection::vec(behaviour(), 0..10),
        leftover in 0usize..40_000,
        limit in 1usize..=4,
        deaf: bool,
    ) {
        let scripted = script.len();
        let mut simulation = Simulation::with_limit(limit, script, leftover);
        simulation.deaf = deaf;
        for _ in 0..scripted {
            if simulation.sent > scripted + 2 * limit {
                break;
            }
            match simulation.next() {
                Outcome::Answer(_, bytes) => prop_assert_eq!(bytes.len(), ANSWER),
                // Ten bad commands are fewer than the attempts.
                Outcome::GivenUp(why) => prop_assert!(false, "given up: {:?}", why),
            }
        }
        // Some more: the last late answer may have to be found out.
        for _ in 0..2 * limit {
            let _ = simulation.next();
        }
        for _ in 0..5 {
            simulation.expect_answer();
        }
    }

    /// Any sequence of events whatever: no panic, a deadline unless there is nothing to wait for,
    /// a bounded number of attempts.
    #[test]
    fn any_events_are_survived(
        events in prop::collection::vec((0u8..7, prop_oneof![Just(ANSWER), 0usize..70_000], 0u64..3_000), 0..400),
        limit in 1usize..=4,
    ) {
        let mut protocol = Protocol::new(0, limit);
        let mut refused = false;
        let mut now = 0;
        // Commands that were not taken.
        let mut held = 0u32;
        for (event, bytes, wait) in events {
            now += wait;
            let mut step = Step::Read;
            match event {
                0 => {
                    step = protocol.transferred(now, bytes);
                    if step == Step::Answer {
                        protocol.used();
                    }
                }
                1 => step = protocol.transfer_failed(now),
                2 => step = protocol.tick(now),
                3 if protocol.may_send() => {
                    protocol.sent(now);
                    held += 1;
                }
                4 => step = protocol.bad_status(now, 9),
                5 => {
                    protocol.restart(now);
                    held = 0;
                }
                6 => {
                    protocol.taken(now);
                    held = held.saturating_sub(1);
                }
                _ => {}
            }
            if matches!(step, Step::Retry(_) | Step::GiveUp(_)) {
                held = 0;
            }
            prop_assert!(protocol.received() <= ANSWER);
            // Never more than the limit, two at most until the device has shown that it can.
            let most = match protocol.pipelining() {
                Pipelining::Untried => limit.min(2),
                Pipelining::Shown => limit,
                Pipelining::Refused => 1,
            };
            prop_assert!(protocol.under_way() <= most);
            prop_assert!(!refused || protocol.pipelining() == Pipelining::Refused);
            refused = protocol.pipelining() == Pipelining::Refused;
            let idle = protocol.is_ready() && held == 0 || protocol.is_dead();
            prop_assert_eq!(protocol.deadline().is_none(), idle);
        }
    }
}
