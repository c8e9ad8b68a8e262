// SPDX-License-Identifier: GPL-2.0
//! The unit at the end of a usbredir connection: packets in, packets out.
//!
//! [`Port`] joins the unit and one connection after the other. Like the unit it does no input and
//! output itself: bytes are passed in and taken out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::descriptors::{Identity, Speed, CLASS_COMMUNICATIONS};
use crate::device::{Completion, Device, Event, Outcome, Output, Setup, Transfer};
use crate::usbredir::{
    Capabilities, Codec, DecodeError, EndpointInfo, InterfaceInfo, Message, Packet, Status,
    TABLE_LENGTH,
};

/// What this end can do. QEMU's xHCI refuses a peer without the last three. Buffered bulk input is
/// left out on purpose: with it QEMU reads ahead by itself and no transfer is the guest's own.
const CAPABILITIES: Capabilities = Capabilities::CONNECT_DEVICE_VERSION
    .with(Capabilities::FILTER)
    .with(Capabilities::DEVICE_DISCONNECT_ACK)
    .with(Capabilities::EP_INFO_MAX_PACKET_SIZE)
    .with(Capabilities::IDS_64BITS)
    .with(Capabilities::BULK_LENGTH_32BITS);

/// How this end names itself.
const VERSION: &str = concat!("alpharng-emu ", env!("CARGO_PKG_VERSION"));

impl From<Outcome> for Status {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Invalid => Self::Invalid,
            Outcome::Stall => Self::Stall,
            Outcome::IoError => Self::IoError,
            Outcome::Timeout => Self::Timeout,
            Outcome::Babble => Self::Babble,
        }
    }
}

/// What the answer to a transfer repeats, or which packet it is.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A control packet.
    Control(Setup),
    /// A bulk packet of this endpoint address and stream.
    Bulk(u8, u32),
    /// A `configuration_status`; whether a configuration was to be set.
    Configuration { set: bool },
    /// An `alt_setting_status` of this interface; whether a setting was to be set.
    AltSetting { interface: u8, set: bool },
}

/// A usbredir connection.
#[derive(Debug)]
struct Link {
    /// Bytes that are not yet a packet.
    input: Vec<u8>,
    /// Bytes for the peer.
    output: Vec<u8>,
    /// The peer's dialect; nothing before its HELLO.
    codec: Option<Codec>,
    /// Whether the peer acknowledges a disconnect.
    acknowledges: bool,
    /// Whether the peer has been told of the unit.
    announced: bool,
    /// Whether the peer has not yet acknowledged a disconnect: all it sends is about the past.
    stale: bool,
    /// Whether the peer wants notifications of the interrupt endpoint.
    receiving: bool,
    /// The transfers under way.
    shapes: BTreeMap<u64, Shape>,
    /// The id of the next notification.
    notification: u64,
}

/// What the log should tell of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The peer's name, from its HELLO.
    Hello(String),
    /// The peer does not want the unit.
    Rejected,
    /// The unit's own event.
    Device(Event),
    /// A packet that came.
    Received(String),
    /// A packet that was sent.
    Sent(String),
}

/// A unit and its connection.
#[derive(Debug)]
pub struct Port {
    /// The unit.
    pub device: Device,
    /// The connection, while there is one.
    link: Option<Link>,
    /// For the log.
    notes: Vec<Note>,
    /// Whether packets go into the log.
    traces: bool,
}

impl Port {
    /// A port with this unit, without a connection. If it `traces`, every packet makes a note.
    pub fn new(device: Device, traces: bool) -> Self {
        Self {
            device,
            link: None,
            notes: Vec::new(),
            traces,
        }
    }

    /// Whether the peer is there and has said HELLO.
    pub fn is_connected(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.codec.is_some())
    }

    /// A connection is there.
    pub fn connected(&mut self) {
        self.link = Some(Link {
            input: Vec::new(),
            output: Vec::new(),
            codec: None,
            acknowledges: false,
            announced: false,
            stale: false,
            receiving: false,
            shapes: BTreeMap::new(),
            notification: 0,
        });
        self.send(
            0,
            Packet::Hello {
                version: VERSION.to_owned(),
                capabilities: CAPABILITIES,
            },
        );
    }

    /// The connection is gone, and with it the host and its power: a unit that was plugged in is
    /// as after a new plug.
    pub fn disconnected(&mut self, now: Duration) {
        self.link = None;
        if self.device.is_plugged() {
            self.device.unplug();
            self.device.plug(now);
        }
        self.flush();
    }

    /// Bytes came from the peer.
    ///
    /// # Errors
    ///
    /// What they are not. The connection has to be closed then.
    pub fn receive(&mut self, now: Duration, bytes: &[u8]) -> Result<(), DecodeError> {
        if let Some(link) = &mut self.link {
            link.input.extend_from_slice(bytes);
        }
        let mut used = 0;
        while let Some(link) = &self.link {
            let codec = link.codec.unwrap_or_default();
            let Some((message, length)) = codec.decode(&link.input[used..])? else {
                break;
            };
            used += length;
            if self.traces {
                self.notes.push(Note::Received(message.to_string()));
            }
            self.handle(now, message);
            self.flush();
        }
        if let Some(link) = &mut self.link {
            link.input.drain(..used);
        }
        Ok(())
    }

    /// Lets time pass, and carries out what has been done to the unit.
    pub fn poll(&mut self, now: Duration) {
        self.device.poll(now);
        self.flush();
    }

    /// Bytes for the peer; the caller removes what it has sent.
    pub fn output(&mut self) -> Option<&mut Vec<u8>> {
        self.link.as_mut().map(|link| &mut link.output)
    }

    /// Takes what the log should tell.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Handles a packet.
    fn handle(&mut self, now: Duration, message: Message) {
        let Some(link) = &mut self.link else {
            return;
        };
        let Message { id, packet } = message;
        match packet {
            Packet::Hello {
                version,
                capabilities,
            } => {
                link.codec = Some(Codec::new(CAPABILITIES.common(capabilities)));
                link.acknowledges = capabilities.has(Capabilities::DEVICE_DISCONNECT_ACK);
                self.notes.push(Note::Hello(version));
                return;
            }
            Packet::DeviceDisconnectAck => {
                link.stale = false;
                return;
            }
            Packet::FilterReject => {
                self.notes.push(Note::Rejected);
                return;
            }
            // Whatever was under way when the unit went is of the past, for both ends.
            _ if !link.announced => return,
            _ => {}
        }
        match packet {
            Packet::Reset => self.device.bus_reset(),
            Packet::SetConfiguration { configuration } => {
                let setup = Setup::set_configuration(configuration);
                self.submit(now, id, Shape::Configuration { set: true }, setup);
            }
            Packet::GetConfiguration => {
                let setup = Setup::get_configuration();
                self.submit(now, id, Shape::Configuration { set: false }, setup);
            }
            Packet::SetAltSetting { interface, alt } => {
                let setup = Setup::set_interface(interface, alt);
                let shape = Shape::AltSetting {
                    interface,
                    set: true,
                };
                self.submit(now, id, shape, setup);
            }
            Packet::GetAltSetting { interface } => {
                let setup = Setup::get_interface(interface);
                let shape = Shape::AltSetting {
                    interface,
                    set: false,
                };
                self.submit(now, id, shape, setup);
            }
            Packet::Control {
                request,
                request_type,
                value,
                index,
                length,
                data,
                ..
            } => {
                let setup = Setup {
                    request_type,
                    request,
                    value,
                    index,
                    length,
                };
                link.shapes.insert(id, Shape::Control(setup));
                self.device.submit(now, id, Transfer::Control(setup, data));
            }
            Packet::Bulk {
                endpoint,
                length,
                stream,
                data,
                ..
            } => {
                link.shapes.insert(id, Shape::Bulk(endpoint, stream));
                let transfer = if endpoint & 0x80 != 0 {
                    Transfer::In(endpoint, length as usize)
                } else {
                    Transfer::Out(endpoint, data)
                };
                self.device.submit(now, id, transfer);
            }
            Packet::CancelDataPacket => self.device.cancel(now, id),
            Packet::StartInterruptReceiving { endpoint } => {
                let known = endpoint == self.device.identity().interfaces.notify_address();
                link.receiving |= known;
                let status = if known {
                    Status::Success
                } else {
                    Status::Invalid
                };
                self.send(id, Packet::InterruptReceivingStatus { status, endpoint });
            }
            Packet::StopInterruptReceiving { endpoint } => {
                link.receiving = false;
                let status = Status::Success;
                self.send(id, Packet::InterruptReceivingStatus { status, endpoint });
            }
            // What this unit does not have is refused.
            Packet::StartIsoStream { endpoint, .. } | Packet::StopIsoStream { endpoint } => {
                let status = Status::Invalid;
                self.send(id, Packet::IsoStreamStatus { status, endpoint });
            }
            Packet::AllocBulkStreams { endpoints, streams } => {
                let status = Status::Invalid;
                self.send(
                    id,
                    Packet::BulkStreamsStatus {
                        endpoints,
                        streams,
                        status,
                    },
                );
            }
            Packet::FreeBulkStreams { endpoints } => {
                let status = Status::Invalid;
                self.send(
                    id,
                    Packet::BulkStreamsStatus {
                        endpoints,
                        streams: 0,
                        status,
                    },
                );
            }
            Packet::StartBulkReceiving {
                stream, endpoint, ..
            }
            | Packet::StopBulkReceiving { stream, endpoint } => {
                let status = Status::Invalid;
                self.send(
                    id,
                    Packet::BulkReceivingStatus {
                        stream,
                        endpoint,
                        status,
                    },
                );
            }
            Packet::Iso { endpoint, .. } => {
                self.send(id, refused_iso(endpoint));
            }
            Packet::Interrupt { endpoint, .. } => {
                self.send(id, refused_interrupt(endpoint));
            }
            // Filters are QEMU's own business; the rest only ever goes the other way.
            _ => {}
        }
    }

    /// Submits a control transfer that is a packet of its own.
    fn submit(&mut self, now: Duration, id: u64, shape: Shape, setup: Setup) {
        if let Some(link) = &mut self.link {
            link.shapes.insert(id, shape);
        }
        self.device
            .submit(now, id, Transfer::Control(setup, Vec::new()));
    }

    /// Tells the peer what the unit has done, and of the unit itself.
    fn flush(&mut self) {
        while let Some(output) = self.device.output() {
            match output {
                Output::Complete(completion) => self.complete(completion),
                Output::Interrupt(data) => self.notify(data),
                Output::Unplugged => self.retract(),
                Output::Event(event) => self.notes.push(Note::Device(event)),
            }
        }
        self.announce();
    }

    /// Tells the peer that a transfer has ended.
    fn complete(&mut self, completion: Completion) {
        let Completion {
            id,
            outcome,
            data,
            length,
        } = completion;
        let Some(shape) = self.link.as_mut().and_then(|link| link.shapes.remove(&id)) else {
            return;
        };
        let status = Status::from(outcome);
        let packet = match shape {
            Shape::Control(setup) => Packet::Control {
                endpoint: setup.request_type & 0x80,
                request: setup.request,
                request_type: setup.request_type,
                status,
                value: setup.value,
                index: setup.index,
                // No longer than `wLength`, which has 16 bits.
                length: length as u16,
                data,
            },
            Shape::Bulk(endpoint, stream) => Packet::Bulk {
                endpoint,
                status,
                length: length as u32,
                stream,
                data,
            },
            Shape::Configuration { set } => {
                // QEMU takes the endpoints anew from what comes before the status.
                if set && outcome == Outcome::Success {
                    self.send_infos();
                }
                Packet::ConfigurationStatus {
                    status,
                    configuration: self.device.configuration(),
                }
            }
            Shape::AltSetting { interface, set } => {
                if set && outcome == Outcome::Success {
                    self.send_infos();
                }
                Packet::AltSettingStatus {
                    status,
                    interface,
                    alt: 0,
                }
            }
        };
        self.send(id, packet);
    }

    /// Passes a notification on, if the peer wants it.
    fn notify(&mut self, data: Vec<u8>) {
        let endpoint = self.device.identity().interfaces.notify_address();
        let Some(link) = self.link.as_mut().filter(|link| link.receiving) else {
            return;
        };
        let id = link.notification;
        link.notification += 1;
        self.device.notified();
        self.send(
            id,
            Packet::Interrupt {
                endpoint,
                status: Status::Success,
                length: data.len() as u16,
                data,
            },
        );
    }

    /// Tells the peer that the unit is gone.
    fn retract(&mut self) {
        let Some(link) = &mut self.link else {
            return;
        };
        link.shapes.clear();
        link.receiving = false;
        if link.announced {
            link.announced = false;
            link.stale = link.acknowledges;
            self.send(0, Packet::DeviceDisconnect);
        }
    }

    /// Tells the peer of the unit, if it is there and the peer is ready to hear of it.
    fn announce(&mut self) {
        let plugged = self.device.is_plugged();
        let Some(link) = &mut self.link else {
            return;
        };
        if !plugged || link.announced || link.stale || link.codec.is_none() {
            return;
        }
        link.announced = true;
        let identity = self.device.identity();
        let (vendor_id, product_id) = identity.ids();
        let packet = Packet::DeviceConnect {
            speed: match identity.speed {
                Speed::Full => 1,
                Speed::High => 2,
            },
            class: CLASS_COMMUNICATIONS,
            subclass: 0,
            protocol: 0,
            vendor_id,
            product_id,
            version_bcd: Identity::DEVICE_VERSION,
        };
        // QEMU wants to know interfaces and endpoints before the unit.
        self.send_infos();
        self.send(0, packet);
    }

    /// Tells the peer of interfaces and endpoints.
    fn send_infos(&mut self) {
        let identity = self.device.identity();
        let interfaces = identity.interface_list().into_iter().take(TABLE_LENGTH);
        let interfaces = interfaces.map(|(number, class, subclass, protocol)| InterfaceInfo {
            number,
            class,
            subclass,
            protocol,
        });
        let interfaces = interfaces.collect();
        let mut endpoints = Box::new([EndpointInfo::NONE; TABLE_LENGTH]);
        for address in [0x00, 0x80] {
            endpoints[EndpointInfo::slot(address)] = EndpointInfo {
                transfer_type: 0,
                interval: 0,
                interface: 0,
                max_packet_size: 64,
            };
        }
        for (interface, address, transfer_type, max_packet_size, interval) in identity.endpoints() {
            if address & 0x0f == 0 {
                // Endpoint 0 is none of an interface's.
                continue;
            }
            // QEMU refuses a device whose isochronous or interrupt endpoints have none.
            let interval = match transfer_type {
                1 | 3 => interval.max(1),
                _ => interval,
            };
            endpoints[EndpointInfo::slot(address)] = EndpointInfo {
                transfer_type,
                interval,
                interface,
                max_packet_size,
            };
        }
        self.send(0, Packet::InterfaceInfo(interfaces));
        self.send(0, Packet::EpInfo(endpoints));
    }

    /// Sends a packet, if there is a connection.
    fn send(&mut self, id: u64, packet: Packet) {
        let Some(link) = &mut self.link else {
            return;
        };
        let message = Message { id, packet };
        if self.traces {
            self.notes.push(Note::Sent(message.to_string()));
        }
        link.codec
            .unwrap_or_default()
            .encode(&message, &mut link.output);
    }
}

/// The answer to an isochronous packet: there is no such endpoint.
fn refused_iso(endpoint: u8) -> Packet {
    Packet::Iso {
        endpoint,
        status: Status::Invalid,
        length: 0,
        data: Vec::new(),
    }
}

/// The answer to an interrupt packet: there is no such endpoint.
fn refused_interrupt(endpoint: u8) -> Packet {
    Packet::Interrupt {
        endpoint,
        status: Status::Invalid,
        length: 0,
        data: Vec::new(),
    }
}
