// SPDX-License-Identifier: GPL-2.0

//! Taking the device from the stock serial driver, and giving it back.

use crate::support::{
    node::MAX_READ,
    tests,
    tty::Tty,
    wait::wait_for,
    wait_until,
    Background,
    Guest,
    Node,
    Stream,
    Test,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::stream::{
    block,
    Command as EmuCommand, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::{
    fs::{
        Mode,
        OFlags, //
    },
    io::Errno,
    termios::OptionalActions, //
};
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{
        Child,
        Command,
        Stdio, //
    },
    sync::{
        atomic::{
            AtomicBool,
            AtomicUsize,
            Ordering, //
        },
        Arc, //
    },
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    taken_at_load_and_given_back_at_unload,
    held_tty_is_left_alone_and_taken_when_it_is_closed,
    held_tty_is_taken_when_a_reader_asks,
    held_tty_that_is_unplugged_is_forgotten,
    programs_keep_their_tty_however_they_hold_it,
    probed_by_another_program_it_is_taken_when_that_is_done,
    one_of_several_is_used_and_the_next_takes_over,
    hot_plugged_200_times_it_is_always_taken,
    unbound_by_root_it_stays_so,
    authorized_later_it_is_taken_then,
    unconfigured_by_root_it_is_taken_when_it_is_configured_again,
];

/// Whether there is any tty of the stock serial driver.
fn any_tty() -> bool {
    fs::read_dir("/sys/class/tty").is_ok_and(|mut ttys| {
        ttys.any(|tty| tty.is_ok_and(|tty| tty.file_name().to_string_lossy().starts_with("ttyACM")))
    })
}

/// A tty that nobody uses is taken; unloaded, the tty is back and works.
fn taken_at_load_and_given_back_at_unload(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    ensure!(device.is_with_cdc_acm() && any_tty());
    guest.load(&[])?;
    // At once: who has loaded the module can read.
    ensure!(device.is_in_use() && !any_tty());
    let blocks = guest.wait_until_full()?;
    guest.unload()?;
    ensure!(device.is_with_cdc_acm());
    let next = guest.emulator.status()?.next_block;
    ensure!(next == blocks);
    let answer = Tty::open(&device)?.ask(b'x')?;
    ensure!(answer[..BLOCK] == block(guest.seed, EmuCommand::Entropy, next)[..]);
    Ok(())
}

/// What the log says of a device that a program has.
const BUSY: &str = "AlphaRNG is in use by another program";

/// A program that has a tty open until this is dropped.
struct Holder(Child);

impl Holder {
    /// Starts `argv`, and waits until it is the program `name` and has the tty of `device` open.
    fn start(argv: &[&str], name: &str, device: &UsbDevice) -> Result<Self> {
        let tty = format!("/dev/{}", device.tty()?);
        wait_until("the tty's node", || fs::exists(&tty).unwrap_or(false))?;
        let argv: Vec<_> = argv.iter().map(|word| word.replace("TTY", &tty)).collect();
        let program = Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let holder = Self(program);
        let process = format!("/proc/{}", holder.0.id());
        wait_until("a program to open the tty", || {
            let files = fs::read_dir(format!("{process}/fd")).into_iter().flatten();
            let links = files.flatten().map(|file| fs::read_link(file.path()));
            let open = links.flatten().any(|target| target.as_os_str() == &*tty);
            let text = fs::read_to_string(format!("{process}/comm")).unwrap_or_default();
            open && text.trim() == name
        })?;
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended by itself, and the test finds out.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// While `hold` holds the tty the device is left alone, which the log says once; then it is taken.
fn expect_left_alone<T>(
    guest: &mut Guest,
    hold: impl FnOnce(&UsbDevice) -> Result<T>,
) -> Result<()> {
    guest.begin_anew()?;
    let told = guest.log.count(BUSY);
    let device = guest.plug()?;
    let holder = hold(&device)?;
    guest.load(&[])?;
    // It is tried again each second.
    thread::sleep(Duration::from_millis(2500));
    ensure!(guest.log.count(BUSY) == told + 1);
    ensure!(device.is_with_cdc_acm(), "the device was taken away");
    ensure!(Node::open()?.read(1) == Err(Errno::NODEV));
    drop(holder);
    wait_until("the device to be in use", || device.is_in_use())?;
    guest.stream().expect(&Node::open()?.read_all(50_000)?)
}

/// A program keeps its tty, whether it has only opened it, has locked it for its like (`flock(2)`), or has
/// closed it to all others (`TIOCEXCL`).
fn programs_keep_their_tty_however_they_hold_it(guest: &mut Guest) -> Result<()> {
    expect_left_alone(guest, |device| {
        Holder::start(&["cat", "TTY"], "cat", device)
    })
    .context("only opened")?;
    expect_left_alone(guest, |device| {
        let locked = ["flock", "--no-fork", "TTY", "sleep", "1000"];
        Holder::start(&locked, "sleep", device)
    })
    .context("locked")?;
    expect_left_alone(guest, |device| {
        let tty = Tty::open(device)?;
        tty.make_exclusive()?;
        Ok(tty)
    })
    .context("closed to others")
}

/// A program as ModemManager is: opens each new tty of the stock serial driver as soon as it is there, asks
/// it for its modem, listens for a moment or as long as it is to, and closes it.
struct Prober {
    /// How many it has opened.
    opened: Arc<AtomicUsize>,
    /// Whether it goes on listening.
    listening: Arc<AtomicBool>,
    /// Makes it end.
    stop: Arc<AtomicBool>,
    /// What it does.
    thread: Background<()>,
}

impl Prober {
    /// How long it listens at least.
    const LISTENS: Duration = Duration::from_millis(500);

    /// The modem's commands. A part of the last is one of the device's, whose answer is left there.
    const COMMANDS: &[u8] = b"AT\rAT+GCAP\rATI1\r";

    /// Starts it.
    fn start() -> Result<Self> {
        let opened = Arc::new(AtomicUsize::new(0));
        let listening = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, listens, stopped) = (opened.clone(), listening.clone(), stop.clone());
        let thread = Background::start(move || {
            let mut known = HashSet::new();
            while !stopped.load(Ordering::Relaxed) {
                for k in 0..4 {
                    let path = format!("/dev/ttyACM{k}");
                    // A node that is made anew is another file.
                    let Ok(file) = fs::metadata(&path).map(|file| file.ino()) else {
                        continue;
                    };
                    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
                    if !known.insert(file) {
                        continue;
                    }
                    let Ok(tty) = rustix::fs::open(&path, flags, Mode::empty()) else {
                        continue;
                    };
                    // It may be gone at any time. Left as it is, it would send back what comes.
                    if let Ok(mut settings) = rustix::termios::tcgetattr(&tty) {
                        settings.make_raw();
                        let _ = rustix::termios::tcsetattr(&tty, OptionalActions::Now, &settings);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = rustix::io::write(&tty, Self::COMMANDS);
                    thread::sleep(Self::LISTENS);
                    while listens.load(Ordering::Relaxed) && !stopped.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(1));
                    }
                    let _ = rustix::io::read(&tty, &mut [0; 100]);
                }
                thread::sleep(Duration::from_millis(1));
            }
        })?;
        Ok(Self {
            opened,
            listening,
            stop,
            thread,
        })
    }

    /// Whether it is to go on listening to each that it opens.
    fn listen(&self, on: bool) {
        self.listening.store(on, Ordering::Relaxed);
    }

    /// How many it has opened.
    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Ends it.
    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join()
    }
}

/// A program that opens each tty at once and talks to it does not keep the device from the module, whoever
/// of the two is first, and nothing of what it has left there is delivered.
fn probed_by_another_program_it_is_taken_when_that_is_done(guest: &mut Guest) -> Result<()> {
    let prober = Prober::start()?;
    for round in 0..3 {
        guest.begin_anew()?;
        let told = guest.log.count(BUSY);
        prober.listen(true);
        let device = guest.plug()?;
        wait_until("the tty to be opened", || prober.opened() == round + 1)?;
        guest.load(&[])?;
        wait_until("the module to find it in use", || {
            guest.log.count(BUSY) > told
        })?;
        prober.listen(false);
        let node = Node::open()?;
        wait_until("the device to be in use", || device.is_in_use())?;
        ensure!(guest.log.count(BUSY) == told + 1);
        guest.stream().expect(&node.read_all(50_000)?)?;
        // Somebody did ask it for something.
        ensure!(guest.emulator.status()?.commands.of(EmuCommand::NoiseOne) == 1);
        // Before the module is unloaded, which would give the device a tty again.
        guest.unplug()?;
    }
    // From here on it is a race.
    let node = Node::open()?;
    for round in 0..10 {
        let mut stream = guest.replug()?;
        let bytes = node.read_all(50_000);
        stream.expect(&bytes.with_context(|| format!("round {round}"))?)?;
        ensure!(!any_tty());
        guest.unplug()?;
    }
    prober.end()
}

/// Loads the module while a program has the tty open.
fn load_while_held(guest: &mut Guest) -> Result<(UsbDevice, Tty)> {
    let device = guest.plug()?;
    let mut tty = Tty::open(&device)?;
    guest.load(&[])?;
    guest
        .log
        .wait_for("AlphaRNG is in use by another program")?;
    ensure!(device.is_with_cdc_acm(), "the device was taken away");
    ensure!(Node::open()?.read(1) == Err(Errno::NODEV));
    // The program is not disturbed.
    let answer = tty.ask(b'x')?;
    ensure!(answer[..BLOCK] == block(guest.seed, EmuCommand::Entropy, 0)[..]);
    Ok((device, tty))
}

/// A tty that a program has open stays with it. The log says so, once, and the device is taken when it
/// becomes free.
fn held_tty_is_left_alone_and_taken_when_it_is_closed(guest: &mut Guest) -> Result<()> {
    let (device, tty) = load_while_held(guest)?;
    // It is tried again each second.
    thread::sleep(Duration::from_millis(2500));
    ensure!(guest.log.count("AlphaRNG is in use by another program") == 1);
    ensure!(device.is_with_cdc_acm());

    drop(tty);

    wait_until("the device to be in use", || device.is_in_use())?;
    // Block 0 was the program's, the next one is the start-up test's.
    Stream::from_block(guest.seed, 2).expect(&Node::open()?.read_all(50_000)?)
}

/// It is also taken when a reader asks, before it would be tried again.
fn held_tty_is_taken_when_a_reader_asks(guest: &mut Guest) -> Result<()> {
    let (device, tty) = load_while_held(guest)?;
    let node = Node::open()?;
    drop(tty);
    let bytes = node.read_all(50_000)?;
    ensure!(device.is_in_use());
    Stream::from_block(guest.seed, 2).expect(&bytes)
}

/// A device that another program has, and that goes: the next one is free.
fn held_tty_that_is_unplugged_is_forgotten(guest: &mut Guest) -> Result<()> {
    let (_device, tty) = load_while_held(guest)?;
    guest.unplug()?;
    drop(tty);
    let mut stream = guest.replug()?;
    stream.expect(&Node::open()?.read_all(50_000)?)
}

/// Of several devices one is used, the others stay with the stock serial driver and work. When the used
/// one goes, the next takes over, on the same open file, until none is left.
fn one_of_several_is_used_and_the_next_takes_over(guest: &mut Guest) -> Result<()> {
    let devices = (0..3)
        .map(|k| guest.plug_device(k))
        .collect::<Result<Vec<_>>>()?;
    guest.load(&[])?;
    let node = Node::open()?;
    let mut left = vec![0, 1, 2];
    while !left.is_empty() {
        let used = left.iter().position(|k| devices[*k].is_in_use());
        let used = left.remove(used.context("no device is in use")?);
        for k in &left {
            ensure!(
                devices[*k].is_with_cdc_acm(),
                "device {k} is not left alone"
            );
        }
        let seed = guest.seed + used as u64;
        Stream::of(seed).expect(&node.read_all(30_000)?)?;
        if let [other, ..] = left[..] {
            let answer = Tty::open(&devices[other])?.ask(b'1')?;
            let seed = guest.seed + other as u64;
            let expected = block(seed, EmuCommand::NoiseOne, answers(guest, other)? - 1);
            ensure!(answer[..BLOCK] == expected[..]);
        }
        guest.device(used, |device| device.unplug())?;
        wait_until("the device to be gone", || !devices[used].is_there())?;
        wait_until("the next device to be in use", || {
            left.is_empty() || left.iter().any(|k| devices[*k].is_in_use())
        })?;
    }
    ensure!(node.read(1) == Err(Errno::NODEV));
    Ok(())
}

/// How many `1` commands device `k` has answered.
fn answers(guest: &mut Guest, k: usize) -> Result<u64> {
    let status = guest.device(k, |device| device.status())?;
    Ok(status.next_blocks.of(EmuCommand::NoiseOne))
}

/// Each time it is plugged in it ends up here, although the stock serial driver is asked first.
fn hot_plugged_200_times_it_is_always_taken(guest: &mut Guest) -> Result<()> {
    // A kernel that looks for bugs takes several times as long.
    let rounds = guest.rounds(200, 50);
    guest.load(&[])?;
    let node = Node::open()?;
    for round in 0..rounds {
        let mut stream = guest.replug()?;
        let bytes = node.read_all(20_000);
        stream.expect(&bytes.with_context(|| format!("round {round}"))?)?;
        ensure!(!any_tty());
        guest.unplug()?;
    }
    Ok(())
}

/// Root can take the device away (by `unbind` in sysfs): it is not taken again until it is replugged.
fn unbound_by_root_it_stays_so(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    guest.load(&[])?;
    let node = Node::open()?;
    node.read_all(1000)?;
    let drivers = "/sys/bus/usb/drivers/alrandom";
    fs::write(format!("{drivers}/unbind"), device.data_interface()?)?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    // As long as it takes to try a busy device again.
    thread::sleep(Duration::from_millis(1500));
    ensure!(node.read(1) == Err(Errno::NODEV));
    guest.unplug()?;
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(50_000)?)
}

/// New devices are not authorized (as USBGuard has it) until this is dropped.
struct NotAuthorized(Vec<(PathBuf, String)>);

impl NotAuthorized {
    /// For all buses.
    fn by_default() -> Result<Self> {
        let mut before = Vec::new();
        for entry in fs::read_dir("/sys/bus/usb/devices")? {
            let path = entry?.path().join("authorized_default");
            if let Ok(value) = fs::read_to_string(&path) {
                fs::write(&path, "0")?;
                before.push((path, value));
            }
        }
        ensure!(!before.is_empty(), "there is no bus");
        Ok(Self(before))
    }
}

impl Drop for NotAuthorized {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = fs::write(path, value.trim());
        }
    }
}

/// Has the device lose its interfaces by writing 0 to one of its attributes, under a reader, and get them
/// back by 1; three times.
fn expect_taken_again(guest: &mut Guest, device: &UsbDevice, attribute: &str) -> Result<()> {
    let node = Node::open()?;
    for round in 0..3 {
        let what = || format!("{attribute}, round {round}");
        let reader = {
            let node = node.clone();
            Background::start(move || loop {
                if let Err(error) = node.read(MAX_READ) {
                    return error;
                }
            })?
        };
        let blocks = guest.emulator.status()?.next_block;
        wait_until("blocks to be read", || {
            let status = guest.emulator.status();
            status.is_ok_and(|status| status.next_block > blocks + 10)
        })?;
        device.set_attribute(attribute, "0")?;
        let error = reader.join().with_context(what)?;
        ensure!(error == Errno::NODEV, "{}: {error}", what());
        ensure!(device.data_driver().is_none() && device.is_there());
        // As long as it takes to try a busy device again.
        thread::sleep(Duration::from_millis(1500));
        ensure!(node.read(1) == Err(Errno::NODEV));

        let next = guest.emulator.status()?.next_block;
        device.set_attribute(attribute, "1")?;
        wait_until("the device to be in use", || device.is_in_use()).with_context(what)?;
        ensure!(!any_tty(), "{}", what());
        // The first block is the start-up test's.
        let bytes = node.read_all(50_000).with_context(what)?;
        Stream::from_block(guest.seed, next + 1).expect(&bytes)?;
    }
    Ok(())
}

/// A device that root authorizes only after it was plugged in is taken then, and so it is when the
/// authorization was taken back.
fn authorized_later_it_is_taken_then(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let node = Node::open()?;
    let not_authorized = NotAuthorized::by_default()?;
    guest.emulator.plug()?;
    let device = wait_for(
        "a device without authorization",
        UsbDevice::find_unauthorized,
    )?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    device.set_attribute("authorized", "1")?;
    wait_until("the device to be in use", || device.is_in_use())?;
    guest.stream().expect(&node.read_all(50_000)?)?;
    drop(not_authorized);
    expect_taken_again(guest, &device, "authorized")
}

/// A device that root leaves without a configuration for a while is taken again behind that.
fn unconfigured_by_root_it_is_taken_when_it_is_configured_again(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    guest.load(&[])?;
    expect_taken_again(guest, &device, "bConfigurationValue")
}
