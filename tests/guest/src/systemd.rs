// SPDX-License-Identifier: GPL-2.0

//! The machine with systemd as its init, which the tests of services rely on.

use crate::support::{
    process::{
        attempt,
        shell, //
    },
    tests,
    Guest,
    Test, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::fs;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![every_unit_is_up_and_rngd_waits_for_its_test];

/// Process 1 is systemd, no unit has failed or is still being started, and rngd, which would read from the
/// device unasked, does not run.
fn every_unit_is_up_and_rngd_waits_for_its_test(_: &mut Guest) -> Result<()> {
    ensure!(fs::read_to_string("/proc/1/comm")?.trim() == "systemd");
    let state = attempt(&["systemctl", "is-system-running", "--wait"])?;
    ensure!(
        state.stdout.trim() == "running",
        "{}: {}",
        state.stdout.trim(),
        shell("systemctl --failed --no-legend")?.stdout
    );
    let rngd = attempt(&["systemctl", "is-active", "rngd"])?;
    ensure!(rngd.stdout.trim() == "inactive", "{}", rngd.stdout);
    Ok(())
}
