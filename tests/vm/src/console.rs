// SPDX-License-Identifier: GPL-2.0

//! Watches what the guest's kernel writes to its console, for the reports that make a test fail.
//!
//! The tests mark their beginnings and ends in the kernel's log themselves, by a line
//! `alrandom-test: start NAME` or `alrandom-test: end NAME` written to `/dev/kmsg`. In the log, unlike on
//! the way of the tests' own output, marks and reports are in the order in which they came.

use crate::tap::Lines;
use std::{
    fs::File,
    io::Read,
    path::Path, //
};

/// What a mark starts with.
const MARK: &str = "alrandom-test: ";

/// What the kernel's reports of its own trouble contain. The words are those of the kernel's source:
/// `kernel/panic.c`, `arch/x86/kernel/traps.c` and `mm/fault.c`, `kernel/rcu`, `kernel/watchdog.c`,
/// `kernel/hung_task.c`, `lib/ubsan.c`, `mm/kasan`, `kernel/locking/lockdep.c`, `rust/kernel/lib.rs`.
const REPORTS: [&str; 26] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "invalid opcode:",
    "stack segment:",
    "double fault",
    "unable to handle",
    "rcu: INFO: ",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "UBSAN: ",
    "KASAN: ",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "INFO: trying to register non-static key",
    "rust_kernel: panicked at",
    "new suspected memory leaks",
    "ODEBUG: ",
    "DMA-API: ",
    "refcount_t: ",
];

/// A line of the console that reports trouble.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The test that was marked as running then.
    pub test: Option<String>,
    /// The test whose end had been marked last.
    pub after: Option<String>,
    /// How many ends had been marked.
    ends: usize,
    /// The line.
    pub line: String,
}

impl Report {
    /// What there is to say about it.
    pub fn text(&self) -> String {
        match (&self.test, &self.after) {
            (None, Some(after)) => format!("the kernel reported, after {after}: {}", self.line),
            _ => format!("the kernel reported: {}", self.line),
        }
    }
}

/// The console's lines so far.
#[derive(Default)]
pub struct Console {
    /// The log, once it is there.
    file: Option<File>,
    /// Puts its lines together.
    lines: Lines,
    /// The test that is marked as running.
    running: Option<String>,
    /// The tests whose ends were marked, in this order.
    ended: Vec<String>,
    /// Reports that have not been taken.
    reports: Vec<Report>,
    /// Whether the tests have turned out to leave no marks, so that none is to be waited for.
    pub unmarked: bool,
}

impl Console {
    /// Takes one line.
    fn line(&mut self, line: &str) {
        if let Some((_, mark)) = line.split_once(MARK) {
            if let Some(name) = mark.strip_prefix("start ") {
                self.running = Some(name.trim().to_string());
            } else if let Some(name) = mark.strip_prefix("end ") {
                self.running = None;
                self.ended.push(name.trim().to_string());
            }
        } else if REPORTS.iter().any(|report| line.contains(report)) {
            self.reports.push(Report {
                test: self.running.clone(),
                after: self.ended.last().cloned(),
                ends: self.ended.len(),
                line: line.trim().to_string(),
            });
        }
    }

    /// Takes what is new.
    pub fn push(&mut self, bytes: &[u8]) {
        for line in self.lines.push(bytes) {
            self.line(&line);
        }
    }

    /// Takes what is new in the log at `path`.
    pub fn read(&mut self, path: &Path) {
        if self.file.is_none() {
            self.file = File::open(path).ok();
        }
        let mut new = Vec::new();
        // A log that can't be read has nothing new in it; QEMU could not have been started without it.
        if let Some(file) = &mut self.file {
            let _ = file.read_to_end(&mut new);
        }
        self.push(&new);
    }

    /// The test that is marked as running.
    pub fn running(&self) -> Option<&str> {
        self.running.as_deref()
    }

    /// The test whose end was marked last.
    pub fn ended(&self) -> Option<&str> {
        self.ended.last().map(String::as_str)
    }

    /// Whether the end of the test `name` was marked.
    pub fn has_ended(&self, name: &str) -> bool {
        self.ended.iter().any(|ended| ended == name)
    }

    /// The reports since the last call that came before the marked end of the test `name`, as others may
    /// have run since. Without such a mark, all.
    pub fn take_reports_of(&mut self, name: &str) -> Vec<Report> {
        let end = self.ended.iter().rposition(|ended| ended == name);
        let (take, keep) = std::mem::take(&mut self.reports)
            .into_iter()
            .partition(|report| end.is_none_or(|end| report.ends <= end));
        self.reports = keep;
        take
    }

    /// The reports since the last call.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reports in a text, as test and line.
    fn reports(text: &str) -> Vec<(Option<String>, String)> {
        let mut console = Console::default();
        console.push(text.as_bytes());
        let reports = console.take_reports();
        reports.into_iter().map(|r| (r.test, r.line)).collect()
    }

    #[test]
    fn what_the_kernel_really_says_is_recognised() {
        // First lines of reports, as kernels printed them.
        for line in [
            "[   12.345678] WARNING: CPU: 1 PID: 77 at drivers/usb/core/urb.c:379 usb_submit_urb+0x5e4/0x770",
            "[   12.345678] WARNING: drivers/usb/core/urb.c:379 at usb_submit_urb+0x5e4/0x770, CPU#1: dd/77",
            "[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[   12.345678] BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580",
            "[   12.345678] BUG: scheduling while atomic: dd/77/0x00000002",
            "[   12.345678] Oops: Oops: 0002 [#1] SMP NOPTI",
            "[   12.345678] kernel BUG at lib/list_debug.c:59!",
            "[   12.345678] Kernel panic - not syncing: sysrq triggered crash",
            "[   12.345678] general protection fault, probably for non-canonical address 0xdead000000000100",
            "[   12.345678] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[   12.345678] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [dd:77]",
            "[   12.345678] INFO: task rmmod:99 blocked for more than 120 seconds.",
            "[   12.345678] UBSAN: array-index-out-of-bounds in drivers/x.c:1:2",
            "[   12.345678] refcount_t: underflow; use-after-free.",
            "[   12.345678] rust_kernel: panicked at alrandom.rs:10:5:",
        ] {
            assert_eq!(reports(&format!("{line}\n")), [(None, line.to_string())]);
        }
    }

    #[test]
    fn ordinary_lines_are_none() {
        for line in [
            "[    0.000000] Linux version 7.2.12+deb13-amd64 (debian-kernel@lists.debian.org)",
            "[    1.000000] alrandom: loading out-of-tree module taints kernel.",
            "[    1.000000] usb 1-1: new high-speed USB device number 2 using xhci_hcd",
            "[    1.000000] alrandom 1-1:1.1: health test failed: block discarded",
        ] {
            assert_eq!(reports(&format!("{line}\n")), []);
        }
    }

    #[test]
    fn a_report_belongs_to_the_test_it_is_between_the_marks_of() {
        let found = reports(
            "[1.0] WARNING: before\n\
             [1.1] alrandom-test: start one\n\
             [1.2] alrandom-test: end one\n\
             [1.3] alrandom-test: start two\n\
             [1.4] BUG: in two\n\
             [1.5] alrandom-test: end two\n\
             [1.6] Oops: after\n",
        );
        assert_eq!(
            found,
            [
                (None, "[1.0] WARNING: before".into()),
                (Some("two".into()), "[1.4] BUG: in two".into()),
                (None, "[1.6] Oops: after".into()),
            ]
        );
    }

    #[test]
    fn what_comes_after_the_end_of_a_test_is_left_for_the_next() {
        let mut console = Console::default();
        console.push(
            b"BUG: 0\nalrandom-test: start one\nBUG: 1\nalrandom-test: end one\nBUG: 2\n\
              alrandom-test: start two\nBUG: 3\nalrandom-test: end two\nBUG: 4\n\
              alrandom-test: start three\nBUG: 5\n",
        );
        let mut take = |name| -> Vec<String> {
            let reports = console.take_reports_of(name);
            reports.iter().map(|report| report.line.clone()).collect()
        };
        assert_eq!(take("one"), ["BUG: 0", "BUG: 1"]);
        assert_eq!(take("two"), ["BUG: 2", "BUG: 3"]);
        assert_eq!(take("three"), ["BUG: 4", "BUG: 5"]);
    }

    #[test]
    fn a_report_between_two_tests_says_after_which() {
        let mut console = Console::default();
        console.push(b"alrandom-test: end one\nBUG: 2\nalrandom-test: start two\nBUG: 3\n");
        let texts: Vec<_> = console.take_reports().iter().map(Report::text).collect();
        assert_eq!(
            texts,
            [
                "the kernel reported, after one: BUG: 2",
                "the kernel reported: BUG: 3"
            ]
        );
    }

    #[test]
    fn a_name_that_sounds_like_a_report_is_none() {
        assert_eq!(reports("[1] alrandom-test: start Oops_is_seen\n"), []);
    }

    #[test]
    fn marks_tell_what_runs() {
        let mut console = Console::default();
        console.push(b"alrandom-test: start one\nalrandom-test: e");
        assert_eq!((console.running(), console.ended()), (Some("one"), None));
        console.push(b"nd one\n");
        assert_eq!((console.running(), console.ended()), (None, Some("one")));
    }
}
