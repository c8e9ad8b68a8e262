// SPDX-License-Identifier: GPL-2.0
//! The descriptors of an AlphaRNG: a CDC-ACM function with two interfaces.
//!
//! Layouts: USB 2.0 chapter 9 (device, configuration, interface, endpoint, string, qualifier), CDC
//! 1.2 section 5.2.3 and PSTN 1.2 section 5.3 (functional descriptors).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `iManufacturer` of a real unit.
pub const MANUFACTURER: &str = "TectroLabs";

/// `iProduct` of a real unit.
pub const PRODUCT: &str = "Alpha RNG";

/// The only configuration's `bConfigurationValue`.
pub const CONFIGURATION: u8 = 1;

/// Maximum packet size of endpoint 0 in bytes; 64 is the only value that high speed allows.
const CONTROL_PACKET_SIZE: u8 = 64;

/// Maximum packet size of the interrupt endpoint in bytes: a SERIAL_STATE notification has ten.
const INTERRUPT_PACKET_SIZE: u16 = 16;

/// Longest serial number, in UTF-16 units: a string descriptor has room for 126.
const MAX_SERIAL_LENGTH: usize = 126;

/// Descriptor types (USB 2.0 table 9-5, CDC 1.2 table 12).
mod kind {
    pub(super) const DEVICE: u8 = 1;
    pub(super) const CONFIGURATION: u8 = 2;
    pub(super) const STRING: u8 = 3;
    pub(super) const INTERFACE: u8 = 4;
    pub(super) const ENDPOINT: u8 = 5;
    pub(super) const DEVICE_QUALIFIER: u8 = 6;
    pub(super) const OTHER_SPEED_CONFIGURATION: u8 = 7;
    pub(super) const CS_INTERFACE: u8 = 0x24;
}

/// Indices of the string descriptors.
mod string {
    pub(super) const LANGUAGES: u8 = 0;
    pub(super) const MANUFACTURER: u8 = 1;
    pub(super) const PRODUCT: u8 = 2;
    pub(super) const SERIAL: u8 = 3;
}

/// The communications class: of the device and of its first interface.
pub const CLASS_COMMUNICATIONS: u8 = 2;
/// Abstract control model.
pub const SUBCLASS_ACM: u8 = 2;
/// AT commands: what `cdc_acm` binds to.
pub const PROTOCOL_AT: u8 = 1;
/// The data class.
pub const CLASS_DATA: u8 = 10;

/// The speed that a unit runs at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "program", derive(clap::ValueEnum))]
pub enum Speed {
    /// 12 Mbit/s, bulk packets of 64 bytes.
    Full,
    /// 480 Mbit/s, bulk packets of 512 bytes.
    #[default]
    High,
}

impl Speed {
    /// Maximum packet size of the bulk endpoints in bytes (USB 2.0, 5.8.3).
    pub const fn bulk_packet_size(self) -> u16 {
        match self {
            Self::Full => 64,
            Self::High => 512,
        }
    }

    /// `bInterval` that polls the interrupt endpoint every 32 ms: in frames at full speed, as an
    /// exponent of microframes at high speed.
    pub const fn interrupt_interval(self) -> u8 {
        match self {
            Self::Full => 32,
            Self::High => 9,
        }
    }

    /// The other speed of a unit that can do both.
    const fn other(self) -> Self {
        match self {
            Self::Full => Self::High,
            Self::High => Self::Full,
        }
    }
}

/// Numbers of the interfaces and endpoints, which may differ from unit to unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Interfaces {
    /// Number of the communications interface.
    pub communications: u8,
    /// Number of the data interface.
    pub data: u8,
    /// Number of the interrupt IN endpoint, 1 to 15.
    pub notify: u8,
    /// Number of the bulk IN endpoint, 1 to 15.
    #[serde(rename = "in")]
    pub bulk_in: u8,
    /// Number of the bulk OUT endpoint, 1 to 15.
    #[serde(rename = "out")]
    pub bulk_out: u8,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self {
            communications: 0,
            data: 1,
            notify: 1,
            bulk_in: 2,
            bulk_out: 3,
        }
    }
}

impl Interfaces {
    /// Address of the interrupt IN endpoint.
    pub const fn notify_address(&self) -> u8 {
        self.notify | 0x80
    }

    /// Address of the bulk IN endpoint.
    pub const fn in_address(&self) -> u8 {
        self.bulk_in | 0x80
    }

    /// Address of the bulk OUT endpoint.
    pub const fn out_address(&self) -> u8 {
        self.bulk_out
    }

    /// Says in one line what is wrong with the numbers, if anything.
    ///
    /// # Errors
    ///
    /// Two interfaces or two IN endpoints with the same number, or an endpoint number that USB
    /// does not have.
    pub fn check(&self) -> Result<(), String> {
        if self.communications == self.data {
            return Err(format!(
                "the two interfaces cannot both have number {}",
                self.data
            ));
        }
        for number in [self.notify, self.bulk_in, self.bulk_out] {
            if !(1..=15).contains(&number) {
                return Err(format!("endpoint number {number} is not in 1 to 15"));
            }
        }
        if self.notify == self.bulk_in {
            return Err(format!(
                "the two IN endpoints cannot both have number {}",
                self.notify
            ));
        }
        Ok(())
    }
}

/// Bytes, in JSON two hexadecimal digits each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let bytes = hex::decode(digits).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// Descriptors that a unit sends in place of its own, whatever is in them: a hostile device's.
///
/// The unit itself stays what it is: its endpoints have the numbers of [`Identity::interfaces`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// The device descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Bytes>,
    /// The configuration descriptor with all that belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Bytes>,
    /// String descriptors by their indices.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub strings: BTreeMap<u8, Bytes>,
}

impl Raw {
    /// Whether anything is replaced.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All that the descriptors of one unit depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `idVendor`.
    pub vendor_id: u16,
    /// `idProduct`.
    pub product_id: u16,
    /// Serial number; a unit with an empty one has no such string.
    pub serial: String,
    /// The speed it runs at.
    pub speed: Speed,
    /// Numbers of its interfaces and endpoints.
    pub interfaces: Interfaces,
    /// What it sends in place of its own descriptors.
    pub raw: Raw,
}

impl Identity {
    /// `bcdDevice`.
    pub const DEVICE_VERSION: u16 = 0x0100;

    /// Says in one line what is wrong, if anything.
    ///
    /// # Errors
    ///
    /// Bad interface or endpoint numbers, or a serial number that does not fit a descriptor.
    pub fn check(&self) -> Result<(), String> {
        if self.serial.encode_utf16().count() > MAX_SERIAL_LENGTH {
            return Err(format!(
                "a serial number has at most {MAX_SERIAL_LENGTH} characters"
            ));
        }
        if self.serial.chars().any(char::is_control) {
            return Err("a serial number cannot have control characters".to_owned());
        }
        self.interfaces.check()
    }

    /// The whole descriptor that GET_DESCRIPTOR asks for with `wValue`; nothing if there is none
    /// (the device stalls such a request).
    pub fn descriptor(&self, value: u16) -> Option<Vec<u8>> {
        let [kind, index] = value.to_be_bytes();
        let raw = match (kind, index) {
            (kind::DEVICE, 0) => self.raw.device.as_ref(),
            (kind::CONFIGURATION, 0) => self.raw.configuration.as_ref(),
            (kind::STRING, index) => self.raw.strings.get(&index),
            _ => None,
        };
        if let Some(Bytes(raw)) = raw {
            return Some(raw.clone());
        }
        match (kind, index) {
            (kind::DEVICE, 0) => Some(self.device()),
            (kind::CONFIGURATION, 0) => Some(self.configuration(kind::CONFIGURATION, self.speed)),
            (kind::STRING, index) => self.string(index),
            // A unit that runs at full speed is one that cannot do better: it has no qualifier.
            (kind::DEVICE_QUALIFIER, 0) if self.speed == Speed::High => Some(Self::qualifier()),
            (kind::OTHER_SPEED_CONFIGURATION, 0) if self.speed == Speed::High => {
                Some(self.configuration(kind::OTHER_SPEED_CONFIGURATION, self.speed.other()))
            }
            _ => None,
        }
    }

    /// Device descriptor (USB 2.0, 9.6.1).
    fn device(&self) -> Vec<u8> {
        let serial = if self.serial.is_empty() {
            0
        } else {
            string::SERIAL
        };
        let mut bytes = vec![18, kind::DEVICE];
        bytes.extend(0x0200u16.to_le_bytes());
        bytes.extend([CLASS_COMMUNICATIONS, 0, 0, CONTROL_PACKET_SIZE]);
        bytes.extend(self.vendor_id.to_le_bytes());
        bytes.extend(self.product_id.to_le_bytes());
        bytes.extend(Self::DEVICE_VERSION.to_le_bytes());
        bytes.extend([string::MANUFACTURER, string::PRODUCT, serial, 1]);
        bytes
    }

    /// Device qualifier: the device descriptor at the other speed (USB 2.0, 9.6.2).
    fn qualifier() -> Vec<u8> {
        let mut bytes = vec![10, kind::DEVICE_QUALIFIER];
        bytes.extend(0x0200u16.to_le_bytes());
        bytes.extend([CLASS_COMMUNICATIONS, 0, 0, CONTROL_PACKET_SIZE, 1, 0]);
        bytes
    }

    /// Configuration descriptor with all that belongs to it (USB 2.0, 9.6.3).
    fn configuration(&self, kind: u8, speed: Speed) -> Vec<u8> {
        let Interfaces {
            communications,
            data,
            ..
        } = self.interfaces;
        let mut bytes = vec![9, kind, 0, 0, 2, CONFIGURATION, 0];
        // Bus powered, no remote wake-up; 100 mA in units of 2 mA.
        bytes.extend([0x80, 50]);

        let class = [CLASS_COMMUNICATIONS, SUBCLASS_ACM, PROTOCOL_AT];
        bytes.extend(interface(communications, 1, class));
        // Header: CDC 1.10, the release that the ACM model came with.
        bytes.extend([5, kind::CS_INTERFACE, 0x00, 0x10, 0x01]);
        // Call management: the device handles none; the data interface could.
        bytes.extend([5, kind::CS_INTERFACE, 0x01, 0x00, data]);
        // ACM: SET_LINE_CODING, SET_CONTROL_LINE_STATE, GET_LINE_CODING and SEND_BREAK.
        bytes.extend([4, kind::CS_INTERFACE, 0x02, 0x06]);
        // Union: who controls whom.
        bytes.extend([5, kind::CS_INTERFACE, 0x06, communications, data]);
        bytes.extend(endpoint(
            self.interfaces.notify_address(),
            TRANSFER_INTERRUPT,
            INTERRUPT_PACKET_SIZE,
            speed.interrupt_interval(),
        ));

        bytes.extend(interface(data, 2, [CLASS_DATA, 0, 0]));
        for address in [self.interfaces.in_address(), self.interfaces.out_address()] {
            bytes.extend(endpoint(
                address,
                TRANSFER_BULK,
                speed.bulk_packet_size(),
                0,
            ));
        }

        let total = (bytes.len() as u16).to_le_bytes();
        bytes[2..4].copy_from_slice(&total);
        bytes
    }

    /// String descriptor (USB 2.0, 9.6.7).
    fn string(&self, index: u8) -> Option<Vec<u8>> {
        let units: Vec<u16> = match index {
            // English (United States).
            string::LANGUAGES => vec![0x0409],
            string::MANUFACTURER => MANUFACTURER.encode_utf16().collect(),
            string::PRODUCT => PRODUCT.encode_utf16().collect(),
            string::SERIAL if !self.serial.is_empty() => self.serial.encode_utf16().collect(),
            _ => return None,
        };
        let mut bytes = vec![2 + 2 * units.len() as u8, kind::STRING];
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        Some(bytes)
    }

    /// Whether SET_CONFIGURATION can select this value: 0, or that in the configuration descriptor.
    pub fn has_configuration(&self, value: u8) -> bool {
        let raw = self.raw.configuration.as_ref();
        let own = raw.and_then(|Bytes(raw)| raw.get(5).copied());
        value == 0 || value == own.unwrap_or(CONFIGURATION)
    }

    /// Whether it sends descriptors in place of its own.
    pub fn is_raw(&self) -> bool {
        !self.raw.is_empty()
    }

    /// The ids in the device descriptor: vendor and product.
    pub fn ids(&self) -> (u16, u16) {
        let raw = self.raw.device.as_ref();
        match raw.and_then(|Bytes(raw)| raw.get(8..12)) {
            Some(&[a, b, c, d]) => (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
            _ => (self.vendor_id, self.product_id),
        }
    }

    /// The first setting of each interface, as `(number, class, subclass, protocol)`: for front ends
    /// whose protocol wants them apart from the descriptors.
    pub fn interface_list(&self) -> Vec<(u8, u8, u8, u8)> {
        let own = || self.configuration(kind::CONFIGURATION, self.speed);
        let raw = self.raw.configuration.clone();
        let mut list: Vec<(u8, u8, u8, u8)> = Vec::new();
        for descriptor in split(&raw.map_or_else(own, |Bytes(raw)| raw)) {
            if let [_, kind::INTERFACE, number, _, _, class, subclass, protocol, ..] = *descriptor {
                if list.iter().all(|(known, ..)| *known != number) {
                    list.push((number, class, subclass, protocol));
                }
            }
        }
        list
    }

    /// The endpoints besides endpoint 0, as `(interface, address, transfer type, packet size,
    /// interval)`: for front ends whose protocol wants them apart from the descriptors.
    pub fn endpoints(&self) -> Vec<(u8, u8, u8, u16, u8)> {
        if let Some(Bytes(raw)) = &self.raw.configuration {
            let mut interface = 0;
            let mut list = Vec::new();
            for descriptor in split(raw) {
                match *descriptor {
                    [_, kind::INTERFACE, number, ..] => interface = number,
                    [_, kind::ENDPOINT, address, attributes, low, high, interval, ..] => {
                        let size = u16::from_le_bytes([low, high]);
                        list.push((interface, address, attributes & 3, size, interval));
                    }
                    _ => {}
                }
            }
            return list;
        }
        let bulk = self.speed.bulk_packet_size();
        vec![
            (
                self.interfaces.communications,
                self.interfaces.notify_address(),
                TRANSFER_INTERRUPT,
                INTERRUPT_PACKET_SIZE,
                self.speed.interrupt_interval(),
            ),
            (
                self.interfaces.data,
                self.interfaces.in_address(),
                TRANSFER_BULK,
                bulk,
                0,
            ),
            (
                self.interfaces.data,
                self.interfaces.out_address(),
                TRANSFER_BULK,
                bulk,
                0,
            ),
        ]
    }
}

/// The descriptors in `bytes`, as far as their lengths make sense.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut list = Vec::new();
    while let Some(&length @ 2..) = bytes.first() {
        let Some((descriptor, rest)) = bytes.split_at_checked(length.into()) else {
            break;
        };
        list.push(descriptor);
        bytes = rest;
    }
    list
}

/// `bmAttributes` of a bulk endpoint.
const TRANSFER_BULK: u8 = 2;
/// `bmAttributes` of an interrupt endpoint.
const TRANSFER_INTERRUPT: u8 = 3;

/// Interface descriptor (USB 2.0, 9.6.5) without a string.
fn interface(number: u8, endpoints: u8, [class, subclass, protocol]: [u8; 3]) -> [u8; 9] {
    [
        9,
        kind::INTERFACE,
        number,
        0,
        endpoints,
        class,
        subclass,
        protocol,
        0,
    ]
}

/// Endpoint descriptor (USB 2.0, 9.6.6).
fn endpoint(address: u8, attributes: u8, packet_size: u16, interval: u8) -> [u8; 7] {
    let [low, high] = packet_size.to_le_bytes();
    [7, kind::ENDPOINT, address, attributes, low, high, interval]
}
