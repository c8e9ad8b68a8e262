// SPDX-License-Identifier: GPL-2.0

//! The commands of README.md, so that what is tested is what it says.

use super::process::{
    run,
    Ended, //
};
use anyhow::{
    Context,
    Result, //
};
use std::fs;

/// Directory of the module's sources in the test machine: where the README's commands are to be run.
pub(crate) const SOURCES: &str = "/mnt/alrandom/src";

/// What marks a line of a block of commands or of a file's text, and is not a part of it.
const INDENT: &str = "    ";

/// Runs the README's commands as root would: without `sudo`, which this machine does not have. The first
/// one that fails ends them.
const AS_ROOT: &str = "set -e; sudo() { \"$@\"; }\n";

/// The first block in the section `heading` with a line that contains `part`: its lines, without their
/// indentation.
///
/// # Errors
///
/// If there is none.
pub(crate) fn block(heading: &str, part: &str) -> Result<String> {
    let path = format!("{SOURCES}/README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    find_block(&text, heading, part)
        .with_context(|| format!("README.md has no block with `{part}` in its section {heading}"))
}

/// [`block`], of a text.
fn find_block(text: &str, heading: &str, part: &str) -> Option<String> {
    let mut blocks = vec![String::new()];
    for line in text
        .lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
    {
        match (line.strip_prefix(INDENT), blocks.last_mut()) {
            (Some(inside), Some(block)) => *block += &format!("{inside}\n"),
            _ => blocks.push(String::new()),
        }
    }
    blocks.into_iter().find(|block| block.contains(part))
}

/// The one line of such a block that contains `part`, without a comment behind it.
///
/// # Errors
///
/// If there is none.
pub(crate) fn line(heading: &str, part: &str) -> Result<String> {
    let block = block(heading, part)?;
    let line = block.lines().find(|line| line.contains(part));
    let line = line.unwrap_or_default();
    Ok(line.split(" #").next().unwrap_or(line).trim().to_owned())
}

/// Runs commands as the README has them, in the directory that they are meant for.
///
/// # Errors
///
/// If one fails.
pub(crate) fn run_commands(commands: &str) -> Result<Ended> {
    run(&["sh", "-c", &format!("cd {SOURCES}\n{AS_ROOT}{commands}")])
}
