// SPDX-License-Identifier: GPL-2.0

//! A program that drives the device without a driver, through usbfs: what a user-space program can reach at
//! best. Requests for answers are posted before their commands go out, several at once if wanted, and all in
//! one thread, without a library's event loop in between.

#![expect(
    unsafe_code,
    reason = "usbfs takes pointers in structures, for which there is no safe interface"
)]

use super::usb::UsbDevice;
use alpharng_emu::stream::{
    ANSWER_LENGTH,
    BLOCK_LENGTH, //
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use std::{
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    fs::File,
    io,
    os::fd::AsRawFd,
    ptr, //
};

/// Size of a buffer for an answer: whole packets of 512 bytes.
const BUFFER: usize = ANSWER_LENGTH.next_multiple_of(512);

/// `USBDEVFS_URB_TYPE_BULK` (include/uapi/linux/usbdevice_fs.h, as all that follows).
const TYPE_BULK: u8 = 3;

/// `struct usbdevfs_urb`, of a transfer that is not isochronous.
#[repr(C)]
struct Urb {
    /// What kind of transfer.
    kind: u8,
    /// The endpoint's address.
    endpoint: u8,
    /// How it ended, 0 or a negative error number.
    status: c_int,
    /// None are needed.
    flags: c_uint,
    /// The data.
    buffer: *mut c_void,
    /// How many bytes there is room for, or to send.
    buffer_length: c_int,
    /// How many went over the bus.
    actual_length: c_int,
    /// For isochronous transfers.
    start_frame: c_int,
    /// For isochronous transfers.
    number_of_packets: c_int,
    /// For isochronous transfers.
    error_count: c_int,
    /// The signal to send at the end: none.
    signal: c_uint,
    /// Left alone by the kernel.
    context: *mut c_void,
}

/// `struct usbdevfs_ioctl`.
#[repr(C)]
struct DriverIoctl {
    /// Number of the interface.
    interface: c_int,
    /// What to do with its driver.
    code: c_int,
    /// No data.
    data: *mut c_void,
}

/// `struct usbdevfs_disconnect_claim`.
#[repr(C)]
struct DisconnectClaim {
    /// Number of the interface.
    interface: c_uint,
    /// No condition.
    flags: c_uint,
    /// For conditions.
    driver: [u8; 256],
}

/// The number of an ioctl of usbfs: direction (1 write, 2 read), command, size of its argument.
const fn ioctl_number(direction: libc::Ioctl, command: u8, size: usize) -> libc::Ioctl {
    (direction << 30)
        | ((size as libc::Ioctl) << 16)
        | ((b'U' as libc::Ioctl) << 8)
        | command as libc::Ioctl
}

/// `USBDEVFS_SUBMITURB`.
const SUBMIT: libc::Ioctl = ioctl_number(2, 10, size_of::<Urb>());
/// `USBDEVFS_DISCARDURB`.
const DISCARD: libc::Ioctl = ioctl_number(0, 11, 0);
/// `USBDEVFS_REAPURB`.
const REAP: libc::Ioctl = ioctl_number(1, 12, size_of::<*mut c_void>());
/// `USBDEVFS_RELEASEINTERFACE`.
const RELEASE: libc::Ioctl = ioctl_number(2, 16, size_of::<c_uint>());
/// `USBDEVFS_IOCTL`.
const DRIVER: libc::Ioctl = ioctl_number(3, 18, size_of::<DriverIoctl>());
/// `USBDEVFS_CONNECT`, as the code of a [`DriverIoctl`].
const CONNECT: libc::Ioctl = ioctl_number(0, 23, 0);
/// `USBDEVFS_DISCONNECT_CLAIM`.
const DISCONNECT_CLAIM: libc::Ioctl = ioctl_number(2, 27, size_of::<DisconnectClaim>());

/// A transfer and its buffer.
struct Transfer {
    /// What the kernel is told. It keeps the address of this, too.
    urb: Box<Urb>,
    /// The data, which `urb` points to.
    buffer: Box<[u8]>,
    /// Whether the kernel has it.
    submitted: bool,
}

impl Transfer {
    /// A bulk transfer on this endpoint, of as many bytes as `buffer` has.
    fn new(endpoint: u8, mut buffer: Box<[u8]>) -> Self {
        let urb = Box::new(Urb {
            kind: TYPE_BULK,
            endpoint,
            status: 0,
            flags: 0,
            buffer: buffer.as_mut_ptr().cast(),
            buffer_length: buffer.len() as c_int,
            actual_length: 0,
            start_frame: 0,
            number_of_packets: 0,
            error_count: 0,
            signal: 0,
            context: ptr::null_mut(),
        });
        Self {
            urb,
            buffer,
            submitted: false,
        }
    }
}

/// The device, taken from its driver. It goes back to that when this is dropped.
///
/// # Invariants
///
/// The transfers live as long as the file, and none is replaced or dropped while it is submitted.
pub(crate) struct UsbFs {
    /// The device's node. Behind its closing the kernel has no transfer any more.
    file: File,
    /// Numbers of its interfaces.
    interfaces: [u8; 2],
    /// Reads for answers, in the order in which they were posted from `next` on.
    reads: Vec<Transfer>,
    /// Which of them is the next to end.
    next: usize,
    /// Writes of commands.
    writes: Vec<Transfer>,
}

impl UsbFs {
    /// Takes the device, and has so many commands under way from now on.
    ///
    /// # Errors
    ///
    /// If it cannot be had.
    pub(crate) fn open(device: &UsbDevice, depth: usize) -> Result<Self> {
        ensure!(depth > 0);
        let path = device.node()?;
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {path}"))?;
        let (bulk_in, bulk_out) = device.bulk_endpoints()?;
        let mut this = Self {
            file,
            interfaces: device.interface_numbers()?,
            reads: (0..depth)
                .map(|_| Transfer::new(bulk_in, vec![0; BUFFER].into()))
                .collect(),
            next: 0,
            // One more: an answer can come before the end of the transfer of its command.
            writes: (0..=depth)
                .map(|_| Transfer::new(bulk_out, vec![b'x'].into()))
                .collect(),
        };
        for interface in this.interfaces {
            let mut claim = DisconnectClaim {
                interface: interface.into(),
                flags: 0,
                driver: [0; 256],
            };
            // SAFETY: The argument is what this ioctl takes, and is only read.
            unsafe { this.ioctl(DISCONNECT_CLAIM, ptr::from_mut(&mut claim).cast()) }
                .with_context(|| format!("cannot claim interface {interface}"))?;
        }
        for _ in 0..depth {
            this.request()?;
        }
        Ok(this)
    }

    /// An ioctl of the device's file.
    ///
    /// # Errors
    ///
    /// The operating system's.
    ///
    /// # Safety
    ///
    /// `argument` is what `number` takes.
    unsafe fn ioctl(&self, number: libc::Ioctl, argument: *mut c_void) -> io::Result<()> {
        // SAFETY: By the caller's promise.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), number, argument) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hands a transfer to the kernel.
    fn submit(file: &File, transfer: &mut Transfer) -> Result<()> {
        let urb = ptr::from_mut(&mut *transfer.urb);
        // SAFETY: The structure is what this ioctl takes, with a buffer of the length that it says; both
        // stay in place until it is reaped or the file is closed, by the type's invariants. The kernel reads
        // them now, and writes to them only in a reap.
        match unsafe { libc::ioctl(file.as_raw_fd(), SUBMIT, urb) } {
            0.. => {
                transfer.submitted = true;
                Ok(())
            }
            _ => Err(io::Error::last_os_error()).context("cannot submit a transfer"),
        }
    }

    /// Posts a read, and sends a command behind it.
    fn request(&mut self) -> Result<()> {
        let depth = self.reads.len();
        let read = (self.next..self.next + depth)
            .map(|index| index % depth)
            .find(|index| !self.reads[*index].submitted);
        let read = read.context("all reads are posted")?;
        Self::submit(&self.file, &mut self.reads[read])?;
        let write = self.writes.iter_mut().find(|write| !write.submitted);
        Self::submit(&self.file, write.context("all commands are under way")?)
    }

    /// Waits for the end of a transfer, and says which read it was, if it was one.
    fn reap(&mut self) -> Result<Option<usize>> {
        let mut done: *mut Urb = ptr::null_mut();
        // SAFETY: The argument is what this ioctl takes. What it writes to is one of the transfers' and its
        // buffer, nobody else uses which meanwhile.
        unsafe { self.ioctl(REAP, ptr::from_mut(&mut done).cast()) }
            .context("cannot reap a transfer")?;
        let is_done = |transfer: &&mut Transfer| ptr::eq(&*transfer.urb, done);
        if let Some(write) = self.writes.iter_mut().find(is_done) {
            write.submitted = false;
            ensure!(
                write.urb.status == 0,
                "a command ended with status {}",
                write.urb.status
            );
            return Ok(None);
        }
        let read = self
            .reads
            .iter()
            .position(|transfer| ptr::eq(&*transfer.urb, done));
        let read = read.context("the kernel reaped a transfer of nobody")?;
        self.reads[read].submitted = false;
        Ok(Some(read))
    }

    /// Waits for the next answer; the index of its read.
    fn wait(&mut self) -> Result<usize> {
        loop {
            let Some(read) = self.reap()? else {
                continue;
            };
            ensure!(read == self.next, "the answers come out of order");
            self.next = (self.next + 1) % self.reads.len();
            let transfer = &self.reads[read];
            let (status, length) = (transfer.urb.status, transfer.urb.actual_length);
            ensure!(
                status == 0 && length as usize == ANSWER_LENGTH,
                "an answer of {length} bytes, with status {status}"
            );
            if transfer.buffer[BLOCK_LENGTH] != 0 {
                bail!("the device's status is {}", transfer.buffer[BLOCK_LENGTH]);
            }
            return Ok(read);
        }
    }

    /// The next answer's data; asks for another one in its place at the next call.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with a transfer or an answer.
    pub(crate) fn next_block(&mut self) -> Result<&[u8]> {
        let read = self.wait()?;
        // The caller has the bytes as soon as the next request is out: the kernel copies to the buffer when
        // the next answer is reaped, and no sooner.
        self.request()?;
        Ok(&self.reads[read].buffer[..BLOCK_LENGTH])
    }

    /// Waits for the answers to all commands under way, so that none is left in the device.
    ///
    /// # Errors
    ///
    /// As [`Self::next_block`].
    pub(crate) fn finish(mut self) -> Result<()> {
        while self.reads[self.next].submitted {
            self.wait()?;
        }
        while self.writes.iter().any(|write| write.submitted) {
            self.reap()?;
        }
        Ok(())
    }
}

impl Drop for UsbFs {
    fn drop(&mut self) {
        for transfer in self.reads.iter_mut().chain(&mut self.writes) {
            if transfer.submitted {
                // SAFETY: The argument is the address of a transfer, which this ioctl only looks up.
                unsafe { libc::ioctl(self.file.as_raw_fd(), DISCARD, &*transfer.urb) };
            }
        }
        for interface in self.interfaces {
            let mut number = c_uint::from(interface);
            // Where this fails the device is gone, or the closing of the file does it.
            // SAFETY: The argument is what this ioctl takes, and is only read.
            let _ = unsafe { self.ioctl(RELEASE, ptr::from_mut(&mut number).cast()) };
        }
        // The first one brings the serial driver, which takes the other one itself.
        let mut connect = DriverIoctl {
            interface: self.interfaces[0].into(),
            code: CONNECT as c_int,
            data: ptr::null_mut(),
        };
        // SAFETY: The argument is what this ioctl takes, without data.
        let _ = unsafe { self.ioctl(DRIVER, ptr::from_mut(&mut connect).cast()) };
    }
}
