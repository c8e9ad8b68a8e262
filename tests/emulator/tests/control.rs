// SPDX-License-Identifier: GPL-2.0
//! The control protocol: every request as README.md states it, and what is refused.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use alpharng_emu::control::{Client, Configure, Op, Reply, Request, Status, Unplug, UnplugAt};
use alpharng_emu::descriptors::{Bytes, Interfaces, Raw, Speed};
use alpharng_emu::fault::{
    At, ControlAnswer, ControlFault, ControlRequest, Direction, Fault, Kind, Piece, TransferError,
};
use alpharng_emu::stream::{Command, SourceSpec};

/// The line must be read as this op of device 0, and written so that it is read again.
#[track_caller]
fn is(line: &str, op: Op) {
    let request = Request::new(op);
    assert_eq!(
        Request::from_line(line),
        (None, Ok(request.clone())),
        "{line}"
    );
    let again = request.to_line().unwrap();
    assert!(again.ends_with('\n') && !again[..again.len() - 1].contains('\n'));
    assert_eq!(Request::from_line(&again), (None, Ok(request)), "{again}");
}

/// The line must be refused in one line with these words.
#[track_caller]
fn is_refused(line: &str, words: &str) {
    let (_, result) = Request::from_line(line);
    let error = result.expect_err(line);
    assert!(error.contains(words), "{line}: {error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn plain_requests() {
    is(r#"{"op":"reset"}"#, Op::Reset);
    is(r#"{"op":"plug"}"#, Op::Plug);
    is(r#"{"op":"status"}"#, Op::Status);
    is(r#"{"op":"clear_faults"}"#, Op::ClearFaults);
    is(r#"{"op":"unplug"}"#, Op::Unplug(Unplug { at: None }));
    let at = |block, command, bytes| {
        Op::Unplug(Unplug {
            at: Some(UnplugAt {
                block,
                command,
                bytes,
            }),
        })
    };
    is(
        r#"{"op":"unplug","at":{"block":5,"bytes":8000}}"#,
        at(At::Block(5), Command::Entropy, 8000),
    );
    is(
        r#"{"op":"unplug","at":{"bytes":0,"command":"n"}}"#,
        at(At::Next, Command::Noise, 0),
    );
}

#[test]
fn device_and_id() {
    let (id, request) = Request::from_line(r#"{"op":"plug","device":3,"id":17}"#);
    assert_eq!(id, Some(17));
    let request = request.unwrap();
    assert_eq!((request.device, request.id), (3, Some(17)));
    let (id, request) = Request::from_line(&request.to_line().unwrap());
    assert_eq!((id, request.unwrap().device), (Some(17), 3));
    // A bad request keeps its id.
    let (id, request) = Request::from_line(r#"{"op":"dance","id":18}"#);
    assert!(id == Some(18) && request.is_err());
}

#[test]
fn a_request_can_be_put_off() {
    let request = |line: &str| Request::from_line(line).1.unwrap();
    let unplug = request(r#"{"op":"unplug","after":2500}"#);
    assert_eq!(
        (unplug.after, &unplug.op),
        (2500, &Op::Unplug(Unplug { at: None }))
    );
    assert_eq!(request(&unplug.to_line().unwrap()), unplug);
    assert_eq!(request(r#"{"op":"plug","after":600000}"#).after, 600_000);
    assert_eq!(request(r#"{"op":"plug"}"#).after, 0);
    for bad in ["-1", "1.5", "600001", "\"soon\""] {
        is_refused(
            &format!(r#"{{"op":"plug","after":{bad}}}"#),
            "\"after\" is 0 to 600000 milliseconds",
        );
    }
    for op in ["reset", "status"] {
        is_refused(
            &format!(r#"{{"op":"{op}","after":5}}"#),
            "cannot be put off",
        );
    }
}

#[test]
fn configure() {
    is(r#"{"op":"configure"}"#, Op::Configure(Configure::default()));
    is(
        r#"{"op":"configure","vendor_id":14709,"product_id":5,"serial":"A1","speed":"full",
            "source":{"kind":"seeded","seed":7},"rate":1000000,"split":[8192,7809],
            "leftover":1000,"interfaces":{"communications":2,"data":5,"notify":4,"in":9,"out":1},
            "interrupts":100,"queue":2}"#,
        Op::Configure(Configure {
            vendor_id: Some(0x3975),
            product_id: Some(5),
            serial: Some("A1".to_owned()),
            speed: Some(Speed::Full),
            source: Some(SourceSpec::Seeded { seed: 7 }),
            rate: Some(1_000_000),
            split: Some(vec![8192, 7809]),
            leftover: Some(1000),
            interfaces: Some(Interfaces {
                communications: 2,
                data: 5,
                notify: 4,
                bulk_in: 9,
                bulk_out: 1,
            }),
            descriptors: None,
            interrupts: Some(100),
            queue: Some(2),
        }),
    );
    let source = |source| {
        Op::Configure(Configure {
            source: Some(source),
            ..Configure::default()
        })
    };
    is(
        r#"{"op":"configure","source":{"kind":"os"}}"#,
        source(SourceSpec::Os),
    );
    is(
        r#"{"op":"configure","source":{"kind":"file","path":"/tmp/noise"}}"#,
        source(SourceSpec::File {
            path: "/tmp/noise".into(),
        }),
    );
    is(
        r#"{"op":"configure","speed":"high","interfaces":{"data":6}}"#,
        Op::Configure(Configure {
            speed: Some(Speed::High),
            interfaces: Some(Interfaces {
                data: 6,
                ..Interfaces::default()
            }),
            ..Configure::default()
        }),
    );
}

#[test]
fn every_fault() {
    let fault = |fields: &str, kind| {
        is(
            &format!(r#"{{"op":"fault",{fields}}}"#),
            Op::Fault(Fault::next(kind)),
        );
    };
    fault(r#""kind":"status","value":4"#, Kind::Status { value: 4 });
    fault(
        r#""kind":"short","bytes":9000"#,
        Kind::Short { bytes: 9000 },
    );
    fault(r#""kind":"silent""#, Kind::Silent);
    fault(r#""kind":"hold""#, Kind::Hold);
    let stall = |endpoint, bytes| Kind::Stall { endpoint, bytes };
    fault(
        r#""kind":"stall","endpoint":"in","bytes":512"#,
        stall(Direction::In, 512),
    );
    fault(
        r#""kind":"stall","endpoint":"out""#,
        stall(Direction::Out, 0),
    );
    fault(r#""kind":"extra","bytes":100"#, Kind::Extra { bytes: 100 });
    fault(r#""kind":"delay","ms":1500"#, Kind::Delay { ms: 1500 });
    let error = |status, transfers| Kind::Error { status, transfers };
    fault(
        r#""kind":"error","status":"ioerror","transfers":5"#,
        error(TransferError::IoError, 5),
    );
    fault(
        r#""kind":"error","status":"timeout""#,
        error(TransferError::Timeout, 1),
    );
    fault(
        r#""kind":"error","status":"babble""#,
        error(TransferError::Babble, 1),
    );
    fault(
        r#""kind":"zero_length","transfers":2"#,
        Kind::ZeroLength { transfers: 2 },
    );
    fault(r#""kind":"zero_length""#, Kind::ZeroLength { transfers: 1 });
    fault(
        r#""kind":"unplug","bytes":100"#,
        Kind::Unplug { bytes: 100 },
    );
    fault(r#""kind":"stuck","value":0"#, Kind::Stuck { value: 0 });
    fault(
        r#""kind":"alternating","a":85,"b":170"#,
        Kind::Alternating { a: 0x55, b: 0xaa },
    );
    fault(
        r#""kind":"period","length":65,"seed":1"#,
        Kind::Period {
            length: 65,
            seed: 1,
        },
    );
    fault(
        r#""kind":"bit_stuck","bit":7,"value":1"#,
        Kind::BitStuck { bit: 7, value: 1 },
    );
    fault(
        r#""kind":"symbol","value":0,"one_in":16,"seed":1"#,
        Kind::Symbol {
            value: 0,
            one_in: 16,
            seed: 1,
        },
    );
    fault(r#""kind":"symbols","size":16"#, Kind::Symbols { size: 16 });
    fault(r#""kind":"ascii","seed":1"#, Kind::Ascii { seed: 1 });
    fault(r#""kind":"ascii""#, Kind::Ascii { seed: 0 });
    fault(r#""kind":"counter""#, Kind::Counter);
    fault(r#""kind":"repeat""#, Kind::Repeat { of: None });
    fault(r#""kind":"repeat","of":2"#, Kind::Repeat { of: Some(2) });
    fault(
        r#""kind":"dropouts","percent":1,"seed":1"#,
        Kind::Dropouts {
            percent: 1.0,
            seed: 1,
        },
    );
    fault(
        r#""kind":"overlay","pieces":[{"at":0,"hex":"00ff"},{"at":100,"length":5,"value":7}]"#,
        Kind::Overlay {
            pieces: vec![Piece::bytes(0, &[0, 255]), Piece::run(100, 5, 7)],
        },
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1).unwrap();
    let path = file.path().to_owned();
    fault(
        &format!(r#""kind":"file","path":{path:?}"#),
        Kind::File { path },
    );
}

#[test]
fn where_a_fault_is() {
    let kind = Kind::Status { value: 1 };
    is(
        r#"{"op":"fault","kind":"status","value":1,"block":12,"command":"2","count":0}"#,
        Op::Fault(Fault {
            block: At::Block(12),
            command: Command::NoiseTwo,
            count: 0,
            kind: kind.clone(),
        }),
    );
    is(
        r#"{"op":"fault","kind":"status","value":1,"block":"next"}"#,
        Op::Fault(Fault::next(kind)),
    );
}

#[test]
fn control_faults() {
    is(
        r#"{"op":"control_fault","request":"set_control_line_state","answer":"stall"}"#,
        Op::ControlFault(ControlFault::next(
            ControlRequest::SetControlLineState,
            ControlAnswer::Stall,
        )),
    );
    is(
        r#"{"op":"control_fault","request":"any","answer":"hold","count":0}"#,
        Op::ControlFault(ControlFault::next(ControlRequest::Any, ControlAnswer::Hold).count(0)),
    );
    is(
        r#"{"op":"control_fault","request":"any","answer":"unplug","skip":4}"#,
        Op::ControlFault(ControlFault::next(ControlRequest::Any, ControlAnswer::Unplug).skip(4)),
    );
    is(
        r#"{"op":"configure","descriptors":{"device":"1201","strings":{"3":"0403ff00"}}}"#,
        Op::Configure(Configure {
            descriptors: Some(Raw {
                device: Some(Bytes(vec![0x12, 1])),
                configuration: None,
                strings: BTreeMap::from([(3, Bytes(vec![4, 3, 0xff, 0]))]),
            }),
            ..Configure::default()
        }),
    );
    is(
        r#"{"op":"control_fault","request":"clear_halt","answer":"ioerror"}"#,
        Op::ControlFault(ControlFault::next(
            ControlRequest::ClearHalt,
            ControlAnswer::IoError,
        )),
    );
}

#[test]
fn bad_requests_are_refused_clearly() {
    for (line, words) in [
        ("plug", "one JSON object a line"),
        ("[]", "one JSON object a line"),
        ("{}", "needs an \"op\""),
        (r#"{"op":1}"#, "needs an \"op\""),
        (r#"{"op":"dance"}"#, "no op is named \"dance\""),
        (r#"{"op":"plug","device":-1}"#, "\"device\""),
        (r#"{"op":"plug","device":"0"}"#, "\"device\""),
        (r#"{"op":"plug","now":true}"#, "now"),
        (r#"{"op":"configure","vendorid":1}"#, "vendorid"),
        (r#"{"op":"configure","vendor_id":65536}"#, "65536"),
        (r#"{"op":"configure","speed":"super"}"#, "super"),
        (r#"{"op":"configure","source":{"kind":"dice"}}"#, "dice"),
        (
            r#"{"op":"configure","source":{"kind":"os","seed":1}}"#,
            "seed",
        ),
        (r#"{"op":"configure","interfaces":{"bulk":1}}"#, "bulk"),
        (r#"{"op":"unplug","at":{"block":1}}"#, "bytes"),
        (r#"{"op":"unplug","at":{"block":-1,"bytes":1}}"#, "-1"),
        (r#"{"op":"fault"}"#, "kind"),
        (r#"{"op":"fault","kind":"bad"}"#, "bad"),
        (r#"{"op":"fault","kind":"status"}"#, "value"),
        (r#"{"op":"fault","kind":"status","value":256}"#, "256"),
        (r#"{"op":"fault","kind":"silent","value":1}"#, "value"),
        (r#"{"op":"fault","kind":"silent","block":"last"}"#, "last"),
        (r#"{"op":"fault","kind":"silent","command":"y"}"#, "y"),
        (r#"{"op":"fault","kind":"silent","count":-1}"#, "-1"),
        (
            r#"{"op":"fault","kind":"short","bytes":16002}"#,
            "from 0 to 16001",
        ),
        (r#"{"op":"control_fault","request":"any"}"#, "answer"),
    ] {
        is_refused(line, words);
    }
}

#[test]
fn replies() {
    let good = Reply::new(Some(3), Ok(None));
    assert_eq!(good.to_line(), "{\"ok\":true,\"id\":3}\n");
    let bad = Reply::new(None, Err("no".to_owned()));
    assert_eq!(bad.to_line(), "{\"ok\":false,\"error\":\"no\"}\n");
    let status = Status {
        next_block: 5,
        ..Status::default()
    };
    let line = Reply::new(None, Ok(Some(status.clone()))).to_line();
    assert!(line.contains("\"next_block\":5"), "{line}");
    let read: Reply = serde_json::from_str(&line).unwrap();
    assert_eq!(read.status, Some(status));
    for reply in [good, bad] {
        let read: Reply = serde_json::from_str(&reply.to_line()).unwrap();
        assert_eq!(read, reply);
    }
}

/// What an emulator would have sent.
struct Script(io::Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Shares what has been written.
#[derive(Clone, Default)]
struct Written(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_client_waits_for_its_own_answer() {
    // Find the id that a client begins with, from one that gets no answer.
    let written = Written::default();
    let nothing = Script(io::Cursor::new(Vec::new()));
    let mut client = Client::new(nothing, written.clone()).unwrap();
    let error = client.device(2).plug().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let lines = String::from_utf8(written.0.borrow().clone()).unwrap();
    assert!(lines.starts_with('\n'), "a client begins a new line");
    let (id, request) = Request::from_line(lines.trim());
    assert_eq!(request.unwrap().device, 2);
    assert!(id.is_some());
    // Answers to others and to nobody come first.
    struct Echo(Written, Vec<u8>);
    impl Read for Echo {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.1.is_empty() {
                let text = String::from_utf8(self.0 .0.borrow().clone()).unwrap();
                let (id, _) = Request::from_line(text.lines().last().unwrap());
                self.1.extend(b"{\"ok\":false,\"error\":\"old\"}\n");
                self.1.extend(
                    Reply::new(Some(1), Err("other".to_owned()))
                        .to_line()
                        .bytes(),
                );
                self.1
                    .extend(Reply::new(id, Err("mine".to_owned())).to_line().bytes());
            }
            let length = buffer.len().min(self.1.len());
            buffer[..length].copy_from_slice(&self.1[..length]);
            self.1.drain(..length);
            Ok(length)
        }
    }
    let written = Written::default();
    let mut client = Client::new(Echo(written.clone(), Vec::new()), written).unwrap();
    assert_eq!(client.plug().unwrap_err().to_string(), "mine");
}
