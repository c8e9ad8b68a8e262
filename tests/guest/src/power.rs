// SPDX-License-Identifier: GPL-2.0

//! Suspending and resuming the machine, and resetting the device under its readers. Behind each of them
//! the source has to pass its start-up test again; then the stream goes on where it was, and no byte of it
//! comes twice.
//!
//! QEMU's xHCI controller forgets its state in every suspend, so a device there is always reset behind it
//! (`reset_resume` in the kernel's words); that it was is checked each time. Its EHCI controller does not.

use crate::{
    health::{
        line,
        number,
        wait_until_stopped,
        STARTUP_TEST,
        STOPPED, //
    },
    support::{
        guest::{
            serial,
            EHCI_DEVICE,
            GIVEN_UP, //
        },
        info::{
            self,
            NO_DEVICE, //
        },
        stream::blocks_of,
        suspend::Sleep,
        sys::{
            catch,
            signal_this_thread_after, //
        },
        tests,
        wait_until,
        Background,
        Guest,
        Info,
        Node,
        Stream,
        Test,
        UsbDevice,
        BLOCK, //
    },
};
use alpharng_emu::{
    control::{
        Configure,
        Op,
        Unplug, //
    },
    fault::{
        Fault,
        Kind, //
    },
    stream::{
        Command,
        SourceSpec, //
    },
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use rustix::{
    io::Errno,
    pipe::{
        PipeFlags,
        SpliceFlags, //
    },
    process::Signal, //
};
use std::{
    fs::{
        self,
        File, //
    },
    io::{
        self,
        Read as _, //
    },
    sync::{
        atomic::{
            AtomicBool,
            AtomicUsize,
            Ordering, //
        },
        Arc,
        OnceLock, //
    },
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    what_was_ready_is_delivered_and_the_next_block_is_not,
    a_reader_asleep_gets_all_that_it_asked_for,
    a_reader_that_never_stops_loses_nothing_but_what_was_under_way,
    suspended_to_ram_under_a_reader_that_never_stops,
    frozen_wherever_it_runs,
    frozen_does_not_save_from_a_signal,
    frozen_while_bytes_are_spliced,
    resumed_without_a_reset,
    suspended_to_ram_and_unplugged,
    suspended_before_the_start_up_test_is_through,
    unplugged_meanwhile,
    replaced_meanwhile,
    without_persistence_it_is_a_new_device,
    a_stopped_source_stays_stopped,
    a_device_that_was_given_up_is_tried_again,
    reset_under_readers,
];

/// Bytes per second of a device under a reader that never stops.
const RATE: u64 = 2_000_000;

/// When something happens to the device, in milliseconds behind the request to suspend the machine: the
/// devices are suspended by then, and for some seconds more.
const MEANWHILE: u64 = 3_000;

/// Most blocks that a suspend or a reset may cost: those of the two commands under way, the one that tells
/// that host and device are in step, and the start-up test's.
const MOST_MISSING: u64 = 4;

/// A thread that reads for ever, always as much as a read can return of it.
struct Endless {
    /// The thread. It returns all that it has read, or the error that ended it.
    thread: Background<Result<Vec<u8>>>,
    /// How many bytes it has read.
    count: Arc<AtomicUsize>,
    /// Why it has failed, if it has: so that nobody waits for more.
    failure: Arc<OnceLock<String>>,
    /// Makes it end.
    stop: Arc<AtomicBool>,
}

impl Endless {
    /// Bytes in a read: less than a block, and no part of one.
    const READ: usize = 7000;

    /// Starts to read.
    fn start(node: Node) -> Result<Self> {
        let count = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let failure = Arc::new(OnceLock::new());
        let (counted, stopped, failed) = (count.clone(), stop.clone(), failure.clone());
        let thread = Background::start(move || {
            let read = || {
                let mut all = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    let bytes = node.read(Self::READ);
                    let bytes = bytes.with_context(|| format!("after {} bytes", all.len()))?;
                    ensure!(bytes.len() == Self::READ, "a read was cut short");
                    all.extend(bytes);
                    counted.store(all.len(), Ordering::Relaxed);
                }
                Ok(all)
            };
            let result = read();
            if let Err(error) = &result {
                let _ = failed.set(format!("{error:#}"));
            }
            result
        })?;
        Ok(Self {
            thread,
            count,
            failure,
            stop,
        })
    }

    /// Waits until so many more blocks were read.
    fn wait_for_blocks(&self, blocks: usize) -> Result<()> {
        let goal = self.count.load(Ordering::Relaxed);
        let goal = goal.saturating_add(blocks * BLOCK);
        wait_until("the reader to get more", || {
            self.count.load(Ordering::Relaxed) >= goal || self.failure.get().is_some()
        })?;
        match self.failure.get() {
            Some(failure) => bail!("the reader has failed {failure}"),
            None => Ok(()),
        }
    }

    /// Ends it; all that it has read.
    fn end(self) -> Result<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join()?
    }
}

/// Checks that `bytes` are the stream of device `k` from its beginning, with so many gaps and no other, each
/// of them of the start-up test's block at least and of [`MOST_MISSING`] blocks at most.
fn expect_gaps(guest: &mut Guest, k: usize, bytes: &[u8], gaps: usize) -> Result<()> {
    let sent = guest.device(k, |device| device.status())?.next_block;
    let blocks = blocks_of(guest.seed + k as u64, sent, bytes)?;
    ensure!(blocks.first() == Some(&1), "it begins with {blocks:?}");
    let steps: Vec<_> = blocks.windows(2).map(|pair| (pair[0], pair[1])).collect();
    ensure!(steps.iter().all(|(block, next)| next > block), "{blocks:?}");
    let found: Vec<_> = steps
        .into_iter()
        .filter(|(block, next)| *next != block + 1)
        .collect();
    let in_bounds = found
        .iter()
        .all(|(block, next)| next - block - 1 <= MOST_MISSING);
    ensure!(
        found.len() == gaps && in_bounds,
        "{gaps} gaps were to come, but there are {found:?}"
    );
    Ok(())
}

/// With nothing under way: what was ready is delivered; the first block that is asked for afterwards is the
/// start-up test's and is not; the numbers go on; the lines are raised again.
fn what_was_ready_is_delivered_and_the_next_block_is_not(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut bytes = node.read_all(30_000)?;
    guest.wait_until_full()?;
    let first = guest.emulator.status()?.next_block;
    let runs = number("start_up_runs")?;
    ensure!(Info::read()?.requests == first);

    guest.suspend_and_keep(Sleep::Devices)?;

    ensure!(guest.emulator.status()?.next_block == first);
    ensure!(guest.emulator.status()?.line_state == 3);
    bytes.extend(node.read_all(200_000)?);
    let sent = guest.wait_until_full()?;
    let blocks = blocks_of(guest.seed, sent, &bytes)?;
    let expected = (1..).filter(|block| *block != first);
    ensure!(blocks == expected.take(blocks.len()).collect::<Vec<_>>());
    ensure!(number("start_up_runs")? == runs + 1);
    ensure!(line("state")? == "healthy");
    ensure!(Info::read()?.requests == sent);
    Ok(())
}

/// A reader that waits for the rest of its bytes sleeps through it, and gets all of them.
fn a_reader_asleep_gets_all_that_it_asked_for(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let mut bytes = node.read_all((usize::try_from(silent)? - 1) * BLOCK - 100)?;
    let reader = {
        let node = node.clone();
        Background::start(move || node.read(20_000))?
    };
    reader.wait_until_reading()?;
    let runs = number("start_up_runs")?;
    guest.emulator.ask_after(MEANWHILE, Op::ClearFaults)?;

    guest.suspend_and_keep(Sleep::Devices)?;

    let more = reader.join()??;
    ensure!(
        more.len() == 20_000,
        "the read was cut short: {}",
        more.len()
    );
    bytes.extend(more);
    bytes.extend(node.read_all(100_000)?);
    ensure!(number("start_up_runs")? == runs + 1);
    // A command each second was not answered, then came the one that tells that host and device are in
    // step, and the start-up test's.
    let missing: Vec<_> = (silent..silent + 10).collect();
    guest.expect_stream_but(&bytes, &missing)
}

/// Suspends the machine in this way under a reader that never stops.
fn suspend_under_reader(guest: &mut Guest, sleep: Sleep, times: usize) -> Result<()> {
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    let reader = Endless::start(guest.start()?)?;
    reader.wait_for_blocks(20)?;
    let runs = number("start_up_runs")?;
    for _ in 0..times {
        guest.suspend_and_keep(sleep)?;
        reader.wait_for_blocks(20)?;
    }
    ensure!(number("start_up_runs")? == runs + times as u64);
    let bytes = reader.end()?;
    expect_gaps(guest, 0, &bytes, times)
}

/// So it is where the device is not reset: on a controller that has kept its state.
fn resumed_without_a_reset(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let rate = Configure {
        rate: Some(RATE),
        ..Configure::default()
    };
    guest.device(EHCI_DEVICE, |device| device.configure(rate))?;
    let device = guest.plug_for_nobody(EHCI_DEVICE)?;
    wait_until("the device to be in use", || device.is_in_use())?;
    let reader = Endless::start(Node::open()?)?;
    reader.wait_for_blocks(20)?;
    let (runs, resets) = (number("start_up_runs")?, guest.resets());

    guest.suspend(Sleep::Devices)?;

    reader.wait_for_blocks(20)?;
    ensure!(guest.resets() == resets);
    ensure!(device.is_in_use());
    ensure!(number("start_up_runs")? == runs + 1);
    let bytes = reader.end()?;
    expect_gaps(guest, EHCI_DEVICE, &bytes, 1)
}

/// With commands under way, twice in a row.
fn a_reader_that_never_stops_loses_nothing_but_what_was_under_way(guest: &mut Guest) -> Result<()> {
    suspend_under_reader(guest, Sleep::Devices, 2)
}

/// The same where the machine really is off but for its memory.
fn suspended_to_ram_under_a_reader_that_never_stops(guest: &mut Guest) -> Result<()> {
    suspend_under_reader(guest, Sleep::Ram, 1)
}

/// Programs are frozen at random moments of a read: no read is cut short by it, and nothing is lost.
fn frozen_wherever_it_runs(guest: &mut Guest) -> Result<()> {
    const TIMES: usize = 100;
    let reader = Endless::start(guest.start()?)?;
    let blocked = reader.thread.blocked_signals()?;
    for _ in 0..TIMES {
        reader.wait_for_blocks(1)?;
        guest.freeze_programs(Duration::ZERO)?;
    }
    reader.wait_for_blocks(1)?;
    ensure!(reader.thread.blocked_signals()? == blocked);
    let bytes = reader.end()?;
    expect_gaps(guest, 0, &bytes, 0)
}

/// A signal that comes while the reader is frozen ends its read as ever.
fn frozen_does_not_save_from_a_signal(guest: &mut Guest) -> Result<()> {
    const ALARM: Duration = Duration::from_secs(2);
    catch(Signal::USR1, false)?;
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let mut bytes = node.read_all((usize::try_from(silent)? - 1) * BLOCK - 100)?;
    let reader = {
        let node = node.clone();
        Background::start(move || {
            signal_this_thread_after(ALARM, Signal::USR1)?;
            Ok::<_, io::Error>(node.read(20_000)?)
        })?
    };
    reader.wait_until_reading()?;

    guest.freeze_programs(ALARM * 2)?;

    let part = reader.join()??;
    ensure!(part.len() == 100, "{} bytes", part.len());
    bytes.extend(part);
    let missing = guest.answer_again(silent)?;
    bytes.extend(node.read_all(50_000)?);
    guest.expect_stream_but(&bytes, &missing)
}

/// splice(2) waits for bytes with the lock of the pipe, which whoever reads from the pipe waits for: if the
/// one were frozen there, the other could not be, and the machine not suspended.
fn frozen_while_bytes_are_spliced(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let mut bytes = node.read_all((usize::try_from(silent)? - 1) * BLOCK - 100)?;
    let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let splicer = {
        let node = node.clone();
        Background::start(move || {
            let mut moved = 0;
            while moved < 1000 {
                let rest = 1000 - moved;
                moved += rustix::pipe::splice(&node, None, &to, None, rest, SpliceFlags::empty())?;
            }
            Ok::<_, Errno>(())
        })?
    };
    splicer.wait_until_asleep_in(libc::SYS_splice)?;
    let reader = Background::start(move || {
        let mut all = Vec::new();
        File::from(from).read_to_end(&mut all).map(|_| all)
    })?;
    reader.wait_until_reading()?;

    guest.freeze_programs(Duration::ZERO)?;

    let missing = guest.answer_again(silent)?;
    splicer.join()??;
    bytes.extend(reader.join()??);
    bytes.extend(node.read_all(50_000)?);
    guest.expect_stream_but(&bytes, &missing)
}

/// Suspends the machine in this way under a reader asleep, and pulls the device out meanwhile: the reader
/// learns of it, and the next device is used on the same open file.
fn unplug_under_reader(guest: &mut Guest, sleep: Sleep) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    let reader = {
        let node = node.clone();
        Background::start(move || node.read(1))?
    };
    reader.wait_until_reading()?;
    let unplug = Op::Unplug(Unplug::default());
    guest.emulator.ask_after(MEANWHILE, unplug)?;

    guest.suspend(sleep)?;

    ensure!(reader.join()? == Err(Errno::NODEV));
    ensure!(!guest.emulator.status()?.plugged);
    ensure!(info::read_text()? == NO_DEVICE);
    guest.unplug()?;
    guest.emulator.clear_faults()?;
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(100_000)?)
}

/// Pulled out while the machine sleeps.
fn unplugged_meanwhile(guest: &mut Guest) -> Result<()> {
    unplug_under_reader(guest, Sleep::Devices)
}

/// Pulled out while the machine really is off but for its memory.
fn suspended_to_ram_and_unplugged(guest: &mut Guest) -> Result<()> {
    unplug_under_reader(guest, Sleep::Ram)
}

/// Another unit is in the same port when the machine wakes: it is used, from its first block on, with
/// numbers of its own, and nothing of the old one comes after it.
fn replaced_meanwhile(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.stream().expect(&node.read_all(50_000)?)?;
    guest.wait_until_full()?;
    let seed = guest.seed + 1;
    let other = Configure {
        serial: Some(serial(1)),
        source: Some(SourceSpec::Seeded { seed }),
        ..Configure::default()
    };
    for (time, op) in [
        Op::Unplug(Unplug::default()),
        Op::Configure(other),
        Op::Plug,
    ]
    .into_iter()
    .zip(0..)
    .map(|(op, k)| (MEANWHILE + 100 * k, op))
    {
        guest.emulator.ask_after(time, op)?;
    }

    guest.suspend(Sleep::Devices)?;

    wait_until("the other unit to be in use", || {
        UsbDevice::find(&serial(1)).is_some_and(|device| device.is_in_use())
    })?;
    ensure!(UsbDevice::find(&serial(0)).is_none());
    Stream::of(seed).expect(&node.read_all(100_000)?)?;
    let sent = guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    ensure!(Info::read()?.requests == next, "of {sent} in all");
    Ok(())
}

/// A device that the kernel was told not to expect again is as good as replugged.
fn without_persistence_it_is_a_new_device(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let device = UsbDevice::find(&serial(0)).context("there is no device")?;
    guest.stream().expect(&node.read_all(50_000)?)?;
    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    device.set_attribute("power/persist", "0")?;

    guest.suspend(Sleep::Devices)?;

    wait_until("the device to be in use again", || {
        let device = UsbDevice::find(&serial(0));
        device.is_some_and(|device| device.is_in_use())
            && Info::read().is_ok_and(|info| info.requests < next)
    })?;
    Stream::from_block(guest.seed, next + 1).expect(&node.read_all(100_000)?)
}

/// Suspended while the very first answer comes.
fn suspended_before_the_start_up_test_is_through(guest: &mut Guest) -> Result<()> {
    // An answer takes 0.8 s of the second that it may take.
    guest.configure(Configure {
        rate: Some(20_000),
        ..Configure::default()
    })?;
    guest.load(&[])?;
    let node = Node::open()?;
    guest.replug()?;
    wait_until("the first command", || {
        let status = guest.emulator.status();
        status.is_ok_and(|status| status.commands.of(Command::Entropy) > 0)
    })?;

    guest.suspend_and_keep(Sleep::Devices)?;

    guest.emulator.configure(Configure {
        rate: Some(0),
        ..Configure::default()
    })?;
    let bytes = node.read_all(100_000)?;
    let status = guest.emulator.status()?;
    let blocks = blocks_of(guest.seed, status.next_block, &bytes)?;
    // Of those before, the last was under way: on a slow machine it may be a later one than block 0. The next
    // one tells that host and device are in step, and the one behind it is tested.
    let first = status.next_block_at_reset + 2;
    ensure!(
        first >= 3 && blocks == (first..first + 7).collect::<Vec<_>>(),
        "from {first}: {blocks:?}"
    );
    Ok(())
}

/// A source that a health test has stopped is not started by a suspend: it is not even asked for anything.
/// Root can start it afterwards, as ever.
fn a_stopped_source_stays_stopped(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.wait_until_full()?;
    guest
        .emulator
        .fault(Fault::next(Kind::Stuck { value: 7 }))?;
    guest.log.announce(STOPPED);
    while node.read(1000).is_ok() {}
    wait_until_stopped()?;
    let state = line("state")?;
    let asked = |guest: &mut Guest| -> Result<u64> {
        Ok(guest.emulator.status()?.commands.of(Command::Entropy))
    };
    let before = asked(guest)?;

    guest.suspend_and_keep(Sleep::Devices)?;

    ensure!(node.read(1) == Err(Errno::IO));
    ensure!(line("state")? == state);
    ensure!(asked(guest)? == before);
    let next = guest.emulator.status()?.next_block;
    fs::write(STARTUP_TEST, "1")?;
    Stream::from_block(guest.seed, next + 1).expect(&node.read_all(50_000)?)
}

/// A device that was given up before is tried again afterwards: it may have needed nothing but its power
/// to be off for a moment.
fn a_device_that_was_given_up_is_tried_again(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let bad = guest.wait_until_full()?;
    guest
        .emulator
        .fault(Fault::next(Kind::Status { value: 255 }).count(0))?;
    guest.log.announce("status byte 0xff is none");
    guest.log.announce(GIVEN_UP);
    let mut bytes = node.read_all((usize::try_from(bad)? - 1) * BLOCK)?;
    ensure!(node.read(1) == Err(Errno::IO));
    let next = guest.wait_until_given_up()?.next_block;
    guest.emulator.clear_faults()?;

    guest.suspend_and_keep(Sleep::Devices)?;

    // Nobody reads, and yet it is asked: by the command that tells that host and device are in step, by the
    // start-up test's, and by more.
    wait_until("the device to be asked", || {
        let status = guest.emulator.status();
        status.is_ok_and(|status| status.next_block > next + 2)
    })?;
    bytes.extend(node.read_all(50_000)?);
    let missing: Vec<_> = (bad..=next + 1).collect();
    guest.expect_stream_but(&bytes, &missing)
}

/// The kernel resets the device on some program's demand, over and over, under a reader that never stops.
fn reset_under_readers(guest: &mut Guest) -> Result<()> {
    const TIMES: usize = 10;
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    let node = guest.start()?;
    let device = UsbDevice::find(&serial(0)).context("there is no device")?;
    let reader = Endless::start(node)?;
    reader.wait_for_blocks(20)?;
    let (runs, resets) = (number("start_up_runs")?, guest.resets());
    for _ in 0..TIMES {
        device.reset()?;
        reader.wait_for_blocks(20)?;
    }
    ensure!(guest.resets() == resets + TIMES);
    ensure!(device.is_in_use());
    ensure!(number("start_up_runs")? == runs + TIMES as u64);
    ensure!(guest.emulator.status()?.line_state == 3);
    let bytes = reader.end()?;
    expect_gaps(guest, 0, &bytes, TIMES)
}
