// SPDX-License-Identifier: GPL-2.0

//! How often the module's work items run, by the kernel's own tracing: what they cost.

use super::process::run;
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    path::Path, //
};

/// Where the kernel's tracing is.
const TRACING: &str = "/sys/kernel/tracing";

/// The tracing event of the beginning of a work item.
const EVENT: &str = "events/workqueue/workqueue_execute_start/enable";

/// What is in the names of the module's functions, and in no other's.
const FUNCTIONS: &str = "alrandom";

/// Watches the kernel's workers until this is dropped.
pub(crate) struct Works;

impl Works {
    /// Watches from now on.
    ///
    /// # Errors
    ///
    /// If the kernel cannot.
    pub(crate) fn watch() -> Result<Self> {
        if !Path::new(TRACING).join("trace").exists() {
            run(&["mount", "-t", "tracefs", "tracefs", TRACING])?;
        }
        Self::write("trace", "")?;
        Self::write(EVENT, "1")?;
        Ok(Self)
    }

    /// How often a work item of the module's has begun to run since the last call.
    ///
    /// # Errors
    ///
    /// If the kernel does not say.
    pub(crate) fn take_runs(&self) -> Result<usize> {
        let trace = fs::read_to_string(Path::new(TRACING).join("trace"))?;
        Self::write("trace", "")?;
        let lines = trace.lines();
        Ok(lines.filter(|line| line.contains(FUNCTIONS)).count())
    }

    /// Writes to a file of the tracing's.
    fn write(file: &str, text: &str) -> Result<()> {
        let path = Path::new(TRACING).join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        let _ = Self::write(EVENT, "0");
    }
}
