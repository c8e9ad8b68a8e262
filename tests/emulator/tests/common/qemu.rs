// SPDX-License-Identifier: GPL-2.0
//! The other end of a usbredir connection, as QEMU plays it: over bytes that a test carries, or
//! over a socket.

use std::collections::VecDeque;
use std::io::{Read, Write};

use alpharng_emu::usbredir::{Capabilities, Codec, Message, Packet, Status};

/// What QEMU 7.2 announces: everything but bulk streams.
pub const QEMU: Capabilities = Capabilities(0xfe);

/// The emulator's own capabilities: QEMU's but for buffered bulk input.
pub const EMULATOR: Capabilities = Capabilities(0x7e);

/// Turns bytes into packets and back.
pub struct Wire {
    codec: Codec,
    own: Capabilities,
    input: Vec<u8>,
    packets: VecDeque<Message>,
}

impl Wire {
    /// One end with these capabilities.
    pub fn new(own: Capabilities) -> Self {
        Self {
            codec: Codec::default(),
            own,
            input: Vec::new(),
            packets: VecDeque::new(),
        }
    }

    /// The bytes of this end's HELLO.
    pub fn hello(&self) -> Vec<u8> {
        self.encode(
            0,
            Packet::Hello {
                version: "a test".to_owned(),
                capabilities: self.own,
            },
        )
    }

    /// The bytes of a packet.
    pub fn encode(&self, id: u64, packet: Packet) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.codec.encode(&Message { id, packet }, &mut bytes);
        bytes
    }

    /// Bytes came.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some((message, length)) = self.codec.decode(&self.input).unwrap() {
            self.input.drain(..length);
            if let Packet::Hello { capabilities, .. } = message.packet {
                self.codec = Codec::new(self.own.common(capabilities));
            }
            self.packets.push_back(message);
        }
    }

    /// The next packet that came.
    pub fn next(&mut self) -> Option<Message> {
        self.packets.pop_front()
    }
}

/// A control packet of a request.
pub fn control(request_type: u8, request: u8, value: u16, index: u16, length: u16) -> Packet {
    Packet::Control {
        endpoint: request_type & 0x80,
        request,
        request_type,
        status: Status::Success,
        value,
        index,
        length,
        data: Vec::new(),
    }
}

/// A bulk packet that reads.
pub fn read(endpoint: u8, length: u32) -> Packet {
    Packet::Bulk {
        endpoint,
        status: Status::Success,
        length,
        stream: 0,
        data: Vec::new(),
    }
}

/// A bulk packet that writes.
pub fn write(endpoint: u8, data: &[u8]) -> Packet {
    Packet::Bulk {
        endpoint,
        status: Status::Success,
        length: data.len() as u32,
        stream: 0,
        data: data.to_vec(),
    }
}

/// QEMU over a socket.
pub struct Qemu<S> {
    stream: S,
    wire: Wire,
    id: u64,
}

impl<S: Read + Write> Qemu<S> {
    /// Says HELLO and waits for the other end's.
    pub fn new(mut stream: S) -> Self {
        let wire = Wire::new(QEMU);
        stream.write_all(&wire.hello()).unwrap();
        let mut qemu = Self {
            stream,
            wire,
            id: 0,
        };
        assert!(matches!(qemu.next().packet, Packet::Hello { .. }));
        qemu
    }

    /// The next packet. Waits for it.
    pub fn next(&mut self) -> Message {
        let mut buffer = [0; 65536];
        loop {
            if let Some(message) = self.wire.next() {
                return message;
            }
            let length = self.stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the emulator has closed the connection");
            self.wire.receive(&buffer[..length]);
        }
    }

    /// Sends a packet and returns its id.
    pub fn send(&mut self, packet: Packet) -> u64 {
        self.id += 1;
        let bytes = self.wire.encode(self.id, packet);
        self.stream.write_all(&bytes).unwrap();
        self.id
    }

    /// Waits for the unit, and configures it. Returns vendor and product.
    pub fn attach(&mut self) -> (u16, u16) {
        let ids = loop {
            if let Packet::DeviceConnect {
                vendor_id,
                product_id,
                ..
            } = self.next().packet
            {
                break (vendor_id, product_id);
            }
        };
        let id = self.send(Packet::SetConfiguration { configuration: 1 });
        loop {
            let message = self.next();
            if let Packet::ConfigurationStatus { status, .. } = message.packet {
                assert_eq!((message.id, status), (id, Status::Success));
                return ids;
            }
        }
    }

    /// Waits for the end of a bulk transfer. Nothing else may come before.
    pub fn bulk(&mut self, id: u64) -> (Status, Vec<u8>) {
        let message = self.next();
        assert_eq!(message.id, id);
        match message.packet {
            Packet::Bulk { status, data, .. } => (status, data),
            other => panic!("{other:?} came instead of a bulk packet"),
        }
    }

    /// Sends a command and reads the answer.
    pub fn ask(&mut self, command: u8) -> Vec<u8> {
        let written = self.send(write(0x03, &[command]));
        let read = self.send(read(0x82, 16384));
        assert_eq!(self.bulk(written).0, Status::Success);
        let (status, data) = self.bulk(read);
        assert_eq!(status, Status::Success);
        data
    }
}
