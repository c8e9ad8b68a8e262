// SPDX-License-Identifier: GPL-2.0
//! Sockets, time and the log: what joins the ports to the world.
//!
//! One thread does everything: a transfer is answered in the same turn in which it came, without a
//! hand-over to another thread. While nothing else is to do, the next answers are made ahead.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use alpharng_emu::control::{Op, Reply, Request};
use alpharng_emu::device::{Device, Options};
use alpharng_emu::session::{Note, Port};

/// Time between two attempts to connect to a socket that is not there.
const RETRY: Duration = Duration::from_millis(50);

/// Most bytes read from a socket at once.
const READ_LENGTH: usize = 64 * 1024;

/// Longest request: an `overlay` of a whole block has 32 KB of hexadecimal digits.
const MAX_LINE: usize = 1 << 20;

/// How much the log tells. Each level has what those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// What went wrong.
    Errors,
    /// Connections, plugs, configurations, faults, requests of the control protocol.
    Events,
    /// Every command and answer.
    Commands,
    /// Every packet.
    Packets,
}

/// What the command line says.
#[derive(Debug)]
pub struct Settings {
    /// QEMU's sockets, and what each one's unit is made of.
    pub ports: Vec<(PathBuf, Options)>,
    /// Whether unit 0 is plugged in from the start.
    pub plugged: bool,
    /// A socket to connect to for the control protocol.
    pub control_connect: Option<PathBuf>,
    /// A socket to make for the control protocol.
    pub control_listen: Option<PathBuf>,
    /// How much the log tells.
    pub verbosity: Verbosity,
    /// Whether to end when the last of QEMU's connections closes.
    pub once: bool,
}

/// A socket that somebody else makes, and the connection to it while there is one.
#[derive(Debug)]
struct Peer {
    /// The socket.
    path: PathBuf,
    /// The connection.
    stream: Option<UnixStream>,
    /// When to try again.
    retry: Duration,
}

/// A connection of the control protocol.
#[derive(Debug, Default)]
struct Conversation {
    /// What is not yet a line.
    input: Vec<u8>,
    /// Answers that are not yet sent.
    output: Vec<u8>,
}

/// Writes the log.
#[derive(Clone, Copy, Debug)]
struct Log {
    /// When the program started.
    start: Instant,
    /// How much to tell.
    verbosity: Verbosity,
}

/// Where the readiness of a file descriptor belongs.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A port's connection.
    Port(usize),
    /// The connection to the control socket.
    Control,
    /// The control socket of our own.
    Listener,
    /// A connection to it.
    Client(usize),
}

/// The program at work.
#[derive(Debug)]
pub struct Server {
    /// Each unit with its connection, and QEMU's socket.
    ports: Vec<(Port, Peer)>,
    /// What each unit is made of at the start and after a reset.
    options: Vec<Options>,
    /// The control socket that somebody else makes.
    control: Option<(Peer, Conversation)>,
    /// The control socket of our own.
    listener: Option<UnixListener>,
    /// The connections to it.
    clients: Vec<(UnixStream, Conversation)>,
    /// The log.
    log: Log,
    /// Whether to end when the last of QEMU's connections closes.
    once: bool,
    /// Whether QEMU ever was there.
    met: bool,
    /// Requests that were put off, and when to carry them out; those of one time in their order.
    later: Vec<(Duration, Request)>,
}

impl Server {
    /// Makes the units and the control socket.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with the settings.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let log = Log {
            start: Instant::now(),
            verbosity: settings.verbosity,
        };
        let mut ports = Vec::new();
        let mut options = Vec::new();
        for (path, of_port) in settings.ports {
            let device = Device::new(of_port.clone())?;
            let port = Port::new(device, settings.verbosity >= Verbosity::Packets);
            log.event(&format!(
                "device {}: looking for QEMU at {}",
                ports.len(),
                path.display()
            ));
            ports.push((port, Peer::new(path)));
            options.push(of_port);
        }
        if settings.plugged {
            if let Some((port, _)) = ports.first_mut() {
                port.device.plug(Duration::ZERO);
            }
        }
        let listener = settings.control_listen.as_deref().map(listen).transpose()?;
        Ok(Self {
            ports,
            options,
            control: settings
                .control_connect
                .map(|path| (Peer::new(path), Conversation::default())),
            listener,
            clients: Vec::new(),
            log,
            once: settings.once,
            met: false,
            later: Vec::new(),
        })
    }

    /// Works until the program is ended, or until QEMU is gone if that was asked for.
    ///
    /// # Errors
    ///
    /// The operating system's, if it cannot wait for the sockets.
    pub fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_LENGTH];
        loop {
            self.connect();
            let now = self.log.start.elapsed();
            for k in 0..self.ports.len() {
                let (port, _) = &mut self.ports[k];
                if port.device.deadline().is_some_and(|due| due <= now) {
                    port.poll(now);
                }
                self.settle_port(k);
            }
            self.carry_out_due(now);
            self.settle_control();
            if self.once && self.met && self.ports.iter().all(|(_, peer)| peer.stream.is_none()) {
                self.log.event("QEMU is gone: the end");
                return Ok(());
            }

            let idle = !self
                .ports
                .iter()
                .any(|(port, _)| port.device.wants_to_prepare());
            let timeout = if idle {
                self.timeout()
            } else {
                Some(Duration::ZERO)
            };
            let ready = self.wait(timeout)?;
            if ready.is_empty() && !idle {
                let port = self.ports.iter_mut().map(|(port, _)| port);
                if let Some(port) = port.into_iter().find(|p| p.device.wants_to_prepare()) {
                    port.device.prepare();
                }
            }
            for place in ready {
                self.serve(place, &mut buffer);
            }
            self.clients
                .retain(|(_, conversation)| !conversation.is_over());
        }
    }

    /// Tries to connect what is not connected.
    fn connect(&mut self) {
        let now = self.log.start.elapsed();
        for (k, (port, peer)) in self.ports.iter_mut().enumerate() {
            if peer.connect(now) {
                self.log.event(&format!("device {k}: connected"));
                port.connected();
                self.met = true;
            }
        }
        if let Some((peer, conversation)) = &mut self.control {
            if peer.connect(now) {
                self.log.event("control: connected");
                *conversation = Conversation::default();
            }
        }
    }

    /// How long nothing happens by itself; nothing for ever.
    fn timeout(&self) -> Option<Duration> {
        let now = self.log.start.elapsed();
        let peers = self.ports.iter().map(|(_, peer)| peer);
        let retries = peers
            .chain(self.control.iter().map(|(peer, _)| peer))
            .filter(|peer| peer.stream.is_none())
            .map(|peer| peer.retry);
        let deadlines = self
            .ports
            .iter()
            .filter_map(|(port, _)| port.device.deadline());
        retries
            .chain(deadlines)
            .chain(self.later.iter().map(|(due, _)| *due))
            .min()
            .map(|due| due.saturating_sub(now))
    }

    /// Waits until a socket has something to do or the time is over.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        let mut fds = Vec::new();
        for (k, (port, peer)) in self.ports.iter_mut().enumerate() {
            if let Some(stream) = &peer.stream {
                let full = port.output().is_some_and(|output| !output.is_empty());
                places.push(Place::Port(k));
                fds.push(PollFd::new(stream, interest(full)));
            }
        }
        if let Some((peer, conversation)) = &self.control {
            if let Some(stream) = &peer.stream {
                places.push(Place::Control);
                fds.push(PollFd::new(
                    stream,
                    interest(!conversation.output.is_empty()),
                ));
            }
        }
        if let Some(listener) = &self.listener {
            places.push(Place::Listener);
            fds.push(PollFd::new(listener, interest(false)));
        }
        for (k, (stream, conversation)) in self.clients.iter().enumerate() {
            places.push(Place::Client(k));
            fds.push(PollFd::from_borrowed_fd(
                stream.as_fd(),
                interest(!conversation.output.is_empty()),
            ));
        }

        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok(places
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(place, _)| place)
            .collect())
    }

    /// Reads what a socket has.
    fn serve(&mut self, place: Place, buffer: &mut [u8]) {
        match place {
            Place::Port(k) => {
                let (port, peer) = &mut self.ports[k];
                let Some(bytes) = peer.read(buffer) else {
                    self.log.event(&format!("device {k}: QEMU has gone"));
                    self.lose(k);
                    return;
                };
                let now = self.log.start.elapsed();
                let result = port.receive(now, bytes);
                if let Err(error) = result {
                    self.log
                        .error(&format!("device {k}: connection closed: {error}"));
                    self.lose(k);
                }
                self.settle_port(k);
            }
            Place::Control => {
                let Some((mut peer, mut conversation)) = self.control.take() else {
                    return;
                };
                match peer.read(buffer) {
                    Some(bytes) => self.converse(&mut conversation, bytes),
                    None => {
                        self.log.event("control: QEMU has gone");
                        peer.close(self.log.start.elapsed());
                    }
                }
                self.control = Some((peer, conversation));
            }
            Place::Listener => {
                let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
                    return;
                };
                if stream.set_nonblocking(true).is_ok() {
                    self.log.event("control: a client connects");
                    self.clients.push((stream, Conversation::default()));
                }
            }
            Place::Client(k) => {
                let (stream, conversation) = &mut self.clients[k];
                let mut conversation = std::mem::take(conversation);
                match read(stream, buffer) {
                    Some(bytes) => self.converse(&mut conversation, bytes),
                    None => {
                        self.log.event("control: a client leaves");
                        conversation.end();
                    }
                }
                self.clients[k].1 = conversation;
            }
        }
        self.settle_control();
    }

    /// Gives up a port's connection.
    fn lose(&mut self, k: usize) {
        let now = self.log.start.elapsed();
        let (port, peer) = &mut self.ports[k];
        peer.close(now);
        port.disconnected(now);
    }

    /// Sends what a port has to send, and logs what it has to tell.
    fn settle_port(&mut self, k: usize) {
        let (port, peer) = &mut self.ports[k];
        let result = match (port.output(), &mut peer.stream) {
            (Some(output), Some(stream)) => send(stream, output),
            _ => Ok(()),
        };
        for note in port.take_notes() {
            self.log.note(k, &note);
        }
        if let Err(error) = result {
            self.log
                .event(&format!("device {k}: QEMU has gone: {error}"));
            self.lose(k);
        }
    }

    /// Sends the answers of the control protocol.
    fn settle_control(&mut self) {
        if let Some((peer, conversation)) = &mut self.control {
            if let Some(stream) = &mut peer.stream {
                if send(stream, &mut conversation.output).is_err() {
                    peer.close(self.log.start.elapsed());
                }
            }
        }
        for (stream, conversation) in &mut self.clients {
            if send(stream, &mut conversation.output).is_err() {
                conversation.end();
            }
        }
    }

    /// Takes bytes of the control protocol, and answers every line.
    fn converse(&mut self, conversation: &mut Conversation, bytes: &[u8]) {
        conversation.input.extend_from_slice(bytes);
        while let Some(end) = conversation.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = conversation.input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim();
            if !line.is_empty() {
                let reply = self.answer(line);
                conversation.output.extend(reply.to_line().into_bytes());
            }
        }
        if conversation.input.len() > MAX_LINE {
            conversation.input.clear();
            let reply = Reply::new(None, Err(format!("a request has at most {MAX_LINE} bytes")));
            conversation.output.extend(reply.to_line().into_bytes());
        }
    }

    /// Does what a request asks.
    fn answer(&mut self, line: &str) -> Reply {
        let (id, request) = Request::from_line(line);
        let is_status = matches!(request, Ok(Request { op: Op::Status, .. }));
        let result = request.and_then(|request| match request.after {
            0 => self.carry_out(request),
            after => {
                self.check_device(request.device)?;
                let due = self.log.start.elapsed() + Duration::from_millis(after);
                self.later.push((due, request));
                Ok(None)
            }
        });
        match &result {
            Ok(_) if is_status => self.log.detail(&format!("control: {line}")),
            Ok(_) => self.log.event(&format!("control: {line}")),
            Err(error) => self.log.error(&format!("control: {line}: {error}")),
        }
        Reply::new(id, result)
    }

    /// Does what was put off until now.
    fn carry_out_due(&mut self, now: Duration) {
        // The sort is stable: requests for the same time stay in their order.
        self.later.sort_by_key(|(due, _)| *due);
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            let (_, request) = self.later.remove(0);
            let (device, op) = (request.device, format!("{:?}", request.op));
            match self.carry_out(request) {
                Ok(_) => self
                    .log
                    .event(&format!("control, put off: device {device}: {op}")),
                Err(error) => self
                    .log
                    .error(&format!("control, put off: device {device}: {op}: {error}")),
            }
        }
    }

    /// Makes sure that there is a device `k`.
    ///
    /// # Errors
    ///
    /// One line.
    fn check_device(&self, k: usize) -> Result<(), String> {
        let last = self.ports.len() - 1;
        if k > last {
            return Err(format!("there is no device {k}: the last one is {last}"));
        }
        Ok(())
    }

    /// Does what a good request asks.
    ///
    /// # Errors
    ///
    /// One line that says why not.
    fn carry_out(
        &mut self,
        request: Request,
    ) -> Result<Option<alpharng_emu::control::Status>, String> {
        let now = self.log.start.elapsed();
        let k = request.device;
        self.check_device(k)?;
        let device = &mut self.ports[k].0.device;
        match request.op {
            Op::Reset => {
                self.later.clear();
                for (k, options) in self.options.iter().enumerate() {
                    let (port, _) = &mut self.ports[k];
                    port.device.reset(options.clone())?;
                    port.poll(now);
                }
                for k in 0..self.ports.len() {
                    self.settle_port(k);
                }
                return Ok(None);
            }
            Op::Configure(change) => device.configure(&change)?,
            Op::Plug => device.plug(now),
            Op::Unplug(unplug) => device.unplug_as(unplug)?,
            Op::Status => {
                let port = &self.ports[k].0;
                return Ok(Some(alpharng_emu::control::Status {
                    connected: port.is_connected(),
                    ..port.device.status()
                }));
            }
            Op::Fault(fault) => device.add_fault(fault)?,
            Op::ControlFault(fault) => device.add_control_fault(fault),
            Op::ClearFaults => device.clear_faults(now),
        }
        self.ports[k].0.poll(now);
        self.settle_port(k);
        Ok(None)
    }
}

impl Peer {
    /// A socket that has not been tried yet.
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            stream: None,
            retry: Duration::ZERO,
        }
    }

    /// Tries to connect if it is not connected and time to try. Returns whether it has become so.
    fn connect(&mut self, now: Duration) -> bool {
        if self.stream.is_some() || now < self.retry {
            return false;
        }
        self.retry = now + RETRY;
        // Whatever the error, QEMU may still come and make the socket.
        self.stream = UnixStream::connect(&self.path)
            .ok()
            .filter(|stream| stream.set_nonblocking(true).is_ok());
        self.stream.is_some()
    }

    /// Reads; nothing if the connection is gone.
    fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        read(self.stream.as_mut()?, buffer)
    }

    /// Closes the connection, to be tried again later.
    fn close(&mut self, now: Duration) {
        self.stream = None;
        self.retry = now + RETRY;
    }
}

impl Conversation {
    /// Marks a conversation as over: an input that cannot be.
    fn end(&mut self) {
        self.input = vec![0; MAX_LINE + 1];
    }

    /// Whether it is over.
    fn is_over(&self) -> bool {
        self.input.len() > MAX_LINE
    }
}

impl Log {
    /// One line, if it is wanted.
    fn line(&self, verbosity: Verbosity, text: &str) {
        if verbosity <= self.verbosity {
            let time = self.start.elapsed();
            // A log that cannot be written is no reason to stop.
            let _ = writeln!(
                io::stderr().lock(),
                "alpharng-emu: [{:5}.{:06}] {text}",
                time.as_secs(),
                time.subsec_micros()
            );
        }
    }

    /// Something went wrong.
    fn error(&self, text: &str) {
        self.line(Verbosity::Errors, text);
    }

    /// Something happened.
    fn event(&self, text: &str) {
        self.line(Verbosity::Events, text);
    }

    /// Something happened that happens all the time.
    fn detail(&self, text: &str) {
        self.line(Verbosity::Commands, text);
    }

    /// A port has something to tell.
    fn note(&self, k: usize, note: &Note) {
        let (verbosity, text) = match note {
            Note::Hello(version) => (Verbosity::Events, format!("the other end is {version:?}")),
            Note::Rejected => (
                Verbosity::Errors,
                "QEMU refuses the device: its controller may not support the speed, or a filter \
                 is set"
                    .to_owned(),
            ),
            Note::Device(event) if event.is_frequent() => (Verbosity::Commands, event.to_string()),
            Note::Device(event) => (Verbosity::Events, event.to_string()),
            Note::Received(packet) => (Verbosity::Packets, format!("< {packet}")),
            Note::Sent(packet) => (Verbosity::Packets, format!("> {packet}")),
        };
        self.line(verbosity, &format!("device {k}: {text}"));
    }
}

/// What to wait for on a socket: always for input, and for room if there is output.
fn interest(output: bool) -> PollFlags {
    if output {
        PollFlags::IN | PollFlags::OUT
    } else {
        PollFlags::IN
    }
}

/// Reads what is there; nothing if the connection is gone.
fn read<'a>(stream: &mut UnixStream, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    match stream.read(buffer) {
        Ok(0) => None,
        Ok(length) => Some(&buffer[..length]),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Some(&[])
        }
        Err(_) => None,
    }
}

/// Sends as much as the socket takes.
///
/// # Errors
///
/// The operating system's, if the connection is gone.
fn send(stream: &mut UnixStream, output: &mut Vec<u8>) -> io::Result<()> {
    let mut sent = 0;
    let result = loop {
        if sent == output.len() {
            break Ok(());
        }
        match stream.write(&output[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    output.drain(..sent);
    result
}

/// Makes a socket to listen on, in place of one that nobody listens on any more.
///
/// # Errors
///
/// One line that names the socket.
fn listen(path: &Path) -> Result<UnixListener, String> {
    let error = |e: io::Error| format!("cannot listen on {}: {e}", path.display());
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        if UnixStream::connect(path).is_ok() {
            return Err(format!(
                "cannot listen on {}: another program does",
                path.display()
            ));
        }
        fs::remove_file(path).map_err(error)?;
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}
