// SPDX-License-Identifier: GPL-2.0

//! The health tests, through the whole stack: what becomes of crafted blocks, of a source that stops,
//! and every line of `/proc/alrandom/health`, compared with a naive model that is written from
//! docs/health-tests.md and takes its cutoffs from the table there.

use crate::support::{
    guest::{
        serial,
        LOADED, //
    },
    info,
    node::NODE,
    process::attempt,
    run,
    tests,
    wait_until,
    Background,
    Guest,
    Info,
    Node,
    Stream,
    Test,
    UsbDevice,
    BLOCK,
    PATIENCE, //
};
use alpharng_emu::{
    fault::{
        Fault,
        Kind,
        Piece, //
    },
    stream::{
        block,
        Command, //
    },
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use rustix::{
    event::PollFlags,
    io::Errno, //
};
use std::{
    fs,
    os::unix::fs::PermissionsExt, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    each_intermittent_failure_costs_two_blocks,
    an_intermittent_failure_is_one_line_in_the_log,
    two_in_a_row_do_not_stop_the_source,
    three_in_a_row_stop_it_although_start_up_tests_pass_in_between,
    three_in_a_row_stop_it_and_every_reader_learns,
    a_permanent_failure_stops_it_at_once,
    runs_fail_at_the_cutoffs_exactly,
    windows_fail_at_the_cutoffs_exactly,
    runs_and_windows_go_on_over_the_border_of_blocks,
    repeated_blocks_are_caught_sixteen_blocks_back,
    min_entropy_at_load_sets_the_cutoffs,
    min_entropy_can_be_changed,
    a_stopped_source_stays_stopped,
    replugging_starts_it_again,
    the_start_up_test_of_root_starts_it_again,
    hw_random_loses_a_stopped_source_and_gets_it_back,
    startup_test_is_root_s_and_takes_a_boolean,
    startup_test_of_a_healthy_source_discards_what_is_ready,
    disabled_at_load_bad_blocks_are_delivered_with_a_warning,
    disabled_later_bad_blocks_are_delivered_with_a_warning,
    proc_health_without_blocks,
];

/// The other numbers, beside `/proc/alrandom/info`.
pub(crate) const HEALTH: &str = "/proc/alrandom/health";

/// Root writes 1 to it to have the start-up test run.
pub(crate) const STARTUP_TEST: &str = "/sys/class/misc/alrandom/startup_test";

/// The end of the line that a discarded block leaves in the log.
pub(crate) const DISCARDED: &str = "; block discarded, start-up test runs again";

/// The end of the line that a stop leaves in the log.
pub(crate) const STOPPED: &str =
    "; stopped: replug the device or write 1 to /sys/class/misc/alrandom/startup_test";

/// The warning for `disableStatisticalTests`.
const DISABLED: &str = "statistical tests are disabled";

/// The default of the parameter `minEntropy`.
const DEFAULT: usize = 6;

/// Milliseconds by which an answer is late where readers need the time before; less than the second
/// after which the module asks again.
const LATE: u64 = 700;

/// Samples in a window of the adaptive proportion test (SP 800-90B, 4.4.2).
const WINDOW: usize = 512;

/// The documentation of the health tests.
const DOCUMENTATION: &str = include_str!("../../../docs/health-tests.md");

/// The cells of the documentation's table with this name, without its head.
pub(crate) fn documented(name: &str) -> Vec<Vec<&'static str>> {
    let begin = format!("<!-- {name} -->\n");
    let end = format!("<!-- end of {name} -->");
    let (_, table) = DOCUMENTATION.split_once(&begin).unwrap_or_default();
    let (table, _) = table.split_once(&end).unwrap_or_default();
    let rows = table.lines().skip(2);
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(str::trim).collect()
    })
    .collect()
}

/// The value of a line of `/proc/alrandom/health`.
pub(crate) fn line(name: &str) -> Result<String> {
    let text = fs::read_to_string(HEALTH)?;
    let start = format!("{name}: ");
    let found = text.lines().find_map(|line| line.strip_prefix(&start));
    let value = found.with_context(|| format!("{HEALTH} has no line {name}:\n{text}"))?;
    Ok(value.to_owned())
}

/// The number in a line of `/proc/alrandom/health`.
pub(crate) fn number(name: &str) -> Result<u64> {
    Ok(line(name)?.parse()?)
}

/// Waits until `/proc/alrandom/health` says that the source has stopped: readers learn a little earlier.
pub(crate) fn wait_until_stopped() -> Result<()> {
    wait_until("the source to be shown as stopped", || {
        line("state").is_ok_and(|state| state.starts_with("stopped, "))
    })
}

/// A failure, as the model tells it.
#[derive(Clone)]
struct Failed {
    /// Whether it is permanent.
    permanent: bool,
    /// The module's words for it.
    text: String,
}

/// The state of the source, as the model tells it.
enum State {
    /// The start-up test is due.
    StartUp,
    /// Blocks that pass are delivered.
    Healthy,
    /// It has stopped because of this.
    Stopped(String),
}

/// Both layers and the policy, byte by byte and without a thought for speed.
struct Model {
    /// Assessed min-entropy in bits per byte.
    min_entropy: usize,
    /// Cutoffs: RCT intermittent and permanent, APT intermittent and permanent.
    cutoffs: [usize; 4],
    /// The state.
    state: State,
    /// All samples since the tests were re-initialised.
    stream: Vec<u8>,
    /// All blocks tested.
    tested: Vec<Vec<u8>>,
    /// Failures since the last block that was delivered.
    in_a_row: usize,
    /// The numbers of the file, in its order: failures of the RCT and of the APT, ...
    rct_failures: usize,
    /// See [`Self::rct_failures`].
    apt_failures: usize,
    /// Blocks that came before.
    repeated: usize,
    /// Intermittent failures.
    intermittent: usize,
    /// Permanent failures.
    permanent: usize,
    /// Blocks that a start-up test has used up.
    start_ups: usize,
    /// The longest run.
    longest: usize,
    /// The highest count of a window.
    highest: usize,
}

impl Model {
    /// A source that has not delivered anything.
    fn new(min_entropy: usize) -> Result<Self> {
        let rows = documented("cutoffs");
        let row = rows.iter().find(|row| row[0] == min_entropy.to_string());
        let row = row.context("the documentation has no such row")?;
        let mut cutoffs = [0; 4];
        for (cutoff, cell) in cutoffs.iter_mut().zip(&row[1..]) {
            *cutoff = cell.parse()?;
        }
        Ok(Self {
            min_entropy,
            cutoffs,
            state: State::StartUp,
            stream: Vec::new(),
            tested: Vec::new(),
            in_a_row: 0,
            rct_failures: 0,
            apt_failures: 0,
            repeated: 0,
            intermittent: 0,
            permanent: 0,
            start_ups: 0,
            longest: 0,
            highest: 0,
        })
    }

    /// Whether it has stopped.
    fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped(_))
    }

    /// What fails where a count has reached one of the cutoffs.
    fn judge(
        count: usize,
        cutoffs: &[usize],
        text: impl Fn(&str, usize) -> String,
    ) -> Option<Failed> {
        let (permanent, word, cutoff) = if count >= cutoffs[1] {
            (true, "permanent", cutoffs[1])
        } else if count >= cutoffs[0] {
            (false, "intermittent", cutoffs[0])
        } else {
            return None;
        };
        let text = text(word, cutoff);
        Some(Failed { permanent, text })
    }

    /// Repetition count test over the whole stream; what counts is what happens from `new` on.
    fn rct(&mut self, new: usize) -> Option<Failed> {
        let mut run = 0;
        let mut longest = 0;
        for (at, sample) in self.stream.iter().enumerate() {
            let again = at > 0 && self.stream[at - 1] == *sample;
            run = if again { run + 1 } else { 1 };
            if at >= new {
                longest = longest.max(run);
                self.rct_failures += usize::from(run == self.cutoffs[0]);
            }
        }
        self.longest = self.longest.max(longest);
        Self::judge(longest, &self.cutoffs[..2], |word, cutoff| {
            format!(
                "SP 800-90B repetition count test: {word} failure, run of {longest} equal bytes (cutoff {cutoff})"
            )
        })
    }

    /// Adaptive proportion test, likewise.
    fn apt(&mut self, new: usize) -> Option<Failed> {
        let mut highest = 0;
        for (number, window) in self.stream.chunks(WINDOW).enumerate() {
            let mut count = 0;
            for (offset, sample) in window.iter().enumerate() {
                let equal = *sample == window[0];
                count += usize::from(equal);
                if number * WINDOW + offset >= new {
                    highest = highest.max(count);
                    self.apt_failures += usize::from(equal && count == self.cutoffs[2]);
                }
            }
        }
        self.highest = self.highest.max(highest);
        Self::judge(highest, &self.cutoffs[2..], |word, cutoff| {
            format!(
                "SP 800-90B adaptive proportion test: {word} failure, {highest} equal bytes in a window of 512 (cutoff {cutoff})"
            )
        })
    }

    /// The vendor's repetition count test in a block (device.md).
    fn vendor_rct(data: &[u8]) -> Option<Failed> {
        let (mut failures, mut run) = (0, 1);
        for pair in data.windows(2) {
            run = if pair[0] == pair[1] { run + 1 } else { 1 };
            if run == 5 {
                failures += 1;
                run = 1;
            }
        }
        Self::vendor(failures, "repetition count")
    }

    /// The vendor's adaptive proportion test in a block (device.md).
    fn vendor_apt(data: &[u8]) -> Option<Failed> {
        let failed = data.chunks_exact(65).filter(|window| {
            let equal = window[1..64].iter().filter(|byte| **byte == window[0]);
            equal.count() > 5
        });
        Self::vendor(failed.count(), "adaptive proportion")
    }

    /// More than six failures of one of the vendor's tests refuse a block.
    fn vendor(failures: usize, test: &str) -> Option<Failed> {
        (failures > 6).then(|| Failed {
            permanent: false,
            text: format!(
                "vendor's {test} test: intermittent failure, {failures} failures in a block (cutoff 7)"
            ),
        })
    }

    /// Whether a block came before.
    fn repeated(&mut self, data: &[u8]) -> Option<Failed> {
        let mut before = self.tested.iter().rev().take(16).zip(1..);
        let (_, blocks) = before.find(|(block, _)| *block == data)?;
        self.repeated += 1;
        Some(Failed {
            permanent: false,
            text: format!(
                "repeated block: intermittent failure, equal to the block {blocks} before it (the last 16 are remembered)"
            ),
        })
    }

    /// Takes an answer with status 0; whether its data are delivered.
    fn take(&mut self, data: &[u8]) -> bool {
        let start_up = matches!(self.state, State::StartUp);
        self.start_ups += usize::from(start_up);
        let new = self.stream.len();
        self.stream.extend(data);
        let findings = [
            self.rct(new),
            self.apt(new),
            Self::vendor_rct(data),
            Self::vendor_apt(data),
            self.repeated(data),
        ];
        self.tested.push(data.to_vec());
        let mut found: Vec<_> = findings.into_iter().flatten().collect();
        // The first of the permanent ones, or else the first. The sort is stable.
        found.sort_by_key(|failed| !failed.permanent);
        if let Some(failed) = found.first() {
            self.fail(failed);
            return false;
        }
        self.state = State::Healthy;
        if !start_up {
            self.in_a_row = 0;
        }
        !start_up
    }

    /// Takes an answer with a status other than 0.
    fn take_status(&mut self, status: u8) {
        self.fail(&Failed {
            permanent: false,
            text: format!("device's own health tests: intermittent failure, status byte {status}"),
        });
    }

    /// What follows from a failure.
    fn fail(&mut self, failed: &Failed) {
        self.stream.clear();
        self.in_a_row += 1;
        self.permanent += usize::from(failed.permanent);
        self.intermittent += usize::from(!failed.permanent);
        self.state = if failed.permanent || self.in_a_row == 3 {
            State::Stopped(failed.text.clone())
        } else {
            State::StartUp
        };
    }

    /// The text of `/proc/alrandom/health`.
    fn text(&self) -> String {
        let state = match &self.state {
            State::StartUp => "start-up test".to_owned(),
            State::Healthy => "healthy".to_owned(),
            State::Stopped(why) => format!("stopped, {why}"),
        };
        let numbers = [
            ("min_entropy", self.min_entropy),
            ("samples", self.tested.len() * BLOCK),
            ("rct_failures", self.rct_failures),
            ("apt_failures", self.apt_failures),
            ("repeated_blocks", self.repeated),
            ("intermittent_failures", self.intermittent),
            ("permanent_failures", self.permanent),
            ("start_up_runs", self.start_ups),
            ("longest_run", self.longest),
            ("highest_window_count", self.highest),
            ("rct_cutoff_intermittent", self.cutoffs[0]),
            ("rct_cutoff_permanent", self.cutoffs[1]),
            ("apt_cutoff_intermittent", self.cutoffs[2]),
            ("apt_cutoff_permanent", self.cutoffs[3]),
        ];
        let mut text = format!("state: {state}\n{}", device_line());
        for (name, number) in numbers {
            text += &format!("{name}: {number}\n");
        }
        text
    }
}

/// What a device is to send, and what is to become of it.
struct Plan {
    /// The seed of the healthy blocks.
    seed: u64,
    /// What was decided about the blocks so far.
    model: Model,
    /// The device's faults.
    faults: Vec<Fault>,
    /// Index of the next block.
    next: u64,
    /// The bytes to be delivered.
    delivered: Vec<u8>,
}

impl Plan {
    /// Begins with a device that is plugged in; its first block is the start-up test's.
    fn new(guest: &Guest, min_entropy: usize) -> Result<Self> {
        Ok(Self {
            seed: guest.seed,
            model: Model::new(min_entropy)?,
            faults: Vec::new(),
            next: 0,
            delivered: Vec::new(),
        })
    }

    /// The next block as it is without a fault.
    fn data(&self, k: u64) -> Vec<u8> {
        block(self.seed, Command::Entropy, k).to_vec()
    }

    /// Has the model decide about the next block.
    fn decide(&mut self, data: &[u8]) -> bool {
        self.next += 1;
        let good = self.model.take(data);
        if good {
            self.delivered.extend(data);
        }
        good
    }

    /// So many healthy blocks.
    fn healthy(&mut self, count: u64) {
        for _ in 0..count {
            self.decide(&self.data(self.next));
        }
    }

    /// A block with these pieces in it; whether it is delivered.
    fn pieces(&mut self, pieces: Vec<Piece>) -> bool {
        let mut data = block(self.seed, Command::Entropy, self.next);
        let kind = Kind::Overlay { pieces };
        kind.apply(self.next, None, &mut data);
        self.faults.push(Fault::at(self.next, kind));
        self.decide(&data)
    }

    /// A block with a run of equal bytes; whether it is delivered.
    fn run(&mut self, length: usize) -> bool {
        self.pieces(run_of(length, 5000))
    }

    /// A block with this count in one of its windows; whether it is delivered.
    fn window(&mut self, count: usize) -> bool {
        let phase = self.model.stream.len() % WINDOW;
        let at = 11 * WINDOW - phase;
        let bytes = window_of(count, at);
        self.pieces(vec![Piece::bytes(at, &bytes)])
    }

    /// Two blocks with these bytes across their border, of which the first has `first`; whether the
    /// second one is delivered.
    fn across(&mut self, bytes: &[u8], first: usize) -> bool {
        let (before, behind) = bytes.split_at(first);
        self.pieces(vec![Piece::bytes(BLOCK - first, before)]);
        self.pieces(vec![Piece::bytes(0, behind)])
    }

    /// Two blocks with a run across their border, in the middle of it.
    fn run_across(&mut self, length: usize) -> bool {
        let mut bytes = vec![0x11];
        bytes.extend(vec![0xaa; length]);
        bytes.push(0x22);
        self.across(&bytes, 1 + length / 2)
    }

    /// Two blocks with this count in the window across their border.
    fn window_across(&mut self, count: usize) -> bool {
        let phase = self.model.stream.len() % WINDOW;
        let first = (phase + BLOCK) % WINDOW;
        assert!(first > 0, "no window is across this border");
        self.across(&window_of(count, BLOCK - first), first)
    }

    /// A block that comes with this status byte.
    fn status(&mut self, value: u8) {
        self.faults
            .push(Fault::at(self.next, Kind::Status { value }));
        self.next += 1;
        self.model.take_status(value);
    }

    /// Block `k` once more.
    fn again(&mut self, k: u64) -> bool {
        let fault = Kind::Repeat { of: Some(k) };
        self.faults.push(Fault::at(self.next, fault));
        self.decide(&self.data(k))
    }

    /// Has the device and the module do it, with these parameters, and checks that they do: every byte
    /// that is delivered, and every line of `/proc/alrandom/health`.
    fn check(mut self, guest: &mut Guest, parameters: &[&str]) -> Result<Node> {
        for fault in &self.faults {
            guest.emulator.fault(fault.clone())?;
        }
        if self.model.is_stopped() {
            // A stop wipes what nobody has read yet: the block that does it comes late.
            let late = Fault::at(self.next - 1, Kind::Delay { ms: LATE });
            guest.emulator.fault(late)?;
        }
        guest.log.announce(DISCARDED);
        let stops = guest.log.count(STOPPED);
        let node = guest.start_with(parameters)?;
        let bytes = node.read_all(self.delivered.len())?;
        ensure!(bytes == self.delivered, "other bytes are delivered");
        if let State::Stopped(why) = &self.model.state {
            ensure!(node.read(1) == Err(Errno::IO));
            guest.log.wait_for(&format!("{why}{STOPPED}"))?;
            ensure!(guest.log.count(STOPPED) == stops + 1);
            wait_until_stopped()?;
        } else {
            let sent = guest.wait_until_full()?;
            self.healthy(sent - self.next);
        }
        expect_text(&self.model.text())?;
        Ok(node)
    }
}

/// The line that says where device 0 is.
fn device_line() -> String {
    let device = UsbDevice::find(&serial(0));
    let [bus, number] = ["busnum", "devnum"].map(|name| {
        let number = device.as_ref().map(|device| device.attribute(name));
        number.unwrap_or_default()
    });
    format!("device: bus {bus:0>3} device {number:0>3}\n")
}

/// Checks the text of `/proc/alrandom/health`.
fn expect_text(expected: &str) -> Result<()> {
    let text = fs::read_to_string(HEALTH)?;
    ensure!(
        text == expected,
        "{HEALTH} is\n{text}\ninstead of\n{expected}"
    );
    Ok(())
}

/// A run of equal bytes at `at`, and another byte on both sides of it.
fn run_of(length: usize, at: usize) -> Vec<Piece> {
    vec![
        Piece::run(at - 1, 1, 0x11),
        Piece::run(at, length, 0xaa),
        Piece::run(at + length, 1, 0x22),
    ]
}

/// A window whose first byte comes `count` times in it, evenly spread, but not where a window of the
/// vendor's begins: those are not to fail. `at` is where in a block it begins.
fn window_of(count: usize, at: usize) -> Vec<u8> {
    const VALUE: u8 = 0;
    let mut bytes: Vec<u8> = (0..WINDOW).map(|i| 1 + (i % 255) as u8).collect();
    bytes[0] = VALUE;
    let free: Vec<_> = (1..WINDOW).filter(|i| (at + i) % BLOCK % 65 != 0).collect();
    for i in 0..count - 1 {
        bytes[free[i * free.len() / (count - 1)]] = VALUE;
    }
    bytes
}

/// The parameter for this min-entropy.
fn min_entropy(bits: usize) -> String {
    format!("minEntropy={bits}")
}

/// The path of a parameter in sysfs.
fn parameter(name: &str) -> String {
    format!("{LOADED}/parameters/{name}")
}

/// A device that was plugged in, forgotten: the next test of several in one begins anew.
fn begin_anew(guest: &mut Guest) -> Result<()> {
    guest.unload()?;
    guest.unplug()?;
    guest.emulator.clear_faults()?;
    guest.seed += 1;
    guest.reseed()
}

/// Has the device send a block that stops the source for good, behind what is ready, and reads up to it.
/// Returns the index of the block that comes next, if any.
fn stop(guest: &mut Guest, node: &Node) -> Result<u64> {
    let bad = guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    ensure!(bad == next, "the device has skipped blocks");
    guest
        .emulator
        .fault(Fault::at(next, Kind::Stuck { value: 7 }))?;
    let stops = guest.log.count(STOPPED);
    guest.log.announce(STOPPED);
    loop {
        match node.read(BLOCK) {
            Ok(bytes) => ensure!(bytes != [7; BLOCK], "the bad block is delivered"),
            Err(Errno::IO) => break,
            Err(error) => bail!("read(2): {error}"),
        }
    }
    wait_until_stopped()?;
    wait_until("the line in the log", || {
        guest.log.count(STOPPED) == stops + 1
    })?;
    guest.wait_until_full()?;
    Ok(guest.emulator.status()?.next_block)
}

/// Whether the kernel's core of hardware generators lists the source.
fn is_in_hw_random() -> bool {
    fs::read_to_string("/sys/class/misc/hw_random/rng_available")
        .is_ok_and(|list| list.split_whitespace().any(|name| name == "alrandom"))
}

/// Whatever test it fails: the block is discarded, the next one is the start-up test's, and bytes go on
/// with the one behind it.
fn each_intermittent_failure_costs_two_blocks(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(3);
    ensure!(!plan.run(8));
    plan.healthy(2);
    ensure!(!plan.window(35));
    plan.healthy(2);
    plan.status(2);
    plan.healthy(2);
    let seven_runs = (0..7).flat_map(|i| run_of(5, 3000 + 100 * i)).collect();
    ensure!(!plan.pieces(seven_runs));
    plan.healthy(2);
    ensure!(!plan.again(plan.next - 1));
    plan.healthy(3);
    ensure!(plan.model.intermittent == 5 && plan.model.start_ups == 6);
    ensure!(plan.delivered.len() == (2 + 4 + 2) * BLOCK);
    plan.check(guest, &[])?;
    Ok(())
}

/// One line, a warning, that says which test it was.
fn an_intermittent_failure_is_one_line_in_the_log(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(2);
    plan.run(9);
    plan.healthy(3);
    plan.check(guest, &[])?;
    let line = guest.log.wait_for(DISCARDED)?;
    ensure!(line.level == 4);
    ensure!(line.text.contains(
        ": SP 800-90B repetition count test: intermittent failure, run of 9 equal bytes (cutoff 8); "
    ));
    ensure!(guest.log.count(DISCARDED) == 1);
    Ok(())
}

/// A start-up test that fails once, and a delivered block between the failures.
fn two_in_a_row_do_not_stop_the_source(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(2);
    for _ in 0..3 {
        plan.run(8);
        plan.window(40);
        plan.healthy(2);
    }
    ensure!(plan.model.intermittent == 6 && !plan.model.is_stopped());
    plan.check(guest, &[])?;
    Ok(())
}

/// What counts is that no block was delivered between the failures.
fn three_in_a_row_stop_it_although_start_up_tests_pass_in_between(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(3);
    plan.run(8);
    plan.healthy(1);
    plan.run(9);
    plan.healthy(1);
    ensure!(!plan.model.is_stopped());
    plan.run(10);
    ensure!(plan.model.is_stopped() && plan.model.permanent == 0);
    plan.check(guest, &[])?;
    Ok(())
}

/// A block that fails, then two start-up tests that do: readers that sleep or poll are woken, one that
/// must not wait learns too, and whoever opens the node now. The log has one error.
fn three_in_a_row_stop_it_and_every_reader_learns(guest: &mut Guest) -> Result<()> {
    let bad = [0, 1, 2].map(|_| Kind::Overlay {
        pieces: run_of(8, 5000),
    });
    let node = guest.start()?;
    let first = guest.wait_until_full()?;
    for (kind, k) in bad.into_iter().zip(first..) {
        guest.emulator.fault(Fault::at(k, kind))?;
    }
    guest
        .emulator
        .fault(Fault::at(first, Kind::Delay { ms: LATE }))?;
    guest.log.announce(DISCARDED);

    let nonblocking = Node::open_nonblocking()?;
    guest.stream().expect(&nonblocking.take_ready()?)?;
    let sleeper = {
        let node = node.clone();
        Background::start(move || node.read(1))?
    };
    let poller = {
        let node = node.clone();
        Background::start(move || node.poll(PATIENCE))?
    };
    sleeper.wait_until_reading()?;

    ensure!(sleeper.join()? == Err(Errno::IO));
    let events = poller.join()??;
    ensure!(
        events.contains(PollFlags::ERR | PollFlags::IN),
        "{events:?}"
    );
    ensure!(nonblocking.read(1) == Err(Errno::IO));
    ensure!(node.read(1) == Err(Errno::IO));
    ensure!(Node::open()?.read(1) == Err(Errno::IO));
    let line = guest.log.wait_for(STOPPED)?;
    ensure!(line.level == 3, "{line:?}");
    ensure!(guest.log.count(STOPPED) == 1 && guest.log.count(DISCARDED) == 1);
    wait_until_stopped()?;
    ensure!(
        self::line("state")?
            == "stopped, SP 800-90B repetition count test: intermittent failure, run of 8 equal bytes (cutoff 8)"
    );
    ensure!(number("intermittent_failures")? == 3 && number("permanent_failures")? == 0);
    ensure!(number("start_up_runs")? == 3);
    Ok(())
}

/// The one block is enough.
fn a_permanent_failure_stops_it_at_once(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(3);
    plan.run(BLOCK - 6000);
    ensure!(plan.model.is_stopped() && plan.model.intermittent == 0);
    plan.check(guest, &[])?;
    ensure!(guest.log.count(DISCARDED) == 0);
    Ok(())
}

/// With 6 bits per byte 7 equal bytes are nothing, 8 to 10 an intermittent failure, 11 a permanent one.
fn runs_fail_at_the_cutoffs_exactly(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(1);
    ensure!(plan.run(7));
    ensure!(!plan.run(8));
    plan.healthy(2);
    ensure!(!plan.run(10) && !plan.model.is_stopped());
    plan.healthy(2);
    ensure!(!plan.run(11) && plan.model.is_stopped());
    plan.check(guest, &[])?;
    Ok(())
}

/// With 6 bits per byte 34 of 512 are nothing, 35 to 43 an intermittent failure, 44 a permanent one.
fn windows_fail_at_the_cutoffs_exactly(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(1);
    ensure!(plan.window(34));
    ensure!(!plan.window(35));
    plan.healthy(2);
    ensure!(!plan.window(43) && !plan.model.is_stopped());
    plan.healthy(2);
    ensure!(!plan.window(44) && plan.model.is_stopped());
    plan.check(guest, &[])?;
    Ok(())
}

/// A block ends neither a run nor a window: the second block is refused. Nothing goes on over a failure.
fn runs_and_windows_go_on_over_the_border_of_blocks(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(1);
    ensure!(plan.run_across(7));
    ensure!(!plan.run_across(8));
    // Seven that are followed by a failure, and one more behind it.
    plan.healthy(2);
    let mut pieces = run_of(9, 5000);
    pieces.push(Piece::run(BLOCK - 7, 7, 0xaa));
    ensure!(!plan.pieces(pieces));
    ensure!(!plan.pieces(vec![Piece::run(0, 1, 0xaa)]));
    plan.healthy(1);
    ensure!(plan.window_across(34));
    plan.healthy(1);
    ensure!(!plan.window_across(35));
    ensure!(plan.model.rct_failures == 2 && plan.model.apt_failures == 1);
    plan.healthy(2);
    ensure!(!plan.run_across(11) && plan.model.is_stopped());
    plan.check(guest, &[])?;
    begin_anew(guest)?;

    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(1);
    ensure!(!plan.window_across(44) && plan.model.is_stopped());
    plan.check(guest, &[])?;
    Ok(())
}

/// A block is refused that is one of the sixteen before it, and no other.
fn repeated_blocks_are_caught_sixteen_blocks_back(guest: &mut Guest) -> Result<()> {
    let mut plan = Plan::new(guest, DEFAULT)?;
    plan.healthy(18);
    ensure!(!plan.again(2));
    plan.healthy(2);
    ensure!(plan.again(plan.next - 17));
    ensure!(plan.model.repeated == 1);
    plan.check(guest, &[])?;
    Ok(())
}

/// The table of the documentation, row by row: just below each intermittent cutoff nothing happens, at it
/// the block is refused; just below the permanent ones the source goes on, at them it stops.
fn min_entropy_at_load_sets_the_cutoffs(guest: &mut Guest) -> Result<()> {
    for bits in [1, 3, 5, 7, 8] {
        let mut plan = Plan::new(guest, bits)?;
        let [rct, rct_permanent, apt, apt_permanent] = plan.model.cutoffs;
        plan.healthy(1);
        // The vendor's test refuses runs of 29, whatever this one says; what counts then is in the file.
        ensure!(plan.run(rct - 1) == (rct < 30));
        plan.healthy(2);
        ensure!(!plan.run(rct));
        plan.healthy(2);
        ensure!(plan.window(apt - 1), "{bits}");
        ensure!(!plan.window(apt));
        plan.healthy(2);
        ensure!(!plan.window(apt_permanent - 1));
        plan.healthy(2);
        ensure!(!plan.run(rct_permanent - 1) && !plan.model.is_stopped());
        plan.healthy(2);
        if bits % 2 == 0 {
            plan.run(rct_permanent);
        } else {
            plan.window(apt_permanent);
        }
        ensure!(plan.model.is_stopped() && plan.model.permanent == 1);
        drop(plan.check(guest, &[&min_entropy(bits)])?);
        begin_anew(guest)?;
    }
    Ok(())
}

/// Changed while a device is in use, it makes the start-up test run, and the blocks from then on are
/// judged by the new cutoffs.
fn min_entropy_can_be_changed(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let next = guest.wait_until_full()?;
    // Nothing with 6 bits per byte, a failure with 8.
    for k in [next + 2, next + 6] {
        let pieces = run_of(6, 5000);
        guest
            .emulator
            .fault(Fault::at(k, Kind::Overlay { pieces }))?;
    }
    guest.log.announce(DISCARDED);
    fs::write(parameter("minEntropy"), "8")?;

    let mut stream = guest.stream();
    let ready = usize::try_from(next)? - 1;
    stream.expect(&node.read_all(ready * BLOCK)?)?;
    let mut stream = Stream::from_block(guest.seed, next + 1);
    stream.expect(&node.read_all(BLOCK)?)?;
    let mut stream = Stream::from_block(guest.seed, next + 4);
    stream.expect(&node.read_all(2 * BLOCK)?)?;
    let mut stream = Stream::from_block(guest.seed, next + 8);
    stream.expect(&node.read_all(BLOCK)?)?;
    guest.wait_until_full()?;
    let row = Model::new(8)?;
    ensure!(number("min_entropy")? == 8);
    for (name, cutoff) in [
        ("rct_cutoff_intermittent", row.cutoffs[0]),
        ("rct_cutoff_permanent", row.cutoffs[1]),
        ("apt_cutoff_intermittent", row.cutoffs[2]),
        ("apt_cutoff_permanent", row.cutoffs[3]),
    ] {
        ensure!(number(name)? == cutoff as u64, "{name}");
    }
    ensure!(number("intermittent_failures")? == 2);
    // The first, the one for the new cutoffs, and one behind each failure.
    ensure!(number("start_up_runs")? == 4);
    Ok(())
}

/// Neither reading nor opening nor closing starts it again, and nothing is asked of the device.
fn a_stopped_source_stays_stopped(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let next = stop(guest, &node)?;
    drop(node);
    for _ in 0..20 {
        let node = Node::open()?;
        ensure!(node.read(100) == Err(Errno::IO));
        ensure!(Node::open_nonblocking()?.read(100) == Err(Errno::IO));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ensure!(guest.emulator.status()?.next_block == next);
    ensure!(guest.log.count(STOPPED) == 1);
    Ok(())
}

/// The start-up test runs, and every number begins again.
fn replugging_starts_it_again(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    stop(guest, &node)?;
    guest.unplug()?;
    ensure!(node.read(1) == Err(Errno::NODEV));
    let mut stream = guest.replug()?;
    stream.expect(&node.read_all(3 * BLOCK)?)?;
    let sent = guest.wait_until_full()?;
    ensure!(line("state")? == "healthy");
    ensure!(number("permanent_failures")? == 0 && number("start_up_runs")? == 1);
    ensure!(
        number("samples")? == Info::read()?.requests * BLOCK as u64,
        "{sent}"
    );
    Ok(())
}

/// It starts again if it passes; if it fails, it stays stopped.
fn the_start_up_test_of_root_starts_it_again(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let next = stop(guest, &node)?;

    guest
        .emulator
        .fault(Fault::at(next, Kind::Stuck { value: 7 }))?;
    fs::write(STARTUP_TEST, "1\n")?;
    wait_until("the second stop", || guest.log.count(STOPPED) == 2)?;
    wait_until_stopped()?;
    ensure!(node.read(1) == Err(Errno::IO));
    ensure!(number("permanent_failures")? == 2 && number("start_up_runs")? == 2);

    guest.wait_until_full()?;
    let next = guest.emulator.status()?.next_block;
    fs::write(STARTUP_TEST, "1\n")?;
    let mut stream = Stream::from_block(guest.seed, next + 1);
    stream.expect(&node.read_all(5 * BLOCK)?)?;
    ensure!(line("state")? == "healthy");
    ensure!(number("permanent_failures")? == 2 && number("start_up_runs")? == 3);
    ensure!(guest.log.count(STOPPED) == 2);
    Ok(())
}

/// The kernel's core is not left with a source that delivers nothing.
fn hw_random_loses_a_stopped_source_and_gets_it_back(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_in_hw_random)?;
    let node = Node::open()?;
    guest
        .emulator
        .fault(Fault::next(Kind::Stuck { value: 7 }))?;
    guest.log.announce(STOPPED);
    while node.read(BLOCK).is_ok() {}
    wait_until("the source to be gone", || !is_in_hw_random())?;
    fs::write(STARTUP_TEST, "1")?;
    wait_until("the source to be back", is_in_hw_random)?;
    node.read_all(1)?;
    Ok(())
}

/// Mode 0200; other users are refused, and so is other text, and a demand with nothing to test. 0 does
/// nothing.
fn startup_test_is_root_s_and_takes_a_boolean(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    let code = |text: &str| {
        let error = fs::write(STARTUP_TEST, text).err();
        error.and_then(|error| error.raw_os_error())
    };
    ensure!(fs::metadata(STARTUP_TEST)?.permissions().mode() & 0o7777 == 0o200);
    ensure!(code("1") == Some(libc::ENODEV));

    guest.plug()?;
    guest.wait_until_full()?;
    let runs = number("start_up_runs")?;
    ensure!(code("0\n").is_none());
    for text in ["2", "-1", "11", "1 1", "yes", "\n"] {
        ensure!(
            code(text) == Some(libc::EINVAL),
            "{text:?}: {:?}",
            code(text)
        );
    }
    let line = format!("echo 1 > {STARTUP_TEST}");
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let ended = attempt(&[&nobody[..], &["sh", "-c", &line]].concat())?;
    ensure!(
        !ended.success && ended.stderr.contains("Permission denied"),
        "{}",
        ended.stderr
    );
    ensure!(number("start_up_runs")? == runs);
    ensure!(code("1\n").is_none());
    wait_until("the start-up test", || {
        number("start_up_runs").is_ok_and(|n| n == runs + 1)
    })
}

/// From the demand on nothing is delivered that was not tested behind it; the test uses up one block.
fn startup_test_of_a_healthy_source_discards_what_is_ready(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.stream().expect(&node.read_all(100)?)?;
    let next = guest.wait_until_full()?;
    fs::write(STARTUP_TEST, "1")?;
    let mut stream = Stream::from_block(guest.seed, next + 1);
    stream.expect(&node.read_all(6 * BLOCK)?)?;
    guest.wait_until_full()?;
    ensure!(line("state")? == "healthy");
    ensure!(number("start_up_runs")? == 2);
    ensure!(number("intermittent_failures")? == 0 && number("permanent_failures")? == 0);
    Ok(())
}

/// The first block is thrown away all the same, and the device's own status counts.
fn disabled_at_load_bad_blocks_are_delivered_with_a_warning(guest: &mut Guest) -> Result<()> {
    guest.log.announce(DISCARDED);
    let stuck = Fault::at(0, Kind::Stuck { value: 7 }).count(4);
    guest.emulator.fault(stuck)?;
    guest
        .emulator
        .fault(Fault::at(4, Kind::Status { value: 1 }))?;
    let node = guest.start_with(&["disableStatisticalTests=1"])?;
    ensure!(node.read_all(3 * BLOCK)? == vec![7; 3 * BLOCK]);
    // Block 4 is the device's own failure, and the next one is thrown away behind it.
    let mut stream = Stream::from_block(guest.seed, 6);
    stream.expect(&node.read_all(2 * BLOCK)?)?;
    let line = guest.log.wait_for(DISABLED)?;
    ensure!(line.level == 4 && guest.log.count(DISABLED) == 1);
    ensure!(self::line("state")? == "tests disabled");
    ensure!(number("samples")? == 0 && number("intermittent_failures")? == 1);
    Ok(())
}

/// Switched on again, the start-up test comes first.
fn disabled_later_bad_blocks_are_delivered_with_a_warning(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let next = guest.wait_until_full()?;
    ensure!(guest.log.count(DISABLED) == 0);
    fs::write(parameter("disableStatisticalTests"), "1")?;
    let stuck = Fault::at(next, Kind::Stuck { value: 7 }).count(2);
    guest.emulator.fault(stuck)?;
    let ready = usize::try_from(next)? - 1;
    guest.stream().expect(&node.read_all(ready * BLOCK)?)?;
    ensure!(node.read_all(2 * BLOCK)? == vec![7; 2 * BLOCK]);
    let line = guest.log.wait_for(DISABLED)?;
    ensure!(line.level == 4 && guest.log.count(DISABLED) == 1);
    ensure!(self::line("state")? == "tests disabled");

    let next = guest.wait_until_full()?;
    let runs = number("start_up_runs")?;
    let tested = number("samples")?;
    fs::write(parameter("disableStatisticalTests"), "0")?;
    let ready = usize::try_from(next)? - 4;
    node.read_all(BLOCK)?;
    ensure!(ready > 0);
    wait_until("the start-up test", || {
        number("start_up_runs").is_ok_and(|n| n == runs + 1)
    })?;
    ensure!(number("samples")? >= tested + BLOCK as u64);
    node.read_all(10 * BLOCK)?;
    guest.wait_until_full()?;
    ensure!(self::line("state")? == "healthy");
    ensure!(number("start_up_runs")? == runs + 1 && number("permanent_failures")? == 0);
    ensure!(guest.log.count(DISABLED) == 1);
    Ok(())
}

/// What it says of no device and of one that has not answered; everybody may read it.
fn proc_health_without_blocks(guest: &mut Guest) -> Result<()> {
    guest.load(&[])?;
    ensure!(fs::metadata(HEALTH)?.permissions().mode() & 0o7777 == 0o444);
    let cat = run(&["setpriv", "--reuid=65534", "--clear-groups", "cat", HEALTH])?;
    ensure!(cat.stdout == "state: no device\n");
    guest
        .emulator
        .fault(Fault::next(Kind::Delay { ms: LATE }))?;
    guest.plug()?;
    expect_text(&format!("state: no answer yet\n{}", device_line()))?;
    guest.wait_until_full()?;
    ensure!(line("state")? == "healthy");
    guest.unplug()?;
    expect_text("state: no device\n")?;
    ensure!(info::read_text()? == info::NO_DEVICE && fs::exists(NODE)?);
    Ok(())
}
