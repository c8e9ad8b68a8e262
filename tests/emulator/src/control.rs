// SPDX-License-Identifier: GPL-2.0
//! The control protocol: one JSON object a line asks, one JSON object a line answers.
//!
//! The types here are both ends' types: the emulator reads what a test's [`Client`] writes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::descriptors::{Interfaces, Raw, Speed};
use crate::fault::{At, ControlFault, Fault};
use crate::stream::{Command, SourceSpec};

/// What a test asks of the emulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which device, from 0.
    pub device: usize,
    /// Repeated in the answer, so that a late answer to somebody else can be told from one's own.
    pub id: Option<u64>,
    /// In how many milliseconds to do it, 0 for at once; [`MAX_AFTER`] at most. It is answered at
    /// once in any case; what goes wrong later is in the log only.
    pub after: u64,
    /// What to do.
    pub op: Op,
}

/// The most milliseconds that a request can be put off: ten minutes.
pub const MAX_AFTER: u64 = 600_000;

/// What can be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Unplug every device, forget faults, counters and what was put off, go back to the command
    /// line's options.
    Reset,
    /// Change what the device is. Plugged in, only `rate`, `split` and `interrupts` can change.
    Configure(Configure),
    /// Plug the device in. Nothing happens if it is.
    Plug,
    /// Pull the device out: now, or in the middle of an answer. Nothing happens if it is out.
    Unplug(Unplug),
    /// Tell how it is.
    Status,
    /// Make answers go wrong.
    Fault(Fault),
    /// Make control requests go wrong.
    ControlFault(ControlFault),
    /// Forget all faults; commands and requests that are held go on.
    ClearFaults,
}

/// What `configure` can change. What is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configure {
    /// `idVendor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<u16>,
    /// `idProduct`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<u16>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Where the data come from. The indices of the answers restart at 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceSpec>,
    /// Bytes per second that the device produces; 0 for no limit. From the next command on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Lengths in bytes of the transfers that an answer is cut into; the last one repeats. Empty
    /// for one transfer. From the next command on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Vec<usize>>,
    /// Bytes that an earlier owner left unread: there at every plug.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leftover: Option<usize>,
    /// Numbers of interfaces and endpoints; what is left out has its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Interfaces>,
    /// Descriptors in place of the unit's own; what is left out is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<Raw>,
    /// Notifications per second on the interrupt endpoint; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<u32>,
    /// Commands whose answers can wait at once, from 1 to 16; what comes beyond is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<usize>,
}

/// When to unplug.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unplug {
    /// In the middle of an answer; without it, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<UnplugAt>,
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnplugAt {
    /// Which answer.
    #[serde(default)]
    pub block: At,
    /// To which command.
    #[serde(default = "entropy")]
    pub command: Command,
    /// Bytes of it that the host still gets: 0 to 16001.
    pub bytes: usize,
}

/// The command that is meant where none is named.
const fn entropy() -> Command {
    Command::Entropy
}

/// Answers sent or commands seen, by command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(pub BTreeMap<String, u64>);

impl Counts {
    /// The number for a command.
    pub fn of(&self, command: Command) -> u64 {
        self.0.get(key(command)).copied().unwrap_or(0)
    }

    /// The number of bytes that were no command.
    pub fn other(&self) -> u64 {
        self.0.get("other").copied().unwrap_or(0)
    }

    /// Adds one for a command, or for a byte that was none.
    pub(crate) fn add(&mut self, command: Option<Command>) {
        let key = command.map_or("other", key);
        *self.0.entry(key.to_owned()).or_default() += 1;
    }

    /// Sets the number for a command.
    pub(crate) fn set(&mut self, command: Command, value: u64) {
        self.0.insert(key(command).to_owned(), value);
    }

    /// Zero for everything that is counted.
    pub(crate) fn zero() -> Self {
        Self(
            Command::ALL
                .into_iter()
                .map(key)
                .chain(["other"])
                .map(|key| (key.to_owned(), 0))
                .collect(),
        )
    }
}

/// A command's name in JSON.
const fn key(command: Command) -> &'static str {
    match command {
        Command::Entropy => "x",
        Command::NoiseOne => "1",
        Command::NoiseTwo => "2",
        Command::Noise => "n",
    }
}

/// How a device is. Counters start at 0 with the program and with `reset`; unplugging keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it is plugged in.
    pub plugged: bool,
    /// Whether QEMU is at the other end of the device's socket.
    pub connected: bool,
    /// Whether the host has set a configuration.
    pub configured: bool,
    /// `idVendor`.
    pub vendor_id: u16,
    /// `idProduct`.
    pub product_id: u16,
    /// Serial number.
    pub serial: String,
    /// Last value of SET_CONTROL_LINE_STATE since the plug: bit 0 DTR, bit 1 RTS.
    pub line_state: u16,
    /// How many SET_CONTROL_LINE_STATE there were.
    pub line_states: u64,
    /// How many SET_LINE_CODING there were.
    pub line_codings: u64,
    /// How many SEND_BREAK there were.
    pub breaks: u64,
    /// Command bytes received, also those that got no answer: `x`, `1`, `2`, `n`, `other`.
    pub commands: Counts,
    /// Answers that the host has taken whole, with all their 16001 bytes or more.
    pub blocks: u64,
    /// Bytes that the host has taken on bulk IN.
    pub bytes: u64,
    /// Index of the answer to the next `x`.
    pub next_block: u64,
    /// The same for each command.
    pub next_blocks: Counts,
    /// Commands whose answers the host has not fully taken.
    pub pending: usize,
    /// Most of them at any time.
    pub most_pending: usize,
    /// Commands that came before the previous answer was fully taken.
    pub early_commands: u64,
    /// Microseconds, while plugged in, in which it had no answer to produce: what went by between the
    /// end of the production of one and the command for the next. Counted when that command comes;
    /// without a `rate` production takes no time, so that all of it counts.
    pub idle_us: u64,
    /// Commands dropped because too many were pending.
    pub dropped: u64,
    /// Bytes left over from an earlier owner that the host has not taken.
    pub leftover: usize,
    /// IN transfers that wait for data.
    pub reads: usize,
    /// Most of them at any time.
    pub most_reads: usize,
    /// Transfers that the host has submitted, on any endpoint but 0.
    pub transfers: u64,
    /// Transfers that the host has cancelled.
    pub cancelled: u64,
    /// Notifications of the interrupt endpoint that were sent, since the host had asked for them.
    pub notifications: u64,
    /// Transfers that ended in a stall, on any endpoint.
    pub stalls: u64,
    /// Whether bulk IN is halted.
    pub halted_in: bool,
    /// Whether bulk OUT is halted.
    pub halted_out: bool,
    /// How many CLEAR_FEATURE(ENDPOINT_HALT) there were.
    pub cleared_halts: u64,
    /// How many control requests there were, with those that failed.
    pub control_requests: u64,
    /// How many SET_CONFIGURATION there were.
    pub configurations: u64,
    /// How many bus resets there were.
    pub resets: u64,
    /// What `next_block` was at the last of them.
    pub next_block_at_reset: u64,
    /// How many times it was plugged in.
    pub plugs: u64,
    /// Faults that wait for their answers, or have some.
    pub faults: usize,
}

/// The emulator's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// The request's, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Why not, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The answer to `status`.
    #[serde(flatten)]
    pub status: Option<Status>,
}

impl Reply {
    /// The answer for a result.
    pub fn new(id: Option<u64>, result: Result<Option<Status>, String>) -> Self {
        let (status, error) = match result {
            Ok(status) => (status, None),
            Err(error) => (None, Some(error)),
        };
        Self {
            ok: error.is_none(),
            id,
            error,
            status,
        }
    }

    /// The line for the socket, with its newline.
    pub fn to_line(&self) -> String {
        // Nothing in a reply can fail to be JSON: its keys are strings.
        let text = serde_json::to_string(self)
            .unwrap_or_else(|e| format!(r#"{{"ok":false,"error":"no JSON: {e}"}}"#));
        text + "\n"
    }
}

/// The names of all requests, for the error that names them.
const OPS: &str = "reset, configure, plug, unplug, status, fault, control_fault, clear_faults";

impl Request {
    /// A request of device 0.
    pub const fn new(op: Op) -> Self {
        Self {
            device: 0,
            id: None,
            after: 0,
            op,
        }
    }

    /// Reads a line. The id comes apart, so that even a bad request can be answered to its sender.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong.
    pub fn from_line(line: &str) -> (Option<u64>, Result<Self, String>) {
        let mut fields: Map<String, Value> = match serde_json::from_str(line) {
            Ok(fields) => fields,
            Err(e) => {
                return (
                    None,
                    Err(format!("a request is one JSON object a line: {e}")),
                )
            }
        };
        let id = fields.remove("id").and_then(|id| id.as_u64());
        (id, Self::from_fields(id, fields))
    }

    /// Reads the fields of a request.
    fn from_fields(id: Option<u64>, mut fields: Map<String, Value>) -> Result<Self, String> {
        let device = match fields.remove("device") {
            None => 0,
            Some(value) => value
                .as_u64()
                .and_then(|k| usize::try_from(k).ok())
                .ok_or_else(|| format!("\"device\" is a number from 0, not {value}"))?,
        };
        let after = match fields.remove("after") {
            None => 0,
            Some(value) => value
                .as_u64()
                .filter(|after| *after <= MAX_AFTER)
                .ok_or_else(|| {
                    format!("\"after\" is 0 to {MAX_AFTER} milliseconds, not {value}")
                })?,
        };
        let op = match fields.remove("op") {
            Some(Value::String(op)) => op,
            _ => return Err(format!("a request needs an \"op\": one of {OPS}")),
        };
        let op = match op.as_str() {
            "reset" => read::<Nothing>(fields).map(|_| Op::Reset),
            "configure" => read(fields).map(Op::Configure),
            "plug" => read::<Nothing>(fields).map(|_| Op::Plug),
            "unplug" => read(fields).map(Op::Unplug),
            "status" => read::<Nothing>(fields).map(|_| Op::Status),
            "fault" => Fault::from_fields(fields).map(Op::Fault),
            "control_fault" => read(fields).map(Op::ControlFault),
            "clear_faults" => read::<Nothing>(fields).map(|_| Op::ClearFaults),
            other => return Err(format!("no op is named \"{other}\": there are {OPS}")),
        }
        .map_err(|e| format!("{op}: {e}"))?;
        if after > 0 && matches!(op, Op::Reset | Op::Status) {
            return Err("reset and status cannot be put off by \"after\"".to_owned());
        }
        Ok(Self {
            device,
            id,
            after,
            op,
        })
    }

    /// The line for the socket, with its newline.
    ///
    /// # Errors
    ///
    /// Only where a request holds what JSON cannot, such as a path that is not UTF-8.
    pub fn to_line(&self) -> serde_json::Result<String> {
        let (op, mut fields) = match &self.op {
            Op::Reset => ("reset", Map::new()),
            Op::Configure(configure) => ("configure", write(configure)?),
            Op::Plug => ("plug", Map::new()),
            Op::Unplug(unplug) => ("unplug", write(unplug)?),
            Op::Status => ("status", Map::new()),
            Op::Fault(fault) => ("fault", fault.to_fields()?),
            Op::ControlFault(fault) => ("control_fault", write(fault)?),
            Op::ClearFaults => ("clear_faults", Map::new()),
        };
        fields.insert("op".to_owned(), op.into());
        fields.insert("device".to_owned(), self.device.into());
        if let Some(id) = self.id {
            fields.insert("id".to_owned(), id.into());
        }
        if self.after > 0 {
            fields.insert("after".to_owned(), self.after.into());
        }
        Ok(serde_json::to_string(&fields)? + "\n")
    }
}

/// The fields of a request without any.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Reads the fields of an op.
///
/// # Errors
///
/// One line that says what is wrong. Every field that is not understood is an error, also where
/// serde lets it pass (beside a `kind` that has no fields).
pub(crate) fn read<T: DeserializeOwned + Serialize>(
    fields: Map<String, Value>,
) -> Result<T, String> {
    let fields = Value::Object(fields);
    let op: T = serde_json::from_value(fields.clone()).map_err(|e| e.to_string())?;
    let understood = serde_json::to_value(&op).map_err(|e| e.to_string())?;
    match ignored(&fields, &understood) {
        None => Ok(op),
        Some(name) => Err(format!("unknown field `{name}`")),
    }
}

/// The name of a field that was read, but is not in what came of it.
fn ignored<'a>(read: &'a Value, understood: &Value) -> Option<&'a str> {
    match (read, understood) {
        (Value::Object(read), Value::Object(understood)) => read
            .iter()
            .filter(|(_, value)| !value.is_null())
            .find_map(|(name, value)| match understood.get(name) {
                None => Some(name.as_str()),
                Some(understood) => ignored(value, understood),
            }),
        _ => None,
    }
}

/// The fields of an op.
fn write<T: Serialize>(op: &T) -> serde_json::Result<Map<String, Value>> {
    match serde_json::to_value(op)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

/// A test's end of the control protocol, over a virtio port or a socket.
///
/// ```no_run
/// use alpharng_emu::control::Client;
/// use alpharng_emu::fault::{Fault, Kind};
///
/// let mut emulator = Client::open("/dev/virtio-ports/alrandom.emu").unwrap();
/// emulator.fault(Fault::next(Kind::Status { value: 4 })).unwrap();
/// emulator.plug().unwrap();
/// ```
#[derive(Debug)]
pub struct Client<R, W> {
    /// Answers come from here.
    from: BufReader<R>,
    /// Requests go here.
    to: W,
    /// The device that requests are about.
    device: usize,
    /// The id of the next request.
    id: u64,
}

impl Client<File, File> {
    /// Opens a virtio port.
    ///
    /// # Errors
    ///
    /// The operating system's; `EBUSY` when somebody else has the port open.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let to = OpenOptions::new().read(true).write(true).open(path)?;
        Self::new(to.try_clone()?, to)
    }
}

impl<R: io::Read, W: Write> Client<R, W> {
    /// A client that reads and writes these. Begins a new line: an earlier client may have been
    /// killed in the middle of one.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn new(from: R, mut to: W) -> io::Result<Self> {
        to.write_all(b"\n")?;
        // Ids differ from those of an earlier client, whose answers may still come. The clock is
        // enough for that; random numbers can be a long time coming in a machine just booted.
        let id = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_micros() as u64);
        Ok(Self {
            from: BufReader::new(from),
            to,
            device: 0,
            id,
        })
    }

    /// Sets the device that the following requests are about.
    pub fn device(&mut self, device: usize) -> &mut Self {
        self.device = device;
        self
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// The operating system's; `Other` with the emulator's own line when it refuses.
    pub fn ask(&mut self, op: Op) -> io::Result<Reply> {
        self.ask_after(0, op)
    }

    /// Asks for something to be done in so many milliseconds, at most [`MAX_AFTER`]; the answer
    /// comes at once. For what has to happen while the asking machine is asleep.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`]; not what goes wrong later.
    pub fn ask_after(&mut self, after: u64, op: Op) -> io::Result<Reply> {
        self.id += 1;
        let request = Request {
            device: self.device,
            id: Some(self.id),
            after,
            op,
        };
        self.to.write_all(request.to_line()?.as_bytes())?;
        self.to.flush()?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.from.read_line(&mut line)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the emulator is gone",
                ));
            }
            let reply: Reply = serde_json::from_str(&line)?;
            if reply.id == request.id {
                return match reply.error {
                    None => Ok(reply),
                    Some(error) => Err(io::Error::other(error)),
                };
            }
        }
    }

    /// Asks for how the device is.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn status(&mut self) -> io::Result<Status> {
        self.ask(Op::Status)?
            .status
            .ok_or_else(|| io::Error::other("the emulator's answer has no status"))
    }

    /// Unplugs all devices and forgets everything.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn reset(&mut self) -> io::Result<()> {
        self.ask(Op::Reset).map(|_| ())
    }

    /// Changes what the device is.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn configure(&mut self, configure: Configure) -> io::Result<()> {
        self.ask(Op::Configure(configure)).map(|_| ())
    }

    /// Plugs the device in.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn plug(&mut self) -> io::Result<()> {
        self.ask(Op::Plug).map(|_| ())
    }

    /// Pulls the device out, now.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn unplug(&mut self) -> io::Result<()> {
        self.ask(Op::Unplug(Unplug { at: None })).map(|_| ())
    }

    /// Pulls the device out when the host has had so many bytes of an answer to `x`.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn unplug_at(&mut self, block: At, bytes: usize) -> io::Result<()> {
        let at = UnplugAt {
            block,
            command: Command::Entropy,
            bytes,
        };
        self.ask(Op::Unplug(Unplug { at: Some(at) })).map(|_| ())
    }

    /// Makes answers go wrong.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn fault(&mut self, fault: Fault) -> io::Result<()> {
        self.ask(Op::Fault(fault)).map(|_| ())
    }

    /// Makes control requests go wrong.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn control_fault(&mut self, fault: ControlFault) -> io::Result<()> {
        self.ask(Op::ControlFault(fault)).map(|_| ())
    }

    /// Forgets all faults.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn clear_faults(&mut self) -> io::Result<()> {
        self.ask(Op::ClearFaults).map(|_| ())
    }
}
