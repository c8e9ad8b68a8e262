// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading, by hand, by `load.sh`, and by hot-plug.

use crate::support::{
    guest::{
        is_loaded,
        LOADED, //
    },
    node::NODE,
    process::{
        attempt,
        shell, //
    },
    run,
    tests,
    wait_until,
    Background,
    Guest,
    Node,
    Test, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    fifty_times_with_the_device_plugged_in,
    refused_while_the_node_is_open,
    refused_while_a_reader_sleeps,
    healthy_run_says_only_what_happens,
    unload_leaves_nothing,
    load_sh_loads_with_parameters,
    load_sh_says_why_it_cannot,
    hot_plug_loads_the_installed_module,
    udev_rules_let_everybody_read,
];

/// The script under test.
const LOAD_SH: &str = include_str!("../../../load.sh");

/// The rules under test.
const RULES: &str = include_str!("../../../80-alpharng-device-access.rules");

/// Fifty times: the device is taken each time, gives bytes, and goes back.
fn fifty_times_with_the_device_plugged_in(guest: &mut Guest) -> Result<()> {
    let device = guest.plug()?;
    for round in 0..50 {
        guest.load_with_hwrng(&[])?;
        ensure!(device.is_in_use(), "round {round}");
        // Every second time it is unloaded right away.
        if round % 2 == 0 {
            Node::open()?.read_all(100)?;
        }
        guest.unload()?;
        ensure!(device.is_with_cdc_acm(), "round {round}");
    }
    Ok(())
}

/// Checks that the module cannot be unloaded because it is in use.
fn expect_busy() -> Result<()> {
    let ended = attempt(&["rmmod", "alrandom"])?;
    ensure!(!ended.success, "the module was unloaded");
    ensure!(ended.stderr.contains("in use"), "{}", ended.stderr);
    Ok(())
}

/// `rmmod` is refused while the node is open, and nothing else changes; with a device and without.
fn refused_while_the_node_is_open(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    expect_busy()?;
    guest.stream().expect(&node.read_all(50_000)?)?;
    guest.unplug()?;
    expect_busy()?;
    drop(node);
    guest.unload()
}

/// So it is while a reader sleeps whose file is closed meanwhile.
fn refused_while_a_reader_sleeps(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.fall_silent()?;
    let reader = Background::start(move || node.read_all(100_000))?;
    reader.wait_until_reading()?;
    expect_busy()?;
    guest.unplug()?;
    ensure!(reader.join()?.is_err());
    guest.unload()
}

/// A healthy run: loaded, read, unplugged, plugged, unloaded. That nothing above info is logged is
/// checked in every test; here, that each event is logged, and once.
fn healthy_run_says_only_what_happens(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    let node = Node::open()?;
    node.read_all(5_000_000)?;
    guest.unplug()?;
    guest.replug()?;
    node.read_all(1_000_000)?;
    drop(node);
    guest.unload()?;
    ensure!(guest.log.count("AlphaRNG in use as /dev/alrandom") == 2);
    ensure!(guest.log.count("AlphaRNG no longer in use") == 2);
    let lines = guest.log.lines().iter();
    // The lines about a device; those about the module begin with `alrandom: `.
    let about_a_device = lines.filter(|line| line.text.starts_with("alrandom "));
    ensure!(about_a_device.count() == 4);
    Ok(())
}

/// Unloaded, there is no node, no file in /proc and sysfs, no driver, and the device's lines are down.
fn unload_leaves_nothing(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let paths = [
        NODE,
        LOADED,
        "/proc/alrandom",
        "/sys/class/misc/alrandom",
        "/sys/bus/usb/drivers/alrandom",
    ];
    for path in paths {
        ensure!(Path::new(path).exists(), "{path} is not there");
    }
    guest.unload()?;
    for path in paths {
        ensure!(!Path::new(path).exists(), "{path} is still there");
    }
    ensure!(guest.emulator.status()?.line_state == 0);
    Ok(())
}

/// A folder as users have it: the script, and the module built next to it.
fn folder(guest: &Guest, module: Option<&[u8]>) -> Result<String> {
    let folder = "/tmp/a folder".to_owned();
    fs::create_dir_all(&folder)?;
    let script = format!("{folder}/load.sh");
    fs::write(&script, LOAD_SH)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let built = format!("{folder}/alrandom.ko");
    match module {
        Some(bytes) => fs::write(&built, bytes)?,
        None => drop(fs::copy(&guest.module, &built)?),
    }
    Ok(script)
}

/// `./load.sh` loads, passes parameters on, and says what there is now.
fn load_sh_loads_with_parameters(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    let script = folder(guest, None)?;
    let ended = run(&[&script, "bytesPerSample=8000", "hwrngQuality=0"])?;
    ensure!(ended.stdout.contains(NODE), "{}", ended.stdout);
    ensure!(fs::read_to_string(format!("{LOADED}/parameters/bytesPerSample"))? == "8000\n");
    let node = Node::open()?;
    let mut stream = guest.stream().of_last_bytes(8000);
    stream.expect(&node.read_all(50_000)?)
}

/// `./load.sh` fails with one reason that names what to do: no root, not built, loaded already, built for
/// another kernel, a bad parameter.
fn load_sh_says_why_it_cannot(guest: &mut Guest) -> Result<()> {
    let script = folder(guest, None)?;
    let nobody = ["setpriv", "--reuid=65534", "--clear-groups"];
    let expect = |argv: &[&str], parts: &[&str]| -> Result<()> {
        let ended = attempt(argv)?;
        ensure!(!ended.success, "{argv:?} did not fail");
        for part in parts {
            ensure!(ended.stderr.contains(part), "{argv:?}: {}", ended.stderr);
        }
        Ok(())
    };
    let as_nobody = [&nobody[..], &[script.as_str()]].concat();
    expect(&as_nobody, &["needs root", "sudo"])?;
    ensure!(!is_loaded());

    fs::remove_file("/tmp/a folder/alrandom.ko")?;
    expect(&[&script], &["not built", "run 'make'"])?;

    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    let other = release.replacen(|c: char| c.is_ascii_digit(), "4", 1);
    let mut module = fs::read(&guest.module)?;
    let old = format!("vermagic={release} ");
    let at = module
        .windows(old.len())
        .position(|window| window == old.as_bytes())
        .context("the module has no vermagic")?;
    module[at..at + old.len()].copy_from_slice(format!("vermagic={other} ").as_bytes());
    folder(guest, Some(&module))?;
    expect(
        &[&script],
        &[&format!("built for kernel {other}"), "make clean"],
    )?;
    ensure!(!is_loaded());

    folder(guest, None)?;
    guest.log.announce("bytesPerSample=0 is out of range");
    guest.log.announce("invalid for parameter");
    expect(
        &[&script, "bytesPerSample=0"],
        &["bytesPerSample=0 is out of range, use 1 to 16000"],
    )?;
    ensure!(!is_loaded());

    guest.load(&[])?;
    expect(&[&script], &["loaded already", "rmmod alrandom"])
}

/// Installed, the module is loaded when the device is plugged in, by its aliases; `modprobe` loads it by
/// name (both are the manual's).
fn hot_plug_loads_the_installed_module(guest: &mut Guest) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let modules = format!("/lib/modules/{}", release.trim());
    // A small folder of modules in place of the real one, whose index takes minutes to make in an
    // emulated machine.
    let small = format!("/tmp/small{modules}");
    shell(&format!(
        "mkdir -p {small}/updates && cp {modules}/modules.builtin* {modules}/modules.order {small}/ &&
         cp $(modinfo -n cdc_acm usbcore usb_common | grep -v builtin) {small}/ &&
         cp {} {small}/updates/ && depmod -b /tmp/small {}",
        guest.module.display(),
        release.trim()
    ))?;
    run(&["mount", "--bind", &small, &modules])?;
    let mut test = || -> Result<()> {
        // A worker of udev's that is busy keeps the index that it has.
        run(&["udevadm", "settle"])?;
        run(&["udevadm", "control", "--reload"])?;
        run(&["modprobe", "alrandom", "hwrngQuality=0"])?;
        ensure!(Path::new(NODE).exists());
        run(&["modprobe", "-r", "alrandom"])?;
        ensure!(!is_loaded());
        let device = guest.plug_for_nobody(0)?;
        wait_until("hot-plug to load the module", || Path::new(NODE).exists())?;
        wait_until("the device to be in use", || device.is_in_use())?;
        Node::open()?.read_all(1000)?;
        run(&["udevadm", "settle"])?;
        guest.unload()
    };
    let result = test();
    // udev keeps the index open that it has loaded from there.
    run(&["umount", "--lazy", &modules])?;
    run(&["udevadm", "control", "--reload"])?;
    fs::remove_dir_all("/tmp/small")?;
    result
}

/// The rules make the node readable by all, and the tty of a device that is not in use readable and
/// writable by its group.
fn udev_rules_let_everybody_read(guest: &mut Guest) -> Result<()> {
    let rules = "/run/udev/rules.d/80-alpharng-device-access.rules";
    fs::create_dir_all("/run/udev/rules.d")?;
    fs::write(rules, RULES)?;
    run(&["udevadm", "control", "--reload"])?;
    let mut test = || -> Result<()> {
        let device = guest.plug()?;
        run(&["udevadm", "settle"])?;
        let tty = format!("/dev/{}", device.tty()?);
        // Its group is not set here: this machine's udev looks no names up.
        let stat = run(&["stat", "-c", "%a", &tty])?.stdout;
        ensure!(stat == "660\n", "{stat}");
        let ignored = run(&["udevadm", "info", "--query=property", "--name", &tty])?.stdout;
        ensure!(ignored.contains("\nID_MM_DEVICE_IGNORE=1\n"), "{ignored}");
        guest.load(&[])?;
        run(&["udevadm", "settle"])?;
        let stat = run(&["stat", "-c", "%a", NODE])?.stdout;
        ensure!(stat == "444\n", "{stat}");
        let nobody = ["setpriv", "--reuid=65534", "--clear-groups"];
        let dd = ["dd", "if=/dev/alrandom", "bs=1000", "count=1"];
        let dd = run(&[&nobody[..], &dd[..]].concat())?;
        guest.stream().expect(&dd.bytes)
    };
    let result = test();
    fs::remove_file(rules)?;
    run(&["udevadm", "control", "--reload"])?;
    result
}
