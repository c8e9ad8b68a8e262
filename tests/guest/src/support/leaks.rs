// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel has lost, where it looks for such (`CONFIG_DEBUG_KMEMLEAK`).

use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    path::Path,
    thread,
    time::Duration, //
};

/// What the kernel is told to look by, and where it lists what it has found
/// (Documentation/dev-tools/kmemleak.rst).
const FILE: &str = "/sys/kernel/debug/kmemleak";

/// How old lost memory has to be before it is listed: five seconds (mm/kmemleak.c, `MSECS_MIN_AGE`), and
/// one more.
const AGE: Duration = Duration::from_secs(6);

/// Most lines of a list that are of use.
const LINES: usize = 60;

/// The search for lost memory.
pub(crate) struct Leaks;

impl Leaks {
    /// Whether the kernel can look for lost memory, as one does that is made to look for bugs.
    pub(crate) fn can_be_found() -> bool {
        Path::new(FILE).exists()
    }

    /// Begins with a clean slate: what is lost by now is the boot's. `None` if the kernel cannot look.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn watch() -> Result<Option<Self>> {
        if !Self::can_be_found() {
            return Ok(None);
        }
        tell("scan")?;
        tell("clear")?;
        Ok(Some(Self))
    }

    /// What has been lost since the last time, as the kernel lists it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn found(&self) -> Result<String> {
        thread::sleep(AGE);
        // What only seems to be lost, since it changed hands in the middle of a search, is not in the
        // second one.
        tell("scan")?;
        tell("scan")?;
        let list = fs::read_to_string(FILE).context("cannot read the list of lost memory")?;
        tell("clear")?;
        Ok(list
            .lines()
            .take(LINES)
            .map(|line| format!("{line}\n"))
            .collect())
    }
}

/// Gives the search an order.
fn tell(order: &str) -> Result<()> {
    fs::write(FILE, order).with_context(|| format!("cannot write {order} to {FILE}"))
}
