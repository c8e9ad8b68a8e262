// SPDX-License-Identifier: GPL-2.0

//! A USB device that a process plays, by `/dev/raw-gadget` on the controller of `dummy_hcd`
//! (Documentation/usb/raw-gadget.rst): nothing is between its descriptors and packets and the kernel's USB
//! core, as a virtual machine's controller is.

#![expect(
    unsafe_code,
    reason = "raw-gadget takes structures by ioctl, for which there is no safe interface"
)]

use alpharng_emu::stream::{
    block,
    Command, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::mm::{
    mmap_anonymous,
    munmap,
    MapFlags,
    ProtFlags, //
};
use std::{
    ffi::c_void,
    fs::File,
    io,
    os::fd::AsRawFd,
    ptr,
    sync::{
        atomic::{
            AtomicU32,
            Ordering, //
        },
        Arc, //
    },
    thread, //
};

/// The device that leads to the driver.
const NODE: &str = "/dev/raw-gadget";

/// `UDC_NAME_LENGTH_MAX` (this and what follows: include/uapi/linux/usb/raw_gadget.h).
const NAME: usize = 128;

/// `USB_SPEED_HIGH` (include/uapi/linux/usb/ch9.h).
const HIGH_SPEED: u8 = 3;

/// The number of an ioctl without data (asm-generic/ioctl.h).
const fn io(number: libc::Ioctl) -> libc::Ioctl {
    ((b'U' as libc::Ioctl) << 8) | number
}

/// The number of an ioctl that the kernel reads (1), writes (2) or both (3) a structure of `size` for.
const fn io_with(direction: libc::Ioctl, number: libc::Ioctl, size: usize) -> libc::Ioctl {
    // CAST: The sizes are below 2^14.
    (direction << 30) | ((size as libc::Ioctl) << 16) | io(number)
}

/// `USB_RAW_IOCTL_INIT`.
const INIT: libc::Ioctl = io_with(1, 0, size_of::<Init>());
/// `USB_RAW_IOCTL_RUN`.
const RUN: libc::Ioctl = io(1);
/// `USB_RAW_IOCTL_EVENT_FETCH`; of the structure, the header counts.
const EVENT_FETCH: libc::Ioctl = io_with(2, 2, 8);
/// `USB_RAW_IOCTL_EP0_WRITE`.
const EP0_WRITE: libc::Ioctl = io_with(1, 3, 8);
/// `USB_RAW_IOCTL_EP0_READ`.
const EP0_READ: libc::Ioctl = io_with(3, 4, 8);
/// `USB_RAW_IOCTL_EP_ENABLE`; the structure is `usb_endpoint_descriptor`, of nine bytes.
const EP_ENABLE: libc::Ioctl = io_with(1, 5, 9);
/// `USB_RAW_IOCTL_EP_WRITE`.
const EP_WRITE: libc::Ioctl = io_with(1, 7, 8);
/// `USB_RAW_IOCTL_EP_READ`.
const EP_READ: libc::Ioctl = io_with(3, 8, 8);
/// `USB_RAW_IOCTL_CONFIGURE`.
const CONFIGURE: libc::Ioctl = io(9);
/// `USB_RAW_IOCTL_VBUS_DRAW`.
const VBUS_DRAW: libc::Ioctl = io_with(1, 10, 4);
/// `USB_RAW_IOCTL_EP0_STALL`.
const EP0_STALL: libc::Ioctl = io(12);

/// `USB_RAW_EVENT_CONTROL`.
const CONTROL: u32 = 2;

/// Endpoints that `dummy_hcd` has (drivers/usb/gadget/udc/dummy_hcd.c): numbers of interrupt IN, bulk IN
/// and bulk OUT.
pub(crate) const ENDPOINTS: [u8; 3] = [5, 1, 2];

/// Longest transfer here in bytes.
const MAX_TRANSFER: usize = 65_536;

/// `struct usb_raw_init`.
#[repr(C)]
struct Init {
    /// Name of the controller's driver.
    driver: [u8; NAME],
    /// Name of the controller.
    device: [u8; NAME],
    /// Speed.
    speed: u8,
}

/// `struct usb_raw_event` with room for a `struct usb_ctrlrequest` and more.
#[repr(C)]
struct Event {
    /// What happened.
    kind: u32,
    /// Room for data; the data's length afterwards.
    length: u32,
    /// The data.
    data: [u8; 64],
}

/// `struct usb_raw_ep_io` with room for data.
#[repr(C)]
struct Transfer {
    /// The endpoint's handle.
    endpoint: u16,
    /// None.
    flags: u16,
    /// Length of the data in bytes.
    length: u32,
    /// The data.
    data: [u8; MAX_TRANSFER],
}

impl Transfer {
    /// A transfer of `data`.
    fn of(endpoint: u16, data: &[u8]) -> Box<Self> {
        let mut this = Self::with_room(endpoint, data.len());
        let length = data.len().min(MAX_TRANSFER);
        this.data[..length].copy_from_slice(&data[..length]);
        this
    }

    /// A transfer of up to `room` bytes.
    fn with_room(endpoint: u16, room: usize) -> Box<Self> {
        Box::new(Self {
            endpoint,
            flags: 0,
            length: room.min(MAX_TRANSFER) as u32,
            data: [0; MAX_TRANSFER],
        })
    }
}

/// What a device does when it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It answers each command with the next block of this seed.
    Answer(u64),
    /// It sends for ever, whatever it is told.
    Endless,
}

/// What a device is.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// Its device descriptor.
    pub(crate) device: Vec<u8>,
    /// Its configuration descriptor with all that belongs to it.
    pub(crate) configuration: Vec<u8>,
    /// Its serial number.
    pub(crate) serial: String,
    /// What it does.
    pub(crate) behaviour: Behaviour,
    /// It is pulled out instead of answering the control request with this index, if that comes.
    pub(crate) gone_at: Option<u32>,
}

/// A device that is plugged in until this is dropped: a process of its own, whose end is the unplug.
pub(crate) struct Gadget {
    /// The process, while nobody has waited for it.
    process: Option<libc::pid_t>,
    /// How many control requests there were.
    requests: Counter,
}

/// A number that a process and its child share.
struct Counter(*mut c_void);

impl Counter {
    /// Makes one, of 0.
    fn new() -> Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: The mapping is a new one, at any address.
        let page =
            unsafe { mmap_anonymous(ptr::null_mut(), size_of::<AtomicU32>(), access, flags) };
        Ok(Self(page.context("no shared memory")?))
    }

    /// The number.
    fn get(&self) -> &AtomicU32 {
        // SAFETY: The page is mapped as long as this object is there, is aligned, began with zeros, and is used
        // as this alone.
        unsafe { AtomicU32::from_ptr(self.0.cast()) }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and nothing refers to it any more. Should it stay, it costs a page.
        let _ = unsafe { munmap(self.0, size_of::<AtomicU32>()) };
    }
}

impl Gadget {
    /// Plugs the device in.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn plug(description: &Description) -> Result<Self> {
        // Opened here, so that what is missing is told here.
        let file = File::options().read(true).write(true).open(NODE);
        let file = file.with_context(|| format!("cannot open {NODE}"))?;
        let raw = Raw(Arc::new(file));
        raw.begin().context("raw-gadget does not take the device")?;
        let requests = Counter::new()?;
        // SAFETY: The process of a test has one thread, so whatever the child finds is whole.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("cannot fork"),
            0 => {
                // It ends when the device is pulled out.
                let _ = raw.serve(description, requests.get());
                // SAFETY: Nothing of the parent's is to be cleaned up here.
                unsafe { libc::_exit(0) }
            }
            process => Ok(Self {
                process: Some(process),
                requests,
            }),
        }
    }
}

impl Gadget {
    /// How many control requests there were.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.get().load(Ordering::Relaxed)
    }

    /// Whether it has gone by itself.
    pub(crate) fn is_gone(&mut self) -> bool {
        if let Some(process) = self.process {
            // SAFETY: The process is a child of ours that nobody else waits for.
            if unsafe { libc::waitpid(process, ptr::null_mut(), libc::WNOHANG) } == process {
                self.process = None;
            }
        }
        self.process.is_none()
    }
}

impl Drop for Gadget {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            // SAFETY: The process is a child of ours that nobody else waits for.
            unsafe {
                libc::kill(process, libc::SIGKILL);
                libc::waitpid(process, ptr::null_mut(), 0);
            }
        }
    }
}

/// A file of raw-gadget.
#[derive(Clone)]
struct Raw(Arc<File>);

impl Raw {
    /// Does an ioctl; returns what it returns.
    ///
    /// # Safety
    ///
    /// `argument` is what `number` takes.
    unsafe fn ioctl(&self, number: libc::Ioctl, argument: *mut c_void) -> io::Result<usize> {
        // SAFETY: By the caller's promise.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), number, argument) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Connects a device to the controller, on which nothing is answered yet.
    fn begin(&self) -> io::Result<()> {
        let mut init = Init {
            driver: [0; NAME],
            device: [0; NAME],
            speed: HIGH_SPEED,
        };
        init.driver[..9].copy_from_slice(b"dummy_udc");
        init.device[..11].copy_from_slice(b"dummy_udc.0");
        // SAFETY: The structure is what this ioctl takes, and is only read; the next takes none.
        unsafe {
            self.ioctl(INIT, ptr::from_mut(&mut init).cast())?;
            self.ioctl(RUN, ptr::null_mut())?;
        }
        Ok(())
    }

    /// Does a transfer; returns its length.
    fn transfer(&self, number: libc::Ioctl, transfer: &mut Transfer) -> io::Result<usize> {
        // SAFETY: The structure is what these ioctls take, with room for as many bytes as it says.
        unsafe { self.ioctl(number, ptr::from_mut(transfer).cast()) }
    }

    /// Makes an endpoint work, and returns its handle.
    fn enable(&self, address: u8, attributes: u8, packet: u16, interval: u8) -> io::Result<u16> {
        let [low, high] = packet.to_le_bytes();
        let mut descriptor = [7, 5, address, attributes, low, high, interval, 0, 0];
        // SAFETY: The nine bytes are what this ioctl takes, and are only read.
        let handle = unsafe { self.ioctl(EP_ENABLE, ptr::from_mut(&mut descriptor).cast()) }?;
        Ok(handle as u16)
    }

    /// Is the device, until it is killed.
    fn serve(&self, description: &Description, count: &AtomicU32) -> Result<()> {
        let mut configured = false;
        loop {
            let mut event = Event {
                kind: 0,
                length: 64,
                data: [0; 64],
            };
            // SAFETY: The structure is what this ioctl takes, with as much room as it says.
            unsafe { self.ioctl(EVENT_FETCH, ptr::from_mut(&mut event).cast()) }?;
            if event.kind != CONTROL {
                continue;
            }
            if description.gone_at == Some(count.load(Ordering::Relaxed)) {
                return Ok(());
            }
            count.fetch_add(1, Ordering::Relaxed);
            let [kind, request, index, value, _, _, low, high, ..] = event.data;
            let wanted = usize::from(u16::from_le_bytes([low, high]));
            let done = match (kind, request) {
                // GET_DESCRIPTOR.
                (0x80, 6) => match self.descriptor(description, value, index) {
                    Some(mut data) => {
                        data.truncate(wanted);
                        self.transfer(EP0_WRITE, &mut Transfer::of(0, &data))
                    }
                    None => self.stall(),
                },
                // SET_CONFIGURATION.
                (0x00, 9) => {
                    if !configured {
                        self.configure(description)?;
                        configured = true;
                    }
                    self.transfer(EP0_READ, &mut Transfer::with_room(0, 0))
                }
                // GET_STATUS and GET_CONFIGURATION.
                (0x80.., 0 | 8) => {
                    self.transfer(EP0_WRITE, &mut Transfer::of(0, &vec![0; wanted.min(2)]))
                }
                // Whatever else the host sets.
                (0..0x80, _) => self.transfer(EP0_READ, &mut Transfer::with_room(0, wanted)),
                _ => self.stall(),
            };
            // The host may have given up before.
            let _ = done;
        }
    }

    /// Refuses a control request.
    fn stall(&self) -> io::Result<usize> {
        // SAFETY: This ioctl takes nothing.
        unsafe { self.ioctl(EP0_STALL, ptr::null_mut()) }
    }

    /// The descriptor of this type and index, if there is one.
    fn descriptor(&self, description: &Description, kind: u8, index: u8) -> Option<Vec<u8>> {
        let text = match (kind, index) {
            (1, 0) => return Some(description.device.clone()),
            (2, 0) => return Some(description.configuration.clone()),
            (3, 0) => return Some(vec![4, 3, 9, 4]),
            (3, 1) => alpharng_emu::descriptors::MANUFACTURER,
            (3, 2) => alpharng_emu::descriptors::PRODUCT,
            (3, 3) => &description.serial,
            _ => return None,
        };
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        Some([vec![units.len() as u8 + 2, 3], units].concat())
    }

    /// Makes the endpoints work, and what is behind them.
    fn configure(&self, description: &Description) -> Result<()> {
        let [notify, bulk_in, bulk_out] = ENDPOINTS;
        self.enable(notify | 0x80, 3, 16, 9)?;
        let bulk_in = self.enable(bulk_in | 0x80, 2, 512, 0)?;
        let bulk_out = self.enable(bulk_out, 2, 512, 0)?;
        // SAFETY: The first ioctl takes a number (of 2 mA), the second nothing.
        unsafe {
            self.ioctl(VBUS_DRAW, ptr::without_provenance_mut(50))?;
            self.ioctl(CONFIGURE, ptr::null_mut())?;
        }
        let (raw, behaviour) = (self.clone(), description.behaviour);
        thread::Builder::new().spawn(move || match behaviour {
            Behaviour::Answer(seed) => raw.answer(seed, bulk_in, bulk_out),
            Behaviour::Endless => raw.send_for_ever(bulk_in),
        })?;
        Ok(())
    }

    /// Answers commands until one cannot be answered.
    fn answer(&self, seed: u64, bulk_in: u16, bulk_out: u16) -> Result<()> {
        let mut next = 0;
        loop {
            let mut command = Transfer::with_room(bulk_out, 512);
            let length = self.transfer(EP_READ, &mut command)?;
            for byte in &command.data[..length.min(512)] {
                ensure!(*byte == b'x', "there is no such command");
                let mut answer = block(seed, Command::Entropy, next).to_vec();
                answer.push(0);
                next += 1;
                self.transfer(EP_WRITE, &mut Transfer::of(bulk_in, &answer))?;
            }
        }
    }

    /// Sends bytes until the device is gone.
    fn send_for_ever(&self, bulk_in: u16) -> Result<()> {
        let mut bytes = Transfer::of(bulk_in, &[0x55; MAX_TRANSFER]);
        loop {
            self.transfer(EP_WRITE, &mut bytes)?;
        }
    }
}
