// SPDX-License-Identifier: GPL-2.0

//! USB drivers: registration, devices and their interfaces, requests.
//!
//! Why it is here: `rust/kernel/usb.rs` is compiled only where USB is built in (distributions build
//! it as a module), gives its callbacks no data of the driver's own, and has no requests (URBs), no
//! control messages, no power management and no hand-over from other drivers. What would retire it:
//! these in `rust/kernel/usb.rs`.
//!
//! C header: [`include/linux/usb.h`](srctree/include/linux/usb.h)

use super::{
    sensitive::SensitiveBuffer,
    tty::ExclusiveTty,
    workqueue::Trigger, //
};
use core::{
    ffi::c_void,
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    num::NonZero,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};
use kernel::{
    bindings,
    device,
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        Arc, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

/// One entry of a driver's table of devices: C's `USB_DEVICE_INTERFACE_CLASS`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct DeviceId(bindings::usb_device_id);

impl DeviceId {
    /// Matches interfaces of class `class` on the devices `vendor`:`product`.
    pub(crate) const fn new(vendor: u16, product: u16, class: u8) -> Self {
        Self(bindings::usb_device_id {
            // CAST: The flags are those of a 16-bit field.
            match_flags: (bindings::USB_DEVICE_ID_MATCH_DEVICE
                | bindings::USB_DEVICE_ID_MATCH_INT_CLASS) as u16,
            idVendor: vendor,
            idProduct: product,
            bInterfaceClass: class,
            ..pin_init::zeroed()
        })
    }

    /// The entry that ends a table.
    pub(crate) const fn end() -> Self {
        Self(pin_init::zeroed())
    }

    /// Whether the entry names the device with these ids.
    fn matches_device(&self, vendor: u16, product: u16) -> bool {
        self.0.match_flags != 0 && self.0.idVendor == vendor && self.0.idProduct == product
    }
}

// SAFETY: The entries are never changed.
unsafe impl Sync for DeviceId {}

/// Makes the aliases of a table of `DeviceId`s known to `modpost`, so that the module is loaded
/// when such a device is plugged in.
#[macro_export]
macro_rules! usb_device_table {
    ($table:path) => {
        #[cfg(MODULE)]
        const _: () = {
            // The name tells `modpost` whose table it is and of what kind.
            #[export_name = "__mod_device_table__kmod_alrandom__usb__table"]
            #[used(compiler)]
            static ALIASES: [$crate::abstractions::usb::DeviceId; $table.len()] = $table;
        };
    };
}

/// A USB driver.
///
/// A device that nobody uses is suspended by the core where root has allowed that. A driver that
/// does not want it holds an [`AutopmGuard`].
pub(crate) trait Driver: Send + Sync + 'static {
    /// The driver's name in `/sys/bus/usb/drivers`.
    const NAME: &'static CStr;
    /// What the driver wants to be asked about, ended by [`DeviceId::end`].
    const TABLE: &'static [DeviceId];
    /// What the driver keeps for each interface that it has bound.
    type Data: Send + Sync + 'static;

    /// Called for an interface in the table that no driver has bound; may sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` leaves the interface to others without a word in the log.
    fn probe(&self, device: &LockedDevice<'_>, interface: &Interface) -> Result<KBox<Self::Data>>;

    /// Called when the interface goes: unplugged, taken away, or the driver is being removed.
    ///
    /// When this returns, nothing may use the interface any more.
    fn disconnect(&self, device: &LockedDevice<'_>, interface: &Interface, data: KBox<Self::Data>);

    /// Called before the device is suspended, loses power or is reset: no request may be under way
    /// after this.
    fn suspend(&self, interface: &Interface, data: &Self::Data);

    /// Called when the device can be used again; `reset` says that it has forgotten its state.
    fn resume(&self, interface: &Interface, data: &Self::Data, reset: bool);

    /// Called when any other driver has been bound to a device or to an interface of one.
    ///
    /// The device is locked, so whoever wants to do something about that has a worker do so.
    fn bound_elsewhere(&self);
}

/// The C structures of a [`Registration`].
struct Raw {
    /// The driver.
    driver: bindings::usb_driver,
    /// Hears of what drivers are bound on its bus.
    notifier: bindings::notifier_block,
}

/// A registered driver.
///
/// Dropping it disconnects the driver from all its interfaces.
///
/// # Invariants
///
/// Both parts of `raw` are registered, and it is the `raw` of a pinned `Registration<T>`.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Driver> {
    /// The C side.
    #[pin]
    raw: Opaque<Raw>,
    /// What the callbacks work on.
    driver: Arc<T>,
}

// SAFETY: Registering and removing can be done from any thread, and `T` is `Send` and `Sync`.
unsafe impl<T: Driver> Send for Registration<T> {}
// SAFETY: There are no methods on a shared registration but the callbacks, which only use `driver`.
unsafe impl<T: Driver> Sync for Registration<T> {}

impl<T: Driver> Registration<T> {
    /// Registers a driver that is part of `module`; its `probe()` is called before this returns.
    ///
    /// # Errors
    ///
    /// Those of `usb_register_driver()` and `bus_register_notifier()`.
    pub(crate) fn new(module: &'static ThisModule, driver: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // `driver` comes first: interfaces are probed as soon as the driver is registered.
            driver,
            // INVARIANT: Where this succeeds, both are registered.
            raw <- Opaque::try_ffi_init(move |slot: *mut Raw| {
                // SAFETY: `slot` is valid for writing, and pinned.
                unsafe { Self::register(slot, module) }
            }),
        })
    }

    /// Fills in the C structures and registers them.
    ///
    /// # Safety
    ///
    /// `slot` must be valid for writing and the `raw` of a pinned `Registration<T>` whose `driver`
    /// is initialised.
    unsafe fn register(slot: *mut Raw, module: &'static ThisModule) -> Result {
        let mut driver = bindings::usb_driver {
            name: T::NAME.as_char_ptr(),
            // `DeviceId` is transparent.
            id_table: T::TABLE.as_ptr().cast(),
            probe: Some(Self::probe),
            disconnect: Some(Self::disconnect),
            suspend: Some(Self::suspend),
            resume: Some(Self::resume),
            reset_resume: Some(Self::reset_resume),
            pre_reset: Some(Self::pre_reset),
            post_reset: Some(Self::post_reset),
            ..pin_init::zeroed()
        };
        driver.set_supports_autosuspend(1);
        let notifier = bindings::notifier_block {
            notifier_call: Some(Self::notify),
            ..pin_init::zeroed()
        };
        // SAFETY: `slot` is valid for writing.
        let (driver, notifier) = unsafe {
            slot.write(Raw { driver, notifier });
            (&raw mut (*slot).driver, &raw mut (*slot).notifier)
        };
        // SAFETY: The driver was just initialised and stays where it is; the names are static.
        to_result(unsafe {
            bindings::usb_register_driver(driver, module.as_ptr(), T::NAME.as_char_ptr())
        })?;
        // SAFETY: A registered driver has its bus, which is never freed; the notifier was just
        // initialised and stays where it is.
        to_result(unsafe { bindings::bus_register_notifier((*driver).driver.bus, notifier) })
            // SAFETY: It was registered above.
            .inspect_err(|_| unsafe { bindings::usb_deregister(driver) })
    }

    /// The registration around its C side.
    ///
    /// # Safety
    ///
    /// `raw` must be the `raw` of a `Registration<T>` that outlives `'a`.
    unsafe fn from_raw<'a>(raw: *mut Raw) -> &'a Self {
        // SAFETY: By the safety requirements; `Opaque` is transparent.
        unsafe { &*kernel::container_of!(raw.cast::<Opaque<Raw>>(), Self, raw) }
    }

    /// The driver that an interface is bound to, or being bound to.
    ///
    /// # Safety
    ///
    /// The interface's driver must be a `Registration<T>` that outlives `'a`.
    unsafe fn driver<'a>(interface: *mut bindings::usb_interface) -> &'a T {
        // SAFETY: By the safety requirements.
        unsafe {
            let driver = (*interface).dev.driver;
            let driver = driver
                .byte_sub(offset_of!(bindings::usb_driver, driver))
                .cast::<bindings::usb_driver>();
            &Self::from_raw(kernel::container_of!(driver, Raw, driver)).driver
        }
    }

    /// # Safety
    ///
    /// Called by the driver core with the `notifier` of a `Registration<T>`, whose removal waits
    /// for this.
    unsafe extern "C" fn notify(
        raw: *mut bindings::notifier_block,
        event: c_ulong,
        device: *mut c_void,
    ) -> c_int {
        // CAST: The constant is 4.
        if event == bindings::bus_notifier_event_BUS_NOTIFY_BOUND_DRIVER as c_ulong {
            // SAFETY: By the safety requirements; the device is valid and keeps its driver during
            // the call.
            let (this, own, bound) = unsafe {
                let raw = kernel::container_of!(raw, Raw, notifier);
                (
                    Self::from_raw(raw),
                    &raw mut (*raw).driver.driver,
                    (*device.cast::<bindings::device>()).driver,
                )
            };
            if bound != own {
                this.driver.bound_elsewhere();
            }
        }
        // CAST: The constant is 0.
        bindings::NOTIFY_DONE as c_int
    }

    /// The driver's data for an interface; `None` for one that was only claimed.
    ///
    /// # Safety
    ///
    /// `interface` must be bound to a `Registration<T>` and stay so during `'a`.
    unsafe fn data<'a>(interface: *mut bindings::usb_interface) -> Option<&'a T::Data> {
        // SAFETY: The interface is valid. `probe()` stored the data, and only `disconnect()` takes
        // it; `claim()` stored null.
        unsafe {
            let data = bindings::dev_get_drvdata(&raw mut (*interface).dev);
            (!data.is_null()).then(|| <KBox<T::Data> as ForeignOwnable>::borrow(data))
        }
    }

    /// # Safety
    ///
    /// Called by the USB core for an interface that is being bound to a `Registration<T>`.
    unsafe extern "C" fn probe(
        raw: *mut bindings::usb_interface,
        _id: *const bindings::usb_device_id,
    ) -> c_int {
        // SAFETY: By the safety requirements; the core keeps both alive during the call.
        let (this, interface) = unsafe { (Self::driver(raw), Interface::from_raw(raw)) };
        // INVARIANT: The core holds the lock of the device during the call, and releases it.
        let device = ManuallyDrop::new(LockedDevice(interface.device()));
        from_result(|| {
            let data = this.probe(&device, interface)?;
            // SAFETY: The interface is valid, and its driver's data is ours to set.
            unsafe { bindings::dev_set_drvdata(&raw mut (*raw).dev, data.into_foreign()) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the USB core for an interface that is bound to a `Registration<T>`.
    unsafe extern "C" fn disconnect(raw: *mut bindings::usb_interface) {
        // SAFETY: By the safety requirements; `probe()` stored the data, and this is the only
        // place where it is taken, once for each `probe()`. `claim()` stored null.
        let (this, interface, data) = unsafe {
            let dev = &raw mut (*raw).dev;
            let data = bindings::dev_get_drvdata(dev);
            if data.is_null() {
                return;
            }
            bindings::dev_set_drvdata(dev, ptr::null_mut());
            (
                Self::driver(raw),
                Interface::from_raw(raw),
                KBox::<T::Data>::from_foreign(data),
            )
        };
        // INVARIANT: As in `probe()`.
        let device = ManuallyDrop::new(LockedDevice(interface.device()));
        this.disconnect(&device, interface, data);
    }

    /// Calls [`Driver::suspend`].
    ///
    /// # Safety
    ///
    /// `raw` must be bound to a `Registration<T>` during the call.
    unsafe fn stop(raw: *mut bindings::usb_interface) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe {
            if let Some(data) = Self::data(raw) {
                Self::driver(raw).suspend(Interface::from_raw(raw), data);
            }
        }
        0
    }

    /// Calls [`Driver::resume`].
    ///
    /// # Safety
    ///
    /// As for [`Self::stop`].
    unsafe fn start(raw: *mut bindings::usb_interface, reset: bool) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe {
            if let Some(data) = Self::data(raw) {
                Self::driver(raw).resume(Interface::from_raw(raw), data, reset);
            }
        }
        0
    }

    /// # Safety
    ///
    /// Called by the USB core for an interface that is bound to a `Registration<T>`.
    unsafe extern "C" fn suspend(
        raw: *mut bindings::usb_interface,
        _message: bindings::pm_message_t,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { Self::stop(raw) }
    }

    /// # Safety
    ///
    /// As for [`Self::suspend`].
    unsafe extern "C" fn resume(raw: *mut bindings::usb_interface) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { Self::start(raw, false) }
    }

    /// # Safety
    ///
    /// As for [`Self::suspend`].
    unsafe extern "C" fn reset_resume(raw: *mut bindings::usb_interface) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { Self::start(raw, true) }
    }

    /// # Safety
    ///
    /// As for [`Self::suspend`].
    unsafe extern "C" fn pre_reset(raw: *mut bindings::usb_interface) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { Self::stop(raw) }
    }

    /// # Safety
    ///
    /// As for [`Self::suspend`].
    unsafe extern "C" fn post_reset(raw: *mut bindings::usb_interface) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { Self::start(raw, true) }
    }
}

#[pinned_drop]
impl<T: Driver> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants both are registered, and so the driver has its bus.
        unsafe {
            let raw = self.raw.get();
            bindings::bus_unregister_notifier((*raw).driver.driver.bus, &raw mut (*raw).notifier);
            bindings::usb_deregister(&raw mut (*raw).driver);
        }
    }
}

/// A USB device: `struct usb_device`.
///
/// # Invariants
///
/// Valid, and reference-counted by `usb_get_dev()`.
#[repr(transparent)]
pub(crate) struct Device(Opaque<bindings::usb_device>);

// SAFETY: A `struct usb_device` may be released from any thread.
unsafe impl Send for Device {}
// SAFETY: What the methods read does not change while there is a reference, or is locked.
unsafe impl Sync for Device {}

// SAFETY: The functions count references of the device.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: The device is valid by the type invariants.
        unsafe { bindings::usb_get_dev(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements there is a reference to put.
        unsafe { bindings::usb_put_dev(obj.cast().as_ptr()) };
    }
}

impl AsRef<device::Device> for Device {
    fn as_ref(&self) -> &device::Device {
        // SAFETY: The device is valid by the type invariants, and so is the `dev` in it.
        unsafe { device::Device::from_raw(&raw mut (*self.as_raw()).dev) }
    }
}

/// How long a control message may take, in milliseconds: `USB_CTRL_SET_TIMEOUT`.
const CONTROL_TIMEOUT_MS: c_int = 5000;

/// The numbers of a bus and of a device on it, as `lsusb` and `/dev/bus/usb` have them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    /// The bus: 1 and up.
    bus: c_int,
    /// The device: 1 to 127.
    device: c_int,
}

impl kernel::fmt::Display for Address {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        write!(f, "bus {:03} device {:03}", self.bus, self.device)
    }
}

impl Device {
    /// # Safety
    ///
    /// `raw` must be valid during `'a`.
    unsafe fn from_raw<'a>(raw: *mut bindings::usb_device) -> &'a Self {
        // SAFETY: By the safety requirements; the type is transparent.
        unsafe { &*raw.cast() }
    }

    /// The C side.
    fn as_raw(&self) -> *mut bindings::usb_device {
        self.0.get()
    }

    /// Whether `table` names this device by its vendor and product.
    pub(crate) fn is_in(&self, table: &[DeviceId]) -> bool {
        // SAFETY: The descriptor does not change while the device is there.
        let descriptor = unsafe { &(*self.as_raw()).descriptor };
        let vendor = u16::from_le(descriptor.idVendor);
        let product = u16::from_le(descriptor.idProduct);
        table.iter().any(|id| id.matches_device(vendor, product))
    }

    /// Where the device is, which tells it from all others that are there.
    pub(crate) fn address(&self) -> Address {
        // SAFETY: The device is valid by the type invariants, and keeps its bus.
        unsafe {
            let raw = self.as_raw();
            Address {
                bus: (*(*raw).bus).busnum,
                device: (*raw).devnum,
            }
        }
    }

    /// Lets the device be suspended while it is not in use, as `auto` in its `power/control` does,
    /// until the result is dropped; may sleep. `None` where it could be before, or never can.
    pub(crate) fn enable_autosuspend(&self) -> Option<AutosuspendGuard> {
        // SAFETY: The device is valid by the type invariants.
        unsafe {
            if !pm::is_forbidden(self.as_raw()) {
                return None;
            }
            pm::usb_enable_autosuspend(self.as_raw());
        }
        Some(AutosuspendGuard(self.into()))
    }

    /// Sends a control message without data to the default endpoint; sleeps for 5 s at most.
    ///
    /// # Errors
    ///
    /// Those of `usb_control_msg()`: `EPIPE` where the device refuses, `ETIMEDOUT`, ...
    pub(crate) fn control(&self, kind: u8, request: u8, value: u16, index: u16) -> Result {
        // SAFETY: The device is valid by the type invariants; there is no data.
        to_result(unsafe {
            bindings::usb_control_msg_send(
                self.as_raw(),
                0,
                request,
                kind,
                value,
                index,
                ptr::null(),
                0,
                CONTROL_TIMEOUT_MS,
                bindings::GFP_KERNEL,
            )
        })
    }

    /// Clears the halt of an endpoint; sleeps for 5 s at most.
    ///
    /// # Errors
    ///
    /// Those of `usb_clear_halt()`.
    pub(crate) fn clear_halt(&self, endpoint: Endpoint) -> Result {
        // SAFETY: The device is valid by the type invariants. C takes the pipe as an `int`.
        to_result(unsafe {
            bindings::usb_clear_halt(self.as_raw(), self.bulk_pipe(endpoint) as c_int)
        })
    }

    /// C's `usb_rcvbulkpipe()` and `usb_sndbulkpipe()`.
    fn bulk_pipe(&self, endpoint: Endpoint) -> u32 {
        // SAFETY: The number does not change while the device is there.
        let device = unsafe { (*self.as_raw()).devnum } as u32;
        let number = u32::from(endpoint.address) & bindings::USB_ENDPOINT_NUMBER_MASK;
        let direction = u32::from(endpoint.address) & bindings::USB_ENDPOINT_DIR_MASK;
        (bindings::PIPE_BULK << 30) | (device << 8) | (number << 15) | direction
    }

    /// Calls `f` for all devices on all buses, while each of them is kept from being freed.
    pub(crate) fn for_each(f: &mut dyn FnMut(&Device)) {
        /// # Safety
        ///
        /// `data` must point to the `f` above, and `raw` to a valid device.
        unsafe extern "C" fn call(raw: *mut bindings::usb_device, data: *mut c_void) -> c_int {
            // SAFETY: By the safety requirements.
            unsafe {
                let f = &mut *data.cast::<&mut dyn FnMut(&Device)>();
                f(Device::from_raw(raw));
            }
            0
        }

        let mut f = f;
        // SAFETY: `call` fits the data, which outlives the call.
        unsafe { bindings::usb_for_each_dev(ptr::from_mut(&mut f).cast(), Some(call)) };
    }

    /// Locks the device: its interfaces neither come nor go, and no driver binds or leaves them.
    pub(crate) fn lock(&self) -> LockedDevice<'_> {
        // SAFETY: The device is valid by the type invariants; this is C's `usb_lock_device()`.
        unsafe { bindings::mutex_lock(&raw mut (*self.as_raw()).dev.mutex) };
        LockedDevice(self)
    }
}

/// A device whose lock is held.
///
/// # Invariants
///
/// The lock is held, and released when this object is dropped.
pub(crate) struct LockedDevice<'a>(&'a Device);

impl Deref for LockedDevice<'_> {
    type Target = Device;

    fn deref(&self) -> &Device {
        self.0
    }
}

impl Drop for LockedDevice<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held.
        unsafe { bindings::mutex_unlock(&raw mut (*self.0.as_raw()).dev.mutex) };
    }
}

impl LockedDevice<'_> {
    /// The interfaces of the active configuration; none where the device is unconfigured or gone.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        // SAFETY: While the lock is held, the configuration does not change, and its interfaces
        // stay allocated.
        let interfaces = unsafe {
            let config = (*self.0.as_raw()).actconfig;
            if config.is_null() {
                &[]
            } else {
                let all = &raw const (*config).interface;
                let count = usize::from((*config).desc.bNumInterfaces);
                slice::from_raw_parts(
                    all.cast::<*mut bindings::usb_interface>(),
                    count.min((*all).len()),
                )
            }
        };
        interfaces
            .iter()
            .filter(|raw| !raw.is_null())
            // SAFETY: As above.
            .map(|raw| unsafe { Interface::from_raw(*raw) })
    }

    /// Binds `companion` to the driver of `owner` too, without a `probe()`: the driver is told
    /// nothing of it, and no other driver can have it.
    ///
    /// # Errors
    ///
    /// `EBUSY` where another driver has it.
    pub(crate) fn claim(&self, owner: &Interface, companion: &Interface) -> Result {
        // SAFETY: The lock of the device is held. `owner` is bound, or being bound, to a USB
        // driver. No data marks the companion, see `Registration::data()`.
        to_result(unsafe {
            let driver = (*owner.as_raw()).dev.driver;
            if driver.is_null() {
                return Err(EINVAL);
            }
            bindings::usb_driver_claim_interface(
                driver
                    .byte_sub(offset_of!(bindings::usb_driver, driver))
                    .cast(),
                companion.as_raw(),
                ptr::null_mut(),
            )
        })
    }

    /// Takes `interface` away from the USB driver that is bound to it, if any.
    pub(crate) fn release(&self, interface: &Interface) {
        let raw = interface.as_raw();
        // SAFETY: The lock of the device is held, so the interface's driver stays; on the USB bus
        // the driver of an interface is a `struct usb_driver`.
        unsafe {
            let driver = (*raw).dev.driver;
            if !driver.is_null() {
                bindings::usb_driver_release_interface(
                    driver
                        .byte_sub(offset_of!(bindings::usb_driver, driver))
                        .cast(),
                    raw,
                );
            }
        }
    }

    /// Offers `interface` to all drivers; returns whether one of them is bound to it now.
    pub(crate) fn attach(&self, interface: &Interface) -> bool {
        // SAFETY: The interface is valid, and the lock of its parent is held, as the bus wants.
        unsafe { bindings::device_attach(&raw mut (*interface.as_raw()).dev) == 1 }
    }
}

/// The interface of a USB device: `struct usb_interface`.
///
/// # Invariants
///
/// Valid, and reference-counted by `usb_get_intf()`.
#[repr(transparent)]
pub(crate) struct Interface(Opaque<bindings::usb_interface>);

// SAFETY: A `struct usb_interface` may be released from any thread.
unsafe impl Send for Interface {}
// SAFETY: What the methods read does not change while there is a reference, or is locked.
unsafe impl Sync for Interface {}

// SAFETY: The functions count references of the interface.
unsafe impl AlwaysRefCounted for Interface {
    fn inc_ref(&self) {
        // SAFETY: The interface is valid by the type invariants.
        unsafe { bindings::usb_get_intf(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements there is a reference to put.
        unsafe { bindings::usb_put_intf(obj.cast().as_ptr()) };
    }
}

impl AsRef<device::Device> for Interface {
    fn as_ref(&self) -> &device::Device {
        // SAFETY: The interface is valid by the type invariants, and so is the `dev` in it.
        unsafe { device::Device::from_raw(&raw mut (*self.as_raw()).dev) }
    }
}

impl Interface {
    /// # Safety
    ///
    /// `raw` must be valid during `'a`.
    unsafe fn from_raw<'a>(raw: *mut bindings::usb_interface) -> &'a Self {
        // SAFETY: By the safety requirements; the type is transparent.
        unsafe { &*raw.cast() }
    }

    /// The C side.
    fn as_raw(&self) -> *mut bindings::usb_interface {
        self.0.get()
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        // SAFETY: The interface is valid and keeps its device, the parent, alive.
        unsafe { Device::from_raw(bindings::interface_to_usbdev(self.as_raw())) }
    }

    /// Keeps the device, which is awake, from being suspended until the result is dropped.
    pub(crate) fn autopm_get_no_resume(&self) -> AutopmGuard {
        // SAFETY: The interface is valid by the type invariants.
        unsafe { pm::usb_autopm_get_interface_no_resume(self.as_raw()) };
        AutopmGuard(self.into())
    }

    /// Likewise, and has the device resumed if it is suspended, which ends by a call of
    /// [`Driver::resume`]; does not wait for that, and never sleeps.
    ///
    /// # Errors
    ///
    /// Those of `pm_runtime_get()`; the device may be suspended then as before.
    pub(crate) fn autopm_get_async(&self) -> Result<AutopmGuard> {
        // SAFETY: The interface is valid by the type invariants.
        to_result(unsafe { pm::usb_autopm_get_interface_async(self.as_raw()) })?;
        Ok(AutopmGuard(self.into()))
    }

    /// The active setting.
    fn setting(&self) -> &bindings::usb_host_interface {
        // SAFETY: There always is one, and no driver here changes it.
        unsafe { &*(*self.as_raw()).cur_altsetting }
    }

    /// The number: `bInterfaceNumber`.
    pub(crate) fn number(&self) -> u8 {
        self.setting().desc.bInterfaceNumber
    }

    /// Class and subclass: `bInterfaceClass`, `bInterfaceSubClass`.
    pub(crate) fn class(&self) -> (u8, u8) {
        let descriptor = &self.setting().desc;
        (descriptor.bInterfaceClass, descriptor.bInterfaceSubClass)
    }

    /// Whether the interface itself is going: its device is unplugged, or gets another
    /// configuration or none.
    ///
    /// The device must be locked, which keeps that as it is.
    pub(crate) fn is_unregistering(&self, _lock: &LockedDevice<'_>) -> bool {
        // SAFETY: The interface is valid by the type invariants; the flag is set under the lock.
        unsafe { (*self.as_raw()).unregistering() != 0 }
    }

    /// The descriptors between the interface's own and its first endpoint's.
    pub(crate) fn extra(&self) -> &[u8] {
        let setting = self.setting();
        match usize::try_from(setting.extralen) {
            // SAFETY: The core keeps the descriptors as long as the device.
            Ok(len) if !setting.extra.is_null() => unsafe {
                slice::from_raw_parts(setting.extra, len)
            },
            _ => &[],
        }
    }

    /// The first bulk endpoint of the active setting with data to the host (`true`) or from it,
    /// among those that have packets of any size.
    pub(crate) fn bulk_endpoint(&self, to_host: bool) -> Option<Endpoint> {
        let setting = self.setting();
        if setting.endpoint.is_null() {
            return None;
        }
        // SAFETY: The core allocated this many endpoints.
        let endpoints = unsafe {
            slice::from_raw_parts(setting.endpoint, usize::from(setting.desc.bNumEndpoints))
        };
        endpoints
            .iter()
            .map(|endpoint| &endpoint.desc)
            .filter(|descriptor| {
                let kind = u32::from(descriptor.bmAttributes);
                let address = u32::from(descriptor.bEndpointAddress);
                kind & bindings::USB_ENDPOINT_XFERTYPE_MASK == bindings::USB_ENDPOINT_XFER_BULK
                    && (address & bindings::USB_ENDPOINT_DIR_MASK != 0) == to_host
            })
            .find_map(|descriptor| {
                // C's `usb_endpoint_maxp()`.
                let max_packet = u16::from_le(descriptor.wMaxPacketSize) & 0x7ff;
                Some(Endpoint {
                    address: descriptor.bEndpointAddress,
                    max_packet: NonZero::new(max_packet.into())?,
                })
            })
    }

    /// The name of the driver that is bound to the interface, if any.
    ///
    /// The device must be locked, which keeps the driver.
    pub(crate) fn driver_name(&self, _lock: &LockedDevice<'_>) -> Option<&CStr> {
        // SAFETY: While the device is locked, its interfaces' drivers stay.
        unsafe {
            let driver = (*self.as_raw()).dev.driver;
            (!driver.is_null()).then(|| CStr::from_char_ptr((*driver).name))
        }
    }

    /// Keeps the tty that a driver has made of this interface from being used.
    ///
    /// Returns `None` where there is no tty.
    ///
    /// # Errors
    ///
    /// `EBUSY` where some program has the tty open.
    pub(crate) fn take_tty(&self) -> Result<Option<ExclusiveTty>> {
        /// # Safety
        ///
        /// `dev` must be valid.
        unsafe extern "C" fn is_tty(dev: *mut bindings::device, _: *const c_void) -> c_int {
            // SAFETY: By the safety requirements; a class is never freed before its devices.
            unsafe {
                let class = (*dev).class;
                let is_tty = !class.is_null() && CStr::from_char_ptr((*class).name) == c"tty";
                c_int::from(is_tty)
            }
        }

        // SAFETY: The interface is valid; the child comes with a reference, which is put after its
        // number is read.
        let number = unsafe {
            let child = bindings::device_find_child(
                &raw mut (*self.as_raw()).dev,
                ptr::null(),
                Some(is_tty),
            );
            if child.is_null() {
                return Ok(None);
            }
            let number = (*child).devt;
            bindings::put_device(child);
            number
        };
        ExclusiveTty::open(number).map(Some)
    }
}

/// Keeps the device of an interface from being suspended until it is dropped, which never sleeps.
/// That has to be before the driver's `disconnect()` returns: the core counts on for the next one.
pub(crate) struct AutopmGuard(ARef<Interface>);

impl Drop for AutopmGuard {
    fn drop(&mut self) {
        // SAFETY: The interface is valid by its type invariants; whoever made this object has
        // counted it as in use.
        unsafe { pm::usb_autopm_put_interface_async(self.0.as_raw()) };
    }
}

/// Lets a device be suspended until it is dropped, which may sleep.
pub(crate) struct AutosuspendGuard(ARef<Device>);

impl Drop for AutosuspendGuard {
    fn drop(&mut self) {
        // SAFETY: The device is valid by its type invariants.
        unsafe { pm::usb_disable_autosuspend(self.0.as_raw()) };
    }
}

/// The core's functions for suspending devices that nobody uses.
#[cfg(CONFIG_PM)]
mod pm {
    pub(super) use kernel::bindings::{
        usb_autopm_get_interface_async,
        usb_autopm_get_interface_no_resume,
        usb_autopm_put_interface_async,
        usb_device,
        usb_disable_autosuspend,
        usb_enable_autosuspend, //
    };

    /// Whether the device is not to be suspended.
    ///
    /// # Safety
    ///
    /// `device` must be valid.
    pub(super) unsafe fn is_forbidden(device: *mut usb_device) -> bool {
        // SAFETY: By the safety requirements.
        unsafe { !(*device).dev.power.runtime_auto() }
    }
}

/// The same where no device is ever suspended: the header has them as inline functions then, which
/// bindgen skips.
#[cfg(not(CONFIG_PM))]
mod pm {
    use kernel::bindings::{
        usb_device,
        usb_interface, //
    };

    pub(super) unsafe fn usb_autopm_get_interface_async(_interface: *mut usb_interface) -> i32 {
        0
    }

    pub(super) unsafe fn usb_autopm_get_interface_no_resume(_interface: *mut usb_interface) {}

    pub(super) unsafe fn usb_autopm_put_interface_async(_interface: *mut usb_interface) {}

    pub(super) unsafe fn usb_enable_autosuspend(_device: *mut usb_device) {}

    pub(super) unsafe fn usb_disable_autosuspend(_device: *mut usb_device) {}

    /// There is nothing to allow.
    pub(super) unsafe fn is_forbidden(_device: *mut usb_device) -> bool {
        false
    }
}

/// A bulk endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    /// `bEndpointAddress`.
    address: u8,
    /// The largest packet in bytes: 512 at high speed, 8 to 64 at full speed.
    pub(crate) max_packet: NonZero<usize>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// With success.
    Ok,
    /// The endpoint is halted (`EPIPE`).
    Stalled,
    /// The device sent more than was asked for (`EOVERFLOW`).
    Babble,
    /// It was taken back by its owner.
    Cancelled,
    /// The device is gone, going, or suspended.
    Gone,
    /// The transfer failed otherwise (`EPROTO`, `EILSEQ`, `ETIME`, ...).
    Failed,
}

impl Status {
    /// From the `status` of an URB, or from what `usb_submit_urb()` returned.
    fn from_errno(errno: c_int) -> Self {
        match errno.unsigned_abs() {
            0 => Self::Ok,
            bindings::EPIPE => Self::Stalled,
            bindings::EOVERFLOW => Self::Babble,
            bindings::ENOENT | bindings::ECONNRESET => Self::Cancelled,
            // The last two: suspended, and barred from being submitted.
            bindings::ENODEV | bindings::ESHUTDOWN | bindings::EHOSTUNREACH | bindings::EPERM => {
                Self::Gone
            }
            _ => Self::Failed,
        }
    }
}

/// A request that has ended.
pub(crate) struct Completion {
    /// The buffer, back from the controller.
    pub(crate) buffer: SensitiveBuffer,
    /// How many bytes were transferred.
    pub(crate) actual: usize,
    /// How it ended.
    pub(crate) status: Status,
}

/// The part of an [`Urb`] that its completion handler uses.
struct Shared {
    /// Set by the handler when the transfer has ended, cleared before it is submitted.
    done: Atomic<bool>,
    /// Somebody waits for the end of the transfer, also where it ends well.
    awaited: Atomic<bool>,
    /// Whom the handler wakes.
    trigger: Arc<Trigger>,
}

/// A bulk request to one endpoint, used again and again.
///
/// # Invariants
///
/// - `raw` is an URB that this object owns, whose context points to `shared`.
/// - While `buffer` is some, the URB has been submitted with it, and the controller may write to it
///   until `shared.done` is set.
pub(crate) struct Urb {
    /// The C side.
    raw: NonNull<bindings::urb>,
    /// Keeps the device alive.
    _device: ARef<Device>,
    /// The endpoint.
    endpoint: Endpoint,
    /// What the completion handler uses.
    shared: KBox<Shared>,
    /// The buffer while the request is under way.
    buffer: Option<SensitiveBuffer>,
}

// SAFETY: An URB may be used from any thread, one at a time.
unsafe impl Send for Urb {}

impl Urb {
    /// Makes a request for `endpoint` of `device`; `trigger` is used when it fails, and when it
    /// ends while it is awaited.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: &Device, endpoint: Endpoint, trigger: Arc<Trigger>) -> Result<Self> {
        let shared = KBox::new(
            Shared {
                done: Atomic::new(false),
                awaited: Atomic::new(false),
                trigger,
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The function may be called in any context that may sleep.
        let raw = unsafe { bindings::usb_alloc_urb(0, bindings::GFP_KERNEL) };
        // INVARIANT: The URB was just allocated, and has not been submitted.
        let this = Self {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
            _device: device.into(),
            endpoint,
            shared,
            buffer: None,
        };
        // SAFETY: The URB is ours and not under way; this is C's `usb_fill_bulk_urb()`.
        unsafe {
            let raw = this.raw.as_ptr();
            (*raw).dev = device.as_raw();
            (*raw).pipe = device.bulk_pipe(endpoint);
            (*raw).complete = Some(Self::complete);
            (*raw).context = ptr::from_ref::<Shared>(&this.shared).cast_mut().cast();
        }
        Ok(this)
    }

    /// The endpoint.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Whether the request is under way (or has ended and was not collected yet).
    pub(crate) fn is_submitted(&self) -> bool {
        self.buffer.is_some()
    }

    /// Starts a transfer of `len` bytes to or from `buffer` at `offset`. Who has to do something
    /// when it ends well says that it is `awaited`.
    ///
    /// # Errors
    ///
    /// What `usb_submit_urb()` returned; [`Status::Failed`] where a transfer is under way, or where
    /// the bytes are not all inside the buffer. The buffer comes back with the error.
    pub(crate) fn submit(
        &mut self,
        mut buffer: SensitiveBuffer,
        offset: usize,
        len: usize,
        awaited: bool,
    ) -> Result<(), (Status, SensitiveBuffer)> {
        let fits = offset
            .checked_add(len)
            .is_some_and(|end| end <= buffer.len());
        let (true, false, Ok(transfer_len)) = (fits, self.is_submitted(), u32::try_from(len))
        else {
            return Err((Status::Failed, buffer));
        };

        self.shared.done.store(false, Release);
        self.shared.awaited.store(awaited, Release);
        let raw = self.raw.as_ptr();
        // SAFETY: The URB is ours and not under way, and complete with these; `offset` is inside
        // the buffer. The buffer lives until the URB has ended: it is kept below, or was refused.
        // It does not move when its owner does.
        let result = unsafe {
            (*raw).transfer_buffer = buffer.as_mut_ptr().add(offset).cast();
            (*raw).transfer_buffer_length = transfer_len;
            (*raw).actual_length = 0;
            bindings::usb_submit_urb(raw, bindings::GFP_KERNEL)
        };
        if result != 0 {
            return Err((Status::from_errno(result), buffer));
        }
        // INVARIANT: The buffer is kept until the handler has set `done`. Should that have happened
        // already, `completed()` finds both.
        self.buffer = Some(buffer);
        Ok(())
    }

    /// From now on the request is awaited; where it has ended already, the trigger is used at once.
    pub(crate) fn await_end(&self) {
        // Either the handler sees this, or its end is seen here.
        self.shared.awaited.xchg(true, Full);
        if self.shared.done.load(Acquire) && self.shared.awaited.xchg(false, Full) {
            self.shared.trigger.now();
        }
    }

    /// Collects the request if it has ended; never sleeps.
    pub(crate) fn completed(&mut self) -> Option<Completion> {
        // Pairs with the release in `complete()`: what the handler saw is seen here.
        if !self.shared.done.load(Acquire) {
            return None;
        }
        let buffer = self.buffer.take()?;
        // SAFETY: The URB has ended, so nobody else writes to it.
        let (actual, status) = unsafe {
            let raw = self.raw.as_ptr();
            ((*raw).actual_length, (*raw).status)
        };
        Some(Completion {
            // CAST: The length is one that was given to `submit()`, or less.
            actual: (actual as usize).min(buffer.len()),
            buffer,
            status: Status::from_errno(status),
        })
    }

    /// Takes the request back if it is under way, waits until it has ended, and collects it.
    pub(crate) fn cancel(&mut self) -> Option<Completion> {
        // SAFETY: The URB is valid; the caller may sleep, as the docs of all callers say.
        unsafe { bindings::usb_kill_urb(self.raw.as_ptr()) };
        self.completed()
    }

    /// Called by the USB core when the transfer has ended, in any context.
    ///
    /// # Safety
    ///
    /// `raw` must be the URB of an [`Urb`] that has been submitted.
    unsafe extern "C" fn complete(raw: *mut bindings::urb) {
        // SAFETY: By the type invariants the context is the `shared`, which is not freed before
        // `usb_kill_urb()` has waited for this function.
        let shared = unsafe { &*(*raw).context.cast::<Shared>() };
        // SAFETY: The URB is valid, and its status is not changed during this call.
        let failed = unsafe { (*raw).status } != 0;
        shared.done.store(true, Release);
        if shared.awaited.xchg(false, Full) || failed {
            shared.trigger.now();
        }
    }
}

impl Drop for Urb {
    fn drop(&mut self) {
        // After this the handler does not run and will not, so `shared` and the buffer may go.
        //
        // SAFETY: The URB is valid and ours; owners of URBs may sleep when they drop them.
        unsafe {
            bindings::usb_kill_urb(self.raw.as_ptr());
            bindings::usb_free_urb(self.raw.as_ptr());
        }
    }
}
