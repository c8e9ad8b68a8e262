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
    /// Parts of the first and the last line of reports that the test expects.
    reports: Vec<(&'static str, &'static str)>,
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
            reports: Vec::new(),
        })
    }

    /// Announces that warnings or errors that contain `text` may come.
    pub(crate) fn announce(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Announces that reports may come: all lines from one that contains `first` to the next that
    /// contains `last`.
    pub(crate) fn announce_report(&mut self, first: &'static str, last: &'static str) {
        self.reports.push((first, last));
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
        problems_in(&self.lines, &self.announced, &self.reports)
    }
}

/// As [`Log::problems`].
fn problems_in(lines: &[Line], announced: &[String], reports: &[(&str, &str)]) -> Vec<String> {
    // Of the report that a line is in.
    let mut last = None;
    let mut problems = Vec::new();
    for line in lines {
        let contains = |part: &str| line.text.contains(part);
        let begun = reports.iter().find(|(first, _)| contains(first));
        last = last.or(begun.map(|(_, last)| *last));
        let expected = last.is_some()
            || announced.iter().any(|part| contains(part))
            || HARMLESS.iter().any(|part| contains(part));
        last = last.filter(|last| !contains(last));
        let trouble = TROUBLE.iter().any(|part| contains(part));
        if trouble || (line.level < INFO && !expected) {
            problems.push(format!("kernel log, level {}: {}", line.level, line.text));
        }
    }
    problems
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

#[cfg(test)]
mod tests {
    use super::{
        problems_in,
        Line, //
    };

    /// The problems among warnings with these texts.
    fn problems(texts: &[&str], announced: &[&str], reports: &[(&str, &str)]) -> Vec<String> {
        let line = |text: &&str| Line {
            level: 4,
            text: (*text).to_owned(),
        };
        let lines: Vec<_> = texts.iter().map(line).collect();
        let announced: Vec<_> = announced.iter().map(|&text| text.to_owned()).collect();
        let found = problems_in(&lines, &announced, reports);
        let text = |line: String| line.replacen("kernel log, level 4: ", "", 1);
        found.into_iter().map(text).collect()
    }

    #[test]
    fn what_was_not_announced_is_a_problem() {
        assert_eq!(problems(&["one", "two"], &["tw"], &[]), ["one"]);
    }

    #[test]
    fn a_report_is_expected_from_its_first_to_its_last_line() {
        let texts = ["a", "begin", "b", "end", "c", "begin", "end", "d"];
        let reports = [("begin", "end")];
        assert_eq!(problems(&texts, &[], &reports), ["a", "c", "d"]);
    }

    #[test]
    fn trouble_is_a_problem_whatever_was_announced() {
        let texts = ["begin", "BUG: KASAN: ", "end"];
        let found = problems(&texts, &["BUG"], &[("begin", "end")]);
        assert_eq!(found, ["BUG: KASAN: "]);
    }
}
