// SPDX-License-Identifier: GPL-2.0

//! Everything at once, again and again: devices that come and go at any moment, modules that are loaded
//! and unloaded, drivers that are bound and unbound, under readers of all kinds that are interrupted,
//! stopped and killed. The moments are random; the seed that they follow from is printed.
//!
//! On a kernel that is made to look for bugs there are more rounds than on others, and as many as are asked
//! for on any.

use crate::support::{
    guest::serial,
    info::read_text,
    sys::catch,
    tests,
    wait_until,
    Background,
    Guest,
    Node,
    Test,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    fault::At,
    stream::{
        block,
        Command as Request, //
    },
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use fastrand::Rng;
use rustix::{
    io::Errno,
    process::{
        Pid,
        Signal, //
    },
};
use std::{
    collections::HashMap,
    fs::{
        self,
        File, //
    },
    io::Read,
    process::{
        Child,
        Command,
        Stdio, //
    },
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering, //
        },
        Arc,
        Mutex,
        PoisonError, //
    },
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    plugged_and_unplugged_under_everything,
    loaded_and_unloaded_under_openers,
    bound_and_unbound_under_readers,
    bytes_delivered_twice_are_seen,
];

/// A build of the module that delivers bytes twice, which the test machine puts next to the good one.
const BROKEN: &str = "alrandom-broken-delivery.ko";

/// Bytes per second of the device: every block that it sends is made again at the end.
const RATE: u64 = 1_000_000;

/// What each of the readers asks for at once, in bytes: multiples of a word's length, as a block's is, so
/// that no word is torn.
const SIZES: [usize; 8] = [8, 16, 256, 4096, 16_000, 16_384, 40_000, 100_000];

/// What the USB core says of a device that goes while it is being asked what it is.
const HALF_PLUGGED: [&str; 12] = [
    "device descriptor read",
    "device not accepting address",
    "unable to enumerate USB device",
    "unable to read config index",
    "can't read configurations",
    "can't set config",
    "attempt power cycle",
    "Device not responding to setup address",
    "Device not responding to setup context",
    "hub failed to enable device",
    "string descriptor 0 read error",
    "unable to get BOS descriptor",
];

/// The random moments of a test; the seed is printed.
fn moments() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

/// Sleeps for up to so many milliseconds.
fn pause(rng: &mut Rng, most: u64) {
    thread::sleep(Duration::from_micros(rng.u64(..most * 1000)));
}

/// Words of 8 bytes, and how often each has been seen. All words of a random stream are different, in
/// practice.
#[derive(Default)]
struct Words(HashMap<u64, u32>);

impl Words {
    /// The words of `bytes`.
    fn of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
        let words = bytes.chunks_exact(8);
        words.filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
    }

    /// Adds the words of `bytes`.
    fn add(&mut self, bytes: &[u8]) {
        for word in Self::of(bytes) {
            *self.0.entry(word).or_default() += 1;
        }
    }
}

/// What all threads of a test share.
#[derive(Default)]
struct Shared {
    /// They are to end.
    stop: AtomicBool,
    /// What was delivered.
    words: Mutex<Words>,
    /// How many bytes that was.
    bytes: AtomicU64,
    /// How often a read failed as it has to without a device, or was interrupted.
    refused: AtomicU64,
}

impl Shared {
    /// Whether to go on.
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Takes note of what a read returned; fails where it may not return that.
    fn note(&self, result: Result<Vec<u8>, Errno>) -> Result<()> {
        match result {
            Ok(bytes) => {
                let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
                words.add(&bytes);
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(Errno::NODEV | Errno::AGAIN | Errno::INTR) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("read(2)"),
        }
        Ok(())
    }
}

/// Readers of all kinds.
struct Readers {
    /// What they share.
    shared: Arc<Shared>,
    /// The threads.
    threads: Vec<Background<Result<()>>>,
}

impl Readers {
    /// Starts the readers of the node, each of which keeps it open: one for each of [`SIZES`], and one
    /// that waits by poll(2).
    fn of_the_node() -> Result<Self> {
        let mut this = Self {
            shared: Arc::default(),
            threads: Vec::new(),
        };
        for size in SIZES {
            let node = Node::open()?;
            this.start(move |shared| shared.note(node.read(size)))?;
        }
        let node = Node::open_nonblocking()?;
        this.start(move |shared| {
            // Interrupted or not, the read has nothing to wait for.
            let _ = node.poll(Duration::from_millis(20));
            shared.note(node.read(4096))
        })?;
        Ok(this)
    }

    /// Starts those that look on: at `/proc`, at `/dev/hwrng`, and that open the node and close it.
    fn and_others(mut self) -> Result<Self> {
        self.start(|_| {
            read_text()?;
            fs::read_to_string(crate::health::HEALTH)?;
            Ok(())
        })?;
        self.start(|_| {
            let mut bytes = [0; 64];
            // Without a source there is an error, and that is right.
            if File::open("/dev/hwrng").is_ok_and(|mut file| file.read(&mut bytes).is_err()) {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })?;
        self.start(|shared| shared.note(Node::open()?.read(8)))?;
        Ok(self)
    }

    /// Starts a thread that does `body` until the end.
    fn start(&mut self, body: impl Fn(&Shared) -> Result<()> + Send + 'static) -> Result<()> {
        let shared = self.shared.clone();
        self.threads.push(Background::start(move || {
            while shared.goes_on() {
                body(&shared)?;
            }
            Ok(())
        })?);
        Ok(())
    }

    /// Interrupts one of them.
    fn interrupt(&self, rng: &mut Rng) -> Result<()> {
        match rng.choice(&self.threads) {
            Some(thread) => thread.signal(Signal::USR1),
            None => Ok(()),
        }
    }

    /// Ends them all; they must not hang, and none may have seen what it must not see.
    fn end(self, guest: &mut Guest) -> Result<Arc<Shared>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Whoever sleeps for bytes gets them, or an error, once there is a device or none.
        if UsbDevice::find(&serial(0)).is_some() {
            guest.unplug()?;
        }
        for thread in self.threads {
            thread.join()??;
        }
        Ok(self.shared)
    }
}

/// A reader in a process of its own, that is stopped, goes on, and is killed at last.
struct Victim(Child);

impl Victim {
    /// Starts it.
    fn start() -> Result<Self> {
        let child = Command::new("cat")
            .arg("/dev/alrandom")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Sends it a signal, which finds it alive or not: without a device it has ended by itself.
    fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.0), signal);
    }

    /// Kills it, and waits for its end.
    fn end(mut self) -> Result<()> {
        self.signal(Signal::CONT);
        self.0.kill()?;
        let status = crate::support::wait::wait_for_exit(&mut self.0, crate::support::PATIENCE)?;
        status.context("a reader that was killed does not end")?;
        Ok(())
    }
}

/// Checks what was delivered: words of the device's stream, and none of them twice.
fn expect_each_once(guest: &mut Guest, shared: &Shared) -> Result<()> {
    let sent = guest.emulator.status()?.next_block;
    let mut words = shared.words.lock().unwrap_or_else(PoisonError::into_inner);
    let delivered = words.0.len();
    ensure!(delivered > 100, "only {delivered} words were delivered");
    for k in 0..sent {
        for word in Words::of(&block(guest.seed, Request::Entropy, k)) {
            if let Some(times) = words.0.remove(&word) {
                ensure!(
                    times == 1,
                    "a word of block {k} was delivered {times} times"
                );
            }
        }
    }
    let strange = words.0.len();
    ensure!(
        strange == 0,
        "{strange} of {delivered} words are not the device's"
    );
    println!(
        "{} bytes were delivered out of {} blocks, {} reads refused",
        shared.bytes.load(Ordering::Relaxed),
        sent,
        shared.refused.load(Ordering::Relaxed),
    );
    Ok(())
}

/// Plugged in and pulled out at any moment: while the kernel still asks what it is, in the start-up block,
/// in the middle of an answer, and when it idles; under readers of all sizes, of `/dev/hwrng` and of
/// `/proc`, who are interrupted, stopped and killed. No reader hangs or sees a wrong error, and no byte is
/// delivered twice or made up.
fn plugged_and_unplugged_under_everything(guest: &mut Guest) -> Result<()> {
    let rounds = guest.rounds(40, 100);
    let mut rng = moments();
    for line in HALF_PLUGGED {
        guest.log.announce(line);
    }
    catch(Signal::USR1, false)?;
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    guest.load_with_hwrng(&[])?;
    let readers = Readers::of_the_node()?.and_others()?;
    for round in 0..rounds {
        let what = || format!("round {round} of {rounds}");
        guest.emulator.plug().with_context(what)?;
        let victim = Victim::start()?;
        match rng.u32(..4) {
            // Not known yet, or just so.
            0 => pause(&mut rng, 150),
            // In an answer, the first or a later one.
            1 => {
                let next = guest.emulator.status()?.next_block;
                let block = At::Block(next + rng.u64(..6));
                guest.emulator.unplug_at(block, rng.usize(..BLOCK))?;
                wait_until("the device to be pulled out", || {
                    guest.emulator.status().is_ok_and(|status| !status.plugged)
                })
                .with_context(what)?;
            }
            // At work.
            _ => {
                let bytes = readers.shared.bytes.load(Ordering::Relaxed);
                wait_until("readers to get bytes", || {
                    readers.shared.bytes.load(Ordering::Relaxed) > bytes + BLOCK as u64
                })
                .with_context(what)?;
                for _ in 0..rng.usize(..4) {
                    readers.interrupt(&mut rng)?;
                    victim.signal(
                        rng.choice([Signal::STOP, Signal::CONT])
                            .unwrap_or(Signal::CONT),
                    );
                    pause(&mut rng, 20);
                }
            }
        }
        if guest.emulator.status()?.plugged {
            guest.emulator.unplug().with_context(what)?;
        }
        guest.wait_until_gone().with_context(what)?;
        victim.end().with_context(what)?;
    }
    let shared = readers.end(guest)?;
    expect_each_once(guest, &shared)?;
    // It works as ever.
    guest.replug()?;
    Node::open()?.read_all(10 * BLOCK)?;
    Ok(())
}

/// Loaded and unloaded at any moment, while programs open the node, read and close it, and look at the
/// files in `/proc`: unloading is refused or ends everything first.
fn loaded_and_unloaded_under_openers(guest: &mut Guest) -> Result<()> {
    let rounds = guest.rounds(15, 40);
    let mut rng = moments();
    let device = guest.plug()?;
    let shared = Arc::new(Shared::default());
    let mut openers = Readers {
        shared: shared.clone(),
        threads: Vec::new(),
    };
    for size in [8, 16_000] {
        openers.start(move |shared| {
            // There without the module, it is not.
            let result = Node::open().map(|node| shared.note(node.read(size)));
            thread::sleep(Duration::from_millis(10));
            result.unwrap_or(Ok(()))
        })?;
    }
    openers.start(|_| {
        for path in ["/proc/alrandom/info", "/proc/alrandom/health"] {
            // Nor are they.
            let _ = fs::read_to_string(path);
        }
        Ok(())
    })?;
    let mut refused = 0;
    for round in 0..rounds {
        guest
            .load_with_hwrng(&[])
            .with_context(|| format!("round {round}"))?;
        pause(&mut rng, 60);
        wait_until("the module to be unloaded", || {
            let unloaded = guest.unload().is_ok();
            refused += u32::from(!unloaded);
            unloaded
        })
        .with_context(|| format!("round {round}"))?;
        ensure!(device.is_with_cdc_acm(), "round {round}");
    }
    println!("{rounds} times, refused {refused} times");
    openers.shared.stop.store(true, Ordering::Relaxed);
    for thread in openers.threads {
        thread.join()??;
    }
    let sent = guest.emulator.status()?.next_block;
    ensure!(sent > 0);
    Ok(())
}

/// Bound and unbound by root in sysfs at any moment, under readers: they get errors in between and go on,
/// and no byte is delivered twice.
fn bound_and_unbound_under_readers(guest: &mut Guest) -> Result<()> {
    const DRIVER: &str = "/sys/bus/usb/drivers/alrandom";
    let rounds = guest.rounds(40, 100);
    let mut rng = moments();
    catch(Signal::USR1, false)?;
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    let device = guest.plug()?;
    guest.load_with_hwrng(&[])?;
    let interface = device.data_interface()?;
    let readers = Readers::of_the_node()?.and_others()?;
    for round in 0..rounds {
        pause(&mut rng, 60);
        if rng.bool() {
            readers.interrupt(&mut rng)?;
        }
        fs::write(format!("{DRIVER}/unbind"), &interface).with_context(|| format!("{round}"))?;
        pause(&mut rng, 10);
        fs::write(format!("{DRIVER}/bind"), &interface).with_context(|| format!("{round}"))?;
        ensure!(device.is_in_use(), "round {round}");
    }
    let bytes = readers.shared.bytes.load(Ordering::Relaxed);
    wait_until("readers to get bytes", || {
        readers.shared.bytes.load(Ordering::Relaxed) > bytes + BLOCK as u64
    })?;
    let shared = readers.end(guest)?;
    if shared.bytes.load(Ordering::Relaxed) == 0 {
        bail!("nothing was read");
    }
    expect_each_once(guest, &shared)
}

/// The storms' check of what was delivered does see bytes that come twice: with a build of the module whose
/// readers leave the second half of what they have taken to the next.
fn bytes_delivered_twice_are_seen(guest: &mut Guest) -> Result<()> {
    guest.module.set_file_name(BROKEN);
    let node = guest.start()?;
    let shared = Shared::default();
    for _ in 0..20 {
        shared.note(node.read(4096))?;
    }
    let found = expect_each_once(guest, &shared);
    let found = found.err().context("nothing was seen")?.to_string();
    ensure!(found.ends_with("was delivered 2 times"), "{found}");
    Ok(())
}
