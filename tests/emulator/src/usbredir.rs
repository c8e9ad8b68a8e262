// SPDX-License-Identifier: GPL-2.0
//! The usbredir protocol, version 0.7: packets to bytes and back.
//!
//! Nothing here reads or writes anything. The layout of every packet depends on the capabilities
//! that both sides announced in their HELLO, so a [`Codec`] is made of these. The protocol names
//! its two ends `usb-guest` (QEMU) and `usb-host` (whoever has the device: this program); the
//! codec speaks for both, which lets a test play the other end.
//!
//! All numbers are little endian. Source of names, numbers and layouts: the protocol description
//! that comes with usbredir (`usb-redirection-protocol.md`).

use std::fmt;

use thiserror::Error;

/// Length of the version text in a HELLO, in bytes, padded with zeros.
const VERSION_LENGTH: usize = 64;

/// Entries in the tables of `interface_info` and `ep_info`.
pub const TABLE_LENGTH: usize = 32;

/// Longest packet that is accepted, in bytes without its header: far above any USB transfer, and
/// small enough that garbage taken for a length cannot make the program eat memory.
pub const MAX_PACKET_LENGTH: usize = 16 * 1024 * 1024 + 64;

/// A set of capabilities, as announced in HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// USB 3 bulk streams; adds `max_streams` to `ep_info`.
    pub const BULK_STREAMS: Self = Self(1 << 0);
    /// `device_connect` has the device's version.
    pub const CONNECT_DEVICE_VERSION: Self = Self(1 << 1);
    /// The filter packets are understood.
    pub const FILTER: Self = Self(1 << 2);
    /// A `device_disconnect` is answered by a `device_disconnect_ack`.
    pub const DEVICE_DISCONNECT_ACK: Self = Self(1 << 3);
    /// `ep_info` has the maximum packet sizes.
    pub const EP_INFO_MAX_PACKET_SIZE: Self = Self(1 << 4);
    /// Packet ids have 64 bits instead of 32.
    pub const IDS_64BITS: Self = Self(1 << 5);
    /// The length of a bulk packet has 32 bits instead of 16.
    pub const BULK_LENGTH_32BITS: Self = Self(1 << 6);
    /// Buffered bulk input.
    pub const BULK_RECEIVING: Self = Self(1 << 7);

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets: what two peers may use with each other.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The status of a finished transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// Cancelled on the peer's request.
    Cancelled,
    /// The request makes no sense: no such endpoint, wrong type or length.
    Invalid,
    /// Input or output error.
    IoError,
    /// The endpoint stalled.
    Stall,
    /// Timed out.
    Timeout,
    /// The device sent more than the buffer holds.
    Babble,
}

impl Status {
    /// The status for a number on the wire. Unknown numbers count as an I/O error, as in QEMU.
    pub const fn from_wire(value: u8) -> Self {
        match value {
            0 => Self::Success,
            1 => Self::Cancelled,
            2 => Self::Invalid,
            4 => Self::Stall,
            5 => Self::Timeout,
            6 => Self::Babble,
            _ => Self::IoError,
        }
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Cancelled => 1,
            Self::Invalid => 2,
            Self::IoError => 3,
            Self::Stall => 4,
            Self::Timeout => 5,
            Self::Babble => 6,
        }
    }
}

/// One interface of the active configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bInterfaceClass`.
    pub class: u8,
    /// `bInterfaceSubClass`.
    pub subclass: u8,
    /// `bInterfaceProtocol`.
    pub protocol: u8,
}

/// One slot of `ep_info`. Slot 0 to 15 are the OUT endpoints, 16 to 31 the IN endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Transfer type as in `bmAttributes`, or [`EndpointInfo::TYPE_INVALID`].
    pub transfer_type: u8,
    /// `bInterval`.
    pub interval: u8,
    /// Number of the interface that the endpoint belongs to.
    pub interface: u8,
    /// Maximum packet size in bytes.
    pub max_packet_size: u16,
}

impl EndpointInfo {
    /// The type of a slot without an endpoint.
    pub const TYPE_INVALID: u8 = 255;

    /// A slot without an endpoint.
    pub const NONE: Self = Self {
        transfer_type: Self::TYPE_INVALID,
        interval: 0,
        interface: 0,
        max_packet_size: 0,
    };

    /// The slot of an endpoint address.
    pub const fn slot(address: u8) -> usize {
        (((address & 0x80) >> 3) | (address & 0x0f)) as usize
    }
}

/// What a packet says, without its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// First packet of either side.
    Hello {
        /// Free text that names the program, at most 63 bytes.
        version: String,
        /// What the sender can do.
        capabilities: Capabilities,
    },
    /// A device is there now.
    DeviceConnect {
        /// 0 low, 1 full, 2 high, 3 super.
        speed: u8,
        /// `bDeviceClass`.
        class: u8,
        /// `bDeviceSubClass`.
        subclass: u8,
        /// `bDeviceProtocol`.
        protocol: u8,
        /// `idVendor`.
        vendor_id: u16,
        /// `idProduct`.
        product_id: u16,
        /// `bcdDevice`; 0 where the peers have not agreed to send it.
        version_bcd: u16,
    },
    /// The device is gone.
    DeviceDisconnect,
    /// The bus is reset.
    Reset,
    /// The interfaces of the active configuration, at most [`TABLE_LENGTH`].
    InterfaceInfo(Vec<InterfaceInfo>),
    /// The endpoints of the active configuration.
    EpInfo(Box<[EndpointInfo; TABLE_LENGTH]>),
    /// SET_CONFIGURATION.
    SetConfiguration {
        /// `bConfigurationValue`.
        configuration: u8,
    },
    /// GET_CONFIGURATION.
    GetConfiguration,
    /// The answer to both.
    ConfigurationStatus {
        /// How it went.
        status: Status,
        /// The active configuration.
        configuration: u8,
    },
    /// SET_INTERFACE.
    SetAltSetting {
        /// Number of the interface.
        interface: u8,
        /// Alternate setting.
        alt: u8,
    },
    /// GET_INTERFACE.
    GetAltSetting {
        /// Number of the interface.
        interface: u8,
    },
    /// The answer to both.
    AltSettingStatus {
        /// How it went.
        status: Status,
        /// Number of the interface.
        interface: u8,
        /// The active alternate setting.
        alt: u8,
    },
    /// Start an isochronous stream.
    StartIsoStream {
        /// Endpoint address.
        endpoint: u8,
        /// Packets in a URB.
        packets_per_urb: u8,
        /// Number of URBs.
        urbs: u8,
    },
    /// Stop an isochronous stream.
    StopIsoStream {
        /// Endpoint address.
        endpoint: u8,
    },
    /// The answer to both.
    IsoStreamStatus {
        /// How it went.
        status: Status,
        /// Endpoint address.
        endpoint: u8,
    },
    /// Start to poll an interrupt IN endpoint.
    StartInterruptReceiving {
        /// Endpoint address.
        endpoint: u8,
    },
    /// Stop to poll an interrupt IN endpoint.
    StopInterruptReceiving {
        /// Endpoint address.
        endpoint: u8,
    },
    /// The answer to both.
    InterruptReceivingStatus {
        /// How it went.
        status: Status,
        /// Endpoint address.
        endpoint: u8,
    },
    /// Allocate USB 3 streams.
    AllocBulkStreams {
        /// One bit for each slot of `ep_info`.
        endpoints: u32,
        /// Number of streams.
        streams: u32,
    },
    /// Free USB 3 streams.
    FreeBulkStreams {
        /// One bit for each slot of `ep_info`.
        endpoints: u32,
    },
    /// The answer to both.
    BulkStreamsStatus {
        /// One bit for each slot of `ep_info`.
        endpoints: u32,
        /// Number of streams.
        streams: u32,
        /// How it went.
        status: Status,
    },
    /// Cancel the data packet that has this packet's id.
    CancelDataPacket,
    /// The usb-guest does not want the device.
    FilterReject,
    /// The usb-guest's filter: text rules, kept as they came.
    FilterFilter(Vec<u8>),
    /// The usb-guest has seen the disconnect; nothing of before it is under way any more.
    DeviceDisconnectAck,
    /// Start buffered bulk input.
    StartBulkReceiving {
        /// Stream, 0 without streams.
        stream: u32,
        /// Bytes in a transfer.
        bytes_per_transfer: u32,
        /// Endpoint address.
        endpoint: u8,
        /// Number of transfers.
        transfers: u8,
    },
    /// Stop buffered bulk input.
    StopBulkReceiving {
        /// Stream, 0 without streams.
        stream: u32,
        /// Endpoint address.
        endpoint: u8,
    },
    /// The answer to both.
    BulkReceivingStatus {
        /// Stream, 0 without streams.
        stream: u32,
        /// Endpoint address.
        endpoint: u8,
        /// How it went.
        status: Status,
    },
    /// A control transfer on endpoint 0, or its result.
    Control {
        /// 0x80 for a request with data towards the host, otherwise 0.
        endpoint: u8,
        /// `bRequest`.
        request: u8,
        /// `bmRequestType`.
        request_type: u8,
        /// How it went; 0 in a request.
        status: Status,
        /// `wValue`.
        value: u16,
        /// `wIndex`.
        index: u16,
        /// `wLength` in a request, the actual length in a result.
        length: u16,
        /// The data stage, if it goes the way of the packet.
        data: Vec<u8>,
    },
    /// A bulk transfer, or its result.
    Bulk {
        /// Endpoint address.
        endpoint: u8,
        /// How it went; 0 in a request.
        status: Status,
        /// Bytes asked for in a request, the actual length in a result.
        length: u32,
        /// Stream, 0 without streams.
        stream: u32,
        /// The data, if it goes the way of the packet.
        data: Vec<u8>,
    },
    /// An isochronous packet.
    Iso {
        /// Endpoint address.
        endpoint: u8,
        /// How it went.
        status: Status,
        /// Length of the data.
        length: u16,
        /// The data.
        data: Vec<u8>,
    },
    /// An interrupt packet.
    Interrupt {
        /// Endpoint address.
        endpoint: u8,
        /// How it went.
        status: Status,
        /// Length of the data.
        length: u16,
        /// The data.
        data: Vec<u8>,
    },
    /// Buffered bulk input.
    BufferedBulk {
        /// Stream, 0 without streams.
        stream: u32,
        /// Length of the data.
        length: u32,
        /// Endpoint address.
        endpoint: u8,
        /// How it went.
        status: Status,
        /// The data.
        data: Vec<u8>,
    },
}

/// A packet with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Chosen by whoever asks, repeated in the answer. 0 where the protocol has no use for it.
    pub id: u64,
    /// The rest.
    pub packet: Packet,
}

/// Why bytes are no usbredir packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// No such packet type.
    #[error("no usbredir packet has type {0}: is the other end QEMU's usb-redir device?")]
    Type(u32),
    /// The type does not go with the length.
    #[error("a usbredir packet of type {kind} cannot be {length} bytes long")]
    Length {
        /// The packet's type.
        kind: u32,
        /// The length that its header states, in bytes.
        length: u32,
    },
    /// The packet's own length field does not go with the data it brings.
    #[error("a usbredir packet of type {kind} says that it has {stated} bytes of data, but brings {actual}")]
    DataLength {
        /// The packet's type.
        kind: u32,
        /// Bytes stated by the packet's length field.
        stated: u32,
        /// Bytes there.
        actual: u32,
    },
    /// More interfaces than the table has room for.
    #[error("an interface_info packet has a table of 32 interfaces, but says it uses {0}")]
    Interfaces(u32),
}

/// Type numbers on the wire.
mod kind {
    pub(super) const HELLO: u32 = 0;
    pub(super) const DEVICE_CONNECT: u32 = 1;
    pub(super) const DEVICE_DISCONNECT: u32 = 2;
    pub(super) const RESET: u32 = 3;
    pub(super) const INTERFACE_INFO: u32 = 4;
    pub(super) const EP_INFO: u32 = 5;
    pub(super) const SET_CONFIGURATION: u32 = 6;
    pub(super) const GET_CONFIGURATION: u32 = 7;
    pub(super) const CONFIGURATION_STATUS: u32 = 8;
    pub(super) const SET_ALT_SETTING: u32 = 9;
    pub(super) const GET_ALT_SETTING: u32 = 10;
    pub(super) const ALT_SETTING_STATUS: u32 = 11;
    pub(super) const START_ISO_STREAM: u32 = 12;
    pub(super) const STOP_ISO_STREAM: u32 = 13;
    pub(super) const ISO_STREAM_STATUS: u32 = 14;
    pub(super) const START_INTERRUPT_RECEIVING: u32 = 15;
    pub(super) const STOP_INTERRUPT_RECEIVING: u32 = 16;
    pub(super) const INTERRUPT_RECEIVING_STATUS: u32 = 17;
    pub(super) const ALLOC_BULK_STREAMS: u32 = 18;
    pub(super) const FREE_BULK_STREAMS: u32 = 19;
    pub(super) const BULK_STREAMS_STATUS: u32 = 20;
    pub(super) const CANCEL_DATA_PACKET: u32 = 21;
    pub(super) const FILTER_REJECT: u32 = 22;
    pub(super) const FILTER_FILTER: u32 = 23;
    pub(super) const DEVICE_DISCONNECT_ACK: u32 = 24;
    pub(super) const START_BULK_RECEIVING: u32 = 25;
    pub(super) const STOP_BULK_RECEIVING: u32 = 26;
    pub(super) const BULK_RECEIVING_STATUS: u32 = 27;
    pub(super) const CONTROL_PACKET: u32 = 100;
    pub(super) const BULK_PACKET: u32 = 101;
    pub(super) const ISO_PACKET: u32 = 102;
    pub(super) const INTERRUPT_PACKET: u32 = 103;
    pub(super) const BUFFERED_BULK_PACKET: u32 = 104;
}

/// Writes and reads packets as two peers with the given common capabilities do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codec {
    /// What both sides can do. Empty until both HELLOs are there.
    common: Capabilities,
}

impl Codec {
    /// A codec for peers that have these capabilities in common.
    pub const fn new(common: Capabilities) -> Self {
        Self { common }
    }

    /// Length of the header of packets of this type. A HELLO always has the short one, because the
    /// capabilities that decide about the length are only in it.
    const fn header_length(self, kind: u32) -> usize {
        if kind != kind::HELLO && self.common.has(Capabilities::IDS_64BITS) {
            16
        } else {
            12
        }
    }

    /// Appends the bytes of `message` to `out`.
    pub fn encode(self, message: &Message, out: &mut Vec<u8>) {
        let kind = message.packet.kind();
        let start = out.len();
        out.extend(kind.to_le_bytes());
        out.extend([0; 4]);
        if self.header_length(kind) == 16 {
            out.extend(message.id.to_le_bytes());
        } else {
            // Peers without 64-bit ids only ever hand out ids of 32 bits.
            out.extend((message.id as u32).to_le_bytes());
        }
        let body = out.len();
        self.encode_body(&message.packet, out);
        let length = (out.len() - body) as u32;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// Appends what comes behind the header.
    fn encode_body(self, packet: &Packet, out: &mut Vec<u8>) {
        match packet {
            Packet::Hello {
                version,
                capabilities,
            } => {
                let mut text = [0; VERSION_LENGTH];
                // The last byte stays zero: the peer reads a C string.
                let length = version.len().min(VERSION_LENGTH - 1);
                text[..length].copy_from_slice(&version.as_bytes()[..length]);
                out.extend(text);
                out.extend(capabilities.0.to_le_bytes());
            }
            Packet::DeviceConnect {
                speed,
                class,
                subclass,
                protocol,
                vendor_id,
                product_id,
                version_bcd,
            } => {
                out.extend([*speed, *class, *subclass, *protocol]);
                out.extend(vendor_id.to_le_bytes());
                out.extend(product_id.to_le_bytes());
                if self.common.has(Capabilities::CONNECT_DEVICE_VERSION) {
                    out.extend(version_bcd.to_le_bytes());
                }
            }
            Packet::InterfaceInfo(interfaces) => {
                out.extend((interfaces.len() as u32).to_le_bytes());
                let fields: [fn(&InterfaceInfo) -> u8; 4] =
                    [|i| i.number, |i| i.class, |i| i.subclass, |i| i.protocol];
                for field in fields {
                    let mut column = [0; TABLE_LENGTH];
                    for (slot, interface) in column.iter_mut().zip(interfaces) {
                        *slot = field(interface);
                    }
                    out.extend(column);
                }
            }
            Packet::EpInfo(endpoints) => {
                out.extend(endpoints.iter().map(|e| e.transfer_type));
                out.extend(endpoints.iter().map(|e| e.interval));
                out.extend(endpoints.iter().map(|e| e.interface));
                if self.common.has(Capabilities::EP_INFO_MAX_PACKET_SIZE) {
                    out.extend(
                        endpoints
                            .iter()
                            .flat_map(|e| e.max_packet_size.to_le_bytes()),
                    );
                    if self.common.has(Capabilities::BULK_STREAMS) {
                        out.extend([0; 4 * TABLE_LENGTH]);
                    }
                }
            }
            Packet::SetConfiguration { configuration } => out.push(*configuration),
            Packet::ConfigurationStatus {
                status,
                configuration,
            } => out.extend([status.to_wire(), *configuration]),
            Packet::SetAltSetting { interface, alt } => out.extend([*interface, *alt]),
            Packet::GetAltSetting { interface } => out.push(*interface),
            Packet::AltSettingStatus {
                status,
                interface,
                alt,
            } => out.extend([status.to_wire(), *interface, *alt]),
            Packet::StartIsoStream {
                endpoint,
                packets_per_urb,
                urbs,
            } => out.extend([*endpoint, *packets_per_urb, *urbs]),
            Packet::StopIsoStream { endpoint }
            | Packet::StartInterruptReceiving { endpoint }
            | Packet::StopInterruptReceiving { endpoint } => out.push(*endpoint),
            Packet::IsoStreamStatus { status, endpoint }
            | Packet::InterruptReceivingStatus { status, endpoint } => {
                out.extend([status.to_wire(), *endpoint]);
            }
            Packet::AllocBulkStreams { endpoints, streams } => {
                out.extend(endpoints.to_le_bytes());
                out.extend(streams.to_le_bytes());
            }
            Packet::FreeBulkStreams { endpoints } => out.extend(endpoints.to_le_bytes()),
            Packet::BulkStreamsStatus {
                endpoints,
                streams,
                status,
            } => {
                out.extend(endpoints.to_le_bytes());
                out.extend(streams.to_le_bytes());
                out.push(status.to_wire());
            }
            Packet::FilterFilter(rules) => out.extend(rules),
            Packet::StartBulkReceiving {
                stream,
                bytes_per_transfer,
                endpoint,
                transfers,
            } => {
                out.extend(stream.to_le_bytes());
                out.extend(bytes_per_transfer.to_le_bytes());
                out.extend([*endpoint, *transfers]);
            }
            Packet::StopBulkReceiving { stream, endpoint } => {
                out.extend(stream.to_le_bytes());
                out.push(*endpoint);
            }
            Packet::BulkReceivingStatus {
                stream,
                endpoint,
                status,
            } => {
                out.extend(stream.to_le_bytes());
                out.extend([*endpoint, status.to_wire()]);
            }
            Packet::Control {
                endpoint,
                request,
                request_type,
                status,
                value,
                index,
                length,
                data,
            } => {
                out.extend([*endpoint, *request, *request_type, status.to_wire()]);
                out.extend(value.to_le_bytes());
                out.extend(index.to_le_bytes());
                out.extend(length.to_le_bytes());
                out.extend(data);
            }
            Packet::Bulk {
                endpoint,
                status,
                length,
                stream,
                data,
            } => {
                out.extend([*endpoint, status.to_wire()]);
                out.extend((*length as u16).to_le_bytes());
                out.extend(stream.to_le_bytes());
                if self.common.has(Capabilities::BULK_LENGTH_32BITS) {
                    out.extend(((*length >> 16) as u16).to_le_bytes());
                }
                out.extend(data);
            }
            Packet::Iso {
                endpoint,
                status,
                length,
                data,
            }
            | Packet::Interrupt {
                endpoint,
                status,
                length,
                data,
            } => {
                out.extend([*endpoint, status.to_wire()]);
                out.extend(length.to_le_bytes());
                out.extend(data);
            }
            Packet::BufferedBulk {
                stream,
                length,
                endpoint,
                status,
                data,
            } => {
                out.extend(stream.to_le_bytes());
                out.extend(length.to_le_bytes());
                out.extend([*endpoint, status.to_wire()]);
                out.extend(data);
            }
            Packet::DeviceDisconnect
            | Packet::Reset
            | Packet::GetConfiguration
            | Packet::CancelDataPacket
            | Packet::FilterReject
            | Packet::DeviceDisconnectAck => {}
        }
    }

    /// Takes the first packet off `bytes`. Returns it with the number of bytes it used, or nothing
    /// while it is not yet complete.
    ///
    /// # Errors
    ///
    /// A [`DecodeError`] when the bytes can never become a packet. The stream has no way to find
    /// the next packet then: the connection is of no more use.
    pub fn decode(self, bytes: &[u8]) -> Result<Option<(Message, usize)>, DecodeError> {
        let mut head = Fields(bytes);
        let (Some(kind), Some(length)) = (head.u32(), head.u32()) else {
            return Ok(None);
        };
        // Garbage is told from a packet by these eight bytes, before anything is waited for.
        self.check_length(kind, length)?;
        let header = self.header_length(kind);
        let id = match header {
            16 => head.u64(),
            _ => head.u32().map(u64::from),
        };
        let end = header + length as usize;
        let (Some(id), Some(body)) = (id, bytes.get(header..end)) else {
            return Ok(None);
        };
        let packet = self.decode_body(kind, body)?;
        Ok(Some((Message { id, packet }, end)))
    }

    /// Refuses a type that does not exist and a length that its type cannot have.
    fn check_length(self, kind: u32, length: u32) -> Result<(), DecodeError> {
        let (least, open_ended) = self.body_length(kind).ok_or(DecodeError::Type(kind))?;
        let length_fits = if open_ended {
            (least..=MAX_PACKET_LENGTH).contains(&(length as usize))
        } else {
            length as usize == least
        };
        if length_fits {
            Ok(())
        } else {
            Err(DecodeError::Length { kind, length })
        }
    }

    /// Bytes that a packet of this type has at least, and whether it may have more.
    fn body_length(self, kind: u32) -> Option<(usize, bool)> {
        use kind::*;
        let version = if self.common.has(Capabilities::CONNECT_DEVICE_VERSION) {
            2
        } else {
            0
        };
        let length_high = if self.common.has(Capabilities::BULK_LENGTH_32BITS) {
            2
        } else {
            0
        };
        let ep_info = match (
            self.common.has(Capabilities::EP_INFO_MAX_PACKET_SIZE),
            self.common.has(Capabilities::BULK_STREAMS),
        ) {
            (false, _) => 3 * TABLE_LENGTH,
            (true, false) => (3 + 2) * TABLE_LENGTH,
            (true, true) => (3 + 2 + 4) * TABLE_LENGTH,
        };
        Some(match kind {
            // A peer without any capability may leave their word out; a newer one may send more.
            HELLO => (VERSION_LENGTH, true),
            DEVICE_CONNECT => (8 + version, false),
            INTERFACE_INFO => (4 + 4 * TABLE_LENGTH, false),
            EP_INFO => (ep_info, false),
            DEVICE_DISCONNECT
            | RESET
            | GET_CONFIGURATION
            | CANCEL_DATA_PACKET
            | FILTER_REJECT
            | DEVICE_DISCONNECT_ACK => (0, false),
            SET_CONFIGURATION
            | GET_ALT_SETTING
            | STOP_ISO_STREAM
            | START_INTERRUPT_RECEIVING
            | STOP_INTERRUPT_RECEIVING => (1, false),
            CONFIGURATION_STATUS
            | SET_ALT_SETTING
            | ISO_STREAM_STATUS
            | INTERRUPT_RECEIVING_STATUS => (2, false),
            ALT_SETTING_STATUS | START_ISO_STREAM => (3, false),
            FREE_BULK_STREAMS => (4, false),
            STOP_BULK_RECEIVING => (5, false),
            BULK_RECEIVING_STATUS => (6, false),
            ALLOC_BULK_STREAMS => (8, false),
            BULK_STREAMS_STATUS => (9, false),
            START_BULK_RECEIVING => (10, false),
            FILTER_FILTER => (0, true),
            CONTROL_PACKET => (10, true),
            BULK_PACKET => (8 + length_high, true),
            ISO_PACKET | INTERRUPT_PACKET => (4, true),
            BUFFERED_BULK_PACKET => (10, true),
            _ => return None,
        })
    }

    /// Reads what comes behind the header, whose length has been checked.
    fn decode_body(self, kind: u32, body: &[u8]) -> Result<Packet, DecodeError> {
        // `body` has the length that `body_length` demands, so that no field below can be missing.
        self.fields(kind, &mut Fields(body))
            .ok_or(DecodeError::Length {
                kind,
                length: body.len() as u32,
            })?
    }

    /// Reads the fields of a packet; nothing if one is missing.
    fn fields(self, kind: u32, body: &mut Fields<'_>) -> Option<Result<Packet, DecodeError>> {
        Some(Ok(match kind {
            kind::HELLO => {
                let text = body.take(VERSION_LENGTH)?;
                let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
                Packet::Hello {
                    version: String::from_utf8_lossy(&text[..end]).into_owned(),
                    capabilities: Capabilities(body.u32().unwrap_or(0)),
                }
            }
            kind::DEVICE_CONNECT => Packet::DeviceConnect {
                speed: body.u8()?,
                class: body.u8()?,
                subclass: body.u8()?,
                protocol: body.u8()?,
                vendor_id: body.u16()?,
                product_id: body.u16()?,
                version_bcd: body.u16().unwrap_or(0),
            },
            kind::DEVICE_DISCONNECT => Packet::DeviceDisconnect,
            kind::RESET => Packet::Reset,
            kind::INTERFACE_INFO => {
                let count = body.u32()?;
                if count as usize > TABLE_LENGTH {
                    return Some(Err(DecodeError::Interfaces(count)));
                }
                let numbers = body.take(TABLE_LENGTH)?;
                let classes = body.take(TABLE_LENGTH)?;
                let subclasses = body.take(TABLE_LENGTH)?;
                let protocols = body.take(TABLE_LENGTH)?;
                Packet::InterfaceInfo(
                    (0..count as usize)
                        .map(|i| InterfaceInfo {
                            number: numbers[i],
                            class: classes[i],
                            subclass: subclasses[i],
                            protocol: protocols[i],
                        })
                        .collect(),
                )
            }
            kind::EP_INFO => {
                let types = body.take(TABLE_LENGTH)?;
                let intervals = body.take(TABLE_LENGTH)?;
                let interfaces = body.take(TABLE_LENGTH)?;
                let mut endpoints = Box::new([EndpointInfo::NONE; TABLE_LENGTH]);
                for (i, endpoint) in endpoints.iter_mut().enumerate() {
                    *endpoint = EndpointInfo {
                        transfer_type: types[i],
                        interval: intervals[i],
                        interface: interfaces[i],
                        max_packet_size: body.u16().unwrap_or(0),
                    };
                }
                Packet::EpInfo(endpoints)
            }
            kind::SET_CONFIGURATION => Packet::SetConfiguration {
                configuration: body.u8()?,
            },
            kind::GET_CONFIGURATION => Packet::GetConfiguration,
            kind::CONFIGURATION_STATUS => Packet::ConfigurationStatus {
                status: body.status()?,
                configuration: body.u8()?,
            },
            kind::SET_ALT_SETTING => Packet::SetAltSetting {
                interface: body.u8()?,
                alt: body.u8()?,
            },
            kind::GET_ALT_SETTING => Packet::GetAltSetting {
                interface: body.u8()?,
            },
            kind::ALT_SETTING_STATUS => Packet::AltSettingStatus {
                status: body.status()?,
                interface: body.u8()?,
                alt: body.u8()?,
            },
            kind::START_ISO_STREAM => Packet::StartIsoStream {
                endpoint: body.u8()?,
                packets_per_urb: body.u8()?,
                urbs: body.u8()?,
            },
            kind::STOP_ISO_STREAM => Packet::StopIsoStream {
                endpoint: body.u8()?,
            },
            kind::ISO_STREAM_STATUS => Packet::IsoStreamStatus {
                status: body.status()?,
                endpoint: body.u8()?,
            },
            kind::START_INTERRUPT_RECEIVING => Packet::StartInterruptReceiving {
                endpoint: body.u8()?,
            },
            kind::STOP_INTERRUPT_RECEIVING => Packet::StopInterruptReceiving {
                endpoint: body.u8()?,
            },
            kind::INTERRUPT_RECEIVING_STATUS => Packet::InterruptReceivingStatus {
                status: body.status()?,
                endpoint: body.u8()?,
            },
            kind::ALLOC_BULK_STREAMS => Packet::AllocBulkStreams {
                endpoints: body.u32()?,
                streams: body.u32()?,
            },
            kind::FREE_BULK_STREAMS => Packet::FreeBulkStreams {
                endpoints: body.u32()?,
            },
            kind::BULK_STREAMS_STATUS => Packet::BulkStreamsStatus {
                endpoints: body.u32()?,
                streams: body.u32()?,
                status: body.status()?,
            },
            kind::CANCEL_DATA_PACKET => Packet::CancelDataPacket,
            kind::FILTER_REJECT => Packet::FilterReject,
            kind::FILTER_FILTER => Packet::FilterFilter(body.rest()),
            kind::DEVICE_DISCONNECT_ACK => Packet::DeviceDisconnectAck,
            kind::START_BULK_RECEIVING => Packet::StartBulkReceiving {
                stream: body.u32()?,
                bytes_per_transfer: body.u32()?,
                endpoint: body.u8()?,
                transfers: body.u8()?,
            },
            kind::STOP_BULK_RECEIVING => Packet::StopBulkReceiving {
                stream: body.u32()?,
                endpoint: body.u8()?,
            },
            kind::BULK_RECEIVING_STATUS => Packet::BulkReceivingStatus {
                stream: body.u32()?,
                endpoint: body.u8()?,
                status: body.status()?,
            },
            kind::CONTROL_PACKET => {
                let endpoint = body.u8()?;
                let request = body.u8()?;
                let request_type = body.u8()?;
                let status = body.status()?;
                let value = body.u16()?;
                let index = body.u16()?;
                let length = body.u16()?;
                return Some(body.data(kind, length.into()).map(|data| Packet::Control {
                    endpoint,
                    request,
                    request_type,
                    status,
                    value,
                    index,
                    length,
                    data,
                }));
            }
            kind::BULK_PACKET => {
                let endpoint = body.u8()?;
                let status = body.status()?;
                let low = u32::from(body.u16()?);
                let stream = body.u32()?;
                let high = if self.common.has(Capabilities::BULK_LENGTH_32BITS) {
                    u32::from(body.u16()?)
                } else {
                    0
                };
                let length = (high << 16) | low;
                return Some(body.data(kind, length).map(|data| Packet::Bulk {
                    endpoint,
                    status,
                    length,
                    stream,
                    data,
                }));
            }
            kind::ISO_PACKET | kind::INTERRUPT_PACKET => {
                let endpoint = body.u8()?;
                let status = body.status()?;
                let length = body.u16()?;
                return Some(body.data(kind, length.into()).map(|data| {
                    if kind == kind::ISO_PACKET {
                        Packet::Iso {
                            endpoint,
                            status,
                            length,
                            data,
                        }
                    } else {
                        Packet::Interrupt {
                            endpoint,
                            status,
                            length,
                            data,
                        }
                    }
                }));
            }
            kind::BUFFERED_BULK_PACKET => {
                let stream = body.u32()?;
                let length = body.u32()?;
                let endpoint = body.u8()?;
                let status = body.status()?;
                return Some(body.data(kind, length).map(|data| Packet::BufferedBulk {
                    stream,
                    length,
                    endpoint,
                    status,
                    data,
                }));
            }
            _ => return Some(Err(DecodeError::Type(kind))),
        }))
    }
}

impl Packet {
    /// The type number on the wire.
    const fn kind(&self) -> u32 {
        match self {
            Self::Hello { .. } => kind::HELLO,
            Self::DeviceConnect { .. } => kind::DEVICE_CONNECT,
            Self::DeviceDisconnect => kind::DEVICE_DISCONNECT,
            Self::Reset => kind::RESET,
            Self::InterfaceInfo(_) => kind::INTERFACE_INFO,
            Self::EpInfo(_) => kind::EP_INFO,
            Self::SetConfiguration { .. } => kind::SET_CONFIGURATION,
            Self::GetConfiguration => kind::GET_CONFIGURATION,
            Self::ConfigurationStatus { .. } => kind::CONFIGURATION_STATUS,
            Self::SetAltSetting { .. } => kind::SET_ALT_SETTING,
            Self::GetAltSetting { .. } => kind::GET_ALT_SETTING,
            Self::AltSettingStatus { .. } => kind::ALT_SETTING_STATUS,
            Self::StartIsoStream { .. } => kind::START_ISO_STREAM,
            Self::StopIsoStream { .. } => kind::STOP_ISO_STREAM,
            Self::IsoStreamStatus { .. } => kind::ISO_STREAM_STATUS,
            Self::StartInterruptReceiving { .. } => kind::START_INTERRUPT_RECEIVING,
            Self::StopInterruptReceiving { .. } => kind::STOP_INTERRUPT_RECEIVING,
            Self::InterruptReceivingStatus { .. } => kind::INTERRUPT_RECEIVING_STATUS,
            Self::AllocBulkStreams { .. } => kind::ALLOC_BULK_STREAMS,
            Self::FreeBulkStreams { .. } => kind::FREE_BULK_STREAMS,
            Self::BulkStreamsStatus { .. } => kind::BULK_STREAMS_STATUS,
            Self::CancelDataPacket => kind::CANCEL_DATA_PACKET,
            Self::FilterReject => kind::FILTER_REJECT,
            Self::FilterFilter(_) => kind::FILTER_FILTER,
            Self::DeviceDisconnectAck => kind::DEVICE_DISCONNECT_ACK,
            Self::StartBulkReceiving { .. } => kind::START_BULK_RECEIVING,
            Self::StopBulkReceiving { .. } => kind::STOP_BULK_RECEIVING,
            Self::BulkReceivingStatus { .. } => kind::BULK_RECEIVING_STATUS,
            Self::Control { .. } => kind::CONTROL_PACKET,
            Self::Bulk { .. } => kind::BULK_PACKET,
            Self::Iso { .. } => kind::ISO_PACKET,
            Self::Interrupt { .. } => kind::INTERRUPT_PACKET,
            Self::BufferedBulk { .. } => kind::BUFFERED_BULK_PACKET,
        }
    }
}

impl fmt::Display for Message {
    /// One short line for the log: what and how much, never the data themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.packet {
            Packet::Control {
                request,
                request_type,
                status,
                value,
                index,
                length,
                ..
            } => write!(
                f,
                "control id {:#x}: type {request_type:#04x} request {request:#04x} value {value:#06x} \
                 index {index} length {length} {status:?}",
                self.id
            ),
            Packet::Bulk {
                endpoint,
                status,
                length,
                ..
            } => write!(
                f,
                "bulk id {:#x}: endpoint {endpoint:#04x} length {length} {status:?}",
                self.id
            ),
            Packet::EpInfo(_) => write!(f, "EpInfo"),
            other => write!(f, "{other:?} id {:#x}", self.id),
        }
    }
}

/// Takes little-endian fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes, if there are as many.
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    /// The next bytes as an array.
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next byte.
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next two bytes.
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next byte as a status.
    fn status(&mut self) -> Option<Status> {
        self.u8().map(Status::from_wire)
    }

    /// All that is left.
    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    /// The data behind the fields of a data packet: none, or as many as its length field states.
    fn data(&mut self, kind: u32, stated: u32) -> Result<Vec<u8>, DecodeError> {
        let data = self.rest();
        if data.is_empty() || data.len() == stated as usize {
            Ok(data)
        } else {
            Err(DecodeError::DataLength {
                kind,
                stated,
                actual: data.len() as u32,
            })
        }
    }
}
