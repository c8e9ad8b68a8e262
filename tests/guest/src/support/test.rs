// SPDX-License-Identifier: GPL-2.0

//! A test, and the process that runs it.

use super::Guest;
use anyhow::Result;
use std::{
    fmt::Write as _,
    panic,
    path::Path, //
};

/// A test: a name and what it does.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// Its name with the crate's in front.
    path: &'static str,
    /// What it does; an error is what it found.
    body: fn(&mut Guest) -> Result<()>,
}

impl Test {
    /// Makes a test; see [`tests!`](super::tests).
    pub(crate) const fn new(path: &'static str, body: fn(&mut Guest) -> Result<()>) -> Self {
        Self { path, body }
    }

    /// Its name, `file::behaviour`.
    pub(crate) fn name(&self) -> &'static str {
        self.path
            .split_once("::")
            .map_or(self.path, |(_crate, name)| name)
    }

    /// The file that it is in.
    pub(crate) fn file(&self) -> &'static str {
        let name = self.name();
        name.split_once("::").map_or(name, |(file, _)| file)
    }

    /// Runs it in this process, from a clean state to a clean state, and says on standard output what
    /// it found. Whether it passed. Without a module, as where the driver is built into the kernel, the
    /// test finds the state that is there, and nothing is cleaned up behind it. A storm has so many `rounds`.
    pub(crate) fn run(&self, module: Option<&Path>, rounds: Option<u32>) -> bool {
        let mut findings = String::new();
        let guest = match module {
            Some(module) => Guest::new(self.name(), module),
            None => Guest::as_it_is(self.name()),
        };
        match guest {
            Err(error) => note(
                &mut findings,
                &format!("no clean state to begin with: {error:#}"),
            ),
            Ok(mut guest) => {
                guest.rounds = rounds;
                let body = panic::AssertUnwindSafe(|| (self.body)(&mut guest));
                match panic::catch_unwind(body) {
                    Ok(Ok(())) => (),
                    Ok(Err(error)) => note(&mut findings, &format!("{error:#}")),
                    Err(_) => note(&mut findings, "it panicked, see above"),
                }
                for finding in guest.finish(findings.is_empty()) {
                    note(&mut findings, &finding);
                }
            }
        }
        print!("{findings}");
        findings.is_empty()
    }
}

/// Adds a finding.
fn note(findings: &mut String, finding: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(findings, "{finding}");
}
