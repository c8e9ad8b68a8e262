// SPDX-License-Identifier: GPL-2.0

//! `/proc/alrandom/info`.

use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::fs;

/// Its path.
pub(crate) const INFO: &str = "/proc/alrandom/info";

/// The text where there is no device (device.md).
pub(crate) const NO_DEVICE: &str = "No AlphaRNG information found\n";

/// The text where nothing has been read from the device yet (device.md).
pub(crate) const NOT_INITIALISED: &str = "The AlphaRNG device wasn't initialized\n";

/// What is in it while a device is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// Whether the statistical tests are on.
    pub(crate) tests_enabled: bool,
    /// Maximum RCT failures in a block.
    pub(crate) max_rct: u64,
    /// Maximum APT failures in a block.
    pub(crate) max_apt: u64,
    /// All RCT failures.
    pub(crate) total_rct: u64,
    /// All APT failures.
    pub(crate) total_apt: u64,
    /// RCT status byte: 0 or 1.
    pub(crate) rct_status: u64,
    /// APT status byte: 0 or 2.
    pub(crate) apt_status: u64,
    /// The device's own status byte.
    pub(crate) device_status: u64,
    /// Complete answers of the device.
    pub(crate) requests: u64,
}

impl Info {
    /// The file's text for these numbers, as device.md has it.
    pub(crate) fn text(&self) -> String {
        format!(
            "AlphaRNG statistical tests: {}\n\
             maximum RCT failures per block for device: {}\n\
             maximum APT failures per block for device: {}\n\
             total RCT failures for device: {}\n\
             total APT failures for device: {}\n\
             RCT status byte for device: {}\n\
             APT status byte for device: {}\n\
             last known device status byte: {}\n\
             number of requests handled by device: {}\n",
            if self.tests_enabled {
                "enabled"
            } else {
                "disabled"
            },
            self.max_rct,
            self.max_apt,
            self.total_rct,
            self.total_apt,
            self.rct_status,
            self.apt_status,
            self.device_status,
            self.requests,
        )
    }

    /// Reads the numbers from a text that has to be exactly of the form of [`Self::text`].
    ///
    /// # Errors
    ///
    /// If it is not.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut numbers = text.lines().skip(1).map(|line| {
            let (_, number) = line.rsplit_once(": ").unwrap_or_default();
            number.parse::<u64>()
        });
        let mut number = || -> Result<u64> {
            let number = numbers.next().context("a line is missing")?;
            Ok(number?)
        };
        let mut read = || -> Result<Self> {
            Ok(Self {
                tests_enabled: text.starts_with("AlphaRNG statistical tests: enabled\n"),
                max_rct: number()?,
                max_apt: number()?,
                total_rct: number()?,
                total_apt: number()?,
                rct_status: number()?,
                apt_status: number()?,
                device_status: number()?,
                requests: number()?,
            })
        };
        let info = read().with_context(|| format!("{INFO} is not of a device in use:\n{text}"))?;
        ensure!(
            info.text() == text,
            "{INFO} is not as it should be, but:\n{text}"
        );
        Ok(info)
    }

    /// Reads the file while a device is in use.
    ///
    /// # Errors
    ///
    /// If it is not exactly of the form that device.md states.
    pub(crate) fn read() -> Result<Self> {
        Self::parse(&read_text()?)
    }
}

/// The file's text.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn read_text() -> Result<String> {
    fs::read_to_string(INFO).with_context(|| format!("cannot read {INFO}"))
}
