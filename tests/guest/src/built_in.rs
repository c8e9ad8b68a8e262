// SPDX-License-Identifier: GPL-2.0

//! The driver as a part of the kernel (`CONFIG_RNG_ALRANDOM=y`), with a device that was plugged in before the
//! machine was started.
//!
//! These tests need a kernel of their own and find everything as it is after the boot: `--built-in` runs
//! them, and them alone. The command line of that kernel has to have [`MIN_ENTROPY`] as
//! `alrandom.minEntropy`, and `alrandom.hwrngQuality=0`; its Kconfig number has to be [`NUMBER`]; the
//! device has to send the stream of [`SEED`].

use crate::support::{
    guest::LOADED,
    node::NODE,
    process::attempt,
    tests,
    wait_until,
    Guest,
    Info,
    Node,
    Stream,
    Test, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::{
    fs,
    path::Path, //
};

/// The tests of this file, in the order in which they have to run.
pub(crate) const TESTS: &[Test] = tests![
    works_from_boot,
    parameters_come_from_the_command_line,
    a_read_returns_the_number_of_kconfig,
    cannot_be_unloaded,
    open_file_survives_a_replug,
    hwrng_has_it_where_it_has_a_quality,
];

/// The device's seed.
pub(crate) const SEED: u64 = 20_261_121;

/// The parameter on the command line.
const MIN_ENTROPY: &str = "7";

/// `CONFIG_RNG_ALRANDOM_MAX_BYTES_USER_CAN_REQUEST`.
const NUMBER: usize = 123_456;

/// A parameter's value.
fn parameter(name: &str) -> Result<String> {
    Ok(fs::read_to_string(format!("{LOADED}/parameters/{name}"))?)
}

/// Without anything having been loaded the node is there and gives the device's stream from its first
/// block after the start-up test on, and the statistics count it.
fn works_from_boot(_guest: &mut Guest) -> Result<()> {
    let modules = fs::read_to_string("/proc/modules")?;
    ensure!(!modules.contains("alrandom"), "it is a module");
    ensure!(Path::new(LOADED).exists(), "it is not built in");
    let bytes = Node::open()?.read_all(1_000_000)?;
    Stream::of(SEED).expect(&bytes)?;
    let info = Info::read()?;
    ensure!(info.tests_enabled);
    ensure!(info.requests >= 63, "{info:?}");
    ensure!(info.device_status == 0 && info.rct_status == 0 && info.apt_status == 0);
    Ok(())
}

/// `alrandom.minEntropy=7` is in force: in sysfs, and in the cutoffs (those of SP 800-90B for 7 bits).
fn parameters_come_from_the_command_line(_guest: &mut Guest) -> Result<()> {
    ensure!(parameter("minEntropy")? == format!("{MIN_ENTROPY}\n"));
    ensure!(parameter("bytesPerSample")? == "16000\n");
    let health = fs::read_to_string("/proc/alrandom/health")?;
    for line in [
        "state: healthy",
        "min_entropy: 7",
        "rct_cutoff_intermittent: 7",
        "rct_cutoff_permanent: 10",
        "apt_cutoff_intermittent: 26",
        "apt_cutoff_permanent: 32",
    ] {
        ensure!(
            health.lines().any(|has| has == line),
            "no {line} in\n{health}"
        );
    }
    Ok(())
}

/// A read of more returns as many bytes as the kernel's configuration says; one of as many is full.
fn a_read_returns_the_number_of_kconfig(_guest: &mut Guest) -> Result<()> {
    let node = Node::open()?;
    for (asked, returned) in [
        (1_000_000, NUMBER),
        (NUMBER + 1, NUMBER),
        (NUMBER, NUMBER),
        (NUMBER - 1, NUMBER - 1),
    ] {
        let got = node.read(asked)?.len();
        ensure!(got == returned, "read(2) of {asked} bytes returned {got}");
    }
    Ok(())
}

/// It is a part of the kernel, which `rmmod` says too, and goes on.
fn cannot_be_unloaded(_guest: &mut Guest) -> Result<()> {
    let ended = attempt(&["rmmod", "alrandom"])?;
    ensure!(!ended.success, "it was unloaded");
    ensure!(ended.stderr.contains("builtin"), "{}", ended.stderr);
    Node::open()?.read_all(1000)?;
    Ok(())
}

/// Unplugged, the node is still there; plugged in again, the device is taken from `cdc_acm` again and an
/// open file goes on.
fn open_file_survives_a_replug(guest: &mut Guest) -> Result<()> {
    let node = Node::open()?;
    node.read_all(1000)?;
    guest.emulator.unplug()?;
    wait_until("the device to be gone", || {
        fs::read_to_string("/proc/alrandom/info").is_ok_and(|text| text.starts_with("No AlphaRNG"))
    })?;
    ensure!(Path::new(NODE).exists());
    guest.emulator.plug()?;
    wait_until("the device to be in use", || {
        guest
            .emulator
            .device(0)
            .status()
            .is_ok_and(|status| status.line_state == 3)
    })?;
    wait_until("bytes to be delivered", || node.read_all(100_000).is_ok())
}

/// With a quality it is a source of the hardware-RNG core, which is built in as well.
fn hwrng_has_it_where_it_has_a_quality(guest: &mut Guest) -> Result<()> {
    let listed = || {
        fs::read_to_string("/sys/class/misc/hw_random/rng_available")
            .is_ok_and(|list| list.split_whitespace().any(|name| name == "alrandom"))
    };
    ensure!(!listed(), "it is a source without a quality");
    fs::write(format!("{LOADED}/parameters/hwrngQuality"), "-1")?;
    // The parameter counts when a device becomes healthy.
    guest.emulator.unplug()?;
    guest.emulator.plug()?;
    wait_until("the source to be listed", listed)?;
    fs::write(format!("{LOADED}/parameters/hwrngQuality"), "0")?;
    guest.emulator.unplug()?;
    guest.emulator.plug()?;
    wait_until("the source to be gone", || !listed())
}
