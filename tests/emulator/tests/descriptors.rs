// SPDX-License-Identifier: GPL-2.0
//! The descriptors, read by a parser of their own: offsets are those of USB 2.0 chapter 9 and CDC
//! 1.2 section 5.2.3.

mod common;

use std::collections::BTreeMap;

use alpharng_emu::descriptors::{Bytes, Identity, Interfaces, Raw, Speed};
use common::options;

/// An interface as the parser finds it.
#[derive(Debug, PartialEq)]
struct Interface {
    number: u8,
    class: [u8; 3],
    functional: Vec<Vec<u8>>,
    endpoints: Vec<Endpoint>,
}

/// An endpoint as the parser finds it.
#[derive(Debug, PartialEq)]
struct Endpoint {
    address: u8,
    attributes: u8,
    packet_size: u16,
    interval: u8,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) + 256 * u16::from(bytes[at + 1])
}

/// Walks a configuration by `bLength` alone.
fn parse(bytes: &[u8], kind: u8) -> Vec<Interface> {
    assert_eq!((bytes[0], bytes[1]), (9, kind));
    assert_eq!(usize::from(word(bytes, 2)), bytes.len(), "wTotalLength");
    assert_eq!(bytes[5], 1, "bConfigurationValue");
    assert_eq!(
        bytes[7] & 0x80,
        0x80,
        "bmAttributes has a bit that is always set"
    );
    assert!(bytes[8] <= 250, "at most 500 mA");
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut rest = &bytes[9..];
    while !rest.is_empty() {
        let (descriptor, tail) = rest.split_at(rest[0].into());
        match descriptor[1] {
            4 => {
                assert_eq!(descriptor.len(), 9);
                if let Some(previous) = interfaces.last() {
                    assert_eq!(previous.endpoints.len(), 1, "bNumEndpoints");
                }
                assert_eq!(descriptor[3], 0, "bAlternateSetting");
                assert_eq!(descriptor[4], if interfaces.is_empty() { 1 } else { 2 });
                interfaces.push(Interface {
                    number: descriptor[2],
                    class: descriptor[5..8].try_into().unwrap(),
                    functional: Vec::new(),
                    endpoints: Vec::new(),
                });
            }
            5 => {
                assert_eq!(descriptor.len(), 7);
                interfaces.last_mut().unwrap().endpoints.push(Endpoint {
                    address: descriptor[2],
                    attributes: descriptor[3],
                    packet_size: word(descriptor, 4),
                    interval: descriptor[6],
                });
            }
            0x24 => interfaces
                .last_mut()
                .unwrap()
                .functional
                .push(descriptor[2..].to_vec()),
            other => panic!("descriptor type {other} has no place here"),
        }
        rest = tail;
    }
    assert_eq!(usize::from(bytes[4]), interfaces.len(), "bNumInterfaces");
    interfaces
}

fn text(bytes: &[u8]) -> String {
    assert_eq!((usize::from(bytes[0]), bytes[1]), (bytes.len(), 3));
    let units: Vec<u16> = bytes[2..].chunks(2).map(|pair| word(pair, 0)).collect();
    String::from_utf16(&units).unwrap()
}

fn identity(speed: Speed) -> Identity {
    Identity {
        speed,
        ..options().identity
    }
}

#[test]
fn device_descriptor() {
    for (vendor_id, product_id) in [(0x1fc9, 0x8111), (0x3975, 0x0005)] {
        let identity = Identity {
            vendor_id,
            product_id,
            ..identity(Speed::High)
        };
        let bytes = identity.descriptor(0x0100).unwrap();
        assert_eq!(bytes.len(), 18);
        assert_eq!((bytes[0], bytes[1]), (18, 1));
        assert_eq!(word(&bytes, 2), 0x0200, "bcdUSB");
        assert_eq!(bytes[4..7], [2, 0, 0], "a communications device");
        assert_eq!(bytes[7], 64, "bMaxPacketSize0");
        assert_eq!(word(&bytes, 8), vendor_id);
        assert_eq!(word(&bytes, 10), product_id);
        assert_eq!(bytes[17], 1, "bNumConfigurations");
        let string = |at: usize| text(&identity.descriptor(0x0300 | u16::from(bytes[at])).unwrap());
        assert_eq!(string(14), "TectroLabs");
        assert_eq!(string(15), "Alpha RNG");
        assert_eq!(string(16), "T1");
    }
    let languages = identity(Speed::High).descriptor(0x0300).unwrap();
    assert_eq!(languages, [4, 3, 0x09, 0x04]);
}

#[test]
fn configuration() {
    for (speed, packet_size, interval) in [(Speed::High, 512, 9), (Speed::Full, 64, 32)] {
        let interfaces = parse(&identity(speed).descriptor(0x0200).unwrap(), 2);
        assert_eq!(
            interfaces,
            [
                Interface {
                    number: 0,
                    class: [2, 2, 1],
                    functional: vec![
                        // Header, CDC 1.10.
                        vec![0x00, 0x10, 0x01],
                        // Call management by nobody, data interface 1.
                        vec![0x01, 0x00, 1],
                        // ACM with line coding and state, and break.
                        vec![0x02, 0x06],
                        // Union of 0 (controlling) and 1.
                        vec![0x06, 0, 1],
                    ],
                    endpoints: vec![Endpoint {
                        address: 0x81,
                        attributes: 3,
                        packet_size: 16,
                        interval,
                    }],
                },
                Interface {
                    number: 1,
                    class: [10, 0, 0],
                    functional: vec![],
                    endpoints: vec![
                        Endpoint {
                            address: 0x82,
                            attributes: 2,
                            packet_size,
                            interval: 0,
                        },
                        Endpoint {
                            address: 0x03,
                            attributes: 2,
                            packet_size,
                            interval: 0,
                        },
                    ],
                },
            ]
        );
    }
}

#[test]
fn other_numbers() {
    let identity = Identity {
        interfaces: Interfaces {
            communications: 4,
            data: 2,
            notify: 15,
            bulk_in: 1,
            bulk_out: 1,
        },
        ..identity(Speed::High)
    };
    identity.check().unwrap();
    let interfaces = parse(&identity.descriptor(0x0200).unwrap(), 2);
    assert_eq!((interfaces[0].number, interfaces[1].number), (4, 2));
    assert_eq!(interfaces[0].functional[1], [0x01, 0x00, 2]);
    assert_eq!(interfaces[0].functional[3], [0x06, 4, 2]);
    assert_eq!(interfaces[0].endpoints[0].address, 0x8f);
    assert_eq!(interfaces[1].endpoints[0].address, 0x81);
    assert_eq!(interfaces[1].endpoints[1].address, 0x01);
}

#[test]
fn qualifier_only_at_high_speed() {
    let high = identity(Speed::High);
    let qualifier = high.descriptor(0x0600).unwrap();
    assert_eq!(qualifier, [10, 6, 0x00, 0x02, 2, 0, 0, 64, 1, 0]);
    let other = parse(&high.descriptor(0x0700).unwrap(), 7);
    assert_eq!(other[1].endpoints[0].packet_size, 64);
    assert_eq!(other[0].endpoints[0].interval, 32);
    let full = identity(Speed::Full);
    assert_eq!(full.descriptor(0x0600), None);
    assert_eq!(full.descriptor(0x0700), None);
}

#[test]
fn what_does_not_exist() {
    let identity = identity(Speed::High);
    for value in [0x0101, 0x0201, 0x0304, 0x03ee, 0x0400, 0x0f00, 0x2100] {
        assert_eq!(identity.descriptor(value), None, "{value:#06x}");
    }
}

#[test]
fn without_a_serial_number() {
    let identity = Identity {
        serial: String::new(),
        ..identity(Speed::High)
    };
    assert_eq!(identity.descriptor(0x0100).unwrap()[16], 0, "iSerialNumber");
    assert_eq!(identity.descriptor(0x0303), None);
}

#[test]
fn bad_identities_are_refused() {
    let with = |serial: &str, interfaces| Identity {
        serial: serial.to_owned(),
        interfaces,
        ..identity(Speed::High)
    };
    let good = Interfaces::default();
    assert_eq!(with(&"s".repeat(126), good).check(), Ok(()));
    assert!(with(&"s".repeat(127), good).check().is_err());
    assert!(with("a\nb", good).check().is_err());
    let bad = [
        Interfaces { data: 0, ..good },
        Interfaces { notify: 2, ..good },
        Interfaces { notify: 0, ..good },
        Interfaces {
            bulk_in: 16,
            ..good
        },
        Interfaces {
            bulk_out: 0,
            ..good
        },
    ];
    for interfaces in bad {
        assert!(with("s", interfaces).check().is_err(), "{interfaces:?}");
    }
}

#[test]
fn descriptors_as_a_test_wants_them() {
    let own = identity(Speed::High);
    let mut configuration = own.descriptor(0x0200).unwrap();
    configuration[5] = 7;
    // A vendor's class and an odd packet size, and bytes that are no descriptor behind the last.
    configuration[44 + 5] = 0xff;
    configuration[53 + 4] = 0xff;
    configuration.extend([200, 4, 1]);
    let strings = BTreeMap::from([(3, Bytes(vec![1, 2, 3])), (9, Bytes(Vec::new()))]);
    let raw = Identity {
        raw: Raw {
            device: Some(Bytes(vec![
                18, 1, 0, 2, 0, 0, 0, 64, 0x34, 0x12, 0x78, 0x56,
            ])),
            configuration: Some(Bytes(configuration.clone())),
            strings,
        },
        ..own.clone()
    };
    assert_eq!(raw.descriptor(0x0100).map(|device| device.len()), Some(12));
    assert_eq!(raw.descriptor(0x0200), Some(configuration));
    assert_eq!(raw.descriptor(0x0303), Some(vec![1, 2, 3]));
    assert_eq!(raw.descriptor(0x0309), Some(Vec::new()));
    assert_eq!(raw.descriptor(0x0302), own.descriptor(0x0302));
    assert_eq!(raw.ids(), (0x1234, 0x5678));
    assert!(raw.is_raw() && !own.is_raw());
    assert!([0, 7].into_iter().all(|value| raw.has_configuration(value)));
    assert!(!raw.has_configuration(1) && own.has_configuration(1));

    // What a front end tells of apart is what the descriptors say.
    assert_eq!(own.interface_list(), [(0, 2, 2, 1), (1, 10, 0, 0)]);
    assert_eq!(raw.interface_list(), [(0, 2, 2, 1), (1, 255, 0, 0)]);
    let mut endpoints = own.endpoints();
    assert_eq!(endpoints[1], (1, 0x82, 2, 512, 0));
    endpoints[1].3 = 767;
    assert_eq!(raw.endpoints(), endpoints);
}
