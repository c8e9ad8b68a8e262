// SPDX-License-Identifier: GPL-2.0

//! A build of the module in which one cutoff is off by one: its self-test refuses it. The test machine
//! makes that build (tests/vm) and puts it next to the good one.

use crate::support::{
    guest::is_loaded,
    node::NODE,
    process::attempt,
    run,
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
pub(crate) const TESTS: &[Test] = tests![a_cutoff_off_by_one_is_refused_at_load];

/// The name of the broken build.
const BROKEN: &str = "alrandom-broken-cutoff.ko";

/// The folder of `/proc` that a loaded module has.
const PROC: &str = "/proc/alrandom";

/// Loading fails with `EINVAL`, one line says why, nothing stays behind, and the stock driver keeps the
/// device. The good build loads afterwards.
fn a_cutoff_off_by_one_is_refused_at_load(guest: &mut Guest) -> Result<()> {
    let broken = guest.module.with_file_name(BROKEN);
    ensure!(
        broken.exists(),
        "{} is not there: `make test` builds it, --module does not",
        broken.display()
    );
    let device = guest.plug()?;
    run(&["modprobe", "usbcore"])?;
    let path = broken.to_string_lossy();
    let ended = attempt(&["insmod", &path])?;

    ensure!(!ended.success, "a broken build is loaded");
    let why = ended.stderr.trim();
    // insmod's words for EINVAL, or those of the C library.
    let einval = why.ends_with("Invalid parameters") || why.ends_with("Invalid argument");
    ensure!(einval, "{why}");
    let line = guest
        .log
        .wait_for("self-test of the health tests failed: known-answer vector \"")?;
    ensure!(line.level == 3, "{line:?}");
    // The row of the table that is wrong is that for the default.
    let cause = "disagrees at a min-entropy of 6 bits per byte; not loaded, build the module again";
    ensure!(line.text.contains(cause), "{line:?}");
    ensure!(guest.log.count("self-test") == 1);
    ensure!(!is_loaded() && !fs::exists(NODE)? && !fs::exists(PROC)?);
    ensure!(!fs::exists("/sys/bus/usb/drivers/alrandom")?);
    ensure!(device.is_with_cdc_acm());

    guest.load(&[])?;
    ensure!(is_loaded() && fs::exists(NODE)? && fs::exists(PROC)?);
    Ok(())
}
