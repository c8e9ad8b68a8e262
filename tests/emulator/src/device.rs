// SPDX-License-Identifier: GPL-2.0
//! The unit itself: control requests, endpoints, commands, answers, faults.
//!
//! A state machine without input, output or a clock. A front end (usbredir in [`crate::session`];
//! it could be USB/IP) submits the host's transfers, takes [`Output`]s, and passes the time in, as
//! the duration since whatever moment it likes.
//!
//! # Invariants
//!
//! - Every submitted transfer is completed exactly once, by its own result or by its cancellation,
//!   unless the unit is unplugged first: then none of those under way is completed.
//! - The transfers of one endpoint are completed in the order in which they were submitted, those
//!   cancelled apart.
//! - A byte that no completed transfer has taken stays where it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::control::{Configure, Counts, Status, Unplug};
use crate::descriptors::Identity;
use crate::fault::{
    ControlAnswer, ControlFault, ControlRequest, Fault, Faults, Kind, TransferError,
};
use crate::stream::{self, Block, Command, Source, SourceSpec, ANSWER_LENGTH, BLOCK_LENGTH};

/// Most commands whose answers can wait at once ([`Options::queue`]).
pub const MAX_PENDING: usize = 16;

/// Most bytes that an earlier owner can leave.
const MAX_LEFTOVER: usize = 1 << 20;

/// Most notifications per second: one in each millisecond is what full speed allows.
const MAX_INTERRUPTS: u32 = 1000;

/// Line coding at plug: 115200 baud, one stop bit, no parity, eight bits (PSTN 1.2, table 17).
const LINE_CODING: [u8; 7] = [0x00, 0xc2, 0x01, 0x00, 0x00, 0x00, 0x08];

/// What a unit is made of: the command line's options, and what `configure` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What its descriptors say.
    pub identity: Identity,
    /// Where the data come from.
    pub source: SourceSpec,
    /// Bytes per second that it produces; 0 for no limit.
    pub rate: u64,
    /// Lengths in bytes of the transfers that an answer is cut into; the last one repeats.
    pub split: Vec<usize>,
    /// Bytes that an earlier owner left unread.
    pub leftover: usize,
    /// Notifications per second on the interrupt endpoint.
    pub interrupts: u32,
    /// Commands whose answers can wait at once, from 1 to [`MAX_PENDING`]; what comes beyond is
    /// dropped. With 1, a command is dropped that comes before the answer to another is taken.
    pub queue: usize,
}

impl Options {
    /// Says in one line what is wrong, if anything.
    ///
    /// # Errors
    ///
    /// A number out of range.
    pub fn check(&self) -> Result<(), String> {
        self.identity.check()?;
        if self.split.contains(&0) {
            return Err("an answer cannot be split into transfers of 0 bytes".to_owned());
        }
        if self.leftover > MAX_LEFTOVER {
            return Err(format!("at most {MAX_LEFTOVER} bytes can be left over"));
        }
        if self.interrupts > MAX_INTERRUPTS {
            return Err(format!(
                "at most {MAX_INTERRUPTS} interrupts a second are possible"
            ));
        }
        if !(1..=MAX_PENDING).contains(&self.queue) {
            return Err(format!(
                "the queue has room for 1 to {MAX_PENDING} commands"
            ));
        }
        Ok(())
    }

    /// These options with the changes of a request.
    fn with(&self, change: &Configure) -> Self {
        let mut new = self.clone();
        let identity = &mut new.identity;
        set(&mut identity.vendor_id, &change.vendor_id);
        set(&mut identity.product_id, &change.product_id);
        set(&mut identity.serial, &change.serial);
        set(&mut identity.speed, &change.speed);
        set(&mut identity.interfaces, &change.interfaces);
        set(&mut identity.raw, &change.descriptors);
        set(&mut new.source, &change.source);
        set(&mut new.rate, &change.rate);
        set(&mut new.split, &change.split);
        set(&mut new.leftover, &change.leftover);
        set(&mut new.interrupts, &change.interrupts);
        set(&mut new.queue, &change.queue);
        new
    }
}

/// Replaces a field if a request has one for it.
fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// The SETUP packet of a control transfer (USB 2.0, 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// `bmRequestType`.
    pub request_type: u8,
    /// `bRequest`.
    pub request: u8,
    /// `wValue`.
    pub value: u16,
    /// `wIndex`.
    pub index: u16,
    /// `wLength`.
    pub length: u16,
}

/// Standard and CDC requests, as `(bmRequestType, bRequest)` (USB 2.0 table 9-3, PSTN 1.2 table 13).
mod request {
    pub(super) const GET_STATUS_DEVICE: (u8, u8) = (0x80, 0);
    pub(super) const GET_STATUS_INTERFACE: (u8, u8) = (0x81, 0);
    pub(super) const GET_STATUS_ENDPOINT: (u8, u8) = (0x82, 0);
    pub(super) const CLEAR_FEATURE_ENDPOINT: (u8, u8) = (0x02, 1);
    pub(super) const SET_FEATURE_ENDPOINT: (u8, u8) = (0x02, 3);
    pub(super) const SET_ADDRESS: (u8, u8) = (0x00, 5);
    pub(super) const GET_DESCRIPTOR: (u8, u8) = (0x80, 6);
    pub(super) const GET_CONFIGURATION: (u8, u8) = (0x80, 8);
    pub(super) const SET_CONFIGURATION: (u8, u8) = (0x00, 9);
    pub(super) const GET_INTERFACE: (u8, u8) = (0x81, 10);
    pub(super) const SET_INTERFACE: (u8, u8) = (0x01, 11);
    pub(super) const SET_LINE_CODING: (u8, u8) = (0x21, 0x20);
    pub(super) const GET_LINE_CODING: (u8, u8) = (0xa1, 0x21);
    pub(super) const SET_CONTROL_LINE_STATE: (u8, u8) = (0x21, 0x22);
    pub(super) const SEND_BREAK: (u8, u8) = (0x21, 0x23);
}

/// `wValue` of CLEAR_FEATURE and SET_FEATURE for an endpoint: ENDPOINT_HALT.
const ENDPOINT_HALT: u16 = 0;

impl Setup {
    /// The SETUP packet of SET_CONFIGURATION.
    pub const fn set_configuration(value: u8) -> Self {
        Self::of(request::SET_CONFIGURATION, value as u16, 0, 0)
    }

    /// The SETUP packet of GET_CONFIGURATION.
    pub const fn get_configuration() -> Self {
        Self::of(request::GET_CONFIGURATION, 0, 0, 1)
    }

    /// The SETUP packet of SET_INTERFACE.
    pub const fn set_interface(interface: u8, alt: u8) -> Self {
        Self::of(request::SET_INTERFACE, alt as u16, interface as u16, 0)
    }

    /// The SETUP packet of GET_INTERFACE.
    pub const fn get_interface(interface: u8) -> Self {
        Self::of(request::GET_INTERFACE, 0, interface as u16, 1)
    }

    /// A SETUP packet.
    const fn of((request_type, request): (u8, u8), value: u16, index: u16, length: u16) -> Self {
        Self {
            request_type,
            request,
            value,
            index,
            length,
        }
    }

    /// What a fault calls this request.
    fn named(&self) -> Option<ControlRequest> {
        Some(match (self.request_type, self.request) {
            request::GET_DESCRIPTOR => ControlRequest::GetDescriptor,
            request::SET_CONFIGURATION => ControlRequest::SetConfiguration,
            request::SET_INTERFACE => ControlRequest::SetInterface,
            request::CLEAR_FEATURE_ENDPOINT => ControlRequest::ClearHalt,
            request::SET_LINE_CODING => ControlRequest::SetLineCoding,
            request::GET_LINE_CODING => ControlRequest::GetLineCoding,
            request::SET_CONTROL_LINE_STATE => ControlRequest::SetControlLineState,
            request::SEND_BREAK => ControlRequest::SendBreak,
            _ => return None,
        })
    }
}

/// A transfer that the host wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// On endpoint 0; the data are those of an OUT data stage.
    Control(Setup, Vec<u8>),
    /// Up to so many bytes from the IN endpoint with this address.
    In(u8, usize),
    /// These bytes to the OUT endpoint with this address.
    Out(u8, Vec<u8>),
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// The host cancelled it.
    Cancelled,
    /// There is no such endpoint now.
    Invalid,
    /// The endpoint stalled it.
    Stall,
    /// It failed on the bus.
    IoError,
    /// The unit did not answer.
    Timeout,
    /// The unit sent more than the host has room for.
    Babble,
}

/// The end of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which transfer.
    pub id: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What the host gets.
    pub data: Vec<u8>,
    /// How many bytes went over the bus, in either direction.
    pub length: usize,
}

/// What the unit does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It ends a transfer.
    Complete(Completion),
    /// It has a notification on the interrupt endpoint.
    Interrupt(Vec<u8>),
    /// It is out: no transfer under way will end.
    Unplugged,
    /// Something that a log should tell.
    Event(Event),
}

/// What a log can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Plugged in, with the ids and the serial number.
    Plugged(u16, u16, String),
    /// Unplugged after so many complete answers.
    Unplugged(u64),
    /// The bus was reset.
    Reset,
    /// SET_CONFIGURATION.
    Configured(u8),
    /// SET_CONTROL_LINE_STATE.
    LineState(u16),
    /// A command, and the index of its answer.
    Command(Command, u64),
    /// A byte that is no command.
    Unknown(u8),
    /// A command without room for its answer.
    Dropped(Command),
    /// An answer that the host has taken.
    Answered(Command, u64),
    /// An answer with a fault of this name.
    Fault(Command, u64, String),
    /// A control request with a fault.
    ControlFault(Setup, ControlAnswer),
    /// A control request that the unit does not know.
    Stalled(Setup),
    /// An endpoint halted.
    Halted(u8),
    /// The host ended an endpoint's halt.
    HaltCleared(u8),
    /// The host cancelled a transfer.
    Cancelled(u64),
    /// The source has no data.
    NoData(String),
}

impl Event {
    /// Whether it comes with every answer, so that only a detailed log tells it.
    pub const fn is_frequent(&self) -> bool {
        matches!(
            self,
            Self::Command(..) | Self::Answered(..) | Self::Unknown(_) | Self::Cancelled(_)
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugged(vendor, product, serial) => {
                write!(
                    f,
                    "plugged in as {vendor:04x}:{product:04x}, serial {serial:?}"
                )
            }
            Self::Unplugged(blocks) => write!(f, "unplugged after {blocks} answers"),
            Self::Reset => write!(f, "bus reset"),
            Self::Configured(0) => write!(f, "configuration taken away"),
            Self::Configured(value) => write!(f, "configuration {value} set"),
            Self::LineState(value) => write!(
                f,
                "line state {value}: DTR {}, RTS {}",
                value & 1,
                (value >> 1) & 1
            ),
            Self::Command(command, k) => {
                write!(f, "command '{}' for block {k}", char::from(command.byte()))
            }
            Self::Unknown(byte) => write!(f, "byte {byte:#04x} is no command: ignored"),
            Self::Dropped(command) => write!(
                f,
                "command '{}' dropped: too many answers wait to be taken",
                char::from(command.byte())
            ),
            Self::Answered(command, k) => {
                write!(f, "block {k} of '{}' taken", char::from(command.byte()))
            }
            Self::Fault(command, k, name) => write!(
                f,
                "fault in block {k} of '{}': {name}",
                char::from(command.byte())
            ),
            Self::ControlFault(setup, answer) => write!(
                f,
                "fault in control request {:#04x} {:#04x}: {answer:?}",
                setup.request_type, setup.request
            ),
            Self::Stalled(setup) => write!(
                f,
                "control request {:#04x} {:#04x} value {:#06x} index {} stalled: not supported",
                setup.request_type, setup.request, setup.value, setup.index
            ),
            Self::Halted(address) => write!(f, "endpoint {address:#04x} halted"),
            Self::HaltCleared(address) => write!(f, "halt of endpoint {address:#04x} cleared"),
            Self::Cancelled(id) => write!(f, "transfer {id:#x} cancelled"),
            Self::NoData(error) => write!(f, "no answer: the source failed: {error}"),
        }
    }
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A transfer of the bytes up to this offset. It ends in a short packet or one without data;
    /// if it is `cut`, in nothing: the host never sees its end.
    Data { end: usize, cut: bool },
    /// A packet without data.
    Zero,
    /// A failed transfer.
    Error(TransferError),
    /// Bulk IN halts; the rest is lost.
    Halt,
    /// The unit is pulled out.
    Unplug,
}

/// An answer that the host has not fully taken.
#[derive(Debug)]
struct Answer {
    /// To which command, and its index; nothing for bytes of an earlier owner.
    command: Option<(Command, u64)>,
    /// All its bytes.
    bytes: Vec<u8>,
    /// How many the host has taken.
    taken: usize,
    /// What is left to do.
    steps: VecDeque<Step>,
    /// When its production begins.
    from: Duration,
    /// Bytes per second from then on; 0 for all at once.
    rate: u64,
}

impl Answer {
    /// When its first `length` bytes are there.
    fn ready(&self, length: usize) -> Duration {
        self.from + production_time(length, self.rate)
    }
}

/// How long it takes to produce so many bytes.
fn production_time(length: usize, rate: u64) -> Duration {
    match rate {
        0 => Duration::ZERO,
        rate => {
            let nanoseconds = length as u128 * 1_000_000_000 / u128::from(rate);
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        }
    }
}

/// An OUT transfer that is not completed.
#[derive(Debug)]
struct Write {
    /// Its id.
    id: u64,
    /// Its data.
    data: Vec<u8>,
    /// Whether a fault keeps it.
    held: bool,
    /// Whether its commands have been executed all the same.
    executed: bool,
}

/// What a unit forgets when it is unplugged.
#[derive(Debug)]
struct Powered {
    /// The active configuration, 0 for none.
    configuration: u8,
    /// DTR and RTS.
    line_state: u16,
    /// As the host set it.
    line_coding: [u8; 7],
    /// Addresses of halted endpoints.
    halted: BTreeSet<u8>,
    /// Answers in the order of their commands.
    answers: VecDeque<Answer>,
    /// IN transfers that wait: id and length.
    reads: VecDeque<(u64, usize)>,
    /// OUT transfers that wait.
    writes: VecDeque<Write>,
    /// Control transfers that a fault keeps.
    held_controls: Vec<(u64, Setup, Vec<u8>)>,
    /// When the production of all answers so far ends.
    produced: Duration,
    /// When the next notification is due.
    notification: Option<Duration>,
}

/// What a packet-by-packet bulk IN transfer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    /// Bytes that the host gets.
    given: usize,
    /// Bytes that leave the unit: more than given when the last packet did not fit.
    gone: usize,
    /// Whether a packet did not fit.
    babble: bool,
    /// Whether the host has seen the end of the device's transfer.
    ended: bool,
}

/// Plays the packets of a bulk IN transfer: the unit has `left` bytes in its own transfer, the host
/// has room for `room`. The transfer ends with the first packet that is not full, or when the room
/// is full.
fn take(left: usize, room: usize, packet: usize) -> Taken {
    let whole = left.min(room) / packet * packet;
    let (left, room) = (left - whole, room - whole);
    // The next packet is short (perhaps empty), or it is full and there is no whole room for it.
    let next = left.min(packet);
    if room == 0 && whole > 0 {
        // No further packet is asked for.
        return Taken {
            given: whole,
            gone: whole,
            babble: false,
            ended: false,
        };
    }
    Taken {
        given: whole + next.min(room),
        gone: whole + next,
        babble: next > room,
        ended: next < packet,
    }
}

/// A virtual AlphaRNG.
#[derive(Debug)]
pub struct Device {
    /// What it is made of now.
    options: Options,
    /// Where its data come from.
    source: Source,
    /// What goes wrong with it.
    faults: Faults,
    /// Index of the next answer to each command.
    next: BTreeMap<Command, u64>,
    /// Data of the last answer to each command.
    last: BTreeMap<Command, Box<Block>>,
    /// The counters; the rest of it is filled in when asked for.
    counters: Status,
    /// How long it had nothing to produce, until the last command.
    idle: Duration,
    /// What it has only while it is plugged in.
    powered: Option<Powered>,
    /// What it has done and nobody has taken yet.
    outputs: VecDeque<Output>,
    /// When something happens by itself.
    deadline: Option<Duration>,
}

impl Device {
    /// A unit, unplugged.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with the options.
    pub fn new(options: Options) -> Result<Self, String> {
        options.check()?;
        let source = Source::new(options.source.clone())?;
        Ok(Self {
            options,
            source,
            faults: Faults::default(),
            next: BTreeMap::new(),
            last: BTreeMap::new(),
            counters: Status {
                commands: Counts::zero(),
                ..Status::default()
            },
            idle: Duration::ZERO,
            powered: None,
            outputs: VecDeque::new(),
            deadline: None,
        })
    }

    /// What its descriptors say.
    pub fn identity(&self) -> &Identity {
        &self.options.identity
    }

    /// Whether it is plugged in.
    pub fn is_plugged(&self) -> bool {
        self.powered.is_some()
    }

    /// The active configuration, 0 for none.
    pub fn configuration(&self) -> u8 {
        self.powered.as_ref().map_or(0, |p| p.configuration)
    }

    /// What it does next, oldest first.
    pub fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::poll`] has something to do, if nothing else comes before.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Whether [`Self::prepare`] has something to do.
    pub fn wants_to_prepare(&self) -> bool {
        self.powered.is_some() && self.source.wants_to_prepare()
    }

    /// Makes data ahead of the command that will ask for them: for when nothing else is to do.
    pub fn prepare(&mut self) {
        self.source.prepare();
    }

    /// Plugs it in. Does nothing if it is.
    pub fn plug(&mut self, now: Duration) {
        if self.powered.is_some() {
            return;
        }
        let mut answers = VecDeque::new();
        if self.options.leftover > 0 {
            let bytes = stream::leftover(self.source.seed(), self.options.leftover);
            answers.push_back(Answer {
                command: None,
                taken: 0,
                steps: VecDeque::from([Step::Data {
                    end: bytes.len(),
                    cut: false,
                }]),
                bytes,
                from: now,
                rate: 0,
            });
        }
        self.powered = Some(Powered {
            configuration: 0,
            line_state: 0,
            line_coding: LINE_CODING,
            halted: BTreeSet::new(),
            answers,
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            held_controls: Vec::new(),
            produced: now,
            notification: None,
        });
        self.counters.plugs += 1;
        let identity = &self.options.identity;
        self.event(Event::Plugged(
            identity.vendor_id,
            identity.product_id,
            identity.serial.clone(),
        ));
    }

    /// Pulls it out. Does nothing if it is.
    pub fn unplug(&mut self) {
        if self.powered.take().is_some() {
            self.deadline = None;
            self.outputs.push_back(Output::Unplugged);
            self.event(Event::Unplugged(self.counters.blocks));
        }
    }

    /// Pulls it out as a request says: now, or in the middle of an answer.
    ///
    /// # Errors
    ///
    /// One line, if that answer is of the past.
    pub fn unplug_as(&mut self, unplug: Unplug) -> Result<(), String> {
        match unplug.at {
            None => {
                self.unplug();
                Ok(())
            }
            Some(at) => self.add_fault(Fault {
                block: at.block,
                command: at.command,
                count: 1,
                kind: Kind::Unplug { bytes: at.bytes },
            }),
        }
    }

    /// Pulls it out and makes it the unit of these options: no faults, counters at zero.
    ///
    /// # Errors
    ///
    /// One line, if the source cannot be opened; then it is out, but otherwise as it was.
    pub fn reset(&mut self, options: Options) -> Result<(), String> {
        self.unplug();
        let outputs = std::mem::take(&mut self.outputs);
        let result = Self::new(options).map(|new| *self = new);
        // What the old unit has done comes first.
        let newer = std::mem::replace(&mut self.outputs, outputs);
        self.outputs.extend(newer);
        result
    }

    /// Changes what it is.
    ///
    /// # Errors
    ///
    /// One line: a bad value, or a change that needs the unit unplugged.
    pub fn configure(&mut self, change: &Configure) -> Result<(), String> {
        if self.powered.is_some() {
            let harmless = Configure {
                rate: change.rate,
                split: change.split.clone(),
                interrupts: change.interrupts,
                ..Configure::default()
            };
            if *change != harmless {
                return Err(
                    "the device is plugged in: unplug it first (only rate, split and interrupts \
                     can change before)"
                        .to_owned(),
                );
            }
        }
        let options = self.options.with(change);
        options.check()?;
        if change.source.is_some() {
            self.source = Source::new(options.source.clone())?;
            self.next.clear();
            self.last.clear();
        }
        self.options = options;
        Ok(())
    }

    /// Adds a fault.
    ///
    /// # Errors
    ///
    /// One line that says why it cannot be.
    pub fn add_fault(&mut self, fault: Fault) -> Result<(), String> {
        if matches!(fault.kind, Kind::Repeat { of: Some(_) }) && !self.source.is_repeatable() {
            return Err(
                "the source cannot make a block a second time: use a seeded one or a file"
                    .to_owned(),
            );
        }
        let next = self.next_block(fault.command);
        self.faults.add(fault, next)
    }

    /// Adds a fault of control requests.
    pub fn add_control_fault(&mut self, fault: ControlFault) {
        self.faults.add_control(fault);
    }

    /// Forgets all faults. Transfers that they held go on.
    pub fn clear_faults(&mut self, now: Duration) {
        self.faults.clear();
        if let Some(powered) = &mut self.powered {
            for write in &mut powered.writes {
                write.held = false;
            }
            for (id, setup, data) in std::mem::take(&mut powered.held_controls) {
                self.control(id, setup, &data);
            }
        }
        self.poll(now);
    }

    /// The front end has passed a notification on to the host.
    pub fn notified(&mut self) {
        self.counters.notifications += 1;
    }

    /// How it is. `connected` is left to the front end.
    pub fn status(&self) -> Status {
        let identity = &self.options.identity;
        let mut status = Status {
            plugged: self.powered.is_some(),
            configured: self.configuration() != 0,
            vendor_id: identity.vendor_id,
            product_id: identity.product_id,
            serial: identity.serial.clone(),
            next_block: self.next_block(Command::Entropy),
            faults: self.faults.len(),
            idle_us: u64::try_from(self.idle.as_micros()).unwrap_or(u64::MAX),
            ..self.counters.clone()
        };
        for command in Command::ALL {
            status.next_blocks.set(command, self.next_block(command));
        }
        if let Some(powered) = &self.powered {
            status.line_state = powered.line_state;
            status.pending = powered.pending();
            status.leftover = powered
                .answers
                .iter()
                .filter(|answer| answer.command.is_none())
                .map(|answer| answer.bytes.len() - answer.taken)
                .sum();
            status.reads = powered.reads.len();
            status.halted_in = powered.halted.contains(&identity.interfaces.in_address());
            status.halted_out = powered.halted.contains(&identity.interfaces.out_address());
        }
        status
    }

    /// The bus is reset: no configuration, no halts. Transfers under way and unread bytes stay; the
    /// host cancels the former by itself.
    pub fn bus_reset(&mut self) {
        let next = self.next_block(Command::Entropy);
        if let Some(powered) = &mut self.powered {
            powered.configuration = 0;
            powered.line_state = 0;
            powered.halted.clear();
            self.counters.resets += 1;
            self.counters.next_block_at_reset = next;
            self.event(Event::Reset);
        }
    }

    /// The host wants a transfer done. Does nothing while unplugged.
    pub fn submit(&mut self, now: Duration, id: u64, transfer: Transfer) {
        let interfaces = self.options.identity.interfaces;
        let Some(powered) = &mut self.powered else {
            return;
        };
        let configured = powered.configuration != 0;
        if !matches!(transfer, Transfer::Control(..)) {
            self.counters.transfers += 1;
        }
        match transfer {
            Transfer::Control(setup, data) => self.control(id, setup, &data),
            Transfer::In(address, length) if configured && address == interfaces.in_address() => {
                powered.reads.push_back((id, length));
                self.counters.most_reads = self.counters.most_reads.max(powered.reads.len());
            }
            Transfer::Out(address, data) if configured && address == interfaces.out_address() => {
                powered.writes.push_back(Write {
                    id,
                    data,
                    held: false,
                    executed: false,
                });
            }
            Transfer::In(..) | Transfer::Out(..) => {
                self.complete(id, Outcome::Invalid, Vec::new(), 0);
            }
        }
        self.poll(now);
    }

    /// The host gives a transfer up. Does nothing if it has been completed before.
    pub fn cancel(&mut self, now: Duration, id: u64) {
        let Some(powered) = &mut self.powered else {
            return;
        };
        let waiting = powered.reads.len() + powered.writes.len() + powered.held_controls.len();
        powered.reads.retain(|(read, _)| *read != id);
        powered.writes.retain(|write| write.id != id);
        powered.held_controls.retain(|(control, ..)| *control != id);
        let left = powered.reads.len() + powered.writes.len() + powered.held_controls.len();
        if left < waiting {
            self.counters.cancelled += 1;
            self.complete(id, Outcome::Cancelled, Vec::new(), 0);
            self.event(Event::Cancelled(id));
        }
        self.poll(now);
    }

    /// Does what has become possible, and sets the next deadline.
    pub fn poll(&mut self, now: Duration) {
        self.do_writes(now);
        let reads = self.do_reads(now);
        let notifications = self.do_notifications(now);
        self.deadline = reads.into_iter().chain(notifications).min();
    }

    /// Completes OUT transfers: takes their commands.
    fn do_writes(&mut self, now: Duration) {
        let out = self.options.identity.interfaces.out_address();
        while let Some(powered) = &mut self.powered {
            let halted = powered.halted.contains(&out);
            let Some(write) = powered.writes.front() else {
                return;
            };
            if halted {
                let id = write.id;
                powered.writes.pop_front();
                self.stall(id);
                continue;
            }
            if write.held {
                return;
            }
            let executed = write.executed;
            let commands: Vec<u8> = write.data.clone();
            let fault = (!executed).then(|| self.fault_of_commands(&commands));
            if let Some((command, k, kind)) = fault.flatten() {
                self.event(Event::Fault(command, k, name(&kind)));
                let executed = kind == Kind::Unasked;
                if let Kind::Hold | Kind::Unasked = kind {
                    if let Some(write) = self.powered.as_mut().and_then(|p| p.writes.front_mut()) {
                        write.held = true;
                        write.executed = executed;
                    }
                } else {
                    self.halt(out);
                }
                if executed {
                    for byte in &commands {
                        self.command(now, *byte);
                    }
                }
                continue;
            }
            let id = write_id(self.powered.as_mut());
            if !executed {
                for byte in &commands {
                    self.command(now, *byte);
                }
            }
            if let Some(id) = id {
                self.complete(id, Outcome::Success, Vec::new(), commands.len());
            }
        }
    }

    /// The fault that hits the transfer with these commands as a whole, if any.
    fn fault_of_commands(&mut self, bytes: &[u8]) -> Option<(Command, u64, Kind)> {
        let mut next = self.next.clone();
        for command in bytes.iter().filter_map(|byte| Command::from_byte(*byte)) {
            let k = next.entry(command).or_default();
            if let Some(kind) = self.faults.take_for_command(command, *k) {
                return Some((command, *k, kind));
            }
            *k += 1;
        }
        None
    }

    /// Takes one command.
    fn command(&mut self, now: Duration, byte: u8) {
        let Some(powered) = &mut self.powered else {
            return;
        };
        let command = Command::from_byte(byte);
        self.counters.commands.add(command);
        let Some(command) = command else {
            self.event(Event::Unknown(byte));
            return;
        };
        let pending = powered.pending();
        if pending > 0 {
            self.counters.early_commands += 1;
        }
        if pending >= self.options.queue {
            self.counters.dropped += 1;
            self.event(Event::Dropped(command));
            return;
        }
        let k = self.next_block(command);
        self.next.insert(command, k + 1);
        self.event(Event::Command(command, k));
        match self.answer(now, command, k) {
            Ok(Some(answer)) => {
                if let Some(powered) = &mut self.powered {
                    self.idle += now.saturating_sub(powered.produced);
                    powered.produced = answer.ready(answer.bytes.len());
                    powered.answers.push_back(answer);
                    self.counters.most_pending = self.counters.most_pending.max(pending + 1);
                }
            }
            Ok(None) => {}
            Err(error) => self.event(Event::NoData(error)),
        }
    }

    /// Makes the answer `k` to a command with all its faults; nothing if it is silent.
    ///
    /// # Errors
    ///
    /// One line, if the source has no data.
    fn answer(
        &mut self,
        now: Duration,
        command: Command,
        k: u64,
    ) -> Result<Option<Answer>, String> {
        let mut data = self
            .source
            .take(command, k)
            .map_err(|error| error.to_string())?;
        let mut status = 0;
        let mut extra = 0;
        let mut length = None;
        let mut end = None;
        let mut silent = false;
        let mut delay = Duration::ZERO;
        let mut steps = VecDeque::new();
        let mut error = None;
        let mut names = Vec::new();

        let source = &self.source;
        let before = self.last.get(&command).map(|block| &**block);
        self.faults.take_for_answer(command, k, |hit| {
            names.push(name(hit.kind));
            match hit.kind {
                Kind::Status { value } => status = *value,
                Kind::Short { bytes } => length = Some(*bytes),
                Kind::Silent => silent = true,
                Kind::Stall { bytes, .. } => end = Some((*bytes, Step::Halt)),
                Kind::Unplug { bytes } => end = Some((*bytes, Step::Unplug)),
                Kind::Extra { bytes } => extra = *bytes,
                Kind::Delay { ms } => delay += Duration::from_millis(*ms),
                Kind::Error { status, transfers } => {
                    steps.extend((0..*transfers).map(|_| Step::Error(*status)));
                }
                Kind::ZeroLength { transfers } => {
                    steps.extend((0..*transfers).map(|_| Step::Zero));
                }
                Kind::Repeat { of: Some(of) } => match source.make(command, *of) {
                    Ok(block) => data = block,
                    Err(e) => error = Some(e.to_string()),
                },
                Kind::File { .. } => {
                    if let Some((file, length)) = hit.file {
                        let offset = hit.used * BLOCK_LENGTH as u64;
                        if let Err(e) = stream::read_round(file, length, offset, &mut data[..]) {
                            error = Some(e.to_string());
                        }
                    }
                }
                pattern => pattern.apply(k, before, &mut data),
            }
        });
        for name in names {
            self.event(Event::Fault(command, k, name));
        }
        if let Some(error) = error {
            return Err(error);
        }
        if silent {
            return Ok(None);
        }

        let mut bytes = Vec::with_capacity(ANSWER_LENGTH + extra);
        bytes.extend_from_slice(&data[..]);
        bytes.push(status);
        bytes.extend(stream::extra(self.source.seed(), command, k, extra));
        if let Some(length) = length {
            bytes.truncate(length);
        }
        self.last.insert(command, data);

        let stop = end.map_or(bytes.len(), |(stop, _)| bytes.len().min(stop));
        let is_cut = stop < bytes.len();
        self.cut_into_transfers(stop, is_cut, &mut steps);
        steps.extend(end.map(|(_, step)| step));

        let produced = self.powered.as_ref().map_or(now, |p| p.produced);
        Ok(Some(Answer {
            command: Some((command, k)),
            bytes,
            taken: 0,
            steps,
            from: now.max(produced) + delay,
            rate: self.options.rate,
        }))
    }

    /// Adds the transfers of an answer of `length` bytes as `split` says. If the answer `is_cut`
    /// there, its last transfer has no end.
    fn cut_into_transfers(&self, length: usize, is_cut: bool, steps: &mut VecDeque<Step>) {
        if length == 0 {
            if !is_cut {
                steps.push_back(Step::Zero);
            }
            return;
        }
        let last = self.options.split.last().copied().unwrap_or(length);
        let mut lengths = self.options.split.iter().copied();
        let mut end = 0;
        while end < length {
            end += lengths.next().unwrap_or(last).min(length - end);
            steps.push_back(Step::Data {
                end,
                cut: is_cut && end == length,
            });
        }
    }

    /// Completes IN transfers with what is there. Returns when more will be.
    fn do_reads(&mut self, now: Duration) -> Option<Duration> {
        let interfaces = self.options.identity.interfaces;
        let packet = usize::from(self.options.identity.speed.bulk_packet_size());
        loop {
            let powered = self.powered.as_mut()?;
            let read = powered.reads.front().copied();
            if powered.halted.contains(&interfaces.in_address()) {
                let (id, _) = read?;
                powered.reads.pop_front();
                self.stall(id);
                continue;
            }
            let answer = powered.answers.front_mut()?;
            let Some(step) = answer.steps.front().copied() else {
                self.end_answer();
                continue;
            };

            // What happens by itself.
            let ready = answer.ready(answer.taken);
            match step {
                Step::Halt if ready <= now => {
                    self.end_answer();
                    self.halt(interfaces.in_address());
                    continue;
                }
                Step::Unplug if ready <= now => {
                    self.end_answer();
                    self.unplug();
                    return None;
                }
                Step::Halt | Step::Unplug => return Some(ready),
                _ => {}
            }

            // What a read has to fetch.
            let (id, room) = read?;
            let (ready, outcome, taken) = match step {
                Step::Data { end, cut } => {
                    let mut taken = take(end - answer.taken, room, packet);
                    // A transfer that is cut ends where its bytes do.
                    taken.ended |= cut && answer.taken + taken.gone == end;
                    let outcome = if taken.babble {
                        Outcome::Babble
                    } else {
                        Outcome::Success
                    };
                    (answer.ready(answer.taken + taken.gone), outcome, taken)
                }
                step => {
                    let outcome = match step {
                        Step::Error(TransferError::IoError) => Outcome::IoError,
                        Step::Error(TransferError::Timeout) => Outcome::Timeout,
                        Step::Error(TransferError::Babble) => Outcome::Babble,
                        _ => Outcome::Success,
                    };
                    let nothing = Taken {
                        given: 0,
                        gone: 0,
                        babble: false,
                        ended: true,
                    };
                    (ready, outcome, nothing)
                }
            };
            if ready > now {
                return Some(ready);
            }
            let data = answer.bytes[answer.taken..][..taken.given].to_vec();
            answer.taken += taken.gone;
            if taken.ended {
                answer.steps.pop_front();
            }
            powered.reads.pop_front();
            self.counters.bytes += taken.given as u64;
            self.complete(id, outcome, data, taken.given);
        }
    }

    /// Ends the first answer: what the host has not taken of it is lost.
    fn end_answer(&mut self) {
        let answer = self.powered.as_mut().and_then(|p| p.answers.pop_front());
        let Some(answer) = answer else {
            return;
        };
        if let Some((command, k)) = answer.command {
            if answer.taken == answer.bytes.len() && answer.taken >= ANSWER_LENGTH {
                self.counters.blocks += 1;
            }
            self.event(Event::Answered(command, k));
        }
    }

    /// Sends notifications that are due. Returns when the next one is.
    fn do_notifications(&mut self, now: Duration) -> Option<Duration> {
        let communications = self.options.identity.interfaces.communications;
        let powered = self.powered.as_mut()?;
        if self.options.interrupts == 0 || powered.configuration == 0 {
            powered.notification = None;
            return None;
        }
        let period = Duration::from_secs(1) / self.options.interrupts;
        let due = powered.notification.unwrap_or(now);
        if due > now {
            return Some(due);
        }
        // SERIAL_STATE with DCD and DSR (PSTN 1.2, 6.5.4). One at a time, even after a delay: the
        // endpoint has room for one.
        powered.notification = Some(now + period);
        self.outputs.push_back(Output::Interrupt(vec![
            0xa1,
            0x20,
            0,
            0,
            communications,
            0,
            2,
            0,
            0b11,
            0,
        ]));
        Some(now + period)
    }

    /// Does a control transfer.
    fn control(&mut self, id: u64, setup: Setup, data: &[u8]) {
        self.counters.control_requests += 1;
        if let Some(answer) = self.faults.take_for_control(setup.named()) {
            self.event(Event::ControlFault(setup, answer));
            match answer {
                ControlAnswer::Stall => self.stall(id),
                ControlAnswer::IoError => self.complete(id, Outcome::IoError, Vec::new(), 0),
                ControlAnswer::Empty => self.complete(id, Outcome::Success, Vec::new(), 0),
                ControlAnswer::Unplug => {
                    // What the host sees of it, at once: otherwise it waits for the end of this one.
                    self.complete(id, Outcome::IoError, Vec::new(), 0);
                    self.unplug();
                }
                ControlAnswer::Hold => {
                    if let Some(powered) = &mut self.powered {
                        powered.held_controls.push((id, setup, data.to_vec()));
                    }
                }
            }
            return;
        }
        match self.request(setup, data) {
            Some(mut reply) => {
                reply.truncate(setup.length.into());
                let length = if setup.request_type & 0x80 == 0 {
                    data.len()
                } else {
                    reply.len()
                };
                self.complete(id, Outcome::Success, reply, length);
            }
            None => {
                self.event(Event::Stalled(setup));
                self.stall(id);
            }
        }
    }

    /// Does a control request. Returns the data stage, or nothing to stall it.
    fn request(&mut self, setup: Setup, data: &[u8]) -> Option<Vec<u8>> {
        let interfaces = self.options.identity.interfaces;
        let addresses = [
            interfaces.notify_address(),
            interfaces.in_address(),
            interfaces.out_address(),
        ];
        let powered = self.powered.as_mut()?;
        let configured = powered.configuration != 0;
        let [low, high] = setup.index.to_le_bytes();
        let is_endpoint_0 = high == 0 && low & 0x7f == 0;
        let is_endpoint = high == 0 && configured && addresses.contains(&low);
        let is_interface =
            high == 0 && configured && [interfaces.communications, interfaces.data].contains(&low);
        let is_communications = is_interface && low == interfaces.communications;

        match (setup.request_type, setup.request) {
            request::GET_DESCRIPTOR => self.options.identity.descriptor(setup.value),
            // Bus powered, no remote wake-up.
            request::GET_STATUS_DEVICE => Some(vec![0, 0]),
            request::GET_STATUS_INTERFACE if is_interface => Some(vec![0, 0]),
            request::GET_STATUS_ENDPOINT if is_endpoint || is_endpoint_0 => {
                Some(vec![powered.halted.contains(&low).into(), 0])
            }
            request::CLEAR_FEATURE_ENDPOINT
                if setup.value == ENDPOINT_HALT && (is_endpoint || is_endpoint_0) =>
            {
                powered.halted.remove(&low);
                self.counters.cleared_halts += 1;
                self.event(Event::HaltCleared(low));
                Some(Vec::new())
            }
            request::SET_FEATURE_ENDPOINT if setup.value == ENDPOINT_HALT && is_endpoint => {
                self.halt(low);
                Some(Vec::new())
            }
            request::SET_ADDRESS => Some(Vec::new()),
            request::GET_CONFIGURATION => Some(vec![powered.configuration]),
            request::SET_CONFIGURATION => {
                let value = u8::try_from(setup.value).ok()?;
                if !self.options.identity.has_configuration(value) {
                    return None;
                }
                powered.configuration = value;
                powered.halted.clear();
                self.counters.configurations += 1;
                self.event(Event::Configured(value));
                Some(Vec::new())
            }
            request::GET_INTERFACE if is_interface => Some(vec![0]),
            // Whatever settings its descriptors tell of.
            request::SET_INTERFACE if configured && self.options.identity.is_raw() => {
                Some(Vec::new())
            }
            // Selecting a setting ends the halts of its endpoints (USB 2.0, 9.1.1.5).
            request::SET_INTERFACE if is_interface && setup.value == 0 => {
                if is_communications {
                    powered.halted.remove(&interfaces.notify_address());
                } else {
                    powered.halted.remove(&interfaces.in_address());
                    powered.halted.remove(&interfaces.out_address());
                }
                Some(Vec::new())
            }
            request::SET_LINE_CODING if is_communications => {
                powered.line_coding = data.try_into().ok()?;
                self.counters.line_codings += 1;
                Some(Vec::new())
            }
            request::GET_LINE_CODING if is_communications => Some(powered.line_coding.to_vec()),
            request::SET_CONTROL_LINE_STATE if is_communications => {
                powered.line_state = setup.value;
                self.counters.line_states += 1;
                self.event(Event::LineState(setup.value));
                Some(Vec::new())
            }
            request::SEND_BREAK if is_communications => {
                self.counters.breaks += 1;
                Some(Vec::new())
            }
            _ => None,
        }
    }

    /// Halts an endpoint.
    fn halt(&mut self, address: u8) {
        if let Some(powered) = &mut self.powered {
            powered.halted.insert(address);
            self.event(Event::Halted(address));
        }
    }

    /// Ends a transfer with a stall.
    fn stall(&mut self, id: u64) {
        self.counters.stalls += 1;
        self.complete(id, Outcome::Stall, Vec::new(), 0);
    }

    /// Ends a transfer.
    fn complete(&mut self, id: u64, outcome: Outcome, data: Vec<u8>, length: usize) {
        self.outputs.push_back(Output::Complete(Completion {
            id,
            outcome,
            data,
            length,
        }));
    }

    /// Tells the log.
    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Index of the next answer to a command.
    fn next_block(&self, command: Command) -> u64 {
        self.next.get(&command).copied().unwrap_or(0)
    }
}

impl Powered {
    /// Commands whose answers the host has not fully taken.
    fn pending(&self) -> usize {
        self.answers
            .iter()
            .filter(|answer| answer.command.is_some())
            .count()
    }
}

/// Takes the first OUT transfer off the queue, for its id.
fn write_id(powered: Option<&mut Powered>) -> Option<u64> {
    powered?.writes.pop_front().map(|write| write.id)
}

/// A fault's name in the control protocol.
fn name(kind: &Kind) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|value| value.get("kind")?.as_str().map(str::to_owned))
        .unwrap_or_default()
}
