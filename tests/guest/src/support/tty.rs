// SPDX-License-Identifier: GPL-2.0

//! A program that uses the device through the stock serial driver, as the vendor's does.

use super::{
    node::timespec,
    usb::UsbDevice,
    wait::{
        wait_for,
        PATIENCE, //
    },
};
use alpharng_emu::stream::ANSWER_LENGTH;
use anyhow::{
    ensure,
    Result, //
};
use rustix::{
    event::{
        PollFd,
        PollFlags, //
    },
    fs::{
        Mode,
        OFlags, //
    },
    termios::OptionalActions,
};
use std::os::fd::OwnedFd;

/// An open tty, raw: it changes no byte.
pub(crate) struct Tty {
    /// The file.
    file: OwnedFd,
}

impl Tty {
    /// Opens the tty of a device that the stock serial driver has.
    ///
    /// # Errors
    ///
    /// If it has none, or it cannot be opened.
    pub(crate) fn open(device: &UsbDevice) -> Result<Self> {
        let path = format!("/dev/{}", device.tty()?);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        // The kernel makes the node a moment after the device.
        let file = wait_for("the tty to open", || {
            rustix::fs::open(&*path, flags, Mode::empty()).ok()
        })?;
        let mut settings = rustix::termios::tcgetattr(&file)?;
        settings.make_raw();
        rustix::termios::tcsetattr(&file, OptionalActions::Now, &settings)?;
        Ok(Self { file })
    }

    /// Sends `x` and reads its answer, the data and the status byte, by as few system calls as that takes;
    /// waits as long as it takes.
    ///
    /// # Errors
    ///
    /// The operating system's; if the device's status is not 0.
    pub(crate) fn next_block(&mut self, answer: &mut [u8; ANSWER_LENGTH]) -> Result<()> {
        ensure!(rustix::io::write(&self.file, b"x")? == 1);
        let mut done = 0;
        while done < ANSWER_LENGTH {
            let got = rustix::io::read(&self.file, &mut answer[done..])?;
            ensure!(got > 0, "the tty hung up after {done} bytes");
            done += got;
        }
        let status = answer[ANSWER_LENGTH - 1];
        ensure!(status == 0, "the device's status is {status}");
        Ok(())
    }

    /// Keeps others from opening it (`TIOCEXCL`).
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn make_exclusive(&self) -> Result<()> {
        Ok(rustix::termios::ioctl_tiocexcl(&self.file)?)
    }

    /// Sends a command and returns its answer: the data and the status byte.
    ///
    /// # Errors
    ///
    /// If the answer does not come in full.
    pub(crate) fn ask(&mut self, command: u8) -> Result<Vec<u8>> {
        ensure!(rustix::io::write(&self.file, &[command])? == 1);
        let mut answer = vec![0; ANSWER_LENGTH];
        let mut done = 0;
        while done < ANSWER_LENGTH {
            let mut files = [PollFd::new(&self.file, PollFlags::IN)];
            rustix::event::poll(&mut files, Some(&timespec(PATIENCE)))?;
            ensure!(
                files[0].revents().contains(PollFlags::IN),
                "only {done} bytes of the answer came"
            );
            let got = rustix::io::read(&self.file, &mut answer[done..])?;
            ensure!(got > 0, "the tty hung up after {done} bytes");
            done += got;
        }
        Ok(answer)
    }
}
