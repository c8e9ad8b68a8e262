// SPDX-License-Identifier: GPL-2.0

//! Something that a test does in the background, and that may sleep in the kernel.

use super::{
    sys::signal_thread,
    wait::{
        wait_until,
        PATIENCE, //
    },
};
use anyhow::{
    anyhow,
    Context,
    Result, //
};
use rustix::{
    process::Signal,
    thread::Pid, //
};
use std::{
    fs,
    sync::mpsc::{
        self,
        Receiver, //
    },
    thread,
    time::Duration, //
};

/// How many times in a row a thread has to be seen asleep: it may sleep for a lock for a moment.
const LOOKS: u32 = 5;

/// A thread.
pub(crate) struct Background<T> {
    /// Its id.
    thread: Pid,
    /// What it returns.
    result: Receiver<T>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn start(body: impl FnOnce() -> T + Send + 'static) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let (give, result) = mpsc::channel();
        thread::Builder::new().spawn(move || {
            // Nobody listens where the test has failed meanwhile.
            let _ = tell.send(rustix::thread::gettid());
            let _ = give.send(body());
        })?;
        Ok(Self {
            thread: told.recv()?,
            result,
        })
    }

    /// Waits until it sleeps in the system call with this number ([`libc::SYS_read`] and the like),
    /// and not only for a moment.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub(crate) fn wait_until_asleep_in(&self, number: libc::c_long) -> Result<()> {
        let thread = self.thread.as_raw_nonzero();
        let path = format!("/proc/self/task/{thread}/syscall");
        let mut asleep = 0;
        wait_until("a thread to sleep in a system call", || {
            // A thread that is not asleep has `running` in it, and one that has ended no such file.
            let text = fs::read_to_string(&path).unwrap_or_default();
            let there = text.split(' ').next() == Some(&number.to_string());
            asleep = if there { asleep + 1 } else { 0 };
            asleep == LOOKS
        })
    }

    /// Waits until it sleeps in `read(2)`.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub(crate) fn wait_until_reading(&self) -> Result<()> {
        self.wait_until_asleep_in(libc::SYS_read)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signal_thread(self.thread, signal).context("cannot send a signal")
    }

    /// The signals that it has blocked, as the kernel writes them.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub(crate) fn blocked_signals(&self) -> Result<String> {
        let thread = self.thread.as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status"))?;
        let line = status.lines().find(|line| line.starts_with("SigBlk:"));
        Ok(line.context("no SigBlk in /proc")?.to_owned())
    }

    /// Whether it goes on for at least so long.
    pub(crate) fn goes_on_for(&self, span: Duration) -> bool {
        // The result must not be lost, so it is not received but looked for in another way.
        thread::sleep(span);
        let thread = self.thread.as_raw_nonzero();
        fs::exists(format!("/proc/self/task/{thread}")).unwrap_or(false)
    }

    /// Waits for its end, and returns what it returned.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub(crate) fn join(self) -> Result<T> {
        self.join_within(PATIENCE)
    }

    /// As [`Self::join`], for what takes longer.
    ///
    /// # Errors
    ///
    /// If it does not end within `limit`.
    pub(crate) fn join_within(self, limit: Duration) -> Result<T> {
        self.result
            .recv_timeout(limit)
            .map_err(|_| anyhow!("a thread did not come back within {} s", limit.as_secs()))
    }
}
