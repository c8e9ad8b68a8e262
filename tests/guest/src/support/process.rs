// SPDX-License-Identifier: GPL-2.0

//! Running programs.

use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::process::{
    Command,
    Output,
    Stdio, //
};

/// What a program did that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether its exit status was 0.
    pub(crate) success: bool,
    /// What it wrote to standard output, byte for byte.
    pub(crate) bytes: Vec<u8>,
    /// The same as text.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            bytes: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program that may fail: its name and its arguments.
///
/// # Errors
///
/// If it cannot be run at all.
pub(crate) fn attempt(argv: &[&str]) -> Result<Ended> {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", argv[0]))?;
    Ok(output.into())
}

/// Runs a program that has to succeed: its name and its arguments.
///
/// # Errors
///
/// If it does not.
pub(crate) fn run(argv: &[&str]) -> Result<Ended> {
    let ended = attempt(argv)?;
    ensure!(
        ended.success,
        "`{}` failed: {}",
        argv.join(" "),
        ended.stderr.trim()
    );
    Ok(ended)
}

/// Runs a command line of a shell that has to succeed.
///
/// # Errors
///
/// If it does not.
pub(crate) fn shell(line: &str) -> Result<Ended> {
    run(&["sh", "-c", line])
}
