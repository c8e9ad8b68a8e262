// SPDX-License-Identifier: GPL-2.0

//! Runs the tests that need no machine, and counts them.

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

/// How the tests ended.
#[derive(Debug, Default, PartialEq)]
pub struct Count {
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// Names of those that failed.
    pub names: Vec<String>,
}

impl Count {
    /// Takes a line of output: libtest's, or `check NAME: ok` and `check NAME: FAILED` for what is no
    /// test of libtest's.
    pub fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed").unwrap_or(0);
            self.failed += number_before(result, " failed").unwrap_or(0);
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_string());
        } else if let Some((name, word)) = line
            .strip_prefix("check ")
            .and_then(|rest| rest.split_once(": "))
        {
            match word {
                "ok" => self.passed += 1,
                "FAILED" => {
                    self.failed += 1;
                    self.names.push(name.to_string());
                }
                _ => (),
            }
        }
    }
}

/// The number that stands before `word` in a list separated by blanks and semicolons.
fn number_before(text: &str, word: &str) -> Option<usize> {
    let (before, _) = text.split_once(word)?;
    before.rsplit([' ', ';']).next()?.parse().ok()
}

/// Runs `program` and counts; its output also goes to standard output and to `log`.
///
/// # Errors
///
/// If it can't be run, or `log` can't be written.
pub fn run(program: &Path, log: &Path) -> Result<Count> {
    let mut file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let mut child = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let text = String::from_utf8_lossy(&line);
            println!("{text}");
            file.write_all(&line)?;
            file.write_all(b"\n")?;
            count.line(&text);
        }
    }
    let status = child.wait()?;
    // What does not compile has no result at all.
    if !status.success() && count.failed == 0 {
        count.failed = 1;
        count
            .names
            .push(format!("{} ({status})", program.display()));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::PermissionsExt, //
    };

    #[test]
    fn results_of_several_programs_add_up() {
        let mut count = Count::default();
        // As cargo 1.85 prints it.
        for line in [
            "running 3 tests",
            "test a::one ... ok",
            "test a::two ... FAILED",
            "test a::three ... ignored",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "check rustfmt: ok",
            "check clippy: FAILED",
            "check something: in progress",
        ] {
            count.line(line);
        }
        assert_eq!(
            count,
            Count {
                passed: 14,
                failed: 2,
                names: vec!["a::two".into(), "clippy".into()],
            }
        );
    }

    #[test]
    fn a_program_that_fails_without_a_result_counts_as_one_failure() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "#!/bin/sh\necho 'check a: ok'\nexit 101\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let count = run(&program, &directory.path().join("log")).unwrap();
        assert_eq!((count.passed, count.failed), (1, 1));
    }
}
