// SPDX-License-Identifier: GPL-2.0
//! What several test files need: a unit with usual options, and a host that talks to it.

#![allow(dead_code, reason = "no test file needs all of it")]

pub mod qemu;

use std::time::Duration;

use alpharng_emu::descriptors::{Identity, Interfaces, Raw, Speed};
use alpharng_emu::device::{Completion, Device, Event, Options, Outcome, Output, Setup, Transfer};
use alpharng_emu::stream::SourceSpec;

/// The seed of the units below.
pub const SEED: u64 = 99;

/// A unit's options: seeded, high speed, nothing unusual.
pub fn options() -> Options {
    Options {
        identity: Identity {
            vendor_id: 0x1fc9,
            product_id: 0x8111,
            serial: "T1".to_owned(),
            speed: Speed::High,
            interfaces: Interfaces::default(),
            raw: Raw::default(),
        },
        source: SourceSpec::Seeded { seed: SEED },
        rate: 0,
        split: Vec::new(),
        leftover: 0,
        interrupts: 0,
        queue: 16,
    }
}

/// A point in time.
pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A host with one unit. Time passes only when a test says so.
pub struct Host {
    /// The unit.
    pub device: Device,
    /// The time.
    pub now: Duration,
    /// The id of the next transfer.
    pub id: u64,
    /// Transfers that have ended, oldest first.
    pub done: Vec<Completion>,
    /// Notifications.
    pub notifications: Vec<Vec<u8>>,
    /// What the log would tell.
    pub events: Vec<Event>,
    /// How many times the unit has gone.
    pub unplugged: usize,
}

impl Host {
    /// A host whose unit is not plugged in.
    pub fn without_device(options: Options) -> Self {
        Self {
            device: Device::new(options).unwrap(),
            now: Duration::ZERO,
            id: 1,
            done: Vec::new(),
            notifications: Vec::new(),
            events: Vec::new(),
            unplugged: 0,
        }
    }

    /// A host that has plugged the unit in and configured it.
    pub fn new(options: Options) -> Self {
        let mut host = Self::without_device(options);
        host.plug();
        host
    }

    /// Plugs the unit in and configures it.
    pub fn plug(&mut self) {
        self.device.plug(self.now);
        let completion = self.control(Setup::set_configuration(1), &[]);
        assert_eq!(completion.outcome, Outcome::Success);
    }

    /// Collects what the unit has done.
    pub fn collect(&mut self) {
        while let Some(output) = self.device.output() {
            match output {
                Output::Complete(completion) => self.done.push(completion),
                Output::Interrupt(data) => self.notifications.push(data),
                Output::Unplugged => self.unplugged += 1,
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// Submits a transfer and returns its id.
    pub fn submit(&mut self, transfer: Transfer) -> u64 {
        let id = self.id;
        self.id += 1;
        self.device.submit(self.now, id, transfer);
        self.collect();
        id
    }

    /// Submits a read of so many bytes and returns its id.
    pub fn read(&mut self, length: usize) -> u64 {
        let address = self.device.identity().interfaces.in_address();
        self.submit(Transfer::In(address, length))
    }

    /// Submits a write and returns its id.
    pub fn write(&mut self, data: &[u8]) -> u64 {
        let address = self.device.identity().interfaces.out_address();
        self.submit(Transfer::Out(address, data.to_vec()))
    }

    /// The end of a transfer, if it has one.
    pub fn end(&mut self, id: u64) -> Option<Completion> {
        let mut ends = self.done.iter().filter(|completion| completion.id == id);
        let end = ends.next().cloned();
        assert!(ends.next().is_none(), "transfer {id} ended twice");
        end
    }

    /// The end of a transfer that must have one.
    #[track_caller]
    pub fn ended(&mut self, id: u64) -> Completion {
        self.end(id).expect("the transfer has not ended")
    }

    /// Does a control transfer that ends at once.
    #[track_caller]
    pub fn control(&mut self, setup: Setup, data: &[u8]) -> Completion {
        let id = self.submit(Transfer::Control(setup, data.to_vec()));
        self.ended(id)
    }

    /// Reads, with an end at once.
    #[track_caller]
    pub fn read_now(&mut self, length: usize) -> Completion {
        let id = self.read(length);
        self.ended(id)
    }

    /// Writes, with success at once.
    #[track_caller]
    pub fn write_now(&mut self, data: &[u8]) {
        let id = self.write(data);
        let completion = self.ended(id);
        assert_eq!(completion.outcome, Outcome::Success);
        assert_eq!(completion.length, data.len());
    }

    /// Sends a command and reads the whole answer in one transfer.
    #[track_caller]
    pub fn ask(&mut self, command: u8) -> Vec<u8> {
        self.write_now(&[command]);
        let completion = self.read_now(16384);
        assert_eq!(completion.outcome, Outcome::Success);
        assert_eq!(completion.length, completion.data.len());
        completion.data
    }

    /// Cancels a transfer.
    pub fn cancel(&mut self, id: u64) {
        self.device.cancel(self.now, id);
        self.collect();
    }

    /// Lets time pass, with the unit woken up when it wants to be.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.device.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.device.poll(self.now);
            self.collect();
            let next = self.device.deadline();
            assert!(next.is_none_or(|next| next > self.now), "time stands still");
        }
        self.now = end;
        self.device.poll(end);
        self.collect();
    }

    /// Clears an endpoint's halt.
    #[track_caller]
    pub fn clear_halt(&mut self, address: u8) {
        let setup = Setup {
            request_type: 0x02,
            request: 1,
            value: 0,
            index: address.into(),
            length: 0,
        };
        assert_eq!(self.control(setup, &[]).outcome, Outcome::Success);
    }
}
