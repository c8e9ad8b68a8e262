// SPDX-License-Identifier: GPL-2.0

//! AlphaRNG on USB: which devices, taking one from the serial driver, the cycle of requests.
//!
//! All work on a device is done by one work item, [`AlphaRng`]: the completion handlers, the timer,
//! readers and the power management only ask for it. So nothing of it runs in atomic context, no
//! two parts of it run at once, and it ends before its device is let go of.

#![deny(unsafe_code)]

use crate::{
    abstractions::{
        sensitive::SensitiveBuffer,
        usb::{
            Address,
            AutopmGuard,
            AutosuspendGuard,
            Device,
            DeviceId,
            Driver,
            Endpoint,
            Interface,
            LockedDevice,
            Status,
            Urb, //
        },
        workqueue::{
            Trigger,
            WorkItem,
            Worker, //
        }, //
    },
    cdc,
    health::{
        Decision,
        Health,
        MinEntropy,
        Why, //
    },
    pool::{
        Block,
        Slot, //
    },
    procfs::Report,
    protocol::{
        Command,
        DeviceStatus,
        Failure,
        Pipelining,
        Protocol,
        Step,
        ANSWER,
        ATTEMPTS,
        DATA, //
    },
    Source, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Relaxed,
        Arc,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    }, //
};

/// The devices, by their data interfaces (device.md, USB identity). The interface's class is part
/// of it: the communications interface next to it stays with nobody.
pub(crate) const TABLE: [DeviceId; 3] = [
    DeviceId::new(0x1fc9, 0x8111, cdc::CLASS_DATA),
    DeviceId::new(0x3975, 0x0005, cdc::CLASS_DATA),
    DeviceId::end(),
];

/// Name of the stock driver that is taken the device from.
const SERIAL_DRIVER: &CStr = c"cdc_acm";

/// How long to wait before a device that is in use is tried again, in milliseconds.
const BUSY_RETRY_MS: u32 = 1_000;

/// The largest packet that a bulk endpoint can have at high speed (USB 2.0, 5.8.3), in bytes.
const MAX_PACKET: usize = 512;

/// Size of a block's buffer in bytes: an answer, to be read in whole packets from any point of it
/// that a split answer can have come to.
const BUFFER: usize = ANSWER.next_multiple_of(MAX_PACKET) + MAX_PACKET;

/// Blocks that circulate, at least: besides those that answers are coming into there is always one
/// to be tested or to wait for a reader, and one to be read.
const BLOCKS: usize = 4;

/// The shortest time between two lines in the log about the same kind of event, in milliseconds.
const LOG_INTERVAL_MS: u64 = 5_000;

/// The driver: what it does with the devices that it is offered.
pub(crate) struct AlphaRngDriver {
    /// Where the bytes go.
    source: Arc<Source>,
}

impl AlphaRngDriver {
    /// Makes the driver of `source`.
    pub(crate) fn new(source: Arc<Source>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { source }, GFP_KERNEL)?)
    }

    /// Makes what works on the device at `slot` of the pool.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn start(
        &self,
        slot: Slot,
        device: &Device,
        interface: &Interface,
        control: Option<&Interface>,
        trigger: Arc<Trigger>,
        lanes: Lanes,
    ) -> Result<KBox<Worker<AlphaRng>>> {
        let mut health = Health::new(min_entropy());
        health.attach();
        let wake = trigger.clone();
        let rng = Arc::pin_init(
            try_pin_init!(AlphaRng {
                source: self.source.clone(),
                slot,
                device: ARef::from(device),
                interface: ARef::from(interface),
                // Before the data interface, where no descriptor tells.
                control: control
                    .map_or(interface.number().saturating_sub(1), Interface::number),
                trigger: wake,
                engine <- new_mutex!(Engine {
                    protocol: Protocol::new(0, lanes.len()),
                    lanes,
                    origin: Instant::now(),
                    health,
                    answers: 0,
                    paused: false,
                    idle_since: None,
                    awake: Some(interface.autopm_get_no_resume()),
                    autosuspend: None,
                    clear_rx: false,
                    clear_tx: false,
                    refused: false,
                    told_refused: false,
                    tests_disabled: crate::DISABLE_STATISTICAL_TESTS.get(),
                    log_protocol: RateLimit::default(),
                    log_health: RateLimit::default(),
                }),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(KBox::new(Worker::new(trigger, rng)?, GFP_KERNEL)?)
    }
}

impl Driver for AlphaRngDriver {
    const NAME: &'static CStr = c"alrandom";
    const TABLE: &'static [DeviceId] = &TABLE;
    type Data = Worker<AlphaRng>;

    fn probe(&self, device: &LockedDevice<'_>, interface: &Interface) -> Result<KBox<Self::Data>> {
        let (Some(bulk_in), Some(bulk_out)) = (
            interface.bulk_endpoint(true),
            interface.bulk_endpoint(false),
        ) else {
            dev_warn!(
                interface,
                "not an AlphaRNG: no bulk endpoints on this interface\n"
            );
            return Err(ENODEV);
        };
        if bulk_in.max_packet.get() > MAX_PACKET {
            dev_warn!(
                interface,
                "not an AlphaRNG: bulk packets of {} bytes\n",
                bulk_in.max_packet.get()
            );
            return Err(ENODEV);
        }

        // Next to the data interface by custom, named by its union descriptor for certain.
        let control = find_control(device, interface.number());
        let trigger = new_trigger!(c"alrandom")?;
        let limit = max_commands();
        let lanes = Lanes::new(limit, device, bulk_in, bulk_out, &trigger)?;

        // Only so many devices are used; another one is left alone, here, and to the serial driver.
        let blocks = BLOCKS.max(limit.saturating_add(2));
        let slot = self
            .source
            .pool
            .attach(max_devices(), trigger.clone(), blocks, BUFFER)
            .inspect_err(|error| {
                if *error != EBUSY {
                    dev_err!(interface, "out of memory for the device's buffers\n");
                }
            })
            .map_err(|error| if error == EBUSY { ENODEV } else { error })?;
        let data = self
            .start(slot, device, interface, control, trigger, lanes)
            .inspect_err(|_| self.source.pool.detach(slot, false))?;

        if let Some(control) = control {
            // So that the serial driver, should it come later, finds nothing to do. Where another
            // driver has it, only that is lost.
            let _ = device.claim(interface, control);
        }
        let address = device.address();
        if let Some(report) = self.source.reports.lock().get_mut(slot.index()) {
            *report = Some(Report::new(address));
        }
        self.source.left.lock().remove(address);
        data.item().set_line_state(cdc::DTR_RTS);
        dev_info!(interface, "AlphaRNG in use as /dev/alrandom\n");
        data.trigger().now();
        Ok(data)
    }

    fn disconnect(&self, device: &LockedDevice<'_>, interface: &Interface, data: KBox<Self::Data>) {
        let rng = data.item().clone();
        // First the work ends, then the readers are told; then nobody is left who could submit a
        // request, and they end with the last reference.
        drop(data);
        let address = device.address();
        if !interface.is_unregistering(device) {
            // Only the driver goes. Otherwise the device may come back as it is, once it is
            // configured again.
            self.source.left.lock().add(address);
        }
        if let Some(report) = self.source.reports.lock().get_mut(rng.slot.index()) {
            *report = None;
        }
        let spare = has_spare(&self.source, Some(address));
        self.source.pool.detach(rng.slot, spare);
        let mut engine = rng.engine.lock();
        engine.shut_down();
        engine.awake = None;
        let autosuspend = engine.autosuspend.take();
        drop(engine);
        drop(autosuspend);
        rng.set_line_state(0);
        if let Some(control) = find_control(device, interface.number()) {
            if control.driver_name(device) == Some(Self::NAME) {
                device.release(control);
            }
        }
        dev_info!(interface, "AlphaRNG no longer in use\n");
    }

    fn suspend(&self, _interface: &Interface, data: &Self::Data) {
        data.item().engine.lock().shut_down();
    }

    fn resume(&self, _interface: &Interface, data: &Self::Data, reset: bool) {
        if reset {
            data.item().set_line_state(cdc::DTR_RTS);
        }
        data.item().engine.lock().start_again(data.item());
        data.trigger().now();
    }

    fn bound_elsewhere(&self) {
        // It may be a new device, or one that is back, and the serial driver that has it.
        self.source.scout.now();
    }
}

/// The smallest assessed min-entropy, in bits per byte.
const LEAST_ENTROPY: MinEntropy = match MinEntropy::new(1) {
    Some(bits) => bits,
    None => panic!("1 bit per byte is in range"),
};

/// The assessed min-entropy that the parameter gives.
fn min_entropy() -> MinEntropy {
    // The parameter is kept in range, so the fallback is never used.
    u32::try_from(crate::MIN_ENTROPY.get())
        .ok()
        .and_then(MinEntropy::new)
        .unwrap_or(LEAST_ENTROPY)
}

/// How many commands may be under way at once, as the parameter says.
fn max_commands() -> usize {
    // The parameter is kept in range, so the fallback is never used.
    usize::try_from(crate::MAX_COMMANDS.get()).unwrap_or(1)
}

/// How many devices may be in use at once, as the parameter says.
fn max_devices() -> usize {
    // The parameter is kept in range, so the fallback is never used.
    usize::try_from(crate::MAX_DEVICES.get()).unwrap_or(1)
}

/// Whether there is a device that could be used besides those that are, or were, and besides the
/// one that is `going`.
fn has_spare(source: &Source, going: Option<Address>) -> bool {
    let mut spare = false;
    Device::for_each(&mut |device| {
        let address = device.address();
        let other = device.is_in(&TABLE) && going != Some(address);
        spare = spare || (other && !is_known(source, address));
    });
    spare
}

/// Whether the device with this address is in use, or is not to be used again.
fn is_known(source: &Source, address: Address) -> bool {
    let reports = source.reports.lock();
    let mut used = reports.iter().flatten();
    used.any(|report| report.address == address) || source.left.lock().contains(address)
}

/// A device in use.
#[pin_data]
pub(crate) struct AlphaRng {
    /// Where the bytes go.
    source: Arc<Source>,
    /// The device's place there.
    slot: Slot,
    /// The device.
    device: ARef<Device>,
    /// Its data interface.
    interface: ARef<Interface>,
    /// The number of its communications interface.
    control: u8,
    /// How the work is asked for.
    trigger: Arc<Trigger>,
    /// The work's state.
    #[pin]
    engine: Mutex<Engine>,
}

impl AlphaRng {
    /// Raises or lowers DTR and RTS, as the serial driver does on start and stop.
    ///
    /// A device that refuses is used all the same: the lines mean nothing to it.
    fn set_line_state(&self, lines: u16) {
        let result = self.device.control(
            cdc::TO_INTERFACE,
            cdc::SET_CONTROL_LINE_STATE,
            lines,
            self.control.into(),
        );
        if let Err(error) = result {
            if crate::DEBUG_MODE.get() {
                dev_info!(
                    self.interface,
                    "debug: DTR and RTS not set to {}: {:?}\n",
                    lines,
                    error
                );
            }
        }
    }
}

/// The communications interface of the data interface `number` of `device`.
fn find_control<'a>(device: &'a LockedDevice<'_>, number: u8) -> Option<&'a Interface> {
    device
        .interfaces()
        .find(|interface| is_control_of(interface, number))
}

/// Whether `interface` is the communications interface of the data interface `number`.
fn is_control_of(interface: &Interface, number: u8) -> bool {
    interface.class() == (cdc::CLASS_COMM, cdc::SUBCLASS_ACM)
        && cdc::data_interface(interface.extra()).is_none_or(|data| data == number)
}

impl WorkItem for AlphaRng {
    fn run(&self) {
        self.engine.lock().run(self);
    }
}

/// Keeps a repeated event from filling the log.
#[derive(Default)]
struct RateLimit {
    /// When the last line was written, in milliseconds.
    last: Option<u64>,
}

impl RateLimit {
    /// Whether a line may be written at the time `now`.
    fn allows(&mut self, now: u64) -> bool {
        let allowed = self
            .last
            .is_none_or(|last| now.saturating_sub(last) >= LOG_INTERVAL_MS);
        if allowed {
            self.last = Some(now);
        }
        allowed
    }
}

/// A command and its answer.
struct Lane {
    /// Reads the answer.
    rx: Urb,
    /// Writes the command.
    tx: Urb,
    /// Where in its buffer `rx` was submitted.
    rx_offset: usize,
    /// The buffer for the answer, while `rx` does not have it.
    spare: Option<SensitiveBuffer>,
    /// The buffer of the command, while `tx` does not have it.
    command: Option<SensitiveBuffer>,
}

impl Lane {
    /// Makes a lane of a device.
    fn new(
        device: &Device,
        bulk_in: Endpoint,
        bulk_out: Endpoint,
        trigger: &Arc<Trigger>,
    ) -> Result<Self> {
        Ok(Self {
            rx: Urb::new(device, bulk_in, trigger.clone())?,
            tx: Urb::new(device, bulk_out, trigger.clone())?,
            rx_offset: 0,
            spare: None,
            command: Some(SensitiveBuffer::new(1)?),
        })
    }

    /// Whether there is the buffer of the command; where the controller still has it, the work is
    /// asked for when it comes back, which is otherwise of no interest.
    fn have_command(&self) -> bool {
        if self.command.is_none() {
            self.tx.await_end();
        }
        self.command.is_some()
    }

    /// Makes sure that there is a buffer for the answer; where there is none, the work is asked for
    /// when there is.
    fn have_buffer(&mut self, rng: &AlphaRng) -> bool {
        if self.spare.is_none() && !self.rx.is_submitted() {
            self.spare = rng.source.pool.take_free(rng.slot);
        }
        self.spare.is_some() || self.rx.is_submitted()
    }

    /// Wipes what has come for an answer that is worthless.
    fn wipe(&mut self) {
        if let Some(buffer) = &mut self.spare {
            let len = buffer.len();
            buffer.wipe(0..len);
        }
    }

    /// Takes the read back, and its buffer.
    fn cancel_read(&mut self) {
        if let Some(completion) = self.rx.cancel() {
            self.spare = Some(completion.buffer);
        }
    }

    /// Takes the command back, and its buffer.
    fn cancel_command(&mut self) {
        if let Some(completion) = self.tx.cancel() {
            self.command = Some(completion.buffer);
        }
    }
}

/// The lanes of a device, as many as commands may be under way, used in turn.
///
/// The answers come in the order of the commands; what the device sends otherwise comes to the
/// first lane.
struct Lanes {
    /// At least one.
    lanes: KVec<Lane>,
    /// Index of the lane whose answer comes next.
    first: usize,
}

impl Lanes {
    /// Makes `count` lanes.
    fn new(
        count: usize,
        device: &Device,
        bulk_in: Endpoint,
        bulk_out: Endpoint,
        trigger: &Arc<Trigger>,
    ) -> Result<Self> {
        let mut lanes = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            lanes.push(Lane::new(device, bulk_in, bulk_out, trigger)?, GFP_KERNEL)?;
        }
        Ok(Self { lanes, first: 0 })
    }

    /// The lane so many behind the first; `None` where there are not so many.
    fn get(&mut self, behind: usize) -> Option<&mut Lane> {
        let len = self.lanes.len();
        let index = self.first.checked_add(behind)?;
        let index = index.checked_sub(len).unwrap_or(index);
        self.lanes.get_mut(index).filter(|_| behind < len)
    }

    /// The first lane's answer is complete: the next one is the first.
    fn advance(&mut self) {
        self.first = self.first.wrapping_add(1);
        if self.first >= self.lanes.len() {
            self.first = 0;
        }
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.lanes.len()
    }

    /// All of them, in no order.
    fn all(&mut self) -> core::slice::IterMut<'_, Lane> {
        self.lanes.iter_mut()
    }
}

/// The cycle of requests and answers.
struct Engine {
    /// The requests.
    lanes: Lanes,
    /// When the device came: the origin of all times.
    origin: Instant<Monotonic>,
    /// What to say and what to expect.
    protocol: Protocol,
    /// What to think of the answers.
    health: Health,
    /// Complete answers from the device.
    answers: u64,
    /// Suspended, or gone.
    paused: bool,
    /// Since when there has been nothing for the device to do, in milliseconds.
    idle_since: Option<u64>,
    /// Without it the USB core may suspend the device, to which nothing is sent then.
    awake: Option<AutopmGuard>,
    /// There where root had not allowed that, but the parameter does.
    autosuspend: Option<AutosuspendGuard>,
    /// The IN endpoint is halted.
    clear_rx: bool,
    /// The OUT endpoint is halted.
    clear_tx: bool,
    /// The USB core has refused a request since the last command; reading waits for the next one.
    refused: bool,
    /// The log has it that the device gets one command at a time.
    told_refused: bool,
    /// What the parameter said when it was last looked at.
    tests_disabled: bool,
    /// For messages about failed attempts.
    log_protocol: RateLimit,
    /// For messages about discarded blocks.
    log_health: RateLimit,
}

impl Engine {
    /// Milliseconds since the device came.
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(0)
    }

    /// Takes all requests back; the work does nothing until [`Self::start_again`].
    fn shut_down(&mut self) {
        self.paused = true;
        self.cancel_requests();
    }

    /// After a suspend or a reset: the line may hold anything, and the source must prove itself.
    ///
    /// A source that a health test has stopped stays stopped.
    fn start_again(&mut self, rng: &AlphaRng) {
        let now = self.now();
        self.paused = false;
        self.protocol.restart(now);
        if !self.health.is_stopped() {
            self.health.restart();
            rng.source.pool.resume(rng.slot);
        }
    }

    /// Takes all requests back, and their buffers, of which nothing will be used.
    ///
    /// The newest first: a device that is freed from one command may take the next at once.
    fn cancel_requests(&mut self) {
        for behind in (0..self.lanes.len()).rev() {
            if let Some(lane) = self.lanes.get(behind) {
                lane.cancel_command();
            }
        }
        for behind in (0..self.lanes.len()).rev() {
            if let Some(lane) = self.lanes.get(behind) {
                lane.cancel_read();
                lane.wipe();
            }
        }
    }

    /// Does what there is to do, and says when it wants to be called at the latest.
    fn run(&mut self, rng: &AlphaRng) {
        self.heed_demands(rng);
        self.wake_up(rng);
        while self.is_up() {
            let Some(step) = self.next_step(rng) else {
                break;
            };
            self.take_step(rng, step);
        }
        self.report_pipelining(rng);
        if !self.is_up() {
            return;
        }
        let deadlines = [self.protocol.deadline(), self.doze(rng)];
        if let Some(deadline) = deadlines.into_iter().flatten().min() {
            let wait = deadline.saturating_sub(self.now());
            // One more: a timer may be early by a fraction of a jiffy.
            let wait = msecs_to_jiffies(u32::try_from(wait).unwrap_or(u32::MAX));
            rng.trigger.after(wait.saturating_add(1));
        }
    }

    /// Whether something can be sent to the device.
    fn is_up(&self) -> bool {
        !self.paused && self.awake.is_some()
    }

    /// Lets the device be suspended when it has been idle for as long as the parameter says; until
    /// then, says when that will be.
    fn doze(&mut self, rng: &AlphaRng) -> Option<u64> {
        let seconds = u64::try_from(crate::IDLE_SUSPEND.get()).unwrap_or(0);
        // With a buffer free it would not be idle.
        let idle = self.protocol.is_ready()
            && self.protocol.under_way() == 0
            && !self.health.is_stopped()
            && !rng.source.pool.has_free(rng.slot);
        if seconds == 0 || !idle {
            self.idle_since = None;
            return None;
        }
        let now = self.now();
        let since = *self.idle_since.get_or_insert(now);
        let deadline = since.saturating_add(seconds.saturating_mul(1_000));
        if now < deadline {
            return Some(deadline);
        }
        self.idle_since = None;
        if self.autosuspend.is_none() {
            self.autosuspend = rng.device.enable_autosuspend();
        }
        self.awake = None;
        None
    }

    /// Has the device resumed when there is something for it to do. If it was suspended, the work
    /// goes on with [`Self::start_again`].
    fn wake_up(&mut self, rng: &AlphaRng) {
        if self.awake.is_some() || !rng.source.pool.has_free(rng.slot) {
            return;
        }
        match rng.interface.autopm_get_async() {
            Ok(awake) => self.awake = Some(awake),
            Err(error) => {
                let now = self.now();
                if self.log_protocol.allows(now) {
                    dev_warn!(rng.interface, "cannot be resumed: {:?}\n", error);
                }
                rng.trigger.after(msecs_to_jiffies(BUSY_RETRY_MS));
            }
        }
    }

    /// Does what readers and root have asked for.
    fn heed_demands(&mut self, rng: &AlphaRng) {
        let demands = rng.source.pool.take_demands(rng.slot);
        let now = self.now();
        if demands.start_up_test {
            self.health.restart();
            dev_info!(rng.interface, "start-up test on demand\n");
        }
        if (demands.retry || demands.start_up_test) && self.protocol.is_dead() {
            self.protocol.restart(now);
        }
        if demands.retry || demands.start_up_test {
            if !self.health.is_stopped() {
                rng.source.pool.resume(rng.slot);
            }
            self.publish_report(rng);
        }
        self.health.set_min_entropy(min_entropy());
        let disabled = crate::DISABLE_STATISTICAL_TESTS.get();
        if disabled && !self.tests_disabled {
            pr_warn!("{}", crate::TESTS_DISABLED);
        }
        self.tests_disabled = disabled;
    }

    /// Collects one event, if there is one, and asks the protocol what follows from it.
    ///
    /// `None` where there is nothing to do until something happens.
    fn next_step(&mut self, rng: &AlphaRng) -> Option<Step> {
        // The commands first: a device may answer before the controller tells that one has gone
        // out, and the next one needs its buffer.
        for lane in self.lanes.all() {
            if let Some(completion) = lane.tx.completed() {
                lane.command = Some(completion.buffer);
                return Some(self.sent(completion.status));
            }
        }
        let lane = self.lanes.get(0)?;
        if let Some(completion) = lane.rx.completed() {
            lane.spare = Some(completion.buffer);
            return Some(self.received(rng, completion.actual, completion.status));
        }
        // Before the clock is looked at: only who listens knows whether the line is quiet.
        if !self.protocol.is_ready() && !self.protocol.is_dead() && !self.refused {
            let lane = self.lanes.get(0)?;
            if !lane.rx.is_submitted() && lane.have_buffer(rng) {
                return Some(Step::Read);
            }
        }
        let step = self.protocol.tick(self.now());
        if !matches!(step, Step::Read | Step::Ready) {
            return Some(step);
        }
        if self.protocol.is_dead() {
            return None;
        }
        (step == Step::Ready && !self.health.is_stopped() && self.can_request(rng))
            .then_some(Step::Ready)
    }

    /// The lane for the next command.
    fn next_lane(&mut self) -> Option<&mut Lane> {
        self.lanes.get(self.protocol.under_way())
    }

    /// Whether there is all that a request takes.
    fn can_request(&mut self, rng: &AlphaRng) -> bool {
        self.next_lane()
            .is_some_and(|lane| lane.have_command() && lane.have_buffer(rng))
    }

    /// A transfer to the device has ended.
    fn sent(&mut self, status: Status) -> Step {
        match status {
            Status::Ok => {
                self.protocol.taken(self.now());
                Step::Read
            }
            Status::Gone | Status::Cancelled => {
                self.paused = true;
                Step::Discard
            }
            status => {
                self.clear_tx = status == Status::Stalled;
                self.protocol.transfer_failed(self.now())
            }
        }
    }

    /// A transfer of `bytes` bytes from the device has ended.
    fn received(&mut self, rng: &AlphaRng, bytes: usize, status: Status) -> Step {
        let now = self.now();
        if crate::DEBUG_MODE.get() {
            dev_info!(rng.interface, "debug: {} bytes, {:?}\n", bytes, status);
        }
        match status {
            Status::Ok => self.protocol.transferred(now, bytes),
            Status::Gone | Status::Cancelled => {
                self.paused = true;
                Step::Discard
            }
            status => {
                self.clear_rx = status == Status::Stalled;
                self.protocol.transfer_failed(now)
            }
        }
    }

    /// Does what the protocol has decided.
    fn take_step(&mut self, rng: &AlphaRng, step: Step) {
        match step {
            Step::Read => self.read_on(rng),
            Step::Discard => {
                self.wipe();
                self.read_on(rng);
            }
            Step::Ready => self.request(rng),
            Step::Answer => self.answered(rng),
            Step::Retry(why) => {
                self.report_failure(rng, why, false);
                self.recover(rng);
                self.read_on(rng);
            }
            Step::GiveUp(why) => {
                self.report_failure(rng, why, true);
                self.recover(rng);
                let error = match why {
                    Failure::Silent(_) => ETIMEDOUT,
                    _ => EIO,
                };
                self.publish_report(rng);
                rng.source
                    .pool
                    .fail(rng.slot, error, has_spare(&rng.source, None));
            }
        }
    }

    /// Wipes what has come for an answer that is worthless.
    fn wipe(&mut self) {
        if let Some(lane) = self.lanes.get(0) {
            lane.wipe();
        }
    }

    /// Goes on reading where something can come.
    fn read_on(&mut self, rng: &AlphaRng) {
        if !self.protocol.is_ready() && !self.protocol.is_dead() && !self.refused {
            self.read(rng, 0);
        }
    }

    /// Posts a read for the next bytes on a lane, if none is posted.
    fn read(&mut self, rng: &AlphaRng, behind: usize) {
        let offset = if behind == 0 {
            self.protocol.received()
        } else {
            0
        };
        let Some(lane) = self.lanes.get(behind) else {
            return;
        };
        if lane.rx.is_submitted() || self.paused || !lane.have_buffer(rng) {
            return;
        }
        let Some(buffer) = lane.spare.take() else {
            return;
        };
        // Whole packets only: a device that sends more than was asked for is cut off by the
        // controller with an error.
        let packet = lane.rx.endpoint().max_packet.get();
        let packets = ANSWER.saturating_sub(offset).div_ceil(packet);
        let len = packets.saturating_mul(packet);
        lane.rx_offset = offset;
        if let Err((status, buffer)) = lane.rx.submit(buffer, offset, len, true) {
            lane.spare = Some(buffer);
            return self.not_submitted(rng, status);
        }
        self.protocol.listening(self.now());
    }

    /// Sends the next command, behind a read for its answer.
    fn request(&mut self, rng: &AlphaRng) {
        let behind = self.protocol.under_way();
        let Some(lane) = self.lanes.get(behind) else {
            return;
        };
        // A read that has been waiting in the middle of a buffer starts over. What comes with it
        // belongs to no command.
        if lane.rx.is_submitted() && lane.rx_offset != 0 {
            if let Some(completion) = lane.rx.cancel() {
                lane.spare = Some(completion.buffer);
                if completion.actual > 0 {
                    let step = self.protocol.transferred(self.now(), completion.actual);
                    return self.take_step(rng, step);
                }
            }
        }
        self.protocol.sent(self.now());
        self.refused = false;
        self.read(rng, behind);
        let Some(lane) = self.lanes.get(behind) else {
            return;
        };
        if !lane.rx.is_submitted() {
            return;
        }
        let Some(mut buffer) = lane.command.take() else {
            return;
        };
        if let Some(byte) = buffer.as_mut_slice().first_mut() {
            *byte = Command::Entropy as u8;
        }
        if let Err((status, buffer)) = lane.tx.submit(buffer, 0, 1, false) {
            lane.command = Some(buffer);
            self.not_submitted(rng, status);
        }
    }

    /// The USB core has refused a request.
    fn not_submitted(&mut self, rng: &AlphaRng, status: Status) {
        if matches!(status, Status::Gone | Status::Cancelled) {
            // There will be a disconnect or a resume.
            self.paused = true;
            return;
        }
        // Whatever the core lacks, it does not have it at once: the next attempt comes when the
        // line has been quiet for its time.
        self.refused = true;
        let step = self.protocol.transfer_failed(self.now());
        self.take_step(rng, step);
    }

    /// A complete answer is there: asks for more, then tests this one meanwhile.
    fn answered(&mut self, rng: &AlphaRng) {
        let Some(lane) = self.lanes.get(0) else {
            return;
        };
        let Some(buffer) = lane.spare.take() else {
            return;
        };
        let byte = buffer.as_slice().get(DATA).copied().unwrap_or(u8::MAX);
        let status = DeviceStatus::from_byte(byte);
        if let DeviceStatus::OutOfStep(byte) = status {
            lane.spare = Some(buffer);
            let step = self.protocol.bad_status(self.now(), byte);
            return self.take_step(rng, step);
        }
        self.lanes.advance();
        self.protocol.used();
        self.answers = self.answers.saturating_add(1);
        while !self.paused
            && !self.health.is_stopped()
            && self.protocol.may_send()
            && self.can_request(rng)
        {
            self.request(rng);
        }

        if self.health.is_stopped() {
            // The answer to a command that was under way when the source stopped.
            rng.source.pool.give_back(rng.slot, buffer);
            return self.publish_report(rng);
        }
        let decision = match status {
            DeviceStatus::Failed(byte) => self.health.device_failure(byte),
            _ if self.tests_disabled => self.health.untested_block(),
            _ => match buffer.as_slice().first_chunk::<DATA>() {
                Some(data) => self.health.test_block(data),
                None => self.health.device_failure(u8::MAX),
            },
        };
        // First the numbers, then the log, then the readers: who learns of something finds its
        // reason.
        self.publish_report(rng);
        match decision {
            Decision::Deliver => {
                let wanted = usize::try_from(crate::BYTES_PER_SAMPLE.get()).unwrap_or(DATA);
                let start = DATA.saturating_sub(wanted);
                rng.source
                    .pool
                    .publish(rng.slot, Block::new(buffer, start, DATA));
            }
            Decision::Discard(why) => {
                if let Why::Failure(failure) = why {
                    let now = self.now();
                    if self.log_health.allows(now) || crate::DEBUG_MODE.get() {
                        dev_warn!(
                            rng.interface,
                            "{}; block discarded, start-up test runs again\n",
                            failure
                        );
                    }
                }
                rng.source.pool.give_back(rng.slot, buffer);
            }
            Decision::Stop(failure) => {
                dev_err!(
                    rng.interface,
                    "{}; stopped: replug the device or \
                     write 1 to /sys/class/misc/alrandom/startup_test\n",
                    failure
                );
                rng.source.pool.stop(rng.slot, has_spare(&rng.source, None));
                rng.source.pool.give_back(rng.slot, buffer);
            }
        }
    }

    /// Makes the numbers public.
    fn publish_report(&self, rng: &AlphaRng) {
        let mut reports = rng.source.reports.lock();
        if let Some(Some(report)) = reports.get_mut(rng.slot.index()) {
            report.works = !self.protocol.is_dead() && !self.health.is_stopped();
            report.answers = self.answers;
            report.vendor = *self.health.vendor();
            report.min_entropy = min_entropy().get();
            report.health = Some(self.health.statistics());
        }
    }

    /// Gets requests and endpoints into a state from which the conversation can start again.
    fn recover(&mut self, rng: &AlphaRng) {
        self.cancel_requests();
        // What comes from here on comes to the first lane; the others' buffers are for the pool.
        for behind in 1..self.lanes.len() {
            if let Some(buffer) = self.lanes.get(behind).and_then(|lane| lane.spare.take()) {
                rng.source.pool.give_back(rng.slot, buffer);
            }
        }
        let endpoints = |lane: &mut Lane| (lane.rx.endpoint(), lane.tx.endpoint());
        let (rx, tx) = self.lanes.get(0).map(endpoints).unzip();
        for (halted, endpoint) in [(&mut self.clear_rx, rx), (&mut self.clear_tx, tx)] {
            // Where this fails, the next transfer fails too and the attempts run out.
            if core::mem::take(halted)
                && endpoint.is_some_and(|endpoint| rng.device.clear_halt(endpoint).is_err())
            {
                dev_info!(
                    rng.interface,
                    "the halt of an endpoint could not be cleared\n"
                );
            }
        }
    }

    /// Says in the log that the device is slower than others, once.
    fn report_pipelining(&mut self, rng: &AlphaRng) {
        let refused = self.protocol.pipelining() == Pipelining::Refused;
        if refused && !self.told_refused && self.lanes.len() > 1 {
            self.told_refused = true;
            dev_info!(
                rng.interface,
                "one command at a time until it is replugged: the device does not do with several\n"
            );
        }
    }

    /// Says in the log why an attempt failed.
    fn report_failure(&mut self, rng: &AlphaRng, why: Failure, last: bool) {
        let now = self.now();
        if !last && !self.log_protocol.allows(now) && !crate::DEBUG_MODE.get() {
            return;
        }
        let after = if last {
            "given up until somebody reads again, replug the device"
        } else {
            "trying again"
        };
        let dev = &rng.interface;
        match why {
            Failure::Silent(got) => dev_warn!(
                dev,
                "no complete answer in time ({} of {} bytes), {}\n",
                got,
                ANSWER,
                after
            ),
            // The last answer of a device that is pulled out, too: no reason for a warning.
            Failure::Split => dev_info!(dev, "an answer came in pieces, {}\n", after),
            Failure::TooLong => dev_warn!(dev, "more bytes than an answer has, {}\n", after),
            Failure::BadStatus(byte) => {
                dev_warn!(dev, "status byte {:#04x} is none, {}\n", byte, after)
            }
            Failure::NotQuiet => dev_warn!(dev, "the device does not stop sending, {}\n", after),
            Failure::NotTaken => dev_warn!(dev, "the device does not take commands, {}\n", after),
            Failure::Transfer => dev_warn!(dev, "USB transfer failed, {}\n", after),
        }
        if last {
            dev_err!(dev, "no answer after {} attempts\n", ATTEMPTS);
        }
    }
}

/// The addresses of the devices that were unbound while they stayed, as root may have done on
/// purpose: they are not taken again without being replugged.
#[derive(Default)]
pub(crate) struct Left(KVec<Address>);

impl Left {
    /// The device with this address was unbound.
    fn add(&mut self, address: Address) {
        if !self.contains(address) {
            // Without memory it is taken again, where it was not unplugged.
            let _ = self.0.push(address, GFP_KERNEL);
        }
    }

    /// Whether the device with this address was unbound.
    fn contains(&self, address: Address) -> bool {
        self.0.contains(&address)
    }

    /// The device with this address is used.
    fn remove(&mut self, address: Address) {
        self.0.retain(|left| *left != address);
    }

    /// These are the devices that are there.
    fn keep_only(&mut self, devices: &[ARef<Device>]) {
        self.0
            .retain(|left| devices.iter().any(|device| device.address() == *left));
    }
}

/// Looks for devices to use.
pub(crate) struct Scout {
    /// Where the bytes go.
    source: Arc<Source>,
}

/// What became of one device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Find {
    /// It is in use here now.
    Taken,
    /// Another program uses it.
    Busy,
    /// It is none, or cannot be used.
    Nothing,
}

impl Scout {
    /// Makes the scout of `source`.
    pub(crate) fn new(source: Arc<Source>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { source }, GFP_KERNEL)?)
    }

    /// Tries to get the AlphaRNG `device`, bound to nobody or to the serial driver.
    fn take(&self, device: &LockedDevice<'_>) -> Find {
        for data in device.interfaces() {
            if data.class().0 != cdc::CLASS_DATA {
                continue;
            }
            let found = match data.driver_name(device) {
                None => Self::attach(device, data),
                Some(name) if name == AlphaRngDriver::NAME => Find::Taken,
                Some(name) if name == SERIAL_DRIVER => Self::take_over(device, data),
                Some(_) => Find::Busy,
            };
            if found != Find::Nothing {
                return found;
            }
        }
        Find::Nothing
    }

    /// Offers the data interface to this driver, whose `probe()` decides.
    fn attach(device: &LockedDevice<'_>, data: &Interface) -> Find {
        if device.attach(data) {
            Find::Taken
        } else {
            Find::Nothing
        }
    }

    /// Takes the device from the serial driver, if no program has the tty open.
    fn take_over(device: &LockedDevice<'_>, data: &Interface) -> Find {
        let number = data.number();
        let Some(control) = find_control(device, number) else {
            return Find::Nothing;
        };
        // While this is held nobody can open the tty.
        let Ok(tty) = control.take_tty() else {
            // Some program has it open, or it is just coming or going.
            return Find::Busy;
        };
        device.release(control);
        let found = Self::attach(device, data);
        drop(tty);
        found
    }
}

impl Drop for Scout {
    fn drop(&mut self) {
        // Readers must not wait for somebody who does not look any more.
        self.source.pool.close();
    }
}

impl WorkItem for Scout {
    fn run(&self) {
        let search = self.source.pool.search();
        let mut devices = KVec::new();
        Device::for_each(&mut |device| {
            // Without memory some are left out; the next arrival or read looks again.
            if device.is_in(&TABLE) {
                let _ = devices.push(ARef::from(device), GFP_KERNEL);
            }
        });
        self.source.left.lock().keep_only(&devices);

        let has_room = || self.source.pool.has_room(max_devices());
        let mut busy = None;
        for device in &devices {
            if has_room()
                && !is_known(&self.source, device.address())
                && self.take(&device.lock()) == Find::Busy
            {
                busy = Some(device);
            }
        }
        let busy = busy.filter(|_| has_room());
        self.source.pool.search_ended(search);

        let was_busy = self.source.busy.load(Relaxed);
        self.source.busy.store(busy.is_some(), Relaxed);
        if let Some(device) = busy {
            if !was_busy {
                dev_info!(
                    device,
                    "AlphaRNG is in use by another program, which keeps it; \
                     trying again until it is free\n"
                );
            }
            self.source.scout.after(msecs_to_jiffies(BUSY_RETRY_MS));
        }
    }
}

/// Gives the devices back to the serial driver when it is dropped: to be dropped behind the driver.
pub(crate) struct HandBack;

impl Drop for HandBack {
    fn drop(&mut self) {
        Device::for_each(&mut |device| {
            if !device.is_in(&TABLE) {
                return;
            }
            let device = device.lock();
            for control in device.interfaces() {
                if control.class() == (cdc::CLASS_COMM, cdc::SUBCLASS_ACM)
                    && control.driver_name(&device).is_none()
                {
                    // Where the serial driver is not loaded, nobody takes it, which is fine.
                    let _ = device.attach(control);
                }
            }
        });
    }
}
