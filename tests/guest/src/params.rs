// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, and what `modinfo` says.

use crate::support::{
    guest::{
        is_loaded,
        LOADED, //
    },
    info,
    node::NODE,
    run,
    tests,
    Guest,
    Info,
    Stream,
    Test,
    BLOCK, //
};
use alpharng_emu::fault::{
    Fault,
    Kind, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    sysfs_has_the_vendor_s_with_their_defaults,
    values_given_at_load_are_shown,
    out_of_range_at_load_is_refused_with_a_clear_line,
    out_of_range_in_sysfs_is_refused_and_changes_nothing,
    bytes_per_sample_uses_the_last_bytes_of_each_block,
    bytes_per_sample_can_be_changed,
    tests_can_be_switched_off_and_on,
    debug_mode_reports_transfers,
    modinfo_is_complete,
];

/// The path of a parameter in sysfs.
fn path(name: &str) -> String {
    format!("{LOADED}/parameters/{name}")
}

/// The value of a parameter.
fn value(name: &str) -> Result<String> {
    let text = fs::read_to_string(path(name)).with_context(|| format!("no parameter {name}"))?;
    Ok(text.trim_end().to_owned())
}

/// The vendor's three are there under their names, readable by all, writable by root.
fn sysfs_has_the_vendor_s_with_their_defaults(guest: &mut Guest) -> Result<()> {
    guest.load_with_hwrng(&[])?;
    for (name, default) in [
        ("disableStatisticalTests", "N"),
        ("bytesPerSample", "16000"),
        ("debugMode", "N"),
        ("minEntropy", "6"),
        ("maxCommands", "2"),
        ("maxDevices", "1"),
        ("idleSuspend", "0"),
    ] {
        ensure!(value(name)? == default, "{name} is {}", value(name)?);
        let mode = fs::metadata(path(name))?.permissions().mode() & 0o7777;
        ensure!(mode == 0o644, "{name} has mode {mode:o}");
    }
    Ok(())
}

/// What was given at load is what sysfs shows.
fn values_given_at_load_are_shown(guest: &mut Guest) -> Result<()> {
    guest.log.announce("statistical tests are disabled");
    // A boolean's name alone switches it on.
    guest.load(&["disableStatisticalTests", "bytesPerSample=1", "debugMode=y"])?;
    ensure!(value("disableStatisticalTests")? == "Y");
    ensure!(value("bytesPerSample")? == "1");
    ensure!(value("debugMode")? == "Y");
    Ok(())
}

/// Values that are none of the vendor's.
const BAD: [&str; 20] = [
    "bytesPerSample=0",
    "bytesPerSample=-1",
    "bytesPerSample=16001",
    "bytesPerSample=4294967297",
    "bytesPerSample=many",
    "bytesPerSample=",
    "disableStatisticalTests=2",
    "disableStatisticalTests=maybe",
    "debugMode=-1",
    "minEntropy=0",
    "minEntropy=9",
    "hwrngQuality=-2",
    "hwrngQuality=1025",
    "maxCommands=0",
    "maxCommands=5",
    "maxCommands=two",
    "maxDevices=0",
    "maxDevices=9",
    "idleSuspend=-1",
    "idleSuspend=86401",
];

/// Loading fails with EINVAL, nothing stays behind, and the log names the parameter.
fn out_of_range_at_load_is_refused_with_a_clear_line(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    for bad in BAD {
        let name = bad.split('=').next().unwrap_or_default();
        guest.log.announce(name);
        let line = format!("alrandom: {name}");
        let lines = guest.log.count(&line);
        let ended = guest.try_to_load(&[bad])?;
        ensure!(!ended.success, "{bad} is taken");
        let why = ended.stderr.trim();
        // insmod's words for EINVAL, or those of the C library.
        let einval = why.ends_with("Invalid parameters") || why.ends_with("Invalid argument");
        ensure!(einval || bad.contains("4294967297"), "{bad}: {why}");
        ensure!(!is_loaded() && !Path::new(NODE).exists(), "{bad}");
        ensure!(
            guest.log.count(&line) > lines,
            "no line names {name} ({bad})"
        );
    }
    ensure!(
        guest
            .log
            .count("bytesPerSample=16001 is out of range, use 1 to 16000")
            == 1
    );
    Ok(())
}

/// Writing such a value to sysfs fails with EINVAL, and the old one stays.
fn out_of_range_in_sysfs_is_refused_and_changes_nothing(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    for bad in BAD {
        let (name, bad_value) = bad.split_once('=').context("no value")?;
        guest.log.announce(name);
        let before = value(name)?;
        let error = fs::write(path(name), format!("{bad_value}\n")).err();
        let code = error.as_ref().and_then(std::io::Error::raw_os_error);
        // What does not even fit into an integer is ERANGE, as everywhere in the kernel.
        let refused = code == Some(libc::EINVAL) || code == Some(libc::ERANGE);
        ensure!(refused, "{bad}: {error:?}");
        ensure!(value(name)? == before, "{bad} is taken");
    }
    guest.stream().expect(&node.read_all(50_000)?)
}

/// Only the last bytes of each block are delivered.
fn bytes_per_sample_uses_the_last_bytes_of_each_block(guest: &mut Guest) -> Result<()> {
    for (used, total) in [(1, 50), (7, 300), (5000, 150_000), (15_999, 100_000)] {
        let node = guest.start_with(&[&format!("bytesPerSample={used}")])?;
        let mut stream = guest.stream().of_last_bytes(used);
        stream.expect(&node.read_all(total)?)?;
        drop(node);
        guest.unload()?;
        guest.unplug()?;
        // Block indices begin again.
        guest.seed += 1;
        guest.reseed()?;
    }
    Ok(())
}

/// Changed while a device is in use, it holds for the blocks that come from then on.
fn bytes_per_sample_can_be_changed(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let full = guest.wait_until_full()?;
    fs::write(path("bytesPerSample"), "100")?;
    ensure!(value("bytesPerSample")? == "100");
    let ready = usize::try_from(full)? - 1;
    guest.stream().expect(&node.read_all(ready * BLOCK)?)?;
    let mut stream = Stream::from_block(guest.seed, full).of_last_bytes(100);
    stream.expect(&node.read_all(1000)?)
}

/// Switched off, blocks are delivered untested; switched on again, they are tested again.
fn tests_can_be_switched_off_and_on(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let bad = guest.wait_until_full()?;
    guest.log.announce("statistical tests are disabled");
    fs::write(path("disableStatisticalTests"), "1")?;
    ensure!(info::read_text()?.starts_with("AlphaRNG statistical tests: disabled\n"));
    guest
        .emulator
        .fault(Fault::at(bad, Kind::Stuck { value: 3 }))?;
    node.read_all((usize::try_from(bad)? - 1) * BLOCK)?;
    ensure!(node.read_all(BLOCK)? == [3; BLOCK]);

    fs::write(path("disableStatisticalTests"), "0")?;
    let again = guest.wait_until_full()?;
    ensure!(Info::read()?.tests_enabled);
    guest
        .emulator
        .fault(Fault::at(again, Kind::Stuck { value: 3 }))?;
    while let Ok(bytes) = node.read(1000) {
        ensure!(bytes != [3; 1000], "a bad block is delivered");
    }
    guest.log.wait_for("stopped: replug the device")?;
    Ok(())
}

/// Transfers are in the log in debug mode, and only then.
fn debug_mode_reports_transfers(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(100_000)?;
    guest.wait_until_full()?;
    ensure!(guest.log.count("debug:") == 0);
    fs::write(path("debugMode"), "1")?;
    node.read_all(100_000)?;
    guest.wait_until_full()?;
    ensure!(guest.log.count("debug:") >= 6);
    fs::write(path("debugMode"), "0")?;
    guest.wait_until_full()?;
    let lines = guest.log.count("debug:");
    node.read_all(100_000)?;
    guest.wait_until_full()?;
    ensure!(guest.log.count("debug:") == lines);
    Ok(())
}

/// Description, author, licence, version, parameters with their types, and the aliases of both ids, of
/// the data interface only.
fn modinfo_is_complete(guest: &mut Guest) -> Result<()> {
    let module = guest.module.to_string_lossy();
    let field = |name: &str| -> Result<BTreeSet<String>> {
        let text = run(&["modinfo", "-F", name, &module])?.stdout;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let set = |values: &[&str]| {
        values
            .iter()
            .map(|v| v.to_string())
            .collect::<BTreeSet<_>>()
    };
    ensure!(field("name")? == set(&["alrandom"]));
    ensure!(field("version")? == set(&["1.0.0"]));
    ensure!(field("license")? == set(&["GPL"]));
    for name in ["description", "author"] {
        let values = field(name)?;
        ensure!(
            values.iter().any(|value| value.len() > 5),
            "{name}: {values:?}"
        );
    }
    ensure!(
        field("alias")?
            == set(&[
                "usb:v1FC9p8111d*dc*dsc*dp*ic0Aisc*ip*in*",
                "usb:v3975p0005d*dc*dsc*dp*ic0Aisc*ip*in*",
            ])
    );
    let parameters = field("parm")?;
    for (name, kind) in [
        ("disableStatisticalTests", "bool"),
        ("bytesPerSample", "int"),
        ("debugMode", "bool"),
        ("minEntropy", "int"),
        ("hwrngQuality", "int"),
        ("maxCommands", "int"),
        ("maxDevices", "int"),
        ("idleSuspend", "int"),
    ] {
        let described = parameters.iter().any(|parameter| {
            parameter.starts_with(&format!("{name}:"))
                && parameter.ends_with(&format!(" ({kind})"))
                && parameter.len() > name.len() + kind.len() + 10
        });
        ensure!(described, "{name} is not described in {parameters:?}");
    }
    Ok(())
}
