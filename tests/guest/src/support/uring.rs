// SPDX-License-Identifier: GPL-2.0

//! Reading by `io_uring`.

#![expect(
    unsafe_code,
    reason = "the kernel writes to buffers behind the compiler's back"
)]

use super::wait::PATIENCE;
use anyhow::{
    Context,
    Result, //
};
use io_uring::{
    opcode,
    squeue::Flags,
    types::{
        Fd,
        SubmitArgs,
        Timespec, //
    },
    IoUring, //
};
use rustix::io::Errno;
use std::os::fd::{
    AsFd,
    AsRawFd, //
};

/// `RWF_NOWAIT` of the kernel's `uapi/linux/fs.h`.
const RWF_NOWAIT: i32 = 0x8;

/// One read of `count` bytes by `io_uring`; with `nowait`, one that must not wait.
///
/// # Errors
///
/// If `io_uring` does not work, or the read does not end within [`PATIENCE`].
pub(crate) fn read(
    fd: impl AsFd,
    count: usize,
    nowait: bool,
) -> Result<std::result::Result<Vec<u8>, Errno>> {
    let mut ring = IoUring::new(1).context("no io_uring")?;
    let mut bytes = vec![0; count];
    let entry = opcode::Read::new(
        Fd(fd.as_fd().as_raw_fd()),
        bytes.as_mut_ptr(),
        u32::try_from(count)?,
    )
    // As read(2) does: at the file's position, which this one does not have.
    .offset(u64::MAX)
    .rw_flags(if nowait { RWF_NOWAIT } else { 0 })
    .build();
    // SAFETY: `bytes` is valid until the read has ended; where that is not known, it is leaked.
    unsafe { ring.submission().push(&entry) }.context("the ring is full")?;
    let limit = Timespec::new().sec(PATIENCE.as_secs());
    let submitted = ring
        .submitter()
        .submit_with_args(1, &SubmitArgs::new().timespec(&limit));
    let Some(completion) = ring.completion().next() else {
        bytes.leak();
        submitted?;
        anyhow::bail!("the read did not end");
    };
    Ok(match usize::try_from(completion.result()) {
        Ok(got) => {
            bytes.truncate(got);
            Ok(bytes)
        }
        Err(_) => Err(Errno::from_raw_os_error(-completion.result())),
    })
}

/// An operation of a [`Ring`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// Read so many bytes.
    Read(usize),
    /// Read so many bytes into a buffer that the kernel was told of before.
    ReadFixed(usize),
    /// Read so many bytes with a vector of one buffer.
    Readv(usize),
    /// Wait for these events, as poll(2) does.
    Poll(u32),
    /// Have the operation with this number end.
    Cancel(u64),
    /// Have the operation before, which is linked to this one, end after so many milliseconds.
    LinkedTimeout(u32),
}

/// A ring for several operations at once.
///
/// # Invariants
///
/// `buffer`, its vector and `limit` stay where they are as long as an operation is under way that
/// uses them: they are forgotten if that is so in the end.
pub(crate) struct Ring {
    /// The ring.
    ring: IoUring,
    /// What all reads read to.
    buffer: Vec<u8>,
    /// The vector of that buffer.
    vector: Box<libc::iovec>,
    /// The time of a linked timeout.
    limit: Box<Timespec>,
    /// How many operations are under way.
    pending: usize,
}

impl Ring {
    /// Makes one, with a buffer of `count` bytes.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let ring = IoUring::new(16).context("no io_uring")?;
        let mut buffer = vec![0; count];
        let vector = Box::new(libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: count,
        });
        // SAFETY: The buffer is valid until the ring is closed, see the type's invariants.
        unsafe { ring.submitter().register_buffers(&[*vector]) }
            .context("cannot register a buffer")?;
        // INVARIANT: Nothing is under way.
        Ok(Self {
            ring,
            buffer,
            vector,
            limit: Box::default(),
            pending: 0,
        })
    }

    /// Hands an operation on a file to the kernel, with this number; it may be linked to the next
    /// one.
    ///
    /// # Errors
    ///
    /// If the ring is full, or the operating system's.
    pub(crate) fn submit(
        &mut self,
        fd: impl AsFd,
        number: u64,
        operation: Operation,
        linked: bool,
    ) -> Result<()> {
        let fd = Fd(fd.as_fd().as_raw_fd());
        let to = self.buffer.as_mut_ptr();
        let within = |count: usize| {
            assert!(count <= self.buffer.len());
            u32::try_from(count)
        };
        let entry = match operation {
            Operation::Read(count) => opcode::Read::new(fd, to, within(count)?)
                .offset(u64::MAX)
                .build(),
            Operation::ReadFixed(count) => opcode::ReadFixed::new(fd, to, within(count)?, 0)
                .offset(u64::MAX)
                .build(),
            Operation::Readv(count) => {
                within(count)?;
                self.vector.iov_len = count;
                opcode::Readv::new(fd, &raw const *self.vector, 1)
                    .offset(u64::MAX)
                    .build()
            }
            Operation::Poll(events) => opcode::PollAdd::new(fd, events).build(),
            Operation::Cancel(number) => opcode::AsyncCancel::new(number).build(),
            Operation::LinkedTimeout(ms) => {
                *self.limit = Timespec::new()
                    .sec(u64::from(ms / 1000))
                    .nsec(ms % 1000 * 1_000_000);
                opcode::LinkTimeout::new(&raw const *self.limit).build()
            }
        };
        let flags = if linked {
            Flags::IO_LINK
        } else {
            Flags::empty()
        };
        let entry = entry.user_data(number).flags(flags);
        // SAFETY: By the type's invariants what the operation uses is valid as long as it needs it.
        unsafe { self.ring.submission().push(&entry) }.context("the ring is full")?;
        self.pending += 1;
        if !linked {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Waits for the end of one operation, which may be any: its number, and what it returned.
    ///
    /// # Errors
    ///
    /// If none ends within [`PATIENCE`].
    pub(crate) fn wait(&mut self) -> Result<(u64, std::result::Result<usize, Errno>)> {
        if self.ring.completion().is_empty() {
            let limit = Timespec::new().sec(PATIENCE.as_secs());
            let arguments = SubmitArgs::new().timespec(&limit);
            self.ring.submitter().submit_with_args(1, &arguments)?;
        }
        let completion = self.ring.completion().next();
        let completion = completion.context("no operation has ended")?;
        self.pending -= 1;
        let result = usize::try_from(completion.result())
            .map_err(|_| Errno::from_raw_os_error(-completion.result()));
        Ok((completion.user_data(), result))
    }

    /// The first `count` bytes of the buffer.
    pub(crate) fn bytes(&self, count: usize) -> &[u8] {
        &self.buffer[..count]
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.pending > 0 {
            // The kernel may write there a little longer.
            std::mem::take(&mut self.buffer).leak();
            let vector = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            };
            Box::leak(std::mem::replace(&mut self.vector, Box::new(vector)));
            Box::leak(std::mem::take(&mut self.limit));
        }
    }
}
