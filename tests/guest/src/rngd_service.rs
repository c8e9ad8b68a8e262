// SPDX-License-Identifier: GPL-2.0

//! rngd as a service, installed as README.md says.

use crate::support::{
    process::{
        attempt,
        run, //
    },
    readme,
    rngd::{
        Feeding,
        Rngd,
        NEWER, //
    },
    tests, wait_until, Guest, Test,
};
use anyhow::{
    ensure,
    Result, //
};
use std::fs;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    service_of_rngd_5_waits_for_the_device_and_feeds_again,
    service_of_rngd_6_waits_for_the_device_and_feeds_again,
];

/// The README's section.
const SECTION: &str = "rngd";

/// Where an administrator's units go, and what is changed in those of packages.
const UNITS: &str = "/etc/systemd/system";

/// Has the service run in the folder of the newer Debian, where it finds its libraries, but for the one program
/// that is not there.
const IN_NEWER: &str = "\
[Service]
RootDirectory=/opt/newer
MountAPIVFS=yes
BindPaths=/dev
BindReadOnlyPaths=/usr/bin/dd
";

/// Takes the service away again when this is dropped.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = attempt(&["systemctl", "stop", "rngd"]);
        let _ = fs::remove_dir_all(format!("{UNITS}/rngd.service.d"));
        let _ = fs::remove_file(format!("{UNITS}/rngd.service"));
        let _ = attempt(&["systemctl", "daemon-reload"]);
    }
}

/// What systemd says of the service.
fn state() -> Result<String> {
    Ok(attempt(&["systemctl", "is-active", "rngd"])?
        .stdout
        .trim()
        .to_owned())
}

/// The id of its process.
fn process() -> Result<u32> {
    let id = run(&["systemctl", "show", "--value", "-p", "MainPID", "rngd"])?;
    Ok(id.stdout.trim().parse()?)
}

/// The service reads from the device and feeds the kernel. Without the device it is neither active nor given up
/// nor noisy, and when the device is back it feeds again, without a command.
fn waits_and_feeds_again(guest: &mut Guest, rngd: Rngd, block: &str) -> Result<()> {
    guest.start()?;
    let _installed = Installed;
    let since = run(&["date", "+%s"])?.stdout.trim().to_owned();
    if rngd == Rngd::Six {
        fs::copy(
            format!("{NEWER}/usr/lib/systemd/system/rngd.service"),
            format!("{UNITS}/rngd.service"),
        )?;
        fs::create_dir_all(format!("{UNITS}/rngd.service.d"))?;
        fs::write(format!("{UNITS}/rngd.service.d/root.conf"), IN_NEWER)?;
    }
    let feeding = Feeding::watch()?;
    readme::run_commands(&readme::line(SECTION, block)?)?;
    readme::run_commands(&readme::block(SECTION, "systemctl restart rngd")?)?;
    wait_until("the service to be active", || {
        state().is_ok_and(|state| state == "active")
    })?;
    let first = process()?;
    feeding.wait_for(first)?;

    guest.unplug()?;
    if rngd == Rngd::Five {
        // It sleeps, for the kernel asks for no more, and does not notice.
        ensure!(state()? == "active");
        run(&["systemctl", "restart", "--no-block", "rngd"])?;
    }
    wait_until("the service to wait for the device", || {
        state().is_ok_and(|state| state == "activating")
    })?;
    wait_until("the service to be tried again", || {
        let count = run(&["systemctl", "show", "--value", "-p", "NRestarts", "rngd"]);
        count.is_ok_and(|count| {
            count
                .stdout
                .trim()
                .parse()
                .is_ok_and(|count: u32| count >= 2)
        })
    })?;
    ensure!(state()? == "activating", "it is {}", state()?);

    guest.replug()?;
    wait_until("the service to be active again", || {
        state().is_ok_and(|state| state == "active")
    })?;
    let second = process()?;
    ensure!(second != first);
    feeding.wait_for(second)?;
    let since = format!("--since=@{since}");
    let log = run(&["journalctl", "--no-pager", "-u", "rngd", &since])?.stdout;
    ensure!(log.lines().count() < 60, "it has filled the log:\n{log}");
    Ok(())
}

/// So does the one of rng-tools5.
fn service_of_rngd_5_waits_for_the_device_and_feeds_again(guest: &mut Guest) -> Result<()> {
    waits_and_feeds_again(guest, Rngd::Five, "docs/rngd5.conf")
}

/// So does the one of rng-tools 6.
fn service_of_rngd_6_waits_for_the_device_and_feeds_again(guest: &mut Guest) -> Result<()> {
    waits_and_feeds_again(guest, Rngd::Six, "docs/rngd6.conf")
}
