// SPDX-License-Identifier: GPL-2.0
//! The usbredir codec: against bytes written by hand from the protocol's description, and against
//! itself with anything that can be thought of.

use alpharng_emu::usbredir::{
    Capabilities, Codec, DecodeError, EndpointInfo, InterfaceInfo, Message, Packet, Status,
};
use proptest::array::uniform32;
use proptest::collection::vec;
use proptest::prelude::*;

/// What QEMU and the emulator agree on.
const USUAL: Capabilities = Capabilities::CONNECT_DEVICE_VERSION
    .with(Capabilities::EP_INFO_MAX_PACKET_SIZE)
    .with(Capabilities::IDS_64BITS)
    .with(Capabilities::BULK_LENGTH_32BITS);

fn encode(common: Capabilities, id: u64, packet: Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    Codec::new(common).encode(&Message { id, packet }, &mut bytes);
    bytes
}

/// Bytes from hexadecimal digits with blanks.
fn bytes(digits: &str) -> Vec<u8> {
    hex::decode(digits.replace([' ', '\n'], "")).unwrap()
}

/// The packet must become these bytes, and they the packet.
#[track_caller]
fn same(common: Capabilities, id: u64, packet: Packet, digits: &str) {
    let expected = bytes(digits);
    assert_eq!(
        hex::encode(encode(common, id, packet.clone())),
        hex::encode(&expected)
    );
    let decoded = Codec::new(common).decode(&expected).unwrap();
    assert_eq!(decoded, Some((Message { id, packet }, expected.len())));
}

#[test]
fn hello_has_the_short_header() {
    let text = "61 62 63".to_owned() + &"00".repeat(61);
    let packet = Packet::Hello {
        version: "abc".to_owned(),
        capabilities: Capabilities(0x7a),
    };
    // Type 0, length 68, id 0 in 32 bits, whatever the peers agree on.
    let digits = format!("00000000 44000000 00000000 {text} 7a000000");
    same(USUAL, 0, packet.clone(), &digits);
    same(Capabilities::default(), 0, packet, &digits);
}

#[test]
fn hello_of_other_lengths() {
    // Without capabilities.
    let short = format!("00000000 40000000 00000000 {}", "41".repeat(64));
    let (message, length) = Codec::default().decode(&bytes(&short)).unwrap().unwrap();
    assert_eq!(length, 76);
    assert_eq!(
        message.packet,
        Packet::Hello {
            version: "A".repeat(64),
            capabilities: Capabilities(0)
        }
    );
    // With a second word of them.
    let long = format!(
        "00000000 48000000 00000000 {} 01000000 ffffffff",
        "00".repeat(64)
    );
    let (message, length) = Codec::default().decode(&bytes(&long)).unwrap().unwrap();
    assert_eq!(length, 84);
    assert_eq!(
        message.packet,
        Packet::Hello {
            version: String::new(),
            capabilities: Capabilities::BULK_STREAMS
        }
    );
}

#[test]
fn device_connect_with_and_without_a_version() {
    let packet = |version_bcd| Packet::DeviceConnect {
        speed: 2,
        class: 2,
        subclass: 0,
        protocol: 1,
        vendor_id: 0x1fc9,
        product_id: 0x8111,
        version_bcd,
    };
    same(
        USUAL,
        0,
        packet(0x0100),
        "01000000 0a000000 0000000000000000 02020001 c91f 1181 0001",
    );
    same(
        Capabilities::default(),
        0,
        packet(0),
        "01000000 08000000 00000000 02020001 c91f 1181",
    );
}

#[test]
fn control_request() {
    same(
        USUAL,
        0x1122334455667788,
        Packet::Control {
            endpoint: 0x80,
            request: 6,
            request_type: 0x80,
            status: Status::Success,
            value: 0x0100,
            index: 0,
            length: 18,
            data: Vec::new(),
        },
        "64000000 0a000000 8877665544332211 80 06 80 00 0001 0000 1200",
    );
}

#[test]
fn bulk_lengths_have_16_or_32_bits() {
    let packet = |length| Packet::Bulk {
        endpoint: 0x82,
        status: Status::Stall,
        length,
        stream: 0,
        data: Vec::new(),
    };
    same(
        USUAL,
        5,
        packet(0x0001_0203),
        "65000000 0a000000 0500000000000000 82 04 0302 00000000 0100",
    );
    same(
        Capabilities::default(),
        5,
        packet(0x0203),
        "65000000 08000000 05000000 82 04 0302 00000000",
    );
    let data = Packet::Bulk {
        endpoint: 3,
        status: Status::Success,
        length: 2,
        stream: 7,
        data: vec![0x78, 0x31],
    };
    same(
        USUAL,
        5,
        data,
        "65000000 0c000000 0500000000000000 03 00 0200 07000000 0000 7831",
    );
}

#[test]
fn endpoint_table() {
    let mut endpoints = Box::new([EndpointInfo::NONE; 32]);
    // Address 0x82 is slot 18, address 0x03 slot 3.
    for (address, kind) in [(0x82, 2), (0x03, 2)] {
        endpoints[EndpointInfo::slot(address)] = EndpointInfo {
            transfer_type: kind,
            interval: 1,
            interface: 4,
            max_packet_size: 0x0200,
        };
    }
    let row = |empty: &str, full: &str| {
        let mut row = vec![empty.to_owned(); 32];
        row[3] = full.to_owned();
        row[18] = full.to_owned();
        row.concat()
    };
    let three = [row("ff", "02"), row("00", "01"), row("00", "04")].concat();
    same(
        USUAL,
        0,
        Packet::EpInfo(endpoints.clone()),
        &format!(
            "05000000 a0000000 0000000000000000 {three} {}",
            row("0000", "0002")
        ),
    );
    let with_streams = encode(
        USUAL.with(Capabilities::BULK_STREAMS),
        0,
        Packet::EpInfo(endpoints),
    );
    assert_eq!(with_streams.len(), 16 + 160 + 128);
}

#[test]
fn interface_table() {
    let interface = InterfaceInfo {
        number: 9,
        class: 10,
        subclass: 11,
        protocol: 12,
    };
    let zeros = "00".repeat(31);
    same(
        USUAL,
        0,
        Packet::InterfaceInfo(vec![interface]),
        &format!(
            "04000000 84000000 0000000000000000 01000000 09{zeros} 0a{zeros} 0b{zeros} 0c{zeros}"
        ),
    );
}

#[test]
fn small_packets() {
    let endpoint = 0x81;
    let status = Status::Babble;
    let cases = [
        (Packet::DeviceDisconnect, "02000000 00000000"),
        (Packet::Reset, "03000000 00000000"),
        (
            Packet::SetConfiguration { configuration: 1 },
            "06000000 01000000",
        ),
        (Packet::GetConfiguration, "07000000 00000000"),
        (
            Packet::ConfigurationStatus {
                status,
                configuration: 1,
            },
            "08000000 02000000",
        ),
        (
            Packet::SetAltSetting {
                interface: 1,
                alt: 2,
            },
            "09000000 02000000",
        ),
        (Packet::GetAltSetting { interface: 1 }, "0a000000 01000000"),
        (
            Packet::AltSettingStatus {
                status,
                interface: 1,
                alt: 2,
            },
            "0b000000 03000000",
        ),
        (Packet::StopIsoStream { endpoint }, "0d000000 01000000"),
        (
            Packet::IsoStreamStatus { status, endpoint },
            "0e000000 02000000",
        ),
        (
            Packet::StartInterruptReceiving { endpoint },
            "0f000000 01000000",
        ),
        (
            Packet::StopInterruptReceiving { endpoint },
            "10000000 01000000",
        ),
        (
            Packet::InterruptReceivingStatus { status, endpoint },
            "11000000 02000000",
        ),
        (Packet::CancelDataPacket, "15000000 00000000"),
        (Packet::FilterReject, "16000000 00000000"),
        (Packet::DeviceDisconnectAck, "18000000 00000000"),
    ];
    let bodies = [
        "", "", "01", "", "06 01", "01 02", "01", "06 01 02", "81", "06 81", "81", "81", "06 81",
        "", "", "",
    ];
    for ((packet, head), body) in cases.into_iter().zip(bodies) {
        same(USUAL, 3, packet, &format!("{head} 0300000000000000 {body}"));
    }
}

#[test]
fn what_can_never_become_a_packet_is_refused_at_once() {
    let decode = |digits: &str| Codec::new(USUAL).decode(&bytes(digits));
    // Only the first eight bytes are there.
    assert_eq!(decode("63000000 00000000"), Err(DecodeError::Type(99)));
    assert_eq!(
        decode("06000000 02000000"),
        Err(DecodeError::Length { kind: 6, length: 2 })
    );
    assert_eq!(
        decode("65000000 09000000"),
        Err(DecodeError::Length {
            kind: 101,
            length: 9
        })
    );
    assert_eq!(
        decode("65000000 ffffffff"),
        Err(DecodeError::Length {
            kind: 101,
            length: u32::MAX
        })
    );
    // A bulk packet that states 3 bytes and brings 2.
    assert_eq!(
        decode("65000000 0c000000 0500000000000000 03 00 0300 00000000 0000 7831"),
        Err(DecodeError::DataLength {
            kind: 101,
            stated: 3,
            actual: 2
        })
    );
    // 33 interfaces.
    let table = "00".repeat(128);
    assert_eq!(
        decode(&format!(
            "04000000 84000000 0000000000000000 21000000 {table}"
        )),
        Err(DecodeError::Interfaces(33))
    );
    for error in [
        DecodeError::Type(99),
        DecodeError::Interfaces(33),
        DecodeError::Length { kind: 6, length: 2 },
    ] {
        assert!(!error.to_string().contains('\n'));
    }
}

/// Any status.
fn statuses() -> impl Strategy<Value = Status> {
    (0u8..7).prop_map(Status::from_wire)
}

/// Any packet that peers with `common` can exchange.
fn packets(common: Capabilities) -> impl Strategy<Value = Packet> {
    let bulk_limit: u32 = if common.has(Capabilities::BULK_LENGTH_32BITS) {
        300_000
    } else {
        0xffff
    };
    let has_version = common.has(Capabilities::CONNECT_DEVICE_VERSION);
    let has_size = common.has(Capabilities::EP_INFO_MAX_PACKET_SIZE);
    let interface =
        any::<[u8; 4]>().prop_map(|[number, class, subclass, protocol]| InterfaceInfo {
            number,
            class,
            subclass,
            protocol,
        });
    let endpoint = (any::<[u8; 3]>(), any::<u16>()).prop_map(move |(fields, size)| EndpointInfo {
        transfer_type: fields[0],
        interval: fields[1],
        interface: fields[2],
        max_packet_size: if has_size { size } else { 0 },
    });
    // Data as long as the length field states, or none.
    let data = (any::<u16>(), any::<bool>()).prop_map(|(length, there)| {
        (
            length,
            if there {
                vec![0x5a; length.into()]
            } else {
                Vec::new()
            },
        )
    });
    let first = prop_oneof![
        ("[ -~]{0,63}", any::<u32>()).prop_map(|(version, capabilities)| Packet::Hello {
            version,
            capabilities: Capabilities(capabilities)
        }),
        (any::<[u8; 4]>(), any::<[u16; 3]>()).prop_map(move |(bytes, words)| {
            Packet::DeviceConnect {
                speed: bytes[0],
                class: bytes[1],
                subclass: bytes[2],
                protocol: bytes[3],
                vendor_id: words[0],
                product_id: words[1],
                version_bcd: if has_version { words[2] } else { 0 },
            }
        }),
        vec(interface, 0..=32).prop_map(Packet::InterfaceInfo),
        uniform32(endpoint).prop_map(|endpoints| Packet::EpInfo(Box::new(endpoints))),
        any::<u8>().prop_map(|configuration| Packet::SetConfiguration { configuration }),
        (statuses(), any::<u8>()).prop_map(|(status, configuration)| {
            Packet::ConfigurationStatus {
                status,
                configuration,
            }
        }),
        any::<[u8; 2]>().prop_map(|[interface, alt]| Packet::SetAltSetting { interface, alt }),
        (statuses(), any::<[u8; 2]>()).prop_map(|(status, [interface, alt])| {
            Packet::AltSettingStatus {
                status,
                interface,
                alt,
            }
        }),
        any::<[u8; 3]>().prop_map(|[endpoint, packets_per_urb, urbs]| Packet::StartIsoStream {
            endpoint,
            packets_per_urb,
            urbs
        }),
        Just(Packet::CancelDataPacket),
        Just(Packet::DeviceDisconnect),
    ];
    let second = prop_oneof![
        any::<[u32; 2]>()
            .prop_map(|[endpoints, streams]| Packet::AllocBulkStreams { endpoints, streams }),
        any::<u32>().prop_map(|endpoints| Packet::FreeBulkStreams { endpoints }),
        (any::<[u32; 2]>(), statuses()).prop_map(|([endpoints, streams], status)| {
            Packet::BulkStreamsStatus {
                endpoints,
                streams,
                status,
            }
        }),
        vec(any::<u8>(), 0..40).prop_map(Packet::FilterFilter),
        (any::<[u32; 2]>(), any::<[u8; 2]>()).prop_map(
            |([stream, bytes_per_transfer], [endpoint, transfers])| Packet::StartBulkReceiving {
                stream,
                bytes_per_transfer,
                endpoint,
                transfers
            }
        ),
        (any::<u32>(), any::<u8>())
            .prop_map(|(stream, endpoint)| Packet::StopBulkReceiving { stream, endpoint }),
        (any::<u32>(), any::<u8>(), statuses()).prop_map(|(stream, endpoint, status)| {
            Packet::BulkReceivingStatus {
                stream,
                endpoint,
                status,
            }
        }),
        (
            any::<[u8; 3]>(),
            any::<[u16; 2]>(),
            statuses(),
            data.clone()
        )
            .prop_map(|(bytes, words, status, (length, data))| Packet::Control {
                endpoint: bytes[0],
                request: bytes[1],
                request_type: bytes[2],
                status,
                value: words[0],
                index: words[1],
                length,
                data
            }),
        (
            any::<u8>(),
            statuses(),
            0..=bulk_limit,
            any::<u32>(),
            any::<bool>()
        )
            .prop_map(|(endpoint, status, length, stream, there)| Packet::Bulk {
                endpoint,
                status,
                length,
                stream,
                data: if there {
                    vec![0xa5; length as usize]
                } else {
                    Vec::new()
                }
            }),
        (any::<u8>(), statuses(), data.clone(), any::<bool>()).prop_map(
            |(endpoint, status, (length, data), iso)| if iso {
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
        ),
        (any::<u32>(), any::<u8>(), statuses(), data).prop_map(
            |(stream, endpoint, status, (length, data))| Packet::BufferedBulk {
                stream,
                length: length.into(),
                endpoint,
                status,
                data
            }
        ),
    ];
    prop_oneof![first, second]
}

/// Any capabilities, and a message between peers that have them in common.
fn messages() -> impl Strategy<Value = (Capabilities, Message)> {
    (0u32..256).prop_flat_map(|bits| {
        let common = Capabilities(bits);
        (packets(common), any::<u64>()).prop_map(move |(packet, id)| {
            let short =
                matches!(packet, Packet::Hello { .. }) || !common.has(Capabilities::IDS_64BITS);
            let id = if short { id & 0xffff_ffff } else { id };
            (common, Message { id, packet })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written is read back, whatever follows it.
    #[test]
    fn round_trip((common, message) in messages(), tail in vec(any::<u8>(), 0..20)) {
        let codec = Codec::new(common);
        let mut bytes = Vec::new();
        codec.encode(&message, &mut bytes);
        let length = bytes.len();
        bytes.extend(tail);
        prop_assert_eq!(codec.decode(&bytes), Ok(Some((message, length))));
    }

    /// A packet whose end is missing is waited for.
    #[test]
    fn truncated((common, message) in messages(), part in 0.0..1.0f64) {
        let codec = Codec::new(common);
        let mut bytes = Vec::new();
        codec.encode(&message, &mut bytes);
        bytes.truncate((bytes.len() as f64 * part) as usize);
        prop_assert_eq!(codec.decode(&bytes), Ok(None));
    }

    /// Garbage is refused, waited for or understood; it never breaks anything.
    #[test]
    fn garbage(bits in any::<u32>(), bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(Some((_, length))) = Codec::new(Capabilities(bits)).decode(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }

    /// The same with garbage that begins like a packet.
    #[test]
    fn likely_garbage(kind in 0u32..110, length in 0u32..200, bytes in vec(any::<u8>(), 0..300)) {
        let mut packet = kind.to_le_bytes().to_vec();
        packet.extend(length.to_le_bytes());
        packet.extend(bytes);
        if let Ok(Some((message, used))) = Codec::new(USUAL).decode(&packet) {
            prop_assert!(used <= packet.len());
            // What was understood can be said again; the text of a HELLO may lose what is no text.
            let mut again = Vec::new();
            Codec::new(USUAL).encode(&message, &mut again);
            let (second, used) = Codec::new(USUAL).decode(&again).unwrap().unwrap();
            prop_assert_eq!(used, again.len());
            if !matches!(message.packet, Packet::Hello { .. }) {
                prop_assert_eq!(second, message);
            }
        }
    }
}
