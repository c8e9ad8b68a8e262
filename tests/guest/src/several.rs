// SPDX-License-Identifier: GPL-2.0

//! Several devices: those in reserve, which take over from one that goes, fails or is stopped, and
//! those that are used at once.

use crate::{
    health::{
        line,
        HEALTH,
        STARTUP_TEST,
        STOPPED, //
    },
    hwrng::{
        ended,
        is_listed,
        read_hwrng, //
    },
    support::{
        guest::{
            GIVEN_UP,
            GIVING_UP, //
        },
        info::{
            read_text,
            NO_DEVICE, //
        },
        node::MAX_READ,
        tests,
        tty::Tty,
        wait::wait_until_within,
        wait_until,
        Background,
        Guest,
        Info,
        Node,
        Stream,
        Test,
        UsbDevice,
        BLOCK,
        PATIENCE, //
    },
};
use alpharng_emu::{
    fault::{
        At,
        Fault,
        Kind, //
    },
    stream::{
        block,
        Command, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::fs;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    unplugged_in_a_read_the_next_goes_on,
    unplugged_under_a_sleeping_reader_the_next_goes_on,
    unplugged_when_the_next_is_in_use_elsewhere_is_enodev,
    given_up_the_next_goes_on,
    stopped_the_next_goes_on,
    one_that_was_given_up_is_tried_again_when_there_is_no_other,
    as_many_are_used_as_the_parameter_says,
    blocks_of_all_are_delivered_and_each_once,
    one_that_goes_leaves_the_others_undisturbed,
    one_that_is_stopped_leaves_the_others_undisturbed,
    root_s_start_up_test_is_for_all,
    proc_has_a_paragraph_for_each,
    unloaded_while_hwrng_is_read_none_waits_for_the_reserve,
];

/// The devices of a test.
struct Devices {
    /// Each of them, by its number in the emulator.
    all: Vec<UsbDevice>,
    /// The seed of the first; each has the next.
    seed: u64,
}

impl Devices {
    /// Plugs `count` devices in and loads the module.
    fn start(guest: &mut Guest, count: usize, parameters: &[&str]) -> Result<(Self, Node)> {
        let all: Result<_> = (0..count).map(|k| guest.plug_device(k)).collect();
        guest.load(parameters)?;
        let this = Self {
            all: all?,
            seed: guest.seed,
        };
        Ok((this, Node::open()?))
    }

    /// The numbers of those in use.
    fn used(&self) -> Vec<usize> {
        let numbers = 0..self.all.len();
        numbers.filter(|k| self.all[*k].is_in_use()).collect()
    }

    /// The numbers of the one in use and of the first other.
    fn one_and_other(&self) -> Result<(usize, usize)> {
        let used = self.used();
        ensure!(used.len() == 1, "in use: {used:?}");
        let other = (0..self.all.len()).find(|k| *k != used[0]);
        Ok((used[0], other.context("there is no other")?))
    }

    /// The stream that device `k` delivers first.
    fn stream(&self, k: usize) -> Stream {
        Stream::of(self.seed + k as u64)
    }

    /// Checks that `bytes` are of device `one` from the beginning to any point, and then of device
    /// `other` from the beginning on.
    fn expect_take_over(&self, bytes: &[u8], one: usize, other: usize) -> Result<()> {
        let first = self.stream(one).take(bytes.len());
        let same = bytes.iter().zip(&first).take_while(|(a, b)| a == b).count();
        ensure!(same < bytes.len(), "no byte is of the other device");
        // A byte behind the first device's last may be, by chance, what would have come next.
        let mut result = Ok(());
        for last in (same.saturating_sub(4)..=same).rev() {
            result = self.stream(other).expect(&bytes[last..]);
            if result.is_ok() {
                break;
            }
        }
        result.with_context(|| format!("behind {same} bytes of device {one}"))
    }

    /// The device that each whole block of `bytes` is of. Each has to be the one that comes next from
    /// that device, `next` tells which that is.
    fn origins(&self, bytes: &[u8], next: &mut [u64]) -> Result<Vec<usize>> {
        let expected = |k: usize, next: &[u64]| {
            block(self.seed + k as u64, Command::Entropy, next[k]).to_vec()
        };
        let mut heads: Vec<_> = (0..next.len()).map(|k| expected(k, next)).collect();
        let mut origins = Vec::new();
        for (piece, index) in bytes.chunks(BLOCK).zip(0..) {
            let k = heads.iter().position(|head| head.starts_with(piece));
            let k = k.with_context(|| format!("block {index} is no device's next: {next:?}"))?;
            if piece.len() == BLOCK {
                next[k] += 1;
                heads[k] = expected(k, next);
            }
            origins.push(k);
        }
        Ok(origins)
    }
}

/// Unplugged in the middle of an answer while somebody reads: no read fails, and what comes is the
/// next device's, from behind its start-up block on.
fn unplugged_in_a_read_the_next_goes_on(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &[])?;
    let (one, other) = devices.one_and_other()?;
    guest.device(one, |device| device.unplug_at(At::Block(20), 8000))?;
    let bytes = node.read_all(60 * BLOCK)?;
    devices.expect_take_over(&bytes, one, other)?;
    ensure!(devices.used() == [other]);
    Ok(())
}

/// Unplugged while a reader sleeps and another one polls: both get the next device's bytes.
fn unplugged_under_a_sleeping_reader_the_next_goes_on(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &[])?;
    let (one, other) = devices.one_and_other()?;
    guest.log.announce("no complete answer in time");
    guest.device(one, |device| {
        device.fault(Fault::at(9, Kind::Silent).count(0))
    })?;
    devices.stream(one).expect(&node.read_all(8 * BLOCK)?)?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read(1000))?;
    reader.wait_until_reading()?;
    let poller = node.clone();
    let poller = Background::start(move || poller.poll(PATIENCE))?;

    guest.device(one, |device| device.unplug())?;

    let bytes = reader.join()?.context("read(2)")?;
    devices.stream(other).expect(&bytes)?;
    let events = poller.join()??;
    ensure!(!events.contains(rustix::event::PollFlags::ERR));
    ensure!(events.contains(rustix::event::PollFlags::IN));
    Ok(())
}

/// A device that another program uses does not keep a reader waiting: there is none to be had. When the
/// program is done with it, it is used.
fn unplugged_when_the_next_is_in_use_elsewhere_is_enodev(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &[])?;
    let (one, other) = devices.one_and_other()?;
    let tty = Tty::open(&devices.all[other])?;
    node.read_all(BLOCK)?;
    let silent = guest.wait_until_idle(one)?.next_block;
    guest.log.announce("no complete answer in time");
    guest.device(one, |device| {
        device.fault(Fault::at(silent, Kind::Silent).count(0))
    })?;
    // All that is ready.
    node.read_all((usize::try_from(silent)? - 2) * BLOCK)?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read(1))?;
    reader.wait_until_reading()?;

    guest.device(one, |device| device.unplug())?;

    ensure!(reader.join()? == Err(Errno::NODEV));
    guest
        .log
        .wait_for("AlphaRNG is in use by another program")?;
    ensure!(devices.all[other].is_with_cdc_acm());
    drop(tty);
    wait_until("the other device to be in use", || {
        devices.all[other].is_in_use()
    })?;
    devices.stream(other).expect(&node.read_all(50_000)?)
}

/// A device that does not answer any more is given up, and the reader gets the next one's bytes.
fn given_up_the_next_goes_on(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &[])?;
    let (one, other) = devices.one_and_other()?;
    guest.log.announce("no complete answer in time");
    guest.log.announce(GIVEN_UP);
    guest.device(one, |device| {
        device.fault(Fault::at(20, Kind::Silent).count(0))
    })?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read_all(60 * BLOCK))?;
    wait_until_within(GIVING_UP, "the next device to be in use", || {
        devices.all[other].is_in_use()
    })?;
    devices.expect_take_over(&reader.join()??, one, other)?;
    // It stays where it is, to be tried again.
    ensure!(devices.used().len() == 2 && guest.log.count(GIVEN_UP) == 1);
    Ok(())
}

/// A device that a health test stops is no more used, and the reader gets the next one's bytes.
fn stopped_the_next_goes_on(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &[])?;
    let (one, other) = devices.one_and_other()?;
    guest.log.announce(STOPPED);
    guest.device(one, |device| {
        device.fault(Fault::at(20, Kind::Stuck { value: 7 }))
    })?;
    let bytes = node.read_all(60 * BLOCK)?;
    devices.expect_take_over(&bytes, one, other)?;
    ensure!(devices.used().len() == 2 && guest.log.count(STOPPED) == 1);
    // Asked nothing any more.
    let asked = guest
        .device(one, |device| device.status())?
        .commands
        .of(Command::Entropy);
    node.read_all(60 * BLOCK)?;
    ensure!(
        guest
            .device(one, |device| device.status())?
            .commands
            .of(Command::Entropy)
            == asked
    );
    Ok(())
}

/// A device that was given up, and whose substitute goes, is what is left: it is tried again.
fn one_that_was_given_up_is_tried_again_when_there_is_no_other(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &[])?;
    let (one, other) = devices.one_and_other()?;
    guest.log.announce("no complete answer in time");
    guest.log.announce(GIVEN_UP);
    guest.device(one, |device| {
        device.fault(Fault::at(5, Kind::Silent).count(0))
    })?;
    let reader = node.clone();
    let reader = Background::start(move || reader.read_all(20 * BLOCK))?;
    wait_until_within(GIVING_UP, "the next device to be in use", || {
        devices.all[other].is_in_use()
    })?;
    reader.join()??;

    guest.device(one, |device| device.clear_faults())?;
    guest.device(other, |device| device.unplug())?;
    wait_until("the other device to be gone", || {
        !devices.all[other].is_there()
    })?;
    let next = guest.device(one, |device| device.status())?.next_block;
    let bytes = node.read_all(50_000)?;
    // Behind what tells that the silence is over, and the start-up test.
    let found = (next..next + 3).any(|k| {
        let mut stream = Stream::from_block(devices.seed + one as u64, k);
        stream.expect(&bytes).is_ok()
    });
    ensure!(found, "the bytes are not the first device's");
    Ok(())
}

/// As many devices are used at once as `maxDevices` says; the rest stays with the stock driver, and is
/// used when one of them goes. At the end the stock driver gets them all back.
fn as_many_are_used_as_the_parameter_says(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 4, &["maxDevices=2"])?;
    let used = devices.used();
    ensure!(used.len() == 2, "in use: {used:?}");
    let is_idle = |k: &usize| devices.all[*k].is_with_cdc_acm();
    ensure!((0..4).filter(is_idle).count() == 2);
    guest.device(used[0], |device| device.unplug())?;
    wait_until("a third device to be in use", || {
        let now = devices.used();
        now.len() == 2 && !now.contains(&used[0])
    })?;
    node.read_all(100_000)?;
    drop(node);
    guest.unload()?;
    ensure!((0..4).filter(is_idle).count() == 3);

    guest.load(&["maxDevices=8"])?;
    ensure!(devices.used().len() == 3);
    // One that comes later is used as well.
    guest.plug_for_nobody(used[0])?;
    wait_until("the fourth to be in use", || devices.used().len() == 4)
}

/// The blocks of all devices come in turn: each block whole, each once, those of each device in their
/// order and without a gap, for large reads and for small ones.
fn blocks_of_all_are_delivered_and_each_once(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 4, &["maxDevices=4"])?;
    let mut next = [1; 4];
    let bytes = node.read_all(400 * BLOCK)?;
    let origins = devices.origins(&bytes, &mut next)?;
    let share = |k| origins.iter().filter(|origin| **origin == k).count();
    let shares = [0, 1, 2, 3].map(share);
    // None waits for the others; they are equally fast.
    ensure!(shares.iter().all(|share| *share > 20), "{shares:?}");

    let mut bytes = Vec::new();
    while bytes.len() < 20 * BLOCK {
        // No divisor of a block's length.
        bytes.extend(node.read_all(333.min(20 * BLOCK - bytes.len()))?);
    }
    devices.origins(&bytes, &mut next)?;
    Ok(())
}

/// When one of several goes, only what was ready from it is lost, and no read fails.
fn one_that_goes_leaves_the_others_undisturbed(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 3, &["maxDevices=3"])?;
    guest.device(1, |device| device.unplug_at(At::Block(10), 8000))?;
    // Whole blocks, so that the end of one of the device's is not cut off.
    let mut bytes = Vec::new();
    for _ in 0..200 {
        bytes.extend(node.read_all(BLOCK)?);
    }
    let mut next = [1; 3];
    devices.origins(&bytes, &mut next)?;
    ensure!(next[1] <= 10, "device 1 has delivered {} blocks", next[1]);
    ensure!(next[0] > 20 && next[2] > 20, "{next:?}");
    // The others may have been faster than the hub's driver.
    wait_until("the device to be gone", || devices.used() == [0, 2])
}

/// When a health test stops one of several, only what was ready from it is lost, and no read fails;
/// the kernel's core keeps the source.
fn one_that_is_stopped_leaves_the_others_undisturbed(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &["maxDevices=2"])?;
    guest.log.announce(STOPPED);
    guest.device(0, |device| {
        device.fault(Fault::at(10, Kind::Stuck { value: 7 }))
    })?;
    let mut bytes = Vec::new();
    for _ in 0..100 {
        bytes.extend(node.read_all(BLOCK)?);
    }
    let mut next = [1; 2];
    devices.origins(&bytes, &mut next)?;
    ensure!(next[0] <= 10 && next[1] > 20, "{next:?}");
    ensure!(guest.log.count(STOPPED) == 1);
    // In /proc those that work come first.
    ensure!(line("state")? == "healthy");
    ensure!(fs::read_to_string(HEALTH)?.contains("\nstate: stopped, "));
    Ok(())
}

/// The start-up test on demand throws away what is ready from all devices, and one block more of each.
fn root_s_start_up_test_is_for_all(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &["maxDevices=2"])?;
    let mut next = [0; 2];
    for (k, next) in next.iter_mut().enumerate() {
        *next = guest.wait_until_idle(k)?.next_block + 1;
    }
    fs::write(STARTUP_TEST, "1")?;
    let mut bytes = Vec::new();
    for _ in 0..50 {
        bytes.extend(node.read_all(BLOCK)?);
    }
    let before = next;
    devices.origins(&bytes, &mut next)?;
    ensure!(next.iter().zip(before).all(|(now, before)| *now > before));
    Ok(())
}

/// The files in /proc have a paragraph for each device, the first of which is as that of a single one.
fn proc_has_a_paragraph_for_each(guest: &mut Guest) -> Result<()> {
    let (devices, node) = Devices::start(guest, 2, &["maxDevices=2"])?;
    node.read_all(MAX_READ)?;
    let mut requests = Vec::new();
    for k in 0..2 {
        guest.wait_until_idle(k)?;
        requests.push(guest.device(k, |device| device.status())?.blocks);
    }
    let text = read_text()?;
    let paragraphs: Result<Vec<_>> = text
        .split_inclusive("\n\n")
        .map(|paragraph| Info::parse(&paragraph.replace("\n\n", "\n")))
        .collect();
    let mut shown: Vec<_> = paragraphs?.iter().map(|info| info.requests).collect();
    shown.sort_unstable();
    requests.sort_unstable();
    ensure!(shown == requests, "{text}");

    let text = fs::read_to_string(HEALTH)?;
    for device in &devices.all {
        let [bus, number] = ["busnum", "devnum"].map(|name| device.attribute(name));
        let line = format!(
            "state: healthy\ndevice: bus {:03} device {:03}\nmin_entropy: 6\n",
            bus.parse::<u32>()?,
            number.parse::<u32>()?
        );
        ensure!(text.contains(&line), "{HEALTH} lacks {line}in\n{text}");
    }
    for k in 0..2 {
        guest.device(k, |device| device.unplug())?;
        wait_until("the device to be gone", || !devices.all[k].is_there())?;
    }
    ensure!(read_text()? == NO_DEVICE);
    Ok(())
}

/// Unloading ends the readers of `/dev/hwrng`, who must not wait for the device in reserve.
fn unloaded_while_hwrng_is_read_none_waits_for_the_reserve(guest: &mut Guest) -> Result<()> {
    for k in 0..2 {
        guest.plug_device(k)?;
    }
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    let mut reader = read_hwrng()?;
    guest.unload()?;
    ended(&mut reader)
}
