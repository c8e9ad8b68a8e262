// SPDX-License-Identifier: GPL-2.0

//! `/proc/alrandom/info`, as the vendor's module has it, and `/proc/alrandom/health`.

#![deny(unsafe_code)]

use crate::{
    abstractions::{
        proc_fs::{
            Directory,
            File,
            Show, //
        },
        usb::Address, //
    },
    health::{
        State,
        Statistics,
        VendorStatistics, //
    },
    Source, //
};
use kernel::{
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::Arc, //
};

/// What is told of a device in use; all zero and none until it has answered.
pub(crate) struct Report {
    /// Where it is.
    pub(crate) address: Address,
    /// It was neither given up nor stopped.
    pub(crate) works: bool,
    /// Complete answers from the device since it was plugged in.
    pub(crate) answers: u64,
    /// The numbers of the vendor layer.
    pub(crate) vendor: VendorStatistics,
    /// The assessed min-entropy that the cutoffs are for, in bits per byte.
    pub(crate) min_entropy: u32,
    /// The numbers of the SP 800-90B layer.
    pub(crate) health: Option<Statistics>,
}

impl Report {
    /// What is told of the device at `address` before it has answered.
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            works: true,
            answers: 0,
            vendor: VendorStatistics::default(),
            min_entropy: 0,
            health: None,
        }
    }
}

/// Writes `none` where no device is in use, and otherwise a paragraph for each: first for those
/// that work, so that who only reads one learns of the one that the bytes come from.
fn show_each(file: &SeqFile, source: &Source, none: &CStr, show: fn(&SeqFile, &Report)) {
    let reports = source.reports.lock();
    let mut any = false;
    for works in [true, false] {
        for report in reports.iter().flatten() {
            if report.works != works {
                continue;
            }
            if any {
                seq_print!(file, "\n");
            }
            any = true;
            show(file, report);
        }
    }
    if !any {
        seq_print!(file, "{}\n", none);
    }
}

/// The contents of `/proc/alrandom/info`.
pub(crate) struct Info(Arc<Source>);

impl Show for Info {
    fn show(&self, file: &SeqFile) {
        show_each(file, &self.0, c"No AlphaRNG information found", show_info);
    }
}

/// The vendor's lines about a device.
fn show_info(file: &SeqFile, report: &Report) {
    if report.answers == 0 {
        seq_print!(file, "The AlphaRNG device wasn't initialized\n");
        return;
    }
    let vendor = &report.vendor;
    let tests = if crate::DISABLE_STATISTICAL_TESTS.get() {
        "disabled"
    } else {
        "enabled"
    };
    seq_print!(file, "AlphaRNG statistical tests: {}\n", tests);
    seq_print!(
        file,
        "maximum RCT failures per block for device: {}\n",
        vendor.max_rct_failures
    );
    seq_print!(
        file,
        "maximum APT failures per block for device: {}\n",
        vendor.max_apt_failures
    );
    seq_print!(
        file,
        "total RCT failures for device: {}\n",
        vendor.total_rct_failures
    );
    seq_print!(
        file,
        "total APT failures for device: {}\n",
        vendor.total_apt_failures
    );
    seq_print!(file, "RCT status byte for device: {}\n", vendor.rct_status);
    seq_print!(file, "APT status byte for device: {}\n", vendor.apt_status);
    seq_print!(
        file,
        "last known device status byte: {}\n",
        vendor.device_status
    );
    seq_print!(
        file,
        "number of requests handled by device: {}\n",
        report.answers
    );
}

/// The contents of `/proc/alrandom/health`.
pub(crate) struct Health(Arc<Source>);

impl Show for Health {
    fn show(&self, file: &SeqFile) {
        show_each(file, &self.0, c"state: no device", show_health);
    }
}

/// The lines about the health tests of a device.
fn show_health(file: &SeqFile, report: &Report) {
    let Some(health) = &report.health else {
        seq_print!(file, "state: no answer yet\n");
        seq_print!(file, "device: {}\n", report.address);
        return;
    };
    match health.state {
        State::StartUp => seq_print!(file, "state: start-up test\n"),
        State::Running => seq_print!(file, "state: healthy\n"),
        State::Untested => seq_print!(file, "state: tests disabled\n"),
        State::Stopped(failure) => seq_print!(file, "state: stopped, {}\n", failure),
    }
    seq_print!(file, "device: {}\n", report.address);
    seq_print!(file, "min_entropy: {}\n", report.min_entropy);
    seq_print!(file, "samples: {}\n", health.samples);
    seq_print!(file, "rct_failures: {}\n", health.rct_failures);
    seq_print!(file, "apt_failures: {}\n", health.apt_failures);
    seq_print!(file, "repeated_blocks: {}\n", health.repeated_blocks);
    seq_print!(file, "intermittent_failures: {}\n", health.intermittent);
    seq_print!(file, "permanent_failures: {}\n", health.permanent);
    seq_print!(file, "start_up_runs: {}\n", health.start_up_runs);
    seq_print!(file, "longest_run: {}\n", health.longest_run);
    seq_print!(file, "highest_window_count: {}\n", health.highest_count);
    let cutoffs = health.cutoffs;
    seq_print!(
        file,
        "rct_cutoff_intermittent: {}\n",
        cutoffs.rct.intermittent
    );
    seq_print!(file, "rct_cutoff_permanent: {}\n", cutoffs.rct.permanent);
    seq_print!(
        file,
        "apt_cutoff_intermittent: {}\n",
        cutoffs.apt.intermittent
    );
    seq_print!(file, "apt_cutoff_permanent: {}\n", cutoffs.apt.permanent);
}

/// The files, there until this is dropped.
pub(crate) struct Files {
    /// `/proc/alrandom/info`.
    _info: File<Info>,
    /// `/proc/alrandom/health`.
    _health: File<Health>,
}

impl Files {
    /// Makes the folder and its files.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(source: &Arc<Source>) -> Result<Self> {
        let folder = Directory::new(c"alrandom")?;
        let info = Arc::new(Info(source.clone()), GFP_KERNEL)?;
        let health = Arc::new(Health(source.clone()), GFP_KERNEL)?;
        Ok(Self {
            _info: File::new(c"info", folder.clone(), info)?,
            _health: File::new(c"health", folder, health)?,
        })
    }
}
