// SPDX-License-Identifier: GPL-2.0
//! A usbredir connection, packet by packet, without sockets.

mod common;

use std::time::Duration;

use alpharng_emu::control::Configure;
use alpharng_emu::descriptors::{Identity, Speed};
use alpharng_emu::device::{Device, Options};
use alpharng_emu::fault::{ControlAnswer, ControlFault, ControlRequest, Fault, Kind};
use alpharng_emu::session::{Note, Port};
use alpharng_emu::stream::{block, Command};
use alpharng_emu::usbredir::{Capabilities, InterfaceInfo, Message, Packet, Status};
use common::qemu::{control, read, write, Wire, EMULATOR, QEMU};
use common::{ms, options, SEED};

/// The usb-guest, and the port it is connected to.
struct Guest {
    port: Port,
    wire: Wire,
    now: Duration,
}

impl Guest {
    /// Connects; both sides have said HELLO. The unit is plugged in or not.
    fn connect(options: Options, capabilities: Capabilities, plugged: bool) -> Self {
        let mut port = Port::new(Device::new(options).unwrap(), false);
        if plugged {
            port.device.plug(Duration::ZERO);
        }
        let mut guest = Self {
            port,
            wire: Wire::new(capabilities),
            now: Duration::ZERO,
        };
        guest.say_hello();
        guest
    }

    /// The beginning of a connection.
    fn say_hello(&mut self) {
        assert!(!self.port.is_connected());
        self.port.connected();
        let hello = self.wire.hello();
        self.port.receive(self.now, &hello).unwrap();
        assert!(self.port.is_connected());
        let first = self.next();
        assert!(
            matches!(first.packet, Packet::Hello { capabilities, .. } if capabilities == EMULATOR)
        );
        assert_eq!(first.id, 0);
    }

    /// A guest that has configured the unit.
    fn new(options: Options) -> Self {
        let mut guest = Self::connect(options, QEMU, true);
        guest.configure();
        guest
    }

    /// Takes the packets that come with a unit, and configures it.
    fn configure(&mut self) {
        let kinds: Vec<Packet> = (0..3).map(|_| self.next().packet).collect();
        assert!(matches!(kinds[0], Packet::InterfaceInfo(_)), "{kinds:?}");
        assert!(matches!(kinds[1], Packet::EpInfo(_)), "{kinds:?}");
        assert!(
            matches!(kinds[2], Packet::DeviceConnect { .. }),
            "{kinds:?}"
        );
        self.send(77, Packet::SetConfiguration { configuration: 1 });
        let kinds: Vec<Packet> = (0..2).map(|_| self.next().packet).collect();
        assert!(matches!(kinds[0], Packet::InterfaceInfo(_)), "{kinds:?}");
        assert!(matches!(kinds[1], Packet::EpInfo(_)), "{kinds:?}");
        let last = self.next();
        assert_eq!(last.id, 77);
        assert_eq!(
            last.packet,
            Packet::ConfigurationStatus {
                status: Status::Success,
                configuration: 1
            }
        );
        self.nothing();
    }

    /// Sends a packet.
    fn send(&mut self, id: u64, packet: Packet) {
        let bytes = self.wire.encode(id, packet);
        self.port.receive(self.now, &bytes).unwrap();
    }

    /// Carries bytes over.
    fn carry(&mut self) {
        if let Some(output) = self.port.output() {
            let bytes = std::mem::take(output);
            self.wire.receive(&bytes);
        }
    }

    /// The next packet that has come.
    #[track_caller]
    fn next(&mut self) -> Message {
        self.carry();
        self.wire.next().expect("a packet should have come")
    }

    /// No packet has come.
    #[track_caller]
    fn nothing(&mut self) {
        self.carry();
        assert_eq!(self.wire.next(), None);
    }

    /// The next packet is the end of this bulk transfer.
    #[track_caller]
    fn bulk(&mut self, expected: u64) -> (Status, u32, Vec<u8>) {
        let Message { id, packet } = self.next();
        assert_eq!(id, expected);
        match packet {
            Packet::Bulk {
                status,
                length,
                data,
                ..
            } => (status, length, data),
            other => panic!("{other:?} is no bulk packet"),
        }
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.port.device.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.port.poll(self.now);
        }
        self.now = end;
        self.port.poll(end);
    }

    /// Sends a command and reads the answer.
    #[track_caller]
    fn ask(&mut self) -> Vec<u8> {
        self.send(1000, write(0x03, b"x"));
        assert_eq!(self.bulk(1000).0, Status::Success);
        self.send(1001, read(0x82, 16384));
        self.bulk(1001).2
    }
}

/// A healthy answer to `x`.
fn x(k: u64) -> Vec<u8> {
    [&block(SEED, Command::Entropy, k)[..], &[0]].concat()
}

#[test]
fn a_unit_is_announced_with_all_that_qemu_wants_to_know() {
    for (speed, on_wire, packet_size) in [(Speed::Full, 1, 64), (Speed::High, 2, 512)] {
        let identity = Identity {
            speed,
            vendor_id: 0x3975,
            product_id: 5,
            ..options().identity
        };
        let mut guest = Guest::connect(
            Options {
                identity,
                ..options()
            },
            QEMU,
            true,
        );
        let interface = |number, class, subclass, protocol| InterfaceInfo {
            number,
            class,
            subclass,
            protocol,
        };
        assert_eq!(
            guest.next().packet,
            Packet::InterfaceInfo(vec![interface(0, 2, 2, 1), interface(1, 10, 0, 0)])
        );
        let Packet::EpInfo(endpoints) = guest.next().packet else {
            panic!("no ep_info");
        };
        for (slot, endpoint) in endpoints.iter().enumerate() {
            let seen = (
                endpoint.transfer_type,
                endpoint.interface,
                endpoint.max_packet_size,
            );
            let expected = match slot {
                // Endpoint 0 in both directions, then bulk OUT 3, interrupt IN 1, bulk IN 2.
                0 | 16 => (0, 0, 64),
                3 => (2, 1, packet_size),
                17 => (3, 0, 16),
                18 => (2, 1, packet_size),
                _ => (255, 0, 0),
            };
            assert_eq!(seen, expected, "slot {slot}");
        }
        // QEMU refuses an interrupt endpoint without an interval.
        assert_ne!(endpoints[17].interval, 0);
        assert_eq!(
            guest.next().packet,
            Packet::DeviceConnect {
                speed: on_wire,
                class: 2,
                subclass: 0,
                protocol: 0,
                vendor_id: 0x3975,
                product_id: 5,
                version_bcd: 0x0100
            }
        );
        guest.nothing();
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut guest = Guest::new(options());
    let bytes = [
        guest.wire.encode(5, write(0x03, b"x")),
        guest.wire.encode(6, read(0x82, 16384)),
    ]
    .concat();
    for byte in bytes {
        guest.port.receive(guest.now, &[byte]).unwrap();
    }
    assert_eq!(guest.bulk(5), (Status::Success, 1, vec![]));
    assert_eq!(guest.bulk(6), (Status::Success, 16001, x(0)));
    guest.nothing();
}

#[test]
fn a_peer_with_32_bit_ids_and_lengths() {
    let old = Capabilities::default();
    let mut guest = Guest::connect(options(), old, true);
    guest.configure();
    assert!(guest.ask() == x(0));
}

#[test]
fn configurations_and_settings() {
    let mut guest = Guest::new(options());
    guest.send(1, Packet::GetConfiguration);
    assert_eq!(
        guest.next(),
        Message {
            id: 1,
            packet: Packet::ConfigurationStatus {
                status: Status::Success,
                configuration: 1
            }
        }
    );
    guest.send(2, Packet::SetConfiguration { configuration: 9 });
    assert_eq!(
        guest.next(),
        Message {
            id: 2,
            packet: Packet::ConfigurationStatus {
                status: Status::Stall,
                configuration: 1
            }
        }
    );
    let setting = |status| Packet::AltSettingStatus {
        status,
        interface: 1,
        alt: 0,
    };
    guest.send(
        3,
        Packet::SetAltSetting {
            interface: 1,
            alt: 0,
        },
    );
    assert!(matches!(guest.next().packet, Packet::InterfaceInfo(_)));
    assert!(matches!(guest.next().packet, Packet::EpInfo(_)));
    assert_eq!(guest.next().packet, setting(Status::Success));
    guest.send(
        4,
        Packet::SetAltSetting {
            interface: 1,
            alt: 3,
        },
    );
    assert_eq!(guest.next().packet, setting(Status::Stall));
    guest.nothing();
    // A bus reset takes the configuration away.
    guest.send(0, Packet::Reset);
    guest.send(5, Packet::GetConfiguration);
    assert!(matches!(
        guest.next().packet,
        Packet::ConfigurationStatus {
            configuration: 0,
            ..
        }
    ));
}

#[test]
fn control_transfers_repeat_their_setup() {
    let mut guest = Guest::new(options());
    guest.send(1, control(0x80, 6, 0x0303, 0x0409, 255));
    let expected = [6, 3, b'T', 0, b'1', 0];
    let answer =
        |request_type, request, status, value, index, length, data: &[u8]| Packet::Control {
            endpoint: request_type & 0x80,
            request,
            request_type,
            status,
            value,
            index,
            length,
            data: data.to_vec(),
        };
    assert_eq!(
        guest.next().packet,
        answer(0x80, 6, Status::Success, 0x0303, 0x0409, 6, &expected)
    );
    guest.send(2, control(0xc0, 1, 2, 3, 4));
    assert_eq!(
        guest.next().packet,
        answer(0xc0, 1, Status::Stall, 2, 3, 0, &[])
    );
    let coding = [1, 2, 3, 4, 0, 0, 8];
    guest.send(3, answer(0x21, 0x20, Status::Success, 0, 0, 7, &coding));
    assert_eq!(
        guest.next().packet,
        answer(0x21, 0x20, Status::Success, 0, 0, 7, &[])
    );
    guest.send(4, control(0xa1, 0x21, 0, 0, 7));
    assert_eq!(
        guest.next().packet,
        answer(0xa1, 0x21, Status::Success, 0, 0, 7, &coding)
    );
}

#[test]
fn a_transfer_may_be_longer_than_64_kilobytes() {
    let mut guest = Guest::new(options());
    guest
        .port
        .device
        .add_fault(Fault::next(Kind::Extra { bytes: 100_000 }))
        .unwrap();
    guest.send(1, read(0x82, 0x20000));
    guest.send(2, write(0x03, b"x"));
    assert_eq!(guest.bulk(2).0, Status::Success);
    let (status, length, data) = guest.bulk(1);
    assert_eq!(
        (status, length, data.len()),
        (Status::Success, 116_001, 116_001)
    );
    // And a long OUT transfer: 70000 unknown commands.
    guest.send(3, write(0x03, &vec![0; 70_000]));
    assert_eq!(guest.bulk(3), (Status::Success, 70_000, vec![]));
}

#[test]
fn cancelled_packets_are_answered_once() {
    let mut guest = Guest::new(options());
    guest
        .port
        .device
        .add_fault(Fault::next(Kind::Hold))
        .unwrap();
    guest.port.device.add_control_fault(ControlFault::next(
        ControlRequest::SetConfiguration,
        ControlAnswer::Hold,
    ));
    guest.send(1, read(0x82, 512));
    guest.send(2, read(0x82, 512));
    guest.send(3, write(0x03, b"x"));
    guest.send(4, Packet::SetConfiguration { configuration: 1 });
    guest.nothing();
    for _ in 0..2 {
        for id in [2, 3, 4, 55] {
            guest.send(id, Packet::CancelDataPacket);
        }
    }
    assert_eq!(guest.bulk(2).0, Status::Cancelled);
    assert_eq!(guest.bulk(3).0, Status::Cancelled);
    let held = guest.next();
    assert_eq!(held.id, 4);
    assert!(matches!(
        held.packet,
        Packet::ConfigurationStatus {
            status: Status::Cancelled,
            ..
        }
    ));
    guest.nothing();
    // An id comes again; one that has ended is not cancelled.
    guest.send(3, write(0x03, b"x"));
    assert_eq!(guest.bulk(3).0, Status::Success);
    assert_eq!(guest.bulk(1).2, x(0)[..512]);
    guest.send(1, Packet::CancelDataPacket);
    guest.nothing();
}

#[test]
fn unplug_and_plug_wait_for_the_acknowledgement() {
    let mut guest = Guest::new(options());
    guest.send(1, read(0x82, 16384));
    guest.port.device.unplug();
    guest.port.device.plug(guest.now);
    guest.port.poll(guest.now);
    // The read is not answered, and the unit not announced again.
    assert_eq!(guest.next().packet, Packet::DeviceDisconnect);
    guest.nothing();
    // What QEMU sent before it saw the disconnect is of the past.
    guest.send(2, write(0x03, b"x"));
    guest.send(3, control(0x80, 6, 0x0100, 0, 18));
    guest.send(4, Packet::SetConfiguration { configuration: 1 });
    guest.send(0, Packet::Reset);
    guest.send(1, Packet::CancelDataPacket);
    guest.nothing();
    assert_eq!(guest.port.device.status().commands.of(Command::Entropy), 0);
    assert_eq!(guest.port.device.configuration(), 0);
    guest.send(0, Packet::DeviceDisconnectAck);
    guest.configure();
    assert!(guest.ask() == x(0));
}

#[test]
fn a_peer_that_does_not_acknowledge() {
    let mut guest = Guest::connect(
        options(),
        Capabilities(QEMU.0 & !Capabilities::DEVICE_DISCONNECT_ACK.0),
        true,
    );
    guest.configure();
    guest.port.device.unplug();
    guest.port.device.plug(guest.now);
    guest.port.poll(guest.now);
    assert_eq!(guest.next().packet, Packet::DeviceDisconnect);
    guest.configure();
}

#[test]
fn unplug_in_the_middle_of_an_answer() {
    let mut guest = Guest::new(options());
    guest
        .port
        .device
        .add_fault(Fault::next(Kind::Unplug { bytes: 100 }))
        .unwrap();
    guest.send(1, read(0x82, 16384));
    guest.send(2, read(0x82, 16384));
    guest.send(3, write(0x03, b"x"));
    assert_eq!(guest.bulk(3).0, Status::Success);
    assert_eq!(guest.bulk(1), (Status::Success, 100, x(0)[..100].to_vec()));
    assert_eq!(guest.next().packet, Packet::DeviceDisconnect);
    guest.nothing();
}

#[test]
fn plugged_in_later() {
    let mut guest = Guest::connect(options(), QEMU, false);
    guest.nothing();
    guest.send(1, read(0x82, 16384));
    guest.nothing();
    guest
        .port
        .device
        .configure(&Configure {
            vendor_id: Some(0x3975),
            ..Configure::default()
        })
        .unwrap();
    guest.port.device.plug(guest.now);
    guest.port.poll(guest.now);
    guest.configure();
    assert!(guest.ask() == x(0));
}

#[test]
fn a_lost_connection_is_a_loss_of_power() {
    let mut guest = Guest::new(Options {
        leftover: 10,
        ..options()
    });
    guest.send(1, read(0x82, 16384));
    assert_eq!(guest.bulk(1).1, 10);
    guest.send(2, write(0x03, b"x"));
    guest.port.disconnected(guest.now);
    assert!(!guest.port.is_connected());
    assert!(guest.port.device.is_plugged());
    guest.port.poll(guest.now);
    assert!(guest.port.output().is_none());
    // A new QEMU finds it as after a plug.
    guest.wire = Wire::new(QEMU);
    guest.say_hello();
    guest.configure();
    guest.send(1, read(0x82, 16384));
    assert_eq!(guest.bulk(1).1, 10);
    assert!(guest.ask() == x(1));
}

#[test]
fn notifications_go_to_who_asks_for_them() {
    let mut guest = Guest::new(Options {
        interrupts: 10,
        ..options()
    });
    guest.pass(ms(1000));
    guest.nothing();
    let status = |status, endpoint| Packet::InterruptReceivingStatus { status, endpoint };
    guest.send(1, Packet::StartInterruptReceiving { endpoint: 0x82 });
    assert_eq!(guest.next().packet, status(Status::Invalid, 0x82));
    guest.pass(ms(300));
    guest.nothing();
    guest.send(2, Packet::StartInterruptReceiving { endpoint: 0x81 });
    assert_eq!(guest.next().packet, status(Status::Success, 0x81));
    guest.pass(ms(300));
    for id in 0..3 {
        let message = guest.next();
        assert_eq!(message.id, id);
        let Packet::Interrupt {
            endpoint,
            status,
            length,
            data,
        } = message.packet
        else {
            panic!("no interrupt packet");
        };
        assert_eq!((endpoint, status, length), (0x81, Status::Success, 10));
        assert_eq!(data.len(), 10);
    }
    guest.nothing();
    guest.send(3, Packet::StopInterruptReceiving { endpoint: 0x81 });
    assert_eq!(guest.next().packet, status(Status::Success, 0x81));
    guest.pass(ms(1000));
    guest.nothing();
    assert_eq!(guest.port.device.status().notifications, 3);
}

#[test]
fn what_the_unit_does_not_have_is_refused() {
    let mut guest = Guest::new(options());
    let endpoint = 0x82;
    let status = Status::Invalid;
    let cases = [
        (
            Packet::StartIsoStream {
                endpoint,
                packets_per_urb: 1,
                urbs: 1,
            },
            Packet::IsoStreamStatus { status, endpoint },
        ),
        (
            Packet::StopIsoStream { endpoint },
            Packet::IsoStreamStatus { status, endpoint },
        ),
        (
            Packet::AllocBulkStreams {
                endpoints: 1 << 18,
                streams: 2,
            },
            Packet::BulkStreamsStatus {
                endpoints: 1 << 18,
                streams: 2,
                status,
            },
        ),
        (
            Packet::FreeBulkStreams { endpoints: 1 << 18 },
            Packet::BulkStreamsStatus {
                endpoints: 1 << 18,
                streams: 0,
                status,
            },
        ),
        (
            Packet::StartBulkReceiving {
                stream: 0,
                bytes_per_transfer: 512,
                endpoint,
                transfers: 5,
            },
            Packet::BulkReceivingStatus {
                stream: 0,
                endpoint,
                status,
            },
        ),
        (
            Packet::Iso {
                endpoint: 0x05,
                status: Status::Success,
                length: 1,
                data: vec![1],
            },
            Packet::Iso {
                endpoint: 0x05,
                status,
                length: 0,
                data: vec![],
            },
        ),
        (
            Packet::Interrupt {
                endpoint: 0x05,
                status: Status::Success,
                length: 1,
                data: vec![1],
            },
            Packet::Interrupt {
                endpoint: 0x05,
                status,
                length: 0,
                data: vec![],
            },
        ),
    ];
    for (request, answer) in cases {
        guest.send(9, request);
        assert_eq!(
            guest.next(),
            Message {
                id: 9,
                packet: answer
            }
        );
        guest.nothing();
    }
    guest.send(9, read(0x85, 512));
    assert_eq!(guest.bulk(9).0, Status::Invalid);
    guest.send(0, Packet::FilterFilter(b"0,0,0,0,0".to_vec()));
    guest.nothing();
    assert!(guest.ask() == x(0));
}

#[test]
fn a_refused_unit_makes_a_note() {
    let mut guest = Guest::new(options());
    guest.port.take_notes();
    guest.send(0, Packet::FilterReject);
    assert_eq!(guest.port.take_notes(), [Note::Rejected]);
}

#[test]
fn garbage_is_an_error() {
    let mut guest = Guest::new(options());
    let error = guest.port.receive(guest.now, &[0xff; 100]).unwrap_err();
    assert!(error.to_string().contains("usb-redir"), "{error}");
    // Before the HELLO, too.
    let mut port = Port::new(Device::new(options()).unwrap(), false);
    port.connected();
    assert!(port
        .receive(Duration::ZERO, b"GET / HTTP/1.1\r\n\r\n")
        .is_err());
}

#[test]
fn the_log_has_packets_only_if_wanted() {
    for traces in [false, true] {
        let mut port = Port::new(Device::new(options()).unwrap(), traces);
        port.connected();
        let wire = Wire::new(QEMU);
        port.receive(Duration::ZERO, &wire.hello()).unwrap();
        let is_packet = |note: &Note| matches!(note, Note::Sent(_) | Note::Received(_));
        let notes = port.take_notes();
        assert_eq!(
            notes.iter().filter(|n| is_packet(n)).count(),
            if traces { 2 } else { 0 }
        );
        assert!(notes.contains(&Note::Hello("a test".to_owned())));
    }
}
