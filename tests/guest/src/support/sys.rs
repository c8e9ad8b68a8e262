// SPDX-License-Identifier: GPL-2.0

//! System calls that no safe wrapper offers: with bad addresses, signals for one thread, and requests to
//! the USB core.

#![expect(
    unsafe_code,
    reason = "a test of bad addresses has to pass some, and neither signal handlers nor ioctl(2) have a \
              safe interface"
)]

use rustix::{
    io::Errno,
    mm::{
        MapFlags,
        MprotectFlags,
        ProtFlags, //
    },
    process::Signal,
    thread::Pid, //
};
use std::{
    ffi::c_void,
    io,
    mem,
    os::fd::{
        AsFd,
        AsRawFd, //
    },
    ptr,
    slice,
    time::Duration, //
};

/// The result of a system call that returns a number of bytes.
fn bytes_or_error(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
    })
}

/// `read(2)` to an address at which there is no memory.
pub(crate) fn read_to_nowhere(fd: impl AsFd, count: usize) -> Result<usize, Errno> {
    let nowhere = ptr::without_provenance_mut::<c_void>(8);
    // SAFETY: The lowest page of the address space is never mapped, so nothing can be overwritten: the
    // kernel finds out and refuses.
    bytes_or_error(unsafe { libc::read(fd.as_fd().as_raw_fd(), nowhere, count) })
}

/// `read(2)` of nothing, to the null pointer.
pub(crate) fn read_nothing_to_null(fd: impl AsFd) -> Result<usize, Errno> {
    // SAFETY: A count of 0 writes nothing.
    bytes_or_error(unsafe { libc::read(fd.as_fd().as_raw_fd(), ptr::null_mut(), 0) })
}

/// Size in bytes of the two parts of [`HalfMemory`]: whole pages of any size.
pub(crate) const HALF: usize = 1 << 18;

/// Memory that can be written to, with as much behind it that cannot.
///
/// # Invariants
///
/// `start` is the start of a private mapping of 2 * [`HALF`] bytes, of which the first half can be read
/// and written.
pub(crate) struct HalfMemory {
    /// Where it starts.
    start: *mut c_void,
}

impl HalfMemory {
    /// Maps it.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: A new mapping at an address of the kernel's choice; the second half of it loses its
        // permissions, which nobody relies on yet.
        unsafe {
            let start = rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                2 * HALF,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?;
            rustix::mm::mprotect(start.byte_add(HALF), HALF, MprotectFlags::empty())?;
            // INVARIANT: Just mapped.
            Ok(Self { start })
        }
    }

    /// `read(2)` of `count` bytes, at most [`HALF`], to where only `room` of them, at most
    /// [`HALF`], can be written. Returns the bytes that came.
    pub(crate) fn read_with_room(
        &mut self,
        fd: impl AsFd,
        room: usize,
        count: usize,
    ) -> Result<Vec<u8>, Errno> {
        assert!(room <= HALF && count <= HALF);
        // SAFETY: By the type's invariants the range is inside the mapping, which is ours alone; the
        // kernel writes to what can be written.
        unsafe {
            let to = self.start.byte_add(HALF - room);
            let got = bytes_or_error(libc::read(fd.as_fd().as_raw_fd(), to, count))?;
            assert!(
                got <= room,
                "{got} bytes were written where there was room for {room}"
            );
            Ok(slice::from_raw_parts(to.cast::<u8>(), got).to_vec())
        }
    }
}

impl Drop for HalfMemory {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants; no reference into it lives longer than it.
        let _ = unsafe { rustix::mm::munmap(self.start, 2 * HALF) };
    }
}

/// Does nothing, but so that the signal's default action does not happen.
extern "C" fn ignore(_signal: libc::c_int) {}

/// Catches a signal with a handler that does nothing; with `restart`, system calls that it interrupts
/// go on afterwards where they can (`SA_RESTART`).
pub(crate) fn catch(signal: Signal, restart: bool) -> io::Result<()> {
    // SAFETY: All zero is a valid action, and the handler does nothing that a handler must not.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
        libc::sigaction(signal.as_raw(), &action, ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to one thread of this process.
pub(crate) fn signal_thread(thread: Pid, signal: Signal) -> io::Result<()> {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    let thread = thread.as_raw_nonzero().get();
    // SAFETY: The call has no effect on memory.
    match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal.as_raw()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel send a signal to the calling thread after `span`, once.
pub(crate) fn signal_this_thread_after(span: Duration, signal: Signal) -> io::Result<()> {
    // SAFETY: All fields may be 0.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal.as_raw();
    event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
    let mut timer = ptr::null_mut();
    // SAFETY: The call reads the one and writes the other.
    if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let time = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: span.as_secs().try_into().map_err(io::Error::other)?,
            tv_nsec: span.subsec_nanos().into(),
        },
    };
    // SAFETY: The timer was just made, and the call only reads the time.
    match unsafe { libc::timer_settime(timer, 0, &time, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has this thread run only when no other wants to (policy SCHED_IDLE).
pub(crate) fn run_when_idle() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: The call only reads its argument; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives memory back to the kernel that this program has freed.
pub(crate) fn give_memory_back() {
    // SAFETY: Only memory that is not in use is touched.
    unsafe { libc::malloc_trim(0) };
}

/// `USBDEVFS_RESET` of the kernel's `uapi/linux/usbdevice_fs.h`: number 20 of type `U`, without an argument.
const USBDEVFS_RESET: libc::c_ulong = 0x5514;

/// Has the kernel reset the USB device whose node is open in `fd`.
pub(crate) fn usb_reset(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: The request has no argument, so no memory is touched.
    match unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), USBDEVFS_RESET as _) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
