// SPDX-License-Identifier: GPL-2.0

//! Tested blocks between the devices and their readers.
//!
//! A handful of blocks circulates for each device: free, filled by the device, ready, read, wiped,
//! free again. They are allocated when the device comes and freed when it goes, and each of them is
//! owned by one party at a time: a free or ready one by the pool, one being filled by the device's
//! request, one that is copied as a whole by its reader. Readers take what is ready in the order in
//! which it became so, whichever device it came from.
//!
//! The lock is never held while its holder sleeps for anything else: copies to user space are made
//! with page faults disabled, and the missing pages are brought in without the lock.

#![deny(unsafe_code)]

use crate::{
    abstractions::{
        freezer,
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

/// The most devices that can be here at once, working or not.
pub(crate) const MAX_DEVICES: usize = 8;

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

/// A queue whose room is allocated when it is made.
struct Queue<T> {
    /// The elements, from `first` on, around the end.
    slots: KVec<Option<T>>,
    /// Index of the first element.
    first: usize,
    /// How many elements there are.
    len: usize,
}

impl<T> Queue<T> {
    /// An empty queue with room for `room` elements.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn new(room: usize) -> Result<Self> {
        let mut slots = KVec::with_capacity(room, GFP_KERNEL)?;
        for _ in 0..room {
            slots.push(None, GFP_KERNEL)?;
        }
        Ok(Self {
            slots,
            first: 0,
            len: 0,
        })
    }

    /// The index so many behind `index`, around the end; both are at most the room.
    fn behind(&self, index: usize, count: usize) -> usize {
        let index = index.saturating_add(count);
        index.checked_sub(self.slots.len()).unwrap_or(index)
    }

    /// Puts an element at an index, where the queue is not full; gives it back where it is.
    fn put(&mut self, index: usize, element: T) -> Result<(), T> {
        let full = self.len >= self.slots.len();
        match self.slots.get_mut(index) {
            Some(slot) if !full => {
                *slot = Some(element);
                self.len = self.len.saturating_add(1);
                Ok(())
            }
            _ => Err(element),
        }
    }

    /// Puts an element behind the last; gives it back where the queue is full.
    fn push_back(&mut self, element: T) -> Result<(), T> {
        self.put(self.behind(self.first, self.len), element)
    }

    /// Puts an element before the first; gives it back where the queue is full.
    fn push_front(&mut self, element: T) -> Result<(), T> {
        let index = self.behind(self.first, self.slots.len().saturating_sub(1));
        self.put(index, element)?;
        self.first = index;
        Ok(())
    }

    /// Takes the first element.
    fn pop_front(&mut self) -> Option<T> {
        let element = self.slots.get_mut(self.first)?.take()?;
        self.first = self.behind(self.first, 1);
        self.len = self.len.saturating_sub(1);
        Some(element)
    }

    /// The first element.
    fn front_mut(&mut self) -> Option<&mut T> {
        self.slots.get_mut(self.first)?.as_mut()
    }
}

/// Whether bytes can be expected, from a device or from all of them.
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

/// What readers and root want of a device's driver.
#[derive(Clone, Copy, Default)]
pub(crate) struct Demands {
    /// A reader wants a device that was given up to be tried again.
    pub(crate) retry: bool,
    /// Root wants the start-up test to run, and the source to go on if it passes.
    pub(crate) start_up_test: bool,
}

/// The place of a device in the pool: an index below [`MAX_DEVICES`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

impl Slot {
    /// The index.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// Where a block comes from, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin {
    /// The place of the device.
    slot: Slot,
    /// Which device it was there: [`Supplier::epoch`].
    epoch: u32,
    /// Behind how many stops: [`Supplier::stops`].
    stops: u32,
}

/// A device, as far as the pool is concerned.
struct Supplier {
    /// Whether bytes can be expected from it; never [`State::Absent`].
    state: State,
    /// Wiped buffers.
    free: Queue<SensitiveBuffer>,
    /// How its driver is told that there is something for it to do.
    driver: Arc<Trigger>,
    /// What the driver has not been told yet.
    demands: Demands,
    /// The driver has found no free buffer, and waits for one.
    starved: bool,
    /// Tells the device from others that had its place.
    epoch: u32,
    /// Counts stops and start-up tests, so that a block from before one is not read after it.
    stops: u32,
    /// A block has passed since the device came, and no health test has stopped it since.
    healthy: bool,
}

/// What the lock protects.
struct Inner {
    /// The devices.
    suppliers: [Option<Supplier>; MAX_DEVICES],
    /// Blocks to read from, oldest first.
    ready: Queue<(Block, Origin)>,
    /// Counts devices, so that a buffer finds out whether its own is still there.
    epoch: u32,
    /// Counts how often there was a search for another device.
    searches: u32,
    /// The last of these searches goes on.
    searching: bool,
    /// There will be no search any more.
    closed: bool,
    /// Counts how often all devices were given up.
    failures: u32,
    /// Why they were given up last.
    last_failure: Error,
    /// All devices are given up.
    failed: bool,
    /// They were given up, and the read that noticed had bytes to return instead.
    owed: bool,
    /// Readers asleep.
    sleepers: usize,
    /// What [`Pool::is_healthy`] says.
    healthy: bool,
}

impl Inner {
    /// The device at a place.
    fn supplier(&mut self, slot: Slot) -> Option<&mut Supplier> {
        self.suppliers.get_mut(slot.0)?.as_mut()
    }

    /// The device that a block comes from, while it is there.
    fn supplier_of(&mut self, origin: Origin) -> Option<&mut Supplier> {
        self.supplier(origin.slot)
            .filter(|supplier| supplier.epoch == origin.epoch)
    }

    /// Whether bytes can be expected.
    fn state(&self) -> State {
        let mut state = State::Absent;
        for supplier in self.suppliers.iter().flatten() {
            match (supplier.state, state) {
                (State::Running, _) => return State::Running,
                // What a reader can do something about comes first.
                (State::Failed(_), State::Absent | State::Stopped)
                | (State::Stopped, State::Absent) => state = supplier.state,
                _ => {}
            }
        }
        if self.searching {
            State::Running
        } else {
            state
        }
    }

    /// How many devices work, as far as is known.
    fn working(&self) -> usize {
        let suppliers = self.suppliers.iter().flatten();
        suppliers
            .filter(|supplier| matches!(supplier.state, State::Running))
            .count()
    }

    /// Whether one more device may be used, of `limit` at once.
    fn has_room(&self, limit: usize) -> bool {
        self.working() < limit && self.suppliers.iter().any(Option::is_none)
    }

    /// Wipes what is ready from a device, and what readers have taken out to copy from when they
    /// put it back.
    fn discard_ready(&mut self, slot: Slot) {
        if let Some(supplier) = self.supplier(slot) {
            supplier.stops = supplier.stops.wrapping_add(1);
        }
        for _ in 0..self.ready.len {
            let Some((block, origin)) = self.ready.pop_front() else {
                break;
            };
            if origin.slot == slot {
                self.recycle(block.into_wiped(), origin);
            } else {
                // There is room: it was just taken out.
                let _ = self.ready.push_back((block, origin));
            }
        }
    }

    /// Keeps a wiped buffer for the device that it belongs to, or frees it.
    fn recycle(&mut self, buffer: SensitiveBuffer, origin: Origin) {
        if let Some(supplier) = self.supplier_of(origin) {
            // There is room for all buffers of a device, and a surplus one may be freed as well.
            let _ = supplier.free.push_back(buffer);
            if mem::take(&mut supplier.starved) {
                supplier.driver.now();
            }
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
    /// Used when another device is to be searched for.
    scout: Arc<Trigger>,
}

/// What a reader does next.
enum Turn {
    /// Go on.
    Again,
    /// Bring in the reader's pages, then go on.
    Fault,
    /// Copy this block.
    Copy(Block, Origin),
    /// Nothing can be had.
    Empty,
}

impl Pool {
    /// An empty pool without a device; `watcher` is used whenever [`Self::is_healthy`] changes, and
    /// `scout` where another device is to be searched for, which has to call
    /// [`Self::search_ended`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(watcher: Arc<Trigger>, scout: Arc<Trigger>) -> Result<impl PinInit<Self>> {
        let ready = Queue::new(MAX_BLOCKS * MAX_DEVICES)?;
        Ok(pin_init!(Self {
            inner <- new_mutex!(Inner {
                suppliers: [const { None }; MAX_DEVICES],
                ready,
                epoch: 0,
                searches: 0,
                searching: false,
                closed: false,
                failures: 0,
                last_failure: EIO,
                failed: false,
                owed: false,
                sleepers: 0,
                healthy: false,
            }),
            watcher,
            scout,
            readers <- new_poll_condvar!(),
        }))
    }

    /// A device has come: its driver is woken by `driver`, and `count` blocks of `size` bytes, at
    /// most [`MAX_BLOCKS`], circulate for it from now on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EBUSY` where `limit` devices work already.
    pub(crate) fn attach(
        &self,
        limit: usize,
        driver: Arc<Trigger>,
        count: usize,
        size: usize,
    ) -> Result<Slot> {
        // Without the lock, which readers wait for, and not for nothing.
        if !self.has_room(limit) {
            return Err(EBUSY);
        }
        let mut free = Queue::new(MAX_BLOCKS)?;
        for _ in 0..count.min(MAX_BLOCKS) {
            // There is room: the queue was empty.
            let _ = free.push_back(SensitiveBuffer::new(size)?);
        }

        let mut inner = self.inner.lock();
        if !inner.has_room(limit) {
            return Err(EBUSY);
        }
        let epoch = inner.epoch.wrapping_add(1);
        let vacant = inner.suppliers.iter().position(Option::is_none);
        let index = vacant.ok_or(EBUSY)?;
        let place = inner.suppliers.get_mut(index).ok_or(EBUSY)?;
        *place = Some(Supplier {
            state: State::Running,
            free,
            driver,
            demands: Demands::default(),
            starved: false,
            epoch,
            stops: 0,
            healthy: false,
        });
        inner.epoch = epoch;
        inner.owed = false;
        self.changed(&mut inner);
        Ok(Slot(index))
    }

    /// A device is gone: what was ready from it is wiped, and readers are woken. Where there is a
    /// `spare` they wait until it is in use, or cannot be.
    pub(crate) fn detach(&self, slot: Slot, spare: bool) {
        let mut inner = self.inner.lock();
        inner.discard_ready(slot);
        if let Some(place) = inner.suppliers.get_mut(slot.0) {
            *place = None;
        }
        self.replace(&mut inner, spare);
    }

    /// Whether one more device may be used, of `limit` at once.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        self.inner.lock().has_room(limit)
    }

    /// All retries of a device failed; readers get `error` after what is ready, unless another
    /// device works, or a `spare` can be used instead.
    pub(crate) fn fail(&self, slot: Slot, error: Error, spare: bool) {
        let mut inner = self.inner.lock();
        if let Some(supplier) = inner.supplier(slot) {
            supplier.state = State::Failed(error);
        }
        self.replace(&mut inner, spare);
    }

    /// A health test stopped a device: what was ready from it is not to be trusted either. There
    /// may be a `spare` to use instead.
    pub(crate) fn stop(&self, slot: Slot, spare: bool) {
        let mut inner = self.inner.lock();
        inner.discard_ready(slot);
        if let Some(supplier) = inner.supplier(slot) {
            supplier.state = State::Stopped;
            supplier.healthy = false;
        }
        self.replace(&mut inner, spare);
    }

    /// A device does not supply any more: has a `spare` searched for, whose outcome readers wait
    /// for, as long as there is somebody who searches.
    fn replace(&self, inner: &mut Guard<'_, Inner, MutexBackend>, spare: bool) {
        if spare && !inner.closed {
            inner.searches = inner.searches.wrapping_add(1);
            inner.searching = true;
            self.scout.now();
        }
        self.changed(inner);
    }

    /// A device is being tried again.
    pub(crate) fn resume(&self, slot: Slot) {
        let mut inner = self.inner.lock();
        if let Some(supplier) = inner.supplier(slot) {
            supplier.state = State::Running;
            self.changed(&mut inner);
        }
    }

    /// The number of the search that readers wait for, or waited for last.
    pub(crate) fn search(&self) -> u32 {
        self.inner.lock().searches
    }

    /// The search with this number has ended, and everything that it found is in use.
    pub(crate) fn search_ended(&self, search: u32) {
        let mut inner = self.inner.lock();
        if inner.searching && inner.searches == search {
            inner.searching = false;
            self.changed(&mut inner);
        }
    }

    /// From now on nobody searches for devices.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.searching = false;
        self.changed(&mut inner);
    }

    /// Takes a wiped buffer for a device to fill; where there is none, its driver is woken when
    /// there is one.
    pub(crate) fn take_free(&self, slot: Slot) -> Option<SensitiveBuffer> {
        let mut inner = self.inner.lock();
        let supplier = inner.supplier(slot)?;
        let buffer = supplier.free.pop_front();
        supplier.starved = buffer.is_none();
        buffer
    }

    /// Whether there is a wiped buffer for a device to fill.
    pub(crate) fn has_free(&self, slot: Slot) -> bool {
        let mut inner = self.inner.lock();
        inner
            .supplier(slot)
            .is_some_and(|supplier| supplier.free.len > 0)
    }

    /// Takes a buffer back from a device's driver that held nothing worth delivering.
    pub(crate) fn give_back(&self, slot: Slot, mut buffer: SensitiveBuffer) {
        let len = buffer.len();
        buffer.wipe(0..len);
        let mut inner = self.inner.lock();
        if let Some(supplier) = inner.supplier(slot) {
            // There is room for all buffers of a device.
            let _ = supplier.free.push_back(buffer);
        }
    }

    /// Makes a block of a device ready to be read; while a start-up test is due, wipes it instead.
    pub(crate) fn publish(&self, slot: Slot, block: Block) {
        let mut inner = self.inner.lock();
        let Some(supplier) = inner.supplier(slot) else {
            return;
        };
        let origin = Origin {
            slot,
            epoch: supplier.epoch,
            stops: supplier.stops,
        };
        if supplier.demands.start_up_test {
            return inner.recycle(block.into_wiped(), origin);
        }
        supplier.healthy = true;
        inner.owed = false;
        // There is room for all blocks of all devices.
        let _ = inner.ready.push_back((block, origin));
        self.update(&mut inner);
        // Who polls, and one of those who sleep: it wakes the next one if it leaves something.
        self.readers.notify_one();
    }

    /// Takes what readers and root have wanted of a device since the last call.
    pub(crate) fn take_demands(&self, slot: Slot) -> Demands {
        let mut inner = self.inner.lock();
        match inner.supplier(slot) {
            Some(supplier) => mem::take(&mut supplier.demands),
            None => Demands::default(),
        }
    }

    /// Root wants the start-up test to run on all devices. Nothing is delivered from one until it
    /// has passed.
    ///
    /// # Errors
    ///
    /// `ENODEV` where there is no device to test.
    pub(crate) fn demand_start_up_test(&self) -> Result {
        let mut inner = self.inner.lock();
        let mut found = false;
        for slot in (0..MAX_DEVICES).map(Slot) {
            inner.discard_ready(slot);
            if let Some(supplier) = inner.supplier(slot) {
                supplier.demands.start_up_test = true;
                supplier.driver.now();
                // Whoever reads after this waits for the outcome.
                supplier.state = State::Running;
                found = true;
            }
        }
        self.changed(&mut inner);
        found.then_some(()).ok_or(ENODEV)
    }

    /// To be called behind every change of a device's state: tells everybody who may care.
    fn changed(&self, inner: &mut Guard<'_, Inner, MutexBackend>) {
        self.update(inner);
        self.readers.notify_all();
    }

    /// As [`Self::changed`], but tells no reader.
    fn update(&self, inner: &mut Guard<'_, Inner, MutexBackend>) {
        let failed = match inner.state() {
            State::Failed(error) => {
                if !inner.failed {
                    inner.failures = inner.failures.wrapping_add(1);
                    inner.last_failure = error;
                }
                true
            }
            _ => false,
        };
        inner.failed = failed;

        let mut suppliers = inner.suppliers.iter().flatten();
        let healthy = suppliers.any(|supplier| supplier.healthy);
        if inner.healthy != healthy {
            inner.healthy = healthy;
            self.watcher.now();
        }
    }

    /// Whether there is a device that has passed its start-up test and was not stopped since. One
    /// that is merely silent may come back by being read from, so it counts.
    pub(crate) fn is_healthy(&self) -> bool {
        self.inner.lock().healthy
    }

    /// Reads into `to`: as many bytes as it has room for, at most [`MAX_BYTES_USER_CAN_REQUEST`].
    ///
    /// Fewer where `nonblocking` and no more are ready, where a signal comes, the device goes or
    /// fails, or a page of the reader's cannot be written. To be frozen, as for a suspend of the
    /// machine, is no signal, but for those who may hold locks.
    ///
    /// # Errors
    ///
    /// Where there was nothing to return: `EAGAIN` (`nonblocking` only), `ERESTARTSYS` (a signal),
    /// `ENODEV` (no device), `ETIMEDOUT` (the device is silent), `EIO` (it fails, or its output
    /// did), `EFAULT` (the first page cannot be written).
    pub(crate) fn read(&self, to: &mut IovIterDest<'_>, nonblocking: bool) -> Result<usize> {
        let mut wanted = to.len().min(MAX_BYTES_USER_CAN_REQUEST);
        let mut done: usize = 0;
        // Nobody may be frozen with locks: the kernel's own reads may hold some, as splice(2) does,
        // and those that do not wait, as io_uring's first attempts. They end instead.
        let freezable = !nonblocking && to.is_user_backed();
        let signal_pending = || match freezable {
            true => freezer::signal_pending(),
            false => kernel::current!().signal_pending(),
        };
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
                Turn::Again => {
                    if wanted == 0 {
                        self.pass_on(&inner);
                    }
                }
                Turn::Fault => {
                    drop(inner);
                    if let Err(error) = to.fault_in(wanted) {
                        break error;
                    }
                    if signal_pending() {
                        break ERESTARTSYS;
                    }
                }
                Turn::Copy(mut block, origin) => {
                    drop(inner);
                    let copied = block.copy_to(to, wanted);
                    wanted = wanted.saturating_sub(copied);
                    done = done.saturating_add(copied);
                    let faulted = wanted > 0 && block.len() > 0;
                    self.put_front(block, origin);
                    if faulted {
                        if let Err(error) = to.fault_in(wanted) {
                            break error;
                        }
                        if signal_pending() {
                            break ERESTARTSYS;
                        }
                    }
                }
                Turn::Empty => match (inner.state().error(), inner.failed) {
                    // The next read gets the error.
                    (Some(error), _) if done > 0 => {
                        inner.owed = true;
                        break error;
                    }
                    // That a device was given up is told to whoever waited for it, or comes next.
                    (Some(error), true) if inner.failures != seen || inner.owed => {
                        inner.owed = false;
                        break error;
                    }
                    // One that was given up before this read is asked once more for it.
                    (Some(error), true) => {
                        for supplier in inner.suppliers.iter_mut().flatten() {
                            if matches!(supplier.state, State::Failed(_)) {
                                supplier.demands.retry = true;
                                supplier.driver.now();
                                if !nonblocking {
                                    supplier.state = State::Running;
                                }
                            }
                        }
                        if nonblocking {
                            break error;
                        }
                        self.changed(&mut inner);
                    }
                    (Some(error), false) => break error,
                    // Given up while this read waited, and being tried again already.
                    (None, _) if inner.failures != seen && done == 0 => break inner.last_failure,
                    (None, _) if nonblocking => break EAGAIN,
                    (None, _) => {
                        inner.sleepers = inner.sleepers.saturating_add(1);
                        let signal = match freezable {
                            true => self.readers.wait_interruptible_freezable(&mut inner),
                            false => self.readers.wait_interruptible(&mut inner),
                        };
                        inner.sleepers = inner.sleepers.saturating_sub(1);
                        drop(inner);
                        if signal && signal_pending() {
                            break ERESTARTSYS;
                        }
                    }
                },
            }
        };
        // This one may have been woken for what it has not taken.
        self.pass_on(&self.inner.lock());
        if done > 0 {
            Ok(done)
        } else {
            Err(error)
        }
    }

    /// One step of a read, with the lock held: copies a bounded number of bytes, or tells what else
    /// to do. Returns how many bytes were copied.
    fn turn(inner: &mut Inner, to: &mut IovIterDest<'_>, wanted: usize) -> (usize, Turn) {
        let Some((block, origin)) = inner.ready.front_mut() else {
            return (0, Turn::Empty);
        };
        if wanted.min(block.len()) >= LARGE {
            return match inner.ready.pop_front() {
                Some((block, origin)) => (0, Turn::Copy(block, origin)),
                None => (0, Turn::Empty),
            };
        }

        let origin = *origin;
        let copied = block.copy_to(to, wanted);
        let faulted = copied < wanted.min(block.len().saturating_add(copied));
        if block.len() == 0 {
            if let Some((block, _)) = inner.ready.pop_front() {
                inner.recycle(block.into_wiped(), origin);
            }
        }
        (copied, if faulted { Turn::Fault } else { Turn::Again })
    }

    /// Puts a block back that a reader has copied from.
    fn put_front(&self, block: Block, origin: Origin) {
        let mut inner = self.inner.lock();
        let stops = inner.supplier_of(origin).map(|supplier| supplier.stops);
        // What is left of a block from before a stop or an unplug must not come back.
        if block.len() == 0 || stops != Some(origin.stops) {
            inner.recycle(block.into_wiped(), origin);
        } else {
            // There is room for all blocks of all devices.
            let _ = inner.ready.push_front((block, origin));
        }
        // Somebody may have gone to sleep because this block was away.
        self.pass_on(&inner);
    }

    /// Wakes one reader, who has been asleep longest, if there is something for it.
    fn pass_on(&self, inner: &Inner) {
        if inner.sleepers > 0 && inner.ready.len > 0 {
            self.readers.notify_one();
        }
    }

    /// Registers the caller's interest and returns what `poll(2)` reports: readable when bytes are
    /// ready or a read would fail.
    pub(crate) fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        table.register_wait(file, &self.readers);
        let mut inner = self.inner.lock();
        let ready = inner.ready.front_mut().is_some();
        match inner.state().error() {
            _ if ready => POLLIN,
            Some(_) => POLLIN | POLLERR,
            None => 0,
        }
    }
}
