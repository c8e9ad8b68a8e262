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
