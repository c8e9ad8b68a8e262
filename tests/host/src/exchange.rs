// SPDX-License-Identifier: GPL-2.0

//! Exchanges with a device that does whatever it likes: the driver's `protocol.rs` in a cycle of
//! requests like the driver's own (`alrandom_usb.rs`), on a simulated clock.
//!
//! Every byte that the device sends has a number, so that it can be told what became of it. What
//! must hold, whatever comes and whenever:
//!
//! - what is used is an answer: 16001 bytes, sent one after the other behind its command, none of
//!   them used before, none of them from a transfer that failed;
//! - what is delivered has status 0;
//! - behind a failure nothing is used before the line was silent behind a complete answer for
//!   longer than an answer may take;
//! - between two answers that are used, a bounded number of commands is sent, a bounded number of
//!   bytes read, and a bounded time passes, until the device is given up;
//! - a device that becomes healthy is used again.

use std::{collections::VecDeque, iter};

use arbitrary::{Arbitrary, Unstructured};

use crate::protocol::{
    DeviceStatus, Protocol, Step, ANSWER, ANSWER_TIMEOUT, ATTEMPTS, DATA, MAX_DRAIN, MAX_DRAINED,
    PROBATION, QUIET,
};

/// Events in a script: more lead nowhere else.
const EVENTS: usize = 48;

/// The longest time between two answers that are used, in milliseconds. An attempt may drain,
/// wait for an answer, and drain again behind it; a line that has just become quiet is waited for
/// a bit longer.
const MAX_TIME: u64 =
    ATTEMPTS as u64 * ((MAX_DRAIN + QUIET) + ANSWER_TIMEOUT + (MAX_DRAIN + PROBATION));

/// The most bytes read between two answers that are used: what may be drained in each attempt, twice,
/// and reads that were under way then, up to four at once.
const MAX_BYTES: usize = ATTEMPTS as usize * (2 * (MAX_DRAINED + MAX_READ) + 4 * MAX_READ);

/// The longest read in bytes: an answer in packets of at most 512.
const MAX_READ: usize = ANSWER.next_multiple_of(512);

/// Steps that may be taken without a transfer ending or time passing.
const MAX_STEPS: usize = 32;

/// A device and what happens to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Script {
    /// Most commands under way, from 1 to 4: 1 plus the value modulo 4.
    pub limit: u8,
    /// Largest packet of the bulk IN endpoint: 1 plus the value modulo 512.
    pub packet: u16,
    /// What happens.
    pub events: Vec<Event>,
    /// What happens in the end.
    pub end: End,
}

/// Something that happens.
#[derive(Arbitrary, Clone, Debug)]
pub enum Event {
    /// So many milliseconds pass.
    Wait(u16),
    /// The device sends something, with this for its last byte.
    Send(Size, u8),
    /// It sends the same 1 to 32 times.
    Repeat(u8, Size),
    /// A read ends with an error, when one is posted and all before it has come.
    ReadFails,
    /// What becomes of the next commands.
    Commands(Fate),
    /// The device answers up to 1 to 8 commands as it should, but for the last byte of the last.
    Serve(u8, u8),
    /// The same, with commands that come while it is busy ignored.
    ServeDeaf(u8),
    /// Suspend and resume, or a reset.
    Restart,
    /// Somebody reads, which starts a device that was given up again.
    Retry,
    /// Nobody reads: no buffers from now on. Or somebody does again.
    Full(bool),
    /// Several reads end before the driver looks, from now on, or do not.
    Burst(bool),
}

/// How much a device sends in one transfer.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Size {
    /// An answer.
    Answer,
    /// An answer, and so many bytes more or less.
    About(i8),
    /// So many bytes.
    Bytes(u16),
    /// Half an answer.
    Half,
    /// Nothing.
    Empty,
}

impl Size {
    /// In bytes.
    fn bytes(self) -> usize {
        match self {
            Self::Answer => ANSWER,
            Self::About(more) => ANSWER.saturating_add_signed(more.into()),
            Self::Bytes(count) => count.into(),
            Self::Half => ANSWER / 2,
            Self::Empty => 0,
        }
    }
}

/// What becomes of commands.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are taken.
    Taken,
    /// They are not taken, and do not fail.
    Held,
    /// They fail.
    Fail,
}

/// What happens in the end, for as long as it takes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum End {
    /// The device says nothing: it is given up.
    Silence,
    /// It sends for ever, as much as is read at once: it is given up.
    Endless,
    /// It sends so many bytes every so many milliseconds, for ever: it is given up, or what comes
    /// makes answers.
    Drip(u8, u16),
    /// Every transfer fails: it is given up.
    Errors,
    /// It becomes healthy: it is used.
    Healthy,
}

/// What came of a script, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Blocks delivered.
    pub delivered: u64,
    /// Answers used, but not delivered: of a status of 1 to 7.
    pub refused: u64,
    /// Attempts that failed.
    pub retries: u64,
    /// Times the device was given up.
    pub given_up: u64,
    /// Most commands under way.
    pub most_under_way: usize,
}

/// Bytes that came with one transfer, or a part of these.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where in the buffer they begin.
    at: usize,
    /// How many.
    length: usize,
    /// Number of the first one.
    first: u64,
    /// Value of the last one.
    last: u8,
    /// When they came, in events.
    came: u64,
}

/// What the device is about to send.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    /// So many bytes, the last of which has this value, and then a short packet.
    Bytes(usize, u8),
    /// A transfer that fails.
    Error,
}

/// A read that is under way.
#[derive(Debug)]
struct Read {
    /// What the buffer had.
    buffer: Vec<Run>,
    /// Where in the buffer it writes.
    offset: usize,
    /// How many bytes fit.
    length: usize,
    /// How it ended, if it has: the bytes, or an error.
    end: Option<Result<usize, ()>>,
}

/// A command and its answer, as in the driver.
#[derive(Debug, Default)]
struct Lane {
    /// The buffer for the answer, while no read has it.
    spare: Option<Vec<Run>>,
    /// The read for the answer.
    rx: Option<Read>,
    /// The command: not sent, or sent and how it ended.
    tx: Option<Option<Result<(), ()>>>,
}

/// What has happened since an answer was used, the device was given up or started again.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    /// When that was, in milliseconds.
    time: u64,
    /// Commands sent.
    commands: u32,
    /// Bytes read.
    bytes: usize,
}

/// A driver with the code under test in it, and the device.
struct Exchange {
    /// The code under test.
    protocol: Protocol,
    /// Milliseconds.
    now: u64,
    /// Events: numbers for what comes before what.
    events: u64,
    /// Commands and answers, the one that comes next first.
    lanes: VecDeque<Lane>,
    /// Largest packet in bytes.
    packet: usize,
    /// Nobody reads, so there are no buffers.
    full: bool,
    /// All reads end that can before the driver looks.
    burst: bool,
    /// What the device is about to send.
    line: VecDeque<Chunk>,
    /// What becomes of commands.
    fate: Fate,
    /// Commands that the device has taken and done nothing with.
    taken: usize,
    /// Number of the next byte that the device sends.
    next_byte: u64,
    /// No byte with a lower number may be used from here on.
    least_byte: u64,
    /// When each command under way was sent, in events, the oldest first.
    sent: VecDeque<u64>,
    /// An answer that comes may be that to a command before the last failure.
    suspect: bool,
    /// Bytes that came since the last command.
    since_command: usize,
    /// Behind the last failure a complete answer has come.
    complete: bool,
    /// When the last byte came, in milliseconds.
    last_byte: u64,
    /// For the bounds.
    since: Since,
    /// What came of it.
    outcome: Outcome,
}

impl Exchange {
    /// A driver that has just got its device.
    fn new(limit: usize, packet: usize) -> Self {
        Self {
            protocol: Protocol::new(0, limit),
            now: 0,
            events: 0,
            lanes: (0..limit).map(|_| Lane::default()).collect(),
            packet,
            full: false,
            burst: false,
            line: VecDeque::new(),
            fate: Fate::Taken,
            taken: 0,
            next_byte: 0,
            least_byte: 0,
            sent: VecDeque::new(),
            suspect: false,
            since_command: 0,
            complete: false,
            last_byte: 0,
            since: Since::default(),
            outcome: Outcome::default(),
        }
    }

    /// The number of the next event.
    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// The device sends what it has, and the driver does what it can, until nothing moves.
    fn settle(&mut self) {
        loop {
            self.drive();
            let mut moved = self.finish_read();
            while moved && self.burst && self.finish_read() {}
            moved |= self.finish_command();
            if !moved {
                break;
            }
        }
        if !self.full && !self.protocol.is_dead() {
            let time = self.now - self.since.time;
            assert!(time <= MAX_TIME, "nothing came of it in {time} ms");
        }
    }

    /// Lets time pass.
    fn wait(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        self.settle();
        while let Some(deadline) = self.protocol.deadline().filter(|at| *at <= end) {
            assert!(deadline > self.now, "time stands still at {deadline}");
            self.now = deadline;
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// The next read that is posted ends, if the device has something to send.
    fn finish_read(&mut self) -> bool {
        let came = self.events + 1;
        let mut reads = self.lanes.iter_mut().filter_map(|lane| lane.rx.as_mut());
        let Some(read) = reads.find(|read| read.end.is_none()) else {
            return false;
        };
        match self.line.pop_front() {
            None => return false,
            Some(Chunk::Error) => read.end = Some(Err(())),
            Some(Chunk::Bytes(bytes, last)) => {
                let length = bytes.min(read.length);
                if bytes > length {
                    self.line.push_front(Chunk::Bytes(bytes - length, last));
                }
                // What was there is written over.
                read.buffer.retain(|run| run.at < read.offset);
                read.buffer.push(Run {
                    at: read.offset,
                    length,
                    first: self.next_byte,
                    last,
                    came,
                });
                read.end = Some(Ok(length));
                self.next_byte += length as u64;
                self.since_command += length;
                self.since.bytes += length;
                if length > 0 {
                    self.last_byte = self.now;
                }
                self.complete |= self.since_command == ANSWER;
                assert!(
                    self.since.bytes <= MAX_BYTES,
                    "read {} bytes",
                    self.since.bytes
                );
            }
        }
        self.event();
        true
    }

    /// The next command that was sent ends, if the device lets it.
    fn finish_command(&mut self) -> bool {
        let end = match self.fate {
            Fate::Taken => Ok(()),
            Fate::Held => return false,
            Fate::Fail => Err(()),
        };
        let mut commands = self.lanes.iter_mut().filter_map(|lane| lane.tx.as_mut());
        let Some(command) = commands.find(|command| command.is_none()) else {
            return false;
        };
        *command = Some(end);
        self.taken += usize::from(end.is_ok());
        self.event();
        true
    }

    /// The driver does what there is to do.
    fn drive(&mut self) {
        if self.complete && self.now - self.last_byte >= PROBATION {
            self.suspect = false;
        }
        for _ in 0..MAX_STEPS {
            let Some(step) = self.next_step() else {
                let idle = self.protocol.is_dead()
                    || self.protocol.is_ready() && self.lanes.iter().all(|lane| lane.tx.is_none());
                assert_eq!(self.protocol.deadline().is_none(), idle, "who wakes it?");
                return;
            };
            self.take_step(step);
            assert!(self.protocol.received() <= ANSWER);
        }
        panic!("more than {MAX_STEPS} steps at once");
    }

    /// What follows from the next thing that has happened, as in the driver.
    fn next_step(&mut self) -> Option<Step> {
        for lane in &mut self.lanes {
            if let Some(Some(end)) = lane.tx {
                lane.tx = None;
                return Some(match end {
                    Ok(()) => {
                        self.protocol.taken(self.now);
                        Step::Read
                    }
                    Err(()) => self.protocol.transfer_failed(self.now),
                });
            }
        }
        let lane = &mut self.lanes[0];
        if let Some(end) = lane.rx.as_ref().and_then(|read| read.end) {
            lane.spare = lane.rx.take().map(|read| read.buffer);
            return Some(match end {
                Ok(bytes) => self.protocol.transferred(self.now, bytes),
                Err(()) => self.protocol.transfer_failed(self.now),
            });
        }
        let step = self.protocol.tick(self.now);
        if !matches!(step, Step::Read | Step::Ready) {
            return Some(step);
        }
        if self.protocol.is_dead() {
            return None;
        }
        if !self.protocol.is_ready() && self.lanes[0].rx.is_none() && self.have_buffer(0) {
            return Some(Step::Read);
        }
        (step == Step::Ready && self.can_send()).then_some(Step::Ready)
    }

    /// Whether there is a buffer for the answer that comes so many behind the first.
    fn have_buffer(&mut self, behind: usize) -> bool {
        let lane = &mut self.lanes[behind];
        if lane.spare.is_none() && lane.rx.is_none() && !self.full {
            lane.spare = Some(Vec::new());
        }
        lane.spare.is_some() || lane.rx.is_some()
    }

    /// Whether there is all that another command takes.
    fn can_send(&mut self) -> bool {
        let behind = self.protocol.under_way();
        behind < self.lanes.len() && self.lanes[behind].tx.is_none() && self.have_buffer(behind)
    }

    /// Does what the protocol has decided, as in the driver.
    fn take_step(&mut self, step: Step) {
        match step {
            Step::Read => self.read_on(),
            Step::Discard => {
                // The answer to find the step by: its command is done with.
                self.sent.clear();
                self.read_on();
            }
            Step::Ready => self.send(),
            Step::Answer => self.answered(),
            Step::Retry(_) => {
                self.outcome.retries += 1;
                self.failed();
                self.read_on();
            }
            Step::GiveUp(_) => {
                self.outcome.given_up += 1;
                self.failed();
                assert!(self.protocol.is_dead());
                self.restart_bounds();
            }
        }
    }

    /// Goes on reading where something can come.
    fn read_on(&mut self) {
        if !self.protocol.is_ready() && !self.protocol.is_dead() {
            self.read(0);
        }
    }

    /// Posts a read, if none is posted.
    fn read(&mut self, behind: usize) {
        let offset = match behind {
            0 => self.protocol.received(),
            _ => 0,
        };
        if self.lanes[behind].rx.is_some() || !self.have_buffer(behind) {
            return;
        }
        let lane = &mut self.lanes[behind];
        lane.rx = lane.spare.take().map(|buffer| Read {
            buffer,
            offset,
            length: (ANSWER - offset).next_multiple_of(self.packet),
            end: None,
        });
    }

    /// Sends a command, behind a read for its answer.
    fn send(&mut self) {
        let behind = self.protocol.under_way();
        let lane = &mut self.lanes[behind];
        if let Some(read) = lane.rx.take_if(|read| read.offset != 0) {
            lane.spare = Some(read.buffer);
            if let Some(Ok(bytes @ 1..)) = read.end {
                let step = self.protocol.transferred(self.now, bytes);
                return self.take_step(step);
            }
        }
        self.complete = false;
        self.protocol.sent(self.now);
        let event = self.event();
        self.sent.push_back(event);
        self.since_command = 0;
        self.since.commands += 1;
        // One and another to get back into step in each attempt, and those that were under way.
        let most = 2 * ATTEMPTS as usize + self.lanes.len();
        assert!(self.since.commands as usize <= most, "endless commands");
        assert_eq!(self.protocol.under_way(), self.sent.len());
        self.outcome.most_under_way = self.outcome.most_under_way.max(self.sent.len());
        self.read(behind);
        self.lanes[behind].tx = Some(None);
    }

    /// An answer is to be used.
    fn answered(&mut self) {
        let answer = self.lanes[0].spare.take().expect("the buffer is here");
        let command = self.sent.pop_front().expect("a command is under way");
        assert!(!self.suspect, "used without being known to be in step");
        // All of it, and nothing else, in one piece from the line.
        let mut at = 0;
        let mut byte = answer[0].first;
        assert!(byte >= self.least_byte, "byte {byte} was used before");
        for run in &answer {
            assert_eq!((run.at, run.first), (at, byte), "{answer:?}");
            assert!(run.came > command, "came before its command: {answer:?}");
            at += run.length;
            byte += run.length as u64;
        }
        assert_eq!(at, ANSWER, "{answer:?}");
        self.least_byte = byte;

        let last = answer[answer.len() - 1].last;
        let status = DeviceStatus::from_byte(last);
        if let DeviceStatus::OutOfStep(byte) = status {
            assert!(last > 7);
            self.lanes[0].spare = Some(answer);
            let step = self.protocol.bad_status(self.now, byte);
            return self.take_step(step);
        }
        self.lanes.rotate_left(1);
        self.protocol.used();
        self.restart_bounds();
        while self.protocol.may_send() && self.can_send() {
            self.send();
        }
        match status {
            DeviceStatus::Healthy => {
                assert_eq!((last, at - 1), (0, DATA));
                self.outcome.delivered += 1;
            }
            _ => {
                assert!((1..=7).contains(&last));
                self.outcome.refused += 1;
            }
        }
    }

    /// An attempt has failed: requests are taken back, and nothing that was under way counts.
    fn failed(&mut self) {
        self.take_back();
        self.suspect = true;
        self.complete = false;
    }

    /// Takes all requests back.
    fn take_back(&mut self) {
        self.sent.clear();
        for lane in &mut self.lanes {
            lane.tx = None;
            if let Some(read) = lane.rx.take() {
                lane.spare = Some(read.buffer);
            }
        }
        self.event();
    }

    /// What is bounded is counted from here.
    fn restart_bounds(&mut self) {
        self.since = Since {
            time: self.now,
            ..Since::default()
        };
    }

    /// Suspend and resume.
    fn restart(&mut self) {
        if !self.sent.is_empty() {
            self.suspect = true;
            self.complete = false;
        }
        self.take_back();
        self.protocol.restart(self.now);
        self.restart_bounds();
        self.settle();
    }

    /// Somebody reads.
    fn retry(&mut self) {
        if self.protocol.is_dead() {
            self.protocol.restart(self.now);
            self.restart_bounds();
        }
        self.settle();
    }

    /// The device answers up to `count` commands, one a millisecond, the last with `status`; if it
    /// is `deaf`, it ignores those that come while it is busy.
    fn serve(&mut self, count: usize, status: u8, deaf: bool) {
        self.fate = Fate::Taken;
        self.taken = 0;
        let mut answered = 0;
        // Deadlines without a command: what it takes to get back into step, in each attempt.
        let mut patience = 4 * ATTEMPTS;
        while answered < count {
            self.wait(1);
            if self.taken == 0 {
                // Nothing happens before the deadline.
                match self.protocol.deadline() {
                    Some(deadline) => self.wait(deadline.saturating_sub(self.now)),
                    None => return,
                }
                if self.taken == 0 {
                    patience -= 1;
                }
                if patience == 0 {
                    return;
                }
                continue;
            }
            self.taken = if deaf { 0 } else { self.taken - 1 };
            answered += 1;
            let last = if answered == count { status } else { 0 };
            self.line.push_back(Chunk::Bytes(ANSWER, last));
            self.settle();
        }
    }

    /// Makes an event happen.
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Wait(time) => self.wait(u64::from(time % 4_096)),
            Event::Send(size, last) => {
                self.line.push_back(Chunk::Bytes(size.bytes(), last));
            }
            Event::Repeat(count, size) => {
                let chunk = Chunk::Bytes(size.bytes(), 0);
                let count = usize::from(count % 32) + 1;
                self.line.extend(iter::repeat_n(chunk, count));
            }
            Event::ReadFails => self.line.push_back(Chunk::Error),
            Event::Commands(fate) => self.fate = fate,
            Event::Serve(count, status) => self.serve(usize::from(count % 8) + 1, status, false),
            Event::ServeDeaf(count) => self.serve(usize::from(count % 8) + 1, 0, true),
            Event::Restart => self.restart(),
            Event::Retry => self.retry(),
            Event::Full(full) => {
                self.full = full;
                self.restart_bounds();
            }
            Event::Burst(burst) => self.burst = burst,
        }
        self.settle();
    }

    /// Goes on to the end.
    fn end(&mut self, end: End) {
        self.full = false;
        self.retry();
        // What was on the line may have been too much at once, more than one time; it has an end.
        while self.protocol.is_dead() {
            self.retry();
        }
        self.restart_bounds();
        let given_up = self.outcome.given_up;
        if let End::Healthy = end {
            // Some of what was on the line may still be.
            self.line.truncate(4);
            let used = |outcome: Outcome| outcome.delivered + outcome.refused;
            let enough = used(self.outcome) + 3;
            while used(self.outcome) < enough {
                self.serve(3, 0, false);
                self.retry();
                assert!(
                    self.outcome.given_up <= given_up + 1,
                    "a healthy device is given up"
                );
            }
            return;
        }
        if let End::Silence | End::Drip(..) = end {
            // What is still on the line counts.
            self.settle();
        }
        if let End::Errors = end {
            self.fate = Fate::Fail;
        }
        let used = self.outcome.delivered + self.outcome.refused;
        // Each turn is bounded, and so are the turns: by the bound of time, or of bytes.
        while self.outcome.given_up == given_up
            && self.outcome.delivered + self.outcome.refused < used + 8
        {
            match end {
                End::Endless => self.line.push_back(Chunk::Bytes(MAX_READ, 0)),
                End::Errors => self.line.push_back(Chunk::Error),
                End::Drip(bytes, every) => {
                    self.line.push_back(Chunk::Bytes(bytes.into(), 0));
                    self.wait(u64::from(every % 2_048).max(20) - 1);
                }
                End::Silence | End::Healthy => {}
            }
            self.wait(1);
        }
    }
}

/// Plays a script.
///
/// # Panics
///
/// If what must hold does not.
pub fn run(script: &Script) -> Outcome {
    let limit = usize::from(script.limit % 4) + 1;
    let packet = usize::from(script.packet % 512) + 1;
    let mut exchange = Exchange::new(limit, packet);
    exchange.settle();
    for event in script.events.iter().take(EVENTS) {
        exchange.happen(event);
    }
    exchange.end(script.end);
    exchange.outcome
}

/// Plays the script that `data` encode: the fuzz target.
///
/// # Panics
///
/// If what must hold does not.
pub fn fuzz(data: &[u8]) -> Outcome {
    // The end first: what the data are too short for becomes zeros.
    let mut data = Unstructured::new(data);
    let (Ok(limit), Ok(packet), Ok(end)) = (data.arbitrary(), data.arbitrary(), data.arbitrary())
    else {
        return Outcome::default();
    };
    let events = iter::from_fn(|| (!data.is_empty()).then(|| data.arbitrary().ok())?);
    run(&Script {
        limit,
        packet,
        events: events.take(EVENTS).collect(),
        end,
    })
}
