// SPDX-License-Identifier: GPL-2.0

//! A crowd at `/dev/alrandom`: readers of all kinds who note what they get, processes that are
//! stopped and killed, and those that only look on.

use super::{
    guest::serial,
    info::read_text,
    wait::{
        wait_for_exit,
        PATIENCE, //
    },
    Background,
    Guest,
    Node,
    UsbDevice, //
};
use alpharng_emu::stream::{
    block,
    Command as Request, //
};
use anyhow::{
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

/// What each of the readers asks for at once, in bytes: multiples of a word's length, as a block's
/// is, so that no word is torn.
pub(crate) const SIZES: [usize; 8] = [8, 16, 256, 4096, 16_000, 16_384, 40_000, 100_000];

/// What the USB core says of a device that goes while it is being asked what it is.
pub(crate) const HALF_PLUGGED: [&str; 12] = [
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

/// Sleeps for up to so many milliseconds.
pub(crate) fn pause(rng: &mut Rng, most: u64) {
    thread::sleep(Duration::from_micros(rng.u64(..most * 1000)));
}

/// Words of 8 bytes, and how often each has been seen. All words of a random stream are different,
/// in practice.
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
pub(crate) struct Shared {
    /// They are to end.
    stop: AtomicBool,
    /// What was delivered.
    words: Mutex<Words>,
    /// How many bytes that was.
    bytes: AtomicU64,
    /// How often a read failed as it has to without a device, or was interrupted.
    refused: AtomicU64,
    /// With which other errors reads may fail.
    expected: Vec<Errno>,
}

impl Shared {
    /// How many bytes were delivered.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many reads failed as they may.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether to go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Takes note of what a read returned; fails where it may not return that.
    pub(crate) fn note(&self, result: Result<Vec<u8>, Errno>) -> Result<()> {
        match result {
            Ok(bytes) => {
                let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
                words.add(&bytes);
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(error)
                if matches!(error, Errno::NODEV | Errno::AGAIN | Errno::INTR)
                    || self.expected.contains(&error) =>
            {
                self.refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("read(2)"),
        }
        Ok(())
    }
}

/// Readers of all kinds.
pub(crate) struct Readers {
    /// What they share.
    pub(crate) shared: Arc<Shared>,
    /// The threads.
    threads: Vec<Background<Result<()>>>,
}

impl Readers {
    /// None so far.
    pub(crate) fn none() -> Self {
        Self {
            shared: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Starts the readers of the node, each of which keeps it open: one for each of [`SIZES`], and
    /// one that waits by poll(2).
    pub(crate) fn of_the_node() -> Result<Self> {
        Self::of_the_node_expecting(&[])
    }

    /// As [`Self::of_the_node`], for readers whose reads may also fail with these errors.
    pub(crate) fn of_the_node_expecting(errors: &[Errno]) -> Result<Self> {
        let mut this = Self {
            shared: Arc::new(Shared {
                expected: errors.to_vec(),
                ..Shared::default()
            }),
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
    pub(crate) fn and_others(mut self) -> Result<Self> {
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
    pub(crate) fn start(
        &mut self,
        body: impl Fn(&Shared) -> Result<()> + Send + 'static,
    ) -> Result<()> {
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
    pub(crate) fn interrupt(&self, rng: &mut Rng) -> Result<()> {
        match rng.choice(&self.threads) {
            Some(thread) => thread.signal(Signal::USR1),
            None => Ok(()),
        }
    }

    /// Ends them all; they must not hang, and none may have seen what it must not see.
    pub(crate) fn end(self, guest: &mut Guest) -> Result<Arc<Shared>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Whoever sleeps for bytes gets them, or an error, once there is a device or none.
        if UsbDevice::find(&serial(0)).is_some() {
            guest.unplug()?;
        }
        self.leave()
    }

    /// As [`Self::end`], where none of them sleeps for long.
    pub(crate) fn leave(self) -> Result<Arc<Shared>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join()??;
        }
        Ok(self.shared)
    }
}

/// A reader in a process of its own, that is stopped, goes on, and is killed at last.
pub(crate) struct Victim(Child);

impl Victim {
    /// Starts it.
    pub(crate) fn start() -> Result<Self> {
        let child = Command::new("cat")
            .arg("/dev/alrandom")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Sends it a signal, which finds it alive or not: without a device it has ended by itself.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.0), signal);
    }

    /// Kills it, and waits for its end.
    pub(crate) fn end(mut self) -> Result<()> {
        self.signal(Signal::CONT);
        self.0.kill()?;
        let status = wait_for_exit(&mut self.0, PATIENCE)?;
        status.context("a reader that was killed does not end")?;
        Ok(())
    }
}

/// Checks what was delivered: words of the device's stream from block `first` on, and none of them
/// twice. Returns how many blocks the device has sent.
///
/// # Errors
///
/// If it is not so.
pub(crate) fn expect_each_once(guest: &mut Guest, shared: &Shared, first: u64) -> Result<u64> {
    let sent = guest.emulator.status()?.next_block;
    let mut words = shared.words.lock().unwrap_or_else(PoisonError::into_inner);
    let delivered = words.0.len();
    for k in first..sent {
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
    Ok(sent - first)
}

/// As [`expect_each_once`], for a test in which readers have to get a fair number of bytes; says
/// how many.
///
/// # Errors
///
/// If it is not so.
pub(crate) fn expect_many_once(guest: &mut Guest, shared: &Shared) -> Result<()> {
    let sent = expect_each_once(guest, shared, 0)?;
    let (bytes, refused) = (shared.bytes(), shared.refused());
    ensure!(bytes > 1000, "only {bytes} bytes were delivered");
    println!("{bytes} bytes were delivered out of {sent} blocks, {refused} reads refused");
    Ok(())
}
