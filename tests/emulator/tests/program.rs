// SPDX-License-Identifier: GPL-2.0
//! The program itself, over real sockets: the test plays QEMU.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use alpharng_emu::control::{Client, Configure, Op, Unplug};
use alpharng_emu::fault::{At, Fault, Kind};
use alpharng_emu::stream::{block, Command as DeviceCommand, SourceSpec};
use alpharng_emu::usbredir::{Packet, Status};
use common::qemu::{read, write, Qemu};

/// How long the program may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program, run with a folder for its sockets. It ends with this value.
struct Program {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder, and a listening socket in it for each of QEMU's.
fn sockets<const N: usize>() -> (tempfile::TempDir, [UnixListener; N]) {
    let folder = tempfile::tempdir().unwrap();
    let listeners = std::array::from_fn(|k| {
        UnixListener::bind(folder.path().join(format!("usb{k}.sock"))).unwrap()
    });
    (folder, listeners)
}

impl Program {
    /// Starts it for so many devices, with further arguments.
    fn start(folder: tempfile::TempDir, devices: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alpharng-emu"));
        command.current_dir(&folder).args(arguments);
        command.args(["--control-listen", "control.sock"]);
        for k in 0..devices {
            command.args(["--usbredir", &format!("usb{k}.sock")]);
        }
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        Self { child, folder }
    }

    /// A file in the folder.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Connects to the control socket.
    fn control(&self) -> Client<UnixStream, UnixStream> {
        let stream = connect(self.path("control.sock"));
        Client::new(stream.try_clone().unwrap(), stream).unwrap()
    }

    /// Ends it, and returns its log.
    fn log(mut self) -> String {
        self.child.kill().unwrap();
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        text
    }
}

/// Connects as soon as somebody listens.
fn connect(path: PathBuf) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(start.elapsed() < PATIENCE, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// QEMU's end, when the program has come.
fn accept(listener: &UnixListener) -> Qemu<UnixStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Qemu::new(stream)
}

/// A healthy answer to `x`.
fn x(seed: u64, k: u64) -> Vec<u8> {
    [&block(seed, DeviceCommand::Entropy, k)[..], &[0]].concat()
}

#[test]
fn answers_over_a_socket() {
    let (folder, [listener]) = sockets();
    let program = Program::start(folder, 1, &["--source", "seeded:7", "--id", "3975:0005"]);
    let mut qemu = accept(&listener);
    assert_eq!(qemu.attach(), (0x3975, 5));
    for k in 0..20 {
        assert!(qemu.ask(b'x') == x(7, k));
    }
    let status = program.control().status().unwrap();
    assert!(status.plugged && status.connected && status.configured);
    assert_eq!((status.blocks, status.serial.as_str()), (20, "EMU00000"));
}

#[test]
fn control_over_a_socket() {
    let (folder, [listener]) = sockets();
    let program = Program::start(folder, 1, &["--unplugged"]);
    let mut qemu = accept(&listener);
    let mut control = program.control();
    assert!(!control.status().unwrap().plugged);
    control
        .configure(Configure {
            source: Some(SourceSpec::Seeded { seed: 1 }),
            ..Configure::default()
        })
        .unwrap();
    control
        .fault(Fault::at(1, Kind::Status { value: 4 }))
        .unwrap();
    control.plug().unwrap();
    qemu.attach();
    let states: Vec<u8> = (0..3).map(|_| qemu.ask(b'x')[16000]).collect();
    assert_eq!(states, [0, 4, 0]);
    // Unplugged in the middle of an answer.
    control.unplug_at(At::Next, 1000).unwrap();
    assert!(qemu.ask(b'x') == x(1, 3)[..1000]);
    assert_eq!(qemu.next().packet, Packet::DeviceDisconnect);
    // An error is one line, and nothing breaks.
    let error = control.fault(Fault::at(0, Kind::Silent)).unwrap_err();
    assert!(error.to_string().contains("of the past"), "{error}");
    let error = control.device(1).plug().unwrap_err();
    assert_eq!(error.to_string(), "there is no device 1: the last one is 0");
    qemu.send(Packet::DeviceDisconnectAck);
    control.device(0).plug().unwrap();
    qemu.attach();
    assert!(qemu.ask(b'x') == x(1, 4));
    control.reset().unwrap();
    assert_eq!(qemu.next().packet, Packet::DeviceDisconnect);
    let status = control.status().unwrap();
    assert_eq!((status.blocks, status.next_block), (0, 0));
}

#[test]
fn several_devices() {
    let (folder, listeners) = sockets::<3>();
    let program = Program::start(
        folder,
        3,
        &[
            "--source",
            "seeded:10",
            "--source",
            "seeded:11",
            "--serial",
            "ONE",
            "--serial",
            "TWO",
        ],
    );
    let mut qemus = listeners.each_ref().map(accept);
    let mut control = program.control();
    // Only the first is plugged in.
    qemus[0].attach();
    for (k, serial) in [(0, "ONE"), (1, "TWO"), (2, "EMU00002")] {
        let status = control.device(k).status().unwrap();
        assert_eq!(status.serial, serial);
        assert_eq!(status.plugged, k == 0);
    }
    for k in [1, 2] {
        control.device(k).plug().unwrap();
        qemus[k].attach();
    }
    // The last source given is that of all further devices.
    for (qemu, seed) in qemus.iter_mut().zip([10, 11, 11]) {
        assert!(qemu.ask(b'x') == x(seed, 0));
    }
    // One goes, the others stay.
    control.device(1).unplug().unwrap();
    assert_eq!(qemus[1].next().packet, Packet::DeviceDisconnect);
    assert!(qemus[0].ask(b'x') == x(10, 1));
    assert!(qemus[2].ask(b'x') == x(11, 1));
    control.reset().unwrap();
    assert_eq!(qemus[0].next().packet, Packet::DeviceDisconnect);
    assert_eq!(qemus[2].next().packet, Packet::DeviceDisconnect);
}

#[test]
fn control_over_a_socket_that_qemu_makes() {
    let (folder, [_listener]) = sockets();
    let made = UnixListener::bind(folder.path().join("port.sock")).unwrap();
    let _program = Program::start(folder, 1, &["--control-connect", "port.sock"]);
    for _ in 0..2 {
        // QEMU goes, and comes back.
        let (mut stream, _) = made.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Half a request of a client that was killed, then blank lines, and two requests at once.
        stream
            .write_all(
                b"{\"op\":\"sta\n\n\n{\"op\":\"status\",\"id\":1}\n{\"op\":\"plug\",\"id\":2}\n",
            )
            .unwrap();
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        assert!(lines
            .next()
            .unwrap()
            .starts_with("{\"ok\":false,\"error\":\"a request is"));
        assert!(lines
            .next()
            .unwrap()
            .starts_with("{\"ok\":true,\"id\":1,\"plugged\":true"));
        assert_eq!(lines.next().unwrap(), "{\"ok\":true,\"id\":2}");
    }
}

/// What is put off is answered at once, and happens in the order of its times, not of its asking.
#[test]
fn what_is_put_off_happens_in_its_time() {
    let (folder, [listener]) = sockets();
    let program = Program::start(folder, 1, &["--serial", "FIRST"]);
    let mut qemu = accept(&listener);
    qemu.attach();
    let mut control = program.control();
    let start = Instant::now();
    let serial = Configure {
        serial: Some("SECOND".to_owned()),
        ..Configure::default()
    };
    control.ask_after(900, Op::Plug).unwrap();
    control
        .ask_after(300, Op::Unplug(Unplug::default()))
        .unwrap();
    control.ask_after(600, Op::Configure(serial)).unwrap();
    // Long past what the test waits for.
    control
        .ask_after(600_000, Op::Unplug(Unplug::default()))
        .unwrap();
    let status = control.status().unwrap();
    assert!(status.plugged && status.serial == "FIRST");

    let mut wait_until_plugged = |plugged: bool, serial: &str| {
        let mut status = control.status().unwrap();
        while (status.plugged, status.serial.as_str()) != (plugged, serial) {
            assert!(start.elapsed() < PATIENCE, "{status:?}");
            thread::sleep(Duration::from_millis(5));
            status = control.status().unwrap();
        }
        start.elapsed()
    };
    assert!(wait_until_plugged(false, "FIRST") >= Duration::from_millis(300));
    assert!(wait_until_plugged(false, "SECOND") >= Duration::from_millis(600));
    assert!(wait_until_plugged(true, "SECOND") >= Duration::from_millis(900));

    // What fails in its time is in the log: the device is plugged in.
    let serial = Configure {
        serial: Some("THIRD".to_owned()),
        ..Configure::default()
    };
    control.ask_after(1, Op::Configure(serial)).unwrap();
    // A reset forgets what is still to come.
    control.ask_after(300, Op::Plug).unwrap();
    thread::sleep(Duration::from_millis(100));
    control.reset().unwrap();
    thread::sleep(Duration::from_millis(500));
    assert!(!control.status().unwrap().plugged);
    let log = program.log();
    assert!(log.contains("control, put off: device 0: Plug"), "{log}");
    let refused = "the device is plugged in: unplug it first";
    let refused = log
        .lines()
        .any(|line| line.contains("put off") && line.contains(refused));
    assert!(refused, "{log}");
}

#[test]
fn a_request_without_end_is_refused() {
    let (folder, [_listener]) = sockets();
    let program = Program::start(folder, 1, &[]);
    let mut stream = connect(program.path("control.sock"));
    stream.write_all(&vec![b'a'; (1 << 20) + 1]).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(line.contains("at most 1048576 bytes"), "{line}");
    program.control().status().unwrap();
}

#[test]
fn qemu_may_come_later_and_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder, 1, &["--source", "seeded:7"]);
    program.control().status().unwrap();
    thread::sleep(Duration::from_millis(120));
    let listener = UnixListener::bind(program.path("usb0.sock")).unwrap();
    for k in 0..2 {
        let mut qemu = accept(&listener);
        qemu.attach();
        assert!(qemu.ask(b'x') == x(7, k));
        assert!(program.control().status().unwrap().connected);
    }
    let start = Instant::now();
    while program.control().status().unwrap().connected {
        assert!(
            start.elapsed() < PATIENCE,
            "the last connection has not ended"
        );
    }
}

#[test]
fn garbage_closes_the_connection_only() {
    let (folder, [listener]) = sockets();
    let program = Program::start(folder, 1, &["--quiet", "--source", "seeded:7"]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&[0xee; 100]).unwrap();
    // It tries again.
    let mut qemu = accept(&listener);
    qemu.attach();
    assert!(qemu.ask(b'x') == x(7, 0));
    let log = program.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains("device 0: connection closed: no usbredir packet"),
        "{log}"
    );
}

#[test]
fn once() {
    let (folder, listeners) = sockets::<2>();
    let mut program = Program::start(folder, 2, &["--once"]);
    let [first, second] = listeners.each_ref().map(accept);
    drop(first);
    thread::sleep(Duration::from_millis(100));
    assert!(program.child.try_wait().unwrap().is_none());
    drop(listeners);
    drop(second);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = program.child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "it goes on");
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
}

#[test]
fn a_slow_reader_gets_everything() {
    let (folder, [listener]) = sockets();
    let program = Program::start(folder, 1, &["--source", "seeded:7"]);
    let mut qemu = accept(&listener);
    qemu.attach();
    // More than a socket holds is on its way before any of it is read.
    let mut reads = Vec::new();
    for k in 0..8 {
        let fault = Fault::at(k, Kind::Extra { bytes: 1 << 20 });
        program.control().fault(fault).unwrap();
        reads.push(qemu.send(read(0x82, 16001 + (1 << 20))));
    }
    let written = qemu.send(write(0x03, b"xxxxxxxx"));
    thread::sleep(Duration::from_millis(100));
    program.control().status().unwrap();
    // The OUT transfer ends first: its commands are what the reads wait for.
    assert_eq!(qemu.bulk(written), (Status::Success, vec![]));
    for (k, id) in (0..).zip(reads) {
        let (status, data) = qemu.bulk(id);
        assert_eq!((status, data.len()), (Status::Success, 16001 + (1 << 20)));
        assert!(data[..16001] == x(7, k));
    }
}

#[test]
fn time_is_real() {
    let (folder, [listener]) = sockets();
    let program = Program::start(folder, 1, &["--source", "seeded:7", "--rate", "160010"]);
    let mut qemu = accept(&listener);
    qemu.attach();
    let start = Instant::now();
    // A tenth of a second each.
    for k in 0..3 {
        assert!(qemu.ask(b'x') == x(7, k));
    }
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(300), "{elapsed:?}");
    let rate = Configure {
        rate: Some(0),
        ..Configure::default()
    };
    program.control().configure(rate).unwrap();
    let delay = Fault::next(Kind::Delay { ms: 200 });
    program.control().fault(delay).unwrap();
    let start = Instant::now();
    qemu.ask(b'x');
    assert!(start.elapsed() >= Duration::from_millis(200));
    // A machine that is busy may be late, but not by much more than this.
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_log_has_a_line_for_each_event() {
    for (verbosity, commands, packets) in [("-q", 0, false), ("-v", 2, false), ("-vv", 2, true)] {
        let (folder, [listener]) = sockets();
        let program = Program::start(folder, 1, &[verbosity]);
        let mut qemu = accept(&listener);
        qemu.attach();
        qemu.ask(b'x');
        qemu.ask(b'1');
        program.control().status().unwrap();
        let log = program.log();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count("device 0: command '"), commands, "{log}");
        assert_eq!(count(" taken"), commands);
        assert_eq!(
            count("plugged in as 1fc9:8111"),
            usize::from(verbosity != "-q")
        );
        assert_eq!(count("configuration 1 set"), usize::from(verbosity != "-q"));
        assert_eq!(count("device 0: > bulk") > 0, packets);
        assert!(log.lines().all(|line| line.starts_with("alpharng-emu: [")));
    }
}

/// Runs the program, which must end by itself.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alpharng-emu"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.args(arguments).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{arguments:?}: the program does not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn help_has_an_example() {
    let output = run(&["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for words in [
        "qemu-system-x86_64",
        "-device usb-redir,chardev=usb0",
        "--usbredir",
        "socat",
    ] {
        assert!(text.contains(words), "{words}");
    }
}

#[test]
fn bad_arguments_are_refused_clearly() {
    for (arguments, words) in [
        (vec![], "--usbredir"),
        (vec!["--id", "1fc9"], "3975:0005"),
        (vec!["--id", "1fc9:811g"], "3975:0005"),
        (vec!["--source", "dice"], "seeded:NUMBER"),
        (vec!["--source", "seeded:x"], "the seed"),
        (vec!["--speed", "super"], "[possible values: full, high]"),
        (vec!["--interfaces", "data"], "not NAME=NUMBER"),
        (vec!["--interfaces", "bulk=1"], "none of communications"),
        (vec!["--interfaces", "data=0"], "cannot both have number 0"),
        (vec!["--interfaces", "in=300"], "the number of in"),
        (vec!["--split", "0"], "transfers of 0 bytes"),
        (vec!["--leftover", "2000000"], "left over"),
        (vec!["--interrupts", "2000"], "interrupts"),
        (
            vec!["--source", "file:/does/not/exist"],
            "cannot read /does/not/exist",
        ),
        (
            vec!["--control-listen", "/does/not/exist"],
            "cannot listen on /does/not/exist",
        ),
        (vec!["-q", "-v"], "cannot be used with"),
    ] {
        let mut all = arguments.clone();
        if !arguments.is_empty() {
            all.extend(["--usbredir", "/does/not/exist"]);
        }
        let output = run(&all);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn a_stale_control_socket_is_replaced_and_a_live_one_is_not() {
    let (folder, [_listener]) = sockets();
    drop(UnixListener::bind(folder.path().join("control.sock")).unwrap());
    let program = Program::start(folder, 1, &[]);
    // The old socket refuses; the new one works.
    program.control().status().unwrap();
    let path = program.path("control.sock");
    let path = path.to_str().unwrap();
    let output = run(&["--usbredir", "u", "--control-listen", path]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("another program does"), "{text}");
    program.control().status().unwrap();
    // What is no socket stays.
    let file = program.path("file");
    fs::write(&file, "precious").unwrap();
    let output = run(&[
        "--usbredir",
        "u",
        "--control-listen",
        file.to_str().unwrap(),
    ]);
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}
