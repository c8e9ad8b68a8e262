// SPDX-License-Identifier: GPL-2.0
//! The catalogue of faults that a test can make a unit show.

use std::fs::File;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::control::read;
use crate::pattern;
use crate::stream::{self, Block, Command, ANSWER_LENGTH, BLOCK_LENGTH};

/// Most bytes that `extra` appends.
const MAX_EXTRA: usize = 1 << 20;

/// Which answer a fault begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The answer to the next command of that kind.
    #[default]
    Next,
    /// The answer with this index, counted from 0.
    Block(u64),
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Next => serializer.serialize_str("next"),
            Self::Block(k) => serializer.serialize_u64(*k),
        }
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "next" => Ok(Self::Next),
            Value::Number(number) if number.is_u64() => {
                Ok(Self::Block(number.as_u64().unwrap_or_default()))
            }
            other => Err(D::Error::custom(format!(
                "a block is \"next\" or its index from 0, not {other}"
            ))),
        }
    }
}

/// A direction of the data interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Bulk IN.
    In,
    /// Bulk OUT.
    Out,
}

/// How a transfer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferError {
    /// A transaction error, such as a bad CRC.
    IoError,
    /// More data than the host has room for.
    Babble,
    /// The device did not answer in time.
    Timeout,
}

/// One run of bytes that `overlay` puts over the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Offset in the data, 0 to 15999.
    pub at: usize,
    /// The bytes themselves, two hexadecimal digits each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// Or: how many bytes ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// ... of this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u8>,
}

impl Piece {
    /// A piece with these bytes.
    pub fn bytes(at: usize, bytes: &[u8]) -> Self {
        Self {
            at,
            hex: Some(hex::encode(bytes)),
            length: None,
            value: None,
        }
    }

    /// A piece of `length` times the same value.
    pub fn run(at: usize, length: usize, value: u8) -> Self {
        Self {
            at,
            hex: None,
            length: Some(length),
            value: Some(value),
        }
    }

    /// The bytes, or one line that says what is wrong.
    fn decode(&self) -> Result<Vec<u8>, String> {
        let bytes = match (&self.hex, self.length, self.value) {
            (Some(digits), None, None) => {
                hex::decode(digits).map_err(|e| format!("piece at {}: {e}", self.at))?
            }
            (None, Some(length), Some(value)) if length <= BLOCK_LENGTH => vec![value; length],
            (None, Some(length), Some(_)) => {
                return Err(format!(
                    "piece at {}: a length of {length} is more than a block",
                    self.at
                ))
            }
            _ => {
                return Err(format!(
                    "piece at {}: give either \"hex\", or \"length\" and \"value\"",
                    self.at
                ))
            }
        };
        if self.at > BLOCK_LENGTH || bytes.len() > BLOCK_LENGTH - self.at {
            return Err(format!(
                "piece at {}: {} bytes from there do not fit into {BLOCK_LENGTH}",
                self.at,
                bytes.len()
            ));
        }
        Ok(bytes)
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// The status byte has this value.
    Status {
        /// 0 to 255; a real unit knows 1 (RCT), 2 (APT) and 4 (frequency).
        value: u8,
    },
    /// The answer ends after so many bytes, as a transfer does: with a short packet.
    Short {
        /// 0 to 16001.
        bytes: usize,
    },
    /// There is no answer to this command.
    Silent,
    /// The OUT transfer that brings the command is not completed until the host cancels it (or the
    /// faults are cleared); the command is not executed until then.
    Hold,
    /// The same, but the command is executed: its answer comes before it was taken.
    Unasked,
    /// An endpoint halts. `in`: after `bytes` bytes of the answer, the rest of which is lost.
    /// `out`: at the transfer that brings the command, which is not executed.
    Stall {
        /// Which endpoint.
        endpoint: Direction,
        /// Bytes of the answer that come before; for `in` only.
        #[serde(default)]
        bytes: usize,
    },
    /// More bytes behind the status byte ([`stream::extra`]).
    Extra {
        /// How many, at most 1 MiB.
        bytes: usize,
    },
    /// The answer comes late.
    Delay {
        /// By how many milliseconds.
        ms: u64,
    },
    /// Transfers of this answer fail, before any of its data. The host controller tries again after
    /// an `ioerror` or `timeout`.
    Error {
        /// In which way.
        status: TransferError,
        /// How many in a row.
        #[serde(default = "one")]
        transfers: u32,
    },
    /// Transfers without data come before the answer.
    ZeroLength {
        /// How many.
        #[serde(default = "one")]
        transfers: u32,
    },
    /// The unit is pulled out after so many bytes of the answer.
    Unplug {
        /// 0 to 16001.
        bytes: usize,
    },
    /// The data are one value ([`pattern::stuck`]).
    Stuck {
        /// The value.
        value: u8,
    },
    /// The data are two values in turn ([`pattern::alternating`]).
    Alternating {
        /// First value.
        a: u8,
        /// Second value.
        b: u8,
    },
    /// The data repeat after `length` bytes ([`pattern::period`]).
    Period {
        /// 1 to 16000 bytes.
        length: usize,
        /// Seed of the bytes that repeat.
        #[serde(default)]
        seed: u64,
    },
    /// One bit of each byte is stuck ([`pattern::bit_stuck`]).
    BitStuck {
        /// 0 (lowest) to 7.
        bit: u8,
        /// 0 or 1.
        value: u8,
    },
    /// One byte value comes too often ([`pattern::symbol`]).
    Symbol {
        /// The value.
        value: u8,
        /// Its probability is 1 in so many: 1 or more.
        one_in: u32,
        /// Seed of the data.
        #[serde(default)]
        seed: u64,
    },
    /// Too few byte values are used ([`pattern::alphabet`]).
    Symbols {
        /// How many: 1 to 256.
        size: u16,
    },
    /// The data are English text ([`pattern::ascii`]).
    Ascii {
        /// Seed of the text.
        #[serde(default)]
        seed: u64,
    },
    /// The data count up ([`pattern::counter`]).
    Counter,
    /// The data are those of another answer to the same command.
    Repeat {
        /// Index of that answer in the stream; without it, the answer sent before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<u64>,
    },
    /// Some bytes are zero ([`pattern::dropouts`]).
    Dropouts {
        /// Probability of each byte in percent, 0 to 100.
        percent: f64,
        /// Seed of the choice.
        #[serde(default)]
        seed: u64,
    },
    /// Runs of bytes are put over the data, in the order given.
    Overlay {
        /// The runs.
        pieces: Vec<Piece>,
    },
    /// The data come from a file, the first faulty answer from its start; over and over.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// The default of fields that count transfers.
const fn one() -> u32 {
    1
}

impl Kind {
    /// Says in one line what is wrong with the numbers, if anything.
    ///
    /// # Errors
    ///
    /// A number out of the range that its field documents.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!(
                    "\"{name}\" is {value}, but goes from {least} to {most}"
                ))
            }
        };
        match self {
            Self::Short { bytes } | Self::Unplug { bytes } | Self::Stall { bytes, .. } => {
                within("bytes", *bytes as u64, 0, ANSWER_LENGTH as u64)
            }
            Self::Extra { bytes } => within("bytes", *bytes as u64, 1, MAX_EXTRA as u64),
            Self::Error { transfers, .. } | Self::ZeroLength { transfers } => {
                within("transfers", u64::from(*transfers), 1, 1000)
            }
            Self::Period { length, .. } => within("length", *length as u64, 1, BLOCK_LENGTH as u64),
            Self::BitStuck { bit, value } => {
                within("bit", u64::from(*bit), 0, 7)?;
                within("value", u64::from(*value), 0, 1)
            }
            Self::Symbol { one_in, .. } => within("one_in", u64::from(*one_in), 1, 1 << 24),
            Self::Symbols { size } => within("size", u64::from(*size), 1, 256),
            Self::Dropouts { percent, .. } if !(0.0..=100.0).contains(percent) => {
                Err(format!("\"percent\" is {percent}, but goes from 0 to 100"))
            }
            Self::Overlay { pieces } => pieces
                .iter()
                .try_for_each(|piece| piece.decode().map(|_| ())),
            Self::File { path } => stream::open(path).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Whether the command itself fails, so that it uses up no index of the stream.
    pub(crate) fn is_about_the_command(&self) -> bool {
        matches!(
            self,
            Self::Hold
                | Self::Unasked
                | Self::Stall {
                    endpoint: Direction::Out,
                    ..
                }
        )
    }

    /// Turns the healthy data of answer `k` into the faulty ones. `before` are the data sent last,
    /// for `repeat`. Faults of other kinds, `repeat` of a given answer and `file` leave the data
    /// alone: their data come from elsewhere.
    pub fn apply(&self, k: u64, before: Option<&Block>, data: &mut Block) {
        match self {
            Self::Stuck { value } => pattern::stuck(data, *value),
            Self::Alternating { a, b } => pattern::alternating(data, *a, *b),
            Self::Period { length, seed } => pattern::period(data, k, *seed, *length),
            Self::BitStuck { bit, value } => pattern::bit_stuck(data, *bit, *value == 1),
            Self::Symbol {
                value,
                one_in,
                seed,
            } => pattern::symbol(data, k, *seed, *value, *one_in),
            Self::Symbols { size } => pattern::alphabet(data, *size),
            Self::Ascii { seed } => pattern::ascii(data, k, *seed),
            Self::Counter => pattern::counter(data, k),
            Self::Repeat { of: None } => {
                if let Some(before) = before {
                    *data = *before;
                }
            }
            Self::Dropouts { percent, seed } => pattern::dropouts(data, k, *seed, *percent),
            Self::Overlay { pieces } => {
                for piece in pieces {
                    // `check` has decoded every piece before.
                    let bytes = piece.decode().unwrap_or_default();
                    data[piece.at..][..bytes.len()].copy_from_slice(&bytes);
                }
            }
            Self::Status { .. }
            | Self::Short { .. }
            | Self::Silent
            | Self::Hold
            | Self::Unasked
            | Self::Stall { .. }
            | Self::Extra { .. }
            | Self::Delay { .. }
            | Self::Error { .. }
            | Self::ZeroLength { .. }
            | Self::Unplug { .. }
            | Self::Repeat { of: Some(_) }
            | Self::File { .. } => {}
        }
    }
}

/// A fault of some answers, as the control protocol's `fault` states it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The first answer that has it.
    pub block: At,
    /// Answers to which command; `x` by default.
    pub command: Command,
    /// How many answers have it; 0 for all from then on; 1 by default.
    pub count: u64,
    /// What goes wrong.
    pub kind: Kind,
}

impl Fault {
    /// A fault of the next answer to `x`.
    pub const fn next(kind: Kind) -> Self {
        Self {
            block: At::Next,
            command: Command::Entropy,
            count: 1,
            kind,
        }
    }

    /// A fault of answer `k` to `x`.
    pub const fn at(k: u64, kind: Kind) -> Self {
        Self {
            block: At::Block(k),
            command: Command::Entropy,
            count: 1,
            kind,
        }
    }

    /// The same fault for so many answers in a row, 0 for all.
    pub fn count(self, count: u64) -> Self {
        Self { count, ..self }
    }

    /// The same fault for another command.
    pub fn command(self, command: Command) -> Self {
        Self { command, ..self }
    }

    /// Reads a fault from the fields of a request.
    pub(crate) fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_null());
        let block = take("block");
        let command = take("command");
        let count = take("count");
        let parse = |error: serde_json::Error| error.to_string();
        if !fields.contains_key("kind") {
            return Err("a fault needs a \"kind\"".to_owned());
        }
        let fault = Self {
            block: block
                .map_or(Ok(At::Next), serde_json::from_value)
                .map_err(parse)?,
            command: command
                .map_or(Ok(Command::Entropy), serde_json::from_value)
                .map_err(parse)?,
            count: count.map_or(Ok(1), serde_json::from_value).map_err(parse)?,
            kind: read(fields)?,
        };
        fault.kind.check()?;
        Ok(fault)
    }

    /// The fields of a request that [`Self::from_fields`] reads back.
    pub(crate) fn to_fields(&self) -> serde_json::Result<Map<String, Value>> {
        let mut fields = match serde_json::to_value(&self.kind)? {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("block".to_owned(), serde_json::to_value(self.block)?);
        fields.insert("command".to_owned(), serde_json::to_value(self.command)?);
        fields.insert("count".to_owned(), self.count.into());
        Ok(fields)
    }
}

/// A control request that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// Any request.
    Any,
    /// GET_DESCRIPTOR.
    GetDescriptor,
    /// SET_CONFIGURATION.
    SetConfiguration,
    /// SET_INTERFACE.
    SetInterface,
    /// CLEAR_FEATURE(ENDPOINT_HALT).
    ClearHalt,
    /// SET_LINE_CODING.
    SetLineCoding,
    /// GET_LINE_CODING.
    GetLineCoding,
    /// SET_CONTROL_LINE_STATE.
    SetControlLineState,
    /// SEND_BREAK.
    SendBreak,
}

/// How a control request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// The device stalls it.
    Stall,
    /// The device does not answer until the host gives up, or faults are cleared: late, then, but well.
    Hold,
    /// The transfer fails.
    #[serde(rename = "ioerror")]
    IoError,
    /// It succeeds, without any of the data that it should have.
    Empty,
    /// It fails, since the device is pulled out in the middle of it.
    Unplug,
}

/// Control requests that fail, as the control protocol's `control_fault` states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlFault {
    /// Which requests.
    pub request: ControlRequest,
    /// In which way.
    pub answer: ControlAnswer,
    /// How many; 0 for all from then on.
    #[serde(default = "one_request")]
    pub count: u64,
    /// So many such requests are answered as they should be before.
    #[serde(default)]
    pub skip: u64,
}

impl ControlFault {
    /// The next such request goes wrong.
    pub const fn next(request: ControlRequest, answer: ControlAnswer) -> Self {
        Self {
            request,
            answer,
            count: 1,
            skip: 0,
        }
    }

    /// The same for so many requests, 0 for all.
    pub fn count(self, count: u64) -> Self {
        Self { count, ..self }
    }

    /// The same behind so many requests that go well.
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }
}

/// The default of [`ControlFault::count`].
const fn one_request() -> u64 {
    1
}

/// A fault that a unit has now.
#[derive(Debug)]
struct Active {
    /// Index of the first answer that has it.
    first: u64,
    /// Answers left, or nothing for all.
    left: Option<u64>,
    /// Answers that had it.
    used: u64,
    /// The open file of a `file` fault and its length in bytes.
    file: Option<(File, u64)>,
    /// Which command.
    command: Command,
    /// What goes wrong.
    kind: Kind,
}

/// The faults that a unit has now.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// In the order in which they came.
    active: Vec<Active>,
    /// Faults of control requests, with what is left of them.
    control: Vec<(ControlFault, Option<u64>)>,
}

/// One fault of the answer in hand.
pub(crate) struct Hit<'a> {
    /// What goes wrong.
    pub(crate) kind: &'a Kind,
    /// How many answers had this fault before.
    pub(crate) used: u64,
    /// The open file of a `file` fault and its length in bytes.
    pub(crate) file: Option<(&'a File, u64)>,
}

impl Faults {
    /// Adds a fault. `next` is the index of the next answer to its command.
    ///
    /// # Errors
    ///
    /// One line, if its first answer is of the past or its file cannot be opened.
    pub(crate) fn add(&mut self, fault: Fault, next: u64) -> Result<(), String> {
        fault.kind.check()?;
        let first = match fault.block {
            At::Next => next,
            At::Block(k) if k < next => {
                return Err(format!(
                    "block {k} is of the past: the next answer to '{}' is block {next}",
                    char::from(fault.command.byte())
                ))
            }
            At::Block(k) => k,
        };
        let file = match &fault.kind {
            Kind::File { path } => Some(stream::open(path)?),
            _ => None,
        };
        self.active.push(Active {
            first,
            left: (fault.count > 0).then_some(fault.count),
            used: 0,
            file,
            command: fault.command,
            kind: fault.kind,
        });
        Ok(())
    }

    /// Adds a fault of control requests.
    pub(crate) fn add_control(&mut self, fault: ControlFault) {
        self.control
            .push((fault, (fault.count > 0).then_some(fault.count)));
    }

    /// Forgets all faults.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many faults wait for their answers, or have some.
    pub(crate) fn len(&self) -> usize {
        self.active.len() + self.control.len()
    }

    /// Uses up the first fault that hits the transfer bringing this command, if any.
    pub(crate) fn take_for_command(&mut self, command: Command, k: u64) -> Option<Kind> {
        let hit = self.active.iter_mut().find(|fault| {
            fault.kind.is_about_the_command() && fault.command == command && fault.first <= k
        })?;
        hit.use_up();
        let kind = hit.kind.clone();
        self.drop_used_up();
        Some(kind)
    }

    /// Uses up the faults that hit answer `k`, calling `each` with every one of them in the order
    /// in which they came.
    pub(crate) fn take_for_answer(
        &mut self,
        command: Command,
        k: u64,
        mut each: impl FnMut(Hit<'_>),
    ) {
        for fault in self.active.iter_mut().filter(|fault| {
            !fault.kind.is_about_the_command() && fault.command == command && fault.first <= k
        }) {
            each(Hit {
                kind: &fault.kind,
                used: fault.used,
                file: fault.file.as_ref().map(|(file, length)| (file, *length)),
            });
            fault.use_up();
        }
        self.drop_used_up();
    }

    /// Uses up the first fault that hits this control request, if any.
    pub(crate) fn take_for_control(
        &mut self,
        request: Option<ControlRequest>,
    ) -> Option<ControlAnswer> {
        let hits = |(fault, _): &(ControlFault, _)| {
            fault.request == ControlRequest::Any || Some(fault.request) == request
        };
        let mut hits = self.control.iter_mut().filter(|fault| hits(fault));
        let (fault, left) = hits.find_map(|(fault, left)| match fault.skip {
            0 => Some((fault, left)),
            _ => {
                fault.skip -= 1;
                None
            }
        })?;
        let answer = fault.answer;
        if let Some(left) = left {
            *left -= 1;
        }
        self.control.retain(|(_, left)| *left != Some(0));
        Some(answer)
    }

    /// Drops the faults that have had all their answers.
    fn drop_used_up(&mut self) {
        self.active.retain(|fault| fault.left != Some(0));
    }
}

impl Active {
    /// Counts one answer.
    fn use_up(&mut self) {
        self.used += 1;
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
    }
}
