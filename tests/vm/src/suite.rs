// SPDX-License-Identifier: GPL-2.0

//! Runs the guest's tests, over as many boots as it takes, and says how each of them ended.

use crate::{
    console::{
        Console,
        Report, //
    },
    frame::{
        Frame,
        Job, //
    },
    machine::{
        Event,
        Logs,
        Machine, //
    },
    memory,
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

impl Summary {
    /// Adds how others ended.
    pub fn add(&mut self, others: Summary) {
        self.passed += others.passed;
        self.failed.extend(others.failed);
    }
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
                self.diagnostics.push(text);
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
                let said = std::mem::take(&mut self.diagnostics);
                let why = if said.is_empty() {
                    "it said no more than `not ok`".to_string()
                } else {
                    said.join("\n      ")
                };
                Step::Ended(name, (!passed).then_some(why))
            }
        }
    }

    /// What has been said about the test that runs, to be added to a reason.
    fn said(&self) -> String {
        let lines = self.diagnostics.iter();
        lines.map(|line| format!("\n      {line}")).collect()
    }

    /// The test to blame when the tests do not go on. The kernel's log is believed first: the test that is
    /// marked as `running`, or else the one after that which is marked as `ended` last, if its result got
    /// lost. Then the output; and last the order, for a beginning may have got lost too.
    fn culprit(&self, running: Option<&str>, ended: Option<&str>) -> Option<String> {
        let index = |name: &str| self.left.iter().position(|left| left == name);
        let index = running
            .and_then(index)
            .or(ended.and_then(index).map(|index| index + 1))
            .or(self.running.as_deref().and_then(index))
            .unwrap_or(0);
        // If the last one's result got lost, there is none after it.
        self.left.get(index).or(self.left.back()).cloned()
    }
}

/// Why the tests of one boot came to an end.
enum End {
    /// All have run.
    Complete,
    /// This one keeps the rest from running, because of this.
    Culprit(String, String),
    /// The program ended before any test began, because of this: it will not fare better the next time.
    Broken(String),
}

/// A run of the tests.
pub struct Suite<'a> {
    /// Boots the `number`-th machine with these logs.
    pub boot: &'a mut dyn FnMut(Logs) -> Result<Machine>,
    /// The program in the guest and its options; the names of the tests to run are added.
    pub program: &'a [String],
    /// Directory for logs.
    pub logs: &'a Path,
    /// How long a test may take.
    pub limit: Duration,
    /// Where each test is told of as it ends.
    pub out: &'a mut dyn Write,
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
            match self.one_boot(&mut machine, &mut tracker, number)? {
                End::Complete => return Ok(()),
                End::Culprit(name, why) => {
                    self.ended(&name, Some(why), None, &console_log)?;
                    tracker.left.retain(|left| *left != name);
                }
                End::Broken(why) => {
                    for name in std::mem::take(&mut tracker.left) {
                        self.ended(&name, Some(why.clone()), None, &console_log)?;
                    }
                }
            }
            tracker.running = None;
            tracker.diagnostics.clear();
        }
        Ok(())
    }

    /// Notes and tells how a test ended.
    ///
    /// # Errors
    ///
    /// If it can't be told.
    fn ended(
        &mut self,
        name: &str,
        why: Option<String>,
        time: Option<Duration>,
        log: &Path,
    ) -> Result<()> {
        let time = time.map_or(String::new(), |time| {
            format!(" ({:.1} s)", time.as_secs_f32())
        });
        let Some(why) = why else {
            writeln!(self.out, "ok    {name}{time}")?;
            self.summary.passed += 1;
            return Ok(self.out.flush()?);
        };
        writeln!(
            self.out,
            "FAIL  {name}{time}\n      {why}\n      log: {}",
            log.display()
        )?;
        self.summary.failed.push(Failure {
            name: name.to_string(),
            why,
            log: log.to_path_buf(),
        });
        Ok(self.out.flush()?)
    }

    /// Runs what is left of the tests in one machine, as far as it gets.
    fn one_boot(
        &mut self,
        machine: &mut Machine,
        tracker: &mut Tracker,
        number: u32,
    ) -> Result<End> {
        let log = machine.logs.console.clone();
        let mut output = File::create(self.logs.join(format!("tests-{number}.log")))?;
        let mut console = Console::default();
        console.read(&log);
        for report in console.take_reports() {
            self.ended("boot", Some(report.text()), None, &log)?;
        }
        let mut argv: Vec<_> = self.program.to_vec();
        argv.extend(tracker.left.iter().cloned());
        machine.run(Job {
            argv,
            ..Job::default()
        })?;

        let failed_before = self.summary.failed.len();
        let mut lines = Lines::default();
        let mut since = Instant::now();
        let mut started = false;
        let why = loop {
            match machine.event() {
                Event::Frame(Frame::Stdout(bytes)) => {
                    output.write_all(&bytes)?;
                    for line in lines.push(&bytes) {
                        if let Some(numbers) = line.strip_prefix(memory::WORD) {
                            let answer =
                                memory::answer(numbers, machine.run_directory(), self.logs);
                            // If it is gone, the next event says so.
                            let _ = machine.send(&Frame::Stdin(answer.into_bytes()));
                            continue;
                        }
                        match tracker.line(tap::parse(&line)) {
                            Step::None => (),
                            Step::Started => {
                                since = Instant::now();
                                started = true;
                            }
                            Step::Ended(name, why) => {
                                let time = since.elapsed();
                                started = true;
                                let reports = reports_of(&name, &mut console, &log);
                                self.ended(&name, merge(why, reports), Some(time), &log)?;
                                since = Instant::now();
                            }
                        }
                    }
                }
                Event::Frame(Frame::Stderr(bytes)) => {
                    output.write_all(&bytes)?;
                    // A panicking test says here why it fails.
                    for line in String::from_utf8_lossy(&bytes).lines() {
                        tracker.line(Line::Other(line.to_string()));
                    }
                }
                Event::Frame(Frame::Exit(status)) if tracker.left.is_empty() => {
                    if status != 0 && self.summary.failed.len() == failed_before {
                        let why = format!("exit status {status}, though no test failed");
                        self.ended("guest-tests", Some(why), None, &log)?;
                    }
                    break None;
                }
                Event::Frame(Frame::Exit(status)) if !started => {
                    let said = tracker.said();
                    let why = format!("did not run: the tests ended with exit status {status} before the first{said}");
                    return Ok(End::Broken(why));
                }
                Event::Frame(Frame::Exit(status)) => {
                    let said = tracker.said();
                    break Some(format!(
                        "the tests ended in it, with exit status {status}{said}"
                    ));
                }
                Event::Frame(_) => (),
                Event::Gone(why) => break Some(format!("the guest crashed: {why}")),
                Event::Nothing if since.elapsed() > self.limit => {
                    self.dump(machine);
                    break Some(format!(
                        "it hung: no end after {} s; the log tells which tasks were blocked",
                        self.limit.as_secs()
                    ));
                }
                Event::Nothing => (),
            }
        };
        console.read(&log);
        let culprit = tracker.culprit(console.running(), console.ended());
        let why = merge(why, console.take_reports());
        Ok(match (culprit, why) {
            (Some(name), why) => End::Culprit(name, why.unwrap_or_default()),
            (None, Some(why)) => End::Culprit("after the tests".into(), why),
            (None, None) => End::Complete,
        })
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
fn merge(why: Option<String>, reports: Vec<Report>) -> Option<String> {
    let reports = reports.into_iter().map(|report| report.text());
    let all: Vec<_> = why.into_iter().chain(reports).collect();
    (!all.is_empty()).then(|| all.join("\n      "))
}

/// What the kernel reported while the test `name` ran, which has just ended. The console lags behind, so
/// this waits for the mark of the test's end, for as long as tests are known or expected to leave marks.
fn reports_of(name: &str, console: &mut Console, log: &Path) -> Vec<Report> {
    let start = Instant::now();
    loop {
        console.read(log);
        if console.has_ended(name) || console.unmarked {
            break;
        }
        if start.elapsed() > CONSOLE_TIME {
            console.unmarked = console.ended().is_none();
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    console.take_reports_of(name)
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
        assert_eq!(tracker.culprit(None, None), None);
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
        assert_eq!(tracker.culprit(None, None).as_deref(), Some("one"));
        tracker.line(tap::parse("# start two"));
        assert_eq!(tracker.culprit(None, None).as_deref(), Some("two"));
        assert_eq!(
            tracker.culprit(Some("three"), None).as_deref(),
            Some("three")
        );
        // A mark of a test that has ended, or of none of ours, says nothing.
        assert_eq!(
            tracker.culprit(Some("gone"), Some("gone")).as_deref(),
            Some("two")
        );
        tracker.line(tap::parse("ok 1 - two"));
        assert_eq!(tracker.culprit(Some("two"), None).as_deref(), Some("one"));
    }

    #[test]
    fn after_an_end_whose_result_got_lost_the_next_one_is_to_blame() {
        let mut tracker = tracker(&["one", "two"]);
        tracker.line(tap::parse("# start one"));
        assert_eq!(tracker.culprit(None, Some("one")).as_deref(), Some("two"));
        assert_eq!(tracker.culprit(None, Some("two")).as_deref(), Some("two"));
    }
}
