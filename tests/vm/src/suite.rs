// SPDX-License-Identifier: GPL-2.0

//! Runs the guest's tests, over as many boots as it takes, and says how each of them ended.

use crate::{
    console::Console,
    frame::{
        Frame,
        Job, //
    },
    machine::{
        Event,
        Logs,
        Machine, //
    },
    tap::{
        self,
        Line,
        Lines, //
    },
};
use anyhow::Result;
use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    path::{
        Path,
        PathBuf, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// How long the console may take to show what the kernel has logged already.
const CONSOLE_TIME: Duration = Duration::from_secs(10);

/// How long the kernel may take to log where everything hangs.
const DUMP_TIME: Duration = Duration::from_secs(5);

/// A test that failed.
#[derive(Debug, PartialEq)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// Why, in words.
    pub why: String,
    /// The log of the machine that it ran in.
    pub log: PathBuf,
}

/// How the tests ended.
#[derive(Debug, Default, PartialEq)]
pub struct Summary {
    /// How many passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: Vec<Failure>,
}

/// What a line of the tests' output means for the run.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nothing.
    None,
    /// A test has begun.
    Started,
    /// A test has ended: its name, and why it failed if it did.
    Ended(String, Option<String>),
}

/// Follows the tests' output through one boot.
#[derive(Default)]
struct Tracker {
    /// Names of the tests that have not ended, in the order in which they run.
    left: VecDeque<String>,
    /// The test that runs, by the output.
    running: Option<String>,
    /// What has been said about it.
    diagnostics: Vec<String>,
}

impl Tracker {
    /// Takes a line of output.
    fn line(&mut self, line: Line) -> Step {
        match line {
            Line::Start(name) => {
                self.running = Some(name);
                self.diagnostics.clear();
                Step::Started
            }
            Line::Diagnostic(text) | Line::Other(text) => {
                if self.running.is_some() {
                    self.diagnostics.push(text);
                }
                Step::None
            }
            Line::BailOut(text) => {
                self.diagnostics.push(format!("Bail out! {text}"));
                Step::None
            }
            Line::Result { passed, name } => {
                self.running = None;
                let Some(index) = self.left.iter().position(|left| *left == name) else {
                    let why = "a result for a test that was not to run (again)".to_string();
                    return Step::Ended(name, Some(why));
                };
                self.left.remove(index);
                let said = std::mem::take(&mut self.diagnostics).join("\n      ");
                let why = if said.is_empty() {
                    "it said no more than `not ok`".to_string()
                } else {
                    said
                };
                Step::Ended(name, (!passed).then_some(why))
            }
        }
    }

    /// The test to blame when the tests do not go on: `marked` in the kernel's log as running, else
    /// the one that runs by the output, else the next, whose beginning got lost.
    fn culprit(&self, marked: Option<&str>) -> Option<String> {
        let left = |name: &&str| self.left.iter().any(|left| left == name);
        marked
            .filter(left)
            .or(self.running.as_deref().filter(left))
            .or(self.left.front().map(String::as_str))
            .map(str::to_string)
    }
}

/// Why the tests of one boot came to an end.
enum End {
    /// All have run.
    Complete,
    /// This one keeps the rest from running, because of this.
    Culprit(String, String),
}

/// A run of the tests.
pub struct Suite<'a> {
    /// Boots the `number`-th machine with these logs.
    pub boot: &'a mut dyn FnMut(Logs) -> Result<Machine>,
    /// The program in the guest, to which the names of the tests to run are added.
    pub program: &'a str,
    /// Directory for logs.
    pub logs: &'a Path,
    /// How long a test may take.
    pub limit: Duration,
    /// How it went so far.
    pub summary: Summary,
}

impl Suite<'_> {
    /// Runs the tests named.
    ///
    /// # Errors
    ///
    /// If a machine does not boot.
    pub fn run(&mut self, names: Vec<String>) -> Result<()> {
        let mut tracker = Tracker {
            left: names.into(),
            ..Tracker::default()
        };
        let mut number = 0;
        while !tracker.left.is_empty() {
            number += 1;
            let logs = Logs::new(self.logs, number);
            let console_log = logs.console.clone();
            let mut machine = (self.boot)(logs)?;
            let before = tracker.left.len();
            let mut started = false;
            match self.one_boot(&mut machine, &mut tracker, number, &mut started)? {
                End::Complete => return Ok(()),
                End::Culprit(name, why) => {
                    self.ended(&name, Some(why), None, &console_log);
                    tracker.left.retain(|left| *left != name);
                }
            }
            tracker.running = None;
            tracker.diagnostics.clear();
            // Tests that do not even begin will not do so the next time: the program itself is broken.
            if !started && tracker.left.len() + 1 == before {
                for name in std::mem::take(&mut tracker.left) {
                    let why = "did not run: the tests do not start".to_string();
                    self.ended(&name, Some(why), None, &console_log);
                }
            }
        }
        Ok(())
    }

    /// Notes and prints how a test ended.
    fn ended(&mut self, name: &str, why: Option<String>, time: Option<Duration>, log: &Path) {
        let time = time.map_or(String::new(), |time| {
            format!(" ({:.1} s)", time.as_secs_f32())
        });
        match why {
            None => {
                println!("ok    {name}{time}");
                self.summary.passed += 1;
            }
            Some(why) => {
                println!(
                    "FAIL  {name}{time}\n      {why}\n      log: {}",
                    log.display()
                );
                self.summary.failed.push(Failure {
                    name: name.to_string(),
                    why,
                    log: log.to_path_buf(),
                });
            }
        }
        let _ = std::io::stdout().flush();
    }

    /// Runs what is left of the tests in one machine, as far as it gets.
    fn one_boot(
        &mut self,
        machine: &mut Machine,
        tracker: &mut Tracker,
        number: u32,
        started: &mut bool,
    ) -> Result<End> {
        let log = machine.logs.console.clone();
        let mut output = File::create(self.logs.join(format!("tests-{number}.log")))?;
        let mut console = Console::default();
        console.read(&log);
        for report in console.take_reports() {
            self.ended("boot", Some(report.line), None, &log);
        }
        let mut argv = vec![self.program.to_string()];
        argv.extend(tracker.left.iter().cloned());
        machine.run(Job {
            argv,
            ..Job::default()
        })?;

        let failed_before = self.summary.failed.len();
        let mut lines = Lines::default();
        let mut since = Instant::now();
        loop {
            match machine.event() {
                Event::Frame(Frame::Stdout(bytes)) => {
                    output.write_all(&bytes)?;
                    for line in lines.push(&bytes) {
                        match tracker.line(tap::parse(&line)) {
                            Step::None => (),
                            Step::Started => {
                                since = Instant::now();
                                *started = true;
                            }
                            Step::Ended(name, why) => {
                                let time = since.elapsed();
                                let why = merge(why, reports_of(&name, &mut console, &log));
                                self.ended(&name, why, Some(time), &log);
                                since = Instant::now();
                            }
                        }
                    }
                }
                Event::Frame(Frame::Stderr(bytes)) => {
                    output.write_all(&bytes)?;
                    // A panicking test says here why it fails.
                    let text = String::from_utf8_lossy(&bytes);
                    for line in text.lines() {
                        tracker.line(Line::Other(line.to_string()));
                    }
                }
                Event::Frame(Frame::Exit(status)) => {
                    console.read(&log);
                    if let Some(culprit) = tracker.culprit(console.running()) {
                        let why = format!("the tests ended in it, with exit status {status}");
                        let why = merge(
                            Some(why),
                            console.take_reports().into_iter().map(|r| r.line),
                        );
                        return Ok(End::Culprit(culprit, why.unwrap_or_default()));
                    }
                    let late: Vec<_> = console.take_reports();
                    for report in late {
                        self.ended("after the tests", Some(report.line), None, &log);
                    }
                    if status != 0 && self.summary.failed.len() == failed_before {
                        let why = format!("exit status {status}, though no test failed");
                        self.ended("guest-tests", Some(why), None, &log);
                    }
                    return Ok(End::Complete);
                }
                Event::Frame(_) => (),
                Event::Gone(why) => {
                    console.read(&log);
                    let reports = console.take_reports().into_iter().map(|report| report.line);
                    let why = merge(Some(format!("the guest crashed: {why}")), reports);
                    return Ok(match tracker.culprit(console.running()) {
                        Some(name) => End::Culprit(name, why.unwrap_or_default()),
                        None => End::Complete,
                    });
                }
                Event::Nothing if since.elapsed() > self.limit => {
                    self.dump(machine);
                    console.read(&log);
                    let why = format!("it hung: no end after {} s", self.limit.as_secs());
                    let reports = console.take_reports().into_iter().map(|report| report.line);
                    let why = merge(Some(why), reports);
                    return Ok(match tracker.culprit(console.running()) {
                        Some(name) => End::Culprit(name, why.unwrap_or_default()),
                        None => End::Culprit("after the tests".into(), why.unwrap_or_default()),
                    });
                }
                Event::Nothing => (),
            }
        }
    }

    /// Has the guest's kernel log which tasks are blocked, and what each processor does.
    fn dump(&self, machine: &mut Machine) {
        for letter in [b'w', b'l'] {
            if machine.send(&Frame::Sysrq(letter)).is_err() {
                return;
            }
        }
        let start = Instant::now();
        while start.elapsed() < DUMP_TIME {
            if let Event::Gone(_) = machine.event() {
                return;
            }
        }
    }
}

/// A reason to fail, and what the kernel reported, in one text.
fn merge(why: Option<String>, reports: impl IntoIterator<Item = String>) -> Option<String> {
    let reports = reports
        .into_iter()
        .map(|line| format!("the kernel reported: {line}"));
    let all: Vec<_> = why.into_iter().chain(reports).collect();
    (!all.is_empty()).then(|| all.join("\n      "))
}

/// What the kernel reported while the test `name` ran, which has just ended.
fn reports_of(name: &str, console: &mut Console, log: &Path) -> Vec<String> {
    let start = Instant::now();
    loop {
        console.read(log);
        // Where tests leave no marks, there is nothing to wait for.
        let marked = console.running().is_some() || console.ended().is_some();
        if !marked || console.ended() == Some(name) || start.elapsed() > CONSOLE_TIME {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    console
        .take_reports_until(name)
        .into_iter()
        .map(|report| report.line)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tracker of these tests.
    fn tracker(names: &[&str]) -> Tracker {
        Tracker {
            left: names.iter().map(|name| name.to_string()).collect(),
            ..Tracker::default()
        }
    }

    #[test]
    fn a_failure_takes_what_was_said_about_its_test_only() {
        let mut tracker = tracker(&["one", "two"]);
        assert_eq!(tracker.line(tap::parse("# start one")), Step::Started);
        assert_eq!(tracker.line(tap::parse("# of one")), Step::None);
        assert_eq!(
            tracker.line(tap::parse("ok 1 - one")),
            Step::Ended("one".into(), None)
        );
        assert_eq!(tracker.line(tap::parse("# start two")), Step::Started);
        assert_eq!(tracker.line(tap::parse("# of two")), Step::None);
        assert_eq!(
            tracker.line(tap::parse("not ok 2 - two")),
            Step::Ended("two".into(), Some("of two".into()))
        );
        assert_eq!(tracker.culprit(None), None);
    }

    #[test]
    fn a_result_that_nobody_asked_for_is_a_failure() {
        let mut tracker = tracker(&["one"]);
        tracker.line(tap::parse("ok 1 - one"));
        for line in ["ok 2 - one", "ok 3 - other"] {
            let Step::Ended(_, Some(why)) = tracker.line(tap::parse(line)) else {
                panic!("{line} was taken for a pass");
            };
            assert!(why.contains("not to run"), "{why}");
        }
    }

    #[test]
    fn the_kernels_mark_is_trusted_more_than_the_output_and_that_more_than_the_order() {
        let mut tracker = tracker(&["one", "two", "three"]);
        assert_eq!(tracker.culprit(None).as_deref(), Some("one"));
        tracker.line(tap::parse("# start two"));
        assert_eq!(tracker.culprit(None).as_deref(), Some("two"));
        assert_eq!(tracker.culprit(Some("three")).as_deref(), Some("three"));
        // A mark of a test that has ended, or of none of ours, says nothing.
        assert_eq!(tracker.culprit(Some("gone")).as_deref(), Some("two"));
        tracker.line(tap::parse("ok 1 - two"));
        assert_eq!(tracker.culprit(Some("two")).as_deref(), Some("one"));
    }
}
