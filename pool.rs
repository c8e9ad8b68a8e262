// SPDX-License-Identifier: GPL-2.0

//! Tested blocks between the device and its readers.
//!
//! A handful of blocks circulates: free, filled by the device, ready, read, wiped, free again.
//! They are allocated when a device comes and freed when it goes, and each of them is owned by one
//! party at a time: a free or ready one by the pool, one being filled by the device's request, one
//! that is copied as a whole by its reader.
//!
//! The lock is never held while its holder sleeps for anything else: copies to user space are made
//! with page faults disabled, and the missing pages are brought in without the lock.

#![deny(unsafe_code)]

use crate::{
    abstractions::{
        iov::IovIterDestExt as _,
        miscdevice::{
            POLLERR,
            POLLIN, //
        },
        sensitive::SensitiveBuffer,
        workqueue::Trigger, //
    },
    MAX_BYTES_USER_CAN_REQUEST, //
};
use core::mem;
use kernel::{
    fs::File,
    iov::IovIterDest,
    new_mutex,
    new_poll_condvar,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        Mutex, //
    }, //
};

/// The most blocks that can circulate for a device.
pub(crate) const MAX_BLOCKS: usize = 6;

/// From how many bytes on a reader takes a whole block to copy it without the lock.
const LARGE: usize = 4096;

/// A block that passed all tests, or what is left of it.
pub(crate) struct Block {
    /// The memory.
    buffer: SensitiveBuffer,
    /// First byte not delivered yet.
    start: usize,
    /// First byte behind those that may be delivered.
    end: usize,
}

impl Block {
    /// Makes a block whose bytes from `start` to `end` may be delivered; the others are wiped.
    pub(crate) fn new(mut buffer: SensitiveBuffer, start: usize, end: usize) -> Self {
        let len = buffer.len();
        buffer.wipe(0..start);
        buffer.wipe(end..len);
        Self { buffer, start, end }
    }

    /// Wipes what was not delivered, and hands the memory back.
    fn into_wiped(mut self) -> SensitiveBuffer {
        // All the rest was wiped when the block was made, or when it was delivered.
        self.buffer.wipe(self.start..self.end);
        self.buffer
    }

    /// How many bytes can still be delivered.
    fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Delivers up to `count` bytes and wipes them; never sleeps.
    ///
    /// Returns how many bytes were copied: fewer where a page of the reader's is missing.
    fn copy_to(&mut self, to: &mut IovIterDest<'_>, count: usize) -> usize {
        let end = self.end.min(self.start.saturating_add(count));
        let Some(bytes) = self.buffer.as_slice().get(self.start..end) else {
            return 0;
        };
        let copied = to.copy_to_iter_nofault(bytes);
        let next = self.start.saturating_add(copied);
        self.buffer.wipe(self.start..next);
        self.start = next;
        copied
    }
}

/// A queue with room for the blocks of a device.
struct Queue<T> {
    /// The elements, from `first` on, around the end.
    slots: [Option<T>; MAX_BLOCKS],
    /// Index of the first element.
    first: usize,
    /// How many elements there are.
    len: usize,
}

impl<T> Queue<T> {
    /// An empty queue.
    const fn new() -> Self {
        Self {
            slots: [const { None }; MAX_BLOCKS],
            first: 0,
            len: 0,
        }
    }

    /// Puts an element behind the last; gives it back where the queue is full.
    fn push_back(&mut self, element: T) -> Result<(), T> {
        let index = self.first.wrapping_add(self.len) % MAX_BLOCKS;
        match self.slots.get_mut(index) {
            Some(slot) if self.len < MAX_BLOCKS => {
                *slot = Some(element);
                self.len = self.len.saturating_add(1);
                Ok(())
            }
            _ => Err(element),
        }
    }

    /// Puts an element before the first; gives it back where the queue is full.
    fn push_front(&mut self, element: T) -> Result<(), T> {
        let index = self.first.wrapping_add(MAX_BLOCKS - 1) % MAX_BLOCKS;
        match self.slots.get_mut(index) {
            Some(slot) if self.len < MAX_BLOCKS => {
                *slot = Some(element);
                self.first = index;
                self.len = self.len.saturating_add(1);
                Ok(())
            }
            _ => Err(element),
        }
    }

    /// Takes the first element.
    fn pop_front(&mut self) -> Option<T> {
        let element = self.slots.get_mut(self.first)?.take()?;
        self.first = self.first.wrapping_add(1) % MAX_BLOCKS;
        self.len = self.len.saturating_sub(1);
        Some(element)
    }

    /// The first element.
    fn front_mut(&mut self) -> Option<&mut T> {
        self.slots.get_mut(self.first)?.as_mut()
    }
}

/// Whether bytes can be expected.
#[derive(Clone, Copy)]
enum State {
    /// There is no device.
    Absent,
    /// There is one that works, as far as is known.
    Running,
    /// All retries failed; a reader may ask for more of them.
    Failed(Error),
    /// A health test stopped the source; only root or a replug starts it again.
    Stopped,
}

impl State {
    /// What a reader gets where nothing is ready; `None` where it may wait.
    fn error(self) -> Option<Error> {
        match self {
            Self::Absent => Some(ENODEV),
            Self::Running => None,
            Self::Failed(error) => Some(error),
            Self::Stopped => Some(EIO),
        }
    }
}

/// What readers and root want of the device's driver.
#[derive(Clone, Copy, Default)]
pub(crate) struct Demands {
    /// A reader wants a device that was given up to be tried again.
    pub(crate) retry: bool,
    /// Root wants the start-up test to run, and the source to go on if it passes.
    pub(crate) start_up_test: bool,
}

/// What the lock protects.
struct Inner {
    /// Whether bytes can be expected.
    state: State,
    /// Blocks to read from, oldest first.
    ready: Queue<Block>,
    /// Wiped buffers.
    free: Queue<SensitiveBuffer>,
    /// How the device's driver is told that there is something for it to do.
    driver: Option<Arc<Trigger>>,
    /// What it has not been told yet.
    demands: Demands,
    /// Counts devices, so that a buffer finds out whether its own is still there.
    epoch: u32,
    /// Counts stops and start-up tests, so that a block from before one is not read after it.
    stops: u32,
    /// Counts how often the device was given up.
    failures: u32,
    /// Why it was given up last.
    last_failure: Error,
    /// It was given up, and the read that noticed had bytes to return instead.
    owed: bool,
    /// Readers asleep.
    sleepers: usize,
    /// A block has passed since the device came, and no health test has stopped it since.
    healthy: bool,
}

impl Inner {
    /// The present.
    fn time(&self) -> Time {
        Time {
            epoch: self.epoch,
            stops: self.stops,
        }
    }

    /// Lets the device's driver run.
    fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.now();
        }
    }

    /// Wipes what is ready, and what readers have taken out to copy from when they put it back.
    fn discard_ready(&mut self) {
        self.stops = self.stops.wrapping_add(1);
        while let Some(block) = self.ready.pop_front() {
            self.recycle(block.into_wiped(), self.epoch);
        }
    }

    /// Keeps a wiped buffer for the device that it belongs to, or frees it.
    fn recycle(&mut self, buffer: SensitiveBuffer, epoch: u32) {
        if epoch == self.epoch && self.driver.is_some() {
            // There is room for all buffers of a device, and a surplus one may be freed as well.
            let _ = self.free.push_back(buffer);
            self.wake_driver();
        }
    }
}

/// The pool.
#[pin_data]
pub(crate) struct Pool {
    /// Everything that changes.
    #[pin]
    inner: Mutex<Inner>,
    /// Woken when blocks become ready and when the state changes.
    #[pin]
    readers: PollCondVar,
    /// Used when the source becomes healthy, or is so no more.
    watcher: Arc<Trigger>,
}

/// When a block was taken out of the pool.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Time {
    /// Which device it came from: [`Inner::epoch`].
    epoch: u32,
    /// Behind how many stops: [`Inner::stops`].
    stops: u32,
}

/// What a reader does next.
enum Turn {
    /// Go on.
    Again,
    /// Bring in the reader's pages, then go on.
    Fault,
    /// Copy this block, taken at this time.
    Copy(Block, Time),
    /// Nothing can be had.
    Empty,
}

impl Pool {
    /// An empty pool without a device; `watcher` is used whenever [`Self::is_healthy`] changes.
    pub(crate) fn new(watcher: Arc<Trigger>) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner {
                state: State::Absent,
                ready: Queue::new(),
                free: Queue::new(),
                driver: None,
                demands: Demands::default(),
                epoch: 0,
                stops: 0,
                failures: 0,
                last_failure: EIO,
                owed: false,
                sleepers: 0,
                healthy: false,
            }),
            watcher,
            readers <- new_poll_condvar!(),
        })
    }

    /// A device has come: its driver is woken by `driver`, and `count` blocks of `size` bytes, at
    /// most [`MAX_BLOCKS`], circulate from now on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EBUSY` where another device is in use.
    pub(crate) fn attach(&self, driver: Arc<Trigger>, count: usize, size: usize) -> Result {
        // Allocated without the lock, which readers wait for.
        let mut buffers = Queue::new();
        for _ in 0..count.min(MAX_BLOCKS) {
            // There is room: the queue was empty.
            let _ = buffers.push_back(SensitiveBuffer::new(size)?);
        }

        let mut inner = self.inner.lock();
        if inner.driver.is_some() {
            return Err(EBUSY);
        }
        inner.epoch = inner.epoch.wrapping_add(1);
        inner.free = buffers;
        inner.driver = Some(driver);
        inner.demands = Demands::default();
        inner.owed = false;
        self.set_state(&mut inner, State::Running);
        Ok(())
    }

    /// The device is gone: what was ready is wiped, and readers are woken.
    pub(crate) fn detach(&self) {
        let mut inner = self.inner.lock();
        inner.driver = None;
        inner.free = Queue::new();
        inner.ready = Queue::new();
        self.set_state(&mut inner, State::Absent);
        self.set_healthy(&mut inner, false);
    }

    /// Whether a device is in use.
    pub(crate) fn has_device(&self) -> bool {
        self.inner.lock().driver.is_some()
    }

    /// All retries failed; readers get `error` after what is ready.
    pub(crate) fn fail(&self, error: Error) {
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.wrapping_add(1);
        inner.last_failure = error;
        self.set_state(&mut inner, State::Failed(error));
    }

    /// A health test stopped the source: what was ready is not to be trusted either.
    pub(crate) fn stop(&self) {
        let mut inner = self.inner.lock();
        inner.discard_ready();
        self.set_state(&mut inner, State::Stopped);
        self.set_healthy(&mut inner, false);
    }

    /// The device is being tried again.
    pub(crate) fn resume(&self) {
        let mut inner = self.inner.lock();
        if inner.driver.is_some() {
            self.set_state(&mut inner, State::Running);
        }
    }

    /// Takes a wiped buffer to fill, if there is one.
    pub(crate) fn take_free(&self) -> Option<SensitiveBuffer> {
        self.inner.lock().free.pop_front()
    }

    /// Gives back a buffer that held nothing worth delivering.
    pub(crate) fn give_back(&self, mut buffer: SensitiveBuffer) {
        let len = buffer.len();
        buffer.wipe(0..len);
        let mut inner = self.inner.lock();
        let epoch = inner.epoch;
        inner.recycle(buffer, epoch);
    }

    /// Makes a block ready to be read; while a start-up test is due, wipes it instead.
    pub(crate) fn publish(&self, block: Block) {
        let mut inner = self.inner.lock();
        if inner.demands.start_up_test {
            let epoch = inner.epoch;
            inner.recycle(block.into_wiped(), epoch);
        } else if inner.driver.is_some() {
            inner.owed = false;
            // There is room for all blocks of a device.
            let _ = inner.ready.push_back(block);
            self.readers.notify_all();
            self.set_healthy(&mut inner, true);
        }
    }

    /// Takes what readers and root have wanted since the last call.
    pub(crate) fn take_demands(&self) -> Demands {
        mem::take(&mut self.inner.lock().demands)
    }

    /// Root wants the start-up test to run. Nothing is delivered until it has passed.
    ///
    /// # Errors
    ///
    /// `ENODEV` where there is no device to test.
    pub(crate) fn demand_start_up_test(&self) -> Result {
        let mut inner = self.inner.lock();
        if inner.driver.is_none() {
            return Err(ENODEV);
        }
        inner.discard_ready();
        inner.demands.start_up_test = true;
        inner.wake_driver();
        // Whoever reads after this waits for the outcome.
        self.set_state(&mut inner, State::Running);
        Ok(())
    }

    /// Changes the state and wakes everybody who may care.
    fn set_state(&self, inner: &mut Guard<'_, Inner, MutexBackend>, state: State) {
        inner.state = state;
        self.readers.notify_all();
    }

    /// Whether there is a device that has passed its start-up test and was not stopped since. One
    /// that is merely silent may come back by being read from, so it counts.
    pub(crate) fn is_healthy(&self) -> bool {
        self.inner.lock().healthy
    }

    /// Changes what [`Self::is_healthy`] says.
    fn set_healthy(&self, inner: &mut Guard<'_, Inner, MutexBackend>, healthy: bool) {
        if inner.healthy != healthy {
            inner.healthy = healthy;
            self.watcher.now();
        }
    }

    /// Reads into `to`: as many bytes as it has room for, at most [`MAX_BYTES_USER_CAN_REQUEST`].
    ///
    /// Fewer where `nonblocking` and no more are ready, where a signal comes, the device goes or
    /// fails, or a page of the reader's cannot be written.
    ///
    /// # Errors
    ///
    /// Where there was nothing to return: `EAGAIN` (`nonblocking` only), `ERESTARTSYS` (a signal),
    /// `ENODEV` (no device), `ETIMEDOUT` (the device is silent), `EIO` (it fails, or its output
    /// did), `EFAULT` (the first page cannot be written).
    pub(crate) fn read(&self, to: &mut IovIterDest<'_>, nonblocking: bool) -> Result<usize> {
        let mut wanted = to.len().min(MAX_BYTES_USER_CAN_REQUEST);
        let mut done: usize = 0;
        // How often the device had been given up when this read began.
        let mut seen = None;

        let error = loop {
            if wanted == 0 {
                return Ok(done);
            }
            let mut inner = self.inner.lock();
            let seen = *seen.get_or_insert(inner.failures);
            let (copied, turn) = Self::turn(&mut inner, to, wanted);
            wanted = wanted.saturating_sub(copied);
            done = done.saturating_add(copied);

            match turn {
                Turn::Again => {}
                Turn::Fault => {
                    drop(inner);
                    if let Err(error) = to.fault_in(wanted) {
                        break error;
                    }
                    if kernel::current!().signal_pending() {
                        break ERESTARTSYS;
                    }
                }
                Turn::Copy(mut block, time) => {
                    drop(inner);
                    let copied = block.copy_to(to, wanted);
                    wanted = wanted.saturating_sub(copied);
                    done = done.saturating_add(copied);
                    let faulted = wanted > 0 && block.len() > 0;
                    self.put_front(block, time);
                    if faulted {
                        if let Err(error) = to.fault_in(wanted) {
                            break error;
                        }
                        if kernel::current!().signal_pending() {
                            break ERESTARTSYS;
                        }
                    }
                }
                Turn::Empty => match inner.state.error() {
                    // The next read gets the error.
                    Some(error) if done > 0 => {
                        inner.owed = true;
                        break error;
                    }
                    // A device that was given up before this read is asked once more for it. That
                    // it was given up is told to whoever waited for it, or comes next.
                    Some(error) if matches!(inner.state, State::Failed(_)) => {
                        inner.demands.retry = true;
                        inner.wake_driver();
                        if nonblocking || inner.failures != seen || mem::take(&mut inner.owed) {
                            inner.owed = false;
                            break error;
                        }
                        self.set_state(&mut inner, State::Running);
                    }
                    Some(error) => break error,
                    // Given up while this read waited, and being tried again already.
                    None if inner.failures != seen && done == 0 => break inner.last_failure,
                    None if nonblocking => break EAGAIN,
                    None => {
                        inner.sleepers = inner.sleepers.saturating_add(1);
                        let signal = self.readers.wait_interruptible(&mut inner);
                        inner.sleepers = inner.sleepers.saturating_sub(1);
                        if signal {
                            break ERESTARTSYS;
                        }
                    }
                },
            }
        };
        if done > 0 {
            Ok(done)
        } else {
            Err(error)
        }
    }

    /// One step of a read, with the lock held: copies a bounded number of bytes, or tells what else
    /// to do. Returns how many bytes were copied.
    fn turn(inner: &mut Inner, to: &mut IovIterDest<'_>, wanted: usize) -> (usize, Turn) {
        let time = inner.time();
        let Some(block) = inner.ready.front_mut() else {
            return (0, Turn::Empty);
        };
        if wanted.min(block.len()) >= LARGE {
            return match inner.ready.pop_front() {
                Some(block) => (0, Turn::Copy(block, time)),
                None => (0, Turn::Empty),
            };
        }

        let copied = block.copy_to(to, wanted);
        let faulted = copied < wanted.min(block.len().saturating_add(copied));
        if block.len() == 0 {
            if let Some(block) = inner.ready.pop_front() {
                inner.recycle(block.into_wiped(), time.epoch);
            }
        }
        (copied, if faulted { Turn::Fault } else { Turn::Again })
    }

    /// Puts a block back that a reader has copied from.
    fn put_front(&self, block: Block, time: Time) {
        let mut inner = self.inner.lock();
        // What is left of a block from before a stop or an unplug must not come back.
        if block.len() == 0 || time != inner.time() || inner.driver.is_none() {
            inner.recycle(block.into_wiped(), time.epoch);
        } else {
            // There is room for all blocks of a device.
            let _ = inner.ready.push_front(block);
            // Somebody may have gone to sleep because this block was away.
            if inner.sleepers > 0 {
                self.readers.notify_all();
            }
        }
    }

    /// Registers the caller's interest and returns what `poll(2)` reports: readable when bytes are
    /// ready or a read would fail.
    pub(crate) fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        table.register_wait(file, &self.readers);
        let mut inner = self.inner.lock();
        let ready = inner.ready.front_mut().is_some();
        match inner.state.error() {
            _ if ready => POLLIN,
            Some(_) => POLLIN | POLLERR,
            None => 0,
        }
    }
}
