// SPDX-License-Identifier: GPL-2.0

//! The self-test refuses a broken build: `health.rs` is broken in one place at a time, compiled, and
//! its own known-answer vectors must disagree.
//!
//! The tests of this crate are not in play here: what counts is that a module built like that would
//! not load.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Mutex,
    },
    thread,
};

/// One way to break the driver's code: what to put in the place of which text, and where to find it.
struct Mutant {
    /// A text that is in the code exactly once behind which the first `from` is replaced.
    behind: &'static str,
    /// What is replaced.
    from: &'static str,
    /// What takes its place.
    to: &'static str,
}

/// A mutant.
const fn mutant(behind: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { behind, from, to }
}

/// Cutoff, window and carry-over of each test: what every `make check` tries.
const MUTANTS: &[Mutant] = &[
    // Cutoffs.
    mutant("            6 => Cutoffs::new(", "[8, 11]", "[9, 11]"),
    mutant("            6 => Cutoffs::new(", "[8, 11]", "[8, 12]"),
    mutant("            6 => Cutoffs::new(", "[35, 44]", "[34, 44]"),
    mutant("            6 => Cutoffs::new(", "[35, 44]", "[35, 43]"),
    mutant("const VENDOR_RUN: u32 = ", "5", "6"),
    mutant("const VENDOR_MATCHES: u32 = ", "5", "6"),
    mutant("const VENDOR_FAILURES: u32 = ", "6", "7"),
    // Windows.
    mutant("const WINDOW: usize = ", "512", "511"),
    mutant("const WINDOW: usize = ", "512", "513"),
    mutant("const VENDOR_WINDOW: usize = ", "65", "64"),
    mutant("const VENDOR_WINDOW: usize = ", "65", "66"),
    mutant(
        "fn vendor_apt_failures(",
        "[reference, compared @ .., _]",
        "[reference, compared @ ..]",
    ),
    // Carry-over.
    mutant(
        "let carried = ",
        "if *first == self.last { self.run } else { 0 }",
        "0u32",
    ),
    mutant(
        "fn adaptive_proportion(",
        "let cutoff =",
        "self.seen = 0; let cutoff =",
    ),
    mutant("fn fail(", "self.continuous.reinitialise();", ""),
];

/// Every other constant and decision; takes longer.
const MORE_MUTANTS: &[Mutant] = &[
    // The other cutoffs.
    mutant("            1 => Cutoffs::new(", "[41, 61]", "[40, 61]"),
    mutant("            1 => Cutoffs::new(", "[41, 61]", "[41, 60]"),
    mutant("            1 => Cutoffs::new(", "[336, 355]", "[337, 355]"),
    mutant("            1 => Cutoffs::new(", "[336, 355]", "[336, 356]"),
    mutant("            2 => Cutoffs::new(", "[21, 31]", "[22, 31]"),
    mutant("            2 => Cutoffs::new(", "[21, 31]", "[21, 32]"),
    mutant("            2 => Cutoffs::new(", "[201, 220]", "[200, 220]"),
    mutant("            2 => Cutoffs::new(", "[201, 220]", "[201, 219]"),
    mutant("            3 => Cutoffs::new(", "[15, 21]", "[14, 21]"),
    mutant("            3 => Cutoffs::new(", "[15, 21]", "[15, 20]"),
    mutant("            3 => Cutoffs::new(", "[123, 139]", "[124, 139]"),
    mutant("            3 => Cutoffs::new(", "[123, 139]", "[123, 140]"),
    mutant("            4 => Cutoffs::new(", "[11, 16]", "[12, 16]"),
    mutant("            4 => Cutoffs::new(", "[11, 16]", "[11, 17]"),
    mutant("            4 => Cutoffs::new(", "[78, 91]", "[77, 91]"),
    mutant("            4 => Cutoffs::new(", "[78, 91]", "[78, 90]"),
    mutant("            5 => Cutoffs::new(", "[9, 13]", "[8, 13]"),
    mutant("            5 => Cutoffs::new(", "[9, 13]", "[9, 12]"),
    mutant("            5 => Cutoffs::new(", "[51, 62]", "[52, 62]"),
    mutant("            5 => Cutoffs::new(", "[51, 62]", "[51, 63]"),
    mutant("            7 => Cutoffs::new(", "[7, 10]", "[8, 10]"),
    mutant("            7 => Cutoffs::new(", "[7, 10]", "[7, 11]"),
    mutant("            7 => Cutoffs::new(", "[26, 32]", "[25, 32]"),
    mutant("            7 => Cutoffs::new(", "[26, 32]", "[26, 31]"),
    mutant("            _ => Cutoffs::new(", "[6, 9]", "[5, 9]"),
    mutant("            _ => Cutoffs::new(", "[6, 9]", "[6, 8]"),
    mutant("            _ => Cutoffs::new(", "[19, 25]", "[20, 25]"),
    mutant("            _ => Cutoffs::new(", "[19, 25]", "[19, 26]"),
    mutant("pub(crate) const fn new(bits: u32)", "1..=8", "0..=8"),
    mutant("pub(crate) const fn new(bits: u32)", "1..=8", "1..=9"),
    // The constants, to the other side.
    mutant("const VENDOR_RUN: u32 = ", "5", "4"),
    mutant("const VENDOR_MATCHES: u32 = ", "5", "4"),
    mutant("const VENDOR_FAILURES: u32 = ", "6", "5"),
    mutant("const VENDOR_RCT_STATUS: u8 = ", "1", "2"),
    mutant("const VENDOR_APT_STATUS: u8 = ", "2", "1"),
    mutant("const FAILURES_IN_A_ROW: u32 = ", "3", "2"),
    mutant("const FAILURES_IN_A_ROW: u32 = ", "3", "4"),
    mutant("const REMEMBERED: usize = ", "16", "15"),
    mutant("const REMEMBERED: usize = ", "16", "17"),
    mutant("const LONG_RUN: u32 = ", "4", "7"),
    // Comparisons.
    mutant(
        "fn judge(self",
        "count >= self.permanent",
        "count > self.permanent",
    ),
    mutant(
        "fn judge(self",
        "count >= self.intermittent",
        "count > self.intermittent",
    ),
    mutant(
        "fn vendor_apt_failures(",
        "> VENDOR_MATCHES",
        ">= VENDOR_MATCHES",
    ),
    mutant(
        "fn count(&mut self",
        "rct_failures > VENDOR_FAILURES",
        "rct_failures >= VENDOR_FAILURES",
    ),
    mutant(
        "fn count(&mut self",
        "apt_failures > VENDOR_FAILURES",
        "apt_failures >= VENDOR_FAILURES",
    ),
    mutant(
        "fn vendor_rct_failures_in_run(",
        "(VENDOR_RUN - 1)",
        "VENDOR_RUN",
    ),
    // The search for runs and the counting of matches.
    mutant(
        "fn count_equal(data",
        ".wrapping_add(!TOP_BITS) | w",
        ".wrapping_add(!TOP_BITS)",
    ),
    mutant(
        "fn count_equal(data",
        "for byte in words.remainder()",
        "for byte in [0u8; 0].iter()",
    ),
    mutant("fn count_equal_at_most(", ".wrapping_mul(2)", ""),
    mutant("fn has_three_equal(", "none != TOP_BITS_16", "none == 0"),
    mutant(
        "fn vendor_window_is_suspicious(",
        "marks.wrapping_sub(1) != 0",
        "marks.wrapping_sub(1) == 0",
    ),
    mutant("fn vendor_window_is_suspicious(", ".take(4)", ".take(3)"),
    mutant(
        "let begun = ",
        "run_length(before.iter().rev(), *first) as usize",
        "0",
    ),
    mutant(
        "impl Iterator for Runs",
        "self.next_group()?",
        "return None",
    ),
    // Carry-over and what is kept of a block.
    mutant(
        "let trailing = run_length(",
        "data.iter().rev()",
        "data.iter()",
    ),
    mutant("        self.last = ", "*last", "0xff"),
    mutant("            let before = ", "self.matches", "0u32"),
    mutant("self.seen = self.seen", ".wrapping_add(window.len())", ""),
    mutant(
        "            if self.seen >= WINDOW {",
        "self.seen = 0;",
        "self.seen = 1;",
    ),
    mutant("    fn reinitialise(", "self.run = 0;", ""),
    mutant("    fn recall(", "rotate_right(1)", "rotate_left(1)"),
    mutant(
        "    fn recall(",
        "*latest = Some(fingerprint)",
        "*latest = None",
    ),
    mutant(
        "fn fingerprint(",
        "*sum = sum.wrapping_add(swar::word(bytes));",
        "",
    ),
    // The policy.
    mutant("pub(crate) fn test_block(", "self.in_a_row = 0;", ""),
    mutant(
        "pub(crate) fn test_block(",
        "self.vendor.rct_status = 0;",
        "",
    ),
    mutant(
        "pub(crate) fn test_block(",
        "let start_up = self.state != State::Running",
        "let start_up = false",
    ),
    mutant(
        "pub(crate) fn test_block(",
        "return Decision::Stop(failure);",
        "",
    ),
    mutant(
        "pub(crate) fn untested_block(",
        "return Decision::Stop(failure);",
        "",
    ),
    mutant(
        "pub(crate) fn untested_block(",
        "self.state = State::Untested;",
        "self.state = State::Running;",
    ),
    mutant("pub(crate) fn restart(", "self.state = State::StartUp;", ""),
    mutant(
        "    fn fail(",
        "self.in_a_row = self.in_a_row.wrapping_add(1);",
        "",
    ),
    mutant("    fn fail(", "self.state = State::StartUp;", ""),
    mutant("            Severity::Permanent => {", "true", "false"),
    mutant(
        "    fn worst(",
        "failure.severity == Severity::Permanent {",
        "false {",
    ),
    mutant(
        "        Findings(",
        "rct, apt, vendor_rct, vendor_apt, repeated",
        "None, apt, vendor_rct, vendor_apt, repeated",
    ),
    mutant(
        "        Findings(",
        "rct, apt, vendor_rct, vendor_apt, repeated",
        "rct, apt, None, vendor_apt, repeated",
    ),
    mutant(
        "        Findings(",
        "rct, apt, vendor_rct, vendor_apt, repeated",
        "rct, apt, vendor_rct, None, repeated",
    ),
    mutant(
        "        Findings(",
        "rct, apt, vendor_rct, vendor_apt, repeated",
        "rct, apt, vendor_rct, vendor_apt, None",
    ),
];

/// A program that ends with 0 if the self-test passes and with 3 if it refuses, and says why.
const PROGRAM: &str = "\
#[allow(dead_code)]
mod health;
fn main() {
    let mut scratch = [0; health::BLOCK];
    if let Err(failure) = health::self_test(&mut scratch) {
        println!(\"{failure}\");
        std::process::exit(3);
    }
}
";

/// The driver's code.
fn source() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../health.rs");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Mutant {
    /// The driver's code, broken; an error if the code has changed and the mutant has not.
    fn apply(&self, source: &str) -> Result<String, String> {
        let Self { behind, from, to } = self;
        let mut places = source.match_indices(behind);
        let (Some((start, _)), None) = (places.next(), places.next()) else {
            return Err(format!("`{behind}` is not in health.rs exactly once"));
        };
        let start = start + behind.len();
        let Some(offset) = source[start..].find(from) else {
            return Err(format!("no `{from}` behind `{behind}` in health.rs"));
        };
        let mut broken = source.to_owned();
        broken.replace_range(start + offset..start + offset + from.len(), to);
        Ok(broken)
    }
}

/// Compiles this code of the driver in `folder` and runs its self-test: the vector that it disagrees
/// with, if there is one. An error if that cannot be found out.
fn self_test(folder: &Path, source: &str) -> Result<Option<String>, String> {
    let write = |name, text| {
        fs::write(folder.join(name), text).map_err(|error| format!("cannot write {name}: {error}"))
    };
    write("health.rs", source)?;
    write("main.rs", PROGRAM)?;
    let program: PathBuf = folder.join("main");
    let compiled = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2021",
            "-C",
            "debuginfo=0",
            "-C",
            "opt-level=1",
        ])
        .args(["--cap-lints", "allow", "-o"])
        .arg(&program)
        .arg(folder.join("main.rs"))
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    if !compiled.status.success() {
        return Err(String::from_utf8_lossy(&compiled.stderr).into_owned());
    }
    let run = Command::new(&program)
        .output()
        .map_err(|error| format!("cannot run the self-test: {error}"))?;
    match run.status.code() {
        Some(0) => Ok(None),
        Some(3) => Ok(Some(String::from_utf8_lossy(&run.stdout).trim().to_owned())),
        // A crash must not look like a refusal.
        _ => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
    }
}

/// Tries all `mutants` and panics with those that the self-test lets pass.
fn try_all(mutants: &[Mutant]) {
    let source = source();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let folder = tempfile::tempdir().unwrap();
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Mutant { behind, from, to } = mutant;
                    let name = format!("behind `{}`: `{from}` -> `{to}`", behind.trim());
                    let result = mutant
                        .apply(&source)
                        .and_then(|broken| self_test(folder.path(), &broken));
                    let problem = match result {
                        Ok(Some(vector)) => {
                            println!("{name}: {vector}");
                            continue;
                        }
                        Ok(None) => "the self-test lets it pass".to_owned(),
                        Err(error) => format!("adjust the mutant: {error}"),
                    };
                    wrong.lock().unwrap().push(format!("{name}: {problem}"));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The unbroken build passes; without that, none of the refusals means anything.
#[test]
fn sound_build_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(self_test(folder.path(), &source()), Ok(None));
}

#[test]
fn broken_builds_are_refused() {
    try_all(MUTANTS);
}

#[test]
#[ignore = "takes a minute: make test"]
fn more_broken_builds_are_refused() {
    try_all(MORE_MUTANTS);
}
