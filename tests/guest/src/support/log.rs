// SPDX-License-Identifier: GPL-2.0

//! The kernel's log while a test runs.

use super::wait::wait_for;
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs::File,
    io::{
        ErrorKind,
        Read,
        Seek,
        SeekFrom, //
    },
    os::unix::fs::OpenOptionsExt,
};

/// Level of ordinary messages; smaller numbers are more serious (`KERN_INFO`).
const INFO: u8 = 6;

/// What the kernel says of any module that was not built with it, and of the clock of an emulated
/// machine on a busy host.
const HARMLESS: [&str; 5] = [
    "alrandom: loading out-of-tree module taints kernel.",
    "alrandom: module verification failed: signature and/or required key missing - tainting kernel",
    "clocksource: ",
    "TSC found unstable after boot",
    "hrtimer: interrupt took",
];

/// What reports of the kernel's own trouble contain, which no test can expect.
const TROUBLE: [&str; 14] = [
    "BUG: ",
    "kernel BUG at",
    "WARNING: ",
    "Oops",
    "general protection fault",
    "rcu: INFO: ",
    "soft lockup",
    "blocked for more than",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "refcount_t: ",
    "panicked at",
];

/// A line of the kernel's log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// How serious, from 0 to 7 (`KERN_EMERG` to `KERN_DEBUG`).
    pub(crate) level: u8,
    /// The text.
    pub(crate) text: String,
}

/// The kernel's log from the beginning of a test.
pub(crate) struct Log {
    /// `/dev/kmsg`.
    file: File,
    /// Lines of the kernel's (not of programs') so far.
    lines: Vec<Line>,
    /// Parts of warnings and errors that the test expects.
    announced: Vec<String>,
}

impl Log {
    /// The log from now on.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn from_now_on() -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("cannot read the kernel's log")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            lines: Vec::new(),
            announced: Vec::new(),
        })
    }

    /// Announces that warnings or errors that contain `text` may come.
    pub(crate) fn announce(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Waits for a line that contains `text`, and announces it.
    ///
    /// # Errors
    ///
    /// If it does not come.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<Line> {
        self.announce(text);
        let found = wait_for("a line in the kernel's log", || {
            self.lines()
                .iter()
                .find(|line| line.text.contains(text))
                .cloned()
        });
        found.with_context(|| {
            format!(
                "no line contains \"{text}\", but there are:\n{}",
                self.tail()
            )
        })
    }

    /// How many lines contain `text`.
    pub(crate) fn count(&mut self, text: &str) -> usize {
        let lines = self.lines().iter();
        lines.filter(|line| line.text.contains(text)).count()
    }

    /// All lines so far.
    pub(crate) fn lines(&mut self) -> &[Line] {
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(length) => self.lines.extend(parse(&record[..length])),
                // Lines were overwritten before they were read: the log is full. What is left is read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => (),
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(_) => return &self.lines,
            }
        }
    }

    /// The last lines, for people.
    fn tail(&mut self) -> String {
        let lines = self.lines();
        let last = &lines[lines.len().saturating_sub(12)..];
        let mut text = String::new();
        for line in last {
            text += &format!("  <{}> {}\n", line.level, line.text);
        }
        text
    }

    /// The lines that no healthy run has: reports of trouble, and whatever is more serious than
    /// information and was not announced.
    pub(crate) fn problems(&mut self) -> Vec<String> {
        self.lines();
        let bad = |line: &&Line| {
            let contains = |part: &str| line.text.contains(part);
            let announced = self.announced.iter().any(|part| contains(part));
            let harmless = HARMLESS.iter().any(|part| contains(part));
            TROUBLE.iter().any(|part| contains(part))
                || (line.level < INFO && !announced && !harmless)
        };
        let found = self.lines.iter().filter(bad);
        found
            .map(|line| format!("kernel log, level {}: {}", line.level, line.text))
            .collect()
    }
}

/// Reads a record of `/dev/kmsg`, `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT`, if it is the kernel's own: the
/// facility, which is in the priority from the fourth bit on, is 0.
fn parse(record: &[u8]) -> Option<Line> {
    let record = String::from_utf8_lossy(record);
    let (head, rest) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    let text = rest.lines().next().unwrap_or_default();
    (priority >> 3 == 0).then(|| Line {
        level: (priority & 7) as u8,
        text: text.to_owned(),
    })
}
