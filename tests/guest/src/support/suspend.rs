// SPDX-License-Identifier: GPL-2.0

//! Suspending the machine, and what it takes to go on behind that.

use super::{
    guest::Guest,
    wait::{
        wait_for,
        wait_until, //
    },
};
use alpharng_emu::control::Client;
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    fs,
    time::Duration, //
};

/// How far a suspend goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sleep {
    /// All devices are suspended, and resumed after five seconds; the processors go on meanwhile
    /// (Documentation/power/basic-pm-debugging.rst, `devices`).
    Devices,
    /// To RAM (ACPI S3), until the clock wakes the machine after [`ALARM`] seconds. All but the memory
    /// loses its power.
    Ram,
}

/// When the clock wakes the machine, in seconds.
const ALARM: u32 = 6;

/// How far a suspend goes, for tests of drivers.
const PM_TEST: &str = "/sys/power/pm_test";

/// For how many seconds it then stays as it is.
const PM_TEST_DELAY: &str = "/sys/module/suspend/parameters/pm_test_delay";

/// How many they are where nobody has said otherwise.
const USUAL_DELAY: u64 = 5;

/// Suspends the machine: what is written to it says how.
const STATE: &str = "/sys/power/state";

/// When the clock wakes the machine.
const WAKEALARM: &str = "/sys/class/rtc/rtc0/wakealarm";

/// The driver of the ports to the emulator and to the host.
const CONSOLE_DRIVER: &str = "/sys/bus/virtio/drivers/virtio_console";

/// What the kernel says above information when this machine is suspended and resumed. The controller
/// forgets its state in either case: QEMU's cannot save it.
const USUAL: [&str; 4] = [
    "xHC error in resume, USBSTS 0x401, Reinit",
    "root hub lost power or was reset",
    "hpet: Lost",
    "ACPI Error: Could not disable RealTimeClock events",
];

/// What it says there however far it goes.
const RESEEDED: &str = "random: crng reseeded on system resumption";

/// What the kernel says of a device that it has reset.
const RESET: &str = "reset high-speed USB device number";

/// Writes to a file of the kernel's.
fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text} to {path}"))
}

/// Has the driver let go of the ports to the emulator and to the host, and take them again: in Linux
/// 7.3.4 they stay closed for the host behind a suspend, for the driver asks how they are before it can
/// hear the answer. The machine's agent opens its port anew by itself.
fn revive_ports() -> Result<()> {
    let devices: Vec<_> = fs::read_dir(CONSOLE_DRIVER)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("virtio"))
        .collect();
    for device in devices {
        write(&format!("{CONSOLE_DRIVER}/unbind"), &device)?;
        write(&format!("{CONSOLE_DRIVER}/bind"), &device)?;
    }
    Ok(())
}

impl Guest {
    /// Suspends the machine and has it resume.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or has not suspended what it should have.
    pub(crate) fn suspend(&mut self, sleep: Sleep) -> Result<()> {
        let (level, state, proof) = match sleep {
            Sleep::Devices => (
                "devices",
                "freeze",
                "suspend debug: Waiting for 5 second(s)",
            ),
            Sleep::Ram => (
                "none",
                "mem",
                "ACPI: PM: Waking up from system sleep state S3",
            ),
        };
        for text in USUAL {
            self.log.announce(text);
        }
        if sleep == Sleep::Ram {
            write(WAKEALARM, "0")?;
            write(WAKEALARM, &format!("+{ALARM}"))?;
        }
        self.enter(level, state, proof)?;
        revive_ports()?;
        self.emulator = wait_for("the emulator's port to open", || {
            Client::open(super::guest::EMULATOR).ok()
        })?;
        Ok(())
    }

    /// Has the kernel go to `state`, but no further than to `level`, and come back; it has to say `proof`.
    fn enter(&mut self, level: &str, state: &str, proof: &str) -> Result<()> {
        self.log.announce(RESEEDED);
        let before = self.log.count(proof);
        write(PM_TEST, level)?;
        let entered = write(STATE, state);
        write(PM_TEST, "none")?;
        entered?;
        wait_until("the kernel to tell of the suspend", || {
            self.log.count(proof) == before + 1
        })
    }

    /// Freezes all programs, as the first step of a suspend does, and has them go on after so many
    /// seconds (Documentation/power/basic-pm-debugging.rst, `freezer`). No device is suspended.
    ///
    /// # Errors
    ///
    /// If one of them cannot be frozen.
    pub(crate) fn freeze_programs(&mut self, span: Duration) -> Result<()> {
        write(PM_TEST_DELAY, &span.as_secs().to_string())?;
        let frozen = self.enter("freezer", "freeze", "suspend debug: Waiting for");
        write(PM_TEST_DELAY, &USUAL_DELAY.to_string())?;
        frozen
    }

    /// How often the kernel has reset a device that was there before: it does so behind each suspend,
    /// as the controller has forgotten its state.
    pub(crate) fn resets(&mut self) -> usize {
        self.log.count(RESET)
    }

    /// As [`Self::suspend`]; device 0 has to be reset by it and to be in use afterwards.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub(crate) fn suspend_and_keep(&mut self, sleep: Sleep) -> Result<()> {
        let before = self.resets();
        self.suspend(sleep)?;
        let resets = self.resets() - before;
        ensure!(resets == 1, "the device was reset {resets} times");
        let device = super::UsbDevice::find(&super::guest::serial(0));
        ensure!(device.context("the device is gone")?.is_in_use());
        Ok(())
    }
}
