// SPDX-License-Identifier: GPL-2.0

//! Runs other programs' tests, those that neither run in the guest nor are cargo's, and counts them.

use crate::tap::{
    self,
    Line, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs::File,
    io::{
        BufRead,
        BufReader,
        Write, //
    },
    path::Path,
    process::{
        Command,
        Stdio, //
    },
};

/// How the tests of one program went.
#[derive(Debug, Default, PartialEq)]
pub struct Results {
    /// How many passed.
    pub passed: usize,
    /// Those that failed, each with what was said about it.
    pub failed: Vec<String>,
    /// How many tests the program has said that it has.
    plan: Option<usize>,
    /// What has been said about the test that ended last, if that failed: it is said after its result.
    said: bool,
}

impl Results {
    /// Takes a line of output.
    pub fn line(&mut self, line: &str) {
        match tap::parse(line) {
            Line::Result { passed, name } => {
                self.said = !passed;
                if passed {
                    self.passed += 1;
                } else {
                    self.failed.push(name);
                }
            }
            Line::Diagnostic(text) if self.said => {
                if let Some(failure) = self.failed.last_mut() {
                    failure.push_str("\n      ");
                    failure.push_str(&text);
                }
            }
            Line::BailOut(text) => {
                self.failed.push(format!("Bail out! {text}"));
                self.said = true;
            }
            Line::Other(text) => {
                if let Some(Ok(plan)) = text.strip_prefix("1..").map(str::parse::<usize>) {
                    self.plan = Some(self.plan.unwrap_or(0) + plan);
                }
                self.said = false;
            }
            Line::Start(_) | Line::Diagnostic(_) => self.said = false,
        }
    }

    /// Takes how the program ended: `ended` are the words for that.
    fn end(&mut self, program: &Path, success: bool, ended: &str) {
        let seen = self.passed + self.failed.len();
        let program = program.display();
        match self.plan {
            Some(plan) if plan != seen => self.failed.push(format!(
                "{program}: {seen} results, though {plan} were to come ({ended})"
            )),
            None if success && seen > 0 => {
                self.failed
                    .push(format!("{program}: it did not say how many tests it has"));
            }
            _ if !success && self.failed.is_empty() => {
                self.failed.push(format!("{program}: {ended}"));
            }
            _ => (),
        }
    }
}

/// Runs `program`, with `filter` as its argument if there is one, and counts what it prints, the Test
/// Anything Protocol; the output also goes to standard output and to `log`. With a filter the program
/// runs its tests with that in their names, which may be none; then it prints nothing.
///
/// # Errors
///
/// If it can't be run, or `log` can't be written.
pub fn run(program: &Path, filter: Option<&str>, log: &Path) -> Result<Results> {
    let mut file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let mut child = Command::new(program)
        .args(filter)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))?;
    let mut results = Results::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let text = String::from_utf8_lossy(&line);
            println!("{text}");
            file.write_all(&line)?;
            file.write_all(b"\n")?;
            results.line(&text);
        }
    }
    let status = child.wait()?;
    results.end(program, status.success(), &status.to_string());
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::PermissionsExt, //
    };

    /// What comes of a program that is this shell script.
    fn results_of(script: &str, filter: Option<&str>) -> Results {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        run(&program, filter, &directory.path().join("log")).unwrap()
    }

    #[test]
    fn results_are_counted_and_what_is_said_after_a_failure_is_its_reason() {
        let results = results_of(
            "echo '# a'; echo 'ok 1 - one'; echo '# of one'; echo 'not ok 2 - two'; echo '# why'
             echo 'ok 3 - three'; echo 1..3; exit 1",
            None,
        );
        assert_eq!(results.passed, 2);
        assert_eq!(results.failed, ["two\n      why"]);
    }

    #[test]
    fn a_skipped_test_has_failed() {
        let results = results_of("echo 'ok 1 - one # SKIP no disk'; echo 1..1", None);
        assert_eq!((results.passed, results.failed.len()), (0, 1));
    }

    #[test]
    fn a_program_that_ends_early_has_failed() {
        for (script, passed) in [
            ("exit 3", 0),
            ("kill -9 $$", 0),
            ("echo 1..2; echo 'ok 1 - one'", 1),
            ("echo 'ok 1 - one'", 1),
            ("echo 'ok 1 - one'; exit 1", 1),
            ("echo 'ok 1 - one'; echo 'Bail out! no disk'; exit 1", 1),
        ] {
            let results = results_of(script, None);
            assert_eq!(results.passed, passed, "{script}");
            assert_eq!(results.failed.len(), 1, "{script}: {results:?}");
        }
    }

    #[test]
    fn the_filter_is_its_argument_and_no_match_is_no_failure() {
        let script = "[ \"$1\" = 'a b' ] && [ $# = 1 ] && exit 0; exit 1";
        let results = results_of(script, Some("a b"));
        assert_eq!((results.passed, results.failed.len()), (0, 0));
        assert_eq!(results_of(script, None).failed.len(), 1);
    }

    #[test]
    fn the_plans_of_several_groups_add_up() {
        let script =
            "echo 'ok 1 - one'; echo 1..1; echo 'ok 1 - two'; echo 'ok 2 - three'; echo 1..2";
        let results = results_of(script, None);
        assert_eq!((results.passed, results.failed.len()), (3, 0));
    }
}
