// SPDX-License-Identifier: GPL-2.0

//! `/dev/alrandom`, opened.

use super::wait::PATIENCE;
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::{
    event::{
        PollFd,
        PollFlags,
        Timespec, //
    },
    fs::{
        Mode,
        OFlags, //
    },
    io::Errno, //
};
use std::{
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    },
    sync::Arc,
    time::{
        Duration,
        Instant, //
    },
};

/// Its path.
pub(crate) const NODE: &str = "/dev/alrandom";

/// The most bytes that one read returns (device.md, `MAX_BYTES_USER_CAN_REQUEST`).
pub(crate) const MAX_READ: usize = 100_000;

/// An open file. Clones share it.
#[derive(Clone)]
pub(crate) struct Node {
    /// The file.
    file: Arc<OwnedFd>,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Node {
    /// Opens it with these flags.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn open_with(flags: OFlags) -> Result<Self> {
        let file = rustix::fs::open(NODE, flags | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {NODE}"))?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Opens it for reading.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn open() -> Result<Self> {
        Self::open_with(OFlags::RDONLY)
    }

    /// Opens it for reading without waiting.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn open_nonblocking() -> Result<Self> {
        Self::open_with(OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// One `read(2)` of `count` bytes.
    pub(crate) fn read(&self, count: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; count];
        let got = rustix::io::read(&self.file, &mut bytes[..])?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// As many reads as `count` bytes take.
    ///
    /// # Errors
    ///
    /// Those of a read that fails.
    pub(crate) fn read_all(&self, count: usize) -> Result<Vec<u8>> {
        let mut all = vec![0; count];
        let mut done = 0;
        while done < count {
            let got = rustix::io::read(&self.file, &mut all[done..])
                .with_context(|| format!("read(2) after {done} of {count} bytes"))?;
            ensure!(
                got > 0,
                "read(2) says end of file after {done} of {count} bytes"
            );
            done += got;
        }
        Ok(all)
    }

    /// Reads, which has to be possible without waiting at last, until `count` bytes are there; for
    /// files opened without waiting.
    ///
    /// # Errors
    ///
    /// Those of a read that fails with anything but `EAGAIN`; `EAGAIN` after [`PATIENCE`].
    pub(crate) fn collect(&self, count: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let start = Instant::now();
        while all.len() < count {
            match self.read(count - all.len()) {
                Ok(bytes) => all.extend(bytes),
                Err(Errno::AGAIN) if start.elapsed() < PATIENCE => {
                    self.poll(Duration::from_secs(1))?;
                }
                Err(error) => return Err(error).context("read(2)"),
            }
        }
        Ok(all)
    }

    /// Takes all that is ready; for files opened without waiting.
    ///
    /// # Errors
    ///
    /// Those of a read that fails with anything but `EAGAIN`.
    pub(crate) fn take_ready(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.read(MAX_READ) {
                Ok(bytes) => all.extend(bytes),
                Err(Errno::AGAIN) => return Ok(all),
                Err(error) => return Err(error).context("read(2)"),
            }
        }
    }

    /// `poll(2)` for reading; what it reports, nothing if nothing happens for so long.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn poll(&self, limit: Duration) -> Result<PollFlags> {
        let mut files = [PollFd::new(&*self.file, PollFlags::IN | PollFlags::RDNORM)];
        rustix::event::poll(&mut files, Some(&timespec(limit)))?;
        Ok(files[0].revents())
    }
}

/// A time span as the operating system takes it.
pub(crate) fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: span.as_secs() as i64,
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
