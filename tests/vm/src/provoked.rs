// SPDX-License-Identifier: GPL-2.0

//! Tests the runner itself, in real machines: a stand-in for the guest's tests fails in all the ways that
//! the runner has to see and to name.

use crate::{
    machine::{
        Logs,
        Machine, //
    },
    suite::{
        Failure,
        Suite,
        Summary, //
    },
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    io::{
        self,
        Write, //
    },
    os::unix::fs::PermissionsExt,
    path::{
        Path,
        PathBuf, //
    },
    time::Duration,
};

/// The stand-in.
const PROGRAM: &str = include_str!("provoked.sh");

/// A test, and a part of the reason for which it has to fail, or `None` if it has to pass.
pub type Expected = (&'static str, Option<&'static str>);

/// The tests of the debug kernel's detectors: bugs on purpose, see `bugs.rs` of guest-tests.
pub const BUGS: [Expected; 5] = [
    ("bugs::none", None),
    (
        "bugs::lock_inversion",
        Some("WARNING: possible circular locking dependency detected"),
    ),
    (
        "bugs::sleep_in_atomic",
        Some("BUG: sleeping function called from invalid context"),
    ),
    (
        "bugs::use_after_free",
        Some("BUG: KASAN: slab-use-after-free in "),
    ),
    ("bugs::leak", Some("unreferenced object")),
];

/// The tests of the detector of data races.
pub const RACES: [Expected; 4] = [
    ("bugs::none", None),
    ("bugs::ordered", None),
    ("bugs::data_race", Some("BUG: KCSAN: data-race in ")),
    ("bugs::missing_barrier", Some("(reordered) to 0x")),
];

/// The stand-in's tests, in their order.
pub const STAND_IN: [Expected; 7] = [
    ("passes", None),
    ("fails", Some("left: 1, right: 2")),
    (
        "warns",
        Some("WARNING: CPU: 0 PID: 1 at provoked.c:1 provoked"),
    ),
    ("exits", Some("the tests ended in it, with exit status 3")),
    (
        "panics",
        Some("Kernel panic - not syncing: sysrq triggered crash"),
    ),
    ("hangs", Some("it hung")),
    ("finds_the_root_unchanged", None),
];

/// Writes the stand-in to a directory and returns its path.
///
/// # Errors
///
/// If that can't be written.
pub fn program(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("provoked.sh");
    fs::write(&path, PROGRAM)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// Runs `program` in machines from `boot`, and compares what the runner makes of its tests with what is
/// `expected` of it. A test that hangs is given the time `limit`. `what` goes in front of the names.
///
/// # Errors
///
/// If a machine does not boot.
pub fn run(
    boot: &mut dyn FnMut(Logs) -> Result<Machine>,
    program: &[&str],
    what: &str,
    expected: &[Expected],
    logs: &Path,
    limit: Duration,
    out: &mut dyn Write,
) -> Result<Summary> {
    let mut suite = Suite {
        boot,
        program: &program
            .iter()
            .map(|word| word.to_string())
            .collect::<Vec<_>>(),
        logs,
        limit,
        out: &mut io::sink(),
        summary: Summary::default(),
    };
    suite.run(expected.iter().map(|(name, _)| name.to_string()).collect())?;
    let seen = suite.summary;

    let mut summary = Summary::default();
    for (name, wrong) in compare(&seen, expected) {
        let name = format!("{what}: {name}");
        match wrong {
            None => {
                writeln!(out, "ok    {name}")?;
                summary.passed += 1;
            }
            Some(why) => {
                writeln!(out, "FAIL  {name}\n      {why}")?;
                let log = logs.to_path_buf();
                summary.failed.push(Failure { name, why, log });
            }
        }
    }
    Ok(summary)
}

/// For each of the tests, and for all of them together, what the runner has got wrong.
fn compare(seen: &Summary, expected: &[Expected]) -> Vec<(&'static str, Option<String>)> {
    let mut results: Vec<_> = expected
        .iter()
        .map(|(name, expected)| {
            let failures: Vec<_> = seen.failed.iter().filter(|f| f.name == *name).collect();
            let wrong = match (expected, failures.as_slice()) {
                (None, []) => None,
                (Some(part), [failure]) if failure.why.contains(part) => None,
                (None, _) => Some(format!("it should pass: {failures:?}")),
                (Some(part), _) => Some(format!("it should fail once, by {part:?}: {failures:?}")),
            };
            (*name, wrong)
        })
        .collect();
    let expected_passes = expected.iter().filter(|(_, why)| why.is_none()).count();
    let right = seen.passed == expected_passes && seen.passed + seen.failed.len() == expected.len();
    let wrong = (!right).then(|| format!("not each test has been counted once: {seen:?}"));
    results.push(("counts each test once", wrong));
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a right runner makes of the stand-in.
    fn right() -> Summary {
        let failed = STAND_IN.iter().filter_map(|(name, why)| {
            Some(Failure {
                name: name.to_string(),
                why: format!("... {} ...", (*why)?),
                log: PathBuf::new(),
            })
        });
        Summary {
            passed: 2,
            failed: failed.collect(),
        }
    }

    /// How much is wrong with it.
    fn wrong(summary: &Summary) -> usize {
        let results = compare(summary, &STAND_IN);
        results.iter().filter(|(_, wrong)| wrong.is_some()).count()
    }

    #[test]
    fn what_is_right_passes() {
        assert_eq!(wrong(&right()), 0);
    }

    #[test]
    fn a_failure_that_is_missed_or_blamed_on_another_is_seen() {
        for index in 0..right().failed.len() {
            let mut missed = right();
            missed.failed.remove(index);
            missed.passed += 1;
            assert_eq!(wrong(&missed), 2, "{missed:?}");

            let mut blamed = right();
            blamed.failed[index].name = "passes".into();
            assert_eq!(wrong(&blamed), 2, "{blamed:?}");

            let mut other_reason = right();
            other_reason.failed[index].why = "other".into();
            assert_eq!(wrong(&other_reason), 1, "{other_reason:?}");
        }
    }

    #[test]
    fn a_pass_that_is_lost_is_seen() {
        let mut lost = right();
        lost.passed -= 1;
        assert_eq!(wrong(&lost), 1);
    }
}
